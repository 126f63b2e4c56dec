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
        let (below, rest) = text.strip_prefix("*.").map_or((false, text), |rest| (true, rest));
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
        // The IPv4-mapped form of an address is the same endpoint.
        let canonical = |host: &Host| match host {
            Host::Address(address) => Host::Address(address.to_canonical()),
            Host::Name(name) => Host::Name(name.clone()),
        };
        self.upstreams
            .iter()
            .any(|(own, own_port)| *own_port == port && canonical(own) == canonical(host))
            || matches!(host, Host::Address(address) if self.listens(*address, port))
    }

    /// Whether this gateway listens on that address and port.
    fn listens(&self, address: IpAddr, port: u16) -> bool {
        let address = address.to_canonical();
        // For a listener on every address, only the certain addresses of this machine count here.
        // The dialler knows the others.
        let every = |own: &SocketAddr| {
            own.ip().is_unspecified() && (address.is_loopback() || address.is_unspecified())
        };
        self.listeners
            .iter()
            .any(|own| own.port() == port && (own.ip().to_canonical() == address || every(own)))
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
    #[error("it is a part of this gateway, or stands behind it")]
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
        // The gateway's own endpoints are refused by `evaluate`, so they are not shown as
        // reachable.
        let own = |entry: &&ListEntry| !entry.below && self.own.has(&entry.host, entry.port);
        for entry in self.lists.of(wanted).iter().filter(|entry| !narrowing.nothing && !own(entry))
        {
            let Some((first, others)) = narrowing.hosts.split_first() else {
                left.push(entry.to_string());
                continue;
            };
            let port = entry.port;
            // A host must be in the list of every token of the chain.
            let named = first.iter().filter(|host| others.iter().all(|hosts| hosts.contains(host)));
            let read = |host: &str| {
                Destination::read_authority(Scheme::Https, &format!("{host}:{port}")).ok()
            };
            let covered = named.filter_map(read).filter(|destination| entry.covers(destination));
            left.extend(covered.map(|destination| format!("{}:{port}", destination.host)));
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
        Destination::read(url).ok().map(|destination| destination.host.to_string())
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
        let mut all = Vec::new();
        let mut say =
            |question, answer: String, passes| all.push(PolicyStep { question, answer, passes });
        let destination = match Destination::read(url) {
            Ok(destination) => destination,
            Err(why) => {
                say("read", format!("not as every reader would: {why}"), false);
                return all;
            }
        };
        say("read", format!("{destination}, by the URL Standard's reader too"), true);
        let own = self.own.has(&destination.host, destination.port);
        say(
            "self",
            if own {
                Uncontrolled::SelfEndpoints.to_string()
            } else {
                "no upstream and no listener of this gateway".to_owned()
            },
            !own,
        );
        let listed = self.lists.of(wanted).iter().find(|entry| entry.covers(&destination));
        match &destination.host {
            Host::Name(_) => say(
                "address",
                "a name: what it leads to is judged when it is dialled".to_owned(),
                true,
            ),
            Host::Address(address) => match special(*address) {
                Some(what) if listed.is_none() => {
                    say("address", format!("{what}, and not listed as itself"), false)
                }
                Some(what) => say("address", format!("{what}, listed as itself"), true),
                None => say("address", "public".to_owned(), true),
            },
        }
        let host = destination.host.to_string();
        match (narrowing.nothing, narrowing.hosts.iter().find(|hosts| !hosts.contains(&host))) {
            (true, _) => say("token", Uncontrolled::TokenNothing.to_string(), false),
            (false, Some(hosts)) => say(
                "token",
                format!("it leaves {} (egress_host)", hosts.iter().collect::<Vec<_>>().join(", ")),
                false,
            ),
            (false, None) => say("token", "nothing in it says otherwise".to_owned(), true),
        }
        match listed {
            Some(entry) => say("list", format!("[egress] {} has {entry}", wanted.as_str()), true),
            None => say(
                "list",
                format!("[egress] {} does not have {host}:{}", wanted.as_str(), destination.port),
                false,
            ),
        }
        all
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
