//! What a tool call would make the agent reach, of the tools that the config names in `fetch_tools`. A call is judged whole: it goes on
//! as it is, or the answer ends.

use crate::guard::egress::judge::{Judge, Narrowing, Uncontrolled, Use};
use crate::guard::egress::text::{Found, SPECIAL, Scanner, Verdict};
use crate::json::{self, Limits, Value};
use crate::model::tools::Arguments;

/// Depth of what a tool is called with.
const DEPTH_MAX: usize = 64;

/// What is in the names of arguments that say that a place belongs there, even where it is written without a scheme.
const PLACES: [&str; 10] = ["domain", "endpoint", "host", "href", "hyperlink", "proxy", "uri", "url", "webhook", "website"];
/// Words of such names.
const WORDS: [&str; 8] = ["base", "ip", "link", "links", "origin", "server", "site", "src"];
/// Numbers from here on are addresses as well as others: none that is public is below.
const ADDRESS_MIN: f64 = 16_777_216.0;
/// What is in the names of arguments under which a number is a place too.
const NUMBERS: [&str; 4] = ["host", "uri", "url", "domain"];

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
            Ok(value) => bench.value(&value, None),
        },
    }
}

struct Bench<'j> {
    judge: &'j Judge,
    narrowing: &'j Narrowing,
}

