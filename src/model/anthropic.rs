//! The closed structures of Anthropic's dialect.

use crate::json::Value;
use crate::model::call::ReachKind;
use crate::model::walk::{Members, Shape, Walk, tag, text_of};
use crate::refusal::Refusal;

/// `messages`.
pub(super) fn messages(walk: &mut Walk<'_>, value: &mut Value<'_>) -> Result<(), Refusal> {
    walk.each(value, |walk, message| {
        let members: Members =
            &[("role", Shape::Text), ("content", Shape::With(content)), ("id", Shape::Text), ("type", Shape::Text), ("model", Shape::Text)];
        walk.closed(message, members)?;
        match text_of(message.as_object(), "role") {
            Some("user" | "assistant" | "system") => Ok(()),
            Some(_) => walk.invalid("role", "user or assistant"),
            None => walk.missing("role"),
        }
    })
}

/// `system`, and the content of messages and tool results: a text or blocks.
pub(super) fn content(walk: &mut Walk<'_>, value: &mut Value<'_>) -> Result<(), Refusal> {
    if value.as_str().is_some() { Ok(()) } else { walk.each(value, block) }
}

fn block(walk: &mut Walk<'_>, value: &mut Value<'_>) -> Result<(), Refusal> {
    let Some(kind) = tag(value) else { return walk.missing("type") };
    let members: Members = match kind.as_str() {
        "text" => {
            &[("type", Shape::Text), ("text", Shape::Text), ("cache_control", Shape::Open), ("citations", Shape::Open), ("parsed_output", Shape::Open)]
        }
        "thinking" => &[("type", Shape::Text), ("thinking", Shape::Text), ("signature", Shape::Text)],
        "redacted_thinking" => &[("type", Shape::Text), ("data", Shape::Text)],
        "image" => &[("type", Shape::Text), ("source", Shape::With(source)), ("cache_control", Shape::Open)],
        "document" => &[
            ("type", Shape::Text),
            ("source", Shape::With(source)),
            ("title", Shape::Text),
            ("context", Shape::Text),
            ("citations", Shape::Open),
            ("cache_control", Shape::Open),
        ],
        "search_result" => &[
            ("type", Shape::Text),
            ("source", Shape::Text),
            ("title", Shape::Text),
            ("content", Shape::With(content)),
            ("citations", Shape::Open),
            ("cache_control", Shape::Open),
        ],
        "tool_use" => &[
            ("type", Shape::Text),
            ("id", Shape::Text),
            ("name", Shape::Text),
            ("input", Shape::Open),
            ("cache_control", Shape::Open),
            ("caller", Shape::Open),
        ],
        "tool_result" => &[
            ("type", Shape::Text),
            ("tool_use_id", Shape::Text),
            ("content", Shape::With(content)),
            ("is_error", Shape::Truth),
            ("cache_control", Shape::Open),
        ],
        _ => return walk.invalid("type", "text, image, document, search_result, tool_use, tool_result, thinking or redacted_thinking"),
    };
    walk.closed(value, members)
}

fn source(walk: &mut Walk<'_>, value: &mut Value<'_>) -> Result<(), Refusal> {
    let Some(kind) = tag(value) else { return walk.missing("type") };
    match kind.as_str() {
        "base64" | "text" => walk.closed(value, &[("type", Shape::Text), ("media_type", Shape::Text), ("data", Shape::Text)]),
        "content" => walk.closed(value, &[("type", Shape::Text), ("content", Shape::With(content))]),
        "url" => {
            let url = text_of(value.as_object(), "url").unwrap_or_default().to_owned();
            walk.reach("url", ReachKind::Media, &url);
            Ok(())
        }
        "file" => {
            let id = text_of(value.as_object(), "file_id").unwrap_or_default().to_owned();
            walk.reach("file_id", ReachKind::ForeignState, &id);
            Ok(())
        }
        _ => walk.invalid("type", "base64, text or content"),
    }
}

/// Tools that run where the agent runs: the model only proposes their calls.
const CLIENT_TOOLS: [&str; 3] = ["bash_", "text_editor_", "memory_"];

/// `tools`.
pub(super) fn tools(walk: &mut Walk<'_>, value: &mut Value<'_>) -> Result<(), Refusal> {
    walk.each(value, |walk, tool| {
        if let Some(kind) = tag(tool).filter(|kind| kind != "custom" && !CLIENT_TOOLS.iter().any(|known| kind.starts_with(known))) {
            let reach = if kind.starts_with("mcp") { ReachKind::Mcp } else { ReachKind::HostedTool };
            walk.reach("type", reach, &kind);
            return Ok(());
        }
        let members: Members = &[
            ("name", Shape::Text),
            ("description", Shape::Text),
            ("input_schema", Shape::Open),
            ("type", Shape::Text),
            ("strict", Shape::Truth),
            ("cache_control", Shape::Open),
            ("defer_loading", Shape::Truth),
            ("eager_input_streaming", Shape::Truth),
            ("allowed_callers", Shape::Texts),
            ("input_examples", Shape::Open),
            ("max_characters", Shape::Count),
        ];
        walk.closed(tool, members)
    })
}

/// `tool_choice`.
pub(super) fn tool_choice(walk: &mut Walk<'_>, value: &mut Value<'_>) -> Result<(), Refusal> {
    walk.closed(value, &[("type", Shape::Text), ("name", Shape::Text), ("disable_parallel_tool_use", Shape::Truth)])
}

/// `thinking`.
pub(super) fn thinking(walk: &mut Walk<'_>, value: &mut Value<'_>) -> Result<(), Refusal> {
    walk.closed(value, &[("type", Shape::Text), ("budget_tokens", Shape::Count), ("display", Shape::Text)])
}

/// `mcp_servers`.
pub(super) fn mcp_servers(walk: &mut Walk<'_>, value: &mut Value<'_>) -> Result<(), Refusal> {
    let Value::Array(servers) = value else { return walk.invalid("", "a list") };
    if let Some(first) = servers.first() {
        let url = text_of(first.as_object(), "url").unwrap_or_default().to_owned();
        walk.reach("", ReachKind::Mcp, &url);
    }
    Ok(())
}
