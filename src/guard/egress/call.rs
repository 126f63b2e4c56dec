//! What a tool call would make the agent reach, of the tools that the config names in `fetch_tools`. A call is judged whole: it goes on
//! as it is, or the answer ends.

use crate::guard::egress::policy::{EgressPolicy, TokenRestrictions, Uncontrolled, Use};
use crate::guard::egress::text::{Found, SPECIAL, Scanner, Verdict};
use crate::json::{self, Limits, Value};
use crate::model::tools::Arguments;

/// Depth of what a tool is called with.
const DEPTH_MAX: usize = 64;

/// What is in the names of arguments that say that a place belongs there, even where it is written without a scheme.
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
/// Words of such names.
const WORDS: [&str; 7] = ["base", "ip", "link", "origin", "server", "site", "src"];
/// Words of names under which any word is a host. Elsewhere it has a dot, or is one of `HERE`.
const SURELY: [&str; 8] =
    ["endpoint", "host", "href", "hyperlink", "proxy", "uri", "url", "webhook"];
/// Words that begin or end as those do, and mean something else.
const OTHERS: [&str; 10] =
    ["curl", "furl", "ghost", "hostage", "hostel", "hostile", "hurl", "purl", "unfurl", "urine"];
/// What stands for no place at all.
const NOWHERE: [&str; 10] =
    ["auto", "default", "direct", "false", "no", "none", "null", "off", "true", "yes"];
/// A host without a dot whoever asks.
const HERE: &str = "localhost";
/// Numbers from here on are addresses as well as others: none that is public is below.
const ADDRESS_MIN: f64 = 16_777_216.0;
/// What is in the names of arguments under which a number is a place too.
const NUMBERS: [&str; 4] = ["host", "uri", "url", "domain"];
/// What is in the names of arguments that hold a host and nothing else.
const HOSTS: [&str; 2] = ["host", "domain"];
/// How often a text in a text is read.
const NESTED_MAX: usize = 4;

/// A tool's name, or the beginning of names: `fetch_*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    front: String,
    open: bool,
}

impl Pattern {
    /// Reads `NAME` or `FRONT*`.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let (front, open) = text.strip_suffix('*').map_or((text, false), |front| (front, true));
        (!front.contains('*') && (open || !front.is_empty()))
            .then(|| Self { front: front.to_owned(), open })
    }

    /// Whether it is that tool's. Names are compared without regard to case and to blanks around them: agents differ in theirs.
    #[must_use]
    pub fn is_of(&self, tool: &str) -> bool {
        let tool = tool.trim_matches(|edge: char| edge.is_whitespace() || edge.is_control());
        let (tool, front) = (tool.to_lowercase(), self.front.to_lowercase());
        if self.open { tool.starts_with(&front) } else { tool == front }
    }
}

/// A place that a call names and that is not controlled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallDestination {
    /// What is named.
    pub target: String,
    /// Why it is not controlled.
    pub reason: &'static str,
}

/// The first place that a call names and that is not controlled.
#[must_use]
pub fn leads(
    arguments: Arguments<'_>,
    policy: &EgressPolicy,
    restrictions: &TokenRestrictions,
) -> Option<CallDestination> {
    let bench = Bench { policy, restrictions, nested: 0 };
    match arguments {
        Arguments::Text(text) => bench.text(text).or_else(|| bench.words(text)),
        Arguments::Json(bytes) if bytes.trim_ascii().is_empty() => None,
        Arguments::Json(bytes) => match json::parse(bytes, &Limits::deep(DEPTH_MAX)) {
            // What the agent's reader makes of it nobody knows.
            Err(_) => Some(CallDestination {
                target: "what is no strict JSON".to_owned(),
                reason: Uncontrolled::UNREADABLE,
            }),
            Ok(value) => bench.value(&value, None).or_else(|| bench.unnamed(&value)),
        },
    }
}

struct Bench<'j> {
    policy: &'j EgressPolicy,
    restrictions: &'j TokenRestrictions,
    /// Of how many texts this one is a part.
    nested: usize,
}

