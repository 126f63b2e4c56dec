//! The life of a request: `arrive` (who asks), `infer` (the inference itself), `public` (what needs no token).

pub mod activity;
mod answer;
mod arrive;
mod ask;
pub mod body;
pub mod buffer;
pub mod connect;
mod connection;
pub mod descriptors;
pub mod echo;
pub mod entrance;
pub mod exchange;
pub mod fetch;
pub mod forward;
pub mod frames;
mod framing;
pub mod heads;
mod infer;
pub mod listen;
pub mod peer;
pub mod pool;
mod public;
mod receipts;
mod refused;
pub mod request_id;
pub mod resolve;
pub mod respond;
pub mod service;
pub mod settings;
pub mod stream;
pub mod tap;
pub mod terms;
pub mod times;
pub mod tree;
mod turn;
pub mod watch;
pub mod wire;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::audit::store::entry::AuditRecorder;
use crate::clock::Clock;
use crate::crypto::Draws;
use crate::guard::authenticate::Authenticator;
use crate::guard::cache_salt::CacheSalts;
use crate::guard::egress::fetch_quota::FetchQuota;
use crate::guard::limiter::Limiter;
use crate::guard::slots::Slots;
use crate::guard::table::Tables;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::model::redact::Redactor;
use crate::model::usage::AnswerLimits;
use crate::proxy::activity::DeliveredBytes;
use crate::proxy::buffer::Buffers;
use crate::proxy::fetch::Fetcher;
use crate::proxy::forward::UpstreamClient;
use crate::proxy::heads::Framing;
use crate::proxy::request_id::RequestIds;
use crate::proxy::settings::Timeouts;
use crate::proxy::tree::LogTree;
use crate::registry::Registry;
use crate::weights::Weights;

/// What changes when the config is read again.
pub struct DataPlaneConfig {
    /// Classes, principals, models.
    pub tables: Arc<Tables>,
    /// Upstreams by name.
    pub upstreams: HashMap<Arc<str>, Arc<UpstreamClient>>,
    /// Which of them answer.
    pub health: Arc<Health>,
    /// Time limits.
    pub timeouts: Timeouts,
    /// Whether anybody may have the public keys.
    pub publish_keys: bool,
    /// The log's tree, where anybody gets something of it.
    pub tree: Option<Arc<LogTree>>,
    /// The hash of the rules and config in force.
    pub policy: Arc<str>,
    /// Who fetches content, where a class has it put into requests.
    pub fetcher: Option<Fetcher>,
    /// How long answers may be.
    pub answers: AnswerLimits,
    /// Takes the gateway's own secrets out of answers.
    pub redactor: Arc<Redactor>,
}

/// The data plane: small handles on the books, and the way through them.
pub struct Gateway {
    /// The config in force.
    pub config: ArcSwap<DataPlaneConfig>,
    /// Who is asking.
    pub authenticator: Arc<Authenticator>,
    /// Rates and places.
    pub limiter: Arc<Limiter>,
    /// Places at upstreams, and those who wait for one.
    pub slots: Arc<Slots>,
    /// Agents and tokens, for their changes.
    pub registry: Arc<Registry>,
    /// Which weights answer.
    pub weights: Arc<Weights>,
    /// The seal.
    pub recorder: AuditRecorder,
    /// Bytes of bodies held at once.
    pub buffers: Arc<Buffers>,
    /// What is measured.
    pub metrics: Arc<Metrics>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Names of requests.
    pub request_ids: RequestIds,
    /// Salts of prompt caches.
    pub cache_salts: CacheSalts,
    /// What stands in bodies for content that is still to come.
    pub marks: Draws,
    /// What was fetched for whom.
    pub fetch_quota: Arc<FetchQuota>,
}

/// What the connection knows of a request.
pub struct Origin {
    /// The peer's address, or that of the client behind a trusted proxy.
    pub peer: IpAddr,
    /// What the head of an HTTP/1 request showed of its framing; none over HTTP/2.
    pub framing: Option<Framing>,
    /// What the caller took: the progress of an HTTP/1 connection, or of an HTTP/2 stream. None where that is not known.
    pub reader: Option<Arc<DeliveredBytes>>,
}

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
