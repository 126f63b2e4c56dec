//! Benchmark of the verification of a token and of a chain of four. Each is verified cold, by both
//! implementations, and looked up in the token cache.

use std::hint::black_box;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use token_shield::clock::{ManualClock, Timestamp};
use token_shield::config;
use token_shield::crypto::{Algorithm, Fast, Portable, SigningKey, Verifier};
use token_shield::guard::authenticate::{
    Authenticator, Credential, TokenLookup, VerificationLimits,
};
use token_shield::guard::limiter::Limiter;
use token_shield::guard::table::Tables;
use token_shield::id::KeyId;
use token_shield::json::Value;
use token_shield::keyring::{IssuerKeys, Keyring};
use token_shield::registry::Registry;
use token_shield::token::constraint::{Constraint, ConstraintType};
use token_shield::token::delegate::{Narrowed, delegate};
use token_shield::token::jwk::Jwk;
use token_shield::token::mint::{MintRequest, Parties, TokenSpan, mint};
use token_shield::token::{IssuerPolicy, KeySource, KnownKey, PostQuantum, Presented, verify};

/// A source of exactly one key.
struct One(Arc<KnownKey>);

impl KeySource for One {
    fn key(&self, kid: &KeyId) -> Option<Arc<KnownKey>> {
        (*kid == self.0.id).then(|| Arc::clone(&self.0))
    }
}

const NOW: Timestamp = Timestamp(1_790_000_000_000);

/// A token with these lists, and the key that a gateway knows. With `holder`, the token may be
/// delegated.
fn token(
    algorithm: Algorithm,
    holder: Option<&SigningKey>,
    lists: &[Constraint],
) -> Result<(String, One), Box<dyn std::error::Error>> {
    let key = SigningKey::generate(algorithm)?;
    let models = Value::Array(vec![Value::from_text("llama-3.1-8b"), Value::from_text("bge-m3")]);
    let parties = Parties { iss: "https://operator.example", aud: "https://gateway.example" };
    let mut request = MintRequest::new(
        parties,
        "research/summarizer".parse()?,
        "team:research".parse()?,
        TokenSpan { issued: NOW, lifetime: Duration::from_secs(3600) },
        1,
    )
    .limited(Constraint::new("model", ConstraintType::OneOf, models)?)
    .limited(Constraint::new("requests_per_minute", ConstraintType::Rate, Value::from_u64(120))?)
    .limited(Constraint::new("requests_in_flight", ConstraintType::Max, Value::from_u64(8))?)
    .limited(Constraint::new("output_tokens", ConstraintType::Max, Value::from_u64(4096))?);
    if !lists.is_empty() {
        request.limits.retain(|limit| !lists.iter().any(|list| list.same_row(limit)));
        request.limits.extend_from_slice(lists);
    }
    if let Some(holder) = holder {
        request =
            request.delegable(Jwk::of(holder.public()?), 4).limited(Constraint::bearer_children()?);
    }
    let issuer = IssuerPolicy {
        iss: request.iss.clone(),
        aud: request.aud.clone(),
        namespaces: vec!["research".to_owned()],
        ttl_max: Duration::from_secs(86_400),
        post_quantum: PostQuantum::Off,
        handles: true,
        principals: token_shield::token::Principals::all(),
        list_max: 64,
    };
    let public = Jwk::of(key.public()?);
    let known = KnownKey { id: public.id(), key: public.key().clone(), issuer: Arc::new(issuer) };
    Ok((mint(&request, &key)?, One(Arc::new(known))))
}

fn tokens(bench: &mut Criterion) {
    for algorithm in [Algorithm::MlDsa65, Algorithm::Ed25519] {
        let (text, keys) = match token(algorithm, None, &[]) {
            Ok(made) => made,
            Err(error) => panic!("a good token: {error}"),
        };
        one(bench, algorithm.as_str(), &text, &keys);
    }
    // 64 entries in each of three constraints of each token: the maximum that is allowed. The
    // longest names are as long as 40 KiB have room for.
    for (name, length) in
        [("", 0), (", lists of 64 short names", 2), (", lists of 64 long names", 22)]
    {
        let (text, keys) = match chain(length) {
            Ok(made) => made,
            Err(error) => panic!("a good chain: {error}"),
        };
        one(bench, &format!("ML-DSA-65 and three of Ed25519{name}"), &text, &keys);
    }
}

