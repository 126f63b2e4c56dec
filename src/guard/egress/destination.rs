//! Parses the destination of a URL. Only a form that every parser reads alike is accepted. A text
//! that two parsers could read as different destinations is refused, never repaired. docs/EGRESS.md
//! lists the accepted forms and the reasons against the others.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The most bytes of a URL.
pub const URL_BYTES_MAX: usize = 8_192;
/// The most bytes of a host name (RFC 1035 section 2.3.4, without the last dot).
const NAME_BYTES_MAX: usize = 253;
/// The most bytes of a label (RFC 1035 section 2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// The scheme of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// Without encryption.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// The scheme as a URL writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The default port.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A name in lower case, without a dot at its end.
    Name(String),
    /// An address.
    Address(IpAddr),
}

impl Host {
    /// Whether both are the same host. The IPv4-mapped form of an address is the same address.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Name(own), Self::Name(other)) => own == other,
            (Self::Address(own), Self::Address(other)) => {
                own.to_canonical() == other.to_canonical()
            }
            (Self::Name(_) | Self::Address(_), _) => false,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => out.write_str(name),
            Self::Address(IpAddr::V4(four)) => four.fmt(out),
            Self::Address(IpAddr::V6(six)) => write!(out, "[{six}]"),
        }
    }
}

/// The destination of a URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Destination {
    /// The scheme.
    pub scheme: Scheme,
    /// The host.
    pub host: Host,
    /// The port: the one in the URL, or the scheme's default.
    pub port: u16,
}

impl fmt::Display for Destination {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}://{}:{}", self.scheme.as_str(), self.host, self.port)
    }
}

/// Why a text is not a URL that every parser reads alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlFault {
    /// More than [`URL_BYTES_MAX`] bytes.
    #[error("it is longer than {URL_BYTES_MAX} bytes")]
    TooLong,
    /// A blank, a control character, or an invisible one.
    #[error("it has blanks, control characters or characters that are not seen in it")]
    Unseen,
    /// A backslash, which some parsers take for a slash.
    #[error("it has a backslash in it, which some readers take for a slash")]
    Backslash,
    /// The text does not begin with `http://` or `https://`.
    #[error("it does not begin with http:// or https://")]
    Scheme,
    /// An at sign: the text before it is a user name, and looks like a host.
    #[error("it has an @ before its path: what is before that is not the host")]
    UserInfo,
    /// An escape in the host.
    #[error("its host is written with escapes (%)")]
    Escaped,
    /// A host that is not ASCII.
    #[error("its host is not ASCII; write it in its A-label form (xn--…)")]
    NotAscii,
    /// No host.
    #[error("it has no host")]
    NoHost,
    /// A dot at the host's end.
    #[error("its host ends with a dot")]
    LastDot,
    /// A host that is neither a name nor an address.
    #[error("its host is neither a name nor an address as RFC 3986 section 3.2.2 writes it")]
    Host,
    /// A number where a name is expected. Some parsers take it for an address.
    #[error(
        "its host is a number that some readers take for an address; write addresses as four \
            decimal numbers"
    )]
    Number,
    /// Not a plain IPv6 address: one with a zone, or a future form (RFC 3986 section 3.2.2).
    #[error("its address in brackets is no plain IPv6 address")]
    Brackets,
    /// Not a number from 1 to 65535, or one with leading zeros.
    #[error("its port is not a number from 1 to 65535")]
    Port,
    /// Another parser reads another destination.
    #[error("the URL Standard reads it as something else")]
    Differs,
}

impl Destination {
    /// Reads an absolute URL.
    ///
    /// # Errors
    /// Why not every parser would read it alike.
    pub fn read(url: &str) -> Result<Self, UrlFault> {
        if url.len() > URL_BYTES_MAX {
            return Err(UrlFault::TooLong);
        }
        // Joiners are part of words in several scripts. In a path they change no host; in a host,
        // `authority` refuses them as not ASCII.
        if url.chars().any(|character| is_unseen(character) && !is_joiner(character)) {
            return Err(UrlFault::Unseen);
        }
        // The URL Standard (section 4.4) takes `\` for `/` in http URLs, and RFC 3986 does not:
        // `http://a\@b/` has two hosts.
        if url.contains('\\') {
            return Err(UrlFault::Backslash);
        }
        let (scheme, rest) = scheme(url).ok_or(UrlFault::Scheme)?;
        // The authority ends at the first of these (RFC 3986 section 3.2).
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, _) = rest.split_at(end);
        let (host, port) = self::authority(authority)?;
        let read = Self { scheme, host, port: port.unwrap_or(scheme.port()) };
        // A second parser, that of the URL Standard. Browsers and Node.js follow that standard.
        if read.is_what_others_read(url) { Ok(read) } else { Err(UrlFault::Differs) }
    }

    /// Whether the parser of the URL Standard finds the same destination.
    fn is_what_others_read(&self, url: &str) -> bool {
        let Ok(other) = url::Url::parse(url) else { return false };
        let host = match (other.host(), &self.host) {
            (Some(url::Host::Domain(name)), Host::Name(own)) => name == own,
            (Some(url::Host::Ipv4(four)), Host::Address(own)) => IpAddr::V4(four) == *own,
            (Some(url::Host::Ipv6(six)), Host::Address(own)) => IpAddr::V6(six) == *own,
            _ => false,
        };
        let plain = other.username().is_empty() && other.password().is_none();
        host && plain
            && other.scheme() == self.scheme.as_str()
            && other.port_or_known_default() == Some(self.port)
    }

    /// Reads `HOST:PORT`, or `HOST` with the port of `scheme`.
    ///
    /// # Errors
    /// As [`Destination::read`].
    pub fn read_authority(scheme: Scheme, text: &str) -> Result<Self, UrlFault> {
        // These would end the authority, and the rest would be ignored.
        if text.contains(['/', '?', '#']) {
            return Err(UrlFault::Host);
        }
        Self::read(&format!("{}://{text}/", scheme.as_str()))
    }
}

