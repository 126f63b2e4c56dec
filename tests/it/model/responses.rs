//! Requests and answers of the Responses dialect.

use token_shield::model::answer::StreamFilter;
use token_shield::model::{BodyChanges, Operation, Profile, ReferenceKind, UnknownFields};
use token_shield::refusal::Code;

use super::{passes, refused_by, understand};

const RESPONSES: Operation = Operation::Responses;

/// A body with `rest` after model and input.
fn body(rest: &str) -> String {
    format!(r#"{{"model":"m","input":"hi"{rest}}}"#)
}

/// A body with these items.
fn items(items: &str) -> String {
    format!(r#"{{"model":"m","input":[{items}]}}"#)
}

/// The body that the server gets, and the removed fields.
fn written(profile: &str, body: &str, cap: Option<u64>) -> (String, Vec<String>) {
    let call = understand(RESPONSES, profile, UnknownFields::Drop, body.as_bytes())
        .unwrap_or_else(|no| panic!("{no}\n{body}"));
    let changes = BodyChanges {
        output_tokens: cap,
        request_id: Some("rq_1".to_owned()),
        cache_salt: Some("salt".to_owned()),
    };
    let written = call.write(&changes);
    (String::from_utf8(written.body).expect("UTF-8"), call.dropped().to_vec())
}

#[test]
fn what_agents_send_passes() {
    for profile in ["generic", "vllm", "llama.cpp", "sglang", "ollama"] {
        assert!(Profile::named(profile).is_some_and(|profile| profile.has(RESPONSES)));
        for item in [
            r#"{"role":"user","content":"hi"}"#,
            concat!(
                r#"{"type":"message","id":"msg_1","status":"completed","phase":"final","#,
                r#""role":"assistant","content":[{"type":"output_text","text":"a","#,
                r#""annotations":[]},{"type":"refusal","refusal":"no"}]}"#
            ),
            concat!(
                r#"{"role":"developer","content":[{"type":"input_text","text":"a"},"#,
                r#"{"type":"input_image","image_url":"data:image/png;base64,iVBORw0KGgo=","#,
                r#""detail":"high"}]}"#
            ),
            concat!(
                r#"{"type":"function_call","id":"fc_1","call_id":"c","namespace":"n","#,
                r#""name":"f","arguments":"{}","status":"completed"}"#
            ),
            r#"{"type":"function_call_output","call_id":"c","output":"done"}"#,
            concat!(
                r#"{"type":"function_call_output","call_id":"c","output":[{"type":"input_text","#,
                r#""text":"done"}]}"#
            ),
            r#"{"type":"custom_tool_call","call_id":"c","name":"patch","input":"*** Begin"}"#,
            r#"{"type":"custom_tool_call_output","call_id":"c","output":"done"}"#,
            concat!(
                r#"{"type":"reasoning","id":"rs_1","summary":[{"type":"summary_text","#,
                r#""text":"a"}],"content":[{"type":"reasoning_text","text":"b"}],"#,
                r#""encrypted_content":"gAAA"}"#
            ),
            concat!(
                r#"{"type":"local_shell_call","id":"l","call_id":"c","status":"completed","#,
                r#""action":{"type":"exec","command":["ls"]}}"#
            ),
            r#"{"type":"local_shell_call_output","call_id":"c","output":"x"}"#,
            concat!(
                r#"{"type":"web_search_call","id":"w","status":"completed","#,
                r#""action":{"type":"search","query":"x"}}"#
            ),
        ] {
            passes(RESPONSES, profile, &items(item));
        }
        for rest in [
            "",
            r#","stream":true,"stream_options":{"include_obfuscation":false}"#,
            r#","instructions":"be brief","include":["reasoning.encrypted_content"]"#,
            r#","reasoning":{"effort":"low","summary":"auto"}"#,
            r#","text":{"format":{"type":"json_schema","name":"a","schema":{}},"verbosity":"low"}"#,
            r#","tools":[{"type":"function","name":"f","parameters":{},"strict":false}]"#,
            concat!(
                r#","tools":[{"type":"namespace","name":"n","description":"d","tools":[{"type":"#,
                r#""function","name":"f","parameters":{}}]}]"#
            ),
            concat!(
                r#","tools":[{"type":"custom","name":"p","format":{"type":"grammar","#,
                r#""syntax":"lark","definition":"start: x"}},{"type":"local_shell"}]"#
            ),
            r#","tool_choice":{"type":"function","name":"f"},"parallel_tool_calls":false"#,
            r#","max_output_tokens":9,"max_tool_calls":3,"metadata":{"a":"b"},"user":"u""#,
        ] {
            passes(RESPONSES, profile, &body(rest));
        }
    }
    assert!(!Profile::named("tgi").is_some_and(|profile| profile.has(RESPONSES)));
}

#[test]
fn the_server_stores_nothing_and_learns_nothing_of_the_caller() {
    let expect = r#"{"model":"served","input":"hi","store":false}"#;
    assert_eq!(written("generic", &body(""), None).0, expect);
    assert_eq!(written("generic", &body(r#","store":false"#), None), (expect.into(), vec![]));
    let (sent, dropped) = written("generic", &body(r#","store":true"#), None);
    assert_eq!((sent.as_str(), dropped), (expect, vec!["store".to_owned()]));
    let codex = concat!(
        r#","client_metadata":{"x-codex-turn-metadata":"git@example"},"prompt_cache_key":"k","#,
        r#""truncation":"auto","service_tier":"flex","safety_identifier":"s""#
    );
    let (sent, dropped) = written("generic", &body(codex), None);
    assert_eq!((sent.as_str(), dropped.len()), (expect, 5));
    // A server of several principals must not share its cache between them.
    let (sent, _) = written("vllm", &body(""), None);
    assert_eq!(sent, r#"{"model":"served","input":"hi","store":false,"cache_salt":"salt"}"#);
}

#[test]
fn a_cap_has_the_name_of_the_dialect() {
    for profile in ["generic", "llama.cpp"] {
        let (sent, _) = written(profile, &body(r#","max_output_tokens":50"#), Some(7));
        assert_eq!(sent, r#"{"model":"served","input":"hi","max_output_tokens":7,"store":false}"#);
        let (sent, _) = written(profile, &body(""), Some(7));
        assert!(sent.contains(r#""max_output_tokens":7"#), "{sent}");
    }
    let call = |rest: &str| {
        let body = body(rest);
        understand(RESPONSES, "generic", UnknownFields::Drop, body.as_bytes())
            .map(|call| call.output_tokens_asked())
            .map_err(|no| no.code)
    };
    assert_eq!(call(r#","max_output_tokens":50"#), Ok(Some(50)));
    assert_eq!(call(r#","max_output_tokens":0"#), Err(Code::FieldInvalid));
    // A cap under another name would have no effect at the server.
    assert_eq!(call(r#","max_tokens":50"#), Err(Code::FieldNotAllowed));
}

#[test]
fn what_reaches_out_or_names_stored_state_is_listed() {
    let reach = |body: &str| {
        let call = understand(RESPONSES, "generic", UnknownFields::Drop, body.as_bytes())
            .unwrap_or_else(|no| panic!("{no}\n{body}"));
        match call.external_references() {
            [one] => (one.path.clone(), one.kind),
            other => panic!("{other:?}\n{body}"),
        }
    };
    let url = "https://evil.example/x";
    for (sent, path, kind) in [
        (body(r#","previous_response_id":"resp_1""#), "previous_response_id", "foreign-state"),
        (body(r#","conversation":{"id":"c"}"#), "conversation", "foreign-state"),
        (body(r#","prompt":{"id":"p"}"#), "prompt", "foreign-state"),
        (body(r#","background":true"#), "background", "background"),
        (items(r#"{"type":"item_reference","id":"msg_1"}"#), "input[0]", "foreign-state"),
        (items(r#"{"type":"file_search_call","id":"f"}"#), "input[0]", "foreign-state"),
        (items(r#"{"type":"computer_call","id":"f"}"#), "input[0]", "hosted-tool"),
        (items(r#"{"type":"mcp_call","id":"f"}"#), "input[0]", "mcp"),
        (
            items(&format!(
                r#"{{"role":"user","content":[{{"type":"input_image","image_url":"{url}"}}]}}"#
            )),
            "input[0].content[0].image_url",
            "media",
        ),
        (
            items(&format!(
                r#"{{"role":"user","content":[{{"type":"input_file","file_url":"{url}"}}]}}"#
            )),
            "input[0].content[0].file_url",
            "media",
        ),
        (
            items(r#"{"role":"user","content":[{"type":"input_file","file_id":"file_1"}]}"#),
            "input[0].content[0].file_id",
            "foreign-state",
        ),
        (body(r#","tools":[{"type":"web_search"}]"#), "tools[0]", "hosted-tool"),
        (body(r#","tools":[{"type":"image_generation"}]"#), "tools[0]", "hosted-tool"),
        (body(r#","tools":[{"type":"mcp","server_url":"x"}]"#), "tools[0]", "mcp"),
        (body(r#","tool_choice":{"type":"file_search"}"#), "tool_choice", "hosted-tool"),
    ] {
        let (found, of) = reach(&sent);
        assert_eq!((found.as_str(), of.as_str()), (path, kind), "{sent}");
    }
    passes(RESPONSES, "generic", &body(r#","background":false"#));
    for (sent, code, at) in [
        (items(r#"{"role":"owner","content":"x"}"#), Code::FieldInvalid, "input[0].role"),
        (items(r#"{"type":"new_item"}"#), Code::FieldInvalid, "input[0].type"),
        (body(r#","tools":[{"name":"f"}]"#), Code::FieldMissing, "tools[0].type"),
        (r#"{"model":"m"}"#.to_owned(), Code::FieldMissing, "input"),
    ] {
        refused_by(RESPONSES, "generic", sent.as_bytes(), code, at);
    }
}

#[test]
fn a_note_takes_the_place_of_content_in_the_form_of_the_dialect() {
    let sent = items(
        r#"{"role":"user","content":[{"type":"input_image","image_url":"https://e.example/x"}]}"#,
    );
    let mut call =
        understand(RESPONSES, "generic", UnknownFields::Drop, sent.as_bytes()).expect("a call");
    call.strip(|reach| reach.kind == ReferenceKind::Media);
    let changes = BodyChanges { output_tokens: None, request_id: None, cache_salt: None };
    let left: serde_json::Value = serde_json::from_slice(&call.write(&changes).body).expect("JSON");
    assert_eq!(left["input"][0]["content"][0]["type"], "input_text");
}

#[test]
fn types_of_tools_in_a_namespace_are_listed() {
    let sent = body(concat!(
        r#","tools":[{"type":"namespace","name":"n","tools":[{"type":"custom","name":"c"}]},"#,
        r#"{"type":"function","name":"f"}]"#
    ));
    let call =
        understand(RESPONSES, "generic", UnknownFields::Drop, sent.as_bytes()).expect("a call");
    let types: Vec<(String, &str)> = call.tool_types().collect();
    let expect = [
        ("tools[0]".to_owned(), "namespace"),
        ("tools[0].tools[0]".to_owned(), "custom"),
        ("tools[1]".to_owned(), "function"),
    ];
    assert_eq!(types, expect);
}

#[test]
fn the_declared_form_and_the_continued_text_are_read() {
    let call = |body: &str| -> (bool, Option<String>) {
        let call = understand(RESPONSES, "generic", UnknownFields::Drop, body.as_bytes())
            .unwrap_or_else(|no| panic!("{no}\n{body}"));
        (call.is_structured(), call.prefill().map(std::borrow::Cow::into_owned))
    };
    assert_eq!(call(&body(r#","text":{"format":{"type":"json_object"}}"#)), (true, None));
    let schema = r#","text":{"format":{"type":"json_schema","name":"a","schema":{}}}"#;
    assert_eq!(call(&body(schema)), (true, None));
    let plain = r#","text":{"format":{"type":"text"},"verbosity":"low"}"#;
    assert_eq!(call(&body(plain)), (false, None));
    assert_eq!(call(&body(r#","text":{"verbosity":"low"}"#)), (false, None));
    let last = r#"{"role":"user","content":"a"},{"role":"assistant","content":"b"}"#;
    assert_eq!(call(&items(last)), (false, Some("b".to_owned())));
}

#[test]
fn a_stream_reports_its_usage_and_passes_byte_for_byte() {
    let stream = concat!(
        "event: response.created\n",
        "data: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{}}\n\n",
        "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",",
        "\"sequence_number\":1,\"output_index\":0,\"content_index\":0,\"delta\":\"hi\"}\n\n",
        "event: response.completed\n",
        "data: {\"type\":\"response.completed\",\"sequence_number\":2,\"response\":{\"usage\":",
        "{\"input_tokens\":3,\"output_tokens\":4}}}\n\n"
    );
    super::answers::filters(RESPONSES, false, stream, stream, Some((3, 4)));
    let mut filter = StreamFilter::new(RESPONSES, false, ());
    filter.push(stream.as_bytes(), &mut Vec::new()).expect("events");
    assert_eq!(filter.last_number(), Some(2));
    let odd = stream.replace("event: response.completed", "event: response.failed");
    let mut filter = StreamFilter::new(RESPONSES, false, ());
    assert!(filter.push(odd.as_bytes(), &mut Vec::new()).is_err());
}
