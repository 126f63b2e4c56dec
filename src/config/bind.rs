//! From tables to settings.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

use super::section::{Book, Section};
use super::{Config, Faults};
use crate::audit::log::Settings as Log;
use crate::audit::retain::Keep;
use crate::crypto::sha256;
use crate::guard::cache_salt::CacheScope;
use crate::guard::settings::{Answers, Caps, Class, Issuer, Jwks, Model, Requests, Settings as Guard};
use crate::model::{Profile, UnknownFields};
use crate::proxy::settings::{Auditors, Listen, Settings as Proxy, Target, Timeouts, Tls, Upstream};
use crate::secret::SecretRef;
use crate::token::PostQuantum;
use crate::weights::servers::is_sha256;

pub(super) fn config(text: &str, base: &Path) -> Result<Config, Faults> {
    let book = Book::new(text);
    let empty = DeTable::default();
    let root = match DeTable::parse(text) {
        Ok(root) => root,
        Err(error) => {
            book.fault(error.span().map_or(0, |span| span.start), "toml", error.message());
            book.close()?;
            return Err(Faults(Vec::new()));
        }
    };
    let config = {
        let section = Section::new(&book, root.get_ref(), String::new(), 0..0);
        read(section, base, &empty)
    };
    book.close()?;
    let policy = crate::id::TokenId(sha256(text.as_bytes())).to_string();
    config.map(|config| Config { policy, ..config }).ok_or(Faults(Vec::new()))
}

fn read<'t>(root: Section<'t>, base: &Path, empty: &'t DeTable<'t>) -> Option<Config> {
    let name = root.required("name");
    let data = base.join(root.text("data").unwrap_or_else(|| "data".to_owned()));
    let mut warnings = Vec::new();
    let issuers: Vec<Issuer> = root.tables("issuer").into_iter().filter_map(|section| issuer(section, base)).collect();
    let upstreams: Vec<Upstream> =
        root.tables("upstream").into_iter().filter_map(|section| upstream(section, base, empty)).collect();
    let models: Vec<Model> = root.tables("model").into_iter().filter_map(|section| model(section, &upstreams, base)).collect();
    unique(&root, "issuer", issuers.iter().map(|issuer| issuer.iss.as_str()));
    unique(&root, "upstream", upstreams.iter().map(|upstream| upstream.name.as_str()));
    unique(
        &root,
        "model",
        models.iter().flat_map(|model| std::iter::once(&model.name).chain(&model.aliases)).map(String::as_str),
    );
    let known = |(name, section): (String, _)| (name.clone(), class(&name, section, empty));
    let mut classes: BTreeMap<String, Class> = root.named("class").into_iter().map(known).collect();
    classes.entry("default".to_owned()).or_insert_with(|| tightest("default"));
    let principals = root.named("principal").into_iter().map(|(name, section)| (name, caps_alone(section))).collect();
    let limits = root.table("limits", empty);
    let listen_section = root.table("listen", empty);
    let metrics = root.table("metrics", empty);
    let timeouts = timeouts(root.table("timeouts", empty));
    let count = |key, fallback| limits.number(key).and_then(|count| usize::try_from(count).ok()).unwrap_or(fallback);
    let (egress, fetch, fetch_tools) = super::egress::lists(root.table("egress", empty), base, empty);
    let guard = Guard {
        issuers,
        classes,
        principals,
        models,
        peer_rps: limits.number("peer_rps").and_then(|rate| u32::try_from(rate).ok()).unwrap_or(200),
        token_cache: count("token_cache", 65_536),
        body_max: limits.bytes("body").unwrap_or(32 << 20),
        bodies_max: limits.bytes("bodies").unwrap_or(512 << 20),
        egress,
        fetch,
        fetch_tools,
    };
    let (connections_max, peer_connections_max) = (count("connections", 10_000), count("peer_connections", 1000));
    limits.close();
    let agent_label = metrics.number("agent_label").and_then(|count| usize::try_from(count).ok());
    metrics.close();
    let listen = listen(&listen_section, base, empty, &mut warnings);
    let address = |key, fallback: ([u8; 4], u16)| {
        let read = listen_section.parsed(key, "an address with a port, such as \"127.0.0.1:9464\"", |text| text.parse().ok());
        read.unwrap_or_else(|| SocketAddr::from(fallback))
    };
    let metrics = address("metrics", ([127, 0, 0, 1], 9464));
    let admin = listen_section.parsed("admin", "\"unix:PATH\"", |text| text.strip_prefix("unix:").map(|path| base.join(path)));
    let admin = admin.unwrap_or_else(|| data.join("admin.sock"));
    let trusted_proxies = networks(&listen_section, "trusted_proxies");
    // Every section is closed before the first missing value ends the reading: all faults are said at once.
    listen_section.close();
    let (audit, keep, auditors) =
        audit(root.table("audit", empty), (&data, name.as_deref().unwrap_or_default()), base, &mut warnings);
    root.not_enforced(&["policy"]);
    root.close();
    let proxy = Proxy {
        metrics,
        admin,
        trusted_proxies,
        listen: listen?,
        upstreams,
        timeouts,
        connections_max,
        peer_connections_max,
        auditors,
        agent_label,
    };
    Some(Config { name: name?, data, guard, proxy, audit, keep, policy: String::new(), warnings })
}

