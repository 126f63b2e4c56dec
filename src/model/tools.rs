//! What an answer would have tools called with: found in whole answers, put together from the pieces of streams, and held back until it
//! is judged. Nothing of it is ever changed: a call goes on byte for byte, or the answer ends.

use std::collections::BTreeMap;

use crate::json::{self, Limits, Object, Value};
use crate::seeded::{Seed, has};

use super::prose::{DEPTH_MAX, Unreadable};
use super::sse::{self, EVENT_BYTES_MAX};

/// Calls of one answer that are kept apart.
const CALLS_MAX: usize = 1_024;
/// Bytes of events that are held back at once.
const HELD_MAX: usize = EVENT_BYTES_MAX;
/// The place of OpenAI's former `function_call`, of which a choice has one.
const FUNCTION_CALL: u64 = u64::MAX;

/// What a tool is called with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arguments<'a> {
    /// What should be a JSON document.
    Json(&'a [u8]),
    /// Text of no form (OpenAI's `custom` tools).
    Text(&'a str),
}

/// Who judges calls.
pub trait Tools {
    /// Whether there are tools whose calls are judged.
    fn any(&self) -> bool {
        false
    }

    /// Whether the answer has ended before its end: nothing more goes on.
    fn ended(&self) -> bool {
        false
    }

    /// Whether calls of that tool are.
    fn judges(&self, _tool: &str) -> bool {
        false
    }

    /// A whole call of such a tool. False where the answer ends here.
    fn call(&mut self, _tool: &str, _arguments: Arguments<'_>) -> bool {
        true
    }
}

impl Tools for () {}

/// Has every call in a whole answer judged; false where one must not go on.
///
/// # Errors
/// When the answer cannot be looked through.
pub fn whole(answer: &[u8], tools: &mut dyn Tools) -> Result<bool, Unreadable> {
    if !tools.any() {
        return Ok(true);
    }
    Ok(within(&read(answer)?, tools))
}

fn read(document: &[u8]) -> Result<Value<'_>, Unreadable> {
    json::parse(document, &Limits::deep(DEPTH_MAX)).map_err(|_| Unreadable::Json)
}

/// The calls in a value at any depth: objects with a name and with what is called with it.
fn within(value: &Value<'_>, tools: &mut dyn Tools) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
        Value::Array(items) => items.iter().all(|item| within(item, tools)),
        Value::Object(object) => {
            let name = object.get("name").and_then(Value::as_str).filter(|name| tools.judges(name));
            let passes = name.is_none_or(|name| {
                let mut passes = |key, free| object.get(key).is_none_or(|with| judged(name, with, free, tools));
                passes("arguments", false) && passes("input", true)
            });
            passes && object.iter().all(|(_, value)| within(value, tools))
        }
    }
}

/// What a call's member holds: JSON as text or as it is; text of no form where it is `free`.
fn judged(name: &str, with: &Value<'_>, free: bool, tools: &mut dyn Tools) -> bool {
    match with {
        Value::Null => true,
        Value::String(text) if free => tools.call(name, Arguments::Text(text)),
        Value::String(text) => tools.call(name, Arguments::Json(text.as_bytes())),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            let mut written = Vec::new();
            json::write(with, &mut written);
            tools.call(name, Arguments::Json(&written))
        }
    }
}

/// Why a stream with tool calls cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It cannot be looked through.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// More is called than can be kept apart or held.
    #[error("the answer calls more than {CALLS_MAX} tools, or with more than {HELD_MAX} bytes")]
    TooMuch,
    /// Pieces of a call that was judged already, or of a name whose first pieces went on.
    #[error("a tool call goes on behind its end, or changes its name")]
    Odd,
}

/// One call of a stream.
#[derive(Default)]
struct Call {
    name: String,
    with: String,
    /// What the event said that it began with.
    whole: Option<Vec<u8>>,
    free: bool,
    state: State,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// Held back until it is whole.
    #[default]
    Held,
    /// Of a tool that is not judged.
    Passing,
    /// Judged and whole.
    Done,
}

/// Holds events back while a call that is judged is not whole.
#[derive(Default)]
pub struct Gate {
    calls: BTreeMap<(u64, u64), Call>,
    queue: Vec<Vec<u8>>,
    bytes: usize,
}

impl Gate {
    /// Takes an event and hands on what may go on, in the order of its coming; false where the answer ends here.
    ///
    /// # Errors
    /// When the stream cannot be looked through; nothing of this event goes on then.
    pub fn event(&mut self, event: &[u8], tools: &mut dyn Tools, ready: &mut dyn FnMut(&[u8])) -> Result<bool, Fault> {
        let data = sse::data(event).filter(|data| !data.trim_ascii().is_empty());
        let passes = match data.as_deref().map(<[u8]>::trim_ascii) {
            None => true,
            Some(b"[DONE]") => self.end(None, tools),
            Some(json) => self.document(&read(json)?, tools)?,
        };
        if !passes {
            return Ok(false);
        }
        if self.calls.values().any(|call| call.state == State::Held) && !has(Seed::CallsLetGo) {
            self.bytes += event.len();
            self.queue.push(event.to_vec());
            return if self.bytes > HELD_MAX { Err(Fault::TooMuch) } else { Ok(true) };
        }
        self.release(ready);
        ready(event);
        Ok(true)
    }

    /// The stream is over: what was not whole is judged as it is.
    pub fn finish(&mut self, tools: &mut dyn Tools, ready: &mut dyn FnMut(&[u8])) -> bool {
        let passes = self.end(None, tools);
        if passes {
            self.release(ready);
        }
        passes
    }

