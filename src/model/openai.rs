//! The closed structures of OpenAI's dialect.

use crate::json::Value;
use crate::model::call::ReachKind;
use crate::model::walk::{Members, Shape, Walk, tag, text_of};
use crate::refusal::Refusal;

const MESSAGE: Members = &[
    ("role", Shape::Text),
    ("content", Shape::With(content)),
    ("name", Shape::Text),
    ("tool_calls", Shape::With(tool_calls)),
    ("tool_call_id", Shape::Text),
    ("function_call", Shape::With(function_called)),
    ("refusal", Shape::Text),
    ("annotations", Shape::Open),
    ("audio", Shape::With(audio_echo)),
    ("reasoning_content", Shape::Text),
    ("reasoning", Shape::Text),
    ("reasoning_details", Shape::Open),
    ("prefix", Shape::Truth),
];

const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

/// `messages`.
pub(super) fn messages(walk: &mut Walk<'_>, value: &mut Value<'_>) -> Result<(), Refusal> {
    walk.each(value, message)
}

fn message(walk: &mut Walk<'_>, value: &mut Value<'_>) -> Result<(), Refusal> {
    walk.closed(value, MESSAGE)?;
    match text_of(value.as_object(), "role") {
        Some(role) if ROLES.contains(&role) => Ok(()),
        Some(_) => walk.invalid("role", "system, developer, user, assistant, tool or function"),
        None => walk.missing("role"),
    }
}

/// What a model said aloud before, named by the id under which its server keeps it.
fn audio_echo(walk: &mut Walk<'_>, value: &mut Value<'_>) -> Result<(), Refusal> {
    walk.closed(value, &[("id", Shape::Text)])?;
    let id = text_of(value.as_object(), "id").unwrap_or_default().to_owned();
    walk.reach("id", ReachKind::ForeignState, &id);
    Ok(())
}

fn content(walk: &mut Walk<'_>, value: &mut Value<'_>) -> Result<(), Refusal> {
    if value.as_str().is_some() { Ok(()) } else { walk.each(value, part) }
}

fn part(walk: &mut Walk<'_>, value: &mut Value<'_>) -> Result<(), Refusal> {
    let Some(kind) = tag(value) else { return walk.missing("type") };
    let members: Members = match kind.as_str() {
        "text" => &[("type", Shape::Text), ("text", Shape::Text), ("annotations", Shape::Open), ("cache_control", Shape::Open)],
        "refusal" => &[("type", Shape::Text), ("refusal", Shape::Text)],
        "thinking" => &[("type", Shape::Text), ("thinking", Shape::Open), ("signature", Shape::Text)],
        "image_url" => &[("type", Shape::Text), ("image_url", Shape::With(image_url)), ("cache_control", Shape::Open)],
        "video_url" => &[("type", Shape::Text), ("video_url", Shape::With(video_url))],
        "audio_url" => &[("type", Shape::Text), ("audio_url", Shape::With(audio_url))],
        "input_audio" => &[("type", Shape::Text), ("input_audio", Shape::With(input_audio))],
        "file" => &[("type", Shape::Text), ("file", Shape::With(file))],
        _ => return walk.invalid("type", "text, image_url, video_url, audio_url, input_audio, file, refusal or thinking"),
    };
    walk.closed(value, members)
}

fn url_of(walk: &mut Walk<'_>, value: &mut Value<'_>, kinds: &[&str]) -> Result<(), Refusal> {
    // llama.cpp and vLLM also take the bare URL.
    if let Some(url) = value.as_str() {
        return walk.media("", url, kinds);
    }
    walk.closed(value, &[("url", Shape::Text), ("detail", Shape::Text)])?;
    match text_of(value.as_object(), "url") {
        Some(url) => walk.media("url", url, kinds),
        None => walk.missing("url"),
    }
}

fn image_url(walk: &mut Walk<'_>, value: &mut Value<'_>) -> Result<(), Refusal> {
    url_of(walk, value, &["image/png", "image/jpeg", "image/jpg", "image/gif", "image/webp", "image/bmp"])
}

fn video_url(walk: &mut Walk<'_>, value: &mut Value<'_>) -> Result<(), Refusal> {
    url_of(walk, value, &["video/"])
}

fn audio_url(walk: &mut Walk<'_>, value: &mut Value<'_>) -> Result<(), Refusal> {
    url_of(walk, value, &["audio/"])
}