/// Three lists of 64 names of this length. None if the length is 0.
fn lists(length: usize) -> Result<Vec<Constraint>, Box<dyn std::error::Error>> {
    let names = || {
        Value::Array((0..64).map(|number| Value::from_text(format!("{number:0length$}"))).collect())
    };
    let keys = ["model", "egress_host", "tool_type"].into_iter().filter(|_| length > 0);
    Ok(keys
        .map(|key| Constraint::new(key, ConstraintType::OneOf, names()))
        .collect::<Result<_, _>>()?)
}

/// A chain of four: an ML-DSA-65 root and holders with Ed25519 keys. Each token has lists of names
/// of this length.
fn chain(length: usize) -> Result<(String, One), Box<dyn std::error::Error>> {
    let holders = [(); 3].map(|()| SigningKey::generate(Algorithm::Ed25519));
    let [first, second, third] = holders;
    let holders = [first?, second?, third?];
    let (mut text, keys) = token(Algorithm::MlDsa65, Some(&holders[0]), &lists(length)?)?;
    for (place, holder) in holders.iter().enumerate() {
        let next = holders.get(place + 1).map(|next| next.public().map(Jwk::of)).transpose()?;
        let wanted =
            Narrowed { name: format!("part-{place}"), holder: next, ..Narrowed::default() };
        text = delegate(&text, holder, &wanted, NOW, place as u128)?;
    }
    Ok((text, keys))
}

/// Measures one token cold and from the token cache.
fn one(bench: &mut Criterion, name: &str, text: &str, keys: &One) {
    let cold = |verifier: &dyn Verifier| {
        let verified = Presented::read(black_box(text))
            .and_then(|presented| verify(&presented, keys, verifier, NOW));
        assert!(verified.is_ok(), "the token must verify");
    };
    bench.bench_function(&format!("verify/cold, {name}, aws-lc"), |run| run.iter(|| cold(&Fast)));
    bench.bench_function(&format!("verify/cold, {name}, pure Rust"), |run| {
        run.iter(|| cold(&Portable))
    });
    let (door, tables) = door(keys);
    let value = HeaderValue::from_str(&format!("Bearer {text}"));
    let headers = HeaderMap::from_iter(value.into_iter().map(|value| (AUTHORIZATION, value)));
    let asked = || {
        let credential = Credential::read(black_box(&headers));
        let peer = IpAddr::from([127, 0, 0, 1]);
        let known = credential.and_then(|read| {
            door.authenticate(&read, peer, Arc::clone(&tables)).map_err(|denied| denied.refusal)
        });
        known.is_ok_and(|known| known.found == TokenLookup::Cached)
    };
    assert!(!asked(), "the first time it is verified");
    bench.bench_function(&format!("verify/cached, {name}, with times and standing"), |run| {
        run.iter(|| assert!(asked()))
    });
}

/// The authenticator of a gateway with this key, and tables of one class.
fn door(keys: &One) -> (Authenticator, Arc<Tables>) {
    let known = Jwk::of(keys.0.key.clone());
    let keyring = Keyring::new();
    keyring.set_issuers(vec![IssuerKeys { policy: Arc::clone(&keys.0.issuer), keys: vec![known] }]);
    let clock = Arc::new(ManualClock::at(NOW));
    let (keyring, registry) = (Arc::new(keyring), Arc::new(Registry::new()));
    let limiter = Arc::new(Limiter::new(clock.clone()));
    let limits =
        VerificationLimits { token_cache: 65_536, peer_rps: 1_000_000, root_rps: 1_000_000 };
    let config = config::read("name = \"bench\"\n", Path::new("."))
        .unwrap_or_else(|faults| panic!("a good config: {faults}"));
    let tables = Tables::build(
        &config.guard,
        Vec::new(),
        token_shield::guard::egress::policy::SelfEndpoints::default(),
    )
    .unwrap_or_else(|fault| panic!("good tables: {fault}"));
    (
        Authenticator::new(keyring, registry, limiter, Box::new(Fast), clock, limits),
        Arc::new(tables),
    )
}

criterion_group!(benches, tokens);
criterion_main!(benches);
