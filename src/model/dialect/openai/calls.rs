//! Tool calls in OpenAI's chunks: `tool_calls`, and the former `function_call`.

use std::collections::BTreeSet;

use crate::model::tools::calls::{CallForm, CallId, CallPart, StreamCalls};
use crate::model::tools::{ToolCallFault, Tools, typed};
use crate::model::tree::JsonView;

/// Members that are looked at here.
pub(in crate::model::dialect) const WATCHED: [&str; 14] = [
    "arguments",
    "choices",
    "content",
    "custom",
    "delta",
    "finish_reason",
    "function",
    "function_call",
    "index",
    "input",
    "message",
    "name",
    "tool_calls",
    "type",
];

/// Adds the pieces of calls that a chunk has. False where the answer ends here.
///
/// # Errors
/// When readers would put the pieces together in different ways.
pub(in crate::model::dialect) fn read(
    calls: &mut StreamCalls,
    event: JsonView<'_>,
    tools: &mut dyn Tools,
) -> Result<bool, ToolCallFault> {
    let mut known = BTreeSet::new();
    let Some(choices) = typed::array(event, "choices")? else { return Ok(true) };
    for choice in choices.items() {
        if !choice.is_object() {
            return Err(ToolCallFault::Odd);
        }
        let number = typed::number(choice)?.unwrap_or_default();
        // Of two, some readers take the first, and some both.
        if !known.insert(number) || has_whole_calls(typed::object(choice, "message")?) {
            return Err(ToolCallFault::Odd);
        }
        if !read_choice(calls, number, choice, tools)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether something is called in what belongs to whole answers.
fn has_whole_calls(message: Option<JsonView<'_>>) -> bool {
    let Some(message) = message else { return false };
    typed::member(message, "tool_calls").is_some()
        || typed::member(message, "function_call").is_some()
}

fn read_choice(
    calls: &mut StreamCalls,
    number: u64,
    choice: JsonView<'_>,
    tools: &mut dyn Tools,
) -> Result<bool, ToolCallFault> {
    if let Some(delta) = typed::object(choice, "delta")? {
        for call in typed::array(delta, "tool_calls")?.into_iter().flat_map(JsonView::items) {
            if !call.is_object() {
                return Err(ToolCallFault::Odd);
            }
            if !read_call(calls, number, call, tools)? {
                return Ok(false);
            }
        }
        if let Some(part) = typed::object(delta, "function_call")? {
            let id = CallId { choice: number, former: true, number: 0 };
            calls.piece(id, CallForm::FormerFunction, &CallPart::of(part)?, tools)?;
        }
    }
    match typed::member(choice, "finish_reason") {
        None => Ok(true),
        Some(reason) if reason.as_str() == Some("") => Ok(true),
        Some(_) => Ok(calls.end(|id| id.choice == number, tools)),
    }
}

/// A piece of one of a choice's calls. With the next one those before it are whole.
fn read_call(
    calls: &mut StreamCalls,
    choice: u64,
    call: JsonView<'_>,
    tools: &mut dyn Tools,
) -> Result<bool, ToolCallFault> {
    let known = calls.count_of(choice);
    let (form, part) = match (typed::object(call, "function")?, typed::object(call, "custom")?) {
        (Some(_), Some(_)) => return Err(ToolCallFault::Odd),
        (Some(function), None) => (CallForm::Function, Some(function)),
        (None, Some(custom)) => (CallForm::Custom, Some(custom)),
        (None, None) => (CallForm::Function, None),
    };
    let begins = part.is_some_and(|part| part.get("name").is_some());
    let number = match typed::number(call)? {
        Some(number) if number > known => return Err(ToolCallFault::Odd),
        Some(number) => number,
        // Without a number it is the next call, or a piece of the last one.
        None if begins => known,
        None => known.saturating_sub(1),
    };
    let passes = number < known || calls.end(|id| id.choice == choice && !id.former, tools);
    let part = match part {
        Some(part) => CallPart::of(part)?,
        None => CallPart::default(),
    };
    calls.piece(CallId { choice, former: false, number }, form, &part, tools)?;
    Ok(passes)
}
