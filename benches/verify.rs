//! What does a token cost: verified cold, by either implementation and algorithm, and found in the memory of verified ones?

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

use token_shield::clock::Timestamp;
use token_shield::crypto::{Algorithm, Fast, Portable, SigningKey, Verifier, sha256};
use token_shield::id::KeyId;
use token_shield::token::jwk::Jwk;
use token_shield::token::mint::{Request, label, mint};
use token_shield::token::{IssuerPolicy, Keys, KnownKey, PostQuantum, Presented, verify};

struct One(Arc<KnownKey>);

impl Keys for One {
    fn key(&self, kid: &KeyId) -> Option<Arc<KnownKey>> {
        (*kid == self.0.id).then(|| Arc::clone(&self.0))
    }
}

const NOW: Timestamp = Timestamp(1_790_000_000_000);

fn token(algorithm: Algorithm) -> Result<(String, One), Box<dyn std::error::Error>> {
    let key = SigningKey::generate(algorithm)?;
    let request = Request {
        iss: "https://operator.example".to_owned(),
        aud: "https://gateway.example".to_owned(),
        principal: "team:research".parse()?,
        agent: "research/summarizer".parse()?,
        scopes: vec!["inference.*".to_owned(), "models.read".to_owned()],
        models: vec!["llama-3.1-8b".to_owned(), "bge-m3".to_owned()],
        model_prefix: None,
        rps: None,
        rpm: Some(120),
        in_flight: Some(8),
        output_tokens: Some(4096),
        issued: NOW,
        not_before: None,
        expires: NOW.plus(Duration::from_secs(3600)),
        jti: label(NOW, 1),
    };
    let issuer = IssuerPolicy {
        iss: request.iss.clone(),
        aud: request.aud.clone(),
        namespaces: vec!["research".to_owned()],
        ttl_max: Duration::from_secs(86_400),
        post_quantum: PostQuantum::Off,
    };
    let public = Jwk::of(key.public()?);
    let known = KnownKey { id: public.id(), key: public.key().clone(), issuer: Arc::new(issuer) };
    Ok((mint(&request, &key)?, One(Arc::new(known))))
}

fn tokens(bench: &mut Criterion) {
    for algorithm in [Algorithm::MlDsa65, Algorithm::Ed25519] {
        let (text, keys) = match token(algorithm) {
            Ok(made) => made,
            Err(error) => panic!("a good token: {error}"),
        };
        let cold = |verifier: &dyn Verifier| {
            let verified = Presented::read(black_box(&text)).and_then(|presented| verify(&presented, &keys, verifier, NOW));
            assert!(verified.is_ok(), "the token must verify");
        };
        let name = algorithm.as_str();
        bench.bench_function(&format!("verify/cold, {name}, aws-lc"), |run| run.iter(|| cold(&Fast)));
        bench.bench_function(&format!("verify/cold, {name}, pure Rust"), |run| run.iter(|| cold(&Portable)));
        let memory = quick_cache::sync::Cache::<[u8; 32], Arc<str>>::new(65_536);
        memory.insert(sha256(text.as_bytes()), Arc::from("verified"));
        bench.bench_function(&format!("verify/cached, {name}"), |run| {
            run.iter(|| assert!(memory.get(&sha256(black_box(text.as_bytes()))).is_some(), "it was remembered"));
        });
    }
}

criterion_group!(benches, tokens);
criterion_main!(benches);