/// The log.
fn audit(
    section: Section<'_>,
    (data, name): (&Path, &str),
    base: &Path,
    warnings: &mut Vec<String>,
) -> (Log, Option<Keep>, Auditors) {
    let mut log = Log::of_data(data, name);
    log.sealed = choice(&section, "records", &[("sealed", true), ("plain", false)]).unwrap_or(true);
    if !log.sealed {
        warnings.push("[audit] records = \"plain\": whoever reads the log reads who asked for what".to_owned());
    }
    log.reserve = section.bytes("reserve").unwrap_or(log.reserve);
    log.signing_key = secret(&section, "signing_key", base);
    log.epoch_max = section.duration("epoch").unwrap_or(log.epoch_max);
    let to = section.text("archive").map(|path| base.join(path));
    let keep = section.duration("keep").map(|keep| Keep { keep, to: to.clone() });
    if to.is_some() && keep.is_none() {
        section.fault("archive", "needs keep, which says when records go there");
    }
    let auditors = auditors(&section, base);
    section.close();
    (log, keep, auditors)
}

/// Who may have the log's tree.
fn auditors(section: &Section<'_>, base: &Path) -> Auditors {
    let socket = section.parsed("listen", "\"unix:PATH\"", |text| text.strip_prefix("unix:").map(|path| base.join(path)));
    let credential = secret(section, "auditor", base);
    Auditors { socket, credential, public_checkpoints: section.truth("public_checkpoints").unwrap_or(false) }
}

fn unique<'n>(root: &Section<'_>, key: &'static str, names: impl Iterator<Item = &'n str>) {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            root.fault(key, format!("{name:?} is named twice"));
        }
    }
}

/// The class of an agent that nobody registered, where the config says nothing.
fn tightest(name: &str) -> Class {
    let caps = Caps { rps: None, rpm: Some(120), burst: None, in_flight: Some(8) };
    let cache_scope = CacheScope::Principal;
    Class {
        name: name.to_owned(),
        caps,
        output_tokens: 4096,
        unknown_fields: UnknownFields::Refuse,
        cache_scope,
        requests: Requests::default(),
        answers: Answers::default(),
        fetch_per_hour: 256 << 20,
    }
}

pub(super) fn networks(section: &Section<'_>, key: &'static str) -> Vec<ipnet::IpNet> {
    let mut networks = Vec::new();
    for text in section.texts(key) {
        let one = || text.parse::<std::net::IpAddr>().map(ipnet::IpNet::from);
        match text.parse().or_else(|_| one()) {
            Ok(network) => networks.push(network),
            Err(_) => section.fault(key, format!("{text:?} is not a network such as \"10.0.0.0/28\"")),
        }
    }
    networks
}

