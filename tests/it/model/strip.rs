//! What is taken out of a call, and what is left of it.

use token_shield::model::{Changes, Operation, ReachKind, UnknownFields};

use super::{CHAT, MESSAGES, chat, said, understand};

/// What the server gets of `body` where all of `kind` is taken out, and the paths of that.
#[track_caller]
fn stripped(operation: Operation, body: &str, kind: ReachKind) -> (serde_json::Value, Vec<String>) {
    let mut call =
        understand(operation, "vllm", UnknownFields::Refuse, body.as_bytes()).unwrap_or_else(|no| panic!("{no}\n{body}"));
    call.strip(|reach| reach.kind == kind);
    assert!(call.reaches().iter().all(|reach| reach.kind != kind));
    let written = call.write(&Changes { output_tokens: 9, request_id: None, cache_salt: None });
    let body = serde_json::from_slice(&written.body).expect("JSON");
    (body, call.stripped().iter().map(|reach| reach.path.clone()).collect())
}

#[test]
fn content_gives_way_to_a_note() {
    let image = r#"{"type":"image_url","image_url":{"url":"http://x/a.png"}}"#;
    let inline = r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}"#;
    let body = said(&format!(r#"{{"role":"user","content":[{image},{{"type":"text","text":"x"}},{inline},{image}]}}"#));
    let (left, paths) = stripped(CHAT, &body, ReachKind::Media);
    assert_eq!(paths, ["messages[0].content[0].image_url.url", "messages[0].content[3].image_url.url"]);
    let parts = left["messages"][0]["content"].as_array().expect("parts");
    let kinds: Vec<&str> = parts.iter().map(|part| part["type"].as_str().expect("a type")).collect();
    assert_eq!(kinds, ["text", "text", "image_url", "text"]);
    assert!(parts[0]["text"].as_str().is_some_and(|note| note.contains("removed here")) && parts[1]["text"] == "x");
    assert!(!left.to_string().contains("http://x"));
}

#[test]
fn nested_content_gives_way_too() {
    let source = r#"{"type":"image","source":{"type":"url","url":"http://x/a.png"}}"#;
    let result = format!(r#"{{"type":"tool_result","tool_use_id":"t","content":[{source}]}}"#);
    let body = format!(r#"{{"model":"m","max_tokens":9,"messages":[{{"role":"user","content":[{result},{source}]}}]}}"#);
    let (left, paths) = stripped(MESSAGES, &body, ReachKind::Media);
    assert_eq!(paths, ["messages[0].content[0].content[0].source", "messages[0].content[1].source"]);
    assert_eq!(left["messages"][0]["content"][0]["content"][0]["type"], "text");
    assert_eq!(left["messages"][0]["content"][1]["type"], "text");
}

#[test]
fn a_tool_goes_and_with_the_last_one_the_choice() {
    let own = r#"{"type":"function","function":{"name":"f"}}"#;
    let hosted = r#"{"type":"web_search"}"#;
    let said = r#","tool_choice":"auto","tools""#;
    let (left, paths) = stripped(CHAT, &chat(&format!("{said}:[{hosted},{own},{hosted}]")), ReachKind::HostedTool);
    assert_eq!(paths, ["tools[0]", "tools[2]"]);
    assert_eq!((left["tools"].as_array().map(Vec::len), &left["tool_choice"]), (Some(1), &serde_json::json!("auto")));
    let (left, _) = stripped(CHAT, &chat(&format!("{said}:[{hosted}]")), ReachKind::HostedTool);
    assert!(left.get("tools").is_none() && left.get("tool_choice").is_none());
    let mcp = chat(r#","mcp_servers":[{"type":"url","url":"http://x"}]"#);
    let (left, paths) = stripped(CHAT, &mcp, ReachKind::Mcp);
    assert!(paths == ["mcp_servers"] && left.get("mcp_servers").is_none());
}
