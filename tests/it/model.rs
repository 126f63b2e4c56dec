//! What bodies say: what passes, what is refused and where it points, what is written, and what comes back.

use token_shield::model::answer::StreamFilter;
use token_shield::model::usage::{self, Usage};
use token_shield::model::{
    Changes, Dialect, Echo, ModelCall, Operation, Profile, ReachKind, Terms, UnknownFields, echo, error, models, read,
};
use token_shield::refusal::{Code, Refusal};

const CHAT: Operation = Operation::ChatCompletions;
const MESSAGES: Operation = Operation::Messages;

fn understand<'b>(operation: Operation, profile: &str, unknown: UnknownFields, body: &'b [u8]) -> Result<ModelCall<'b>, Refusal> {
    let profile = Profile::named(profile).expect("built-in profile");
    read(operation, body)?.understand(&Terms { profile: &profile, unknown_fields: unknown, model_upstream: "served" })
}

/// A chat body with `rest` behind model and messages.
fn chat(rest: &str) -> String {
    format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}]{rest}}}"#)
}

/// A chat body whose only message is `message`.
fn said(message: &str) -> String {
    format!(r#"{{"model":"m","messages":[{message}]}}"#)
}

/// A messages body with `rest` behind model, messages and max_tokens.
fn messages(rest: &str) -> String {
    format!(r#"{{"model":"m","max_tokens":9,"messages":[{{"role":"user","content":"hi"}}]{rest}}}"#)
}

#[track_caller]
fn passes(operation: Operation, profile: &str, body: &str) {
    match understand(operation, profile, UnknownFields::Refuse, body.as_bytes()) {
        Ok(call) => assert_eq!(call.reaches(), [], "{body}"),
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
            assert_eq!((refusal.code, refusal.param.as_deref().unwrap_or_default()), (code, param), "{refusal}\n{shown}");
        }
    }
}

#[track_caller]
fn reaches(operation: Operation, body: &str, path: &str, kind: ReachKind, target: &str) {
    let call = understand(operation, "vllm", UnknownFields::Refuse, body.as_bytes()).unwrap_or_else(|no| panic!("{no}\n{body}"));
    let found = call.reaches().first().unwrap_or_else(|| panic!("reaches nothing: {body}"));
    assert_eq!((found.path.as_str(), found.kind, found.target.as_str()), (path, kind, target));
}

#[track_caller]
fn writes(operation: Operation, profile: &str, cap: u64, body: &str, expect: &str) {
    let call = understand(operation, profile, UnknownFields::Refuse, body.as_bytes()).unwrap_or_else(|no| panic!("{no}\n{body}"));
    let written = call.write(&Changes { output_tokens: cap, request_id: Some("rq_1".to_owned()), cache_salt: None });
    assert_eq!(String::from_utf8_lossy(&written.body), expect);
}

#[test]
fn every_profile_reads_and_keeps_what_never_passes_out() {
    let never = [
        "chat_template", "kv_transfer_params", "vllm_xargs", "prompt_embeds", "lora", "lora_request", "lora_path", "request_id",
        "priority", "cache_salt", "api_base", "api_key", "logits_processors", "custom_logit_processor", "bootstrap_host",
        "session_params", "id_slot", "data_parallel_rank",
    ];
    for name in Profile::NAMES {
        let profile = Profile::named(name).unwrap_or_else(|| panic!("{name} does not read"));
        assert_eq!(profile.name(), name);
        for field in never {
            for unknown in [UnknownFields::Refuse, UnknownFields::Drop] {
                let body = chat(&format!(r#","{field}":"x""#));
                let refused = understand(CHAT, name, unknown, body.as_bytes()).err().map(|no| (no.code, no.param));
                assert_eq!(refused, Some((Code::FieldNotAllowed, Some(field.to_owned()))), "{name}");
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
    assert!(Profile::read("name = \"mine\"\nbase = \"vllm\"\n[shape.chat]\nsparkle = \"number 0..1\"").is_ok());
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
    for body in [&b""[..], b"[]", b"{} {}", b"\xEF\xBB\xBF{}", b"{\"model\":NaN}", b"{\"a\":1,\"a\":2}", b"\xff\xfe{\0}\0", b"{\"a\":1e999}"] {
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
    let refusal = understand(CHAT, "vllm", UnknownFields::Refuse, body.as_bytes()).map(|_| ()).expect_err("refused");
    assert_eq!(refusal.code, Code::FieldNotAllowed);
    assert!(refusal.message.contains("is not \"messages\"") && refusal.message.contains("\\u{17f}"), "{refusal}");
    refuses(CHAT, &chat(r#","Model":"other""#), Code::FieldNotAllowed, "Model");
    refuses(CHAT, &chat(r#","Max_Tokens":9"#), Code::FieldNotAllowed, "Max_Tokens");
    refuses(CHAT, &chat(",\"to\u{212a}ens\":9"), Code::FieldNotAllowed, "[\"to\\u{212a}ens\"]");
    refuses(CHAT, &said(r#"{"role":"user","Content":"hi"}"#), Code::FieldNotAllowed, "messages[0].Content");
    let wide = understand(CHAT, "vllm", UnknownFields::Refuse, "{\"\u{ff4d}odel\":\"m\"}".as_bytes()).map(|_| ()).expect_err("refused");
    assert_eq!(wide.code, Code::FieldNotAllowed);
}

#[test]
fn unknown_fields_are_refused_with_the_line_that_would_allow_them() {
    let body = chat(r#","sparkle":0.5"#);
    let refusal = understand(CHAT, "vllm", UnknownFields::Refuse, body.as_bytes()).map(|_| ()).expect_err("refused");
    let line = r#"config/profiles/vllm.toml under [shape.chat]: "sparkle" = "number""#;
    assert!(refusal.message.contains(line), "{refusal}");
    refuses(CHAT, &said(r#"{"role":"user","content":[{"type":"text","text":"x","zoom":1}]}"#), Code::FieldNotAllowed, "messages[0].content[0].zoom");
    refuses(CHAT, &chat(r#","tools":[{"type":"function","function":{"name":"f","url":"x"}}]"#), Code::FieldNotAllowed, "tools[0].function.url");
    refuses(CHAT, &chat(r#","stream_options":{"x":1}"#), Code::FieldNotAllowed, "stream_options.x");
    refuses(MESSAGES, &messages(r#","fallbacks":[]"#), Code::FieldNotAllowed, "fallbacks");
}

#[test]
fn unknown_fields_are_dropped_where_the_class_says_so() {
    let body = said(r#"{"role":"user","content":"hi","mood":{"a":[1]}}],"sparkle":1,"x":[{}"#);
    let call = understand(CHAT, "vllm", UnknownFields::Drop, body.as_bytes()).expect("dropped");
    assert_eq!(call.dropped(), ["messages[0].mood", "sparkle", "x"]);
    let written = call.write(&Changes { output_tokens: 5, request_id: None, cache_salt: None });
    let expect = r#"{"model":"served","messages":[{"role":"user","content":"hi"}],"max_tokens":5}"#;
    assert_eq!(String::from_utf8_lossy(&written.body), expect);
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
    refuses(CHAT, &chat(r#","chat_template_kwargs":{"chat_template":"x"}"#), Code::FieldNotAllowed, "chat_template_kwargs.chat_template");
    refuses(CHAT, &chat(r#","chat_template_kwargs":{"tokenize":false}"#), Code::FieldNotAllowed, "chat_template_kwargs.tokenize");
    refuses(CHAT, r#"{"model":"m","messages":"hi"}"#, Code::FieldInvalid, "messages");
    refuses(CHAT, r#"{"model":"m","messages":[7]}"#, Code::FieldInvalid, "messages[0]");
    refuses(CHAT, &said(r#"{"content":"hi"}"#), Code::FieldMissing, "messages[0].role");
    refuses(CHAT, &said(r#"{"role":"user","content":[{"text":"x"}]}"#), Code::FieldMissing, "messages[0].content[0].type");
    refuses(CHAT, &said(r#"{"role":"user","content":[{"type":"moon"}]}"#), Code::FieldInvalid, "messages[0].content[0].type");
    refuses(Operation::Completions, r#"{"model":"m","prompt":"x","best_of":20}"#, Code::FieldInvalid, "best_of");
    refuses(Operation::Embeddings, r#"{"model":"m","input":{}}"#, Code::FieldInvalid, "input");
    refused_by(Operation::Embeddings, "generic", br#"{"model":"m"}"#, Code::FieldMissing, "input");
}

#[test]
fn schemas_stay_inside_themselves() {
    let tool = |schema: &str| chat(&format!(r#","tools":[{{"type":"function","function":{{"name":"f","parameters":{schema}}}}}]"#));
    passes(CHAT, "vllm", &tool(r##"{"$defs":{"a":{"type":"string"}},"properties":{"x":{"$ref":"#/$defs/a"},"$ref":{"type":"string"}}}"##));
    let at = "tools[0].function.parameters.properties.x.$ref";
    for target in ["http://169.254.169.254/x", "//host/x", "file:/etc/passwd", "FILE:x", "https:\\\\\\\\host"] {
        refuses(CHAT, &tool(&format!(r#"{{"properties":{{"x":{{"$ref":"{target}"}}}}}}"#)), Code::FieldInvalid, at);
    }
}

#[test]
fn what_reaches_out_is_listed() {
    let image = |url: &str| said(&format!(r#"{{"role":"user","content":[{{"type":"text","text":"x"}},{{"type":"image_url","image_url":{{"url":"{url}"}}}}]}}"#));
    let at = "messages[0].content[1].image_url.url";
    for url in ["http://169.254.169.254/x", "file:///etc/passwd", "/etc/passwd", "DATA:image/png;base64,AAAA", " data:image/png;base64,AAAA"] {
        reaches(CHAT, &image(url), at, ReachKind::Media, url);
    }
    reaches(CHAT, &image(&format!("http://{}", "é".repeat(300))), at, ReachKind::Media, &format!("http://{}", "é".repeat(124)));
    for url in ["data:image/svg+xml;base64,AAAA", "data:image/png,AAAA", "data:;base64,AAAA", "data:image/png;base64,http://x", "data:image/png;base64,A A"] {
        refuses(CHAT, &image(url), Code::FieldInvalid, at);
    }
    passes(CHAT, "vllm", &image("data:image/png;base64,iVBORw0KGgo="));
    let part = |part: &str| said(&format!(r#"{{"role":"user","content":[{part}]}}"#));
    reaches(CHAT, &part(r#"{"type":"image_url","image_url":"http://x"}"#), "messages[0].content[0].image_url", ReachKind::Media, "http://x");
    reaches(CHAT, &part(r#"{"type":"input_audio","input_audio":{"data":"http://x","format":"wav"}}"#), "messages[0].content[0].input_audio.data", ReachKind::Media, "http://x");
    reaches(CHAT, &part(r#"{"type":"file","file":{"file_id":"file-1"}}"#), "messages[0].content[0].file.file_id", ReachKind::ForeignState, "file-1");
    reaches(CHAT, &part(r#"{"type":"video_url","video_url":{"url":"http://x"}}"#), "messages[0].content[0].video_url.url", ReachKind::Media, "http://x");
    reaches(CHAT, &said(r#"{"role":"assistant","audio":{"id":"audio_1"}}"#), "messages[0].audio", ReachKind::ForeignState, "audio_1");
    reaches(CHAT, &chat(r#","tools":[{"type":"web_search"}]"#), "tools[0]", ReachKind::HostedTool, "web_search");
    reaches(CHAT, &chat(r#","tools":[{"type":"custom","custom":{"name":"x"}}]"#), "tools[0]", ReachKind::HostedTool, "custom");
    reaches(CHAT, &chat(r#","tools":[{"type":"Function","function":{"name":"x"}}]"#), "tools[0]", ReachKind::HostedTool, "Function");
    reaches(CHAT, &chat(r#","tools":[{"type":"mcp","server_url":"http://x"}]"#), "tools[0]", ReachKind::Mcp, "http://x");
    reaches(CHAT, &chat(r#","web_search_options":{}"#), "web_search_options", ReachKind::HostedTool, "web_search_options");
    reaches(CHAT, &chat(r#","background":true"#), "background", ReachKind::Background, "background");
    reaches(CHAT, &chat(r#","previous_response_id":"resp_1""#), "previous_response_id", ReachKind::ForeignState, "resp_1");
    passes(CHAT, "vllm", &chat(r#","background":false,"previous_response_id":null,"mcp_servers":[]"#));
}

#[test]
fn what_messages_reach_is_listed() {
    let block = |block: &str| format!(r#"{{"model":"m","max_tokens":9,"messages":[{{"role":"user","content":[{block}]}}]}}"#);
    reaches(MESSAGES, &block(r#"{"type":"image","source":{"type":"url","url":"http://x"}}"#), "messages[0].content[0].source", ReachKind::Media, "http://x");
    reaches(MESSAGES, &block(r#"{"type":"document","source":{"type":"file","file_id":"f"}}"#), "messages[0].content[0].source", ReachKind::ForeignState, "f");
    reaches(
        MESSAGES,
        &block(r#"{"type":"tool_result","tool_use_id":"t","content":[{"type":"image","source":{"type":"url","url":"http://x"}}]}"#),
        "messages[0].content[0].content[0].source",
        ReachKind::Media,
        "http://x",
    );
    reaches(MESSAGES, &block(r#"{"type":"image","source":{"type":"base64","media_type":"image/png","data":"http://x"}}"#), "messages[0].content[0].source.data", ReachKind::Media, "http://x");
    refuses(MESSAGES, &block(r#"{"type":"image","source":{"type":"base64","media_type":"image/svg+xml","data":"AAAA"}}"#), Code::FieldInvalid, "messages[0].content[0].source.media_type");
    reaches(MESSAGES, &messages(r#","mcp_servers":[{"type":"url","url":"http://x","name":"x"}]"#), "mcp_servers", ReachKind::Mcp, "http://x");
    for kind in ["web_search_20250305", "web_fetch_20250910", "code_execution_20250825", "computer_20250124", "moon"] {
        reaches(MESSAGES, &messages(&format!(r#","tools":[{{"type":"{kind}","name":"x"}}]"#)), "tools[0]", ReachKind::HostedTool, kind);
    }
    for kind in ["bash_20250124", "text_editor_20250728", "memory_20250818"] {
        passes(MESSAGES, "vllm", &messages(&format!(r#","tools":[{{"type":"{kind}","name":"x","max_characters":null}}]"#)));
    }
}

#[test]
fn what_servers_document_passes() {
    passes(CHAT, "vllm", &chat(r#","temperature":0.7,"top_k":-1,"min_p":0.1,"repetition_penalty":1.1,"stop_token_ids":[1],"min_tokens":1,"guided_json":{"type":"object"},"structured_outputs":{"choice":["a","b"]},"chat_template_kwargs":{"enable_thinking":false},"prompt_logprobs":1,"logprobs":true,"top_logprobs":5,"bad_words":["x"],"return_token_ids":true,"truncate_prompt_tokens":-1"#));
    passes(CHAT, "llama.cpp", &chat(r#","mirostat":2,"mirostat_tau":5.0,"dry_sequence_breakers":["\n"],"samplers":["top_k"],"grammar":"root ::= \"a\"","cache_prompt":true,"n_probs":3,"timings_per_token":true,"logit_bias":[[15043,false],["x",-0.5]],"reasoning_format":"none","response_format":{"type":"json_object","schema":{"type":"object"}}"#));
    passes(CHAT, "ollama", &chat(r#","reasoning":{"effort":"low"},"reasoning_effort":"none","seed":1"#));
    passes(CHAT, "tgi", &chat(r#","tool_prompt":"x","guideline":"y","response_format":{"type":"regex","value":"a+"}"#));
    passes(CHAT, "sglang", &chat(r#","regex":"a+","ebnf":"x","separate_reasoning":false,"stop_regex":["a"],"return_hidden_states":false,"no_stop_trim":true"#));
    passes(Operation::Completions, "llama.cpp", r#"{"model":"m","prompt":[12,"a",13],"n_predict":-1,"typical_p":1.0}"#);
    passes(Operation::Completions, "vllm", r#"{"model":"m","prompt":[[1,2],[3]],"echo":true,"logprobs":1,"suffix":null}"#);
    passes(Operation::Embeddings, "vllm", r#"{"model":"m","input":["a","b"],"dimensions":8,"encoding_format":"base64","truncate_prompt_tokens":5}"#);
    for profile in Profile::NAMES {
        passes(CHAT, profile, &chat(r#","tools":[{"type":"function","function":{"name":"f","description":"d","strict":true,"parameters":{"type":"object","additionalProperties":false}}}],"tool_choice":{"type":"function","function":{"name":"f"}},"parallel_tool_calls":false,"response_format":{"type":"json_schema","json_schema":{"name":"x","strict":true,"schema":{}}},"metadata":{"a":"b"},"logit_bias":{"50256":-100},"user":"u","seed":-1,"stop":null,"n":16"#));
    }
}

#[test]
fn what_sdks_send_back_passes() {
    for profile in Profile::NAMES {
        passes(CHAT, profile, &said(r#"{"role":"assistant","content":null,"refusal":null,"annotations":[],"audio":null,"function_call":null,"reasoning_content":"so","parsed":null,"tool_calls":[{"id":"c","type":"function","index":0,"function":{"name":"f","arguments":"{}","parsed_arguments":null}}]},{"role":"tool","tool_call_id":"c","content":[{"type":"text","text":"ok"}]},{"role":"developer","name":"x","content":"y"}"#));
        passes(MESSAGES, profile, r#"{"model":"m","max_tokens":9,"system":[{"type":"text","text":"s","cache_control":{"type":"ephemeral","ttl":"1h"}}],"messages":[{"role":"user","content":"x"},{"role":"assistant","content":[{"type":"thinking","thinking":"t","signature":"s"},{"type":"redacted_thinking","data":"d"},{"type":"text","text":"a","citations":null},{"type":"tool_use","id":"t","name":"f","input":{"a":1.50},"caller":{"type":"direct"}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","is_error":false,"content":[{"type":"text","text":"r"},{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}}]}]}],"tools":[{"name":"f","input_schema":{"type":"object"},"defer_loading":true,"strict":true,"eager_input_streaming":null}],"tool_choice":{"type":"tool","name":"f","disable_parallel_tool_use":true},"thinking":{"type":"enabled","budget_tokens":1024},"context_management":{"edits":[{"type":"clear_tool_uses_20250919","keep":{"type":"tool_uses","value":3}}]},"metadata":{"user_id":"u"},"output_config":{"effort":"low","format":{"type":"json_schema","schema":{}}},"service_tier":"auto","stop_sequences":["x"],"stream":false}"#);
    }
}

#[test]
fn the_body_is_written_in_the_callers_order() {
    writes(CHAT, "vllm", 100, r#" { "temperature" : 1.0 , "model" : "m", "max_completion_tokens": 500, "messages" : [ {"content":"\u0041","role":"user"} ], "seed":18446744073709551615 } "#,
        r#"{"temperature":1.0,"model":"served","max_tokens":100,"messages":[{"content":"A","role":"user"}],"seed":18446744073709551615,"request_id":"rq_1"}"#);
    writes(CHAT, "llama.cpp", 100, &chat(r#","n_predict":7"#), r#"{"model":"served","messages":[{"role":"user","content":"hi"}],"max_tokens":7}"#);
    writes(CHAT, "llama.cpp", 100, &chat(r#","max_tokens":-1"#), r#"{"model":"served","messages":[{"role":"user","content":"hi"}],"max_tokens":100}"#);
    writes(CHAT, "generic", 100, &chat(r#","max_tokens":null,"max_completion_tokens":3"#), r#"{"model":"served","messages":[{"role":"user","content":"hi"}],"max_tokens":3}"#);
    writes(CHAT, "ollama", 100, &chat(r#","store":true"#), r#"{"model":"served","messages":[{"role":"user","content":"hi"}],"max_tokens":100}"#);
    writes(Operation::Embeddings, "vllm", 100, r#"{"input":"x","model":"m"}"#, r#"{"input":"x","model":"served","request_id":"rq_1"}"#);
    writes(MESSAGES, "vllm", 5, &messages(r#","stream":true"#), r#"{"model":"served","max_tokens":5,"messages":[{"role":"user","content":"hi"}],"stream":true}"#);
}

#[test]
fn usage_is_asked_for_in_streams() {
    let front = r#"{"model":"served","messages":[{"role":"user","content":"hi"}]"#;
    let check = |rest: &str, expect: &str| writes(CHAT, "sglang", 9, &chat(rest), &format!("{front}{expect},\"rid\":\"rq_1\"}}"));
    check(r#","stream":true"#, r#","stream":true,"max_tokens":9,"stream_options":{"include_usage":true}"#);
    check(r#","stream_options":null,"stream":true"#, r#","stream_options":{"include_usage":true},"stream":true,"max_tokens":9"#);
    check(r#","stream":true,"stream_options":{"include_usage":false,"continuous_usage_stats":true}"#, r#","stream":true,"stream_options":{"include_usage":true},"max_tokens":9"#);
    check(r#","stream":true,"stream_options":{"continuous_usage_stats":true,"include_usage":true}"#, r#","stream":true,"stream_options":{"continuous_usage_stats":true,"include_usage":true},"max_tokens":9"#);
    check(r#","stream":false"#, r#","stream":false,"max_tokens":9"#);
}

#[test]
fn calls_say_what_they_ask() {
    let body = chat(r#","n":3,"stream":true,"max_tokens":7,"stream_options":{"include_usage":true}"#);
    let call = understand(CHAT, "vllm", UnknownFields::Refuse, body.as_bytes()).expect("call");
    assert_eq!((call.model(), call.stream(), call.choices(), call.output_tokens_asked(), call.usage_asked()), ("m", true, 3, Some(7), true));
    let written = call.write(&Changes { output_tokens: 5, request_id: None, cache_salt: Some("s".to_owned()) });
    assert_eq!((written.output_tokens, written.clamped), (Some(5), true));
    assert!(String::from_utf8_lossy(&written.body).ends_with(r#","cache_salt":"s"}"#));
    let body = br#"{"model":"m","prompt":["a","b"],"n":2,"best_of":4}"#;
    assert_eq!(understand(Operation::Completions, "vllm", UnknownFields::Refuse, body).expect("call").choices(), 8);
}

#[test]
fn whole_answers_report_usage() {
    let of = |answer: &str| usage::of(CHAT, answer.as_bytes());
    assert_eq!(of(r#"{"choices":[{"message":{"content":"\",\"usage\":{\"prompt_tokens\":1}"}}],"usage":{"prompt_tokens":5,"completion_tokens":7}}"#), Some(Usage { input: 5, output: 7 }));
    assert_eq!(of(r#"{"usage":{"prompt_tokens":5,"total_tokens":5}}"#), Some(Usage { input: 5, output: 0 }));
    assert_eq!(of(r#"{"usage":{"input_tokens":5,"cache_read_input_tokens":100,"cache_creation_input_tokens":null,"output_tokens":2}}"#), Some(Usage { input: 105, output: 2 }));
    assert_eq!(of(r#"{"logprob":-Infinity,"usage":{"prompt_tokens":5}}"#), Some(Usage { input: 5, output: 0 }));
    for none in ["", "[]", r#"{"usage":null}"#, r#"{"usage":{"prompt_tokens":-5}}"#, r#"{"x":{"usage":{"prompt_tokens":5}}}"#, r#"{"usage":{"prompt_tokens":5"#] {
        assert_eq!(of(none), None, "{none}");
    }
}

/// Pushes `stream` in pieces of several sizes and expects the same bytes, usage and end each time.
#[track_caller]
fn filters(operation: Operation, usage_asked: bool, stream: &str, expect: &str, usage: Option<(u64, u64)>) {
    for size in [1, 2, 5, 64, stream.len()] {
        let mut filter = StreamFilter::new(operation, usage_asked);
        let mut out = Vec::new();
        for piece in stream.as_bytes().chunks(size) {
            filter.push(piece, &mut out).expect("short events");
        }
        filter.finish(&mut out).expect("an end");
        assert_eq!(String::from_utf8_lossy(&out), expect, "in pieces of {size}");
        assert_eq!(filter.usage(), usage.map(|(input, output)| Usage { input, output }), "in pieces of {size}");
        assert!(filter.ended(), "in pieces of {size}");
    }
}

#[test]
fn usage_that_nobody_asked_for_is_taken_out() {
    let text = "data: {\"choices\":[{\"delta\":{\"content\":\"usage \\\"usage\\\":{\"}}],\"usage\":null}\n\n: ping\n\n";
    let last = "data: {\"id\":\"x\",\"choices\": [ ],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\n";
    let done = "data: [DONE]\n\n";
    filters(CHAT, false, &format!("{text}{last}{done}"), &format!("{text}{done}"), Some((3, 4)));
    filters(CHAT, true, &format!("{text}{last}{done}"), &format!("{text}{last}{done}"), Some((3, 4)));
    let crlf = |text: &str| text.replace('\n', "\r\n");
    filters(CHAT, false, &crlf(&format!("{text}{last}{done}")), &crlf(&format!("{text}{done}")), Some((3, 4)));
    // Usage beside a choice stays: taking it out would take the choice with it.
    let beside = "data: {\"choices\":[{}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\n";
    filters(CHAT, false, &format!("{beside}{last}{done}"), &format!("{beside}{done}"), Some((3, 4)));
    // An end without its blank line is still an end.
    filters(CHAT, false, &format!("{text}data: [DONE]"), &format!("{text}data: [DONE]"), None);
}

#[test]
fn messages_streams_pass_and_report() {
    let stream = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"content\":[],\"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\n\
        event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"message_stop usage\"}}\n\n\
        event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":12}}\n\n\
        event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    filters(MESSAGES, false, stream, stream, Some((9, 12)));
}

#[track_caller]
fn echoed(operation: Operation, body: &str, cap: u64) -> String {
    let call = understand(operation, "generic", UnknownFields::Refuse, body.as_bytes()).unwrap_or_else(|no| panic!("{no}\n{body}"));
    match echo::answer(&call, cap, 7, "rq_1") {
        Echo::Whole(bytes) => String::from_utf8(bytes).expect("UTF-8"),
        Echo::Stream(events) => String::from_utf8(events.concat()).expect("UTF-8"),
    }
}

#[track_caller]
fn echoes(operation: Operation, body: &str, cap: u64, parts: &[&str]) {
    let answer = echoed(operation, body, cap);
    for part in parts {
        assert!(answer.contains(part), "{part} is not in {answer}");
    }
}

#[test]
fn echo_says_what_it_was_told() {
    echoes(CHAT, &said(r#"{"role":"system","content":"be brief"},{"role":"user","content":"hi \"there\" you"}"#), 9, &[r#""content":"hi \"there\" you""#, r#""finish_reason":"stop""#, r#""prompt_tokens":5,"completion_tokens":3,"total_tokens":8"#]);
    echoes(CHAT, &chat(r#","n":2"#), 9, &[r#""index":1"#, r#""completion_tokens":2"#]);
    echoes(CHAT, &said(r#"{"role":"user","content":"one  two three"}"#), 2, &[r#""content":"one  two""#, r#""finish_reason":"length""#, r#""completion_tokens":2"#]);
    echoes(CHAT, &said(r#"{"role":"user","content":"x"},{"role":"tool","tool_call_id":"c","content":"{\"sky\":1}"}"#), 9, &[r#""content":"{\"sky\":1}""#]);
    echoes(CHAT, &chat(r#","response_format":{"type":"json_object"}"#), 9, &[r#""content":"{\"echo\":\"hi\"}""#]);
    echoes(Operation::Completions, r#"{"model":"m","prompt":["a b","c"],"n":2}"#, 1, &[r#""text":"a""#, r#""index":3,"text":"c""#, r#""prompt_tokens":3,"completion_tokens":4"#]);
    echoes(MESSAGES, &messages(""), 9, &[r#""content":[{"type":"text","text":"hi"}]"#, r#""stop_reason":"end_turn""#, r#""input_tokens":1,"output_tokens":1"#]);
    echoes(MESSAGES, r#"{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"a b"}]}"#, 9, &[r#""text":"a""#, r#""stop_reason":"max_tokens""#]);
}

#[test]
fn echo_calls_a_tool_when_told_to() {
    let tools = r#"],"tools":[{"type":"function","function":{"name":"weather"}}],"tool_choice":"auto","x":["#;
    let tools = tools.split_at(tools.len() - 6).0;
    let told = |text: &str| format!(r#"{{"model":"m","messages":[{{"role":"user","content":{text}}}{tools}}}"#);
    echoes(CHAT, &told(r#""call weather {\"city\": \"Łódź\"}""#), 9, &[r#""name":"weather","arguments":"{\"city\":\"Łódź\"}""#, r#""finish_reason":"tool_calls""#]);
    echoes(CHAT, &told(r#""call weather""#), 9, &[r#""arguments":"{}""#]);
    echoes(CHAT, &told(r#""call moon {}""#), 9, &[r#""content":"call moon {}""#]);
    echoes(CHAT, &told(r#""call weather {bad""#), 9, &[r#""content":"call weather {bad""#]);
    let anthropic = |stream: bool| format!(r#"{{"model":"m","max_tokens":9,"stream":{stream},"messages":[{{"role":"user","content":"call f {{\"a\":1.50}}"}}],"tools":[{{"name":"f","input_schema":{{}}}}]}}"#);
    echoes(MESSAGES, &anthropic(false), 9, &[r#""name":"f","input":{"a":1.50}"#, r#""stop_reason":"tool_use""#]);
    echoes(MESSAGES, &anthropic(true), 9, &[r#""partial_json":"{\"a\":1.50}""#, r#""input":{}"#]);
}

#[test]
fn echo_streams_in_small_chunks() {
    let body = said(r#"{"role":"user","content":"one two three"}],"stream":true,"stream_options":{"include_usage":true},"stop":["x""#);
    let answer = echoed(CHAT, &body, 2);
    let parts = [r#""delta":{"role":"assistant","content":""}"#, r#"{"content":"one "}"#, r#"{"content":"two"}"#, r#""finish_reason":"length""#, r#""choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2"#, "data: [DONE]\n\n"];
    let mut from = 0;
    for part in parts {
        let at = answer[from..].find(part).unwrap_or_else(|| panic!("{part} is not behind {from} in {answer}"));
        from += at + part.len();
    }
    assert_eq!(from, answer.len());
    assert!(!echoed(CHAT, &chat(r#","stream":true"#), 9).contains("usage"));
    filters(CHAT, true, &answer, &answer, Some((3, 2)));
    let stream = echoed(MESSAGES, &messages(r#","stream":true"#), 9);
    filters(MESSAGES, false, &stream, &stream, Some((1, 1)));
}

#[test]
fn echo_embeds_deterministically() {
    let vector = |text: &str, dimensions: usize| -> Vec<f64> {
        let answer = echoed(Operation::Embeddings, &format!(r#"{{"model":"m","input":"{text}","dimensions":{dimensions}}}"#), 0);
        let numbers = answer.split_once("\"embedding\":[").and_then(|(_, rest)| rest.split_once(']')).expect("a vector").0;
        numbers.split(',').map(|number| number.parse().expect("a number")).collect()
    };
    let (one, two) = (vector("a", 16), vector("b", 16));
    assert_eq!((one.len(), &one), (16, &vector("a", 16)));
    let dot = |one: &[f64], two: &[f64]| one.iter().zip(two).map(|(one, two)| one * two).sum::<f64>();
    assert!((dot(&one, &one) - 1.0).abs() < 1e-5 && dot(&one, &two).abs() < 0.9);
    let packed = echoed(Operation::Embeddings, r#"{"model":"m","input":["a",[1,2]],"encoding_format":"base64","dimensions":3}"#, 0);
    let text = packed.split_once("\"embedding\":\"").and_then(|(_, rest)| rest.split_once('"')).expect("base64").0;
    assert_eq!(text.len(), 16);
    assert!(packed.contains(r#""index":1"#) && packed.contains(r#""usage":{"prompt_tokens":3,"total_tokens":3}"#), "{packed}");
}

#[test]
fn refusals_and_models_speak_both_dialects() {
    let refusal = Refusal::new(Code::FieldInvalid).saying("no \"x\"").at("n");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    assert_eq!(text(error::body(Dialect::OpenAi, &refusal, "rq_1")), r#"{"error":{"message":"no \"x\"","type":"invalid_request_error","param":"n","code":"field-invalid","request":"rq_1"}}"#);
    assert_eq!(
        text(error::event(Dialect::Anthropic, &Code::Overloaded.into(), "rq_1")),
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"message\":\"The gateway has as much work as it takes at once; try again shortly.\",\"type\":\"overloaded_error\",\"param\":null,\"code\":\"overloaded\"},\"request_id\":\"rq_1\"}\n\n"
    );
    let entry = models::ModelEntry { id: "m".to_owned(), created: 0, owner: "o".to_owned() };
    assert_eq!(text(models::one(Dialect::OpenAi, &entry)), r#"{"id":"m","object":"model","created":0,"owned_by":"o"}"#);
    let listed = text(models::list(Dialect::Anthropic, &[entry]));
    assert_eq!(listed, r#"{"data":[{"type":"model","id":"m","display_name":"m","created_at":"1970-01-01T00:00:00.000Z"}],"has_more":false,"first_id":"m","last_id":"m"}"#);
}
