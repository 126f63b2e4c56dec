//! The settings of the guard: checked data without defaults.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::guard::cache_salt::CacheScope;
use crate::guard::declared::OfferedRoute;
use crate::guard::egress::call::Pattern;
use crate::guard::egress::policy::Lists;
use crate::model::UnknownFields;
use crate::token::{IssuerPolicy, PostQuantum, Principals};

/// The settings of all steps.
#[derive(Clone, Debug)]
pub struct GuardSettings {
    /// The issuers whose tokens are accepted.
    pub issuers: Vec<Issuer>,
    /// Classes by name. `default` is always one of them.
    pub classes: BTreeMap<String, Class>,
    /// Caps of principals, by issuer and name.
    pub principals: BTreeMap<String, BTreeMap<String, Caps>>,
    /// Models.
    pub models: Vec<Model>,
    /// The routes that the operator declares.
    pub routes: Vec<Arc<OfferedRoute>>,
    /// Requests a second that one peer network may send without a valid token.
    pub peer_rps: u32,
    /// Tokens and chains a second that are verified below one root token.
    pub root_rps: u32,
    /// Cached tokens; 0 turns the cache off.
    pub token_cache: usize,
    /// Largest body, in bytes.
    pub body_max: u64,
    /// The bytes of all bodies held at once.
    pub bodies_max: u64,
    /// The lists of controlled endpoints.
    pub egress: Lists,
    /// How content is fetched from them.
    pub fetch: FetchSettings,
    /// Tools by which agents reach out. The egress policy evaluates their calls in answers.
    pub fetch_tools: Vec<Pattern>,
}

/// How the gateway fetches content that it puts into requests.
#[derive(Clone, Debug)]
pub struct FetchSettings {
    /// The most bytes of one piece of content.
    pub bytes_max: u64,
    /// The most pieces of content in one request.
    pub count_max: usize,
    /// The longest time for all content of one request together.
    pub time_max: Duration,
    /// The resolver for addresses; without one, the system's resolvers.
    pub resolver: Option<SocketAddr>,
    /// The CA file for the servers' certificates; without one, the system's CAs.
    pub ca: Option<PathBuf>,
}

/// An issuer, with public keys only.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// Its `iss`.
    pub iss: String,
    /// This gateway's name in `aud`.
    pub aud: String,
    /// Its JWK Set; `None` where its keys come only from `keys import`.
    pub jwks: Option<Jwks>,
    /// How often a set at a URL is fetched.
    pub jwks_refresh: Duration,
    /// A key is reported as idle when it has signed no valid token for this time.
    pub idle_key: Duration,
    /// Namespaces that it may speak for; `*` means all.
    pub namespaces: Vec<String>,
    /// The longest lifetime of a token.
    pub ttl_max: Duration,
    /// The signatures that are accepted.
    pub post_quantum: PostQuantum,
    /// Whether its tokens are accepted by handle.
    pub handles: bool,
    /// The principals that it may speak for.
    pub principals: Principals,
    /// The most entries in a list of a token.
    pub token_list: usize,
}

impl Issuer {
    /// The rules for its tokens.
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
    /// At a URL.
    Url {
        /// `https://…`.
        url: String,
        /// The CA file for the server's certificate; without one, the system's CAs.
        ca: Option<PathBuf>,
    },
}

/// Caps; `None` means no limit here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// Requests a second.
    pub rps: Option<u64>,
    /// Requests a minute.
    pub rpm: Option<u64>,
    /// Requests at once within those rates. Without a value it is a sixth of the rate, or the whole
    /// of it up to 10.
    pub burst: Option<u64>,
    /// Requests in flight.
    pub in_flight: Option<u64>,
}

/// What agents of a class may do. A token can only narrow it.
#[derive(Clone, Debug)]
pub struct Class {
    /// Its name.
    pub name: String,
    /// Rates and slots of each agent.
    pub caps: Caps,
    /// Its share of a full upstream, relative to other classes.
    pub weight: u32,
    /// The most output tokens of an answer; `None` means no limit here.
    pub output_tokens: Option<u64>,
    /// The action for fields that a server's profile does not know.
    pub unknown_fields: UnknownFields,
    /// The requests that may share a server's prompt cache.
    pub cache_scope: CacheScope,
    /// The actions for references in a request that the model server would fetch.
    pub requests: Requests,
    /// The actions for references in an answer that its client would fetch or open.
    pub answers: Answers,
    /// The bytes that may be fetched for one agent within an hour.
    pub fetch_per_hour: u64,
}