    fn release(&mut self, ready: &mut dyn FnMut(&[u8])) {
        self.bytes = 0;
        std::mem::take(&mut self.queue).iter().for_each(|event| ready(event));
    }

    fn document(&mut self, value: &Value<'_>, tools: &mut dyn Tools) -> Result<bool, Fault> {
        let Some(object) = value.as_object() else { return Ok(true) };
        for choice in object.get("choices").and_then(Value::as_array).unwrap_or_default() {
            if !self.choice(choice, tools)? {
                return Ok(false);
            }
        }
        let index = object.get("index").and_then(Value::as_u64).unwrap_or_default();
        Ok(match object.get("type").and_then(Value::as_str) {
            Some("message_start") => object.get("message").is_none_or(|message| within(message, tools)),
            Some("content_block_start") => {
                if let Some(block) = object.get("content_block").and_then(Value::as_object)
                    && let Some(name) = block.get("name").and_then(Value::as_str)
                {
                    let call = self.piece((0, index), Some(name), "", tools)?;
                    call.whole = block.get("input").map(|input| {
                        let mut written = Vec::new();
                        json::write(input, &mut written);
                        written
                    });
                }
                true
            }
            Some("content_block_delta") => {
                let delta = object.get("delta").and_then(Value::as_object);
                if let Some(text) = delta.and_then(|delta| delta.get("partial_json")).and_then(Value::as_str) {
                    self.piece((0, index), None, text, tools)?;
                }
                true
            }
            Some("content_block_stop") => self.end(Some((0, Some(index))), tools),
            Some("message_stop" | "error") => self.end(None, tools),
            Some(_) | None => true,
        })
    }

    fn choice(&mut self, choice: &Value<'_>, tools: &mut dyn Tools) -> Result<bool, Fault> {
        let Some(choice) = choice.as_object() else { return Ok(true) };
        let number = choice.get("index").and_then(Value::as_u64).unwrap_or_default();
        for delta in ["delta", "message"].into_iter().filter_map(|key| choice.get(key).and_then(Value::as_object)) {
            for (place, call) in delta.get("tool_calls").and_then(Value::as_array).unwrap_or_default().iter().enumerate() {
                let Some(call) = call.as_object() else { continue };
                let index = call.get("index").and_then(Value::as_u64).unwrap_or(place as u64);
                for key in ["function", "custom"] {
                    if let Some(part) = call.get(key).and_then(Value::as_object) {
                        self.part((number, index), part, tools)?;
                    }
                }
            }
            if let Some(part) = delta.get("function_call").and_then(Value::as_object) {
                self.part((number, FUNCTION_CALL), part, tools)?;
            }
        }
        let over = choice.get("finish_reason").is_some_and(|reason| !matches!(reason, Value::Null));
        Ok(!over || self.end(Some((number, None)), tools))
    }

    fn part(&mut self, of: (u64, u64), part: &Object<'_>, tools: &mut dyn Tools) -> Result<(), Fault> {
        let text = |key| part.get(key).and_then(Value::as_str);
        let call = self.piece(of, text("name"), text("arguments").or(text("input")).unwrap_or_default(), tools)?;
        call.free |= part.get("input").is_some();
        // Some servers send an object where a text belongs.
        if let Some(whole) = part.get("arguments").filter(|with| matches!(with, Value::Object(_) | Value::Array(_))) {
            let mut written = Vec::new();
            json::write(whole, &mut written);
            call.whole = Some(written);
        }
        Ok(())
    }

    /// Adds a piece to a call.
    fn piece(&mut self, of: (u64, u64), name: Option<&str>, with: &str, tools: &mut dyn Tools) -> Result<&mut Call, Fault> {
        if self.calls.len() >= CALLS_MAX && !self.calls.contains_key(&of) {
            return Err(Fault::TooMuch);
        }
        let call = self.calls.entry(of).or_default();
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            // Readers put pieces of a name together, or take the last.
            call.name.push_str(name);
            let judged = tools.judges(&call.name) || tools.judges(name);
            match call.state {
                State::Held if !judged => call.state = State::Passing,
                State::Passing | State::Done if judged => return Err(Fault::Odd),
                State::Held | State::Passing | State::Done => {}
            }
        }
        match call.state {
            State::Done if !with.is_empty() => return Err(Fault::Odd),
            State::Held => call.with.push_str(with),
            State::Done | State::Passing => {}
        }
        Ok(call)
    }

    /// Calls are whole: one of a choice, all of it, or all.
    fn end(&mut self, which: Option<(u64, Option<u64>)>, tools: &mut dyn Tools) -> bool {
        let is_meant = |(choice, index): &(u64, u64)| {
            which.is_none_or(|(number, one)| number == *choice && one.is_none_or(|one| one == *index))
        };
        self.calls.iter_mut().filter(|(of, call)| is_meant(of) && call.state == State::Held).all(|(_, call)| {
            call.state = State::Done;
            let whole = call.whole.take();
            let begun = whole.as_deref().is_none_or(|whole| tools.call(&call.name, Arguments::Json(whole)));
            let with = std::mem::take(&mut call.with);
            let text = if call.free { Arguments::Text(&with) } else { Arguments::Json(with.as_bytes()) };
            begun && (with.is_empty() || tools.call(&call.name, text))
        })
    }
}

#[cfg(test)]
mod tests;
