//! The body that the server gets.

use token_shield::model::{BodyChanges, Operation, Profile, UnknownFields};
use token_shield::refusal::Code;

use super::{CHAT, MESSAGES, chat, messages, refuses, said, understand};

#[track_caller]
fn writes(operation: Operation, profile: &str, cap: u64, body: &str, expect: &str) {
    let call = understand(operation, profile, UnknownFields::Refuse, body.as_bytes())
        .unwrap_or_else(|no| panic!("{no}\n{body}"));
    let written = call.write(&BodyChanges {
        output_tokens: Some(cap),
        request_id: Some("rq_1".to_owned()),
        cache_salt: None,
    });
    assert_eq!(String::from_utf8_lossy(&written.body), expect);
}

#[test]
fn the_body_is_written_in_the_callers_order() {
    writes(
        CHAT,
        "vllm",
        100,
        concat!(
            r#" { "temperature" : 1.0 , "model" : "m", "max_completion_tokens": 500, "#,
            r#""messages" : [ {"content":"\u0041","role":"user"} ], "#,
            r#""seed":18446744073709551615 } "#
        ),
        concat!(
            r#"{"temperature":1.0,"model":"served","max_tokens":100,"#,
            r#""messages":[{"content":"A","role":"user"}],"seed":18446744073709551615,"#,
            r#""request_id":"rq_1"}"#
        ),
    );
    writes(
        CHAT,
        "llama.cpp",
        100,
        &chat(r#","n_predict":7"#),
        r#"{"model":"served","messages":[{"role":"user","content":"hi"}],"max_tokens":7}"#,
    );
    writes(
        CHAT,
        "llama.cpp",
        100,
        &chat(r#","max_tokens":-1"#),
        r#"{"model":"served","messages":[{"role":"user","content":"hi"}],"max_tokens":100}"#,
    );
    writes(
        CHAT,
        "generic",
        100,
        &chat(r#","max_tokens":null,"max_completion_tokens":3"#),
        r#"{"model":"served","messages":[{"role":"user","content":"hi"}],"max_tokens":3}"#,
    );
    writes(
        CHAT,
        "ollama",
        100,
        &chat(r#","store":true"#),
        r#"{"model":"served","messages":[{"role":"user","content":"hi"}],"max_tokens":100}"#,
    );
    writes(
        Operation::Embeddings,
        "vllm",
        100,
        r#"{"input":"x","model":"m"}"#,
        r#"{"input":"x","model":"served","request_id":"rq_1"}"#,
    );
    writes(
        MESSAGES,
        "vllm",
        5,
        &messages(r#","stream":true"#),
        concat!(
            r#"{"model":"served","max_tokens":5,"messages":[{"role":"user","#,
            r#""content":"hi"}],"stream":true}"#
        ),
    );
}

#[test]
fn usage_is_asked_for_in_streams() {
    let front = r#"{"model":"served","messages":[{"role":"user","content":"hi"}]"#;
    let check = |rest: &str, expect: &str| {
        writes(CHAT, "sglang", 9, &chat(rest), &format!("{front}{expect},\"rid\":\"rq_1\"}}"))
    };
    check(
        r#","stream":true"#,
        r#","stream":true,"max_tokens":9,"stream_options":{"include_usage":true}"#,
    );
    check(
        r#","stream_options":null,"stream":true"#,
        r#","stream_options":{"include_usage":true},"stream":true,"max_tokens":9"#,
    );
    check(
        r#","stream":true,"stream_options":{"include_usage":false,"continuous_usage_stats":true}"#,
        r#","stream":true,"stream_options":{"include_usage":true},"max_tokens":9"#,
    );
    check(
        r#","stream":true,"stream_options":{"continuous_usage_stats":true,"include_usage":true}"#,
        concat!(
            r#","stream":true,"stream_options":{"continuous_usage_stats":true,"#,
            r#""include_usage":true},"max_tokens":9"#
        ),
    );
    check(r#","stream":false"#, r#","stream":false,"max_tokens":9"#);
}

#[test]
fn calls_say_what_they_ask() {
    let body =
        chat(r#","n":3,"stream":true,"max_tokens":7,"stream_options":{"include_usage":true}"#);
    let call = understand(CHAT, "vllm", UnknownFields::Refuse, body.as_bytes()).expect("call");
    assert_eq!(
        (
            call.model(),
            call.stream(),
            call.choices(),
            call.output_tokens_asked(),
            call.usage_asked()
        ),
        ("m", true, 3, Some(7), true)
    );
    let written = call.write(&BodyChanges {
        output_tokens: Some(5),
        request_id: None,
        cache_salt: Some("s".to_owned()),
    });
    assert_eq!((written.output_tokens, written.clamped), (Some(5), true));
    assert!(String::from_utf8_lossy(&written.body).ends_with(r#","cache_salt":"s"}"#));
    // Without a cap of the gateway, the caller's stays, and none is added.
    let none = BodyChanges { output_tokens: None, request_id: None, cache_salt: None };
    let written = call.write(&none);
    assert_eq!((written.output_tokens, written.clamped), (Some(7), false));
    let body = chat("");
    let uncapped = understand(CHAT, "vllm", UnknownFields::Refuse, body.as_bytes()).expect("call");
    let written = uncapped.write(&none);
    assert_eq!((written.output_tokens, written.clamped), (None, false));
    assert!(!String::from_utf8_lossy(&written.body).contains("max_"), "no cap is written");
    let body = br#"{"model":"m","prompt":["a","b"],"n":2,"best_of":4}"#;
    assert_eq!(
        understand(Operation::Completions, "vllm", UnknownFields::Refuse, body)
            .expect("call")
            .choices(),
        8
    );
}

/// Bodies with every kind of member. The test changes them in many forms.
const SEEDS: [(Operation, &str); 3] = [
    (
        CHAT,
        concat!(
            r##"{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","##,
            r##""content":[{"type":"text","text":"\u00e9"},{"type":"image_url","##,
            r##""image_url":{"url":"data:image/png;base64,iVBORw0KGgo="}}]},"##,
            r##"{"role":"assistant","content":null,"tool_calls":[{"id":"c","##,
            r##""type":"function","function":{"name":"f","arguments":"{}"}}]}],"##,
            r##""tools":[{"type":"function","function":{"name":"f","##,
            r##""parameters":{"$ref":"#/a","x":[1.50,-0,1e2]}}}],"max_tokens":5,"n":2,"##,
            r##""stream":true,"stream_options":{"include_usage":false},"stop":["x",""],"##,
            r##""logit_bias":{"5":-1.0}}"##
        ),
    ),
    (
        Operation::Completions,
        concat!(
            r#"{"prompt":["a",[1,2]],"model":"m","echo":false,"seed":18446744073709551615,"#,
            r#""max_tokens":null}"#
        ),
    ),
    (
        MESSAGES,
        concat!(
            r#"{"model":"m","max_tokens":5,"system":[{"type":"text","text":"s"}],"#,
            r#""messages":[{"role":"user","content":[{"type":"tool_result","#,
            r#""tool_use_id":"t","content":[{"type":"text","text":"r"}]}]}],"#,
            r#""tools":[{"name":"f","input_schema":{}},{"type":"bash_20250124","#,
            r#""name":"bash"}],"metadata":{"a":[{"b":null}]}}"#
        ),
    ),
];

#[test]
fn what_is_written_reads_and_writes_to_itself() {
    let changes = BodyChanges { output_tokens: Some(3), request_id: None, cache_salt: None };
    let mut state = 1_u64;
    let mut random = |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).map_or(0, |number| number % below)
    };
    let (mut passed, mut refused) = (0, 0);
    for round in 0..6_000 {
        let (operation, seed) = SEEDS[round % SEEDS.len()];
        let profile = Profile::NAMES[round % Profile::NAMES.len()];
        let unknown = if round % 4 < 2 { UnknownFields::Refuse } else { UnknownFields::Drop };
        let mut body = seed.as_bytes().to_vec();
        for _ in 0..random(3) {
            let (from, to) = (random(body.len()), random(body.len()));
            match random(3) {
                0 => body[from] = body[to],
                1 => body[from] = b"\"{}[]:,0e-\\tn\xc3"[random(14)],
                _ => drop(body.drain(from..(from + random(4)).min(body.len()))),
            }
        }
        let Ok(call) = understand(operation, profile, unknown, &body) else {
            refused += 1;
            continue;
        };
        passed += 1;
        let once = call.write(&changes).body;
        let again = understand(operation, profile, UnknownFields::Refuse, &once);
        let again = again.unwrap_or_else(|no| panic!("{no}\n{}", String::from_utf8_lossy(&once)));
        assert_eq!(
            String::from_utf8_lossy(&again.write(&changes).body),
            String::from_utf8_lossy(&once)
        );
    }
    assert!(passed > 1_000 && refused > 1_000, "{passed} passed, {refused} were refused");
}

#[test]
fn an_image_is_forwarded_under_the_type_that_it_has() {
    // Both are GIFs that the client labelled as PNG.
    let chat = said(concat!(
        r#"{"role":"user","content":[{"type":"image_url","#,
        r#""image_url":{"url":"data:image/png;base64,R0lGODlhAQA="}}]}"#
    ));
    let source = |data: &str| {
        format!(
            concat!(
                r#"{{"model":"m","max_tokens":5,"messages":[{{"role":"user","content":["#,
                r#"{{"type":"image","source":{{"type":"base64","media_type":"image/png","#,
                r#""data":"{data}"}}}}]}}]}}"#
            ),
            data = data,
        )
    };
    for (operation, body) in [(CHAT, chat), (MESSAGES, source("R0lGODlhAQA="))] {
        let call = understand(operation, "vllm", UnknownFields::Refuse, body.as_bytes())
            .unwrap_or_else(|no| panic!("{no}"));
        let changes = BodyChanges { output_tokens: None, request_id: None, cache_salt: None };
        let written = String::from_utf8(call.write(&changes).body).expect("UTF-8");
        assert!(written.contains("image/gif") && !written.contains("image/png"), "{written}");
    }
    // A PDF is no image, and a URL is no content.
    let path = "messages[0].content[0].source.data";
    refuses(MESSAGES, &source("JVBERi0xLjc="), Code::FieldInvalid, path);
}
