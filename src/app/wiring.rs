//! Builds the settings of the data plane from a config: tables, upstreams, fetches.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{StartFault, self_endpoints, tls};
use crate::audit::format::request::Server;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::guard::settings::RequestFilterAction;
use crate::guard::table::{Tables, Upstream as Known};
use crate::health::Health;
use crate::model::Profile;
use crate::model::redact::{Redactor, SECRET_MIN, UpstreamAddress};
use crate::proxy::DataPlaneConfig;
use crate::proxy::connect::Dialler;
use crate::proxy::fetch::Fetcher;
use crate::proxy::forward::{UpstreamClient, credential};
use crate::proxy::resolve::Resolver;
use crate::proxy::settings::{Endpoint, ServerAddress, UpstreamSettings};
use crate::proxy::tree::{CREDENTIAL_BYTES_MIN, LogTree};
use crate::secret::SecretRef;

/// The fault of an upstream's settings.
fn fault(upstream: &UpstreamSettings, why: impl std::fmt::Display) -> StartFault {
    StartFault::Upstream { upstream: upstream.name.clone(), why: why.to_string() }
}

/// The client of one upstream of the config.
///
/// # Errors
/// When its CAs or its credential cannot be used.
pub(super) fn remote(
    upstream: &UpstreamSettings,
    connect: Duration,
) -> Result<UpstreamClient, StartFault> {
    // The certificate must have the name in the config. An upstream without TLS has none.
    let tls = if let ServerAddress::Tls { host, ca, .. } = &upstream.target {
        Some(tls::client(host, ca.as_deref()).map_err(|why| fault(upstream, why))?)
    } else {
        None
    };
    let held = match &upstream.credential {
        None => None,
        Some(secret) => {
            let secret = secret.load()?;
            let held = credential(&secret, upstream.credential_as_api_key);
            Some(held.map_err(|error| fault(upstream, error))?)
        }
    };
    let dialler = Dialler::new(upstream.target.clone(), tls, connect);
    let (name, host) = (upstream.name.as_str().into(), upstream.target.authority());
    let remote = UpstreamClient::new(name, &host, &upstream.base_path, dialler, held)
        .map_err(|error| fault(upstream, error))?;
    Ok(remote.by_principal(upstream.pool_by_principal))
}

/// Redacts the gateway's secrets in answers: its credentials for upstreams and the credential of
/// the auditors. Other secrets (keys that sign, decrypt or salt) go to no upstream, so none can
/// repeat them.
fn redactor(config: &Config) -> Result<Redactor, StartFault> {
    let mut secrets = Vec::new();
    for credential in credentials(config) {
        secrets.push(credential.secret.load()?);
    }
    let mut places = Vec::new();
    for upstream in &config.proxy.upstreams {
        if let Some(Endpoint { host, port }) = upstream.target.endpoint() {
            // IPv6 addresses have brackets in a URL, so an answer repeats them in that form.
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            places.push(UpstreamAddress::Host { host, port });
        } else if let ServerAddress::Unix(path) = &upstream.target {
            places.push(UpstreamAddress::Socket(path.display().to_string()));
        }
    }
    let secrets: Vec<&str> = secrets.iter().map(|secret| secret.as_str()).collect();
    Ok(Redactor::new(&secrets, &places))
}

/// A credential that is redacted in answers.
struct RedactedCredential<'c> {
    /// The key of the config that names it, for a message.
    key: String,
    secret: &'c SecretRef,
}

/// The credentials that are redacted in answers.
fn credentials(config: &Config) -> Vec<RedactedCredential<'_>> {
    let mut credentials = Vec::new();
    for upstream in &config.proxy.upstreams {
        if let Some(secret) = &upstream.credential {
            let key = format!("the credential of the upstream {:?}", upstream.name);
            credentials.push(RedactedCredential { key, secret });
        }
    }
    if let Some(secret) = &config.proxy.auditors.credential {
        credentials.push(RedactedCredential { key: "[audit] auditor".to_owned(), secret });
    }
    credentials
}

