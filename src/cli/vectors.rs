//! `token-shield token verify-vectors`: runs test vectors through the gateway's own verification.

use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;

use super::Failure;
use crate::clock::Timestamp;
use crate::crypto::Both;
use crate::keyring::{IssuerKeys, Keyring};
use crate::refusal::Refusal;
use crate::token::{
    IssuerPolicy, LIST_MAX, PostQuantum, Presented, Principals, jwk, verify, verify_signatures,
};

/// The longest lifetime of a token if a vector has no limit, in seconds.
const EVER: u64 = u64::MAX;

#[derive(Args)]
pub(super) struct Vectors {
    /// A file with vectors, one JSON object a line:
    /// {"id","token","jwks":{"keys":[…]},"iss","aud","now"}. - is standard input.
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Check only header, key and signature.
    #[arg(long)]
    signature_only: bool,
    /// Print errors as JSON too, one object a line. Results are always JSON.
    #[arg(long)]
    #[allow(dead_code, reason = "read for errors, whatever the command")]
    json: bool,
}

/// One test vector. `namespaces`, `ttl_max` (seconds) and `pq` are the issuer's policy. Without
/// them, every value is allowed.
#[derive(Deserialize)]
struct Vector {
    id: serde_json::Value,
    token: String,
    jwks: serde_json::Value,
    #[serde(default)]
    iss: String,
    #[serde(default)]
    aud: String,
    #[serde(default)]
    now: i64,
    namespaces: Option<Vec<String>>,
    ttl_max: Option<u64>,
    pq: Option<String>,
}

impl Vectors {
    /// Prints one result for each vector, in order.
    ///
    /// # Errors
    /// If a line is not a vector.
    pub(super) fn run(self) -> Result<(), Failure> {
        let input: Box<dyn BufRead> = if self.file == Path::new("-") {
            Box::new(BufReader::new(std::io::stdin()))
        } else {
            let file = std::fs::File::open(&self.file)
                .map_err(|error| format!("{}: {error}", self.file.display()))?;
            Box::new(BufReader::new(file))
        };
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        for (place, line) in input.lines().enumerate() {
            let line = line?;
            if line.trim().is_empty() {
                continue;
            }
            let vector: Vector = serde_json::from_str(&line)
                .map_err(|error| format!("line {}: {error}", place + 1))?;
            let verdict = vector
                .verdict(self.signature_only)
                .map_err(|why| format!("line {}: {why}", place + 1))?;
            // The output has the code alone: a message may contain parts of the token.
            let code = match &verdict {
                Err(refusal) => Some(refusal.code.as_str()),
                Ok(()) => None,
            };
            writeln!(
                out,
                "{}",
                serde_json::json!({ "id": vector.id, "valid": code.is_none(), "code": code })
            )?;
        }
        Ok(out.flush()?)
    }
}

impl Vector {
    /// The gateway's decision. The outer error is a fault of the vector itself.
    fn verdict(&self, signature_only: bool) -> Result<Result<(), Refusal>, String> {
        let keys =
            jwk::read_set(&self.jwks.to_string()).map_err(|fault| format!("jwks: {fault}"))?;
        let post_quantum = match self.pq.as_deref() {
            None | Some("off") => PostQuantum::Off,
            Some("required-root") => PostQuantum::RequiredRoot,
            Some("required") => PostQuantum::Required,
            Some(other) => {
                return Err(format!("pq: {other:?} is not off, required-root or required"));
            }
        };
        let policy = IssuerPolicy {
            iss: self.iss.clone(),
            aud: self.aud.clone(),
            namespaces: match &self.namespaces {
                Some(namespaces) => namespaces.clone(),
                None => vec!["*".to_owned()],
            },
            ttl_max: Duration::from_secs(self.ttl_max.unwrap_or(EVER)),
            post_quantum,
            handles: true,
            principals: Principals::all(),
            list_max: LIST_MAX,
        };
        let keyring = Keyring::new();
        keyring.set_issuers(vec![IssuerKeys { policy: Arc::new(policy), keys }]);
        // The time comes from the vector, so that its result never changes.
        let Some(now) = self.now.checked_mul(1000) else {
            return Err("now: out of range".to_owned());
        };
        Ok(Presented::read(&self.token).and_then(|presented| {
            if signature_only {
                verify_signatures(&presented, &keyring, &Both)
            } else {
                verify(&presented, &keyring, &Both, Timestamp(now)).map(drop)
            }
        }))
    }
}
