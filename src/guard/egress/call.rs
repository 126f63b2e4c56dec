//! What a tool call would make the agent reach, of the tools that the config names in `fetch_tools`. A call is judged whole: it goes on
//! as it is, or the answer ends.

use crate::guard::egress::judge::{Judge, Narrowing, Uncontrolled, Use};
use crate::guard::egress::text::{Found, Scanner, Verdict};
use crate::json::{self, Limits, Value};
use crate::model::tools::Arguments;

/// Depth of what a tool is called with.
const DEPTH_MAX: usize = 64;

/// Words in the names of arguments that say that a place belongs there, even where it is written without a scheme.
const PLACES: [&str; 15] = [
    "base", "domain", "endpoint", "host", "hostname", "href", "link", "origin", "proxy", "server", "site", "uri", "url",
    "webhook", "website",
];

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
        (!front.contains('*') && (open || !front.is_empty())).then(|| Self { front: front.to_owned(), open })
    }

    /// Whether it is that tool's. Names are compared without regard to case: agents differ in theirs.
    #[must_use]
    pub fn is_of(&self, tool: &str) -> bool {
        let (tool, front) = (tool.to_lowercase(), self.front.to_lowercase());
        if self.open { tool.starts_with(&front) } else { tool == front }
    }
}

/// A place that a call names and that is not controlled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Led {
    /// What is named.
    pub target: String,
    /// Why it is not controlled.
    pub reason: &'static str,
}

/// The first place that a call names and that is not controlled.
#[must_use]
pub fn leads(arguments: Arguments<'_>, judge: &Judge, narrowing: &Narrowing) -> Option<Led> {
    let bench = Bench { judge, narrowing };
    match arguments {
        Arguments::Text(text) => bench.text(text).or_else(|| bench.words(text)),
        Arguments::Json(bytes) if bytes.trim_ascii().is_empty() => None,
        Arguments::Json(bytes) => match json::parse(bytes, &Limits::deep(DEPTH_MAX)) {
            // What the agent's reader makes of it nobody knows.
            Err(_) => Some(Led { target: "what is no strict JSON".to_owned(), reason: Uncontrolled::UNREADABLE }),
            Ok(value) => bench.value(&value, false),
        },
    }
}

struct Bench<'j> {
    judge: &'j Judge,
    narrowing: &'j Narrowing,
}

impl Bench<'_> {
    /// The first of them in a value. `place` says that one belongs there.
    fn value(&self, value: &Value<'_>, place: bool) -> Option<Led> {
        match value {
            Value::Null | Value::Bool(_) => None,
            Value::Number(text) => place.then(|| self.bare(text)).flatten(),
            Value::String(text) => self.text(text).or_else(|| place.then(|| self.bare(text)).flatten()),
            Value::Array(items) => items.iter().find_map(|item| self.value(item, place)),
            Value::Object(object) => {
                object.iter().find_map(|(key, value)| self.text(key).or_else(|| self.value(value, place || names_a_place(key))))
            }
        }
    }

    /// URLs anywhere in a text, whatever form they have there.
    fn text(&self, text: &str) -> Option<Led> {
        let (mut led, mut out, mut scanner) = (None, String::new(), Scanner::new(false));
        let mut judged = |found: &Found<'_>| {
            let judged = found.url.map(|url| self.judged(url));
            led = led.take().or(match judged {
                Ok(led) => led,
                Err(odd) => Some(Led { target: odd.to_owned(), reason: Uncontrolled::UNREADABLE }),
            });
            Verdict::Pass
        };
        scanner.push(text, &mut out, &mut judged);
        scanner.pause(&mut out, &mut judged);
        led
    }

    fn judged(&self, url: &str) -> Option<Led> {
        let why = self.judge.judge(Use::Tunnel, url, self.narrowing).err()?;
        Some(Led { target: url.to_owned(), reason: why.as_str() })
    }

    /// A text where a place belongs: a URL, which was judged already, or a host as it is, which some reach in the clear and some not.
    fn bare(&self, text: &str) -> Option<Led> {
        let text = text.trim();
        let inside = text.strip_prefix(['/', '?', '#']).is_some_and(|rest| !rest.starts_with(['/', '\\']));
        let plain = !text.contains('\\') && !text.chars().any(char::is_control);
        let scheme = |scheme: &str| text.get(..scheme.len()).is_some_and(|front| front.eq_ignore_ascii_case(scheme));
        if text.is_empty() || inside && plain || (scheme("http://") || scheme("https://")) {
            return if plain { None } else { Some(Led { target: text.to_owned(), reason: Uncontrolled::UNREADABLE }) };
        }
        ["https", "http"].into_iter().find_map(|scheme| self.judged(&format!("{scheme}://{text}")))
    }

    /// Words of a text of no form that could be hosts.
    fn words(&self, text: &str) -> Option<Led> {
        let words = text.split(|character: char| character.is_whitespace() || "\"'`<>()|;,=".contains(character));
        let is_host = |word: &&str| word.trim_matches('.').contains('.') && !word.contains("://");
        words.filter(is_host).find_map(|word| self.bare(word))
    }
}

