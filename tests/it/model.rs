//! The bodies of requests: what passes, what is refused, and the path that the refusal names.

mod answers;
mod declared;
mod echoed;
mod forms;
mod ollama;
mod reach;
mod responses;
mod strip;
mod unknown;
mod written;

use token_shield::model::{BodyRules, ModelCall, Operation, Profile, UnknownFields, read};
use token_shield::refusal::{Code, Refusal};

const CHAT: Operation = Operation::ChatCompletions;
const MESSAGES: Operation = Operation::Messages;

fn understand<'b>(
    operation: Operation,
    profile: &str,
    unknown: UnknownFields,
    body: &'b [u8],
) -> Result<ModelCall<'b>, Refusal> {
    let profile = Profile::named(profile).expect("built-in profile");
    read(operation, body)?.understand(&BodyRules {
        profile: &profile,
        unknown_fields: unknown,
        model_upstream: "served",
    })
}

/// A chat body with `rest` after model and messages.
fn chat(rest: &str) -> String {
    format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}]{rest}}}"#)
}

/// A chat body with the single message `message`.
fn said(message: &str) -> String {
    format!(r#"{{"model":"m","messages":[{message}]}}"#)
}

/// A messages body with `rest` after model, messages and max_tokens.
fn messages(rest: &str) -> String {
    format!(r#"{{"model":"m","max_tokens":9,"messages":[{{"role":"user","content":"hi"}}]{rest}}}"#)
}

#[track_caller]
fn passes(operation: Operation, profile: &str, body: &str) {
    match understand(operation, profile, UnknownFields::Refuse, body.as_bytes()) {
        Ok(call) => assert_eq!(call.external_references(), [], "{body}"),
        Err(refusal) => panic!("{refusal}\n{body}"),
    }
}

#[track_caller]
fn refuses(operation: Operation, body: &str, code: Code, param: &str) {
    refused_by(operation, "vllm", body.as_bytes(), code, param);
}

#[track_caller]
fn refused_by(operation: Operation, profile: &str, body: &[u8], code: Code, param: &str) {
    let shown = String::from_utf8_lossy(body).into_owned();
    match understand(operation, profile, UnknownFields::Refuse, body) {
        Ok(_) => panic!("passed: {shown}"),
        Err(refusal) => {
            assert_eq!(
                (refusal.code, refusal.param.as_deref().unwrap_or_default()),
                (code, param),
                "{refusal}\n{shown}"
            );
        }
    }
}

#[test]
fn every_profile_reads_and_keeps_what_never_passes_out() {
    let never = [
        "chat_template",
        "kv_transfer_params",
        "vllm_xargs",
        "prompt_embeds",
        "lora",
        "lora_request",
        "lora_path",
        "request_id",
        "priority",
        "cache_salt",
        "api_base",
        "api_key",
        "logits_processors",
        "custom_logit_processor",
        "bootstrap_host",
        "session_params",
        "id_slot",
        "data_parallel_rank",
    ];
    for name in Profile::NAMES {
        let profile = Profile::named(name).unwrap_or_else(|| panic!("{name} does not read"));
        assert_eq!(profile.name(), name);
        for field in never {
            for unknown in [UnknownFields::Refuse, UnknownFields::Drop] {
                let body = chat(&format!(r#","{field}":"x""#));
                let refused = understand(CHAT, name, unknown, body.as_bytes())
                    .err()
                    .map(|no| (no.code, no.param));
                assert_eq!(
                    refused,
                    Some((Code::FieldNotAllowed, Some(field.to_owned()))),
                    "{name}"
                );
            }
        }
    }
}

#[test]
fn profiles_that_are_wrong_are_refused() {
    #[track_caller]
    fn wrong(text: &str, says: &str) {
        let fault = Profile::read(text).map(|_| ()).expect_err("a fault").to_string();
        assert!(fault.contains(says), "{fault}");
    }
    assert!(
        Profile::read("name = \"mine\"\nbase = \"vllm\"\n[shape.chat]\nsparkle = \"number 0..1\"")
            .is_ok()
    );
    wrong("name =", "not TOML");
    wrong("name = \"x\"\nbase = \"y\"", "no such built-in profile");
    wrong("name = \"x\"\nbase = \"vllm\"\ncolour = 1", "not a key of a profile");
    wrong("name = \"x\"\nbase = \"vllm\"\n[shape.chat]\nx = \"numbr\"", "no shape or union");
    wrong("name = \"x\"\nbase = \"vllm\"\n[shape.chat]\nx = 1", "must be a string");
    wrong("name = \"x\"\nbase = \"vllm\"\n[shape.chat]\nchat_template = \"string\"", "cannot pass");
    wrong("name = \"x\"\nbase = \"vllm\"\n[include]\nmoon = []", "no such shape");
    wrong("name = \"x\"", "must be a table");
}

#[test]
fn only_one_strict_object_with_a_model_is_read() {
    let check = |body: &[u8], code, param: &str| refused_by(CHAT, "generic", body, code, param);
    for body in [
        &b""[..],
        b"[]",
        b"{} {}",
        b"\xEF\xBB\xBF{}",
        b"{\"model\":NaN}",
        b"{\"a\":1,\"a\":2}",
        b"\xff\xfe{\0}\0",
        b"{\"a\":1e999}",
    ] {
        check(body, Code::JsonInvalid, "");
    }
    check(&[b"[".repeat(65), b"]".repeat(65)].concat(), Code::JsonInvalid, "");
    check(b"{}", Code::FieldMissing, "model");
    check(br#"{"model":null}"#, Code::FieldMissing, "model");
    check(br#"{"model":""}"#, Code::FieldInvalid, "model");
    check(br#"{"model":7}"#, Code::FieldInvalid, "model");
    check(br#"{"model":"a\nb"}"#, Code::FieldInvalid, "model");
    check(format!(r#"{{"model":"{}"}}"#, "x".repeat(257)).as_bytes(), Code::FieldInvalid, "model");
    check(br#"{"MODEL":"m","messages":[]}"#, Code::FieldNotAllowed, "MODEL");
    check(br#"{"model":"m"}"#, Code::FieldMissing, "messages");
    check(br#"{"model":"m","messages":null}"#, Code::FieldMissing, "messages");
}

#[test]
fn look_alikes_of_keys_are_told() {
    let body = "{\"model\":\"m\",\"me\u{17f}\u{17f}ages\":[]}";
    let refusal = understand(CHAT, "vllm", UnknownFields::Refuse, body.as_bytes())
        .map(|_| ())
        .expect_err("refused");
    assert_eq!(refusal.code, Code::FieldNotAllowed);
    assert!(
        refusal.message.contains("is not \"messages\"") && refusal.message.contains("\\u{17f}"),
        "{refusal}"
    );
    refuses(CHAT, &chat(r#","Model":"other""#), Code::FieldNotAllowed, "Model");
    refuses(CHAT, &chat(r#","Max_Tokens":9"#), Code::FieldNotAllowed, "Max_Tokens");
    refuses(CHAT, &chat(",\"to\u{212a}ens\":9"), Code::FieldNotAllowed, "[\"to\\u{212a}ens\"]");
    refuses(
        CHAT,
        &said(r#"{"role":"user","Content":"hi"}"#),
        Code::FieldNotAllowed,
        "messages[0].Content",
    );
    let wide =
        understand(CHAT, "vllm", UnknownFields::Refuse, "{\"\u{ff4d}odel\":\"m\"}".as_bytes())
            .map(|_| ())
            .expect_err("refused");
    assert_eq!(wide.code, Code::FieldNotAllowed);
}

#[test]
fn types_and_ranges_are_checked() {
    let check = |rest: &str, param: &str| refuses(CHAT, &chat(rest), Code::FieldInvalid, param);
    check(r#","n":17"#, "n");
    check(r#","n":0"#, "n");
    check(r#","n":1.0"#, "n");
    check(r#","n":true"#, "n");
    check(r#","n":"2""#, "n");
    check(r#","n":999999999999999999"#, "n");
    check(r#","temperature":"0.5""#, "temperature");
    check(r#","stream":1"#, "stream");
    check(r#","stream":"true""#, "stream");
    check(r#","stop":[1]"#, "stop[0]");
    check(r#","stop":[null]"#, "stop[0]");
    check(r#","max_tokens":1e3"#, "max_tokens");
    check(r#","max_tokens":-2"#, "max_tokens");
    check(r#","max_tokens":5,"max_completion_tokens":5"#, "max_completion_tokens");
    check(r#","logit_bias":{"5":"x"}"#, "logit_bias.5");
    check(r#","tools":{}"#, "tools");
    check(r#","tools":[null]"#, "tools[0]");
    check(r#","chat_template_kwargs":{"a":[1]}"#, "chat_template_kwargs.a");
    refuses(
        CHAT,
        &chat(r#","chat_template_kwargs":{"chat_template":"x"}"#),
        Code::FieldNotAllowed,
        "chat_template_kwargs.chat_template",
    );
    refuses(
        CHAT,
        &chat(r#","chat_template_kwargs":{"tokenize":false}"#),
        Code::FieldNotAllowed,
        "chat_template_kwargs.tokenize",
    );
    refuses(CHAT, r#"{"model":"m","messages":"hi"}"#, Code::FieldInvalid, "messages");
    refuses(CHAT, r#"{"model":"m","messages":[7]}"#, Code::FieldInvalid, "messages[0]");
    refuses(CHAT, &said(r#"{"content":"hi"}"#), Code::FieldMissing, "messages[0].role");
    refuses(
        CHAT,
        &said(r#"{"role":"user","content":[{"text":"x"}]}"#),
        Code::FieldMissing,
        "messages[0].content[0].type",
    );
    refuses(
        CHAT,
        &said(r#"{"role":"user","content":[{"type":"moon"}]}"#),
        Code::FieldInvalid,
        "messages[0].content[0].type",
    );
    refuses(
        Operation::Completions,
        r#"{"model":"m","prompt":"x","best_of":20}"#,
        Code::FieldInvalid,
        "best_of",
    );
    refuses(Operation::Embeddings, r#"{"model":"m","input":{}}"#, Code::FieldInvalid, "input");
    refused_by(Operation::Embeddings, "generic", br#"{"model":"m"}"#, Code::FieldMissing, "input");
}

#[test]
fn schemas_stay_inside_themselves() {
    let tool = |schema: &str| {
        chat(&format!(
            r#","tools":[{{"type":"function","function":{{"name":"f","parameters":{schema}}}}}]"#
        ))
    };
    passes(
        CHAT,
        "vllm",
        &tool(concat!(
            r##"{"$defs":{"a":{"type":"string"}},"properties":{"x":{"$ref":"#/$defs/a"},"##,
            r##""$ref":{"type":"string"}}}"##
        )),
    );
    let at = "tools[0].function.parameters.properties.x.$ref";
    for target in [
        "http://169.254.169.254/x",
        "//host/x",
        "file:/etc/passwd",
        "FILE:x",
        "https:\\\\\\\\host",
        "meta-data",
        "../x",
        "",
    ] {
        refuses(
            CHAT,
            &tool(&format!(r#"{{"properties":{{"x":{{"$ref":"{target}"}}}}}}"#)),
            Code::FieldInvalid,
            at,
        );
    }
    // A schema in a string is parsed in the same form.
    for field in ["guided_json", "structural_tag"] {
        let text =
            |schema: &str| chat(&format!(r#","{field}":{}"#, serde_json::Value::from(schema)));
        passes(CHAT, "vllm", &text(r##"{"$ref":"#/a"}"##));
        for (schema, at) in [
            (r#"{"$ref":"http://x/"}"#, ".$ref"),
            (r#"{"a":[{"$ref":"x"}]}"#, ".a[0].$ref"),
            ("{'$ref':'x'}", ""),
            (r#"{"a":1,"a":2}"#, ""),
        ] {
            refuses(CHAT, &text(schema), Code::FieldInvalid, &format!("{field}{at}"));
        }
    }
}

#[test]
fn what_makes_a_server_fetch_or_write_is_refused() {
    for field in [
        r#""mm_processor_kwargs":{"force_download":true}"#,
        r#""guided_decoding_backend":"outlines""#,
    ] {
        let at = field.split('"').nth(1).expect("a name");
        refused_by(CHAT, "vllm", chat(&format!(",{field}")).as_bytes(), Code::FieldNotAllowed, at);
    }
}

#[test]
fn a_cap_of_zero_is_no_cap_at_some_servers() {
    for name in ["max_tokens", "max_completion_tokens"] {
        refuses(CHAT, &chat(&format!(r#","{name}":0"#)), Code::FieldInvalid, name);
    }
}

#[test]
fn what_servers_document_passes() {
    passes(
        CHAT,
        "vllm",
        &chat(concat!(
            r#","temperature":0.7,"top_k":-1,"min_p":0.1,"repetition_penalty":1.1,"#,
            r#""stop_token_ids":[1],"min_tokens":1,"guided_json":{"type":"object"},"#,
            r#""structured_outputs":{"choice":["a","b"]},"#,
            r#""chat_template_kwargs":{"enable_thinking":false},"prompt_logprobs":1,"#,
            r#""logprobs":true,"top_logprobs":5,"bad_words":["x"],"#,
            r#""return_token_ids":true,"truncate_prompt_tokens":-1"#
        )),
    );
    passes(
        CHAT,
        "llama.cpp",
        &chat(concat!(
            r#","mirostat":2,"mirostat_tau":5.0,"dry_sequence_breakers":["\n"],"#,
            r#""samplers":["top_k"],"grammar":"root ::= \"a\"","cache_prompt":true,"#,
            r#""n_probs":3,"timings_per_token":true,"logit_bias":[[15043,false],["x","#,
            r#"-0.5]],"reasoning_format":"none","response_format":{"type":"json_object""#,
            r#","schema":{"type":"object"}}"#
        )),
    );
    passes(
        CHAT,
        "ollama",
        &chat(r#","reasoning":{"effort":"low"},"reasoning_effort":"none","seed":1"#),
    );
    passes(
        CHAT,
        "tgi",
        &chat(
            r#","tool_prompt":"x","guideline":"y","response_format":{"type":"regex","value":"a+"}"#,
        ),
    );
    passes(
        CHAT,
        "sglang",
        &chat(concat!(
            r#","regex":"a+","ebnf":"x","separate_reasoning":false,"stop_regex":["a"],"#,
            r#""return_hidden_states":false,"no_stop_trim":true"#
        )),
    );
}

#[test]
fn what_servers_document_passes_beside_chat() {
    passes(
        Operation::Completions,
        "llama.cpp",
        r#"{"model":"m","prompt":[12,"a",13],"n_predict":-1,"typical_p":1.0}"#,
    );
    passes(
        Operation::Completions,
        "vllm",
        r#"{"model":"m","prompt":[[1,2],[3]],"echo":true,"logprobs":1,"suffix":null}"#,
    );
    passes(
        Operation::Embeddings,
        "vllm",
        concat!(
            r#"{"model":"m","input":["a","b"],"dimensions":8,"encoding_format":"base64","#,
            r#""truncate_prompt_tokens":5}"#
        ),
    );
}

#[test]
fn rerank_takes_texts_and_documents() {
    const RERANK: Operation = Operation::Rerank;
    for profile in ["generic", "vllm", "llama.cpp", "sglang"] {
        passes(
            RERANK,
            profile,
            concat!(
                r#"{"model":"m","query":"q","documents":["a",{"text":"b"}],"top_n":1,"#,
                r#""return_documents":true,"max_tokens_per_doc":64,"truncate_prompt_tokens":-1}"#
            ),
        );
    }
    let images = r#"{"model":"m","query":"q","documents":[{"image_url":"https://a.example/1"}]}"#;
    refuses(RERANK, images, Code::FieldNotAllowed, "documents[0].image_url");
    refuses(RERANK, r#"{"model":"m","query":"q"}"#, Code::FieldMissing, "documents");
    refuses(RERANK, r#"{"model":"m","query":{},"documents":[]}"#, Code::FieldInvalid, "query");
    let body = br#"{"model":"m","query":"q","documents":["a"]}"#;
    let call = understand(RERANK, "vllm", UnknownFields::Refuse, body).expect("a call");
    assert!(call.is_structured(), "a program reads the answer");
}

#[test]
fn a_count_of_tokens_has_the_prompt_of_messages_alone() {
    let body = messages(r#","stream":true,"system":"s","tools":[{"name":"f","input_schema":{}}]"#);
    let call = understand(Operation::CountTokens, "vllm", UnknownFields::Refuse, body.as_bytes());
    let call = call.expect("a call");
    assert_eq!(call.dropped(), ["max_tokens", "stream"]);
    assert!(!call.stream() && call.output_tokens_asked().is_none());
    refuses(Operation::CountTokens, &messages(r#","sparkle":1"#), Code::FieldNotAllowed, "sparkle");
    for profile in ["ollama", "sglang", "tgi"] {
        let profile = Profile::named(profile).expect("a profile");
        assert!(!profile.has(Operation::CountTokens), "{}", profile.name());
    }
}

#[test]
fn tools_and_formats_pass_with_every_profile() {
    for profile in Profile::NAMES {
        passes(
            CHAT,
            profile,
            &chat(concat!(
                r#","tools":[{"type":"function","function":{"name":"f","#,
                r#""description":"d","strict":true,"parameters":{"type":"object","#,
                r#""additionalProperties":false}}}],"tool_choice":{"type":"function","#,
                r#""function":{"name":"f"}},"parallel_tool_calls":false,"#,
                r#""response_format":{"type":"json_schema","json_schema":{"name":"x","#,
                r#""strict":true,"schema":{}}},"metadata":{"a":"b"},"#,
                r#""logit_bias":{"50256":-100},"user":"u","seed":-1,"stop":null,"n":16"#
            )),
        );
    }
}

#[test]
fn what_sdks_send_back_passes() {
    for profile in Profile::NAMES {
        passes(
            CHAT,
            profile,
            &said(concat!(
                r#"{"role":"assistant","content":null,"refusal":null,"annotations":[],"#,
                r#""audio":null,"function_call":null,"reasoning_content":"so","#,
                r#""parsed":null,"tool_calls":[{"id":"c","type":"function","index":0,"#,
                r#""function":{"name":"f","arguments":"{}","parsed_arguments":null}}]},"#,
                r#"{"role":"tool","tool_call_id":"c","content":[{"type":"text","#,
                r#""text":"ok"}]},{"role":"developer","name":"x","content":"y"}"#
            )),
        );
        passes(
            MESSAGES,
            profile,
            concat!(
                r#"{"model":"m","max_tokens":9,"system":[{"type":"text","text":"s","#,
                r#""cache_control":{"type":"ephemeral","ttl":"1h"}}],"#,
                r#""messages":[{"role":"user","content":"x"},{"role":"assistant","#,
                r#""content":[{"type":"thinking","thinking":"t","signature":"s"},"#,
                r#"{"type":"redacted_thinking","data":"d"},{"type":"text","text":"a","#,
                r#""citations":null},{"type":"tool_use","id":"t","name":"f","#,
                r#""input":{"a":1.50},"caller":{"type":"direct"}}]},{"role":"user","#,
                r#""content":[{"type":"tool_result","tool_use_id":"t","is_error":false,"#,
                r#""content":[{"type":"text","text":"r"},{"type":"image","#,
                r#""source":{"type":"base64","media_type":"image/png","#,
                r#""data":"iVBORw0KGgo="}}]}]}],"tools":[{"name":"f","#,
                r#""input_schema":{"type":"object"},"defer_loading":true,"strict":true,"#,
                r#""eager_input_streaming":null}],"tool_choice":{"type":"tool","name":"f","#,
                r#""disable_parallel_tool_use":true},"thinking":{"type":"enabled","#,
                r#""budget_tokens":1024},"context_management":{"edits":[{"type":"clear_tool"#,
                r#"_uses_20250919","keep":{"type":"tool_uses","value":3}}]},"#,
                r#""metadata":{"user_id":"u"},"output_config":{"effort":"low","#,
                r#""format":{"type":"json_schema","schema":{}}},"service_tier":"auto","#,
                r#""stop_sequences":["x"],"stream":false}"#
            ),
        );
    }
}
