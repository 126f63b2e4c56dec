//! The egress policy: decides whether an endpoint is controlled. All filters use it. It is a pure
//! function of three inputs: what [`Destination`] parses, the operator's lists, and what a token
//! leaves of them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;

use super::address::special;
use super::destination::{Destination, Host, Scheme, UrlFault};
use crate::token::{Grants, Names};

/// The use of a destination. Each use has its own list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Use {
    /// Content that a request names.
    Media,
    /// Links and content in an answer.
    Links,
    /// Connections of an agent itself.
    Tunnel,
}

impl Use {
    /// Every use.
    pub const ALL: [Self; 3] = [Self::Media, Self::Links, Self::Tunnel];

    /// The key under `[egress]`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Media => "media",
            Self::Links => "links",
            Self::Tunnel => "tunnel",
        }
    }
}

/// A line of a list: `host:port`, or `*.suffix:port` for every name below the suffix. The default
/// port is 443.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListEntry {
    /// The host, or the suffix.
    host: Host,
    /// True for a suffix.
    below: bool,
    port: u16,
}

impl ListEntry {
    /// Whether the entry contains the destination.
    fn covers(&self, destination: &Destination) -> bool {
        self.port == destination.port
            && match (&self.host, &destination.host) {
                (Host::Name(suffix), Host::Name(name)) if self.below => name
                    .strip_suffix(suffix.as_str())
                    // A dot must be before the suffix: `evilpictures.example` is not below
                    // `pictures.example`. The suffix itself is not below it either.
                    .is_some_and(|front| front.len() > 1 && front.ends_with('.')),
                (own, host) => !self.below && own == host,
            }
    }
}

impl FromStr for ListEntry {
    type Err = UrlFault;

    fn from_str(text: &str) -> Result<Self, UrlFault> {
        let (below, rest) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let Destination { host, port, .. } = Destination::read_authority(Scheme::Https, rest)?;
        // An address has no names below it.
        if below && matches!(host, Host::Address(_)) {
            return Err(UrlFault::Host);
        }
        Ok(Self { host, below, port })
    }
}

impl fmt::Display for ListEntry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}{}:{}", if self.below { "*." } else { "" }, self.host, self.port)
    }
}

/// The operator's lists of controlled destinations.
#[derive(Clone, Debug, Default)]
pub struct Lists {
    /// For [`Use::Media`].
    pub media: Vec<ListEntry>,
    /// For [`Use::Links`].
    pub links: Vec<ListEntry>,
    /// For [`Use::Tunnel`].
    pub tunnel: Vec<ListEntry>,
    /// The operator's networks that listed names may lead to. Without them, only public addresses
    /// are dialled.
    pub networks: Vec<IpNet>,
}

impl Lists {
    /// The list of a use.
    #[must_use]
    pub fn of(&self, wanted: Use) -> &[ListEntry] {
        match wanted {
            Use::Media => &self.media,
            Use::Links => &self.links,
            Use::Tunnel => &self.tunnel,
        }
    }
}

/// The gateway's own endpoints and its upstreams. They are never a destination, whatever the lists
/// contain.
#[derive(Clone, Debug, Default)]
pub struct SelfEndpoints {
    /// Declared upstreams.
    pub upstreams: Vec<(Host, u16)>,
    /// The addresses that this gateway listens on.
    pub listeners: Vec<SocketAddr>,
}

impl SelfEndpoints {
    /// Whether a host and port is one of them.
    fn has(&self, host: &Host, port: u16) -> bool {
        self.upstreams.iter().any(|(own, own_port)| *own_port == port && own.is_same(host))
            || matches!(host, Host::Address(address) if self.listens(*address, port))
    }

    /// Whether this gateway listens on that address and port.
    fn listens(&self, address: IpAddr, port: u16) -> bool {
        let address = address.to_canonical();
        // For a listener on every address, only the certain addresses of this machine count here.
        // The dialler knows the others.
        let is_here = address.is_loopback() || address.is_unspecified();
        for own in &self.listeners {
            let own_ip = own.ip();
            let is_own = own_ip.to_canonical() == address || (own_ip.is_unspecified() && is_here);
            if own.port() == port && is_own {
                return true;
            }
        }
        false
    }
}

/// What a token leaves of the lists. Each token of a chain can restrict them further.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenRestrictions {
    /// No destination: `egress` with rank `none`.
    pub nothing: bool,
    /// Only these hosts: `egress_host`, one list for each token that has one.
    pub hosts: Vec<Names>,
}

impl TokenRestrictions {
    /// The restrictions of these tokens together.
    pub fn of<'g>(tokens: impl Iterator<Item = &'g Grants>) -> Self {
        let mut narrowing = Self::default();
        for grants in tokens {
            narrowing.nothing |= grants.no_egress;
            narrowing.hosts.extend(grants.egress_hosts.clone());
        }
        narrowing
    }
}

