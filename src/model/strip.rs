//! Removes from a call the references that would make its server connect to another host.

use crate::json::{Object, Value};

use super::call::ModelCall;
use super::{ExternalReference, ReferenceKind, Step};

/// The text that the model gets instead of removed content.
const NOTE: &str = "[Content was removed here: it is at a URL, and this gateway does not let it be \
    fetched.]";

impl ModelCall<'_> {
    /// Removes the external references that `which` chooses. Content is replaced by a note for the
    /// model. A tool is removed, together with a tool choice that names it. Afterwards
    /// `external_references` contains none of them, except content that a note cannot replace.
    pub fn strip(&mut self, which: impl Fn(&ExternalReference) -> bool) {
        let mut tools = false;
        for reach in std::mem::take(&mut self.external_references) {
            // The gateway does not know which part of a declared body could become a note.
            let done = self.route().is_none()
                && which(&reach)
                && match reach.kind {
                    ReferenceKind::Media => {
                        let part = self.operation().dialect().text_part();
                        replace(&mut self.object, &reach.steps, part)
                    }
                    ReferenceKind::HostedTool
                    | ReferenceKind::Mcp
                    | ReferenceKind::Background
                    | ReferenceKind::ForeignState => {
                        tools = true;
                        mark(&mut self.object, &reach.steps)
                    }
                };
            if done { &mut self.stripped } else { &mut self.external_references }.push(reach);
        }
        // The items are removed at the end, all at once. Before that, the steps of the other
        // references must stay valid.
        let mut swept: Option<&[Step]> = None;
        for reach in &self.stripped {
            if reach.kind == ReferenceKind::Media {
                continue;
            }
            let list = list_of(&reach.steps);
            // One sweep removes all null items of a list.
            if list.is_none() || list != swept {
                sweep(&mut self.object, &reach.steps);
            }
            swept = list;
        }
        if tools {
            self.without_dangling_choice();
        }
    }

    /// Removes the tool choice if it names a removed tool. If no tools remain, removes all fields
    /// about tools.
    fn without_dangling_choice(&mut self) {
        let tools = self.object.array("tools");
        // Servers refuse an empty list of tools, and a choice without tools.
        if tools.is_some_and(<[Value<'_>]>::is_empty) {
            for key in ["tools", "tool_choice", "parallel_tool_calls"] {
                self.object.remove(key);
            }
            return;
        }
        if let Some(choice) = self.object.object("tool_choice")
            && is_dangling(choice, tools.unwrap_or_default())
        {
            self.object.remove("tool_choice");
        }
    }

    /// The references that were removed.
    #[must_use]
    pub fn stripped(&self) -> &[ExternalReference] {
        &self.stripped
    }

    /// The types of the tools, each with its path. A function has the type `function`. A
    /// caller-defined tool in Anthropic's dialect has the type `custom`.
    pub fn tool_types(&self) -> impl Iterator<Item = (String, &str)> {
        let own = self.operation().dialect().own_tool_type();
        let mut found = Vec::new();
        collect(&self.object, own, "", &mut found);
        // Some servers also read the tools of a message.
        if let Some(messages) = self.object.array("messages") {
            for (place, message) in messages.iter().enumerate() {
                if let Some(message) = message.as_object() {
                    collect(message, own, &format!("messages[{place}]."), &mut found);
                }
            }
        }
        found.into_iter()
    }
}

/// The steps to the array whose item the steps lead to; `None` if they lead to a member.
fn list_of(steps: &[Step]) -> Option<&[Step]> {
    match steps.split_last()? {
        (Step::Item(_), parents) => Some(parents),
        (Step::Key(_), _) => None,
    }
}

/// Whether a tool choice names a removed tool, or its list of allowed tools is empty. `tools` are
/// those that remain.
fn is_dangling(choice: &Object<'_>, tools: &[Value<'_>]) -> bool {
    if let Some(allowed) = choice.object("allowed_tools")
        && let Some([]) = allowed.array("tools")
    {
        return true;
    }
    // The Responses dialect has the list in the choice itself.
    if let Some([]) = choice.array("tools") {
        return true;
    }
    match name_in(choice) {
        Some(wanted) => !tools.iter().any(|tool| name(tool) == Some(wanted)),
        None => false,
    }
}

