//! The destinations of tool calls, for the tools in the config's `fetch_tools`. A call is evaluated
//! as a whole: it is sent on unchanged, or the answer ends.

use crate::guard::egress::authority::{SPECIAL, mentions};
use crate::guard::egress::policy::{EgressPolicy, TokenRestrictions, Uncontrolled, Use};
use crate::json::{self, Limits, Value};
use crate::model::tools::Arguments;

/// The most nested arrays and objects in a call's arguments.
const DEPTH_MAX: usize = 64;

/// Parts of argument names under which a destination is expected, even one without a scheme.
const PLACES: [&str; 10] = [
    "domain",
    "endpoint",
    "host",
    "href",
    "hyperlink",
    "proxy",
    "uri",
    "url",
    "webhook",
    "website",
];
/// Words of such names, as whole words.
const WORDS: [&str; 7] = ["base", "ip", "link", "origin", "server", "site", "src"];
/// Parts of names under which any word is a host. Under other names a host has a dot, or is `HERE`.
const SURELY: [&str; 8] =
    ["endpoint", "host", "href", "hyperlink", "proxy", "uri", "url", "webhook"];
/// Words that begin or end with one of those parts and mean something else.
const OTHERS: [&str; 10] =
    ["curl", "furl", "ghost", "hostage", "hostel", "hostile", "hurl", "purl", "unfurl", "urine"];
/// Values that name no destination.
const NOWHERE: [&str; 10] =
    ["auto", "default", "direct", "false", "no", "none", "null", "off", "true", "yes"];
/// A host without a dot under every name.
const HERE: &str = "localhost";
/// Numbers from here on can be IPv4 addresses (1.0.0.0). No public address is below.
const ADDRESS_MIN: f64 = 16_777_216.0;
/// Parts of argument names under which a number is a destination too.
const NUMBERS: [&str; 4] = ["host", "uri", "url", "domain"];
/// Parts of argument names that hold only a host.
const HOSTS: [&str; 2] = ["host", "domain"];
/// What a text is called that only some parsers read as JSON. The destination in it depends on the
/// parser.
const SOME_JSON: &str = "a text that reads as JSON to some";
/// How many levels of JSON texts inside texts are parsed.
const NESTED_MAX: usize = 4;

/// A tool's name, or the beginning of tool names: `fetch_*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// The name, or its beginning.
    front: String,
    /// True for a beginning.
    open: bool,
}

impl Pattern {
    /// Parses `NAME` or `FRONT*`.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let (front, open) = match text.strip_suffix('*') {
            Some(front) => (front, true),
            None => (text, false),
        };
        if front.contains('*') || (!open && front.is_empty()) {
            return None;
        }
        Some(Self { front: front.to_owned(), open })
    }

    /// Whether the tool matches. Case and surrounding blanks are ignored, because agents differ in
    /// them.
    #[must_use]
    pub fn is_of(&self, tool: &str) -> bool {
        let tool = tool.trim_matches(|edge: char| edge.is_whitespace() || edge.is_control());
        let (tool, front) = (tool.to_lowercase(), self.front.to_lowercase());
        if self.open { tool.starts_with(&front) } else { tool == front }
    }
}

/// A destination in a call that is not controlled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallDestination {
    /// The destination as the call has it.
    pub target: String,
    /// Why it is not controlled.
    pub reason: &'static str,
}

impl CallDestination {
    /// A destination that parsers do not agree on.
    fn unreadable(target: &str) -> Self {
        Self { target: target.to_owned(), reason: Uncontrolled::UNREADABLE }
    }
}

/// The first destination in a call that is not controlled.
#[must_use]
pub fn leads(
    arguments: Arguments<'_>,
    policy: &EgressPolicy,
    restrictions: &TokenRestrictions,
) -> Option<CallDestination> {
    let bench = Bench { policy, restrictions, nested: 0 };
    match arguments {
        // Free text has no argument names, so every word that could be a host counts.
        Arguments::Text(text) => bench.text(text).or_else(|| bench.words(text)),
        Arguments::Json(bytes) if bytes.trim_ascii().is_empty() => None,
        Arguments::Json(bytes) => match json::parse(bytes, &Limits::deep(DEPTH_MAX)) {
            // How the agent's parser reads it is not known, so the call is refused.
            Err(_) => Some(CallDestination::unreadable("what is no strict JSON")),
            // Named values first; then the values outside any object, which have no name.
            Ok(value) => bench.value(&value, None).or_else(|| bench.unnamed(&value)),
        },
    }
}