/// Whether a place belongs under that name: one of its words says so (`base_url`, `targetHost`, `hostname`, `URLs`).
fn names_a_place(key: &str) -> bool {
    let (mut word, mut lower) = (String::new(), false);
    let mut found = false;
    let is_place = |word: &str| PLACES.contains(&word.trim_end_matches('s'));
    for character in key.chars() {
        let begins = !character.is_alphanumeric() || character.is_uppercase() && lower;
        if begins {
            found |= is_place(&word);
            word.clear();
        }
        lower = character.is_lowercase();
        if character.is_alphanumeric() {
            word.extend(character.to_lowercase());
        }
    }
    found || is_place(&word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::egress::judge::{Entry, Lists, Own};

    fn judge() -> Judge {
        let tunnel = ["good.example", "good.example:80", "api.good.example:8443"];
        let entry = |text: &&str| text.parse::<Entry>().expect("an entry");
        Judge::new(Lists { tunnel: tunnel.iter().map(entry).collect(), ..Lists::default() }, Own::default())
    }

    #[track_caller]
    fn check(arguments: &str, expect: Option<&str>) {
        let found = leads(Arguments::Json(arguments.as_bytes()), &judge(), &Narrowing::default());
        assert_eq!(found.map(|led| led.reason), expect, "{arguments}");
    }

    #[test]
    fn places_are_judged_wherever_they_stand() {
        check(r#"{"url":"https://good.example/a?b#c","n":3,"text":"a file.txt, e.g. this"}"#, None);
        check(r#"{"url":"good.example/a"}"#, None);
        check(r#"{"urls":["https://good.example/","good.example"],"path":"/etc/x"}"#, None);
        check(r#"{"base_url":"/a/b","url":"?q=1"}"#, None);
        check("", None);
        check("{}", None);
        for evil in [
            r#"{"url":"https://evil.example"}"#,
            r#"{"url":"evil.example/x"}"#,
            r#"{"url":"  evil.example"}"#,
            r#"{"anything":"see http://evil.example/"}"#,
            r#"{"deep":[{"er":["https://evil.example"]}]}"#,
            r#"{"https://evil.example":1}"#,
            r#"{"hostname":"evil.example"}"#,
            r#"{"targetHost":"evil.example"}"#,
            r#"{"server":{"name":"evil.example"}}"#,
            r#"{"link":"api.good.example"}"#,
            r#"{"URL":"good.example:8443"}"#,
        ] {
            check(evil, Some("not-listed"));
        }
        check(r#"{"host":"10.0.0.1"}"#, Some("address"));
        for odd in [
            r#"{"host":2130706433}"#,
            r#"{"url":"https://good.example@evil.example/"}"#,
            r#"{"url":"//evil.example"}"#,
            r#"{"url":"/\\evil.example"}"#,
            r#"{"url":"\\\\evil.example\\share"}"#,
            r#"{"url":"javascript:fetch('x')"}"#,
            r#"{"url":"file:///etc/passwd"}"#,
            r#"{"url":"the red button"}"#,
            r#"{"url":"https://good.example""#,
            r#"{"url":"https://good.example","url":"x"}"#,
            "evil",
        ] {
            let found = leads(Arguments::Json(odd.as_bytes()), &judge(), &Narrowing::default());
            assert!(found.is_some(), "{odd}");
        }
    }

    #[test]
    fn words_of_free_text_are_judged() {
        let found = |text| leads(Arguments::Text(text), &judge(), &Narrowing::default()).is_some();
        assert!(!found("GET good.example/x and nothing else"));
        assert!(found("curl evil.example/x") && found("curl 'https://evil.example'") && found("ping 10.0.0.1"));
    }

    #[test]
    fn tools_are_named_whole_or_by_their_beginning() {
        let is_of = |pattern: &str, tool| Pattern::read(pattern).map(|pattern| pattern.is_of(tool));
        assert_eq!(is_of("fetch", "Fetch"), Some(true));
        assert_eq!(is_of("fetch", "fetch_all"), Some(false));
        assert_eq!(is_of("fetch*", "fetch_all"), Some(true));
        assert_eq!(is_of("*", "anything"), Some(true));
        assert_eq!(is_of("f*h", "fetch"), None);
        assert_eq!(is_of("", ""), None);
    }
}