/// The actions for references in an answer that are not controlled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answers {
    /// For content that is fetched without a click: images, style sheets, frames.
    pub fetched: ResponseFilterAction,
    /// For links.
    pub clicked: ResponseFilterAction,
    /// Instead of [`ResponseFilterAction::Strip`], where the request declares the form of the
    /// answer. Such an answer is never changed.
    pub structured: Unchanged,
    /// For calls of tools that reach out. No part of such a call is ever removed.
    pub tool_calls: ToolCallAction,
}

impl Default for Answers {
    /// The actions where a person reads the answer.
    fn default() -> Self {
        Self {
            fetched: ResponseFilterAction::Strip,
            clicked: ResponseFilterAction::Report,
            structured: Unchanged::Report,
            tool_calls: ToolCallAction::Replace,
        }
    }
}

impl Answers {
    /// The actions where a program reads the answer: nothing is changed.
    pub const OF_PROGRAMS: Self = Self {
        fetched: ResponseFilterAction::Report,
        clicked: ResponseFilterAction::Report,
        structured: Unchanged::Report,
        tool_calls: ToolCallAction::Replace,
    };

    /// The actions for an answer whose form the request declares, or does not declare.
    #[must_use]
    pub const fn of(self, is_structured: bool) -> Self {
        if !is_structured {
            return self;
        }
        Self {
            fetched: self.fetched.unchanged(self.structured),
            clicked: self.clicked.unchanged(self.structured),
            ..self
        }
    }
}

/// The action for a part of an answer that is never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unchanged {
    /// It is sent on, and is counted and recorded.
    Report,
    /// The answer is refused, or ends before it.
    Block,
}

impl Unchanged {
    /// As the config writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Report => ResponseFilterAction::Report.as_str(),
            Self::Block => ResponseFilterAction::Block.as_str(),
        }
    }
}

/// The action for a tool call that reaches a place that is not controlled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolCallAction {
    /// It is sent on, and is counted and recorded.
    Report,
    /// A text with the reason replaces it, and the answer ends there as usual.
    Replace,
    /// The answer is refused, or ends before it with an error.
    Block,
}

impl ToolCallAction {
    /// As the config writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Report => ResponseFilterAction::Report.as_str(),
            Self::Replace => "replace",
            Self::Block => ResponseFilterAction::Block.as_str(),
        }
    }
}

/// The action for a reference in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseFilterAction {
    /// The reference stays, and is counted and recorded.
    Report,
    /// A mark makes the reference lead nowhere.
    Strip,
    /// The answer is refused, or ends there.
    Block,
}

impl ResponseFilterAction {
    /// The action where nothing may be changed.
    const fn unchanged(self, instead: Unchanged) -> Self {
        match (self, instead) {
            (Self::Report, _) | (Self::Strip, Unchanged::Report) => Self::Report,
            (Self::Block, _) | (Self::Strip, Unchanged::Block) => Self::Block,
        }
    }

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

/// The actions for references in a request, by kind. Work that calls back and state that another
/// server keeps are always refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// For content at a URL.
    pub media: RequestFilterAction,
    /// For tools that do not run at the caller.
    pub hosted_tools: RequestFilterAction,
    /// For MCP servers.
    pub mcp: RequestFilterAction,
}

/// The action for a reference in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestFilterAction {
    /// The request is refused.
    #[default]
    Block,
    /// The reference is removed, and the request continues without it.
    Strip,
    /// The gateway fetches controlled content and puts it into the request. Only for content; other
    /// references are refused.
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

impl Model {
    /// Whether a request names the model so.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        if self.name == name {
            return true;
        }
        self.aliases.iter().any(|alias| match alias.strip_suffix('*') {
            Some(front) => name.starts_with(front),
            None => alias == name,
        })
    }
}

/// A model.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its canonical name.
    pub name: String,
    /// Other names for it. One that ends with `*` covers all names with that beginning.
    pub aliases: Vec<String>,
    /// Namespaces whose agents see it; empty means all.
    pub namespaces: Vec<String>,
    /// Upstreams, in the order of preference.
    pub route: Vec<String>,
    /// The model's name at its server, where that differs.
    pub upstream_name: Option<String>,
    /// Its own caps.
    pub caps: Caps,
    /// The files with its weights, or folders of them.
    pub weights: Vec<PathBuf>,
    /// The digest that its weights must have: `sha256:HEX`.
    pub pin: Option<String>,
}

/// How requests wait for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Requests that may wait at once; with 0, none may wait.
    pub length: usize,
    /// How long each may wait.
    pub time: Duration,
}
