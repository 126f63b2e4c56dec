//! Is this endpoint controlled? The one judge of all doors: a pure function over what [`Destination`] reads, the operator's lists
//! and what a token leaves of them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;

use super::address::special;
use super::destination::{Destination, Host, Scheme, UrlFault};
use crate::token::{Grants, Names};

/// What a destination is wanted for. Each use has a list of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Use {
    /// Content that a request names.
    Media,
    /// What an answer points at.
    Links,
    /// Where an agent itself connects to.
    Tunnel,
}

impl Use {
    /// Every use.
    pub const ALL: [Self; 3] = [Self::Media, Self::Links, Self::Tunnel];

    /// Its key under `[egress]`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Media => "media",
            Self::Links => "links",
            Self::Tunnel => "tunnel",
        }
    }
}

/// A line of a list: `host:port`, or `*.suffix:port` for every name below the suffix. Without a port: 443.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListEntry {
    host: Host,
    below: bool,
    port: u16,
}

impl ListEntry {
    fn covers(&self, destination: &Destination) -> bool {
        self.port == destination.port
            && match (&self.host, &destination.host) {
                (Host::Name(suffix), Host::Name(name)) if self.below => name
                    .strip_suffix(suffix.as_str())
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

/// What the operator controls.
#[derive(Clone, Debug, Default)]
pub struct Lists {
    /// For [`Use::Media`].
    pub media: Vec<ListEntry>,
    /// For [`Use::Links`].
    pub links: Vec<ListEntry>,
    /// For [`Use::Tunnel`].
    pub tunnel: Vec<ListEntry>,
    /// Networks of one's own that listed names may lead into; without them only public addresses are dialled.
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

/// What is part of the gateway or stands behind it, and is never a destination, whatever the lists say.
#[derive(Clone, Debug, Default)]
pub struct SelfEndpoints {
    /// Declared upstreams.
    pub upstreams: Vec<(Host, u16)>,
    /// Addresses that this gateway listens on.
    pub listeners: Vec<SocketAddr>,
}

impl SelfEndpoints {
    fn has(&self, host: &Host, port: u16) -> bool {
        let canonical = |host: &Host| match host {
            Host::Address(address) => Host::Address(address.to_canonical()),
            Host::Name(name) => Host::Name(name.clone()),
        };
        self.upstreams
            .iter()
            .any(|(own, own_port)| *own_port == port && canonical(own) == canonical(host))
            || matches!(host, Host::Address(address) if self.listens(*address, port))
    }

    fn listens(&self, address: IpAddr, port: u16) -> bool {
        let address = address.to_canonical();
        // Of one that listens on every address only what is certainly this machine; the dialler knows the others.
        let every = |own: &SocketAddr| {
            own.ip().is_unspecified() && (address.is_loopback() || address.is_unspecified())
        };
        self.listeners
            .iter()
            .any(|own| own.port() == port && (own.ip().to_canonical() == address || every(own)))
    }
}

/// What a token leaves of the lists; each token of a chain leaves something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenRestrictions {
    /// Nothing at all: `egress` with rank `none`.
    pub nothing: bool,
    /// These hosts alone: `egress_host`, one list for each token that has one.
    pub hosts: Vec<Names>,
}

impl TokenRestrictions {
    /// What these tokens leave.
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
    /// Not every reader would read it alike.
    #[error("{0}")]
    Unreadable(UrlFault),
    /// An upstream or a listener of the gateway itself.
    #[error("it is a part of this gateway, or stands behind it")]
    SelfEndpoints,
    /// The token leaves no destination.
    #[error("the token allows no destination (egress: none)")]
    TokenNothing,
    /// The token leaves others.
    #[error("the token allows other hosts (egress_host)")]
    TokenHost,
    /// The list of that use does not have it.
    #[error("it is not on the list [egress] {}", .0.as_str())]
    NotListed(Use),
    /// An address that is not public, and not listed.
    #[error("its address is {0}")]
    Address(&'static str),
}

impl Uncontrolled {
    /// The reason where there is no URL that readers agree on.
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

/// A destination that was judged: the operator lists it, and the token leaves it. Only [`EgressPolicy::evaluate`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controlled(Destination);

impl Controlled {
    /// Where it leads.
    #[must_use]
    pub const fn destination(&self) -> &Destination {
        &self.0
    }
}

/// One thing that is asked of a destination, and what it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyStep {
    /// What is asked.
    pub question: &'static str,
    /// The answer.
    pub answer: String,
    /// Whether it speaks for the destination.
    pub passes: bool,
}

/// The judge.
#[derive(Clone, Debug, Default)]
pub struct EgressPolicy {
    lists: Lists,
    own: SelfEndpoints,
}

impl EgressPolicy {
    /// A judge by these lists.
    #[must_use]
    pub const fn new(lists: Lists, own: SelfEndpoints) -> Self {
        Self { lists, own }
    }

    /// The lists.
    #[must_use]
    pub const fn lists(&self) -> &Lists {
        &self.lists
    }

    /// The list of a use as a token leaves it, in the form `HOST:PORT` or `*.SUFFIX:PORT`. Of names below a suffix those are named that
    /// the token names.
    #[must_use]
    pub fn left(&self, wanted: Use, narrowing: &TokenRestrictions) -> Vec<String> {
        let mut left = Vec::new();
        let own = |entry: &&ListEntry| !entry.below && self.own.has(&entry.host, entry.port);
        for entry in self.lists.of(wanted).iter().filter(|entry| !narrowing.nothing && !own(entry))
        {
            let Some((first, others)) = narrowing.hosts.split_first() else {
                left.push(entry.to_string());
                continue;
            };
            let port = entry.port;
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

    /// The declared upstreams that answer at a port.
    pub fn upstreams_at(&self, port: u16) -> impl Iterator<Item = &Host> {
        self.own.upstreams.iter().filter(move |(_, own)| *own == port).map(|(host, _)| host)
    }

    /// Whether this gateway listens at a port of every address that its machine has.
    #[must_use]
    pub fn listens_everywhere(&self, port: u16) -> bool {
        self.own.listeners.iter().any(|own| own.ip().is_unspecified() && own.port() == port)
    }

    /// The host that a URL leads to, where it can be read.
    #[must_use]
    pub fn host(url: &str) -> Option<String> {
        Destination::read(url).ok().map(|destination| destination.host.to_string())
    }

    /// Judges a URL.
    ///
    /// # Errors
    /// Why it is not controlled: the first reason in the order of [`Uncontrolled`].
    pub fn evaluate(
        &self,
        wanted: Use,
        url: &str,
        narrowing: &TokenRestrictions,
    ) -> Result<Controlled, Uncontrolled> {
        let destination = Destination::read(url).map_err(Uncontrolled::Unreadable)?;
        if self.own.has(&destination.host, destination.port) {
            return Err(Uncontrolled::SelfEndpoints);
        }
        let listed = self.lists.of(wanted).iter().find(|entry| entry.covers(&destination));
        // An address that is not public says so, even where no list has it: that is what whoever reads the refusal looks for.
        if let (Host::Address(address), None) = (&destination.host, listed)
            && let Some(what) = special(*address)
        {
            return Err(Uncontrolled::Address(what));
        }
        if narrowing.nothing {
            return Err(Uncontrolled::TokenNothing);
        }
        let host = destination.host.to_string();
        if !narrowing.hosts.iter().all(|hosts| hosts.contains(&host)) {
            return Err(Uncontrolled::TokenHost);
        }
        if listed.is_none() {
            return Err(Uncontrolled::NotListed(wanted));
        }
        Ok(Controlled(destination))
    }

    /// Everything that is asked of a URL, in order; all of it, though the first no decides. [`EgressPolicy::evaluate`] alone says what is controlled.
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

    /// Whether one of the addresses that a listed destination's name has may be dialled. One that may not spoils the name.
    ///
    /// # Errors
    /// [`Uncontrolled::SelfEndpoints`] or [`Uncontrolled::Address`].
    pub fn address(
        &self,
        controlled: &Controlled,
        address: SocketAddr,
    ) -> Result<(), Uncontrolled> {
        let (ip, port) = (address.ip(), address.port());
        if self.own.has(&Host::Address(ip), port) {
            return Err(Uncontrolled::SelfEndpoints);
        }
        // Listed as an address, it was judged already.
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