fn listen<'t>(section: &Section<'t>, base: &Path, empty: &'t DeTable<'t>, warnings: &mut Vec<String>) -> Option<Listen> {
    let read = section.parsed("api", "an address with a port, such as \"127.0.0.1:8700\"", |text| text.parse().ok());
    let address: SocketAddr = read.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8700)));
    let tls = match section.optional_table("tls", empty) {
        None => None,
        Some(tls) => {
            let cert = tls.required("cert");
            let key = secret(&tls, "key", base);
            if key.is_none() {
                tls.fault("key", "is required");
            }
            tls.close();
            Some(Tls { cert: base.join(cert?), key: key? })
        }
    };
    let publish_keys = section.truth("publish_keys").unwrap_or(false);
    let danger = section.truth("danger_plaintext").unwrap_or(false);
    if danger {
        warnings.push("danger_plaintext: tokens may cross the network unencrypted".to_owned());
    }
    if tls.is_none() && !address.ip().is_loopback() && !danger {
        section
            .fault("api", "a listener that takes tokens beyond loopback needs tls = { cert, key } (or danger_plaintext = true)");
        return None;
    }
    Some(Listen { publish_keys, address, tls })
}

fn secret(section: &Section<'_>, key: &'static str, base: &Path) -> Option<SecretRef> {
    section.parsed(key, "\"file:PATH\", \"env:NAME\" or \"cred:NAME\"; secrets are never written into the config", |text| {
        SecretRef::read(text, base)
    })
}

fn timeouts(section: Section<'_>) -> Timeouts {
    let time = |key, seconds| section.duration(key).unwrap_or(Duration::from_secs(seconds));
    let timeouts = Timeouts {
        handshake: time("handshake", 10),
        header: time("header", 10),
        body_idle: time("body_idle", 30),
        connect: time("connect", 5),
        first_byte: time("first_byte", 300),
        stream_idle: time("stream_idle", 120),
        whole: time("whole", 3600),
        drain: time("drain", 30),
    };
    section.close();
    timeouts
}

fn issuer(section: Section<'_>, base: &Path) -> Option<Issuer> {
    let (iss, aud) = (section.required("iss"), section.required("aud"));
    let namespaces = section.texts("namespaces");
    if namespaces.is_empty() {
        section.fault("namespaces", "must name the namespaces that this issuer may speak for (\"*\" for all)");
    }
    let modes = [("required-root", PostQuantum::RequiredRoot), ("required", PostQuantum::Required), ("off", PostQuantum::Off)];
    let post_quantum = choice(&section, "pq", &modes).unwrap_or(PostQuantum::RequiredRoot);
    let ttl_max = section.duration("ttl_max").unwrap_or(Duration::from_secs(30 * 86_400));
    let ca = section.text("jwks_ca").map(|path| base.join(path));
    let jwks = section.text("jwks").map(|text| match text.contains("://") {
        true => Jwks::Url { url: text, ca: ca.clone() },
        false => Jwks::File(base.join(text)),
    });
    if let Some(Jwks::Url { url, .. }) = &jwks
        && !target(url, base, None).is_some_and(|(target, _)| matches!(target, Target::Tls { .. }))
    {
        section.fault("jwks", "must be a path or https://HOST[:PORT]/PATH");
    }
    let jwks_refresh = section.duration("jwks_refresh").unwrap_or(Duration::from_secs(300));
    let idle_key = section.duration("idle_key").unwrap_or(Duration::from_secs(30 * 86_400));
    let handles = choice(&section, "handles", &[("on", true), ("off", false)]).unwrap_or(true);
    section.not_enforced(&["pop"]);
    section.close();
    Some(Issuer { iss: iss?, aud: aud?, jwks, namespaces, ttl_max, post_quantum, handles, jwks_refresh, idle_key })
}

pub(super) fn choice<T: Copy>(section: &Section<'_>, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
    let names: Vec<String> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
    section.parsed(key, &names.join(" or "), |text| choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value))
}

fn caps(section: &Section<'_>) -> Caps {
    Caps {
        rps: section.number("rps"),
        rpm: section.number("rpm"),
        burst: section.number("burst"),
        in_flight: section.number("in_flight"),
    }
}

fn caps_alone(section: Section<'_>) -> Caps {
    let caps = caps(&section);
    section.close();
    caps
}

