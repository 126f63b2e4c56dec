//! Models, and the upstreams that serve them.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::class::caps;
use super::section::Section;
use super::values::{choice, secret};
use crate::guard::settings::{Model, Wait};
use crate::model::Profile;
use crate::proxy::settings::{ServerAddress, UpstreamSettings};
use crate::weights::servers::is_sha256;

/// Reads one `[[model]]`; `None` if its name is missing.
pub(super) fn model(
    section: Section<'_>,
    upstreams: &[UpstreamSettings],
    base: &Path,
) -> Option<Model> {
    let name = section.required("name");
    let route = section.texts("route");
    if route.is_empty() {
        section.fault("route", "must name at least one upstream");
    }
    for wanted in &route {
        if !upstreams.iter().any(|upstream| upstream.name == *wanted) {
            section.fault("route", format!("{wanted:?} is not the name of an [[upstream]]"));
        }
    }
    let (aliases, namespaces) = (section.texts("aliases"), section.texts("namespaces"));
    for alias in &aliases {
        let front = alias.strip_suffix('*').unwrap_or(alias);
        if front.is_empty() || front.contains('*') {
            section.fault(
                "aliases",
                format!("{alias:?}: a * is allowed only at the end, after other characters"),
            );
        }
    }
    let upstream_name = section.text("as");
    let caps = caps(&section);
    let weights = section.texts("weights").iter().map(|path| base.join(path)).collect();
    let pin = section.parsed("pin", "\"sha256:\" and 64 digits from 0 to f", |text| {
        is_sha256(text).then(|| text.to_owned())
    });
    // A missing name ends the function only here, after unknown keys were found.
    section.close();
    Some(Model { name: name?, aliases, namespaces, route, upstream_name, caps, weights, pin })
}

/// Reads one `[[upstream]]`; `None` if its name is missing.
pub(super) fn upstream<'t>(
    section: Section<'t>,
    base: &Path,
    empty: &'t DeTable<'t>,
) -> Option<UpstreamSettings> {
    let name = section.required("name");
    let mut ca = None;
    if let Some(tls) = section.optional_table("tls", empty) {
        ca = tls.path("ca", base);
        tls.close();
    }
    let url = url(&section, base, ca);
    let profile = match section.text("profile") {
        Some(profile) => profile,
        None => "generic".to_owned(),
    };
    if Profile::named(&profile).is_none() {
        section.fault("profile", format!("must be one of {}", Profile::NAMES.join(", ")));
    }
    let mut caps = caps(&section);
    caps.in_flight = caps.in_flight.or(Some(64));
    let wait =
        Wait { length: section.count_or("queue", 64), time: section.seconds_or("queue_time", 30) };
    let headers = [("authorization", false), ("x-api-key", true)];
    // A faulty URL is replaced, so that the other faults of the config are found too.
    let (target, base_path) = url.unwrap_or((ServerAddress::Echo, String::new()));
    let credential = secret(&section, "credential", base);
    // The credential would be readable on the network path, so plain HTTP is only for this machine.
    if let ServerAddress::Tcp { host, .. } = &target
        && credential.is_some()
        && !is_loopback(host)
    {
        section.fault(
            "credential",
            "would cross a network unencrypted; the url must be https://, \
            unix: or a loopback address",
        );
    }
    let controlled = section.is_true("controlled");
    let jurisdiction = section.text("jurisdiction");
    let credential_as_api_key = choice(&section, "credential_header", &headers).unwrap_or(false);
    let pools = [("shared", false), ("principal", true)];
    let pool_by_principal = choice(&section, "pool", &pools).unwrap_or(false);
    // As in `model`: the name comes last.
    section.close();
    Some(UpstreamSettings {
        name: name?,
        target,
        base_path,
        profile,
        controlled,
        jurisdiction,
        credential,
        credential_as_api_key,
        caps,
        wait,
        pool_by_principal,
    })
}

/// The target of the key `url`, and the part of its path before `/v1`. A missing or invalid URL is
/// a fault.
fn url(section: &Section<'_>, base: &Path, ca: Option<PathBuf>) -> Option<(ServerAddress, String)> {
    let read = target(&section.required("url")?, base, ca);
    if read.is_none() {
        section.fault("url", "must be http://HOST:PORT, https://HOST:PORT, unix:PATH or echo:");
    }
    read
}

/// True if a host is this machine: `localhost` (RFC 6761, section 6.3) or a loopback address.
fn is_loopback(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        // Canonical, so that an IPv4-mapped IPv6 address counts as its IPv4 address.
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => {
            let name = host.trim_end_matches('.').to_ascii_lowercase();
            name == "localhost" || name.ends_with(".localhost")
        }
    }
}

/// The target of a URL, and the part of its path before `/v1`.
pub(super) fn target(
    url: &str,
    base: &Path,
    ca: Option<PathBuf>,
) -> Option<(ServerAddress, String)> {
    if url == "echo:" {
        return Some((ServerAddress::Echo, String::new()));
    }
    if let Some(path) = url.strip_prefix("unix:") {
        return (!path.is_empty()).then(|| (ServerAddress::Unix(base.join(path)), String::new()));
    }
    let uri: http::Uri = url.parse().ok()?;
    let authority = uri.authority()?;
    // Userinfo in a URL would be a secret in the config and in log lines.
    if authority.as_str().contains('@') {
        return None;
    }
    // An IPv6 address is stored without its brackets.
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let path = uri.path().trim_end_matches('/');
    // OpenAI clients get the address with `/v1`. The same address is accepted here.
    let base_path = path.strip_suffix("/v1").unwrap_or(path).to_owned();
    // The gateway appends the path of a request, so the URL cannot have a query.
    if uri.query().is_some() || host.is_empty() {
        return None;
    }
    let target = match uri.scheme_str()? {
        "http" => ServerAddress::Tcp { host, port: port(authority, 80)? },
        "https" => ServerAddress::Tls { host, port: port(authority, 443)?, ca },
        _ => return None,
    };
    Some((target, base_path))
}

/// The port of a URL, `usual` if it names none. `None` if it is not 1 to 65535: `http` accepts any
/// text after the colon.
fn port(authority: &http::uri::Authority, usual: u16) -> Option<u16> {
    let after = authority.as_str().strip_prefix(authority.host())?;
    if after.is_empty() {
        return Some(usual);
    }
    let digits = after.strip_prefix(':')?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let port: std::num::NonZeroU16 = digits.parse().ok()?;
    Some(port.get())
}
