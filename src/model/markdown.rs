//! Images in Markdown. Some servers search for them in the prompt that they make of a request, and
//! fetch them.
//!
//! The template of the model determines which strings of a request are in the prompt, and in which
//! order. So every string is searched, including names. Any two strings count as adjacent.

use std::borrow::Cow;

use crate::json::{Object, Value};
use crate::refusal::{Code, Refusal};

use super::path::Path;
use super::{ExternalReference, ReferenceKind};

/// The text that such a server searches for.
const MARK: &str = "![](";
/// The maximum number of texts in one request in which an image begins.
const REACHES_MAX: usize = 1_024;
/// The maximum number of characters of a target that are kept.
const TARGET_MAX: usize = 1_024;

/// Finds every string in which an image begins.
///
/// # Errors
/// `field-invalid` when there are more of them than [`REACHES_MAX`].
pub(super) fn external_references(object: &Object<'_>) -> Result<Vec<ExternalReference>, Refusal> {
    // The first pass collects the parts of the mark in all strings. The second pass finds the
    // strings that begin a mark, which another string may complete.
    let mut pieces = Pieces::default();
    visit(object, &Path::Root, &mut |text, _| pieces.take(text));
    let (ends, mut found, mut count) = (pieces.ends(), Vec::new(), 0_usize);
    visit(object, &Path::Root, &mut |text, path| {
        let text = unescaped(text);
        if let Some(target) = begun(&text, ends) {
            count += 1;
            // The counting continues, so that the refusal can name the number.
            if count <= REACHES_MAX {
                let target = target.chars().take(TARGET_MAX).collect();
                found.push(ExternalReference {
                    path: path.to_string(),
                    kind: ReferenceKind::Media,
                    target,
                    steps: path.steps(),
                    slot: None,
                });
            }
        }
    });
    if count > REACHES_MAX {
        let says = format!(
            "In {count} texts of the request an image begins that its server would fetch; at most \
                {REACHES_MAX} are looked at."
        );
        return Err(Refusal::new(Code::FieldInvalid).saying(says));
    }
    Ok(found)
}

/// The target of an image that begins in a text, as far as the text contains it. If other texts
/// contain the rest of the mark, it is the mark's first part.
fn begun(text: &str, ends: [bool; MARK.len()]) -> Option<&str> {
    match text.split_once(MARK) {
        Some((_, target)) => match target.split_once(')') {
            Some((target, _)) => Some(target),
            None => Some(target),
        },
        None => {
            // The mark may start at the end of this text and continue in another one.
            let text = text.trim_end();
            for MarkHalves { at, front, .. } in halves() {
                if ends.get(at) == Some(&true) && text.ends_with(front) {
                    return Some(front);
                }
            }
            None
        }
    }
}

/// The mark, cut at an offset.
struct MarkHalves {
    /// The offset.
    at: usize,
    /// The part before the offset.
    front: &'static str,
    /// The part from the offset on.
    rest: &'static str,
}

/// The mark, cut at each offset inside it.
fn halves() -> impl Iterator<Item = MarkHalves> {
    (1..MARK.len()).filter_map(|at| {
        let (front, rest) = MARK.split_at_checked(at)?;
        Some(MarkHalves { at, front, rest })
    })
}

/// The parts of the mark that occur in a request.
#[derive(Default)]
struct Pieces {
    /// By the offset where the part begins: true if a text starts with the rest of the mark.
    rests: [bool; MARK.len()],
    /// By the offsets where the part begins and ends: true if a text consists only of that part.
    middles: [[bool; MARK.len()]; MARK.len()],
}

impl Pieces {
    /// Records the parts of the mark in a text.
    fn take(&mut self, text: &str) {
        let text = unescaped(text);
        // Templates may trim a text, so white space at its ends does not separate two texts.
        let text = text.trim();
        for MarkHalves { at, rest, .. } in halves() {
            let (Some(begins), Some(middles)) = (self.rests.get_mut(at), self.middles.get_mut(at))
            else {
                continue;
            };
            *begins |= text.starts_with(rest);
            if !text.is_empty()
                && rest.starts_with(text)
                && let Some(middle) = middles.get_mut(at + text.len())
            {
                *middle = true;
            }
        }
    }

    /// By the length of the mark's first part: true if other texts can complete the mark.
    fn ends(&self) -> [bool; MARK.len()] {
        let mut ends = self.rests;
        // From the end of the mark to its start: a middle part needs a completed rest after it.
        for at in (1..MARK.len()).rev() {
            let through = self.middles[at].iter().zip(ends).any(|(middle, ends)| *middle && ends);
            ends[at] |= through;
        }
        ends
    }
}