/// Whether a character is a joiner of Unicode, or prevents a join.
const fn is_joiner(character: char) -> bool {
    matches!(character, '\u{200c}' | '\u{200d}')
}

/// Whether a character is invisible or changes the visible order: blanks and control characters of
/// Unicode, direction marks, joiners.
fn is_unseen(character: char) -> bool {
    character.is_control()
        || character.is_whitespace()
        || matches!(
            u32::from(character),
            0xad | 0x61c
                | 0x180e
                | 0x200b..=0x200f
                | 0x202a..=0x202e
                | 0x2060..=0x206f
                | 0xfeff
                | 0xfff9..=0xfffb
                | 0xe0000..=0xe0fff
        )
}

/// The scheme, and the text after `//`.
fn scheme(url: &str) -> Option<(Scheme, &str)> {
    let (name, rest) = url.split_once(':')?;
    let scheme = [Scheme::Http, Scheme::Https]
        .into_iter()
        .find(|scheme| name.eq_ignore_ascii_case(scheme.as_str()))?;
    let rest = rest.strip_prefix("//")?;
    // Parsers of the URL Standard skip further slashes, so `https:///a` leads to `a` there.
    (!rest.starts_with('/')).then_some((scheme, rest))
}

/// Host and port of an authority (RFC 3986 section 3.2).
fn authority(text: &str) -> Result<(Host, Option<u16>), UrlFault> {
    // `user@host`: refused even with an empty user, because a person may read the first part as the
    // host.
    if text.contains('@') {
        return Err(UrlFault::UserInfo);
    }
    // Some parsers decode escapes in a host, and some do not.
    if text.contains('%') {
        return Err(UrlFault::Escaped);
    }
    // IDNA mappings differ between parsers and versions (UTS #46). The A-label form is the same for
    // all.
    if !text.is_ascii() {
        return Err(UrlFault::NotAscii);
    }
    // An IPv6 address in brackets (RFC 3986 section 3.2.2).
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else { return Err(UrlFault::Brackets) };
        // The standard library's parser accepts no zone, which is valid on one machine only.
        let address: Ipv6Addr = address.parse().map_err(|_| UrlFault::Brackets)?;
        let port = match rest.strip_prefix(':') {
            Some(port) => Some(self::port(port)?),
            None if rest.is_empty() => None,
            None => return Err(UrlFault::Brackets),
        };
        return Ok((Host::Address(address.into()), port));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(self::port(port)?)),
        None => (text, None),
    };
    Ok((self::host(host)?, port))
}

/// A port of a URL, as plain digits without leading zeros.
fn port(text: &str) -> Result<u16, UrlFault> {
    let digits = !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_digit())
        // `parse` alone would accept a sign (`+80`).
        && !text.starts_with('0');
    if digits { text.parse().map_err(|_| UrlFault::Port) } else { Err(UrlFault::Port) }
}

/// A name or an IPv4 address.
fn host(text: &str) -> Result<Host, UrlFault> {
    if text.is_empty() {
        return Err(UrlFault::NoHost);
    }
    // `a.example.` and `a.example` are the same in DNS, and different texts for a list or a TLS
    // certificate.
    if text.ends_with('.') {
        return Err(UrlFault::LastDot);
    }
    let last = match text.rsplit_once('.') {
        Some((_, last)) => last,
        None => text,
    };
    // The URL Standard takes a host whose last label is a number for an IPv4 address, in any base
    // (section 3.5).
    let hex = matches!(last.get(..2), Some(front) if front.eq_ignore_ascii_case("0x"));
    if last.bytes().all(|byte| byte.is_ascii_digit())
        || (hex && last.bytes().skip(2).all(|byte| byte.is_ascii_hexdigit()))
    {
        // Only four decimal numbers without leading zeros: `0177.0.0.1` is octal for some parsers.
        return match text.parse::<Ipv4Addr>() {
            Ok(four) => Ok(Host::Address(four.into())),
            Err(_) => Err(UrlFault::Number),
        };
    }
    if text.len() > NAME_BYTES_MAX || !text.split('.').all(is_label) {
        return Err(UrlFault::Host);
    }
    Ok(Host::Name(text.to_ascii_lowercase()))
}