impl Bench<'_> {
    /// The first of them in a value. `under` is the name that says that one belongs there.
    fn value(&self, value: &Value<'_>, under: Option<&str>) -> Option<Led> {
        match value {
            Value::Null | Value::Bool(_) => None,
            Value::Number(text) => {
                let large = text.parse().is_ok_and(|number: f64| number >= ADDRESS_MIN);
                under.filter(|key| large && is_place(key) || is_in(key, &NUMBERS)).and_then(|_| self.bare(text))
            }
            Value::String(text) => self.text(text).or_else(|| under.and_then(|_| self.bare(text))),
            Value::Array(items) => items.iter().find_map(|item| self.value(item, under)),
            Value::Object(object) => object.iter().find_map(|(key, value)| {
                self.text(key).or_else(|| self.value(value, if names_a_place(key) { Some(key) } else { under }))
            }),
        }
    }

    /// URLs anywhere in a text, whatever form they have there, also as readers have them who leave out tabs and line feeds (URL Standard
    /// section 4.4).
    fn text(&self, text: &str) -> Option<Led> {
        if let Some(odd) = userinfo(text) {
            return Some(Led { target: odd.to_owned(), reason: Uncontrolled::UNREADABLE });
        }
        let without: String = text.chars().filter(|character| !matches!(character, '\t' | '\n' | '\r')).collect();
        self.scanned(text).or_else(|| (without.len() != text.len()).then(|| self.scanned(&without)).flatten())
    }

    fn scanned(&self, text: &str) -> Option<Led> {
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

    /// A text where a place belongs, whole: a URL, or a host as it is, which some reach in the clear and some not.
    fn bare(&self, text: &str) -> Option<Led> {
        let text = text.trim();
        let inside = text.strip_prefix(['/', '?', '#']).is_some_and(|rest| !rest.starts_with(['/', '\\']));
        let plain = !text.contains('\\') && !text.chars().any(char::is_control);
        if text.is_empty() || inside && plain {
            return None;
        }
        if ["http:", "https:"]
            .iter()
            .any(|scheme| text.get(..scheme.len()).is_some_and(|front| front.eq_ignore_ascii_case(scheme)))
        {
            return self.judged(text);
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

/// What stands between the slashes of a URL, or the colon of one without, and an `@`, whatever it is: the host stands behind that for
/// readers of URLs (URL Standard section 4.4), and a tool has its own idea of where a URL begins and ends.
fn userinfo(text: &str) -> Option<&str> {
    let schemes = text.match_indices(':').filter_map(|(at, _)| {
        let word = text.get(..at)?.rsplit(|before: char| !before.is_ascii_alphanumeric()).next()?;
        SPECIAL.iter().any(|scheme| word.eq_ignore_ascii_case(scheme)).then_some(at + 1)
    });
    let slashes = text.match_indices("//").map(|(at, _)| at + 2);
    schemes.chain(slashes).find_map(|from| {
        let rest = text.get(from..)?.trim_start_matches(['/', '\\', '\t', '\n', '\r']);
        let stretch = rest.split(['/', '?', '#']).next()?;
        stretch.contains('@').then_some(stretch)
    })
}

/// Whether it is the name of a place and of nothing else (`ip`, not `site_id`).
fn is_place(key: &str) -> bool {
    let key = key.to_lowercase();
    PLACES.contains(&&*key) || WORDS.contains(&&*key)
}

fn is_in(key: &str, parts: &[&str]) -> bool {
    let key = key.to_lowercase();
    parts.iter().any(|part| key.contains(part))
}

/// Whether a place belongs under that name (`base_url`, `targetHost`, `imageurl`, `src`).
fn names_a_place(key: &str) -> bool {
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
    is_in(key, &PLACES) || words.iter().any(|word| WORDS.contains(&word.as_str()))
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
        check(r#"{"site_id":5,"server_timeout":30,"note":"https://good.example/ is\n a page"}"#, None);
        for evil in [
            r#"{"url":"https://evil.example"}"#,
            r#"{"url":"evil.example/x"}"#,
            r#"{"url":"  evil.example"}"#,
            r#"{"anything":"see http://evil.example/"}"#,
            r#"{"deep":[{"er":["https://evil.example"]}]}"#,
            r#"{"https://evil.example":1}"#,
            r#"{"hostname":"evil.example"}"#,
            r#"{"baseurl":"evil.example"}"#,
            r#"{"imageURLs":["evil.example"]}"#,
            r#"{"src":"evil.example"}"#,
            r#"{"page":"https://\tevil.example/"}"#,
            r#"{"page":"https:/\n/evil.example"}"#,
            r#"{"page":"https://good.example\t.evil.example/"}"#,
            r#"{"targetHost":"evil.example"}"#,
            r#"{"server":{"name":"evil.example"}}"#,
            r#"{"link":"api.good.example"}"#,
            r#"{"URL":"good.example:8443"}"#,
        ] {
            check(evil, Some("not-listed"));
        }
        check(r#"{"host":"10.0.0.1"}"#, Some("address"));
        check(r#"{"site_id":123456789,"server_time":1764000000,"ip":4}"#, None);
        check(r#"{"note":"https://good.example/ is by me@good.example"}"#, None);
        for odd in [
            r#"{"page":"https://^@evil.example/"}"#,
            r#"{"page":"https:// @evil.example/"}"#,
            r#"{"page":"http: @evil.example/"}"#,
            r#"{"page":"https://good.example |@evil.example/"}"#,
            r#"{"page":"https://good.example.\u339d\u338f.\u33cc/x"}"#,
            r#"{"ip":2130706433}"#,
            r#"{"server":3627734734}"#,
            r#"{"host":2130706433}"#,
            r#"{"url":"https://good.example@evil.example/"}"#,
            r#"{"url":"//evil.example"}"#,
            r#"{"url":"/\\evil.example"}"#,
            r#"{"url":"\\\\evil.example\\share"}"#,
            r#"{"url":"javascript:fetch('x')"}"#,
            r#"{"url":"file:///etc/passwd"}"#,
            r#"{"url":"the red button"}"#,
            r#"{"url":"https:// evil.example"}"#,
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
        assert!(found("curl https://^@evil.example/x") && found("see https: @evil.example"));
    }

    #[test]
    fn tools_are_named_whole_or_by_their_beginning() {
        let is_of = |pattern: &str, tool| Pattern::read(pattern).map(|pattern| pattern.is_of(tool));
        assert_eq!(is_of("fetch", "Fetch"), Some(true));
        assert_eq!(is_of("fetch", " fetch\n"), Some(true));
        assert_eq!(is_of("fetch", "fetch_all"), Some(false));
        assert_eq!(is_of("fetch*", "fetch_all"), Some(true));
        assert_eq!(is_of("*", "anything"), Some(true));
        assert_eq!(is_of("f*h", "fetch"), None);
        assert_eq!(is_of("", ""), None);
    }
}
