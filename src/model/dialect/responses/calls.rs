//! Tool calls in the events of a response: items that begin, get deltas, and end. Later events
//! repeat each call, and clients differ in which of them they read. So each repetition is checked.

use std::collections::BTreeMap;

use super::texts::is_event;
use crate::model::tools::calls::{CallForm, CallId, CallPart, StreamCalls};
use crate::model::tools::{Arguments, ToolCallFault, Tools, typed};
use crate::model::tree::JsonView;

/// The maximum number of items in one answer.
const ITEMS_MAX: u64 = 65_536;
/// The members that this file reads.
pub(in crate::model::dialect) const WATCHED: [&str; 11] = [
    "action",
    "arguments",
    "delta",
    "input",
    "item",
    "name",
    "operation",
    "output",
    "output_index",
    "response",
    "type",
];

/// The calls of one stream so far.
#[derive(Default)]
pub(in crate::model::dialect) struct Items {
    /// The items that are calls, by index.
    begun: BTreeMap<u64, BegunItem>,
}

/// An item that is a call.
struct BegunItem {
    /// The name of the tool.
    name: String,
    /// The id of the item, if it has one.
    id: Option<String>,
}

/// The id of the call of an item.
const fn id(number: u64) -> CallId {
    CallId { choice: CallId::RESPONSE_ITEMS, former: false, number }
}

impl Items {
    /// Adds the parts of calls in an event. Returns false where the answer must end.
    ///
    /// # Errors
    /// When clients could join the parts in different ways.
    pub(in crate::model::dialect) fn read(
        &mut self,
        calls: &mut StreamCalls,
        event: JsonView<'_>,
        tools: &mut dyn Tools,
    ) -> Result<bool, ToolCallFault> {
        let Some(kind) = event.text("type").filter(|kind| is_event(kind)) else { return Ok(true) };
        match kind {
            "response.output_item.added" => self.begin(calls, event, tools),
            "response.function_call_arguments.delta" => {
                let json = typed::text(event, "delta")?.unwrap_or_default();
                self.add(calls, event, &CallPart::json(json), tools)
            }
            "response.custom_tool_call_input.delta" => {
                let text = typed::text(event, "delta")?.unwrap_or_default();
                self.add(calls, event, &CallPart::text(text), tools)
            }
            "response.output_item.done" => {
                let number = self.number(event)?;
                let Some(item) = typed::object(event, "item")? else { return Ok(true) };
                Ok(self.repeated(number, item, tools)
                    && judged(item, tools)
                    && calls.end(|of| *of == id(number), tools))
            }
            _ if kind.ends_with(".done") => {
                Ok(self.repeated(self.number(event)?, event, tools) && judged(event, tools))
            }
            // Every other event may have a response, whose output repeats all calls.
            _ => {
                let passes = match typed::object(event, "response")? {
                    Some(response) => output_passes(response, tools)?,
                    None => true,
                };
                let ends = matches!(
                    kind,
                    "response.completed" | "response.incomplete" | "response.failed"
                );
                Ok(passes && (!ends || calls.end(|_| true, tools)))
            }
        }
    }

    /// Begins an item. An index begins only once, whatever the item is.
    fn begin(
        &mut self,
        calls: &mut StreamCalls,
        event: JsonView<'_>,
        tools: &mut dyn Tools,
    ) -> Result<bool, ToolCallFault> {
        let number = self.number(event)?;
        let Some(item) = typed::object(event, "item")? else { return Ok(true) };
        let Some(name) = typed::text(item, "name")? else { return Ok(judged(item, tools)) };
        let begun = BegunItem { name: name.to_owned(), id: item.text("id").map(str::to_owned) };
        if self.begun.insert(number, begun).is_some() {
            return Err(ToolCallFault::Odd);
        }
        calls.piece(id(number), CallForm::Item, &CallPart::of(item)?, tools)?;
        Ok(true)
    }

