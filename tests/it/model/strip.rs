//! The removal of external references from a call, and the rest of the call.

use token_shield::model::{BodyChanges, Operation, ReferenceKind, UnknownFields};

use super::{CHAT, MESSAGES, chat, said, understand};

/// The body for the server after all references of `kind` are removed, and their paths.
#[track_caller]
fn stripped(
    operation: Operation,
    body: &str,
    kind: ReferenceKind,
) -> (serde_json::Value, Vec<String>) {
    let mut call = understand(operation, "vllm", UnknownFields::Refuse, body.as_bytes())
        .unwrap_or_else(|no| panic!("{no}\n{body}"));
    call.strip(|reach| reach.kind == kind);
    assert!(call.external_references().iter().all(|reach| reach.kind != kind));
    let written =
        call.write(&BodyChanges { output_tokens: Some(9), request_id: None, cache_salt: None });
    let body = serde_json::from_slice(&written.body).expect("JSON");
    (body, call.stripped().iter().map(|reach| reach.path.clone()).collect())
}

#[test]
fn content_gives_way_to_a_note() {
    let image = r#"{"type":"image_url","image_url":{"url":"http://x/a.png"}}"#;
    let inline = r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgo="}}"#;
    let body = said(&format!(
        r#"{{"role":"user","content":[{image},{{"type":"text","text":"x"}},{inline},{image}]}}"#
    ));
    let (left, paths) = stripped(CHAT, &body, ReferenceKind::Media);
    assert_eq!(
        paths,
        ["messages[0].content[0].image_url.url", "messages[0].content[3].image_url.url"]
    );
    let parts = left["messages"][0]["content"].as_array().expect("parts");
    let kinds: Vec<&str> =
        parts.iter().map(|part| part["type"].as_str().expect("a type")).collect();
    assert_eq!(kinds, ["text", "text", "image_url", "text"]);
    assert!(
        parts[0]["text"].as_str().is_some_and(|note| note.contains("removed here"))
            && parts[1]["text"] == "x"
    );
    assert!(!left.to_string().contains("http://x"));
}

