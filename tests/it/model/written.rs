//! What the server gets.

use token_shield::model::{Changes, Operation, UnknownFields};

use super::{CHAT, MESSAGES, chat, messages, understand};

#[track_caller]
fn writes(operation: Operation, profile: &str, cap: u64, body: &str, expect: &str) {
    let call = understand(operation, profile, UnknownFields::Refuse, body.as_bytes()).unwrap_or_else(|no| panic!("{no}\n{body}"));
    let written = call.write(&Changes { output_tokens: cap, request_id: Some("rq_1".to_owned()), cache_salt: None });
    assert_eq!(String::from_utf8_lossy(&written.body), expect);
}

#[test]
fn the_body_is_written_in_the_callers_order() {
    writes(
        CHAT,
        "vllm",
        100,
        r#" { "temperature" : 1.0 , "model" : "m", "max_completion_tokens": 500, "messages" : [ {"content":"\u0041","role":"user"} ], "seed":18446744073709551615 } "#,
        r#"{"temperature":1.0,"model":"served","max_tokens":100,"messages":[{"content":"A","role":"user"}],"seed":18446744073709551615,"request_id":"rq_1"}"#,
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
        r#"{"model":"served","max_tokens":5,"messages":[{"role":"user","content":"hi"}],"stream":true}"#,
    );
}

#[test]
fn usage_is_asked_for_in_streams() {
    let front = r#"{"model":"served","messages":[{"role":"user","content":"hi"}]"#;
    let check = |rest: &str, expect: &str| writes(CHAT, "sglang", 9, &chat(rest), &format!("{front}{expect},\"rid\":\"rq_1\"}}"));
    check(r#","stream":true"#, r#","stream":true,"max_tokens":9,"stream_options":{"include_usage":true}"#);
    check(r#","stream_options":null,"stream":true"#, r#","stream_options":{"include_usage":true},"stream":true,"max_tokens":9"#);
    check(
        r#","stream":true,"stream_options":{"include_usage":false,"continuous_usage_stats":true}"#,
        r#","stream":true,"stream_options":{"include_usage":true},"max_tokens":9"#,
    );
    check(
        r#","stream":true,"stream_options":{"continuous_usage_stats":true,"include_usage":true}"#,
        r#","stream":true,"stream_options":{"continuous_usage_stats":true,"include_usage":true},"max_tokens":9"#,
    );
    check(r#","stream":false"#, r#","stream":false,"max_tokens":9"#);
}

#[test]
fn calls_say_what_they_ask() {
    let body = chat(r#","n":3,"stream":true,"max_tokens":7,"stream_options":{"include_usage":true}"#);
    let call = understand(CHAT, "vllm", UnknownFields::Refuse, body.as_bytes()).expect("call");
    assert_eq!(
        (call.model(), call.stream(), call.choices(), call.output_tokens_asked(), call.usage_asked()),
        ("m", true, 3, Some(7), true)
    );
    let written = call.write(&Changes { output_tokens: 5, request_id: None, cache_salt: Some("s".to_owned()) });
    assert_eq!((written.output_tokens, written.clamped), (Some(5), true));
    assert!(String::from_utf8_lossy(&written.body).ends_with(r#","cache_salt":"s"}"#));
    let body = br#"{"model":"m","prompt":["a","b"],"n":2,"best_of":4}"#;
    assert_eq!(understand(Operation::Completions, "vllm", UnknownFields::Refuse, body).expect("call").choices(), 8);
}