/// What a search in one call needs.
struct Bench<'j> {
    policy: &'j EgressPolicy,
    restrictions: &'j TokenRestrictions,
    /// How many texts this one is nested in.
    nested: usize,
}

impl Bench<'_> {
    /// The first such destination in a value. `under` is the nearest argument name under which a
    /// destination is expected.
    fn value(&self, value: &Value<'_>, under: Option<&str>) -> Option<CallDestination> {
        match value {
            Value::Null | Value::Bool(_) => None,
            Value::Number(text) => self.number(text, under?),
            Value::String(text) => self.string(text, under),
            Value::Array(items) => items.iter().find_map(|item| self.value(item, under)),
            Value::Object(object) => {
                object.iter().find_map(|(key, value)| self.member(key, value, under))
            }
        }
    }

    /// Evaluates a number under the name `key`. Some clients accept an IPv4 address as one number:
    /// 2130706433 is 127.0.0.1.
    fn number(&self, text: &str, key: &str) -> Option<CallDestination> {
        let number: f64 = text.parse().ok()?;
        let is_large = number >= ADDRESS_MIN && (is_place(key) || is_in(key, &NUMBERS));
        // The address 0.0.0.0 leads to this machine on many systems.
        if is_large || (number == 0.0 && holds_a_host(key)) {
            return self.bare(text, key);
        }
        None
    }

    /// The first such destination in a text.
    fn string(&self, text: &str, under: Option<&str>) -> Option<CallDestination> {
        if let Some(found) = self.text(text) {
            return Some(found);
        }
        if let Some(key) = under
            && let Some(found) = self.bare(text, key)
        {
            return Some(found);
        }
        self.inside(text, under)
    }

    /// The first such destination in a member of an object.
    fn member(&self, key: &str, value: &Value<'_>, under: Option<&str>) -> Option<CallDestination> {
        if let Some(found) = self.text(key) {
            return Some(found);
        }
        // A key can be the host itself: `{"hosts":{"evil.example":{}}}`.
        if let Some(under) = under
            && is_dotted(key)
            && let Some(found) = self.bare(key, under)
        {
            return Some(found);
        }
        // The name is inherited by nested values, until another name for a destination replaces it.
        self.value(value, if names_a_place(key) { Some(key) } else { under })
    }

    /// A destination in a text that is itself a JSON document. Tools, and programs that pass calls
    /// to them, parse such texts.
    fn inside(&self, text: &str, under: Option<&str>) -> Option<CallDestination> {
        let text = text.trim();
        if !text.starts_with(['{', '[', '"']) {
            return None;
        }
        match json::parse(text.as_bytes(), &Limits::deep(DEPTH_MAX)) {
            // Bounded, so that nested escaping cannot make the work grow without limit.
            Ok(_) if self.nested >= NESTED_MAX => Some(CallDestination::unreadable(SOME_JSON)),
            Ok(value) => Bench { nested: self.nested + 1, ..*self }.value(&value, under),
            // A lenient parser could still decode these escapes, and so find a URL that the scan of
            // the text does not see.
            Err(_) if text.contains("\\u") => Some(CallDestination::unreadable(SOME_JSON)),
            Err(_) => None,
        }
    }

    /// The first such host in values without an argument name.
    fn unnamed(&self, value: &Value<'_>) -> Option<CallDestination> {
        match value {
            Value::String(text) => self.words(text),
            Value::Array(items) => items.iter().find_map(|item| self.unnamed(item)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
        }
    }

    /// The first such URL anywhere in a text, in every form that it may have there. The text is
    /// also read without tabs and line feeds, because parsers of the URL Standard remove them
    /// (section 4.4).
    fn text(&self, text: &str) -> Option<CallDestination> {
        if let Some(odd) = userinfo(text) {
            return Some(CallDestination::unreadable(odd));
        }
        let trimmed = text.trim();
        if is_share(trimmed) || begins_with_scheme(trimmed) {
            return self.judged(trimmed);
        }
        // Two readings: one of a parser that keeps tabs and line feeds, and one of a parser that
        // removes them.
        if let Some(found) = self.mentioned(text) {
            return Some(found);
        }
        if !text.contains(['\t', '\n', '\r']) {
            return None;
        }
        self.mentioned(&text.replace(['\t', '\n', '\r'], ""))
    }

    /// The first such URL that is in a text as it is.
    fn mentioned(&self, text: &str) -> Option<CallDestination> {
        for mention in mentions(text) {
            let found = match &mention.url {
                Ok(url) => self.judged(url),
                Err(odd) => Some(CallDestination::unreadable(odd)),
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Evaluates one URL.
    fn judged(&self, url: &str) -> Option<CallDestination> {
        // The list of the egress proxy applies, because a tool connects from the agent's side.
        let why = self.policy.evaluate(Use::Tunnel, url, self.restrictions).err()?;
        Some(CallDestination { target: url.to_owned(), reason: why.as_str() })
    }

    /// Evaluates a whole text where a destination is expected: a URL or a bare host. A bare host is
    /// tried with both schemes, because a tool may use either.
    fn bare(&self, text: &str, key: &str) -> Option<CallDestination> {
        let text = text.trim();
        // Such characters make a text unreadable, so the shortcuts below do not apply to it.
        let plain = !text.contains('\\') && !text.chars().any(char::is_control);
        // A title under such a name, for example a link's text, is not a destination.
        let dotted = text.split_whitespace().any(is_dotted)
            || text.contains([':', '/', '%'])
            || !text.is_ascii();
        let number = text.starts_with(|first: char| first.is_ascii_digit());
        let word = !dotted && !number && !text.eq_ignore_ascii_case(HERE);
        let nowhere = NOWHERE.contains(&&*text.to_ascii_lowercase()) || text == "about:blank";
        let title = word && !surely_names_a_place(key);
        // A path without a host stays at the page that it is on, except where only a host is
        // expected.
        if text.is_empty() || nowhere || plain && (title || (is_path(text) && !holds_a_host(key))) {
            return None;
        }
        if ["http:", "https:"].iter().any(|scheme| strip_front(text, scheme).is_some()) {
            return self.judged(text);
        }
        ["https", "http"].into_iter().find_map(|scheme| self.judged(&format!("{scheme}://{text}")))
    }

    /// The first such host among the words of free text.
    fn words(&self, text: &str) -> Option<CallDestination> {
        let words = text.split(|character: char| {
            character.is_whitespace() || "\"'`<>()|;,=".contains(character)
        });
        for word in words {
            if is_dotted(word)
                && !word.contains("://")
                && let Some(found) = self.bare(word, "")
            {
                return Some(found);
            }
        }
        None
    }
}

/// Whether the text names a file share on another machine (UNC path).
fn is_share(text: &str) -> bool {
    let rest = text.strip_prefix("\\\\");
    rest.is_some_and(|rest| rest.starts_with(char::is_alphanumeric))
}

/// Whether the text begins with a scheme that is a word inside a text.
fn begins_with_scheme(text: &str) -> bool {
    for scheme in SPECIAL {
        if !scheme.starts_with("http")
            && let Some(rest) = strip_front(text, scheme)
            && let Some(rest) = rest.strip_prefix(':')
            && rest.starts_with(|next: char| !next.is_whitespace())
        {
            return true;
        }
    }
    false
}

/// Whether the text is a scheme of the URL Standard.
fn is_scheme(text: &str) -> bool {
    SPECIAL.iter().any(|scheme| text.eq_ignore_ascii_case(scheme))
}

/// The text between the slashes of a URL (or the colon, where a URL has no slashes) and an `@`. URL
/// parsers take the part after the `@` for the host (URL Standard section 4.4), and tools differ in
/// where a URL begins and ends. So any text between the two counts.
fn userinfo(text: &str) -> Option<&str> {
    /// The state: outside, after slashes, or inside from a byte offset. The flag tells whether a
    /// scheme is before the slashes.
    enum At {
        Out,
        Slashes(bool),
        Open(usize, bool),
    }
    let (mut place, mut word, mut last, mut before) = (At::Out, 0, ' ', ' ');
    for (at, next) in text.char_indices() {
        // URL parsers skip further slashes and blanks of this kind, so the authority begins after
        // all of them.
        place = match place {
            At::Slashes(schemed) if matches!(next, '/' | '\\' | '\t' | '\n' | '\r') => {
                At::Slashes(schemed)
            }
            At::Slashes(schemed) => At::Open(at, schemed),
            open @ (At::Out | At::Open(..)) => open,
        };
        if let At::Open(from, schemed) = place {
            match next {
                // `//a[@href='/x']` is XPath, not a user name. With a scheme it is a URL in any
                // case.
                '@' if !schemed
                    && last == '['
                    && is_attribute(text.get(at + 1..).unwrap_or_default()) =>
                {
                    place = At::Out
                }
                '@' => return text.get(from..)?.split(['/', '?', '#']).next(),
                // Here the authority ends, so a later `@` belongs to the path.
                '/' | '?' | '#' => place = At::Out,
                _ => {}
            }
        }
        // Two slashes begin an authority, also without a scheme (`//host`).
        if matches!(place, At::Out) && last == '/' && next == '/' {
            place = At::Slashes(before == ':');
        } else if matches!(place, At::Out)
            && next == ':'
            && let Some(word) = text.get(word..at)
            && is_scheme(word)
        {
            // `https:host` without slashes is a URL for parsers of the URL Standard.
            place = At::Slashes(true);
        }
        if !next.is_ascii_alphanumeric() {
            word = at + next.len_utf8();
        }
        (before, last) = (last, next);
    }
    None
}

/// Whether the text is the name of an attribute in an XPath predicate, which begins with `[@`.
fn is_attribute(text: &str) -> bool {
    let name = text.trim_start_matches(|next: char| {
        next.is_ascii_alphanumeric() || matches!(next, '-' | '_' | ':')
    });
    name.len() < text.len() && ["=\'", "=\"", "]", ",", " "].iter().any(|end| name.starts_with(end))
}

/// Whether the text has a dot that is not at its ends.
fn is_dotted(text: &str) -> bool {
    text.trim_matches('.').contains('.')
}

/// The text after a prefix, which is compared without case.
fn strip_front<'t>(text: &'t str, front: &str) -> Option<&'t str> {
    let (own, rest) = text.split_at_checked(front.len())?;
    if own.eq_ignore_ascii_case(front) { Some(rest) } else { None }
}

/// Whether the text stays at the page that it is on. Its first segment must not be a possible host,
/// because a tool could write a scheme before it.
fn is_path(text: &str) -> bool {
    let mut rest = text.chars();
    let (first, rest) = (rest.next(), rest.as_str());
    let step = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = step.contains(['.', ':', '%'])
        || !step.is_ascii()
        || step.eq_ignore_ascii_case("localhost")
        || (!step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit()));
    match first {
        Some('?' | '#') => true,
        Some('/') => !rest.starts_with('/') && !host,
        _ => false,
    }
}

