//! The data plane: the path of a request. `arrive` authenticates, `infer` runs the inference,
//! `public` serves paths without a token.

pub mod activity;
mod answer;
pub mod answer_head;
mod arrive;
mod ask;
mod beside;
pub mod body;
pub mod buffer;
pub mod connect;
mod connection;
mod cors;
pub mod descriptors;
pub mod echo;
pub mod entrance;
pub mod exchange;
pub mod fetch;
mod filtered;
pub mod forward;
pub mod frames;
mod framing;
pub mod heads;
mod infer;
pub mod listen;
mod media_type;
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
mod unparsed;
pub mod watch;
pub mod wire;
mod working;
mod zstd;

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

/// The parts of the data plane that a reload of the config replaces.
pub struct DataPlaneConfig {
    /// Classes, principals, models.
    pub tables: Arc<Tables>,
    /// Upstreams by name.
    pub upstreams: HashMap<Arc<str>, Arc<UpstreamClient>>,
    /// The health of the upstreams.
    pub health: Arc<Health>,
    /// Time limits.
    pub timeouts: Timeouts,
    /// Whether the gateway serves its public keys without a token.
    pub publish_keys: bool,
    /// The origins of browser applications that may call the gateway.
    pub cors: Vec<String>,
    /// The log's tree, if any of it is served.
    pub tree: Option<Arc<LogTree>>,
    /// The hash of the active rules and config.
    pub policy: Arc<str>,
    /// Fetches content, if a class has content put into requests.
    pub fetcher: Option<Fetcher>,
    /// The limits on the size of answers.
    pub answers: AnswerLimits,
    /// Removes the gateway's own secrets from answers.
    pub redactor: Arc<Redactor>,
}

/// The data plane: handles on all state that serving a request needs.
pub struct Gateway {
    /// The active config.
    pub config: ArcSwap<DataPlaneConfig>,
    /// Authenticates callers.
    pub authenticator: Arc<Authenticator>,
    /// Rates and slots.
    pub limiter: Arc<Limiter>,
    /// Slots at upstreams, and the requests that wait for one.
    pub slots: Arc<Slots>,
    /// Agents and tokens; announces their changes.
    pub registry: Arc<Registry>,
    /// The weights digest of each model and upstream.
    pub weights: Arc<Weights>,
    /// Records admissions, outcomes and refusals in the log.
    pub recorder: AuditRecorder,
    /// The memory for bodies.
    pub buffers: Arc<Buffers>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Makes the ids of requests.
    pub request_ids: RequestIds,
    /// Salts of prompt caches.
    pub cache_salts: CacheSalts,
    /// Makes the marks that take the place of content in a body until it is fetched.
    pub marks: Draws,
    /// The bytes fetched for each agent.
    pub fetch_quota: Arc<FetchQuota>,
}

/// The facts that a connection knows about a request.
pub struct Origin {
    /// The peer's address, or the client's address if a trusted proxy names it.
    pub peer: IpAddr,
    /// The framing in the head of an HTTP/1 request; none over HTTP/2.
    pub framing: Option<Framing>,
    /// The bytes that the caller took, of an HTTP/1 connection or of an HTTP/2 stream. None if they
    /// are not counted.
    pub reader: Option<Arc<DeliveredBytes>>,
}

const JSON: &str = "application/json";
