//! Repairs of answers whose meaning is certain, although some clients would fail at them.

use memchr::memmem;

use super::Dialect;
use super::framing::sse::EventLines;
use super::ranges::part;
use super::raw_json::member;

/// The escape of U+FFFD, the replacement character.
const REPLACEMENT: &[u8] = b"\\ufffd";

/// The event with its repairs; `None` if it needs none.
pub(super) fn event(dialect: Dialect, event: &[u8]) -> Option<Vec<u8>> {
    let surrogates = lone_surrogates(event);
    let current = surrogates.as_deref().unwrap_or(event);
    named(dialect, current).or(surrogates)
}

/// The event with its name, if it has none and the clients of its dialect need one. The name is the
/// type in the data.
fn named(dialect: Dialect, event: &[u8]) -> Option<Vec<u8>> {
    // A line before the data could end the event for some clients, so no name is put there.
    if !dialect.has_named_events() || !event.starts_with(b"data:") {
        return None;
    }
    let lines = EventLines::read(event);
    if lines.name().is_some() {
        return None;
    }
    let kind = member(lines.data()?.trim_ascii(), "type")?.trim_ascii();
    let kind = kind.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if kind.is_empty() || !kind.iter().all(plain) {
        return None;
    }
    Some([b"event: ", kind, b"\n", event].concat())
}

/// The JSON with U+FFFD in place of each lone surrogate; `None` if there is none.
///
/// Parsers treat the escape of a lone surrogate differently: some replace it, some fail (RFC 8259
/// section 8.2). The escape of U+FFFD has the same length.
#[must_use]
pub fn lone_surrogates(json: &[u8]) -> Option<Vec<u8>> {
    let mut repaired: Option<Vec<u8>> = None;
    let mut at = 0;
    while let Some(found) = memmem::find(part(json, at..), b"\\u") {
        let place = at + found;
        at = place + 2;
        if is_escaped(json, place) {
            continue;
        }
        let Some(unit) = code_unit(json, place) else { continue };
        at = place + REPLACEMENT.len();
        let is_high = (0xd800..0xdc00).contains(&unit);
        let is_low = (0xdc00..0xe000).contains(&unit);
        if !is_high && !is_low {
            continue;
        }
        let follows = code_unit(json, at).is_some_and(|unit| (0xdc00..0xe000).contains(&unit));
        if is_high && follows {
            at += REPLACEMENT.len();
            continue;
        }
        let out = repaired.get_or_insert_with(|| json.to_vec());
        if let Some(escape) = out.get_mut(place..place + REPLACEMENT.len()) {
            escape.copy_from_slice(REPLACEMENT);
        }
    }
    repaired
}

/// Whether the backslash at `place` is itself escaped: an odd number of backslashes is before it.
fn is_escaped(json: &[u8], place: usize) -> bool {
    let before = part(json, ..place);
    before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// The UTF-16 code unit of the escape at `place`; `None` if there is no such escape.
fn code_unit(json: &[u8], place: usize) -> Option<u32> {
    let escape = json.get(place..place + REPLACEMENT.len())?;
    let digits = std::str::from_utf8(escape.strip_prefix(b"\\u")?).ok()?;
    // `from_str_radix` accepts a sign, which is no digit.
    if digits.starts_with('+') { None } else { u32::from_str_radix(digits, 16).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn surrogates(json: &str, expect: &str) {
        let repaired = lone_surrogates(json.as_bytes());
        let repaired = repaired.as_deref().map(|bytes| std::str::from_utf8(bytes).expect("UTF-8"));
        assert_eq!(repaired.unwrap_or(json), expect);
        assert_eq!(repaired.is_none(), json == expect, "a copy without a repair");
    }

    #[test]
    fn lone_surrogates_are_replaced() {
        surrogates(r#"{"a":"\ud83d"}"#, r#"{"a":"\ufffd"}"#);
        surrogates(r#"{"a":"\uDC00x"}"#, r#"{"a":"\ufffdx"}"#);
        surrogates(r#"["\ud83d\ud83d\ude00"]"#, r#"["\ufffd\ud83d\ude00"]"#);
        surrogates(r#"["\ud83d\u0041\ude00"]"#, r#"["\ufffd\u0041\ufffd"]"#);
    }

    #[test]
    fn everything_else_stays() {
        for json in [
            r#"{"a":"\ud83d\ude00 \u00e4 \ufffd"}"#,
            // An escaped backslash, and text of a tool call's arguments.
            r#"{"a":"\\ud83d"}"#,
            r#"{"arguments":"{\"a\":\"\\ud83d\"}"}"#,
            r#"{"a":"\ud8"}"#,
            r#"{"a":"\u+d83"}"#,
            r#"{"a":"\"#,
            "",
        ] {
            surrogates(json, json);
        }
        // Three backslashes: an escaped one, and an escape.
        surrogates(r#"["\\\ud83d"]"#, r#"["\\\ufffd"]"#);
    }

    #[track_caller]
    fn names(data: &str, expect: Option<&str>) {
        let repaired = event(Dialect::Anthropic, data.as_bytes());
        assert_eq!(repaired.as_deref(), expect.map(str::as_bytes));
    }

    #[test]
    fn an_event_gets_the_name_of_its_type() {
        names("data: {\"type\":\"ping\"}\n\n", Some("event: ping\ndata: {\"type\":\"ping\"}\n\n"));
        names("event: ping\ndata: {\"type\":\"ping\"}\n\n", None);
        names("data: {\"type\":\"a\\nb\"}\n\n", None);
        names("data: {}\n\n", None);
        names("data: [DONE]\n\n", None);
        names(": ping\n\n", None);
        assert_eq!(event(Dialect::OpenAi, b"data: {\"type\":\"ping\"}\n\n"), None);
    }
}
