//! The authority of a URL (RFC 3986 section 3.2), and the URLs that a text names. URL parsers
//! differ in where an authority ends. Where they could find different hosts, there is no host.

use std::ops::Range;

/// The schemes that the URL Standard calls special. A browser connects to their hosts.
pub(super) const SPECIAL: [&str; 6] = ["http", "https", "ws", "wss", "ftp", "file"];
/// The longest authority that is read.
const AUTHORITY_MAX: usize = 300;
/// The longest scheme that is read.
const SCHEME_MAX: usize = 32;
/// An address that is written as one number has at least this many digits.
const NUMBER_MIN: usize = 8;
/// Characters that are dots in a host, or become dots (Unicode UTS 46 section 4).
const DOTS: [char; 7] =
    ['.', '\u{2024}', '\u{2025}', '\u{2026}', '\u{3002}', '\u{ff0e}', '\u{ff61}'];

/// The URL of a host, with a scheme and a slash at its end.
///
/// # Errors
/// The text for the record, if URL parsers could find different hosts.
pub(super) type HostUrl = Result<String, String>;

/// The URL of the host in an authority; `None` if there is no host.
pub(super) fn host_url(scheme: &str, authority: &str) -> Option<HostUrl> {
    let end = authority.find(may_end).unwrap_or(authority.len());
    let (front, behind) = authority.split_at(end);
    let host = front.trim_end_matches(['.', '-', '_', ':']);
    // A parser that does not end there finds another host.
    let continues =
        behind.contains(|next: char| next.is_alphanumeric() || !(next.is_ascii() || ends(next)));
    if continues || authority.contains('@') {
        return Some(Err(format!("{scheme}://{authority}")));
    }
    if host.is_empty() { None } else { Some(Ok(format!("{scheme}://{host}/"))) }
}

/// Whether a character ends an authority for some parsers.
fn may_end(next: char) -> bool {
    !next.is_alphanumeric() && !matches!(next, '.' | '-' | '_' | ':' | '%' | '@' | '[' | ']')
}

/// Whether a character that is not ASCII never becomes a letter, a digit or a dot of a host
/// (Unicode UTS 46 section 4).
const fn ends(next: char) -> bool {
    let latin =
        matches!(next, '\u{a1}' | '\u{a7}' | '\u{ab}' | '\u{b6}' | '\u{b7}' | '\u{bb}' | '\u{bf}');
    let general = matches!(next, '\u{2010}'..='\u{2023}' | '\u{2027}' | '\u{2030}'..='\u{203a}');
    let wide = matches!(
        next,
        '\u{3001}'
            | '\u{3008}'..='\u{3011}'
            | '\u{3014}'..='\u{301f}'
            | '\u{ff01}'..='\u{ff0d}'
            | '\u{ff1a}'..='\u{ff1f}'
            | '\u{ff3b}'..='\u{ff3d}'
            | '\u{ff5b}'..='\u{ff60}'
            | '\u{ff62}'..='\u{ff65}'
    );
    latin || general || wide
}

/// A URL in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mention {
    /// Its position, up to white space, a bracket or a quote.
    pub(super) range: Range<usize>,
    /// The position of its authority.
    pub(super) authority: usize,
    /// Whether a browser connects to its host.
    pub(super) is_web: bool,
    /// Its host.
    pub(super) url: HostUrl,
}

/// The URLs in a text: after a scheme and slashes, after two slashes, or after `www.`. URLs in
/// escapes are not found.
pub(super) fn mentions(text: &str) -> Vec<Mention> {
    let bytes = text.as_bytes();
    let mut found: Vec<Mention> = Vec::new();
    let mut end = 0;
    for at in memchr::memchr3_iter(b'/', b'\\', b':', bytes) {
        // A URL in the path or the query of another one is a part of it.
        if at >= end
            && let Some(mention) = after_mark(text, at)
        {
            end = mention.range.end;
            found.push(mention);
        }
    }
    let known = found.len();
    for at in memchr::memmem::find_iter(bytes, b"www.") {
        let before = found.iter().take(known).rev().find(|mention| mention.range.start <= at);
        if before.is_none_or(|mention| mention.range.end <= at)
            && begins_word(text, at)
            && let Some(mention) = mention(text, at..at, "http")
            && mention.url.as_deref() != Ok("http://www/")
        {
            found.push(Mention { authority: at + 4, ..mention });
        }
    }
    found.sort_by_key(|mention| mention.range.start);
    found
}