/// Why a destination is not controlled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Uncontrolled {
    /// Not every parser would read it alike.
    #[error("{0}")]
    Unreadable(UrlFault),
    /// An upstream or a listener of this gateway.
    #[error("it is a part of this gateway, or one of its upstreams")]
    SelfEndpoints,
    /// The token allows no destination.
    #[error("the token allows no destination (egress: none)")]
    TokenNothing,
    /// The token allows other hosts.
    #[error("the token allows other hosts (egress_host)")]
    TokenHost,
    /// The list of that use does not contain it.
    #[error("it is not on the list [egress] {}", .0.as_str())]
    NotListed(Use),
    /// An address that is neither public nor listed.
    #[error("its address is {0}")]
    Address(&'static str),
}

impl Uncontrolled {
    /// The reason where parsers do not agree on a URL.
    pub const UNREADABLE: &'static str = "unreadable";

    /// The reason as metrics and records name it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => Self::UNREADABLE,
            Self::SelfEndpoints => "self",
            Self::TokenNothing | Self::TokenHost => "token",
            Self::NotListed(_) => "not-listed",
            Self::Address(_) => "address",
        }
    }
}

/// A destination that the policy allows: the operator lists it, and the token leaves it. Only
/// [`EgressPolicy::evaluate`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controlled(Destination);

impl Controlled {
    /// The destination.
    #[must_use]
    pub const fn destination(&self) -> &Destination {
        &self.0
    }
}

/// One check of a destination and its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyStep {
    /// The name of the check.
    pub question: &'static str,
    /// The result in words.
    pub answer: String,
    /// Whether the destination passes the check.
    pub passes: bool,
}

impl PolicyStep {
    /// A check that the destination passes.
    const fn passes(question: &'static str, answer: String) -> Self {
        Self { question, answer, passes: true }
    }

    /// A check that the destination does not pass.
    const fn fails(question: &'static str, answer: String) -> Self {
        Self { question, answer, passes: false }
    }

    /// The check of the address. `listed` is true if the list of the use has the destination.
    fn of_address(host: &Host, listed: bool) -> Self {
        let Host::Address(address) = host else {
            let answer = "a name: what it leads to is judged when it is dialled";
            return Self::passes("address", answer.to_owned());
        };
        match special(*address) {
            Some(what) if listed => Self::passes("address", format!("{what}, listed as itself")),
            Some(what) => Self::fails("address", format!("{what}, and not listed as itself")),
            None => Self::passes("address", "public".to_owned()),
        }
    }

    /// The check of what the token allows.
    fn of_token(narrowing: &TokenRestrictions, host: &str) -> Self {
        if narrowing.nothing {
            return Self::fails("token", Uncontrolled::TokenNothing.to_string());
        }
        match narrowing.hosts.iter().find(|hosts| !hosts.contains(host)) {
            Some(hosts) => {
                let hosts: Vec<_> = hosts.iter().collect();
                Self::fails("token", format!("it leaves {} (egress_host)", hosts.join(", ")))
            }
            None => Self::passes("token", "it does not exclude the destination".to_owned()),
        }
    }
}

/// The egress policy.
#[derive(Clone, Debug, Default)]
pub struct EgressPolicy {
    lists: Lists,
    own: SelfEndpoints,
}

impl EgressPolicy {
    /// A policy with these lists.
    #[must_use]
    pub const fn new(lists: Lists, own: SelfEndpoints) -> Self {
        Self { lists, own }
    }

    /// The lists.
    #[must_use]
    pub const fn lists(&self) -> &Lists {
        &self.lists
    }

    /// The list of a use as a token leaves it, in the form `HOST:PORT` or `*.SUFFIX:PORT`. For a
    /// suffix, only the names below it that the token lists are returned.
    #[must_use]
    pub fn left(&self, wanted: Use, narrowing: &TokenRestrictions) -> Vec<String> {
        let mut left = Vec::new();
        if narrowing.nothing {
            return left;
        }
        for entry in self.lists.of(wanted) {
            // The gateway's own endpoints are refused by `evaluate`, so they are not shown as
            // reachable.
            if !entry.below && self.own.has(&entry.host, entry.port) {
                continue;
            }
            let Some((first, others)) = narrowing.hosts.split_first() else {
                left.push(entry.to_string());
                continue;
            };
            let port = entry.port;
            for host in first.iter() {
                // A host must be in the list of every token of the chain.
                if others.iter().all(|hosts| hosts.contains(host))
                    && let Ok(destination) =
                        Destination::read_authority(Scheme::Https, &format!("{host}:{port}"))
                    && entry.covers(&destination)
                {
                    left.push(format!("{}:{port}", destination.host));
                }
            }
        }
        let mut seen = BTreeSet::new();
        left.retain(|entry| seen.insert(entry.clone()));
        left
    }

    /// The declared upstreams with that port.
    pub fn upstreams_at(&self, port: u16) -> impl Iterator<Item = &Host> {
        self.own.upstreams.iter().filter(move |(_, own)| *own == port).map(|(host, _)| host)
    }

