//! JSON paths in a body. They are built on the stack and printed only for messages.

use std::fmt;

use super::Step;

/// One step from the body's root. The whole path is the chain of parents.
#[derive(Clone, Copy)]
pub(super) enum Path<'p> {
    /// The body itself.
    Root,
    /// A member of an object.
    Key(&'p Path<'p>, &'p str),
    /// An item of an array.
    Item(&'p Path<'p>, usize),
}

impl Path<'_> {
    /// The steps from the root.
    pub(super) fn steps(&self) -> Vec<Step> {
        let (parent, step) = match *self {
            Path::Root => return Vec::new(),
            Path::Key(parent, key) => (parent, Step::Key(key.to_owned())),
            Path::Item(parent, place) => (parent, Step::Item(place)),
        };
        let mut steps = parent.steps();
        steps.push(step);
        steps
    }
}

/// The maximum number of characters of a caller's key that are shown.
const KEY_SHOWN_MAX: usize = 64;

impl fmt::Display for Path<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Path::Root => Ok(()),
            Path::Item(parent, place) => write!(out, "{parent}[{place}]"),
            // Other keys are quoted and escaped, so that a key cannot imitate a path or break a log
            // line.
            Path::Key(parent, key) if is_plain(key) => {
                parent.fmt(out)?;
                if !matches!(parent, Path::Root) {
                    out.write_str(".")?;
                }
                out.write_str(key)
            }
            Path::Key(parent, key) => write!(out, "{parent}[{}]", shown(key)),
        }
    }
}

/// Whether a key is printed without quotes.
fn is_plain(key: &str) -> bool {
    !key.is_empty()
        && key.len() <= KEY_SHOWN_MAX
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'$'))
}

/// A caller's key in quotes, cut to 64 characters. Every character that is not visible ASCII is
/// escaped, so that similar characters can be distinguished.
pub(super) fn shown(key: &str) -> String {
    let mut text = String::from("\"");
    for character in key.chars().take(KEY_SHOWN_MAX) {
        if character == ' ' || character.is_ascii_graphic() && !matches!(character, '"' | '\\') {
            text.push(character);
        } else {
            text.extend(character.escape_unicode());
        }
    }
    if key.chars().nth(KEY_SHOWN_MAX).is_some() {
        text.push('…');
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_as_in_the_papers() {
        let messages = Path::Key(&Path::Root, "messages");
        let first = Path::Item(&messages, 0);
        let content = Path::Key(&first, "content");
        assert_eq!(Path::Key(&content, "url").to_string(), "messages[0].content.url");
        assert_eq!(Path::Key(&content, "a b").to_string(), "messages[0].content[\"a b\"]");
        assert_eq!(
            Path::Key(&Path::Root, "me\u{17f}\u{17f}ages").to_string(),
            "[\"me\\u{17f}\\u{17f}ages\"]"
        );
    }
}