/// The URL with a colon or the first of its slashes at `at`.
fn after_mark(text: &str, at: usize) -> Option<Mention> {
    if text.as_bytes().get(at) == Some(&b':') {
        return after_colon(text, at);
    }
    // The first check is cheap, so that many slashes are read once.
    if !begins_word(text, at) {
        return None;
    }
    let slashes = slashes(text.get(at..)?);
    let is_url = slashes.len() > 1 && slashes.contains('/');
    let end = at + slashes.len();
    if is_url && names_host(text.get(end..)?) { mention(text, at..end, "https") } else { None }
}

/// The URL whose scheme ends with the colon at `at`.
fn after_colon(text: &str, at: usize) -> Option<Mention> {
    let scheme = scheme_before(text, at)?;
    let slashes = slashes(text.get(at + 1..)?);
    let end = at + 1 + slashes.len();
    let web = SPECIAL.into_iter().filter(|special| scheme.ends_with(special));
    match web.max_by_key(|special| special.len()) {
        Some(web) if !slashes.is_empty() => mention(text, at - web.len()..end, web),
        // Without slashes, a word and a colon are text in most cases.
        Some(web) if scheme == web && names_host(text.get(end..)?) => {
            mention(text, at - web.len()..end, web)
        }
        None if slashes.starts_with("//") => {
            let found = mention(text, at - scheme.len()..end, &scheme)?;
            Some(Mention { is_web: false, ..found })
        }
        Some(_) | None => None,
    }
}

/// The slashes at the start of a text.
fn slashes(text: &str) -> &str {
    let rest = text.trim_start_matches(['/', '\\']);
    text.get(..text.len() - rest.len()).unwrap_or_default()
}

/// The URL whose front, up to its authority, has that range.
fn mention(text: &str, front: Range<usize>, scheme: &str) -> Option<Mention> {
    let rest = text.get(front.end..)?;
    let authority = authority(rest);
    let url = host_url(scheme, authority)?;
    // An address of version 6 has brackets.
    let from = if authority.starts_with('[') { authority.len() } else { 0 };
    let path = rest.get(from..)?;
    let end = path.find(|next: char| {
        next.is_whitespace() || next.is_control() || "<>()[]\"'`|".contains(next)
    });
    let end = front.end + from + end.unwrap_or(path.len());
    Some(Mention { range: front.start..end, authority: front.end, is_web: true, url })
}

/// The authority at the start of a text. A longer one is cut, and has no host.
fn authority(text: &str) -> &str {
    let (mut end, mut is_address) = (0, false);
    for (at, next) in text.char_indices().take(AUTHORITY_MAX) {
        is_address |= at == 0 && next == '[';
        let is_end = next.is_whitespace()
            || next.is_control()
            || matches!(next, '/' | '\\' | '?' | '#' | '<' | '>' | '^' | '|')
            || (matches!(next, '[' | ']') && !is_address);
        if is_end {
            break;
        }
        end = at + next.len_utf8();
    }
    text.get(..end).unwrap_or_default()
}

/// Whether a text begins with a host, and not with a word.
fn names_host(text: &str) -> bool {
    let authority = authority(text);
    let hex = authority.strip_prefix("0x").or_else(|| authority.strip_prefix("0X"));
    let is_digit = |radix: u32| move |next: &char| next.is_digit(radix);
    let digits = match hex {
        Some(hex) => hex.chars().take_while(is_digit(16)).count() + 1,
        None => authority.chars().take_while(is_digit(10)).count(),
    };
    authority.trim_matches(DOTS).contains(DOTS)
        || authority.starts_with('[')
        || authority.starts_with("localhost")
        || digits >= NUMBER_MIN
}