fn input_audio(walk: &mut Walk<'_>, value: &mut Value<'_>) -> Result<(), Refusal> {
    walk.closed(value, &[("data", Shape::Text), ("format", Shape::Text)])?;
    match text_of(value.as_object(), "data") {
        Some(data) if data.contains("://") => walk.media("data", data, &["audio/"]),
        Some(_) => Ok(()),
        None => walk.missing("data"),
    }
}

fn file(walk: &mut Walk<'_>, value: &mut Value<'_>) -> Result<(), Refusal> {
    walk.closed(value, &[("file_data", Shape::Text), ("filename", Shape::Text), ("file_id", Shape::Text)])?;
    if let Some(id) = text_of(value.as_object(), "file_id").map(str::to_owned) {
        walk.reach("file_id", ReachKind::ForeignState, &id);
    }
    match text_of(value.as_object(), "file_data") {
        Some(data) if data.contains("://") || data.starts_with("data:") => walk.media("file_data", data, &["application/pdf", "text/"]),
        Some(_) | None => Ok(()),
    }
}

const FUNCTION_CALLED: Members = &[("name", Shape::Text), ("arguments", Shape::Open)];

fn function_called(walk: &mut Walk<'_>, value: &mut Value<'_>) -> Result<(), Refusal> {
    walk.closed(value, FUNCTION_CALLED)
}

fn tool_calls(walk: &mut Walk<'_>, value: &mut Value<'_>) -> Result<(), Refusal> {
    walk.each(value, |walk, call| {
        walk.closed(
            call,
            &[
                ("id", Shape::Text),
                ("type", Shape::Text),
                ("index", Shape::Count),
                ("function", Shape::With(function_called)),
                ("custom", Shape::Open),
            ],
        )
    })
}

/// `tools`.
pub(super) fn tools(walk: &mut Walk<'_>, value: &mut Value<'_>) -> Result<(), Refusal> {
    walk.each(value, tool)
}

fn tool(walk: &mut Walk<'_>, value: &mut Value<'_>) -> Result<(), Refusal> {
    let Some(kind) = tag(value) else { return walk.missing("type") };
    if kind != "function" {
        let reach = if kind.starts_with("mcp") { ReachKind::Mcp } else { ReachKind::HostedTool };
        walk.reach("type", reach, &kind);
        return Ok(());
    }
    walk.closed(value, &[("type", Shape::Text), ("function", Shape::With(function)), ("cache_control", Shape::Open)])
}

fn function(walk: &mut Walk<'_>, value: &mut Value<'_>) -> Result<(), Refusal> {
    let members: Members =
        &[("name", Shape::Text), ("description", Shape::Text), ("parameters", Shape::Open), ("strict", Shape::Truth)];
    walk.closed(value, members)?;
    if text_of(value.as_object(), "name").is_some() { Ok(()) } else { walk.missing("name") }
}

/// `functions`, the older form of tools.
pub(super) fn functions(walk: &mut Walk<'_>, value: &mut Value<'_>) -> Result<(), Refusal> {
    walk.each(value, function)
}

/// `tool_choice` and `function_call`.
pub(super) fn tool_choice(walk: &mut Walk<'_>, value: &mut Value<'_>) -> Result<(), Refusal> {
    if value.as_str().is_some() {
        return Ok(());
    }
    walk.closed(value, &[("type", Shape::Text), ("name", Shape::Text), ("function", Shape::With(chosen)), ("allowed_tools", Shape::Open)])
}

fn chosen(walk: &mut Walk<'_>, value: &mut Value<'_>) -> Result<(), Refusal> {
    walk.closed(value, &[("name", Shape::Text)])
}

/// `response_format`.
pub(super) fn response_format(walk: &mut Walk<'_>, value: &mut Value<'_>) -> Result<(), Refusal> {
    walk.closed(
        value,
        &[("type", Shape::Text), ("json_schema", Shape::With(json_schema)), ("schema", Shape::Open), ("value", Shape::Open)],
    )
}

fn json_schema(walk: &mut Walk<'_>, value: &mut Value<'_>) -> Result<(), Refusal> {
    let members: Members =
        &[("name", Shape::Text), ("description", Shape::Text), ("schema", Shape::Open), ("strict", Shape::Truth)];
    walk.closed(value, members)
}

/// `stream_options`.
pub(super) fn stream_options(walk: &mut Walk<'_>, value: &mut Value<'_>) -> Result<(), Refusal> {
    let members: Members =
        &[("include_usage", Shape::Truth), ("include_obfuscation", Shape::Truth), ("continuous_usage_stats", Shape::Truth)];
    walk.closed(value, members)
}