#[test]
fn nested_content_gives_way_too() {
    let source = r#"{"type":"image","source":{"type":"url","url":"http://x/a.png"}}"#;
    let result = format!(r#"{{"type":"tool_result","tool_use_id":"t","content":[{source}]}}"#);
    let body = format!(
        concat!(
            r#"{{"model":"m","max_tokens":9,"messages":[{{"role":"user","#,
            r#""content":[{result},{source}]}}]}}"#
        ),
        result = result,
        source = source
    );
    let (left, paths) = stripped(MESSAGES, &body, ReferenceKind::Media);
    assert_eq!(
        paths,
        ["messages[0].content[0].content[0].source", "messages[0].content[1].source"]
    );
    assert_eq!(left["messages"][0]["content"][0]["content"][0]["type"], "text");
    assert_eq!(left["messages"][0]["content"][1]["type"], "text");
}

#[test]
fn a_tool_goes_and_with_the_last_one_the_choice() {
    let own = r#"{"type":"function","function":{"name":"f"}}"#;
    let hosted = r#"{"type":"web_search"}"#;
    let said = r#","tool_choice":"auto","tools""#;
    let (left, paths) = stripped(
        CHAT,
        &chat(&format!("{said}:[{hosted},{own},{hosted}]")),
        ReferenceKind::HostedTool,
    );
    assert_eq!(paths, ["tools[0]", "tools[2]"]);
    assert_eq!(
        (left["tools"].as_array().map(Vec::len), &left["tool_choice"]),
        (Some(1), &serde_json::json!("auto"))
    );
    let (left, _) = stripped(CHAT, &chat(&format!("{said}:[{hosted}]")), ReferenceKind::HostedTool);
    assert!(left.get("tools").is_none() && left.get("tool_choice").is_none());
    // A tool choice that names a removed tool is removed too. Another choice stays.
    for (choice, stays) in [
        (r#"{"type":"function","function":{"name":"f"}}"#, true),
        (r#"{"type":"function","function":{"name":"g"}}"#, false),
        (
            concat!(
                r#"{"type":"allowed_tools","allowed_tools":{"mode":"auto","#,
                r#""tools":[{"type":"web_search"}]}}"#
            ),
            false,
        ),
    ] {
        let body = chat(&format!(r#","tools":[{own},{hosted}],"tool_choice":{choice}"#));
        let (left, _) = stripped(CHAT, &body, ReferenceKind::HostedTool);
        assert_eq!(left.get("tool_choice").is_some(), stays, "{choice}");
    }
    let mcp = chat(r#","mcp_servers":[{"type":"url","url":"http://x"}]"#);
    let (left, paths) = stripped(CHAT, &mcp, ReferenceKind::Mcp);
    assert!(paths == ["mcp_servers"] && left.get("mcp_servers").is_none());
}

#[test]
fn what_no_note_can_stand_for_stays_among_the_reaches() {
    let body = concat!(
        r#"{"model":"m","prompt":{"prompt_string":"<__media__> x","#,
        r#""multimodal_data":["http://h/a.png"]}}"#
    );
    let mut call =
        understand(Operation::Completions, "llama.cpp", UnknownFields::Refuse, body.as_bytes())
            .expect("understood");
    call.strip(|_| true);
    assert_eq!((call.external_references().len(), call.stripped().len()), (1, 0));
}

#[test]
fn images_in_markdown_reach_out_where_the_server_looks_for_them() {
    let check = |profile: &str, content: &str, expect: &[&str]| {
        let body = said(&format!(r#"{{"role":"user","content":{content}}}"#));
        let call =
            understand(CHAT, profile, UnknownFields::Refuse, body.as_bytes()).expect("understood");
        assert_eq!(
            call.external_references()
                .iter()
                .map(|reach| reach.target.as_str())
                .collect::<Vec<_>>(),
            expect,
            "{profile}: {content}"
        );
    };
    check("tgi", r#""see ![](http://10.0.0.1/x) and ![](http://h/y)""#, &["http://10.0.0.1/x"]);
    check(
        "tgi",
        r#"[{"type":"text","text":"see !["},{"type":"text","text":"](http://10.0.0.1/x)"}]"#,
        &["!["],
    );
    let beside = concat!(
        r#"[{"type":"text","text":"![","annotations":[{"a":"b"}]},{"type":"text","#,
        r#""text":"](http://10.0.0.1/x)"}]"#
    );
    check("tgi", beside, &["!["]);
    check("tgi", r#""![alt](http://10.0.0.1/x) [](http://h/)""#, &[]);
    check("vllm", r#""see ![](http://10.0.0.1/x)""#, &[]);
}

#[test]
fn images_in_names_reach_out_too() {
    let schema = r#"{"type":"object","properties":{"![](http://10.0.0.1/x)":{"type":"string"}}}"#;
    let body = chat(&format!(
        r#","tools":[{{"type":"function","function":{{"name":"f","parameters":{schema}}}}}]"#
    ));
    let mut call =
        understand(CHAT, "tgi", UnknownFields::Refuse, body.as_bytes()).expect("understood");
    let reaches = call.external_references();
    assert_eq!(
        reaches.iter().map(|reach| (reach.kind, reach.target.as_str())).collect::<Vec<_>>(),
        [(ReferenceKind::Media, "http://10.0.0.1/x")]
    );
    call.strip(|_| true);
    assert_eq!(call.external_references().len(), 1, "no note can stand for it");
}

#[test]
fn tools_of_a_message_are_tools() {
    let body = said(
        r#"{"role":"system","content":"","tools":[{"type":"function","function":{"name":"f"}}]}"#,
    );
    let call =
        understand(CHAT, "sglang", UnknownFields::Refuse, body.as_bytes()).expect("understood");
    assert_eq!(
        call.tool_types().collect::<Vec<_>>(),
        [("messages[0].tools[0]".to_owned(), "function")]
    );
}
