//! Secrets in every form and at every split, and texts without secrets.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use super::{Redacted, Redactor, Unsearchable, UpstreamAddress};

const SECRET: &str = "sk-canary/+?0123456789abcdefABCDEF";

fn redactor() -> Redactor {
    Redactor::new(
        &[SECRET, "short"],
        &[UpstreamAddress::Host { host: "10.0.0.5".to_owned(), port: 8000 }],
    )
}

/// The secret in every form that is searched.
fn forms() -> Vec<String> {
    let percent = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let escaped =
        |text: &str| text.bytes().map(|byte| format!("\\u{byte:04x}")).collect::<String>();
    let mut forms = vec![
        SECRET.to_owned(),
        percent(SECRET),
        escaped(SECRET),
        SECRET.replace('/', "\\/").replace('+', "%2b"),
    ];
    for before in ["", "x", "xy", "Bearer ", "user:"] {
        forms.push(STANDARD.encode(format!("{before}{SECRET}")));
        forms.push(URL_SAFE_NO_PAD.encode(format!("{before}{SECRET} and more")));
    }
    forms
}

fn chunk(text: &str) -> String {
    let mut json = Vec::new();
    crate::json::write_string(text, &mut json);
    let json = String::from_utf8(json).expect("UTF-8");
    let choice = format!(r#"{{"index":0,"delta":{{"content":{json}}},"finish_reason":null}}"#);
    format!("data: {{\"id\":\"c\",\"choices\":[{choice}]}}\n\n")
}

fn through(events: &[String]) -> String {
    let (mut stream, mut out) = (Redacted::new(Arc::new(redactor())), Vec::new());
    for event in events {
        stream.push(event.as_bytes(), &mut out).expect("short events");
    }
    stream.finish(&mut out);
    String::from_utf8(out).expect("UTF-8")
}

/// The text that a client joins.
fn text(stream: &str) -> String {
    let mut whole = String::new();
    for data in stream.lines().filter_map(|line| line.strip_prefix("data: ")) {
        let value: serde_json::Value = serde_json::from_str(data).expect("JSON");
        whole.push_str(value["choices"][0]["delta"]["content"].as_str().expect("text"));
    }
    whole
}

#[test]
fn a_secret_gives_way_in_every_form_and_at_every_split() {
    for form in forms() {
        let said = format!("it is {form}, they said");
        let cuts = (0..=said.len()).filter(|cut| said.is_char_boundary(*cut));
        for cut in cuts {
            let (first, second) = said.split_at(cut);
            let shown = text(&through(&[chunk(first), chunk(second)]));
            assert!(
                shown.contains("[credential]") && shown.starts_with("it is "),
                "{form} cut at {cut}: {shown}"
            );
            assert!(
                shown.ends_with(", they said") || form.len() > 46,
                "{form} cut at {cut}: {shown}"
            );
            assert!(shown.len() < said.len(), "{form} cut at {cut}: {shown}");
        }
        let pieces: Vec<String> = said.chars().map(|one| chunk(&one.to_string())).collect();
        let shown = text(&through(&pieces));
        assert!(shown.contains("[credential]"), "{form} by letters: {shown}");
    }
}

#[test]
fn ordinary_events_go_out_byte_for_byte_and_at_once() {
    let events = [
        chunk("sk-"),
        chunk("10.0.0.5:8000 is where it is, \u{1f600} %41 \\u0041"),
        ": ping\n\n".to_owned(),
        "data: [DONE]\n\n".to_owned(),
    ];
    assert_eq!(through(&events), events.concat());
    let (mut stream, mut out) = (Redacted::new(Arc::new(redactor())), Vec::new());
    for event in &events {
        out.clear();
        stream.push(event.as_bytes(), &mut out).expect("short");
        assert_eq!(String::from_utf8_lossy(&out), *event);
    }
}

#[test]
fn what_turns_out_to_be_none_goes_out_byte_for_byte() {
    let events =
        [chunk("sk-canary/+?0123456789"), chunk(" is a bird"), chunk("sk-canary/"), chunk("x")];
    assert_eq!(through(&events), events.concat());
}

#[test]
fn an_answer_that_ends_within_a_secret_does_not_show_most_of_it() {
    let shown = text(&through(&[chunk("it is sk-canary/+?01234567"), chunk("89abc")]));
    assert_eq!(shown, "it is [credential]");
}

#[test]
fn every_string_of_a_whole_answer_is_looked_at() {
    let document = |hole: &str| {
        let call = format!(r#"{{"function":{{"arguments":"{{\"a\":\"{hole}\"}}"}}}}"#);
        let message = format!(r#""message":{{"tool_calls":[{call}]}}"#);
        let choice =
            format!(r#"{{{message},"logprobs":{{"content":[]}},"finish_reason":"{hole}"}}"#);
        format!(r#"{{"id":"{hole}","model":"m {hole}","{hole}":1,"choices":[{choice}]}}"#)
    };
    let shown = redactor().whole(document(SECRET).as_bytes(), false).expect("changed");
    let expect = document("[credential]").replace(r#"{"content":[]}"#, "null");
    assert_eq!(String::from_utf8(shown).expect("UTF-8"), expect);
    assert_eq!(redactor().whole(document("short").as_bytes(), false), None);
}

#[test]
fn addresses_give_way_in_errors_alone() {
    let text = concat!(
        r#"{"error":{"message":"dial http://10.0.0.5:8000/v1: refused, "#,
        r#"10.0.0.5:8000 again, not 110.0.0.5:8000"}}"#
    );
    let text = text.as_bytes();
    let shown = redactor().whole(text, false).expect("changed");
    assert_eq!(
        String::from_utf8(shown).expect("UTF-8"),
        concat!(
            r#"{"error":{"message":"dial [upstream]/v1: refused, "#,
            r#"[upstream] again, not 110.0.0.5:8000"}}"#
        )
    );
    assert_eq!(
        redactor()
            .whole(br#"{"choices":[{"message":{"content":"10.0.0.5:8000"}}],"error":null}"#, false),
        None
    );
    assert_eq!(
        through(&["data: {\"error\":\"10.0.0.5:8000\"}\n\n".to_owned()]),
        "data: {\"error\":\"[upstream]\"}\n\n"
    );
}

#[test]
fn comments_and_identifiers_show_no_secret() {
    assert_eq!(through(&[format!(": {SECRET}\nid: 1\ndata: {{}}\n\n")]), "id: 1\ndata: {}\n\n");
}

#[test]
fn a_removed_line_does_not_split_its_event() {
    for end in ["\n", "\r", "\r\n"] {
        let event = format!("event: x{end}: {SECRET}{end}id: {SECRET}{end}data: {{}}{end}{end}");
        assert_eq!(through(&[event]), format!("event: x{end}data: {{}}{end}{end}"), "{end:?}");
    }
}

#[test]
fn numbers_and_words_without_quotes_are_looked_at() {
    let (word, number) = ("sk-canary-0123456789abcdefXYZ", "31415926535897932384");
    let redactor = Arc::new(Redactor::new(
        &[word, number],
        &[UpstreamAddress::Host { host: "10.0.0.5".to_owned(), port: 8000 }],
    ));
    for hole in [
        word.to_owned(),
        number.to_owned(),
        format!("x{word}.1"),
        format!("-{number}e5"),
        STANDARD_NO_PAD.encode(word),
    ] {
        for (before, behind) in [
            (r#"{"error":{"message":"bad key","key":"#, "}}"),
            (r#"{"choices":[{"index":0,"message":{"content":"x","k":[1, "#, " ,null]}}]}"),
            (r#"{"created":"#, r#","id":"c"}"#),
            ("", ""),
        ] {
            let expect = format!("{before}\"[credential]\"{behind}");
            let document = format!("{before}{hole}{behind}");
            let shown = redactor.whole(document.as_bytes(), false).expect("changed");
            assert_eq!(String::from_utf8_lossy(&shown), expect);
            let (mut stream, mut out) = (Redacted::new(Arc::clone(&redactor)), Vec::new());
            stream.push(format!("data: {document}\n\n").as_bytes(), &mut out).expect("short");
            stream.finish(&mut out);
            assert_eq!(String::from_utf8_lossy(&out), format!("data: {expect}\n\n"));
        }
    }
    let shown = redactor.whole(br#"{"error":{"at":10.0.0.5:8000}}"#, false).expect("changed");
    assert_eq!(String::from_utf8_lossy(&shown), r#"{"error":{"at":"[upstream]"}}"#);
    let honest = concat!(
        r#"{"data":[{"index":0,"embedding":[0.31415926535897931,-1.5e-8, 3141592653589793238],"#,
        r#""ok":true,"no":NaN}],"k":null}"#
    );
    assert_eq!(redactor.whole(honest.as_bytes(), true), None);
}

/// An event with a part of another text than the content.
fn aside(text: &str) -> String {
    let delta = format!(r#"{{"content":"","reasoning_content":"{text}"}}"#);
    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{delta}}}]}}\n\n")
}

#[test]
fn lines_that_are_removed_do_not_count_as_held() {
    let comments = (0..400).map(|_| format!(": {SECRET} {}\n\n", "z".repeat(900)));
    let split = [chunk("it is sk-canary/+?012"), chunk("3456789abcdefABCDEF, they said")];
    let shown = through(&comments.chain(split).collect::<Vec<_>>());
    assert_eq!(text(&shown), "it is [credential], they said");
}

#[test]
fn what_is_held_too_long_does_not_show_more_than_seven_bytes() {
    let long = vec![aside(&"y".repeat(90_000)); 3];
    for form in [
        SECRET.to_owned(),
        STANDARD.encode(format!("xy{SECRET}")),
        "\\u0073".to_owned() + &SECRET[1..],
    ] {
        for cut in (1..form.len()).step_by(3) {
            let (first, rest) = form.split_at(cut);
            let (middle, last) = rest.split_at(rest.len() / 2);
            let events = [
                vec![chunk(&format!("it is {first}"))],
                long.clone(),
                vec![chunk(middle)],
                long.clone(),
                vec![chunk(last)],
            ];
            let shown = text(&through(&[events.concat(), vec![chunk(", they said")]].concat()));
            let begun = shown
                .strip_prefix("it is ")
                .and_then(|shown| shown.split_once("[credential]"))
                .map(|(begun, _)| begun);
            // Inside an escape, or in the base64 of the bytes before it, more characters reveal no
            // more of the secret.
            assert!(
                begun.is_some_and(|begun| begun.len() <= 7 + 6 && form.starts_with(begun)),
                "{form} cut at {cut}: {shown}"
            );
            assert!(
                shown.len() <= "it is [credential], they said".len() + 7 + 6 + 3,
                "{form} cut at {cut}: {shown}"
            );
        }
    }
}

#[test]
fn a_stream_that_is_let_go_stays_as_it_is() {
    let long: Vec<String> = (0..30).map(|_| aside(&"y".repeat(20_000))).collect();
    let events = [vec![chunk("sk-cana")], long, vec![chunk("ry is a bird")]].concat();
    assert_eq!(through(&events), events.concat());
}

#[test]
fn a_stream_with_more_open_texts_than_are_kept_ends() {
    let texts = |count: usize| -> String {
        let members: Vec<String> =
            (0..count).map(|number| format!("\"m{number}\":\"sk-\"")).collect();
        format!("data: {{{}}}\n\n", members.join(","))
    };
    let (mut stream, mut out) = (Redacted::new(Arc::new(redactor())), Vec::new());
    assert_eq!(stream.push(texts(4_096).as_bytes(), &mut out), Ok(()));
    out.clear();
    let more = [texts(4_097), chunk("it is sk-can"), chunk(&SECRET[6..])].concat();
    assert_eq!(stream.push(more.as_bytes(), &mut out), Err(Unsearchable::TooMany));
    stream.finish(&mut out);
    assert_eq!(String::from_utf8_lossy(&out), "");
}

/// Each of these once took quadratic time, which is minutes at this size.
#[test]
fn long_events_are_read_once() {
    let digits = format!("data: {{\"x\":{{\"index\":0.{}}}}}\n\n", "0".repeat(1_000_000));
    assert_eq!(through(std::slice::from_ref(&digits)), digits);
    let begun = &SECRET[..4];
    let empty = format!("data: {{\"a\":[\"{begun}\"{}]}}\n\n", ",\"\"".repeat(300_000));
    assert_eq!(through(std::slice::from_ref(&empty)), empty);
}

/// Deltas of the Responses dialect, of two parts of one item by turns.
#[test]
fn parts_of_an_item_are_separate_texts() {
    let (begin, rest) = SECRET.split_at(6);
    let delta = |kind: &str, part: u8, text: &str| {
        let at = format!(r#""output_index":0,"content_index":{part}"#);
        format!("data: {{\"type\":\"response.{kind}.delta\",{at},\"delta\":\"{text}\"}}\n\n")
    };
    for (kind, part) in [("refusal", 1), ("refusal", 0), ("output_text", 1)] {
        let events =
            [delta("output_text", 0, begin), delta(kind, part, "x"), delta("output_text", 0, rest)];
        let shown = through(&events);
        assert!(!shown.contains(&rest[..8]), "{kind} {part}: {shown}");
    }
}