/// The scheme that ends at `at`, in lower case.
fn scheme_before(text: &str, at: usize) -> Option<String> {
    let front = text.get(..at)?.as_bytes();
    let length = front
        .iter()
        .rev()
        .take(SCHEME_MAX)
        .take_while(|byte| byte.is_ascii_alphanumeric() || b"+.-".contains(byte))
        .count();
    let scheme = text.get(at - length..at)?;
    if scheme.is_empty() { None } else { Some(scheme.to_ascii_lowercase()) }
}

/// Whether no letter, digit or other mark of a URL is before `at`.
fn begins_word(text: &str, at: usize) -> bool {
    match text.get(..at).and_then(|front| front.chars().next_back()) {
        Some(last) => !last.is_alphanumeric() && !matches!(last, '/' | '\\' | ':' | '.'),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(read: &str, expect: Option<Result<&str, &str>>) {
        let found = host_url("https", read);
        assert_eq!(
            found.as_ref().map(|found| found.as_deref().map_err(String::as_str)),
            expect,
            "{read}"
        );
    }

    #[test]
    fn a_host_is_one_for_all_parsers() {
        check("a.example", Some(Ok("https://a.example/")));
        check("a.example:8443", Some(Ok("https://a.example:8443/")));
        check("a.example).", Some(Ok("https://a.example/")));
        check("a.example**,", Some(Ok("https://a.example/")));
        check("a.example_", Some(Ok("https://a.example/")));
        check("[::1]:80", Some(Ok("https://[::1]:80/")));
        check("...", None);
        check(")", None);
        check("a.example),b.example", Some(Err("https://a.example),b.example")));
        check("a.example@b.example", Some(Err("https://a.example@b.example")));
        check("a.example\u{3002}b", Some(Err("https://a.example\u{3002}b")));
    }

    #[track_caller]
    fn finds(text: &str, expect: &[(&str, &str)]) {
        let found = mentions(text);
        let found: Vec<(&str, &str)> = found
            .iter()
            .map(|mention| {
                let (Ok(url) | Err(url)) = &mention.url;
                (&text[mention.range.clone()], url.as_str())
            })
            .collect();
        assert_eq!(found, expect, "{text}");
    }

    #[test]
    fn urls_in_a_text_are_found() {
        finds("see https://a.example/x?y now", &[("https://a.example/x?y", "https://a.example/")]);
        finds("[a](HTTP://a.example)", &[("HTTP://a.example", "http://a.example/")]);
        finds(
            "//a.example/x www.b.example.",
            &[("//a.example/x", "https://a.example/"), ("www.b.example.", "http://www.b.example/")],
        );
        finds(
            "https:a.example and xhttps:/\\a.example",
            &[
                ("https:a.example", "https://a.example/"),
                ("https:/\\a.example", "https://a.example/"),
            ],
        );
        finds(
            "https://a.example/?u=https://b.example/www.c.example",
            &[("https://a.example/?u=https://b.example/www.c.example", "https://a.example/")],
        );
        finds("http://[::1]:80/x", &[("http://[::1]:80/x", "http://[::1]:80/")]);
        finds(
            "//2130706433/ //localhost/",
            &[("//2130706433/", "https://2130706433/"), ("//localhost/", "https://localhost/")],
        );
        finds("//0x7f00001/", &[("//0x7f00001/", "https://0x7f00001/")]);
        finds("//0x7f0000/", &[]);
        finds("s3://bucket/key", &[("s3://bucket/key", "s3://bucket/")]);
        assert!(!mentions("s3://bucket/key")[0].is_web);
    }

    #[test]
    fn ordinary_text_names_no_url() {
        for text in [
            "// a comment. And more",
            "a//b.c C:\\Users\\a.b \\\\ \\frac{a.b}",
            "steps:foo.bar profile:a.py std::fs https: http://",
            "//input[@id='a'] and /etc/passwd, www.",
        ] {
            finds(text, &[]);
        }
    }

    #[test]
    fn long_texts_are_read_once() {
        for text in ["//", "https:a", "https://a.", "www.", ":", "a:/"] {
            mentions(&text.repeat(200_000));
        }
    }
}
