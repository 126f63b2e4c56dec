//! Checks what a config names before a start: keys, credentials, certificates.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::keys::read_file;
use super::wiring::{self, fetcher, remote};
use super::{StartFault, certificate};
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::guard::settings::Jwks;
use crate::keyring::IssuerKeys;
use crate::model::Profile;

/// The faults of the keys, credentials and certificates that a config names. Writes no files.
#[must_use]
pub fn unusable(config: &Config) -> Vec<String> {
    let mut faults = Vec::new();
    if let Err(fault) = issuers(config) {
        faults.push(fault.to_string());
    }
    let connect = config.proxy.timeouts.connect;
    for upstream in &config.proxy.upstreams {
        if let Err(fault) = remote(upstream, connect) {
            faults.push(fault.to_string());
        }
    }
    // The checks continue after a fault, so that one run lists all of them.
    if let Err(fault) = fetcher(config) {
        faults.push(fault.to_string());
    }
    // The same check as at a start, so that `config check` finds an expired certificate early.
    if let Some(tls) = &config.proxy.listen.tls
        && let Err(why) = certificate::read(tls, SystemClock::start().now())
    {
        faults.push(format!("TLS: {why}"));
    }
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
    let mut warnings = config.warnings.clone();
    warnings.extend(wiring::warnings(config));
    forwarded_models(config, &mut warnings);
    warnings
}

/// Adds a warning for each model whose server forwards its prompts to a service outside.
fn forwarded_models(config: &Config, warnings: &mut Vec<String>) {
    for model in &config.guard.models {
        let served = model.upstream_name.as_deref().unwrap_or(&model.name);
        for upstream in &config.proxy.upstreams {
            let Some(profile) = Profile::named(&upstream.profile) else { continue };
            let forwards = profile.forwards_model(&model.name) || profile.forwards_model(served);
            if forwards && model.route.contains(&upstream.name) {
                warnings.push(format!(
                    "model {:?}: the upstream {:?} forwards {served:?} to a service outside, so \
                        requests for it are refused with egress-uncontrolled",
                    model.name, upstream.name
                ));
            }
        }
    }
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
    let mut issuers = Vec::new();
    for issuer in &config.guard.issuers {
        let mut keys = Vec::new();
        if let Some(Jwks::File(path)) = &issuer.jwks {
            keys = read_file(path).map_err(|why| StartFault::Keys {
                issuer: issuer.iss.clone(),
                path: path.clone(),
                why,
            })?;
        }
        issuers.push(IssuerKeys { policy: Arc::new(issuer.policy()), keys });
    }
    shared_key(&issuers)?;
    Ok(issuers)
}

/// Refuses a key that two issuers list. Its holder would speak for both, but only one policy could
/// apply.
fn shared_key(issuers: &[IssuerKeys]) -> Result<(), StartFault> {
    let mut owners = HashMap::new();
    for issuer in issuers {
        for key in &issuer.keys {
            if let Some(former) = owners.insert(key.id(), &issuer.policy.iss)
                && *former != issuer.policy.iss
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
