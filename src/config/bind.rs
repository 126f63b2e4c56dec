//! Converts the tables of a config to settings.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use toml::de::DeTable;

use super::class::{class, tightest};
use super::issuer::issuers;
use super::section::{FaultCollector, Section};
use super::server::{model, upstream};
use super::values::{choice, networks, secret};
use super::{Config, Faults};
use crate::audit::store::log::LogSettings as Log;
use crate::audit::store::retain::Keep;
use crate::crypto::sha256;
use crate::guard::egress::destination::Destination;
use crate::guard::settings::{Answers, Class, GuardSettings as Guard, Model};
use crate::model::framing::sse::EVENT_BYTES_MAX;
use crate::model::usage::AnswerLimits;
use crate::proxy::settings::{
    Auditors, Listen, ProxySettings as Proxy, Timeouts, Tls, UpstreamSettings,
};

/// Parses a config's text and collects all faults.
pub(super) fn config(text: &str, base: &Path) -> Result<Config, Faults> {
    let book = FaultCollector::new(text);
    let empty = DeTable::default();
    let root = match DeTable::parse(text) {
        Ok(root) => root,
        Err(error) => {
            let at = match error.span() {
                Some(span) => span.start,
                None => 0,
            };
            book.fault(at, "toml", error.message());
            // `close` returns the fault. The next line is only for the type.
            book.close()?;
            return Err(Faults(Vec::new()));
        }
    };
    let config = {
        let section = Section::new(&book, root.get_ref(), String::new(), 0..0);
        read(section, base, &empty)
    };
    book.close()?;
    let Some(config) = config else { return Err(Faults(Vec::new())) };
    // The hash covers the text as read, so records name exactly this config.
    Ok(Config { policy: policy(text), ..config })
}

/// The hash of a config's text, as in records.
pub(super) fn policy(text: &str) -> String {
    crate::id::TokenId(sha256(text.as_bytes())).to_string()
}

/// Reads all sections; `None` if a required value is missing.
fn read<'t>(root: Section<'t>, base: &Path, empty: &'t DeTable<'t>) -> Option<Config> {
    let name = root.required("name");
    let data = match root.path("data", base) {
        Some(data) => data,
        None => base.join("data"),
    };
    let mut warnings = Vec::new();
    let (issuers, principals) = issuers(&root, base);
    let routes = Routes::read(&root, base, empty);
    unique(&root, "issuer", issuers.iter().map(|issuer| issuer.iss.as_str()));
    let classes = classes(&root, empty);
    let limits = Limits::read(root.table("limits", empty));
    let metrics = root.table("metrics", empty);
    let timeouts = timeouts(root.table("timeouts", empty));
    let (egress, fetch, fetch_tools) =
        super::egress::lists(root.table("egress", empty), base, empty);
    let guard = Guard {
        issuers,
        classes,
        principals,
        routes: super::routes::routes(&root, &routes.models, base),
        models: routes.models,
        peer_rps: limits.peer_rps,
        root_rps: limits.root_rps,
        token_cache: limits.token_cache,
        body_max: limits.body_max,
        bodies_max: limits.bodies_max,
        egress,
        fetch,
        fetch_tools,
    };
    let agent_label = match metrics.number("agent_label") {
        Some(count) => usize::try_from(count).ok(),
        None => None,
    };
    metrics.close();
    let sockets = Sockets::read(root.table("listen", empty), base, &data, empty, &mut warnings);
    // All sections are closed before a missing value ends the function. So one error lists all
    // faults.
    let log_name: &str = match &name {
        Some(name) => name,
        None => "",
    };
    let log = Log::of_data(&data, log_name);
    let (audit, keep, auditors) = audit(root.table("audit", empty), log, base, &mut warnings);
    root.not_enforced(&["policy"]);
    root.close();
    let proxy = Proxy {
        metrics: sockets.metrics,
        admin: sockets.admin,
        trusted_proxies: sockets.trusted_proxies,
        listen: sockets.listen?,
        upstreams: routes.upstreams,
        timeouts,
        answers: limits.answers,
        connections_max: limits.connections_max,
        peer_connections_max: limits.peer_connections_max,
        auditors,
        agent_label,
    };
    Some(Config { name: name?, data, guard, proxy, audit, keep, policy: String::new(), warnings })
}

/// The upstreams, and the models that they serve.
struct Routes {
    /// The upstreams, in the order of the config.
    upstreams: Vec<UpstreamSettings>,
    /// The models, in the order of the config.
    models: Vec<Model>,
}

