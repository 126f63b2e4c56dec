//! Searches JSON without parsing all of it, such as one member of an answer's outermost object.
//!
//! Answers come from model servers and are forwarded byte for byte. They can be other than strict
//! JSON: Python writes `NaN` among logprobs. So this code skips values without checking them. Text
//! inside strings is never treated as structure.

use memchr::memchr2;

/// The raw text of the member `key` of the object in `json`. If there are several, it is the last
/// one, as in most parsers.
pub(super) fn member<'j>(json: &'j [u8], key: &str) -> Option<&'j [u8]> {
    let mut found = None;
    members(json, |name, value| {
        if name == key.as_bytes() {
            found = Some(value);
        }
    })?;
    found
}

/// Calls `visit` for each member of an object. Returns the offset after the object; `None` if the
/// structure of `json` is no object.
pub(super) fn members<'j>(
    json: &'j [u8],
    mut visit: impl FnMut(&'j [u8], &'j [u8]),
) -> Option<usize> {
    let mut at = space(json, 0);
    if *json.get(at)? != b'{' {
        return None;
    }
    at = space(json, at + 1);
    if *json.get(at)? == b'}' {
        return Some(at + 1);
    }
    loop {
        if *json.get(at)? != b'"' {
            return None;
        }
        let key_end = string(json, at)?;
        // The name is not decoded: it keeps its escapes.
        let name = json.get(at + 1..key_end - 1)?;
        at = space(json, key_end);
        if *json.get(at)? != b':' {
            return None;
        }
        at = space(json, at + 1);
        let value_end = value(json, at)?;
        visit(name, json.get(at..value_end)?);
        at = space(json, value_end);
        match *json.get(at)? {
            b',' => at = space(json, at + 1),
            b'}' => return Some(at + 1),
            _ => return None,
        }
    }
}

/// Calls `visit` for each item of an array. Returns `None` if the structure of `json` is no array.
pub(super) fn items<'j>(json: &'j [u8], mut visit: impl FnMut(&'j [u8])) -> Option<()> {
    if *json.first()? != b'[' {
        return None;
    }
    let mut at = space(json, 1);
    if *json.get(at)? == b']' {
        return Some(());
    }
    loop {
        let end = value(json, at)?;
        visit(json.get(at..end)?);
        at = space(json, end);
        match *json.get(at)? {
            b',' => at = space(json, at + 1),
            b']' => return Some(()),
            _ => return None,
        }
    }
}

/// Whether it is exactly one value in UTF-8, without bytes after it. All parsers then read the same
/// bytes.
pub(super) fn is_document(json: &[u8]) -> bool {
    let one = match json.first() {
        Some(b'{' | b'[') => value(json, 0) == Some(json.len()),
        Some(b'"') => string(json, 0) == Some(json.len()),
        // Some servers send `null` between two events.
        Some(_) => json == b"null",
        None => false,
    };
    one && std::str::from_utf8(json).is_ok()
}

/// The offset of the first byte from `from` that is no white space.
pub(super) fn space(json: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(b' ' | b'\t' | b'\n' | b'\r') = json.get(at) {
        at += 1;
    }
    at
}

/// The offset after the string that begins at `from`.
pub(super) fn string(json: &[u8], from: usize) -> Option<usize> {
    let mut at = from + 1;
    loop {
        at += memchr2(b'"', b'\\', json.get(at..)?)?;
        if *json.get(at)? == b'"' {
            return Some(at + 1);
        }
        // A backslash escapes the next byte, which can be a quote or a backslash.
        at += 2;
    }
}

/// The offset after the value that begins at `from`.
pub(super) fn value(json: &[u8], from: usize) -> Option<usize> {
    // Brackets are counted, without a stack and recursion. Deep nesting cannot overflow the stack.
    let mut depth = 0_usize;
    let mut at = from;
    loop {
        match *json.get(at)? {
            b'"' => {
                at = string(json, at)?;
                if depth == 0 {
                    return Some(at);
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => match depth {
                0 => return (at > from).then_some(at),
                1 => return Some(at + 1),
                _ => depth -= 1,
            },
            b',' if depth == 0 => return (at > from).then_some(at),
            _ => {}
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, expect: Option<&str>) {
        assert_eq!(member(json.as_bytes(), "usage"), expect.map(str::as_bytes));
    }

    #[test]
    fn finds_the_member_of_the_outermost_object() {
        check(r#"{"usage":{"a":1}}"#, Some(r#"{"a":1}"#));
        check(r#" { "x" : [ {"usage":1}, "}" ] , "usage" : null } "#, Some("null "));
        check(r#"{"x":NaN,"usage":-1}"#, Some("-1"));
        check(r#"{"usage":1,"usage":2}"#, Some("2"));
    }

    #[test]
    fn is_not_fooled_by_text_or_depth() {
        check(r#"{"x":"\",\"usage\":9,\""}"#, None);
        check(r#"{"x":{"usage":9}}"#, None);
        check(r#"[{"usage":9}]"#, None);
        check(r#"{"x":"\\","usage":3}"#, Some("3"));
        check(r#"{"usage":"#, None);
        check(r#"{"usage":}"#, None);
        check("", None);
    }
}
