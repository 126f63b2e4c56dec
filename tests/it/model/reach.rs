//! The external references of a request: what it would make the model server reach.

use token_shield::model::{Operation, ReferenceKind, UnknownFields};
use token_shield::refusal::Code;

use super::{CHAT, MESSAGES, chat, messages, passes, refuses, said, understand};

#[track_caller]
fn reaches(operation: Operation, body: &str, path: &str, kind: ReferenceKind, target: &str) {
    let call = understand(operation, "vllm", UnknownFields::Refuse, body.as_bytes())
        .unwrap_or_else(|no| panic!("{no}\n{body}"));
    let found =
        call.external_references().first().unwrap_or_else(|| panic!("reaches nothing: {body}"));
    assert_eq!((found.path.as_str(), found.kind, found.target.as_str()), (path, kind, target));
}

#[test]
fn what_reaches_out_is_listed() {
    let image = |url: &str| {
        said(&format!(
            concat!(
                r#"{{"role":"user","content":[{{"type":"text","text":"x"}},"#,
                r#"{{"type":"image_url","image_url":{{"url":"{url}"}}}}]}}"#
            ),
            url = url
        ))
    };
    let at = "messages[0].content[1].image_url.url";
    for url in [
        "http://169.254.169.254/x",
        "file:///etc/passwd",
        "/etc/passwd",
        "DATA:image/png;base64,AAAA",
        " data:image/png;base64,AAAA",
    ] {
        reaches(CHAT, &image(url), at, ReferenceKind::Media, url);
    }
    reaches(
        CHAT,
        &image(&format!("http://{}", "é".repeat(300))),
        at,
        ReferenceKind::Media,
        &format!("http://{}", "é".repeat(300)),
    );
    for url in [
        "data:image/svg+xml;base64,AAAA",
        "data:image/png,AAAA",
        "data:;base64,AAAA",
        "data:image/png;base64,http://x",
        "data:image/png;base64,A A",
        "data:image/png;base64,AAAA",
        "data:image/png;base64,JVBERi0xLjc=",
    ] {
        refuses(CHAT, &image(url), Code::FieldInvalid, at);
    }
    passes(CHAT, "vllm", &image("data:image/png;base64,iVBORw0KGgo="));
}

#[test]
fn every_kind_of_part_is_listed() {
    let part = |part: &str| said(&format!(r#"{{"role":"user","content":[{part}]}}"#));
    reaches(
        CHAT,
        &part(r#"{"type":"image_url","image_url":"http://x"}"#),
        "messages[0].content[0].image_url",
        ReferenceKind::Media,
        "http://x",
    );
    reaches(
        CHAT,
        &part(r#"{"type":"input_audio","input_audio":{"data":"http://x","format":"wav"}}"#),
        "messages[0].content[0].input_audio.data",
        ReferenceKind::Media,
        "http://x",
    );
    reaches(
        CHAT,
        &part(r#"{"type":"file","file":{"file_id":"file-1"}}"#),
        "messages[0].content[0].file.file_id",
        ReferenceKind::ForeignState,
        "file-1",
    );
    reaches(
        CHAT,
        &part(r#"{"type":"video_url","video_url":{"url":"http://x"}}"#),
        "messages[0].content[0].video_url.url",
        ReferenceKind::Media,
        "http://x",
    );
    reaches(
        CHAT,
        &said(r#"{"role":"assistant","audio":{"id":"audio_1"}}"#),
        "messages[0].audio",
        ReferenceKind::ForeignState,
        "audio_1",
    );
}

#[test]
fn tools_and_state_elsewhere_are_listed() {
    reaches(
        CHAT,
        &chat(r#","tools":[{"type":"web_search"}]"#),
        "tools[0]",
        ReferenceKind::HostedTool,
        "web_search",
    );
    reaches(
        CHAT,
        &chat(r#","tools":[{"type":"custom","custom":{"name":"x"}}]"#),
        "tools[0]",
        ReferenceKind::HostedTool,
        "custom",
    );
    reaches(
        CHAT,
        &chat(r#","tools":[{"type":"Function","function":{"name":"x"}}]"#),
        "tools[0]",
        ReferenceKind::HostedTool,
        "Function",
    );
    reaches(
        CHAT,
        &chat(r#","tools":[{"type":"mcp","server_url":"http://x"}]"#),
        "tools[0]",
        ReferenceKind::Mcp,
        "http://x",
    );
    reaches(
        CHAT,
        &chat(r#","web_search_options":{}"#),
        "web_search_options",
        ReferenceKind::HostedTool,
        "web_search_options",
    );
    reaches(
        CHAT,
        &chat(r#","background":true"#),
        "background",
        ReferenceKind::Background,
        "background",
    );
    reaches(
        CHAT,
        &chat(r#","previous_response_id":"resp_1""#),
        "previous_response_id",
        ReferenceKind::ForeignState,
        "resp_1",
    );
    passes(
        CHAT,
        "vllm",
        &chat(r#","background":false,"previous_response_id":null,"mcp_servers":[]"#),
    );
}

#[test]
fn what_messages_reach_is_listed() {
    let block = |block: &str| {
        format!(
            r#"{{"model":"m","max_tokens":9,"messages":[{{"role":"user","content":[{block}]}}]}}"#
        )
    };
    reaches(
        MESSAGES,
        &block(r#"{"type":"image","source":{"type":"url","url":"http://x"}}"#),
        "messages[0].content[0].source",
        ReferenceKind::Media,
        "http://x",
    );
    reaches(
        MESSAGES,
        &block(r#"{"type":"document","source":{"type":"file","file_id":"f"}}"#),
        "messages[0].content[0].source",
        ReferenceKind::ForeignState,
        "f",
    );
    reaches(
        MESSAGES,
        &block(concat!(
            r#"{"type":"tool_result","tool_use_id":"t","content":[{"type":"image","#,
            r#""source":{"type":"url","url":"http://x"}}]}"#
        )),
        "messages[0].content[0].content[0].source",
        ReferenceKind::Media,
        "http://x",
    );
    reaches(
        MESSAGES,
        &block(concat!(
            r#"{"type":"image","source":{"type":"base64","media_type":"image/png","#,
            r#""data":"http://x"}}"#
        )),
        "messages[0].content[0].source.data",
        ReferenceKind::Media,
        "http://x",
    );
    refuses(
        MESSAGES,
        &block(concat!(
            r#"{"type":"image","source":{"type":"base64","media_type":"image/svg+xml","#,
            r#""data":"AAAA"}}"#
        )),
        Code::FieldInvalid,
        "messages[0].content[0].source.media_type",
    );
}

#[test]
fn what_tools_of_messages_reach_is_listed() {
    reaches(
        MESSAGES,
        &messages(r#","mcp_servers":[{"type":"url","url":"http://x","name":"x"}]"#),
        "mcp_servers",
        ReferenceKind::Mcp,
        "http://x",
    );
    for kind in [
        "web_search_20250305",
        "web_fetch_20250910",
        "code_execution_20250825",
        "computer_20250124",
        "moon",
    ] {
        reaches(
            MESSAGES,
            &messages(&format!(r#","tools":[{{"type":"{kind}","name":"x"}}]"#)),
            "tools[0]",
            ReferenceKind::HostedTool,
            kind,
        );
    }
    for kind in ["bash_20250124", "text_editor_20250728", "memory_20250818"] {
        passes(
            MESSAGES,
            "vllm",
            &messages(&format!(
                r#","tools":[{{"type":"{kind}","name":"x","max_characters":null}}]"#
            )),
        );
    }
}
