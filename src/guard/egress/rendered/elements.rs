//! What raw HTML loads (WHATWG HTML chapter 4, and section 13.2.5 for the syntax).

use std::ops::Range;

use super::address::{Encoding, decoded, host, hosts};
use crate::guard::egress::authority::HostUrl;

/// The bytes that are read for the tags of one text. Each tag is read from its own start.
const READ_MAX: usize = 1 << 20;
/// Attributes that load nothing.
const INERT: &str = " about action alt cite class content download formaction id itemid itemtype \
    label lang name ping placeholder property rel resource role target title type typeof value \
    vocab ";
/// Prefixes of other attributes that load nothing.
const INERT_PREFIXES: [&str; 4] = ["aria-", "data-", "on", "xmlns"];
/// Attributes with addresses at any place of their values.
const LISTS: &str = " archive content imagesrcset srcdoc srcset style ";
/// Elements that show another document.
const FRAMES: &str = " embed frame iframe link object ";

/// A place at which raw HTML loads something, by positions.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// An attribute.
    Attribute(usize, HostUrl),
    /// The value of an attribute that a click opens.
    Link(usize, HostUrl),
    /// The `<` of a style sheet that loads something.
    Style(usize, HostUrl),
    /// The `<` of a tag that does not end.
    Unclosed(usize, HostUrl),
}

/// An attribute.
struct Attribute {
    at: usize,
    name: String,
    value: Range<usize>,
}

/// A tag as a browser parses it.
struct HtmlTag {
    name: String,
    attributes: Vec<Attribute>,
    /// The position after it; `None` if the text ends within the tag.
    end: Option<usize>,
}

/// What the tags load that begin in a range of a text. Every `<` counts as a start: a renderer and
/// a browser may differ about the ends of comments and values. With `continues`, other HTML follows
/// the text, which could complete a tag.
pub(super) fn loads(text: &str, range: Range<usize>, continues: bool) -> Vec<Load> {
    let mut found = Vec::new();
    let mut left = READ_MAX;
    let bytes = text.as_bytes();
    for at in range {
        let is_tag = match bytes.get(at..) {
            Some([b'<', next, ..]) => next.is_ascii_alphabetic(),
            Some(_) | None => false,
        };
        if !is_tag {
            continue;
        }
        if left == 0 {
            found.push(Load::Unclosed(at, Err("too many tags in raw HTML".to_owned())));
            continue;
        }
        let tag = HtmlTag::read(bytes, at + 1);
        left = left.saturating_sub(tag.end.unwrap_or(bytes.len()) - at);
        match tag.end {
            Some(end) => {
                tag.values(text, &mut found);
                if tag.name == "style" {
                    style(text, at, end, &mut found);
                }
            }
            None if continues => {
                found.push(Load::Unclosed(at, Err(format!("<{} does not end", tag.name))));
            }
            None => {}
        }
    }
    found
}

/// What the style sheet loads whose element begins at `at`, and its content at `from`.
fn style(text: &str, at: usize, from: usize, found: &mut Vec<Load>) {
    let rest = text.get(from..).unwrap_or_default();
    match rest.to_ascii_lowercase().find("</style") {
        Some(length) => {
            let written = rest.get(..length).unwrap_or_default();
            // In a paragraph, a renderer of Markdown decodes it first.
            for text in [written, decoded(written, Encoding::AnyDigits).as_str()] {
                for host in hosts(text) {
                    found.push(Load::Style(at, host));
                }
            }
        }
        None => found.push(Load::Style(at, Err("<style> does not end".to_owned()))),
    }
}

/// Whether a list of words, with spaces around each, has a word.
fn has(list: &str, word: &str) -> bool {
    list.contains(&format!(" {word} "))
}

impl HtmlTag {
    /// The values that load something.
    fn values(&self, text: &str, found: &mut Vec<Load>) {
        for Attribute { at, name, value } in &self.attributes {
            let is_link = matches!(name.as_str(), "href" | "xlink:href" | "action" | "formaction");
            let is_inert = self.is_inert(name);
            if is_inert && !is_link {
                continue;
            }
            let written = text.get(value.clone()).unwrap_or_default();
            let address = decoded(written, Encoding::Attribute);
            if is_inert {
                found.extend(host(&address).map(|host| Load::Link(value.start, host)));
                continue;
            }
            let front: String = address.trim_start().chars().take(5).collect();
            let is_data = front.eq_ignore_ascii_case("data:");
            let mut loaded: Vec<HostUrl> = host(&address).into_iter().collect();
            if has(LISTS, name) || (address.contains('(') && !is_data) {
                loaded.extend(hosts(&address));
                // A document in a value is encoded twice.
                if address.contains('&') {
                    loaded.extend(hosts(&decoded(&address, Encoding::Attribute)));
                }
            }
            if is_data && has(FRAMES, &self.name) {
                loaded.push(Err("data:".to_owned()));
            }
            for host in loaded {
                found.push(Load::Attribute(*at, host));
            }
        }
    }

    /// Whether an attribute loads nothing without a click.
    fn is_inert(&self, name: &str) -> bool {
        let is_link = matches!(self.name.as_str(), "a" | "area");
        // No attribute that loads something begins with another character.
        !name.starts_with(|first: char| first.is_ascii_alphabetic())
            || (has(INERT, name) && !(name == "content" && self.name == "meta"))
            || INERT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            || (is_link && matches!(name, "href" | "xlink:href"))
    }

    /// Parses the tag whose name begins at `at`.
    fn read(bytes: &[u8], at: usize) -> Self {
        let mut end = skip(bytes, at, |byte| !is_space(byte) && !b"/>".contains(&byte));
        let mut tag = Self { name: lower(bytes, at..end), attributes: Vec::new(), end: None };
        loop {
            end = skip(bytes, end, |byte| is_space(byte) || byte == b'/');
            match bytes.get(end) {
                None => return tag,
                Some(b'>') => {
                    tag.end = Some(end + 1);
                    return tag;
                }
                Some(_) => {}
            }
            // The first byte may be an equals sign.
            let from = end;
            end = skip(bytes, end + 1, |byte| !is_space(byte) && !b"/>=".contains(&byte));
            let name = lower(bytes, from..end);
            end = skip(bytes, end, is_space);
            if bytes.get(end) != Some(&b'=') {
                continue;
            }
            end = skip(bytes, end + 1, is_space);
            let at = from;
            let value = match bytes.get(end) {
                None => return tag,
                Some(b'>') => continue,
                Some(quote @ (b'"' | b'\'')) => {
                    // Character references in the value do not end it.
                    let from = end + 1;
                    end = skip(bytes, from, |byte| byte != *quote);
                    if end == bytes.len() {
                        return tag;
                    }
                    end += 1;
                    from..end - 1
                }
                Some(_) => {
                    let from = end;
                    end = skip(bytes, from, |byte| !is_space(byte) && byte != b'>');
                    from..end
                }
            };
            // Of several attributes with one name, the first counts. All are kept, because a
            // change of the first would make the second one count.
            tag.attributes.push(Attribute { at, name, value });
        }
    }
}

const fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace()
}

/// The position of the first byte from `from` on that is not skipped.
fn skip(bytes: &[u8], from: usize, is_skipped: impl Fn(u8) -> bool) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    from + rest.iter().take_while(|byte| is_skipped(**byte)).count()
}

/// A name in lower case.
fn lower(bytes: &[u8], range: Range<usize>) -> String {
    String::from_utf8_lossy(bytes.get(range).unwrap_or_default()).to_ascii_lowercase()
}
