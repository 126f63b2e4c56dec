//! The end of an Anthropic message whose tool call is refused.

use std::collections::BTreeSet;

use crate::json::{Object, Value};
use crate::model::convert::{event, of, text};
use crate::model::tools::{CallsOf, Tools};

/// The maximum number of open blocks that are tracked.
const OPEN_MAX: usize = 1_024;
/// The type of a block with a call.
const CALL: &str = "tool_use";

/// The events so far.
#[derive(Default)]
pub(in crate::model) struct SentBlocks {
    /// The index of the next block.
    next: u64,
    /// The blocks that the caller has without their end.
    open: BTreeSet<u64>,
    /// Whether the caller has a call.
    call: bool,
    /// The highest reported number of output tokens.
    output: u64,
}

impl SentBlocks {
    /// Reads an event. `sent` is true when the caller gets it now.
    pub(in crate::model::dialect) fn read(&mut self, data: &Object<'_>, sent: bool) {
        let usage = match data.object("message") {
            Some(message) => message.object("usage"),
            None => data.object("usage"),
        };
        let output = usage.and_then(|usage| usage.number("output_tokens"));
        // Reports repeat and grow, so the highest number counts.
        self.output = self.output.max(output.unwrap_or(0));
        if !sent {
            return;
        }
        let index = data.number("index").unwrap_or(0);
        match data.text("type") {
            Some("content_block_start") => {
                // A server without end may begin blocks without end.
                if self.open.len() < OPEN_MAX {
                    self.open.insert(index);
                }
                self.next = index.saturating_add(1);
                let kind = data.object("content_block").and_then(|block| block.text("type"));
                self.call |= kind == Some(CALL);
            }
            Some("content_block_stop") => {
                self.open.remove(&index);
            }
            Some(_) | None => {}
        }
    }

    /// The events that end the message with `refused` in place of the call.
    pub(in crate::model::dialect) fn end(&mut self, refused: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let mut write = |kind: &'static str, members: Vec<(&'static str, Value<'_>)>| {
            let members = [("type", text(kind))].into_iter().chain(members);
            out.extend_from_slice(&event(Some(kind), &of(members)));
        };
        // SDKs fail at a block that begins inside another one.
        for open in &self.open {
            write("content_block_stop", vec![("index", Value::from_u64(*open))]);
        }
        let index = || ("index", Value::from_u64(self.next));
        let block = of([("type", text("text")), ("text", text(""))]);
        write("content_block_start", vec![index(), ("content_block", block)]);
        let said = Value::from_text(refused.to_owned());
        let delta = of([("type", text("text_delta")), ("text", said)]);
        write("content_block_delta", vec![index(), ("delta", delta)]);
        write("content_block_stop", vec![index()]);
        let delta = of([("stop_reason", reason(self.call)), ("stop_sequence", Value::Null)]);
        // SDKs require the member.
        let usage = of([("output_tokens", Value::from_u64(self.output))]);
        write("message_delta", vec![("delta", delta), ("usage", usage)]);
        write("message_stop", Vec::new());
        out
    }
}

/// The stop reason of a message with a call, or without one.
fn reason(call: bool) -> Value<'static> {
    text(if call { CALL } else { "end_turn" })
}

/// Replaces the first refused call, and the blocks after it. `None` if there is none.
pub(in crate::model::dialect) fn replace<T: Tools>(
    answer: &mut Object<'_>,
    tools: &mut T,
    text_of: &dyn Fn(&T) -> Option<String>,
) -> Option<()> {
    let Some(Value::Array(blocks)) = answer.get_mut("content") else { return None };
    let refused = blocks.iter().position(|block| match block.as_object() {
        Some(block) => !tools.pass(block),
        None => false,
    })?;
    // The blocks after the call may refer to it.
    blocks.truncate(refused);
    let said = Value::from_text(text_of(tools)?);
    blocks.push(of([("type", text("text")), ("text", said)]));
    let is_call = |block: &Value<'_>| block.member("type").and_then(Value::as_str) == Some(CALL);
    let call = blocks.iter().any(is_call);
    answer.set("stop_reason", reason(call));
    Some(())
}