impl Routes {
    /// Reads `[[upstream]]` and `[[model]]`.
    fn read<'t>(root: &Section<'t>, base: &Path, empty: &'t DeTable<'t>) -> Self {
        let mut upstreams = Vec::new();
        for section in root.tables("upstream") {
            upstreams.extend(upstream(section, base, empty));
        }
        let mut models = Vec::new();
        for section in root.tables("model") {
            models.extend(model(section, &upstreams, base));
        }
        unique(root, "upstream", upstreams.iter().map(|upstream| upstream.name.as_str()));
        let mut names = Vec::new();
        for model in &models {
            names.push(model.name.as_str());
            for alias in &model.aliases {
                names.push(alias);
            }
        }
        // An alias must be unique too, because a request names a model by it.
        unique(root, "model", names.into_iter());
        Self { upstreams, models }
    }
}

/// The classes of agents. `default` and `coding` always exist.
fn classes<'t>(root: &Section<'t>, empty: &'t DeTable<'t>) -> BTreeMap<String, Class> {
    let mut classes = BTreeMap::new();
    for (name, section) in root.named("class") {
        let class = class(&name, section, empty);
        classes.insert(name, class);
    }
    // An unregistered agent has the class `default`, so it must exist.
    classes.entry("default".to_owned()).or_insert_with(|| tightest("default"));
    // Programs read the answers to coding agents, and write them to files.
    if !classes.contains_key("coding")
        && let Some(default) = classes.get("default")
    {
        let coding =
            Class { name: "coding".to_owned(), answers: Answers::OF_PROGRAMS, ..default.clone() };
        classes.insert(coding.name.clone(), coding);
    }
    classes
}

/// The section `limits`.
struct Limits {
    /// Requests in a second that a peer's network may send without a valid token.
    peer_rps: u32,
    /// Verifications in a second that are charged to one root token.
    root_rps: u32,
    /// The number of verified tokens in the cache.
    token_cache: usize,
    /// The bytes of one request body.
    body_max: u64,
    /// The bytes of all request bodies in memory.
    bodies_max: u64,
    /// The number of connections.
    connections_max: usize,
    /// The number of connections from one peer.
    peer_connections_max: usize,
    /// The lengths of answers.
    answers: AnswerLimits,
}

impl Limits {
    /// Reads the section, with the default values.
    fn read(section: Section<'_>) -> Self {
        let limits = Self {
            peer_rps: section.u32_or("peer_rps", 200),
            root_rps: section.u32_or("root_rps", 100),
            token_cache: section.count_or("token_cache", 65_536),
            body_max: section.bytes_or("body", 32 << 20),
            bodies_max: section.bytes_or("bodies", 512 << 20),
            connections_max: section.count_or("connections", 10_000),
            peer_connections_max: section.count_or("peer_connections", 1000),
            answers: answers(&section),
        };
        section.close();
        limits
    }
}

/// The section `listen`.
struct Sockets {
    /// `None` after a fault.
    listen: Option<Listen>,
    /// The address of the metrics.
    metrics: SocketAddr,
    /// The path of the admin socket.
    admin: PathBuf,
    /// The networks of proxies that may name the peer.
    trusted_proxies: Vec<IpNet>,
}

impl Sockets {
    /// Reads the section, with the default values.
    fn read<'t>(
        section: Section<'t>,
        base: &Path,
        data: &Path,
        empty: &'t DeTable<'t>,
        warnings: &mut Vec<String>,
    ) -> Self {
        let listen = listen(&section, base, empty, warnings);
        let metrics = section.parsed(
            "metrics",
            "an address with a port, such as \"127.0.0.1:9464\"",
            |text| text.parse().ok(),
        );
        let admin = section.socket("admin", base);
        let trusted_proxies = networks(&section, "trusted_proxies");
        section.close();
        Self {
            listen,
            metrics: metrics.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 9464))),
            admin: admin.unwrap_or_else(|| data.join("admin.sock")),
            trusted_proxies,
        }
    }
}

/// The length limits of answers.
fn answers(limits: &Section<'_>) -> AnswerLimits {
    let each = limits.number_or("answer_bytes_per_token", 256);
    // With 0 every answer would be cut off after the fixed part of its limit.
    if each == 0 {
        limits.fault("answer_bytes_per_token", "must be 1 or more");
    }
    let event = limits.bytes_or("answer_event", EVENT_BYTES_MAX as u64);
    AnswerLimits {
        each,
        bytes: limits.bytes_or("answer", 64 << 20),
        event: usize::try_from(event).unwrap_or(usize::MAX),
    }
}

