//! Secrets in every form and at every split, and texts that hold none.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::{Place, Redacted, Redactor};

const SECRET: &str = "sk-canary/+?0123456789abcdefABCDEF";

fn redactor() -> Redactor {
    Redactor::new(&[SECRET, "short"], &[Place::Host { host: "10.0.0.5".to_owned(), port: 8000 }])
}

/// The secret in every form that is looked for.
fn forms() -> Vec<String> {
    let percent = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let escaped = |text: &str| text.bytes().map(|byte| format!("\\u{byte:04x}")).collect::<String>();
    let mut forms = vec![SECRET.to_owned(), percent(SECRET), escaped(SECRET), SECRET.replace('/', "\\/").replace('+', "%2b")];
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
    format!("data: {{\"id\":\"c\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":{json}}},\"finish_reason\":null}}]}}\n\n")
}

fn through(events: &[String]) -> String {
    let (mut stream, mut out) = (Redacted::new(Arc::new(redactor())), Vec::new());
    for event in events {
        stream.push(event.as_bytes(), &mut out).expect("short events");
    }
    stream.finish(&mut out);
    String::from_utf8(out).expect("UTF-8")
}

/// What a reader puts together.
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
            assert!(shown.contains("[credential]") && shown.starts_with("it is "), "{form} cut at {cut}: {shown}");
            assert!(shown.ends_with(", they said") || form.len() > 46, "{form} cut at {cut}: {shown}");
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
    let events = [chunk("sk-canary/+?0123456789"), chunk(" is a bird"), chunk("sk-canary/"), chunk("x")];
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
        format!(
            r#"{{"id":"{hole}","model":"m {hole}","{hole}":1,"choices":[{{"message":{{"tool_calls":[{{"function":{{"arguments":"{{\"a\":\"{hole}\"}}"}}}}]}},"logprobs":{{"content":[]}},"finish_reason":"{hole}"}}]}}"#
        )
    };
    let shown = redactor().whole(document(SECRET).as_bytes(), false).expect("changed");
    let expect = document("[credential]").replace(r#"{"content":[]}"#, "null");
    assert_eq!(String::from_utf8(shown).expect("UTF-8"), expect);
    assert_eq!(redactor().whole(document("short").as_bytes(), false), None);
}

#[test]
fn addresses_give_way_in_errors_alone() {
    let text = br#"{"error":{"message":"dial http://10.0.0.5:8000/v1: refused, 10.0.0.5:8000 again, not 110.0.0.5:8000"}}"#;
    let shown = redactor().whole(text, false).expect("changed");
    assert_eq!(
        String::from_utf8(shown).expect("UTF-8"),
        r#"{"error":{"message":"dial [upstream]/v1: refused, [upstream] again, not 110.0.0.5:8000"}}"#
    );
    assert_eq!(redactor().whole(br#"{"choices":[{"message":{"content":"10.0.0.5:8000"}}],"error":null}"#, false), None);
    assert_eq!(through(&["data: {\"error\":\"10.0.0.5:8000\"}\n\n".to_owned()]), "data: {\"error\":\"[upstream]\"}\n\n");
}

#[test]
fn comments_and_identifiers_show_no_secret() {
    assert_eq!(through(&[format!(": {SECRET}\nid: 1\ndata: {{}}\n\n")]), "id: 1\ndata: {}\n\n");
}
