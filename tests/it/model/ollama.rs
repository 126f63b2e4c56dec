//! Ollama's dialect: bodies, lines, errors and model lists.

use token_shield::model::answer::StreamFilter;
use token_shield::model::{BodyChanges, Dialect, Operation, Profile, UnknownFields, error, models};
use token_shield::refusal::{Code, Refusal};

use super::answers::filters;
use super::{passes, refused_by, understand};

const CHAT: Operation = Operation::OllamaChat;
const GENERATE: Operation = Operation::OllamaGenerate;
const HI: &str = r#""model":"m","messages":[{"role":"user","content":"hi"}]"#;

#[track_caller]
fn writes(rest: &str, cap: Option<u64>, expect: &str) {
    let body = format!("{{{HI}{rest}}}");
    let call = understand(CHAT, "ollama", UnknownFields::Drop, body.as_bytes())
        .unwrap_or_else(|no| panic!("{no}\n{body}"));
    let written =
        call.write(&BodyChanges { output_tokens: cap, request_id: None, cache_salt: None });
    let expect = format!("{{{}{expect}}}", HI.replace("\"m\"", "\"served\""));
    assert_eq!(String::from_utf8_lossy(&written.body), expect);
}

#[test]
fn the_cap_is_an_option() {
    writes("", None, "");
    writes("", Some(9), r#","options":{"num_predict":9}"#);
    let own = r#","options":{"seed":1,"num_predict":5,"num_ctx":8,"sparkle":2},"stream":false"#;
    writes(own, Some(9), r#","options":{"seed":1,"num_predict":5},"stream":false"#);
    writes(own, Some(3), r#","options":{"seed":1,"num_predict":3},"stream":false"#);
    writes(r#","options":{"num_predict":-2}"#, Some(9), r#","options":{"num_predict":9}"#);
    writes(r#","options":null"#, Some(9), r#","options":{"num_predict":9}"#);
    let zero = format!(r#"{{{HI},"options":{{"num_predict":0}}}}"#);
    let param = "options.num_predict";
    refused_by(CHAT, "ollama", zero.as_bytes(), Code::FieldInvalid, param);
    let other = format!(r#"{{{HI},"max_tokens":5}}"#);
    refused_by(CHAT, "ollama", other.as_bytes(), Code::FieldNotAllowed, "max_tokens");
}

#[test]
fn a_stream_is_the_default() {
    for (rest, expect) in [
        ("", true),
        (r#","stream":null"#, true),
        (r#","stream":true"#, true),
        (r#","stream":false"#, false),
    ] {
        let body = format!("{{{HI}{rest}}}");
        let call = understand(CHAT, "ollama", UnknownFields::Refuse, body.as_bytes());
        assert_eq!(call.expect("a call").stream(), expect, "{rest}");
    }
    let body = br#"{"model":"m","input":"a"}"#;
    let call = understand(Operation::OllamaEmbed, "ollama", UnknownFields::Refuse, body);
    assert!(!call.expect("a call").stream());
}

#[test]
fn what_clients_send_passes() {
    let tool = concat!(
        r#","tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}],"#,
        r#""think":"low","format":{"type":"object"},"options":{"stop":["a"],"temperature":0.5}"#
    );
    passes(CHAT, "ollama", &format!("{{{HI}{tool}}}"));
    passes(
        CHAT,
        "ollama",
        concat!(
            r#"{"model":"m","messages":[{"role":"assistant","content":"","thinking":"t","#,
            r#""tool_calls":[{"function":{"index":0,"name":"f","arguments":{"a":1}}}]},"#,
            r#"{"role":"tool","tool_name":"f","content":"x"}]}"#
        ),
    );
    passes(
        GENERATE,
        "ollama",
        concat!(
            r#"{"model":"m","prompt":"p","suffix":"s","system":"x","template":"","context":[1],"#,
            r#""raw":true,"format":"json"}"#
        ),
    );
    let body = br#"{"model":"m","prompt":"p","template":"{{ .Prompt }}"}"#;
    refused_by(GENERATE, "ollama", body, Code::FieldInvalid, "template");
    let body = br#"{"model":"m","prompt":"p","remote_host":"https://a.example"}"#;
    refused_by(GENERATE, "ollama", body, Code::FieldNotAllowed, "remote_host");
}

#[track_caller]
fn forms(body: &str, structured: bool, prefill: Option<&str>) {
    let operation = if body.contains("messages") { CHAT } else { GENERATE };
    let call = understand(operation, "ollama", UnknownFields::Refuse, body.as_bytes());
    let call = call.unwrap_or_else(|no| panic!("{no}\n{body}"));
    assert_eq!((call.is_structured(), call.prefill().as_deref()), (structured, prefill), "{body}");
}

#[test]
fn forms_and_continued_texts_are_known() {
    forms(&format!(r#"{{{HI},"format":""}}"#), false, None);
    forms(&format!(r#"{{{HI},"format":"json"}}"#), true, None);
    forms(&format!(r#"{{{HI},"format":{{"properties":{{}}}}}}"#), true, None);
    // The server's template ends such a prompt, so the answer does not continue it.
    forms(r#"{"model":"m","prompt":"```"}"#, false, None);
    forms(r#"{"model":"m","prompt":"```","raw":true}"#, false, Some("```"));
    forms(r#"{"model":"m","prompt":"a","suffix":"b"}"#, false, Some("a"));
}

#[test]
fn only_ollama_has_the_dialect() {
    for name in Profile::NAMES {
        let profile = Profile::named(name).expect("a profile");
        assert_eq!(profile.has(CHAT), name == "ollama");
        assert_eq!(profile.forwards_model("gpt-oss:120b-cloud"), name == "ollama");
    }
    let profile = Profile::named("ollama").expect("a profile");
    for name in ["kimi:CLOUD", "ns/kimi:1t-cloud", "kimi:cloud@sha256:00"] {
        assert!(profile.forwards_model(name), "{name}");
    }
    assert!(!profile.forwards_model("cloudy:7b"));
}

#[test]
fn lines_pass_unchanged_with_their_usage() {
    let stream = concat!(
        "{\"message\":{\"role\":\"assistant\",\"content\":\"hi\"},\"done\":false}\n",
        "{\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true,",
        "\"done_reason\":\"stop\",\"prompt_eval_count\":7,\"eval_count\":3}\n"
    );
    filters(CHAT, false, stream, stream, Some((7, 3)));
    // The last line needs no line feed at its end.
    filters(CHAT, false, stream.trim_end(), stream, Some((7, 3)));
    filters(CHAT, false, &stream.replace('\n', "\r\n\n"), stream, Some((7, 3)));
}

#[test]
fn the_last_line_is_found_apart() {
    let mut filter = StreamFilter::new(GENERATE, false, ());
    let mut out = Vec::new();
    let lines = b"{\"response\":\"a\",\"done\":false}\n{\"response\":\"\",\"done\":true}\n";
    let place = filter.push(lines, &mut out).expect("short lines").expect("a last line");
    assert_eq!(&out[place..], b"{\"response\":\"\",\"done\":true}\n");
    assert!(filter.is_complete());
}

#[test]
fn nothing_passes_after_the_last_line() {
    let mut filter = StreamFilter::new(GENERATE, false, ());
    let mut out = Vec::new();
    let lines = b"{\"response\":\"\",\"done\":true}\n{\"response\":\"b\",\"done\":true}\n";
    filter.push(lines, &mut out).expect("short lines");
    filter.push(b"{\"response\":\"c\"}\n", &mut out).expect("short lines");
    filter.push(b"{\"response\":\"d\"}", &mut out).expect("short lines");
    filter.finish(&mut out).expect("an end");
    assert_eq!(out, b"{\"response\":\"\",\"done\":true}\n");
}

#[test]
fn errors_are_texts() {
    let refusal = Refusal::new(Code::RouteUnknown).saying("There is no such route.").at("x");
    let expect = concat!(
        r#"{"error":"There is no such route.","param":"x","code":"route-unknown","#,
        r#""request":"rq_1"}"#
    );
    assert_eq!(String::from_utf8_lossy(&error::body(Dialect::Ollama, &refusal, "rq_1")), expect);
    let line = error::event(Dialect::Ollama, &refusal, "rq_1", None);
    assert_eq!(String::from_utf8_lossy(&line), format!("{expect}\n"));
}

#[test]
fn models_have_the_members_that_clients_read() {
    let entry = models::ModelEntry { id: "m".to_owned(), created: 0, owner: "u".to_owned() };
    let list: serde_json::Value =
        serde_json::from_slice(&models::list(Dialect::Ollama, std::slice::from_ref(&entry)))
            .expect("JSON");
    assert_eq!(list["models"][0]["model"], "m");
    assert_eq!(list["models"][0]["details"]["family"], "");
    let shown = models::one(Dialect::Ollama, &entry);
    let shown: serde_json::Value = serde_json::from_slice(&shown).expect("JSON");
    assert_eq!(shown["capabilities"], serde_json::json!(["completion", "tools"]));
}
