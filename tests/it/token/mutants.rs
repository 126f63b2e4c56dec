//! Tokens and chains of another library (jwcrypto, `tests/vectors/jwcrypto.jsonl`), and random
//! mutants of them. Both implementations refuse each mutant for the same reason.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use token_shield::clock::{ManualClock, Timestamp};
use token_shield::config;
use token_shield::crypto::{Algorithm, Fast, Portable, Verifier};
use token_shield::guard::authenticate::{
    Authenticator, Credential, TokenLookup, VerificationLimits,
};
use token_shield::guard::limiter::Limiter;
use token_shield::guard::table::Tables;
use token_shield::keyring::{IssuerKeys, Keyring};
use token_shield::refusal::Code;
use token_shield::registry::Registry;
use token_shield::token::{IssuerPolicy, PostQuantum, Presented, jwk, verify};

use super::forge::{Forge, NOW};
use super::narrow::Random;

const SEED: u64 = 0x6d75_7461_6e74_7321;
const CHARACTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~=+/ ";

struct Given {
    token: String,
    keyring: Keyring,
    now: Timestamp,
    code: Option<String>,
}

impl Given {
    fn all() -> Vec<Self> {
        include_str!("../../vectors/jwcrypto.jsonl").lines().map(Self::read).collect()
    }

    fn read(line: &str) -> Self {
        let vector: serde_json::Value = serde_json::from_str(line).expect("a vector");
        let text = |name: &str| vector[name].as_str().expect("text").to_owned();
        let policy = IssuerPolicy {
            iss: text("iss"),
            aud: text("aud"),
            namespaces: vec!["*".to_owned()],
            ttl_max: Duration::from_secs(86_400),
            post_quantum: PostQuantum::Off,
            handles: true,
            principals: token_shield::token::Principals::all(),
            list_max: 64,
        };
        let keyring = Keyring::new();
        let keys = jwk::read_set(&vector["jwks"].to_string()).expect("keys");
        keyring.set_issuers(vec![IssuerKeys { policy: Arc::new(policy), keys }]);
        let now = Timestamp(vector["now"].as_i64().expect("a moment") * 1000);
        Self {
            token: text("token"),
            keyring,
            now,
            code: vector["code"].as_str().map(str::to_owned),
        }
    }

    fn verdict(&self, token: &str, verifier: &dyn Verifier) -> Result<(), Code> {
        let presented = Presented::read(token).map_err(|refusal| refusal.code)?;
        verify(&presented, &self.keyring, verifier, self.now)
            .map(drop)
            .map_err(|refusal| refusal.code)
    }
}

/// Makes one to three edits: a character is changed, removed, inserted, doubled or swapped, or a
/// piece is moved or cut off.
fn mutant(token: &str, random: &mut Random) -> String {
    let mut bytes = token.as_bytes().to_vec();
    for _ in 0..=random.below(3) {
        if bytes.len() < 2 {
            break;
        }
        let (at, other) = (random.below(bytes.len()), random.below(bytes.len()));
        let character = CHARACTERS[random.below(CHARACTERS.len())];
        match random.below(9) {
            0..=3 => bytes[at] = character,
            4 => drop(bytes.remove(at)),
            5 => bytes.insert(at, character),
            6 => bytes.swap(at, other),
            7 => bytes.rotate_left(at),
            _ => bytes.truncate(at.max(1)),
        }
    }
    String::from_utf8(bytes).expect("ASCII")
}

#[test]
fn what_another_library_signed_is_taken() {
    for given in Given::all() {
        for verifier in [&Fast as &dyn Verifier, &Portable] {
            let code = given.verdict(&given.token, verifier).err().map(Code::as_str);
            assert_eq!(code, given.code.as_deref());
        }
    }
}

/// An authenticator with a token cache of `size`. The function returns how it found a token.
fn door(keyring: Keyring, now: Timestamp, size: usize) -> impl Fn(&str) -> TokenLookup {
    let clock = Arc::new(ManualClock::at(now));
    let (keyring, registry) = (Arc::new(keyring), Arc::new(Registry::new()));
    let limiter = Arc::new(Limiter::new(clock.clone()));
    let limits = VerificationLimits { token_cache: size, peer_rps: 1_000_000, root_rps: 1_000_000 };
    let door = Authenticator::new(keyring, registry, limiter, Box::new(Fast), clock, limits);
    let config = config::read("name = \"test\"\n", Path::new(".")).expect("config");
    let tables = Arc::new(
        Tables::build(
            &config.guard,
            Vec::new(),
            token_shield::guard::egress::policy::SelfEndpoints::default(),
        )
        .expect("tables"),
    );
    move |token| {
        let value = HeaderValue::from_str(&format!("Bearer {token}")).expect("value");
        let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
        let credential = Credential::read(&headers).expect("credential");
        let known =
            door.authenticate(&credential, IpAddr::from([127, 0, 0, 1]), Arc::clone(&tables));
        known.map(|known| known.found).map_err(|denied| denied.refusal).expect("good")
    }
}

#[test]
fn a_token_is_remembered_where_there_is_a_memory() {
    for (size, second) in [(1, TokenLookup::Cached), (0, TokenLookup::Verified)] {
        for given in Given::all().into_iter().filter(|given| given.code.is_none()) {
            let asked = door(given.keyring, given.now, size);
            assert_eq!((asked(&given.token), asked(&given.token)), (TokenLookup::Verified, second));
        }
    }
}

/// The holder of a key can sign any number of tokens. The token cache has a bound in bytes (at
/// least 1 MiB).
#[test]
fn what_is_remembered_is_bounded_in_bytes() {
    let forge = Forge::new(Algorithm::Ed25519);
    let known = &forge.known[&forge.kid];
    let keyring = Keyring::new();
    keyring.set_issuers(vec![IssuerKeys {
        policy: Arc::clone(&known.issuer),
        keys: vec![jwk::Jwk::of(known.key.clone())],
    }]);
    let asked = door(keyring, Timestamp(NOW * 1000), 1);
    let padding = format!("\"{}\"", "x".repeat(4096));
    let tokens: Vec<String> = (0..1000)
        .map(|number| forge.token(&[("jti", &format!("\"{number}\"")), ("padding", &padding)]))
        .collect();
    assert!(tokens.iter().all(|token| asked(token) == TokenLookup::Verified));
    let kept = tokens.iter().rev().filter(|token| asked(token) == TokenLookup::Cached).count();
    let fits = (1 << 20) / tokens[0].len();
    assert!(
        (10..=fits).contains(&kept),
        "{kept} tokens are remembered where {fits} fit without their claims"
    );
}

#[test]
fn random_mutants_are_refused_by_both() {
    let full = std::env::var_os("TOKEN_SHIELD_FULL").is_some();
    let given = Given::all();
    let mut random = Random(SEED);
    let (mut tried, wanted) = (0, if full { 1_000_000 } else { 100_000 });
    while tried < wanted {
        let given = &given[random.below(given.len())];
        let mutant = mutant(&given.token, &mut random);
        if mutant == given.token {
            continue;
        }
        let fast = given.verdict(&mutant, &Fast);
        assert_eq!(
            fast,
            given.verdict(&mutant, &Portable),
            "the implementations disagree about {mutant}"
        );
        assert!(fast.is_err(), "passes: {mutant}");
        tried += 1;
    }
}