fn class<'t>(name: &str, section: Section<'t>, empty: &'t DeTable<'t>) -> Class {
    let tightest = tightest(name);
    let mut caps = caps(&section);
    if caps.rps.is_none() && caps.rpm.is_none() {
        caps.rpm = tightest.caps.rpm;
    }
    caps.in_flight = caps.in_flight.or(tightest.caps.in_flight);
    let modes = [("refuse", UnknownFields::Refuse), ("drop", UnknownFields::Drop)];
    let unknown_fields = choice(&section, "unknown_fields", &modes).unwrap_or(tightest.unknown_fields);
    let scopes = [("principal", CacheScope::Principal), ("class", CacheScope::Class), ("shared", CacheScope::Shared)];
    let cache_scope = choice(&section, "cache_scope", &scopes).unwrap_or(tightest.cache_scope);
    let output_tokens = section.number("output_tokens").unwrap_or(tightest.output_tokens);
    let requests = super::egress::requests(section.table("requests", empty));
    let answers = super::egress::answers(section.table("answers", empty));
    let fetch_per_hour = section.bytes("fetch_per_hour").unwrap_or(tightest.fetch_per_hour);
    section.close();
    Class { name: tightest.name, caps, output_tokens, unknown_fields, cache_scope, requests, answers, fetch_per_hour }
}

fn model(section: Section<'_>, upstreams: &[Upstream], base: &Path) -> Option<Model> {
    let name = section.required("name");
    let route = section.texts("route");
    if route.is_empty() {
        section.fault("route", "must name at least one upstream");
    }
    for wanted in route.iter().filter(|wanted| !upstreams.iter().any(|upstream| upstream.name == **wanted)) {
        section.fault("route", format!("{wanted:?} is not the name of an [[upstream]]"));
    }
    let model = Model {
        aliases: section.texts("aliases"),
        namespaces: section.texts("namespaces"),
        route,
        upstream_name: section.text("as"),
        caps: caps(&section),
        weights: section.texts("weights").iter().map(|path| base.join(path)).collect(),
        pin: section.parsed("pin", "\"sha256:\" and 64 digits from 0 to f", |text| is_sha256(text).then(|| text.to_owned())),
        name: name?,
    };
    section.close();
    Some(model)
}

fn upstream<'t>(section: Section<'t>, base: &Path, empty: &'t DeTable<'t>) -> Option<Upstream> {
    let name = section.required("name");
    let ca = section.optional_table("tls", empty).and_then(|tls| {
        let ca = tls.text("ca").map(|path| base.join(path));
        tls.close();
        ca
    });
    let allowed = "http://HOST:PORT, https://HOST:PORT, unix:PATH or echo:";
    let url = section.required("url").and_then(|url| {
        let read = target(&url, base, ca);
        if read.is_none() {
            section.fault("url", format!("must be {allowed}"));
        }
        read
    });
    let profile = section.text("profile").unwrap_or_else(|| "generic".to_owned());
    if Profile::named(&profile).is_none() {
        section.fault("profile", format!("must be one of {}", Profile::NAMES.join(", ")));
    }
    let mut caps = caps(&section);
    caps.in_flight = caps.in_flight.or(Some(64));
    let headers = [("authorization", false), ("x-api-key", true)];
    let (target, base_path) = url.unwrap_or((Target::Echo, String::new()));
    let upstream = Upstream {
        target,
        base_path,
        profile,
        controlled: section.truth("controlled").unwrap_or(false),
        jurisdiction: section.text("jurisdiction"),
        credential: secret(&section, "credential", base),
        credential_as_api_key: choice(&section, "credential_header", &headers).unwrap_or(false),
        caps,
        name: name?,
    };
    section.close();
    Some(upstream)
}

/// Where a URL leads, and what stands before `/v1` in its path.
pub(super) fn target(url: &str, base: &Path, ca: Option<PathBuf>) -> Option<(Target, String)> {
    if url == "echo:" {
        return Some((Target::Echo, String::new()));
    }
    if let Some(path) = url.strip_prefix("unix:") {
        return (!path.is_empty()).then(|| (Target::Unix(base.join(path)), String::new()));
    }
    let uri: http::Uri = url.parse().ok()?;
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let path = uri.path().trim_end_matches('/');
    // OpenAI clients are given the address with /v1; the same address works here.
    let base_path = path.strip_suffix("/v1").unwrap_or(path).to_owned();
    if uri.query().is_some() || host.is_empty() {
        return None;
    }
    let target = match uri.scheme_str()? {
        "http" => Target::Tcp { host, port: authority.port_u16().unwrap_or(80) },
        "https" => Target::Tls { host, port: authority.port_u16().unwrap_or(443), ca },
        _ => return None,
    };
    Some((target, base_path))
}
