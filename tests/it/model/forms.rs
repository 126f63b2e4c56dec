//! What a request says of its answer.

use token_shield::model::{Operation, UnknownFields};

use super::{CHAT, MESSAGES, chat, messages, said, understand};

#[track_caller]
fn is_structured(operation: Operation, profile: &str, body: &str, expect: bool) {
    let call = understand(operation, profile, UnknownFields::Refuse, body.as_bytes())
        .unwrap_or_else(|no| panic!("{no}\n{body}"));
    assert_eq!(call.is_structured(), expect, "{body}");
}

#[test]
fn a_declared_form_is_known_in_every_dialect() {
    for field in [
        r#""response_format":{"type":"json_object"}"#,
        r#""response_format":{"type":"json_schema","json_schema":{"name":"a","schema":{}}}"#,
        r#""guided_json":{"type":"object"}"#,
        r#""guided_regex":"a+""#,
        r#""guided_choice":["a"]"#,
        r#""structured_outputs":{"regex":"a+"}"#,
    ] {
        is_structured(CHAT, "vllm", &chat(&format!(",{field}")), true);
    }
    let grammar = r#","grammar":"root ::= \"a\"""#;
    is_structured(CHAT, "llama.cpp", &chat(grammar), true);
    for more in ["", r#","response_format":{"type":"text"}"#, r#","response_format":null"#] {
        is_structured(CHAT, "vllm", &chat(more), false);
    }
    let format = r#"{"type":"json_schema","schema":{"type":"object"}}"#;
    let config = format!(r#","output_config":{{"format":{format}}}"#);
    is_structured(MESSAGES, "vllm", &messages(&config), true);
    is_structured(MESSAGES, "vllm", &messages(r#","output_config":{"effort":"low"}"#), false);
    is_structured(MESSAGES, "vllm", &messages(""), false);
}

#[track_caller]
fn continues(operation: Operation, body: &str, expect: Option<&str>) {
    let call = understand(operation, "vllm", UnknownFields::Refuse, body.as_bytes())
        .unwrap_or_else(|no| panic!("{no}\n{body}"));
    assert_eq!(call.prefill().as_deref(), expect, "{body}");
}

#[test]
fn an_answer_continues_a_prompt_or_a_last_message() {
    continues(Operation::Completions, r#"{"model":"m","prompt":"a"}"#, Some("a"));
    continues(Operation::Completions, r#"{"model":"m","prompt":["a"]}"#, Some("a"));
    continues(Operation::Completions, r#"{"model":"m","prompt":[1,2]}"#, None);
    continues(CHAT, &chat(""), None);
    continues(CHAT, &said(r#"{"role":"assistant","content":"a"}"#), Some("a"));
    let parts = r#"[{"type":"text","text":"a"},{"type":"text","text":"b"}]"#;
    let body = said(&format!(r#"{{"role":"assistant","content":{parts}}}"#));
    continues(CHAT, &body, Some("ab"));
}
