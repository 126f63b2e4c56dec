//! Random chains against a second, simple model of "narrower". In it, a token's authority is a set,
//! and its members are enumerated.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use token_shield::crypto::{Algorithm, Fast, SigningKey, sha256};
use token_shield::token::Scope;
use token_shield::token::constraint::parse;
use token_shield::token::jwk::Jwk;

use super::chains::sign;
use super::forge::{Forge, NOW};

const SEED: u64 = 0x0070_6b65_6e73_6869;
const MODELS: [&str; 4] = ["a", "ab", "abc", "b"];
const PREFIXES: [&str; 3] = ["a", "ab", "b"];
const SCOPES: [(&str, Scope); 3] = [
    ("inference.chat", Scope::Chat),
    ("inference.messages", Scope::Messages),
    ("models.read", Scope::ModelsRead),
];
const AUDIENCES: [&str; 2] = ["https://gateway.example", "https://other.example"];
const ENDS: [i64; 3] = [NOW + 100, NOW + 200, NOW + 300];
/// The numbers that a request may need of each limit.
const WANTED: std::ops::Range<u64> = 0..5;

pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: usize) -> usize {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ mixed >> 31) % end as u64).expect("small")
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(3) > 0).then(|| make(self))
    }

    fn some(&mut self, of: usize) -> BTreeSet<usize> {
        (0..of).filter(|_| self.below(2) > 0).collect()
    }
}

/// The content of one token, as its parts.
#[derive(Clone, Debug)]
struct Says {
    scopes: BTreeSet<usize>,
    audiences: BTreeSet<usize>,
    end: usize,
    models: Option<BTreeSet<usize>>,
    prefix: Option<usize>,
    rpm: Option<u64>,
    in_flight: Option<u64>,
    output_tokens: Option<u64>,
}

impl Says {
    fn random(random: &mut Random) -> Self {
        let number = |random: &mut Random| random.below(4) as u64;
        Self {
            scopes: random.some(3),
            audiences: if random.below(4) == 0 { random.some(2) } else { [0, 1].into() },
            end: random.below(3),
            models: random.maybe(|random| random.some(4)).filter(|models| !models.is_empty()),
            prefix: random.maybe(|random| random.below(3)),
            rpm: random.maybe(number),
            in_flight: random.maybe(number),
            output_tokens: random.maybe(number),
        }
    }

    /// The same, or with one changed part: most children are almost equal to their parents.
    fn child(&self, random: &mut Random) -> Self {
        let mut child = self.clone();
        let other = Self::random(random);
        for _ in 0..random.below(3) {
            match random.below(8) {
                0 => child.scopes.clone_from(&other.scopes),
                1 => child.audiences.clone_from(&other.audiences),
                2 => child.end = other.end,
                3 => child.models.clone_from(&other.models),
                4 => child.prefix = other.prefix,
                5 => child.rpm = other.rpm,
                6 => child.in_flight = other.in_flight,
                _ => child.output_tokens = other.output_tokens,
            }
        }
        child
    }