/// Collects the types of the tools in `object`.
fn collect<'v>(
    object: &'v Object<'_>,
    own: &'static str,
    at: &str,
    found: &mut Vec<(String, &'v str)>,
) {
    if let Some(tools) = object.array("tools") {
        for (place, tool) in tools.iter().enumerate() {
            let kind = match tool.member("type") {
                Some(Value::String(kind)) => kind,
                Some(_) | None => own,
            };
            found.push((format!("{at}tools[{place}]"), kind));
            // A namespace holds tools itself.
            if let Some(inner) = tool.as_object() {
                collect(inner, own, &format!("{at}tools[{place}]."), found);
            }
        }
    }
    if let Some(functions) = object.array("functions") {
        for place in 0..functions.len() {
            found.push((format!("{at}functions[{place}]"), "function"));
        }
    }
}

/// The name of a tool.
fn name<'v>(tool: &'v Value<'_>) -> Option<&'v str> {
    name_in(tool.as_object()?)
}

/// The name of a tool or of a tool choice: its own name or, in OpenAI's dialect, the name of its
/// function.
fn name_in<'v>(object: &'v Object<'_>) -> Option<&'v str> {
    // OpenAI puts the name into `function`, Anthropic into the tool itself.
    match object.object("function") {
        Some(function) => function.text("name"),
        None => object.text("name"),
    }
}

/// The value at the end of the steps.
pub(super) fn at<'v, 'b>(root: &'v mut Object<'b>, steps: &[Step]) -> Option<&'v mut Value<'b>> {
    let (Step::Key(first), rest) = steps.split_first()? else { return None };
    let mut value = root.get_mut(first)?;
    for step in rest {
        value = match (value, step) {
            (Value::Object(object), Step::Key(key)) => object.get_mut(key)?,
            (Value::Array(items), Step::Item(place)) => items.get_mut(*place)?,
            _ => return None,
        };
    }
    Some(value)
}

/// Replaces the content part that the steps lead into by a note. The part is the innermost item of
/// an array on the path. Returns false if it is no content part.
fn replace(root: &mut Object<'_>, steps: &[Step], note_type: &'static str) -> bool {
    // A note is no valid tool.
    if let Some(Step::Key(key)) = steps.first()
        && matches!(key.as_str(), "tools" | "functions")
    {
        return false;
    }
    match part_at(root, steps) {
        Some(part) if part.member("type").is_some() => {
            let mut note = Object::new();
            note.set("type", Value::from_text(note_type));
            note.set("text", Value::from_text(NOTE));
            *part = Value::Object(note);
            true
        }
        _ => false,
    }
}

/// The innermost item of an array on the path.
fn part_at<'v, 'b>(root: &'v mut Object<'b>, steps: &[Step]) -> Option<&'v mut Value<'b>> {
    let last = steps.iter().rposition(|step| matches!(step, Step::Item(_)))?;
    at(root, steps.get(..=last)?)
}

/// Sets the item or member at the end of the steps to null.
fn mark(root: &mut Object<'_>, steps: &[Step]) -> bool {
    match at(root, steps) {
        Some(value) => {
            *value = Value::Null;
            true
        }
        None => false,
    }
}

/// Removes the member at the end of the steps, or all null items of its array.
fn sweep(root: &mut Object<'_>, steps: &[Step]) {
    let Some((last, parents)) = steps.split_last() else { return };
    match (last, at(root, parents)) {
        (Step::Item(_), Some(Value::Array(items))) => {
            items.retain(|item| !matches!(item, Value::Null))
        }
        (Step::Key(key), Some(Value::Object(object))) => drop(object.remove(key)),
        (Step::Key(key), None) if parents.is_empty() => drop(root.remove(key)),
        _ => {}
    }
}
