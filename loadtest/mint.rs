//! Writes keys for the load test, and tokens signed with them: `operator.jwks`, `one.txt`,
//! `many.txt`, `ed25519.txt`.
//!
//! ```console
//! $ mint --out DIR --iss ISS --aud AUD --count 1000
//! ```

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use token_shield::clock::{Clock, SystemClock};
use token_shield::crypto::{Algorithm, SigningKey, entropy};
use token_shield::json::Value;
use token_shield::token::constraint::{Constraint, ConstraintType};
use token_shield::token::jwk::{self, Jwk};
use token_shield::token::mint::{MintRequest, Parties, TokenSpan, mint};

fn option(name: &str) -> Result<String, Box<dyn Error>> {
    let mut words = std::env::args().skip_while(|word| word != name).skip(1);
    words.next().ok_or_else(|| format!("{name} is missing").into())
}

fn token(key: &SigningKey, iss: &str, aud: &str, agent: u64) -> Result<String, Box<dyn Error>> {
    let now = SystemClock::start().now();
    let parties = Parties { iss, aud };
    let span = TokenSpan { issued: now, lifetime: Duration::from_secs(86_400) };
    let (agent, random) =
        (format!("loadtest/agent-{agent}").parse()?, u128::from_be_bytes(entropy()?));
    let mut request = MintRequest::new(parties, agent, "team:loadtest".parse()?, span, random);
    for (key, kind, number) in [
        ("requests_per_second", ConstraintType::Rate, 100_000_000),
        ("requests_per_minute", ConstraintType::Rate, 1_000_000_000),
        ("requests_in_flight", ConstraintType::Max, 100_000),
        ("output_tokens", ConstraintType::Max, 4096),
    ] {
        request = request.limited(Constraint::new(key, kind, Value::from_u64(number))?);
    }
    Ok(mint(&request, key)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(option("--out")?);
    let (iss, aud, count) =
        (option("--iss")?, option("--aud")?, option("--count")?.parse::<u64>()?);
    std::fs::create_dir_all(&out)?;
    let operator = SigningKey::generate(Algorithm::MlDsa65)?;
    let classical = SigningKey::generate(Algorithm::Ed25519)?;
    let keys = [Jwk::of(operator.public()?), Jwk::of(classical.public()?)];
    std::fs::write(out.join("operator.jwks"), jwk::write_set(&keys))?;
    std::fs::write(out.join("one.txt"), token(&operator, &iss, &aud, 0)? + "\n")?;
    std::fs::write(out.join("ed25519.txt"), token(&classical, &iss, &aud, 0)? + "\n")?;
    let many: Result<Vec<String>, _> =
        (0..count).map(|agent| token(&operator, &iss, &aud, agent)).collect();
    std::fs::write(out.join("many.txt"), many?.join("\n") + "\n")?;
    Ok(())
}
