//! Checks what a config names before a start: keys, credentials, certificates.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::wiring::{self, fetcher, remote};
use super::{StartFault, certificate};
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::guard::settings::{self, Jwks};
use crate::keyring::IssuerKeys;
use crate::token::jwk;

/// The faults of the keys, credentials and certificates that a config names. Writes no files.
#[must_use]
pub fn unusable(config: &Config) -> Vec<String> {
    let mut faults = Vec::new();
    faults.extend(issuers(config).err().map(|fault| fault.to_string()));
    let connect = config.proxy.timeouts.connect;
    for upstream in &config.proxy.upstreams {
        if let Err(fault) = remote(upstream, connect) {
            faults.push(fault.to_string());
        }
    }
    // The checks continue after a fault, so that one run lists all of them.
    faults.extend(fetcher(config).err().map(|fault| fault.to_string()));
    let read = config
        .proxy
        // The same check as at a start, so that `config check` finds an expired certificate early.
        .listen
        .tls
        .as_ref()
        .map(|tls| certificate::read(tls, SystemClock::start().now()));
    faults.extend(read.and_then(Result::err).map(|why| format!("TLS: {why}")));
    faults
}

/// A warning if the config's certificate is valid and expires soon.
#[must_use]
pub fn soon_expired(config: &Config) -> Option<String> {
    let tls = config.proxy.listen.tls.as_ref()?;
    certificate::read(tls, SystemClock::start().now()).ok()?.warning
}

/// Warnings about a config without faults.
#[must_use]
pub fn warnings(config: &Config) -> Vec<String> {
    config.warnings.iter().cloned().chain(wiring::warnings(config)).collect()
}

/// The names of the config's classes.
pub(super) fn classes(config: &Config) -> BTreeSet<String> {
    config.guard.classes.keys().cloned().collect()
}

/// The config's issuers with the keys of the JWK Sets in files.
///
/// # Errors
/// When a JWK Set cannot be read.
pub fn issuers(config: &Config) -> Result<Vec<IssuerKeys>, StartFault> {
    let read = |issuer: &settings::Issuer| -> Result<IssuerKeys, StartFault> {
        let keys = match issuer.jwks.as_ref().and_then(Jwks::file) {
            None => Vec::new(),
            Some(path) => {
                let fault = |why: String| StartFault::Keys {
                    issuer: issuer.iss.clone(),
                    path: path.to_owned(),
                    why,
                };
                let text =
                    std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
                jwk::read_set(&text).map_err(|error| fault(error.to_string()))?
            }
        };
        Ok(IssuerKeys { policy: Arc::new(issuer.policy()), keys })
    };
    let issuers: Vec<IssuerKeys> =
        config.guard.issuers.iter().map(read).collect::<Result<_, _>>()?;
    shared_key(&issuers)?;
    Ok(issuers)
}

/// Refuses a key that two issuers list. Its holder would speak for both, but only one policy could
/// apply.
fn shared_key(issuers: &[IssuerKeys]) -> Result<(), StartFault> {
    let mut owners = HashMap::new();
    for issuer in issuers {
        for key in &issuer.keys {
            if let Some(former) = owners
                .insert(key.id(), &issuer.policy.iss)
                .filter(|former| **former != issuer.policy.iss)
            {
                // One issuer may list a key twice; two issuers may not share it.
                let key = key.id().to_string();
                return Err(StartFault::SharedKey {
                    key,
                    one: former.clone(),
                    other: issuer.policy.iss.clone(),
                });
            }
        }
    }
    Ok(())
}