impl Bench<'_> {
    /// The first of them in a value. `under` is the name that says that one belongs there.
    fn value(&self, value: &Value<'_>, under: Option<&str>) -> Option<CallDestination> {
        match value {
            Value::Null | Value::Bool(_) => None,
            Value::Number(text) => {
                let number: f64 = text.parse().unwrap_or(f64::NAN);
                let large =
                    |key: &str| number >= ADDRESS_MIN && (is_place(key) || is_in(key, &NUMBERS));
                // Zero is this machine.
                let is_address = |key: &&str| large(key) || (number == 0.0 && holds_a_host(key));
                under.filter(is_address).and_then(|key| self.bare(text, key))
            }
            Value::String(text) => self
                .text(text)
                .or_else(|| under.and_then(|key| self.bare(text, key)))
                .or_else(|| self.inside(text, under)),
            Value::Array(items) => items.iter().find_map(|item| self.value(item, under)),
            Value::Object(object) => object.iter().find_map(|(key, value)| {
                let place = under.filter(|_| is_dotted(key));
                let named =
                    self.text(key).or_else(|| place.and_then(|under| self.bare(key, under)));
                named.or_else(|| {
                    self.value(value, if names_a_place(key) { Some(key) } else { under })
                })
            }),
        }
    }

    /// What a text holds that is a document itself: tools, and those who hand calls to them, read such texts.
    fn inside(&self, text: &str, under: Option<&str>) -> Option<CallDestination> {
        let text = text.trim();
        if !text.starts_with(['{', '[', '"']) {
            return None;
        }
        let odd = || {
            Some(CallDestination {
                target: "a text that reads as JSON to some".to_owned(),
                reason: Uncontrolled::UNREADABLE,
            })
        };
        match json::parse(text.as_bytes(), &Limits::deep(DEPTH_MAX)) {
            Ok(_) if self.nested >= NESTED_MAX => odd(),
            Ok(value) => Bench { nested: self.nested + 1, ..*self }.value(&value, under),
            Err(_) if text.contains("\\u") => odd(),
            Err(_) => None,
        }
    }

    /// Hosts in what has no name that says what it is.
    fn unnamed(&self, value: &Value<'_>) -> Option<CallDestination> {
        match value {
            Value::String(text) => self.words(text),
            Value::Array(items) => items.iter().find_map(|item| self.unnamed(item)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
        }
    }

    /// URLs anywhere in a text, whatever form they have there, also as readers have them who leave out tabs and line feeds (URL Standard
    /// section 4.4).
    fn text(&self, text: &str) -> Option<CallDestination> {
        if let Some(odd) = userinfo(text) {
            return Some(CallDestination {
                target: odd.to_owned(),
                reason: Uncontrolled::UNREADABLE,
            });
        }
        let trimmed = text.trim();
        // A share of another machine; and what the scanner takes for words out in a text.
        let share = trimmed
            .strip_prefix("\\\\")
            .is_some_and(|rest| rest.starts_with(char::is_alphanumeric));
        let schemed = SPECIAL
            .iter()
            .filter(|scheme| !scheme.starts_with("http"))
            .filter_map(|scheme| strip_front(trimmed, scheme)?.strip_prefix(':'));
        if share
            || schemed.into_iter().any(|rest| rest.starts_with(|next: char| !next.is_whitespace()))
        {
            return self.judged(trimmed);
        }
        let without: String =
            text.chars().filter(|character| !matches!(character, '\t' | '\n' | '\r')).collect();
        self.scanned(text)
            .or_else(|| (without.len() != text.len()).then(|| self.scanned(&without)).flatten())
    }

    fn scanned(&self, text: &str) -> Option<CallDestination> {
        let (mut outbound, mut out, mut scanner) = (None, String::new(), Scanner::new(false));
        let mut judged = |found: &Found<'_>| {
            let judged = found.url.map(|url| self.judged(url));
            outbound = outbound.take().or(match judged {
                Ok(outbound) => outbound,
                Err(odd) => Some(CallDestination {
                    target: odd.to_owned(),
                    reason: Uncontrolled::UNREADABLE,
                }),
            });
            Verdict::Pass
        };
        scanner.push(text, &mut out, &mut judged);
        scanner.pause(&mut out, &mut judged);
        outbound
    }

    fn judged(&self, url: &str) -> Option<CallDestination> {
        let why = self.policy.evaluate(Use::Tunnel, url, self.restrictions).err()?;
        Some(CallDestination { target: url.to_owned(), reason: why.as_str() })
    }

    /// A text where a place belongs, whole: a URL, or a host as it is, which some reach in the clear and some not.
    fn bare(&self, text: &str, key: &str) -> Option<CallDestination> {
        let text = text.trim();
        let plain = !text.contains('\\') && !text.chars().any(char::is_control);
        // What a link is called is no link.
        let dotted = text.split_whitespace().any(is_dotted)
            || text.contains([':', '/', '%'])
            || !text.is_ascii();
        let number = text.starts_with(|first: char| first.is_ascii_digit());
        let word = !dotted && !number && !text.eq_ignore_ascii_case(HERE);
        let nothing = NOWHERE.contains(&&*text.to_ascii_lowercase()) || text == "about:blank";
        let title = word && !surely_names_a_place(key);
        if text.is_empty() || nothing || plain && (title || (is_path(text) && !holds_a_host(key))) {
            return None;
        }
        if ["http:", "https:"].iter().any(|scheme| strip_front(text, scheme).is_some()) {
            return self.judged(text);
        }
        ["https", "http"].into_iter().find_map(|scheme| self.judged(&format!("{scheme}://{text}")))
    }

    /// Words of a text of no form that could be hosts.
    fn words(&self, text: &str) -> Option<CallDestination> {
        let words = text.split(|character: char| {
            character.is_whitespace() || "\"'`<>()|;,=".contains(character)
        });
        let is_host = |word: &&str| word.trim_matches('.').contains('.') && !word.contains("://");
        words.filter(is_host).find_map(|word| self.bare(word, ""))
    }
}