    /// Whether this gateway listens on that port of every address of its machine.
    #[must_use]
    pub fn listens_everywhere(&self, port: u16) -> bool {
        self.own.listeners.iter().any(|own| own.ip().is_unspecified() && own.port() == port)
    }

    /// The host of a URL, where it can be parsed.
    #[must_use]
    pub fn host(url: &str) -> Option<String> {
        let destination = Destination::read(url).ok()?;
        Some(destination.host.to_string())
    }

    /// Whether the host of a URL is a loopback address or `localhost`.
    #[must_use]
    pub fn is_loopback(url: &str) -> bool {
        match Destination::read(url) {
            Ok(Destination { host: Host::Address(address), .. }) => {
                address.to_canonical().is_loopback()
            }
            Ok(Destination { host: Host::Name(name), .. }) => {
                name == "localhost" || name.ends_with(".localhost")
            }
            Err(_) => false,
        }
    }

    /// Evaluates a URL.
    ///
    /// # Errors
    /// The first reason why it is not controlled, in the order of [`Uncontrolled`]. But
    /// [`Uncontrolled::Address`] comes directly after [`Uncontrolled::SelfEndpoints`].
    pub fn evaluate(
        &self,
        wanted: Use,
        url: &str,
        narrowing: &TokenRestrictions,
    ) -> Result<Controlled, Uncontrolled> {
        let destination = Destination::read(url).map_err(Uncontrolled::Unreadable)?;
        // Before the lists: no operator's list and no token may open the gateway's own endpoints.
        if self.own.has(&destination.host, destination.port) {
            return Err(Uncontrolled::SelfEndpoints);
        }
        let listed = self.lists.of(wanted).iter().find(|entry| entry.covers(&destination));
        // An address that is not public gets that reason, even where no list has it. It is the
        // reason that helps a person who reads the refusal.
        if let (Host::Address(address), None) = (&destination.host, listed)
            && let Some(what) = special(*address)
        {
            return Err(Uncontrolled::Address(what));
        }
        if narrowing.nothing {
            return Err(Uncontrolled::TokenNothing);
        }
        // The canonical form, as the token's list is compared with it.
        let host = destination.host.to_string();
        if !narrowing.hosts.iter().all(|hosts| hosts.contains(&host)) {
            return Err(Uncontrolled::TokenHost);
        }
        if listed.is_none() {
            return Err(Uncontrolled::NotListed(wanted));
        }
        Ok(Controlled(destination))
    }

    /// All checks of a URL, in order. All of them are reported, although the first failed one
    /// decides. Only [`EgressPolicy::evaluate`] determines whether a URL is controlled.
    #[must_use]
    pub fn explain(
        &self,
        wanted: Use,
        url: &str,
        narrowing: &TokenRestrictions,
    ) -> Vec<PolicyStep> {
        let destination = match Destination::read(url) {
            Ok(destination) => destination,
            Err(why) => {
                return vec![PolicyStep::fails(
                    "read",
                    format!("not as every reader would: {why}"),
                )];
            }
        };
        let read = format!("{destination}, by the URL Standard's reader too");
        let own = if self.own.has(&destination.host, destination.port) {
            PolicyStep::fails("self", Uncontrolled::SelfEndpoints.to_string())
        } else {
            PolicyStep::passes("self", "no upstream and no listener of this gateway".to_owned())
        };
        let listed = self.lists.of(wanted).iter().find(|entry| entry.covers(&destination));
        let (list, host) = (wanted.as_str(), destination.host.to_string());
        let on_list = match listed {
            Some(entry) => PolicyStep::passes("list", format!("[egress] {list} has {entry}")),
            None => PolicyStep::fails(
                "list",
                format!("[egress] {list} does not have {host}:{}", destination.port),
            ),
        };
        vec![
            PolicyStep::passes("read", read),
            own,
            PolicyStep::of_address(&destination.host, listed.is_some()),
            PolicyStep::of_token(narrowing, &host),
            on_list,
        ]
    }

    /// Checks whether an address of a listed name may be dialled. One address that may not be
    /// dialled makes the whole name unusable.
    ///
    /// # Errors
    /// [`Uncontrolled::SelfEndpoints`] or [`Uncontrolled::Address`].
    pub fn address(
        &self,
        controlled: &Controlled,
        address: SocketAddr,
    ) -> Result<(), Uncontrolled> {
        let (ip, port) = (address.ip(), address.port());
        // Checked again for the address: a name can resolve to the gateway itself.
        if self.own.has(&Host::Address(ip), port) {
            return Err(Uncontrolled::SelfEndpoints);
        }
        // An address that is listed itself was evaluated before.
        if controlled.0.host == Host::Address(ip)
            || self.lists.networks.iter().any(|network| network.contains(&ip))
        {
            return Ok(());
        }
        special(ip).map_or(Ok(()), |what| Err(Uncontrolled::Address(what)))
    }
}

#[cfg(test)]
mod tests;
