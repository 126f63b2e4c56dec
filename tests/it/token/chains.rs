//! Chains: the rules that join two tokens, and every form in which a child may be wider than its
//! parent.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use token_shield::clock::Timestamp;
use token_shield::crypto::{Algorithm, SigningKey, sha256};
use token_shield::refusal::Code;
use token_shield::token::constraint::Constraint;
use token_shield::token::delegate::{Narrowed, delegate};
use token_shield::token::jwk::Jwk;
use token_shield::token::{PostQuantum, Presented, mint};

use super::forge::{Forge, NOW};

const ROOT_LIMITS: &str = concat!(
    r#"{"key":"model","one_of":["a","b"]},{"key":"requests_per_minute","rate":120},"#,
    r#"{"key":"requests_per_second","rate":9},{"key":"requests_in_flight","max":8},"#,
    r#"{"key":"output_tokens","max":4096}"#
);
const BEARER: &str = r#"{"key":"holder","rank":"bearer","order":["bound","bearer"]}"#;

/// The members of a token's payload, each as JSON text.
type Claims = Vec<(&'static str, String)>;

/// Sets a claim, or removes it if `value` is empty.
fn set(claims: &mut Claims, name: &'static str, value: impl Into<String>) {
    claims.retain(|(known, _)| *known != name);
    let value = value.into();
    if !value.is_empty() {
        claims.push((name, value));
    }
}

fn detail(scopes: &str, limits: &str) -> String {
    format!(r#"[{{"type":"agent_delegation","scopes":[{scopes}],"constraints":[{limits}]}}]"#)
}

/// The parts for a chain: the holders' keys, and a change of the claims of each token.
struct Workshop {
    forge: Forge,
    holders: Vec<SigningKey>,
}

impl Workshop {
    fn new() -> Self {
        let holder = |seed| SigningKey::from_seed(Algorithm::Ed25519, [seed; 32].into());
        Self { forge: Forge::new(Algorithm::Ed25519), holders: (20..26).map(holder).collect() }
    }

    fn jwk(&self, holder: usize) -> String {
        Jwk::of(self.holders[holder].public().expect("key")).write()
    }

    /// The valid claims of the token at `place` of a chain of `length`, with `parent`.
    fn claims(&self, place: usize, length: usize, parent: Option<&str>) -> Claims {
        let mut claims: Claims = vec![
            ("iss", r#""https://operator.example""#.to_owned()),
            ("aud", r#""https://gateway.example""#.to_owned()),
            ("sub", r#""team:research""#.to_owned()),
            ("client_id", format!("\"research/summarizer{}\"", "/part".repeat(place))),
            ("iat", (1_790_000_000 + place).to_string()),
            ("exp", (if place == 0 { 1_790_003_600 } else { 1_790_000_900 }).to_string()),
            ("jti", format!("\"01JB000000000000000000000{place}\"")),
            ("del_depth", place.to_string()),
            ("del_max_depth", if length == 1 { "1" } else { "4" }.to_owned()),
            (
                "authorization_details",
                detail(r#""inference.chat","models.read""#, &format!("{ROOT_LIMITS},{BEARER}")),
            ),
        ];
        if let Some(parent) = parent {
            let signed = parent.rsplit_once('.').expect("dots").0;
            let kid = Jwk::of(self.holders[place - 1].public().expect("key")).id();
            set(
                &mut claims,
                "iss",
                format!("\"urn:ietf:params:oauth:jwk-thumbprint:sha-256:{kid}\""),
            );
            set(
                &mut claims,
                "par_hash",
                format!("\"{}\"", URL_SAFE_NO_PAD.encode(sha256(signed.as_bytes()))),
            );
        }
        if place + 1 < length {
            set(&mut claims, "cnf", format!(r#"{{"jwk":{}}}"#, self.jwk(place)));
        }
        claims
    }

    /// The tokens of a chain whose claims are changed by `change`.
    fn tokens(&self, length: usize, change: &dyn Fn(&Self, usize, &mut Claims)) -> Vec<String> {
        let mut tokens: Vec<String> = Vec::new();
        for place in 0..length {
            let mut claims = self.claims(place, length, tokens.last().map(String::as_str));
            change(self, place, &mut claims);
            let members: Vec<String> =
                claims.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
            let key = if place == 0 { &self.forge.key } else { &self.holders[place - 1] };
            tokens.push(sign(key, &format!("{{{}}}", members.join(","))));
        }
        tokens
    }

    fn chain(&self, length: usize) -> Vec<String> {
        self.tokens(length, &|_, _, _| {})
    }
}

pub(crate) fn sign(key: &SigningKey, payload: &str) -> String {
    let public = Jwk::of(key.public().expect("key"));
    let header = format!(
        r#"{{"typ":"at+jwt","alg":"{}","kid":"{}"}}"#,
        key.algorithm().as_str(),
        public.id()
    );
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

/// The verdict on a chain of two whose child has `name` set to `value`.
#[track_caller]
fn child(name: &'static str, value: &str, expect: Result<(), Code>) {
    let workshop = Workshop::new();
    let tokens = workshop.tokens(2, &|_, place, claims| {
        if place == 1 {
            set(claims, name, value);
        }
    });
    workshop.forge.check(&tokens.join("~"), expect);
}

/// The same for the root, with an unchanged child.
#[track_caller]
fn root(name: &'static str, value: &str, expect: Result<(), Code>) {
    let workshop = Workshop::new();
    let tokens = workshop.tokens(2, &|_, place, claims| {
        if place == 0 {
            set(claims, name, value);
        }
    });
    workshop.forge.check(&tokens.join("~"), expect);
}

/// The verdict on a child with these limits. Its root has its own limits.
#[track_caller]
fn limits(list: &str, expect: Result<(), Code>) {
    child(
        "authorization_details",
        &detail(r#""inference.chat""#, &format!("{list},{BEARER}")),
        expect,
    );
}

#[test]
fn good_chains_of_every_length_verify() {
    let workshop = Workshop::new();
    for length in 1..=4 {
        let text = workshop.chain(length).join("~");
        let verified = workshop.forge.verify(&text).expect("a good chain");
        assert_eq!(
            (verified.length(), verified.ids().count(), verified.grants().count()),
            (length, length, length)
        );
        assert_eq!(
            verified.agent().as_str(),
            format!("research/summarizer{}", "/part".repeat(length - 1))
        );
        assert_eq!(verified.agent().lineage().count(), length);
        assert_eq!(*verified.kid(), workshop.forge.kid);
        assert_eq!(verified.issuer(), "https://operator.example");
        assert_eq!(*verified.id(), Presented::read(&text).expect("shape").id());
    }
}

#[test]
fn tokens_are_not_put_together_anew() {
    let workshop = Workshop::new();
    let tokens = workshop.chain(4);
    let other = workshop.tokens(4, &|_, place, claims| {
        if place == 0 {
            set(claims, "jti", "\"other\"");
        }
    });
    let join = |parts: &[&str]| parts.join("~");
    let [a, b, c, d] = [0, 1, 2, 3].map(|place| tokens[place].as_str());
    // Each form in which tokens of a valid chain could be combined again.
    for (what, text, expect) in [
        ("dropped in the middle", join(&[a, c, d]), Code::ChainSigner),
        ("reordered", join(&[a, c, b, d]), Code::ChainSigner),
        ("the root left out", join(&[b, c, d]), Code::TokenKeyUnknown),
        ("a child alone", d.to_owned(), Code::TokenKeyUnknown),
        ("the leaf left out", join(&[a, b, c]), Code::ProofNotSupported),
        ("the root alone", a.to_owned(), Code::ProofNotSupported),
        ("spliced below another root", join(&[&other[0], b]), Code::ChainParent),
        ("spliced in the middle", join(&[a, b, &other[2], &other[3]]), Code::ChainParent),
        ("a token twice", join(&[a, b, b]), Code::ChainSigner),
        ("the root twice", join(&[a, a]), Code::ChainSigner),
        ("five tokens", join(&[a, b, c, d, d]), Code::ChainTooLong),
        ("an empty token", join(&[a, "", b]), Code::TokenMalformed),
        ("41 KiB", "a".repeat(41 << 10), Code::TokenTooLarge),
    ] {
        workshop.forge.record(&text, Err(expect));
        assert_eq!(workshop.forge.verify(&text).err().map(|no| no.code), Some(expect), "{what}");
    }
}

#[test]
fn a_child_is_signed_by_the_key_that_its_parent_names() {
    let workshop = Workshop::new();
    let tokens = workshop.chain(2);
    let payload = |token: &str| {
        let bytes =
            URL_SAFE_NO_PAD.decode(token.split('.').nth(1).expect("payload")).expect("base64url");
        String::from_utf8(bytes).expect("UTF-8")
    };
    let with = |key: &SigningKey| format!("{}~{}", tokens[0], sign(key, &payload(&tokens[1])));
    workshop.forge.check(&with(&workshop.holders[0]), Ok(()));
    workshop.forge.check(&with(&workshop.holders[1]), Err(Code::ChainSigner));
    // The operator's own key is not the holder's key.
    workshop.forge.check(&with(&workshop.forge.key), Err(Code::ChainSigner));
    // Signed by another key under the correct kid.
    let (front, _) = tokens[1].rsplit_once('.').expect("dots");
    let forged = URL_SAFE_NO_PAD.encode(workshop.holders[1].sign(front.as_bytes()));
    workshop.forge.check(&format!("{}~{front}.{forged}", tokens[0]), Err(Code::TokenSignature));
    root("cnf", "", Err(Code::TokenClaims));
    let other = Workshop::new().jwk(3);
    root("cnf", &format!(r#"{{"jwk":{other}}}"#), Err(Code::ChainSigner));
    root("cnf", &format!(r#"{{"jwk":{other},"jkt":"x"}}"#), Err(Code::TokenClaims));
    root("cnf", r#"{"x5t#S256":"x"}"#, Err(Code::ProofNotSupported));
    root("cnf", r#"{"jwk":{"kty":"OKP","crv":"Ed25519","x":"AAAA"}}"#, Err(Code::TokenClaims));
    // A private key is not accepted as a confirmation key.
    root(
        "cnf",
        concat!(
            r#"{"jwk":{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwI"#,
            r#"aaPcHURo","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}}"#
        ),
        Err(Code::TokenClaims),
    );
    // A key of small order accepts any signature.
    root(
        "cnf",
        concat!(
            r#"{"jwk":{"kty":"OKP","crv":"Ed25519","x":"AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"#,
            r#"AAAAAAAA"}}"#
        ),
        Err(Code::TokenClaims),
    );
    child("iss", r#""https://operator.example""#, Err(Code::ChainSigner));
    child("iss", r#""urn:ietf:params:oauth:jwk-thumbprint:sha-256:AAAA""#, Err(Code::ChainSigner));
}

#[test]
fn a_child_says_whose_it_is() {
    child("par_hash", "", Err(Code::TokenClaims));
    child("par_hash", r#""AAAA""#, Err(Code::TokenClaims));
    child("par_hash", "7", Err(Code::TokenClaims));
    child("par_hash", &format!("\"{}\"", URL_SAFE_NO_PAD.encode([0; 32])), Err(Code::ChainParent));
    child("sub", r#""team:other""#, Err(Code::ChainPrincipal));
    child("client_id", r#""research/summarizer""#, Err(Code::ChainName));
    child("client_id", r#""research/other""#, Err(Code::ChainName));
    child("client_id", r#""research/summarizerx/part""#, Err(Code::ChainName));
    child("client_id", r#""research/summarizer/part/part""#, Err(Code::ChainName));
    child("client_id", r#""research/victim/part""#, Err(Code::ChainName));
    child("client_id", r#""support/summarizer/part""#, Err(Code::ChainName));
    child("client_id", r#""research/summarizer/Part""#, Err(Code::TokenClaims));
    child("jti", r#""01JB0000000000000000000000""#, Ok(()));
}

#[test]
fn depth_is_counted() {
    child("del_depth", "0", Err(Code::TokenClaims));
    child("del_depth", "2", Err(Code::ChainDepth));
    child("del_depth", "4", Err(Code::ChainDepth));
    child("del_max_depth", "5", Err(Code::ChainDepth));
    child("del_max_depth", "2", Ok(()));
    child("del_max_depth", "1", Err(Code::ChainDepth));
    root("del_depth", "1", Err(Code::TokenClaims));
    root("del_max_depth", "1", Err(Code::ChainDepth));
    let workshop = Workshop::new();
    let tokens = workshop.tokens(3, &|_, _, claims| set(claims, "del_max_depth", "2"));
    workshop.forge.check(&tokens.join("~"), Err(Code::ChainDepth));
}

#[test]
fn a_child_lives_within_its_parent() {
    // A bearer child lives at most 15 minutes (900 s).
    child("exp", "1790003600", Err(Code::ChainHolder));
    child("exp", "1790003601", Err(Code::ChainTimes));
    child("exp", "1790000901", Ok(()));
    child("exp", "1790000902", Err(Code::ChainHolder));
    child("exp", "1790000001", Err(Code::ChainTimes));
    child("exp", &NOW.to_string(), Err(Code::TokenExpired));
    child("iat", "1789999999", Err(Code::ChainTimes));
    child("nbf", "1790000100", Err(Code::TokenNotYetValid));
    root("nbf", "1790000005", Err(Code::ChainTimes));
    root("exp", "1790000899", Err(Code::ChainTimes));
    root("exp", "1790000005", Err(Code::ChainTimes));
}

#[test]
fn a_child_allows_no_more_than_its_parent() {
    let more = Err(Code::ChainWidened);
    child("aud", r#"["https://gateway.example","https://other.example"]"#, more);
    child("aud", r#""https://other.example""#, more);
    root("aud", r#"["https://other.example","https://gateway.example"]"#, Ok(()));
    let scopes = |names: &str| detail(names, &format!("{ROOT_LIMITS},{BEARER}"));
    child("authorization_details", &scopes(r#""inference.chat""#), Ok(()));
    child("authorization_details", &scopes(""), Ok(()));
    child("authorization_details", &scopes(r#""inference.chat","inference.messages""#), more);
    child("authorization_details", &scopes(r#""inference.*""#), more);
    child("authorization_details", &scopes(r#""everything""#), Err(Code::ScopeUnknown));
    limits(ROOT_LIMITS, Ok(()));
    for (from, to) in [
        (r#""one_of":["a","b"]"#, r#""one_of":["a","c"]"#),
        (r#""one_of":["a","b"]"#, r#""prefix":"a""#),
        (r#""rate":120"#, r#""rate":121"#),
        (r#""rate":9"#, r#""rate":10"#),
        (r#""requests_in_flight","max":8"#, r#""requests_in_flight","max":9"#),
        (r#""max":4096"#, r#""max":9007199254740991"#),
    ] {
        limits(&ROOT_LIMITS.replace(from, to), more);
    }
    // A child without a limit of its parent would be unlimited there.
    for missing in 0..5 {
        let kept: Vec<&str> = ROOT_LIMITS
            .split("},{")
            .enumerate()
            .filter(|(place, _)| *place != missing)
            .map(|(_, limit)| limit.trim_matches(['{', '}']))
            .collect();
        limits(
            &kept.iter().map(|limit| format!("{{{limit}}}")).collect::<Vec<_>>().join(","),
            more,
        );
    }
    limits(
        &ROOT_LIMITS.replace("120", "0").replace("4096", "1").replace(r#""a","b""#, r#""b""#),
        Ok(()),
    );
    limits(&format!(r#"{ROOT_LIMITS},{{"key":"model","prefix":"a"}}"#), Ok(()));
    limits(
        &format!(r#"{ROOT_LIMITS},{{"key":"output_tokens","max":1}}"#),
        Err(Code::ConstraintMalformed),
    );
    limits(
        &format!(r#"{ROOT_LIMITS},{{"key":"account","one_of":["x"]}}"#),
        Err(Code::ConstraintNotEnforced),
    );
}

#[test]
fn a_leaf_without_a_key_needs_leave() {
    let bound = detail(r#""inference.chat","models.read""#, ROOT_LIMITS);
    root("authorization_details", &bound, Err(Code::ChainHolder));
    let rank = |rank: &str| BEARER.replace("\"rank\":\"bearer\"", &format!("\"rank\":\"{rank}\""));
    root(
        "authorization_details",
        &detail(r#""inference.chat","models.read""#, &format!("{ROOT_LIMITS},{}", rank("bound"))),
        Err(Code::ChainWidened),
    );
    child("authorization_details", &bound, Err(Code::ChainWidened));
    child(
        "authorization_details",
        &detail(r#""inference.chat""#, &format!("{ROOT_LIMITS},{}", rank("bound"))),
        Ok(()),
    );
    // One ancestor that forbids it is enough.
    let workshop = Workshop::new();
    let tokens = workshop.tokens(3, &|_, place, claims| {
        if place > 0 {
            set(
                claims,
                "authorization_details",
                detail(
                    r#""inference.chat""#,
                    &format!(
                        "{ROOT_LIMITS},{}",
                        BEARER.replace("\"rank\":\"bearer\"", "\"rank\":\"bound\"")
                    ),
                ),
            );
        }
    });
    workshop.forge.check(&tokens.join("~"), Err(Code::ChainHolder));
    let jwk = workshop.jwk(2);
    child("cnf", &format!(r#"{{"jwk":{jwk}}}"#), Err(Code::ProofNotSupported));
}

#[test]
fn an_issuer_may_want_every_link_post_quantum() {
    let holder = |algorithm| SigningKey::from_seed(algorithm, [41; 32].into());
    for (policy, algorithm, expect) in [
        (PostQuantum::RequiredRoot, Algorithm::Ed25519, Ok(())),
        (PostQuantum::Required, Algorithm::Ed25519, Err(Code::TokenPostQuantum)),
        (PostQuantum::Required, Algorithm::MlDsa65, Ok(())),
    ] {
        let forge = Forge::with(Algorithm::MlDsa65, |issuer| issuer.post_quantum = policy);
        let key = holder(algorithm);
        let now = Timestamp(NOW * 1000);
        let (agent, principal) = (
            "research/summarizer".parse().expect("agent"),
            "team:research".parse().expect("principal"),
        );
        let parties =
            mint::Parties { iss: "https://operator.example", aud: "https://gateway.example" };
        let span = mint::TokenSpan { issued: now, lifetime: Duration::from_secs(3600) };
        let request = mint::MintRequest::new(parties, agent, principal, span, 1)
            .delegable(Jwk::of(key.public().expect("key")), 2)
            .limited(Constraint::bearer_children().expect("a row"));
        let root = mint::mint(&request, &forge.key).expect("a root");
        let wanted = Narrowed { name: "part".to_owned(), ..Narrowed::default() };
        let chain = delegate(&root, &key, &wanted, now, 2).expect("a chain");
        forge.check(&chain, expect);
        let wrong = delegate(&root, &forge.key, &wanted, now, 3).expect_err("not the holder");
        assert!(wrong.to_string().contains("cnf.jwk"), "{wrong}");
    }
}