    /// Adds a delta to a call that has begun.
    fn add(
        &self,
        calls: &mut StreamCalls,
        event: JsonView<'_>,
        part: &CallPart<'_>,
        tools: &dyn Tools,
    ) -> Result<bool, ToolCallFault> {
        let number = self.number(event)?;
        let Some(begun) = self.begun.get(&number) else { return Err(ToolCallFault::Odd) };
        // Some clients use the index, and others the id.
        if let (Some(known), Some(id)) = (&begun.id, event.text("item_id"))
            && known != id
        {
            return Err(ToolCallFault::Odd);
        }
        calls.piece(id(number), CallForm::Item, part, tools)?;
        Ok(true)
    }

    /// Checks a repetition of a call under the name with which its item began.
    fn repeated(&self, number: u64, call: JsonView<'_>, tools: &mut dyn Tools) -> bool {
        match self.begun.get(&number) {
            Some(begun) => judged_as(&begun.name, call, tools),
            None => true,
        }
    }

    /// The index of the item that an event belongs to. Some servers send none, and name the item
    /// by its id.
    fn number(&self, event: JsonView<'_>) -> Result<u64, ToolCallFault> {
        if let Some(value) = typed::member(event, "output_index") {
            return match value.as_u64() {
                Some(number) if number < ITEMS_MAX => Ok(number),
                Some(_) | None => Err(ToolCallFault::Odd),
            };
        }
        let id = match event.get("item") {
            Some(item) => item.text("id"),
            None => event.text("item_id"),
        };
        for (number, begun) in &self.begun {
            if id.is_some() && begun.id.as_deref() == id {
                return Ok(*number);
            }
        }
        // A number that no item with an index has.
        Ok(ITEMS_MAX + self.begun.len() as u64)
    }
}

/// Checks the calls in the output of a response.
fn output_passes(response: JsonView<'_>, tools: &mut dyn Tools) -> Result<bool, ToolCallFault> {
    let Some(output) = typed::array(response, "output")? else { return Ok(true) };
    for item in output.items() {
        if !judged(item, tools) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Checks a complete call under its own name. Returns true for an item that is no call.
fn judged(call: JsonView<'_>, tools: &mut dyn Tools) -> bool {
    if let Some(name) = call.text("name") {
        return judged_as(name, call, tools);
    }
    let Some(LocalCall { tool, member }) = call.text("type").and_then(local_call) else {
        return true;
    };
    let Some(action) = call.get(member) else { return true };
    !tools.judges(tool) || tools.call(tool, Arguments::Json(action.raw()))
}

/// A call of a tool that the caller runs and whose item has no name.
pub(in crate::model) struct LocalCall {
    /// The name of the tool.
    pub(in crate::model) tool: &'static str,
    /// The member that tells what the tool is to do.
    pub(in crate::model) member: &'static str,
}

/// The call in an item of that type; `None` if such items have names or are no calls.
pub(in crate::model) fn local_call(kind: &str) -> Option<LocalCall> {
    match kind {
        "local_shell_call" => Some(LocalCall { tool: "local_shell", member: "action" }),
        "shell_call" => Some(LocalCall { tool: "shell", member: "action" }),
        "apply_patch_call" => Some(LocalCall { tool: "apply_patch", member: "operation" }),
        _ => None,
    }
}

/// Checks the arguments of a complete call, as JSON and as text.
fn judged_as(name: &str, call: JsonView<'_>, tools: &mut dyn Tools) -> bool {
    if !tools.judges(name) {
        return true;
    }
    let json = match call.get("arguments") {
        None => true,
        Some(arguments) => match arguments.as_str() {
            Some(text) => text.is_empty() || tools.call(name, Arguments::Json(text.as_bytes())),
            None => arguments.is_null() || tools.call(name, Arguments::Json(arguments.raw())),
        },
    };
    json && match call.get("input") {
        None => true,
        Some(input) => match input.as_str() {
            Some(text) => text.is_empty() || tools.call(name, Arguments::Text(text)),
            None => input.is_null() || tools.call(name, Arguments::Json(input.raw())),
        },
    }
}