/// What stands between the slashes of a URL, or the colon of one without, and an `@`, whatever it is: the host stands behind that for
/// readers of URLs (URL Standard section 4.4), and a tool has its own idea of where a URL begins and ends.
fn userinfo(text: &str) -> Option<&str> {
    /// Behind the slashes of a URL, and where what they open begins; whether a scheme stands before them.
    enum At {
        Out,
        Slashes(bool),
        Open(usize, bool),
    }
    let (mut place, mut word, mut last, mut before) = (At::Out, 0, ' ', ' ');
    for (at, next) in text.char_indices() {
        place = match place {
            At::Slashes(schemed) if matches!(next, '/' | '\\' | '\t' | '\n' | '\r') => {
                At::Slashes(schemed)
            }
            At::Slashes(schemed) => At::Open(at, schemed),
            open @ (At::Out | At::Open(..)) => open,
        };
        if let At::Open(from, schemed) = place {
            match next {
                '@' if !schemed
                    && last == '['
                    && is_attribute(text.get(at + 1..).unwrap_or_default()) =>
                {
                    place = At::Out
                }
                '@' => {
                    return text
                        .get(from..)
                        .and_then(|stretch| stretch.split(['/', '?', '#']).next());
                }
                '/' | '?' | '#' => place = At::Out,
                _ => {}
            }
        }
        let schemed = || {
            text.get(word..at)
                .is_some_and(|word| SPECIAL.iter().any(|scheme| word.eq_ignore_ascii_case(scheme)))
        };
        if matches!(place, At::Out) && last == '/' && next == '/' {
            place = At::Slashes(before == ':');
        } else if matches!(place, At::Out) && next == ':' && schemed() {
            place = At::Slashes(true);
        }
        if !next.is_ascii_alphanumeric() {
            word = at + next.len_utf8();
        }
        (before, last) = (last, next);
    }
    None
}

/// Whether it is the name of an attribute in a predicate of XPath, which begins with `[@`.
fn is_attribute(text: &str) -> bool {
    let name = text.trim_start_matches(|next: char| {
        next.is_ascii_alphanumeric() || matches!(next, '-' | '_' | ':')
    });
    name.len() < text.len() && ["=\'", "=\"", "]", ",", " "].iter().any(|end| name.starts_with(end))
}

/// Whether a dot stands in it, and not at its ends alone.
fn is_dotted(text: &str) -> bool {
    text.trim_matches('.').contains('.')
}

/// What stands behind a front, in whichever case that is written.
fn strip_front<'t>(text: &'t str, front: &str) -> Option<&'t str> {
    text.split_at_checked(front.len())
        .filter(|(own, _)| own.eq_ignore_ascii_case(front))
        .map(|(_, rest)| rest)
}

/// Whether it stays where a page is: its first step could be no host for who writes a scheme before it.
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

/// Whether a host and nothing else belongs under that name.
fn holds_a_host(key: &str) -> bool {
    is_in(key, &HOSTS) || key.eq_ignore_ascii_case("ip")
}

/// Whether it is the name of a place and of nothing else (`ip`, not `site_id`).
fn is_place(key: &str) -> bool {
    let key = key.to_lowercase();
    PLACES.contains(&&*key) || WORDS.contains(&&*key)
}

/// Whether a word of a name begins or ends with one of `parts` (`imageurl`, `hostname`, `urls`).
fn is_in(key: &str, parts: &[&str]) -> bool {
    words_of(key).iter().any(|word| is_of(word, parts))
}

fn is_of(word: &str, parts: &[&str]) -> bool {
    let one = singular(word);
    !OTHERS.contains(&one) && parts.iter().any(|part| word.starts_with(part) || one.ends_with(part))
}

fn singular(word: &str) -> &str {
    word.strip_suffix('s').unwrap_or(word)
}

/// Whether a place belongs under that name (`base_url`, `targetHost`, `imageurl`, `src`).
fn names_a_place(key: &str) -> bool {
    words_of(key).iter().any(|word| is_of(word, &PLACES) || WORDS.contains(&singular(word)))
}

/// Whether any word under that name is a host: it is what the name ends with (`proxy_host`, not `host_language`).
fn surely_names_a_place(key: &str) -> bool {
    words_of(key).last().is_some_and(|word| is_of(word, &SURELY))
}

/// The words that a name is made of, in lower case.
fn words_of(key: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut lower = false;
    for character in key.chars() {
        if !character.is_alphanumeric() || character.is_uppercase() && lower {
            words.push(String::new());
        }
        lower = character.is_lowercase();
        if let Some(word) = words.last_mut().filter(|_| character.is_alphanumeric()) {
            word.extend(character.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty() && !word.bytes().all(|byte| byte.is_ascii_digit()));
    words
}

#[cfg(test)]
mod tests;
