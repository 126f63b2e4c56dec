//! Fields that a profile does not know.

use token_shield::model::{BodyChanges, UnknownFields};
use token_shield::refusal::Code;

use super::{CHAT, MESSAGES, chat, messages, refuses, said, understand};

#[test]
fn unknown_fields_are_refused_with_the_line_that_would_allow_them() {
    let body = chat(r#","sparkle":0.5"#);
    let refusal = understand(CHAT, "vllm", UnknownFields::Refuse, body.as_bytes())
        .map(|_| ())
        .expect_err("refused");
    let line = r#"config/profiles/vllm.toml under [shape.chat]: "sparkle" = "number""#;
    assert!(refusal.message.contains(line), "{refusal}");
    refuses(
        CHAT,
        &said(r#"{"role":"user","content":[{"type":"text","text":"x","zoom":1}]}"#),
        Code::FieldNotAllowed,
        "messages[0].content[0].zoom",
    );
    refuses(
        CHAT,
        &chat(r#","tools":[{"type":"function","function":{"name":"f","url":"x"}}]"#),
        Code::FieldNotAllowed,
        "tools[0].function.url",
    );
    refuses(CHAT, &chat(r#","stream_options":{"x":1}"#), Code::FieldNotAllowed, "stream_options.x");
    refuses(MESSAGES, &messages(r#","fallbacks":[]"#), Code::FieldNotAllowed, "fallbacks");
}

#[test]
fn unknown_fields_are_dropped_where_the_class_says_so() {
    let body = said(r#"{"role":"user","content":"hi","mood":{"a":[1]}}],"sparkle":1,"x":[{}"#);
    let call = understand(CHAT, "vllm", UnknownFields::Drop, body.as_bytes()).expect("dropped");
    assert_eq!(call.dropped(), ["messages[0].mood", "sparkle", "x"]);
    let written =
        call.write(&BodyChanges { output_tokens: Some(5), request_id: None, cache_salt: None });
    let expect = r#"{"model":"served","messages":[{"role":"user","content":"hi"}],"max_tokens":5}"#;
    assert_eq!(String::from_utf8_lossy(&written.body), expect);
}

#[test]
fn many_unknown_fields_are_dropped_in_one_pass() {
    let many: String = (0..50_000).map(|number| format!(r#","u{number}":0"#)).collect();
    let body = chat(&many);
    let call = understand(CHAT, "generic", UnknownFields::Drop, body.as_bytes()).expect("call");
    assert_eq!(call.dropped().len(), 16, "the caller is told of some, not of all");
    let written =
        call.write(&BodyChanges { output_tokens: Some(5), request_id: None, cache_salt: None });
    assert!(written.body.len() < 200, "{} bytes", written.body.len());
}

#[test]
fn what_bounds_or_shapes_an_answer_is_never_dropped() {
    for field in [
        r#""max_thinking_tokens":5"#,
        r#""stop_words":["a"]"#,
        r#""guided_other":"a""#,
        r#""grammar_root":"a""#,
        r#""safety_settings":[]"#,
        r#""moderation":{}"#,
        // Another spelling of a known field, which some servers read as that field.
        r#""Max_Tokens":5"#,
        r#""ſeed":5"#,
        // Another profile withholds it from its server.
        r#""mm_processor_kwargs":{}"#,
        r#""Container":"a""#,
        r#""LoRA_path":"a""#,
    ] {
        let body = chat(&format!(",{field}"));
        let code = understand(CHAT, "tgi", UnknownFields::Drop, body.as_bytes())
            .map(|_| ())
            .map_err(|refusal| refusal.code);
        assert_eq!(code, Err(Code::FieldNotAllowed), "{field}");
    }
}
