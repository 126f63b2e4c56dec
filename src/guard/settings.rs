//! What the questions are set to: checked data, no defaults of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::guard::cache_salt::CacheScope;
use crate::guard::egress::call::Pattern;
use crate::guard::egress::policy::Lists;
use crate::model::UnknownFields;
use crate::token::{IssuerPolicy, PostQuantum, Principals};

/// Everything that the questions go by.
#[derive(Clone, Debug)]
pub struct GuardSettings {
    /// Who may sign tokens.
    pub issuers: Vec<Issuer>,
    /// Classes by name; `default` is always there.
    pub classes: BTreeMap<String, Class>,
    /// Caps of principals, by issuer and name.
    pub principals: BTreeMap<String, BTreeMap<String, Caps>>,
    /// Models.
    pub models: Vec<Model>,
    /// Requests a second that one peer network may send without a good token.
    pub peer_rps: u32,
    /// Tokens and chains a second that are verified below one root token.
    pub root_rps: u32,
    /// Tokens remembered; 0 turns the memory off.
    pub token_cache: usize,
    /// Largest body, in bytes.
    pub body_max: u64,
    /// Bytes of all bodies held at once.
    pub bodies_max: u64,
    /// Which endpoints are controlled.
    pub egress: Lists,
    /// What is fetched of them, and how.
    pub fetch: FetchSettings,
    /// Tools by which agents reach out: what an answer calls them with is judged.
    pub fetch_tools: Vec<Pattern>,
}

/// How content is fetched that is put into requests.
#[derive(Clone, Debug)]
pub struct FetchSettings {
    /// Bytes of one piece of content.
    pub bytes_max: u64,
    /// Pieces of content in one request.
    pub count_max: usize,
    /// All of one request together.
    pub time_max: Duration,
    /// Who is asked for addresses; the system's resolvers where it is not said.
    pub resolver: Option<SocketAddr>,
    /// Who must have signed a server's certificate; the system's CAs where it is not said.
    pub ca: Option<PathBuf>,
}

/// An issuer: public keys only.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// Its `iss`.
    pub iss: String,
    /// This gateway's name in `aud`.
    pub aud: String,
    /// Its JWK Set; none where its keys come from `keys import` alone.
    pub jwks: Option<Jwks>,
    /// How often a set behind a URL is fetched.
    pub jwks_refresh: Duration,
    /// A key that has signed no live token for so long is said so.
    pub idle_key: Duration,
    /// Namespaces that it may speak for; `*` means all.
    pub namespaces: Vec<String>,
    /// Longest life of a token.
    pub ttl_max: Duration,
    /// Which signatures are taken.
    pub post_quantum: PostQuantum,
    /// Whether its tokens are taken by handle.
    pub handles: bool,
    /// Principals that it may speak for.
    pub principals: Principals,
    /// Entries that a list of a token may have.
    pub token_list: usize,
}

impl Issuer {
    /// What its tokens must say.
    #[must_use]
    pub fn policy(&self) -> IssuerPolicy {
        IssuerPolicy {
            iss: self.iss.clone(),
            aud: self.aud.clone(),
            namespaces: self.namespaces.clone(),
            ttl_max: self.ttl_max,
            post_quantum: self.post_quantum,
            handles: self.handles,
            principals: self.principals.clone(),
            list_max: self.token_list,
        }
    }
}

/// Where an issuer's public keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Jwks {
    /// In a file.
    File(PathBuf),
    /// Behind a URL.
    Url {
        /// `https://…`.
        url: String,
        /// Who must have signed the server's certificate; the system's CAs where it is not said.
        ca: Option<PathBuf>,
    },
}

impl Jwks {
    /// The file, where it is one.
    #[must_use]
    pub fn file(&self) -> Option<&std::path::Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Url { .. } => None,
        }
    }

    /// The URL, where it is one.
    #[must_use]
    pub fn url(&self) -> Option<&str> {
        match self {
            Self::File(_) => None,
            Self::Url { url, .. } => Some(url),
        }
    }
}

/// Caps; `None` means not limited here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// Requests a second.
    pub rps: Option<u64>,
    /// Requests a minute.
    pub rpm: Option<u64>,
    /// Requests at once within those rates; where it is not set a sixth of the rate, or the whole of it up to 10.
    pub burst: Option<u64>,
    /// Requests in flight.
    pub in_flight: Option<u64>,
}

/// What agents of a class may do; a token only narrows it.
#[derive(Clone, Debug)]
pub struct Class {
    /// Its name.
    pub name: String,
    /// Rates and places of each agent.
    pub caps: Caps,
    /// Its share of an upstream that is full, beside other classes.
    pub weight: u32,
    /// Tokens an answer.
    pub output_tokens: u64,
    /// What happens to fields that a server's profile does not know.
    pub unknown_fields: UnknownFields,
    /// Whose requests may share a server's prompt cache.
    pub cache_scope: CacheScope,
    /// What happens to what a request would make the model server reach.
    pub requests: Requests,
    /// What happens to what an answer would make its reader fetch or open.
    pub answers: Answers,
    /// Bytes that may be fetched for one agent within an hour.
    pub fetch_per_hour: u64,
}

/// What happens to what an answer would make its reader fetch or open, and that is not controlled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// What is fetched without a click: pictures, style sheets, frames.
    pub fetched: ResponseFilterAction,
    /// Links.
    pub clicked: ResponseFilterAction,
    /// What tools that reach out are called with: nothing of that is ever taken out.
    pub tool_calls: Called,
}

/// What becomes of an answer that calls a tool with a place that is not controlled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Called {
    /// The call goes on, and is counted and recorded.
    Report,
    /// The answer is refused, or ends before the call.
    #[default]
    Block,
}

impl Called {
    /// As the config writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Report => ResponseFilterAction::Report.as_str(),
            Self::Block => ResponseFilterAction::Block.as_str(),
        }
    }
}

/// What becomes of it. The later one is the stricter one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ResponseFilterAction {
    /// It stays, and is counted and recorded.
    Report,
    /// It gives way to a mark.
    #[default]
    Strip,
    /// The answer is refused, or ends there.
    Block,
}

impl ResponseFilterAction {
    /// As the config writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Strip => "strip",
            Self::Block => "block",
        }
    }
}

/// What happens to what a request would make the model server reach, by kind. Work that calls back and state that another server
/// keeps are always refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Content behind a URL.
    pub media: RequestFilterAction,
    /// Tools that do not run at the caller.
    pub hosted_tools: RequestFilterAction,
    /// MCP servers.
    pub mcp: RequestFilterAction,
}

/// How a door is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestFilterAction {
    /// The request is refused.
    #[default]
    Block,
    /// What reaches out is taken out of the request, which goes on without it.
    Strip,
    /// The gateway fetches what is controlled, and puts it into the request. Of content alone; all else is refused.
    Inline,
}

impl RequestFilterAction {
    /// As the config writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Strip => "strip",
            Self::Inline => "inline",
        }
    }
}

/// A model.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its canonical name.
    pub name: String,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// Namespaces whose agents see it; empty means all.
    pub namespaces: Vec<String>,
    /// Upstreams, in the order of preference.
    pub route: Vec<String>,
    /// What its server calls it, where that differs.
    pub upstream_name: Option<String>,
    /// Its own caps.
    pub caps: Caps,
    /// Its files, or folders of them.
    pub weights: Vec<PathBuf>,
    /// The digest that it must have: `sha256:HEX`.
    pub pin: Option<String>,
}

/// How requests wait for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Requests that may wait at once; with 0 none waits.
    pub length: usize,
    /// How long each may wait.
    pub time: Duration,
}
