//! The hosts that an address in an answer names, for a browser (URL Standard section 4.4).

use super::references::NAMES;
use crate::guard::egress::authority::{HostUrl, SPECIAL, host_url};

/// The bytes that are read of a URL in a list.
const FRONT_MAX: usize = 1_000;

/// The place of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Markdown: a backslash escapes a character, and a reference ends with a semicolon.
    Markdown,
    /// Markdown with any number of digits in a reference. Old renderers read more digits.
    AnyDigits,
    /// The value of an attribute.
    Attribute,
}

/// A text without escapes and character references.
pub(super) fn decoded(text: &str, encoding: Encoding) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let found = match next {
            '\\' if encoding != Encoding::Attribute => escaped(rest),
            '&' => reference(rest, encoding),
            _ => None,
        };
        let Replacement { character, length } =
            found.unwrap_or(Replacement { character: next, length: next.len_utf8() });
        out.push(character);
        rest = rest.get(length..).unwrap_or_default();
    }
    out
}

/// The character that the start of a text means.
struct Replacement {
    character: char,
    /// The bytes that mean it.
    length: usize,
}

/// The character after a backslash.
fn escaped(text: &str) -> Option<Replacement> {
    let character = text.chars().nth(1)?;
    if character.is_ascii_punctuation() { Some(Replacement { character, length: 2 }) } else { None }
}

/// The character of the reference at the start of a text.
fn reference(text: &str, encoding: Encoding) -> Option<Replacement> {
    let is_open = encoding == Encoding::Attribute;
    let body = text.get(1..)?;
    // A longer name is another reference.
    let name_length = body.bytes().take_while(u8::is_ascii_alphanumeric).count();
    for (name, character) in NAMES {
        let (name, character) = (*name, *character);
        let is_ended = name_length == name.len() && body.get(name_length..)?.starts_with(';');
        if is_ended && body.starts_with(name) {
            return Some(Replacement { character, length: name.len() + 2 });
        }
        // Old names need no semicolon.
        if is_open && "\"&<>".contains(character) && body.starts_with(name) {
            return Some(Replacement { character, length: name.len() + 1 });
        }
    }
    let number = body.strip_prefix('#')?;
    let (digits, radix, most) = match number.strip_prefix(['x', 'X']) {
        Some(digits) => (digits, 16, 6),
        None => (number, 10, 7),
    };
    let count = digits.chars().take_while(|digit| digit.is_digit(radix)).count();
    let code = u32::from_str_radix(digits.get(..count)?, radix);
    let is_ended = digits.get(count..)?.starts_with(';');
    let is_long = encoding == Encoding::Markdown && count > most;
    if count == 0 || is_long || !(is_ended || is_open) {
        return None;
    }
    let character = char::from_u32(code.unwrap_or(u32::MAX)).unwrap_or('\u{fffd}');
    let front = text.len() - digits.len();
    Some(Replacement { character, length: front + count + usize::from(is_ended) })
}

/// The hosts that a destination of Markdown names: one for each way to read its references.
pub(super) fn markdown_hosts(written: &str) -> Vec<HostUrl> {
    let mut found: Vec<HostUrl> = Vec::new();
    for encoding in [Encoding::Markdown, Encoding::AnyDigits] {
        let host = host(&decoded(written, encoding));
        found.extend(host.filter(|host| !found.contains(host)));
    }
    found
}

/// The host that an address names; `None` if it names none.
pub(super) fn host(address: &str) -> Option<HostUrl> {
    let address = address.trim_matches(|next: char| next.is_whitespace() || next.is_control());
    let plain: String =
        address.chars().filter(|next| !matches!(next, '\t' | '\n' | '\r')).collect();
    // Other schemes load nothing by themselves, and a relative address stays at its host.
    let (scheme, rest) = match scheme(&plain) {
        Some(scheme) if SPECIAL.contains(&scheme.as_str()) => {
            let rest = plain.get(scheme.len() + 1..)?;
            (scheme, rest)
        }
        Some(_) => return None,
        None => {
            let rest = plain.strip_prefix(['/', '\\'])?.strip_prefix(['/', '\\'])?;
            ("https".to_owned(), rest)
        }
    };
    let rest = rest.trim_start_matches(['/', '\\']);
    let authority = rest.split(['/', '?', '#']).next()?;
    if authority.is_empty() {
        return None;
    }
    // A backslash ends the authority for a browser, but a renderer may have encoded it.
    let found = host_url(&scheme, authority).filter(|_| !authority.contains('\\'));
    // A browser could read a host where this function finds none.
    Some(found.unwrap_or_else(|| Err(format!("{scheme}://{authority}"))))
}