/// Warnings about credentials. A credential that cannot be read is a fault elsewhere.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    for RedactedCredential { key, secret } in credentials(config) {
        if secret.load().is_ok_and(|secret| secret.len() < SECRET_MIN) {
            warnings.push(format!(
                "{key} has fewer than {SECRET_MIN} bytes: it is too short to be redacted, so an \
                    upstream that repeats it shows it to agents"
            ));
        }
    }
    warnings
}

/// The settings of the data plane. A reload replaces them as a whole.
///
/// # Errors
/// When an upstream, a route, a fetcher or a secret of the config cannot be used.
pub(super) fn wiring(config: &Config) -> Result<DataPlaneConfig, StartFault> {
    let mut known = Vec::new();
    let mut upstreams = HashMap::new();
    for upstream in &config.proxy.upstreams {
        let name: Arc<str> = upstream.name.as_str().into();
        let Some(profile) = Profile::named(&upstream.profile) else {
            let why = format!("there is no profile {:?}", upstream.profile);
            return Err(fault(upstream, why));
        };
        let jurisdiction = upstream.jurisdiction.as_deref().map(Arc::from);
        let server =
            Server { name: Arc::clone(&name), controlled: upstream.controlled, jurisdiction };
        known.push(Known {
            name: Arc::clone(&name),
            profile,
            caps: upstream.caps.clone(),
            wait: upstream.wait,
            server,
        });
        upstreams.insert(name, Arc::new(remote(upstream, config.proxy.timeouts.connect)?));
    }
    // A start and each reload begin with every upstream up. The next probe corrects that.
    let health = Arc::new(Health::new(upstreams.keys().cloned(), Arc::new(SystemClock::start())));
    let tables =
        Arc::new(Tables::build(&config.guard, known, self_endpoints::self_endpoints(config))?);
    let tree = tree(config)?;
    Ok(DataPlaneConfig {
        tables,
        upstreams,
        health,
        timeouts: config.proxy.timeouts.clone(),
        answers: config.proxy.answers,
        publish_keys: config.proxy.listen.publish_keys,
        cors: config.proxy.listen.cors.clone(),
        tree: if tree.is_served() { Some(Arc::new(tree)) } else { None },
        policy: config.policy.as_str().into(),
        fetcher: fetcher(config)?,
        redactor: Arc::new(redactor(config)?),
    })
}

/// The fetcher of content, if a class has media = "inline".
pub(super) fn fetcher(config: &Config) -> Result<Option<Fetcher>, StartFault> {
    if !config
        .guard
        .classes
        .values()
        .any(|class| class.requests.media == RequestFilterAction::Inline)
    {
        return Ok(None);
    }
    let fetch = &config.guard.fetch;
    let resolver =
        Resolver::new(fetch.resolver).map_err(|error| StartFault::Fetch(error.to_string()))?;
    // Without CAs, URLs without TLS can still be fetched. A configured file of CAs must be
    // readable.
    let tls = tls::connector(fetch.ca.as_deref());
    if let (Err(why), Some(_)) = (&tls, &fetch.ca) {
        return Err(StartFault::Fetch(why.clone()));
    }
    Ok(Some(Fetcher { resolver, tls, bytes_max: fetch.bytes_max, time_max: fetch.time_max }))
}

/// The log's tree, with the rules that decide who may read it.
pub(super) fn tree(config: &Config) -> Result<LogTree, StartFault> {
    let auditors = &config.proxy.auditors;
    let credential = match &auditors.credential {
        Some(secret) => Some(secret.load()?),
        None => None,
    };
    // A short credential could be guessed over the network.
    if let Some(secret) = &credential
        && secret.len() < CREDENTIAL_BYTES_MIN
    {
        return Err(StartFault::Auditor);
    }
    let (dir, vkeys) = (&config.audit.dir, &config.audit.vkeys);
    let public_checkpoints = auditors.public_checkpoints;
    Ok(LogTree::new(dir, vkeys, &config.name, credential.as_ref(), public_checkpoints))
}