/// Decodes JSON escapes of the mark's characters. Some templates parse text inside a text as JSON
/// (RFC 8259, section 7).
fn unescaped(text: &str) -> Cow<'_, str> {
    const ESCAPES: [(&str, char); 4] =
        [("u0021", '!'), ("u005b", '['), ("u005d", ']'), ("u0028", '(')];
    // Most texts have no such escape. They are not copied.
    if !text.contains("\\u00") {
        return Cow::Borrowed(text);
    }
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((front, behind)) = rest.split_once('\\') {
        out.push_str(front);
        // A text can be escaped several times. All backslashes before an escape are removed.
        let escaped = behind.trim_start_matches('\\');
        match ESCAPES.iter().find(|(escape, _)| begins_with(escaped, escape)) {
            Some((escape, stands_for)) => {
                out.push(*stands_for);
                rest = escaped.get(escape.len()..).unwrap_or_default();
            }
            None => {
                out.push('\\');
                rest = escaped;
            }
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Whether a text begins with the name of an escape, without regard to case.
fn begins_with(text: &str, escape: &str) -> bool {
    let Some(front) = text.get(..escape.len()) else { return false };
    front.eq_ignore_ascii_case(escape)
}

/// Calls `each` for every name and string in an object, in order.
fn visit(object: &Object<'_>, path: &Path<'_>, each: &mut dyn FnMut(&str, &Path<'_>)) {
    for (key, value) in object.iter() {
        let path = Path::Key(path, key);
        each(key, &path);
        inside(value, &path, each);
    }
}

/// Calls `each` for every name and string in a value, in order.
fn inside(value: &Value<'_>, path: &Path<'_>, each: &mut dyn FnMut(&str, &Path<'_>)) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
        Value::String(text) => each(text, path),
        Value::Object(object) => visit(object, path, each),
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(place, item)| inside(item, &Path::Item(path, place), each));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{self, Limits};

    #[track_caller]
    fn check(body: &str, expect: &[(&str, &str)]) {
        let value = json::parse(body.as_bytes(), &Limits::deep(64)).expect("JSON");
        let found =
            external_references(value.as_object().expect("an object")).expect("few of them");
        let found: Vec<_> = found.iter().map(|reach| (&*reach.path, &*reach.target)).collect();
        assert_eq!(found, expect, "{body}");
    }

    #[test]
    fn an_image_is_found_wherever_it_stands() {
        check(r#"{"role":"![](http://a/x.png)"}"#, &[("role", "http://a/x.png")]);
        check(r#"{"a":[{"type":"![](a)![](b)"}]}"#, &[("a[0].type", "a")]);
        check(r#"{"![](a)":1}"#, &[("[\"![](a)\"]", "a")]);
        check(r#"{"a":"![](http://a"}"#, &[("a", "http://a")]);
        check(r#"{"a":"{\"b\":\"\\u0021[](http://a)\"}"}"#, &[("a", "http://a")]);
        check(r#"{"a":"\\\\u0021\\u005B]\\u0028b)"}"#, &[("a", "b")]);
        check(r#"{"a":"a ![b](c) !(d) [e](f)! \\u0041 \\x"}"#, &[]);
    }

    #[test]
    fn any_two_texts_are_neighbours() {
        check(r#"{"a":"x!","b":"[](http://a)"}"#, &[("a", "!")]);
        check(r#"{"a":"[](http://a)","b":"hello! "}"#, &[("b", "!")]);
        check(r#"{"a":"x!","b":["]","[","(http://a)"]}"#, &[("a", "!")]);
        check(r#"{"a":"x![","b":"](http://a)","c":"y!"}"#, &[("a", "![")]);
        check(r#"{"a":"x!","b":"[","c":"(y)"}"#, &[]);
        check(r#"{"a":"Hello!","b":"(yes) [1] ()"}"#, &[]);
    }

    #[test]
    fn there_is_an_end_to_it() {
        let body = format!(r#"{{"a":"{}"}}"#, MARK.repeat(100_000));
        let value = json::parse(body.as_bytes(), &Limits::deep(64)).expect("JSON");
        let found =
            external_references(value.as_object().expect("an object")).expect("one of them");
        assert_eq!(found.iter().map(|reach| reach.target.len()).collect::<Vec<_>>(), [TARGET_MAX]);
        let body = format!(r#"{{"a":[{}"x"]}}"#, format!("\"{MARK}\",").repeat(REACHES_MAX + 1));
        let value = json::parse(body.as_bytes(), &Limits::deep(64)).expect("JSON");
        assert_eq!(
            external_references(value.as_object().expect("an object")).map_err(|no| no.code),
            Err(Code::FieldInvalid)
        );
    }
}
