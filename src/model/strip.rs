//! Takes out of a call what would make its server reach outside.

use crate::json::{Object, Value};

use super::call::ModelCall;
use super::{Reach, ReachKind, Step};

/// What the model reads where content was taken out.
const NOTE: &str = "[Content was removed here: it lies behind a URL, and this gateway does not let it be fetched.]";

impl ModelCall<'_> {
    /// Takes out what reaches outside and is chosen by `which`. Content gives way to a note that the model reads; a tool goes, and with
    /// the last tool the choice among them. Afterwards nothing of it is among the reaches.
    pub fn strip(&mut self, which: impl Fn(&Reach) -> bool) {
        let (out, rest): (Vec<Reach>, Vec<Reach>) = std::mem::take(&mut self.reaches).into_iter().partition(which);
        self.reaches = rest;
        // From the last to the first, so that what stands before keeps its place.
        for reach in out.iter().rev() {
            match reach.kind {
                ReachKind::Media => replace(&mut self.object, &reach.steps),
                ReachKind::HostedTool | ReachKind::Mcp | ReachKind::Background | ReachKind::ForeignState => {
                    remove(&mut self.object, &reach.steps);
                }
            }
        }
        if self.object.get("tools").and_then(Value::as_array).is_some_and(<[Value<'_>]>::is_empty) {
            for key in ["tools", "tool_choice", "parallel_tool_calls"] {
                self.object.remove(key);
            }
        }
        self.stripped.extend(out);
    }

    /// What was taken out.
    #[must_use]
    pub fn stripped(&self) -> &[Reach] {
        &self.stripped
    }

    /// The types of the tools, each with its path. A function is of the type `function`, a tool of the caller's own in Anthropic's
    /// dialect of the type `custom`.
    pub fn tool_types(&self) -> impl Iterator<Item = (String, &str)> {
        let own = match self.operation().dialect() {
            super::Dialect::OpenAi => "function",
            super::Dialect::Anthropic => "custom",
        };
        let items = |key| self.object.get(key).and_then(Value::as_array).unwrap_or_default().iter().enumerate();
        let tools = items("tools").map(move |(place, tool)| {
            let named = tool.as_object().and_then(|tool| tool.get("type")).and_then(Value::as_str);
            (format!("tools[{place}]"), named.unwrap_or(own))
        });
        tools.chain(items("functions").map(|(place, _)| (format!("functions[{place}]"), "function")))
    }
}

/// The value at the end of these steps.
fn at<'v, 'b>(root: &'v mut Object<'b>, steps: &[Step]) -> Option<&'v mut Value<'b>> {
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

/// Puts a note in the place of the content part that these steps lead into: the innermost item of an array.
fn replace(root: &mut Object<'_>, steps: &[Step]) {
    let end = steps.iter().rposition(|step| matches!(step, Step::Item(_))).map_or(0, |place| place + 1);
    let part = steps.get(..end).and_then(|steps| at(root, steps));
    match part {
        Some(part) => {
            let mut note = Object::new();
            note.set("type", Value::from_text("text"));
            note.set("text", Value::from_text(NOTE));
            *part = Value::Object(note);
        }
        None => remove(root, steps),
    }
}

/// Takes out the item or member that these steps lead to.
fn remove(root: &mut Object<'_>, steps: &[Step]) {
    let Some((last, parents)) = steps.split_last() else { return };
    match (last, at(root, parents)) {
        (Step::Item(place), Some(Value::Array(items))) if *place < items.len() => drop(items.remove(*place)),
        (Step::Key(key), Some(Value::Object(object))) => drop(object.remove(key)),
        (Step::Key(key), None) if parents.is_empty() => drop(root.remove(key)),
        _ => {}
    }
}