/// Whether only a host is expected under that name.
fn holds_a_host(key: &str) -> bool {
    is_in(key, &HOSTS) || key.eq_ignore_ascii_case("ip")
}

/// Whether the name means a destination and has no other words (`ip`, not `site_id`).
fn is_place(key: &str) -> bool {
    let key = key.to_lowercase();
    PLACES.contains(&&*key) || WORDS.contains(&&*key)
}

/// Whether a word of a name begins or ends with one of `parts` (`imageurl`, `hostname`, `urls`).
fn is_in(key: &str, parts: &[&str]) -> bool {
    words_of(key).iter().any(|word| is_of(word, parts))
}

/// Whether a word begins or ends with one of `parts`, and is not in `OTHERS`.
fn is_of(word: &str, parts: &[&str]) -> bool {
    let one = singular(word);
    !OTHERS.contains(&one) && parts.iter().any(|part| word.starts_with(part) || one.ends_with(part))
}

/// The word without a final `s`.
fn singular(word: &str) -> &str {
    word.strip_suffix('s').unwrap_or(word)
}

/// Whether a destination is expected under that name (`base_url`, `targetHost`, `imageurl`, `src`).
fn names_a_place(key: &str) -> bool {
    words_of(key).iter().any(|word| is_of(word, &PLACES) || WORDS.contains(&singular(word)))
}

/// Whether any word under that name is a host, which the last word of the name decides
/// (`proxy_host`, not `host_language`).
fn surely_names_a_place(key: &str) -> bool {
    match words_of(key).last() {
        Some(word) => is_of(word, &SURELY),
        None => false,
    }
}

/// The words of a name, in lower case. They end at separators and before capitals (`targetHost`).
fn words_of(key: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut lower = false;
    for character in key.chars() {
        if !character.is_alphanumeric() || character.is_uppercase() && lower {
            words.push(String::new());
        }
        lower = character.is_lowercase();
        if character.is_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.extend(character.to_lowercase());
        }
    }
    // Numbers are left out: `url2` and `url_2` mean the same as `url`.
    words.retain(|word| !word.is_empty() && !word.bytes().all(|byte| byte.is_ascii_digit()));
    words
}

#[cfg(test)]
mod tests;