/// The scheme of a URL, in lower case.
fn scheme(text: &str) -> Option<String> {
    let (scheme, _) = text.split_once(':')?;
    let is_valid = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+.-".contains(&byte));
    if is_valid { Some(scheme.to_ascii_lowercase()) } else { None }
}

/// The hosts that a text names anywhere, such as a style sheet or a list of sources.
pub(super) fn hosts(text: &str) -> Vec<HostUrl> {
    let mut found = hosts_in(text);
    // Escapes and comments have a meaning only in style sheets.
    if text.contains('\\') || text.contains("/*") {
        found.extend(hosts_in(&style_text(text)));
    }
    // Lists of sources are split at white space, which URL parsers would remove.
    if text.contains(['\t', '\n', '\r']) {
        found.extend(hosts_in(&text.replace(['\t', '\n', '\r'], " ")));
    }
    found
}

/// The hosts in a text without escapes.
fn hosts_in(text: &str) -> Vec<HostUrl> {
    let mut found = Vec::new();
    let mut is_start = true;
    for (at, next) in text.char_indices() {
        let is_slash = matches!(next, '/' | '\\');
        if is_start || is_slash {
            let rest = text.get(at..).unwrap_or_default();
            if may_be_url(rest) {
                found.extend(host(front(rest)));
            }
        }
        is_start = !(is_slash || next.is_ascii_alphanumeric() || "+.-".contains(next));
    }
    found
}

/// Whether a text may begin with a URL that names a host. This is cheap: most places are none.
fn may_be_url(text: &str) -> bool {
    // The longest scheme has five letters. URL parsers remove what is between its letters.
    let removed = |next: &char| matches!(next, '\t' | '\n' | '\r');
    let mut plain = text.chars().filter(|next| !removed(next));
    match plain.next() {
        Some('/' | '\\') => matches!(plain.next(), Some('/' | '\\')),
        Some(_) => plain.take(5).any(|next| next == ':'),
        None => false,
    }
}

/// The start of a text, which includes the authority of a URL there. A space ends a URL, except
/// within user information. Other characters may be a part of a host.
fn front(text: &str) -> &str {
    let rest = text.get(..FRONT_MAX).unwrap_or(text);
    let Some(space) = rest.find(' ') else { return rest };
    let (url, after) = rest.split_at(space);
    let segment = after.split(['/', '\\', '?', '#']).next().unwrap_or_default();
    // Without an end, the segment may be longer than the text that is read.
    if segment.contains('@') || (segment.len() == after.len() && rest.len() < text.len()) {
        rest
    } else {
        url
    }
}

/// A style sheet without comments and escapes (CSS Syntax section 4.3.7).
fn style_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        if let Some(comment) = rest.strip_prefix("/*") {
            rest = match comment.split_once("*/") {
                Some((_, after)) => after,
                None => "",
            };
            continue;
        }
        rest = rest.get(next.len_utf8()..).unwrap_or_default();
        if next != '\\' {
            out.push(next);
            continue;
        }
        let digits = rest.bytes().take(6).take_while(u8::is_ascii_hexdigit).count();
        match u32::from_str_radix(rest.get(..digits).unwrap_or_default(), 16) {
            Ok(code) => {
                out.push(char::from_u32(code).unwrap_or('\u{fffd}'));
                rest = rest.get(digits..).unwrap_or_default();
                rest = rest.strip_prefix([' ', '\t', '\n', '\r', '\u{c}']).unwrap_or(rest);
            }
            // An escaped end of a line is left out.
            Err(_) if rest.starts_with(['\n', '\r', '\u{c}']) => {
                rest = rest.get(1..).unwrap_or_default();
            }
            // Another character stands for itself.
            Err(_) => {
                if let Some(escaped) = rest.chars().next() {
                    out.push(escaped);
                    rest = rest.get(escaped.len_utf8()..).unwrap_or_default();
                }
            }
        }
    }
    out
}