/// Letters, digits, underscores, and hyphens that are not at its ends (RFC 1123 section 2.1, and
/// underscores as names in use have them).
fn is_label(label: &str) -> bool {
    (1..=LABEL_BYTES_MAX).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn leads(url: &str, expect: &str) {
        assert_eq!(
            Destination::read(url).map(|read| read.to_string()),
            Ok(expect.to_owned()),
            "{url}"
        );
    }

    #[track_caller]
    fn refused(url: &str, expect: UrlFault) {
        assert_eq!(Destination::read(url), Err(expect), "{url}");
    }

    #[test]
    fn ordinary_urls_are_read() {
        leads("https://example.com", "https://example.com:443");
        leads("HTTPS://Example.COM/a?b=c#d", "https://example.com:443");
        leads(
            "https://fa.wikipedia.org/wiki/\u{645}\u{6cc}\u{200c}x",
            "https://fa.wikipedia.org:443",
        );
        leads("http://example.com:8080/ä/\u{1f600}?q=@x", "http://example.com:8080");
        leads(
            "https://a_b.r3---sn.xn--bcher-kva.example/%2e%2e/@x:y",
            "https://a_b.r3---sn.xn--bcher-kva.example:443",
        );
        leads("http://93.184.215.14/x", "http://93.184.215.14:80");
        leads("http://[2606:2800:21F:0::1]:81/", "http://[2606:2800:21f::1]:81");
        leads("http://localhost", "http://localhost:80");
        leads("https://example.com?x", "https://example.com:443");
    }

    #[test]
    fn what_readers_read_differently_is_refused() {
        use UrlFault as No;
        for (url, expect) in [
            ("ftp://example.com/", No::Scheme),
            ("//example.com/", No::Scheme),
            ("example.com", No::Scheme),
            ("https:example.com", No::Scheme),
            ("https:/example.com", No::Scheme),
            ("https:///example.com", No::Scheme),
            ("http://a.example\\@b.example/", No::Backslash),
            ("http://a.example/\\b", No::Backslash),
            ("http://a.example\t.b/", No::Unseen),
            ("http://a.example/\u{202e}gnp", No::Unseen),
            (" http://a.example/", No::Unseen),
            ("http://good.example@evil.example/", No::UserInfo),
            ("http://@evil.example/", No::UserInfo),
            ("http://%65vil.example/", No::Escaped),
            ("http://127.0.0.1%2f.example/", No::Escaped),
            ("http://ｅvil.example/", No::NotAscii),
            ("http://evil。example/", No::NotAscii),
            ("http://good\u{200d}.example/", No::NotAscii),
            ("http:///", No::Scheme),
            ("http://", No::NoHost),
            ("http://:80/", No::NoHost),
            ("http://?x", No::NoHost),
            ("http://evil.example./", No::LastDot),
            ("http://127.1/", No::Number),
            ("http://2130706433/", No::Number),
            ("http://0x7f000001/", No::Number),
            ("http://0x7f.1/", No::Number),
            ("http://0177.0.0.1/", No::Number),
            ("http://127.0.0.0x1/", No::Number),
            ("http://1.2.3.4.5/", No::Number),
            ("http://256.1.1.1/", No::Number),
            ("http://a..example/", No::Host),
            ("http://-a.example/", No::Host),
            ("http://a!b.example/", No::Host),
            ("http://[::1/", No::Brackets),
            ("http://[fe80::1%25eth0]/", No::Escaped),
            ("http://[v1.x]/", No::Brackets),
            ("http://[::1]x/", No::Brackets),
            ("http://a.example:/", No::Port),
            ("http://a.example:080/", No::Port),
            ("http://a.example:0/", No::Port),
            ("http://a.example:65536/", No::Port),
            ("http://a.example:80:81/", No::Port),
            ("http://a.example:٣/", No::NotAscii),
            ("http://xn--a.example/", No::Differs),
        ] {
            refused(url, expect);
        }
        refused(&format!("http://a.example/{}", "x".repeat(URL_BYTES_MAX)), No::TooLong);
        refused(&format!("http://{}.example/", "a".repeat(64)), No::Host);
    }
}