    fn limits(&self) -> String {
        let mut list =
            vec![r#"{"key":"holder","rank":"bearer","order":["bound","bearer"]}"#.to_owned()];
        if let Some(models) = &self.models {
            let names: Vec<String> =
                models.iter().map(|model| format!("\"{}\"", MODELS[*model])).collect();
            list.push(format!(r#"{{"key":"model","one_of":[{}]}}"#, names.join(",")));
        }
        list.extend(
            self.prefix
                .map(|prefix| format!(r#"{{"key":"model","prefix":"{}"}}"#, PREFIXES[prefix])),
        );
        list.extend(
            self.rpm.map(|rate| format!(r#"{{"key":"requests_per_minute","rate":{rate}}}"#)),
        );
        list.extend(
            self.in_flight.map(|max| format!(r#"{{"key":"requests_in_flight","max":{max}}}"#)),
        );
        list.extend(
            self.output_tokens.map(|max| format!(r#"{{"key":"output_tokens","max":{max}}}"#)),
        );
        list.join(",")
    }

    fn names(&self, model: usize) -> bool {
        self.models.as_ref().is_none_or(|models| models.contains(&model))
    }

    fn begins(&self, model: usize) -> bool {
        self.prefix.is_none_or(|prefix| MODELS[model].starts_with(PREFIXES[prefix]))
    }

    /// Whether `parent` allows everything that this token allows, by enumeration for each limit.
    fn within(&self, parent: &Self) -> bool {
        let numbers = |own: Option<u64>, theirs: Option<u64>| {
            WANTED.into_iter().all(|wanted| {
                own.is_some_and(|max| wanted > max) || theirs.is_none_or(|max| wanted <= max)
            })
        };
        self.scopes.is_subset(&parent.scopes)
            && self.audiences.is_subset(&parent.audiences)
            && self.end <= parent.end
            && (0..MODELS.len()).all(|model| !self.names(model) || parent.names(model))
            && (self.models.is_some() || parent.models.is_none())
            && (0..MODELS.len()).all(|model| !self.begins(model) || parent.begins(model))
            && (self.prefix.is_some() || parent.prefix.is_none())
            && numbers(self.rpm, parent.rpm)
            && numbers(self.in_flight, parent.in_flight)
            && numbers(self.output_tokens, parent.output_tokens)
    }
}

fn chain(forge: &Forge, holders: &[SigningKey], links: &[Says]) -> String {
    let mut text = String::new();
    let mut parent = String::new();
    for (place, says) in links.iter().enumerate() {
        let names = |set: &BTreeSet<usize>, of: &[&str]| {
            set.iter().map(|at| format!("\"{}\"", of[*at])).collect::<Vec<_>>().join(",")
        };
        let scopes: Vec<&str> = SCOPES.iter().map(|(name, _)| *name).collect();
        let kid = |key: &SigningKey| Jwk::of(key.public().expect("key"));
        let mut claims = format!(
            r#""aud":[{}],"sub":"team:research","client_id":"research/agent{}",
            "iat":{},"exp":{},"jti":"J","del_depth":{place},"del_max_depth":4,
            "authorization_details":[{{"type":"agent_delegation","scopes":[{}],
            "constraints":[{}]}}]"#,
            names(&says.audiences, &AUDIENCES),
            "/x".repeat(place),
            NOW - 10,
            ENDS[says.end],
            names(&says.scopes, &scopes),
            says.limits(),
        );
        if place + 1 < links.len() {
            claims.push_str(&format!(r#","cnf":{{"jwk":{}}}"#, kid(&holders[place]).write()));
        }
        let (key, iss) = match place.checked_sub(1) {
            None => (&forge.key, "https://operator.example".to_owned()),
            Some(before) => {
                let hash = URL_SAFE_NO_PAD
                    .encode(sha256(parent.rsplit_once('.').expect("dots").0.as_bytes()));
                claims.push_str(&format!(r#","par_hash":"{hash}""#));
                (
                    &holders[before],
                    format!(
                        "urn:ietf:params:oauth:jwk-thumbprint:sha-256:{}",
                        kid(&holders[before]).id()
                    ),
                )
            }
        };
        parent = sign(key, &format!(r#"{{"iss":"{iss}",{claims}}}"#));
        text = if text.is_empty() { parent.clone() } else { format!("{text}~{parent}") };
    }
    text
}

/// The verdict of the simple model: the gateway is in the audience, and each token is within its
/// parent.
fn expected(links: &[Says]) -> bool {
    links.iter().all(|link| link.audiences.contains(&0))
        && links.windows(2).all(|pair| pair[1].within(&pair[0]))
}

/// Compares a chain with the simple model. Returns whether it is accepted.
fn check(forge: &Forge, holders: &[SigningKey], links: &[Says]) -> bool {
    let verified = forge.verify_with(&chain(forge, holders, links), &Fast, NOW);
    match (&verified, expected(links)) {
        (Ok(_), true) => {}
        (Err(_), false) => return false,
        (Ok(_), false) => panic!("widened: {links:#?}"),
        (Err(refusal), true) => {
            panic!("wrongly refused: {refusal} {:?}\n{links:#?}", refusal.detail)
        }
    }
    let verified = verified.expect("just matched");
    for (place, (_, scope)) in SCOPES.iter().enumerate() {
        assert_eq!(
            verified.scopes().allow(*scope),
            links.iter().all(|link| link.scopes.contains(&place)),
            "{links:#?}"
        );
    }
    for (place, model) in MODELS.iter().enumerate() {
        let naive = links.iter().all(|link| link.names(place) && link.begins(place));
        assert_eq!(
            verified.grants().all(|grants| grants.models.allows(model)),
            naive,
            "{model}: {links:#?}"
        );
    }
    let least = |of: fn(&Says) -> Option<u64>| links.iter().filter_map(of).min();
    assert_eq!(verified.grants().filter_map(|grants| grants.rpm).min(), least(|link| link.rpm));
    assert_eq!(
        verified.grants().filter_map(|grants| grants.in_flight).min(),
        least(|link| link.in_flight)
    );
    assert_eq!(
        verified.grants().filter_map(|grants| grants.output_tokens).min(),
        least(|link| link.output_tokens)
    );
    true
}

fn workshop() -> (Forge, Vec<SigningKey>) {
    let holder = |seed| SigningKey::from_seed(Algorithm::Ed25519, [seed; 32].into());
    (Forge::new(Algorithm::Ed25519), (30..33).map(holder).collect())
}

#[test]
fn random_chains_agree_with_the_naive_model() {
    let full = std::env::var_os("TOKEN_SHIELD_FULL").is_some();
    let (forge, holders) = workshop();
    let mut random = Random(SEED);
    let (mut passed, count) = (0, if full { 1_000_000 } else { 100_000 });
    for _ in 0..count {
        let mut links = vec![Says::random(&mut random)];
        for _ in 0..=random.below(3) {
            let child = links.last().map(|parent| parent.child(&mut random));
            links.extend(child);
        }
        passed += usize::from(check(&forge, &holders, &links));
    }
    // Both verdicts must be frequent. Otherwise the comparison would test only one of them.
    assert!(
        passed > count / 5 && passed < count * 4 / 5,
        "{passed} of {count} passed: the generator is lopsided"
    );
}

/// Every pair of values of every limit. All other parts are equal.
#[test]
fn the_small_lattice_is_exhausted() {
    let (forge, holders) = workshop();
    let wide = Says {
        scopes: [0, 1, 2].into(),
        audiences: [0, 1].into(),
        end: 2,
        models: None,
        prefix: None,
        rpm: None,
        in_flight: None,
        output_tokens: None,
    };
    let subsets = |of: usize| {
        (0..1_usize << of)
            .map(move |bits| (0..of).filter(|at| bits >> at & 1 > 0).collect::<BTreeSet<_>>())
    };
    let numbers = || std::iter::once(None).chain((0..4).map(Some));
    let mut variants: Vec<Vec<Says>> = vec![
        subsets(3).map(|scopes| Says { scopes, ..wide.clone() }).collect(),
        subsets(2).skip(1).map(|audiences| Says { audiences, ..wide.clone() }).collect(),
        (0..3).map(|end| Says { end, ..wide.clone() }).collect(),
        subsets(4)
            .map(|models| Says {
                models: Some(models).filter(|models| !models.is_empty()),
                ..wide.clone()
            })
            .collect(),
        [None, Some(0), Some(1), Some(2)].map(|prefix| Says { prefix, ..wide.clone() }).into(),
    ];
    variants.push(numbers().map(|rpm| Says { rpm, ..wide.clone() }).collect());
    variants.push(numbers().map(|in_flight| Says { in_flight, ..wide.clone() }).collect());
    variants.push(numbers().map(|output_tokens| Says { output_tokens, ..wide.clone() }).collect());
    for row in &variants {
        for parent in row {
            for child in row {
                check(&forge, &holders, &[parent.clone(), child.clone()]);
            }
        }
    }
}

/// Later constraints are refused today, but their order must be correct when they are supported.
#[test]
fn every_pair_of_the_table_has_its_order() {
    let value = |text: &str| {
        let leaked: &'static str = Box::leak(text.to_owned().into_boxed_str());
        parse(
            &token_shield::json::parse(leaked.as_bytes(), &token_shield::json::Limits::deep(4))
                .expect("JSON"),
            64,
        )
        .expect("a pair")
    };
    for row in token_shield::token::constraint::TABLE {
        let kind = row.kind.as_str();
        let (narrow, wide) = match kind {
            "one_of" => (r#"["a"]"#, r#"["a","b"]"#),
            "not_one_of" => (r#"["a","b"]"#, r#"["a"]"#),
            "prefix" => (r#""ab""#, r#""a""#),
            "min" => ("2", "1"),
            "rank" => ("LOW", "HIGH"),
            _ => ("1", "2"),
        };
        let order: Vec<&str> = row.unit.split(", ").collect();
        let write = |text: &str| {
            let named = match text {
                "LOW" => format!("\"{}\"", order[0]),
                "HIGH" => format!("\"{}\"", order[order.len() - 1]),
                other => other.to_owned(),
            };
            let order = if kind == "rank" {
                format!(r#","order":["{}"]"#, order.join("\",\""))
            } else {
                String::new()
            };
            value(&format!(r#"{{"key":"{}","{kind}":{named}{order}}}"#, row.key))
        };
        let (narrow, wide) = (write(narrow), write(wide));
        assert!(
            narrow.narrows(&wide) && narrow.narrows(&narrow) && !wide.narrows(&narrow),
            "{} {kind}",
            row.key
        );
    }
}