/// The settings of the log, of its retention, and of the auditors. `log` has the default values.
fn audit(
    section: Section<'_>,
    mut log: Log,
    base: &Path,
    warnings: &mut Vec<String>,
) -> (Log, Option<Keep>, Auditors) {
    log.encrypted =
        choice(&section, "records", &[("encrypted", true), ("plain", false)]).unwrap_or(true);
    if !log.encrypted {
        warnings.push(
            "[audit] records = \"plain\": everyone with the log can read who asked for what"
                .to_owned(),
        );
    }
    log.reserve = section.bytes_or("reserve", log.reserve);
    log.signing_key = secret(&section, "signing_key", base);
    if let Some(epoch) = section.duration("epoch") {
        log.epoch_max = epoch;
    }
    let to = section.path("archive", base);
    let age = section.duration("keep");
    // Without an age, no record would ever be moved.
    if to.is_some() && age.is_none() {
        section.fault("archive", "needs keep, the age at which records are moved there");
    }
    let keep = age.map(|keep| Keep { keep, to });
    let auditors = auditors(&section, base);
    section.close();
    (log, keep, auditors)
}

/// The access of auditors to the log's tree.
fn auditors(section: &Section<'_>, base: &Path) -> Auditors {
    Auditors {
        socket: section.socket("listen", base),
        credential: secret(section, "auditor", base),
        public_checkpoints: section.is_true("public_checkpoints"),
    }
}

/// Reports names that occur twice.
fn unique<'n>(root: &Section<'_>, key: &'static str, names: impl Iterator<Item = &'n str>) {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            root.fault(key, format!("{name:?} is in the config twice"));
        }
    }
}

/// The address and TLS settings of the API; `None` after a fault.
fn listen<'t>(
    section: &Section<'t>,
    base: &Path,
    empty: &'t DeTable<'t>,
    warnings: &mut Vec<String>,
) -> Option<Listen> {
    let read =
        section.parsed("api", "an address with a port, such as \"127.0.0.1:8700\"", |text| {
            text.parse().ok()
        });
    let address: SocketAddr = read.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8700)));
    // Both are read before a missing value ends the function. A key that was not read counts as
    // unknown.
    let publish_keys = section.is_true("publish_keys");
    let cors = origins(section);
    let danger = section.is_true("danger_plaintext");
    if danger {
        warnings.push("danger_plaintext: tokens may cross the network unencrypted".to_owned());
    }
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
    // Tokens are bearer tokens. Without TLS, anyone on the network path could read and use them.
    if tls.is_none() && !address.ip().is_loopback() && !danger {
        section.fault(
            "api",
            "an address other than loopback needs tls = { cert, key } (or danger_plaintext = true)",
        );
        return None;
    }
    Some(Listen { publish_keys, cors, address, tls })
}

/// The origins in `listen.cors`, as browsers write them (RFC 6454 section 6.2).
fn origins(section: &Section<'_>) -> Vec<String> {
    let mut origins = Vec::new();
    for text in section.texts("cors") {
        let is_origin = Destination::read(&text).is_ok_and(|read| {
            let origin = format!("{}://{}", read.scheme.as_str(), read.host);
            text == origin || text == format!("{origin}:{}", read.port)
        });
        if is_origin {
            origins.push(text);
        } else {
            let what = "is not an origin, such as \"https://app.example\": scheme, host and port \
                    in lower case, without a path";
            section.fault("cors", format!("{text:?} {what}"));
        }
    }
    origins
}

/// Reads the section `timeouts`, with the default values.
fn timeouts(section: Section<'_>) -> Timeouts {
    let timeouts = Timeouts {
        handshake: section.seconds_or("handshake", 10),
        header: section.seconds_or("header", 10),
        idle: section.seconds_or("idle", 75),
        body_idle: section.seconds_or("body_idle", 30),
        connect: section.seconds_or("connect", 5),
        first_byte: section.seconds_or("first_byte", 300),
        stream_idle: section.seconds_or("stream_idle", 120),
        whole: section.seconds_or("total", 3600),
        drain: section.seconds_or("drain", 30),
        drain_streams: section.seconds_or("drain_streams", 900),
    };
    section.close();
    timeouts
}
