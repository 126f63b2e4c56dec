//! Tool calls in OpenAI's chunks: `tool_calls`, and the deprecated `function_call`.

use std::collections::BTreeSet;

use crate::model::tools::calls::{CallForm, CallId, CallPart, StreamCalls};
use crate::model::tools::{ToolCallFault, Tools, typed};
use crate::model::tree::JsonView;

/// The members that this file reads.
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

/// Adds the parts of calls in a chunk. Returns false where the answer must end.
///
/// # Errors
/// When clients could join the parts in different ways.
pub(in crate::model::dialect) fn read(
    calls: &mut StreamCalls,
    event: JsonView<'_>,
    tools: &mut dyn Tools,
) -> Result<bool, ToolCallFault> {
    let mut known = BTreeSet::new();
    let Some(choices) = typed::array(event, "choices")? else { return Ok(true) };
    for choice in choices.items() {
        // Clients fail or skip such a choice. So its effect is unknown.
        if !choice.is_object() {
            return Err(ToolCallFault::Odd);
        }
        let number = typed::number(choice)?.unwrap_or_default();
        // Of two choices with one index, some clients take the first and others take both.
        if !known.insert(number) || has_whole_calls(typed::object(choice, "message")?) {
            return Err(ToolCallFault::Odd);
        }
        if !read_choice(calls, number, choice, tools)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the chunk has calls in `message`, which belongs to whole answers.
fn has_whole_calls(message: Option<JsonView<'_>>) -> bool {
    let Some(message) = message else { return false };
    typed::member(message, "tool_calls").is_some()
        || typed::member(message, "function_call").is_some()
}

/// Reads the calls of a choice. A finish reason completes them.
fn read_choice(
    calls: &mut StreamCalls,
    number: u64,
    choice: JsonView<'_>,
    tools: &mut dyn Tools,
) -> Result<bool, ToolCallFault> {
    if let Some(delta) = typed::object(choice, "delta")? {
        if let Some(list) = typed::array(delta, "tool_calls")? {
            for call in list.items() {
                if !call.is_object() {
                    return Err(ToolCallFault::Odd);
                }
                if !read_call(calls, number, call, tools)? {
                    return Ok(false);
                }
            }
        }
        // `function_call` has no index: there is only one call in this deprecated form.
        if let Some(part) = typed::object(delta, "function_call")? {
            let id = CallId { choice: number, former: true, number: 0 };
            calls.piece(id, CallForm::FormerFunction, &CallPart::of(part)?, tools)?;
        }
    }
    match typed::member(choice, "finish_reason") {
        None => Ok(true),
        // Some servers send an empty finish reason in every chunk. It ends no call.
        Some(reason) if reason.as_str() == Some("") => Ok(true),
        Some(_) => Ok(calls.end(|id| id.choice == number, tools)),
    }
}

/// Adds a part of one of the choice's calls. When the next call starts, the earlier calls are
/// complete and are checked.
fn read_call(
    calls: &mut StreamCalls,
    choice: u64,
    call: JsonView<'_>,
    tools: &mut dyn Tools,
) -> Result<bool, ToolCallFault> {
    let known = calls.count_of(choice);
    let (form, part) = match (typed::object(call, "function")?, typed::object(call, "custom")?) {
        // Clients differ in which of the two they call.
        (Some(_), Some(_)) => return Err(ToolCallFault::Odd),
        (Some(function), None) => (CallForm::Function, Some(function)),
        (None, Some(custom)) => (CallForm::Custom, Some(custom)),
        (None, None) => (CallForm::Function, None),
    };
    let begins = part.is_some_and(|part| part.get("name").is_some());
    let number = match typed::number(call)? {
        // Clients handle a gap between indexes differently.
        Some(number) if number > known => return Err(ToolCallFault::Odd),
        Some(number) => number,
        // Without an index it is the next call, or a part of the last one.
        None if begins => known,
        None => known.saturating_sub(1),
    };
    // A new index means that the earlier calls of the choice are complete.
    let passes = number < known || calls.end(|id| id.choice == choice && !id.former, tools);
    let part = match part {
        Some(part) => CallPart::of(part)?,
        None => CallPart::default(),
    };
    calls.piece(CallId { choice, former: false, number }, form, &part, tools)?;
    Ok(passes)
}
