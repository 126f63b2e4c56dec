//! Where HTML blocks begin and end (CommonMark 0.31 and 0.29, section 4.6).

use super::tags::{Extent, HtmlRules, raw};

/// What ends an HTML block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HtmlEnd {
    /// The closing tag of an element in [`RAW`].
    RawText,
    /// `-->`.
    Comment,
    /// `?>`.
    Instruction,
    /// `>`.
    Declaration,
    /// `]]>`.
    Cdata,
    /// A blank line.
    Blank,
}

/// Elements whose block ends at their closing tag.
const RAW: [&str; 4] = ["script", "pre", "style", "textarea"];
/// Elements that begin a block also within a paragraph. Version 0.29 does not have `search`, and
/// version 0.31 does not have `source`.
const ELEMENTS: &str = " address article aside base basefont blockquote body caption center col \
    colgroup dd details dialog dir div dl dt fieldset figcaption figure footer form frame frameset \
    h1 h2 h3 h4 h5 h6 head header hr html iframe legend li link main menu menuitem nav noframes ol \
    optgroup option p param search section source summary table tbody td tfoot th thead title tr \
    track ul ";

impl HtmlEnd {
    /// Whether a line of the block has its end.
    pub(super) fn is_in(self, line: &[u8]) -> bool {
        let end: &[u8] = match self {
            Self::Blank => return false,
            Self::RawText => {
                let line = String::from_utf8_lossy(line).to_ascii_lowercase();
                return RAW.iter().any(|name| line.contains(&format!("</{name}>")));
            }
            Self::Comment => b"-->",
            Self::Instruction => b"?>",
            Self::Declaration => b">",
            Self::Cdata => b"]]>",
        };
        memchr::memmem::find(line, end).is_some()
    }
}

/// The end of the HTML block that begins with `rest`. Some kinds do not interrupt a paragraph.
pub(super) fn opens(rest: &[u8], rules: HtmlRules, in_paragraph: bool) -> Option<HtmlEnd> {
    let is_gfm = rules == HtmlRules::Gfm;
    match rest.get(1..)? {
        _ if rules == HtmlRules::None => return None,
        [b'!', b'-', b'-', ..] => return Some(HtmlEnd::Comment),
        [b'?', ..] => return Some(HtmlEnd::Instruction),
        [b'!', b'[', b'C', b'D', b'A', b'T', b'A', b'[', ..] => return Some(HtmlEnd::Cdata),
        [b'!', next, ..] if next.is_ascii_uppercase() || (next.is_ascii_lowercase() && !is_gfm) => {
            return Some(HtmlEnd::Declaration);
        }
        _ => {}
    }
    let (closing, after) = match rest.get(1..)? {
        [b'/', after @ ..] => (true, after),
        after => (false, after),
    };
    let length = after.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
    let (name, end) = after.split_at_checked(length)?;
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    let is_end = matches!(end.first(), None | Some(b' ' | b'\t' | 0x0b | 0x0c | b'>'));
    if RAW.contains(&name.as_str()) && !closing && is_end && !(is_gfm && name == "textarea") {
        return Some(HtmlEnd::RawText);
    }
    let unknown = if is_gfm { "search" } else { "source" };
    if (is_end || end.starts_with(b"/>"))
        && name != unknown
        && ELEMENTS.contains(&format!(" {name} "))
    {
        return Some(HtmlEnd::Blank);
    }
    // Any other tag that is alone in its line.
    match raw(rest, rules) {
        Some(Extent::Known(length)) if !in_paragraph && rest.get(1) != Some(&b'!') => {
            let end = rest.get(length..)?;
            if end.iter().all(u8::is_ascii_whitespace) { Some(HtmlEnd::Blank) } else { None }
        }
        Some(_) | None => None,
    }
}
