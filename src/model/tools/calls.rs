//! The calls of one stream, put together from their pieces. Which pieces belong to which call is the dialects' knowledge.

use std::collections::BTreeMap;

use crate::model::tree::JsonView;

use super::{Arguments, CALLS_MAX, ToolCallFault, Tools, typed};

/// Bytes of a tool's name.
const NAME_MAX: usize = 256;

/// Which call of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::model) struct CallId {
    /// The choice that it belongs to; [`Self::BLOCKS`] for Anthropic's blocks.
    pub(in crate::model) choice: u64,
    /// Whether it is OpenAI's former `function_call`, of which a choice has one.
    pub(in crate::model) former: bool,
    /// Its number.
    pub(in crate::model) number: u64,
}

impl CallId {
    /// The choice of Anthropic's blocks.
    pub(in crate::model) const BLOCKS: u64 = u64::MAX;
}

/// Which member holds a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum CallForm {
    /// OpenAI's `function`.
    Function,
    /// OpenAI's `custom`.
    Custom,
    /// OpenAI's former `function_call`.
    FormerFunction,
    /// A block of Anthropic's.
    Block,
}

/// One call of a stream.
struct PendingCall {
    form: CallForm,
    name: String,
    /// JSON in pieces.
    json: String,
    /// Text of no form in pieces.
    text: String,
    /// What it was said to begin with, as a value.
    whole: Option<Vec<u8>>,
    state: CallState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CallState {
    /// Held back until it is whole.
    Held,
    /// Of a tool that is not judged.
    Passing,
    /// Judged and whole.
    Done,
}

/// One event's part of a call.
#[derive(Default)]
pub(in crate::model) struct CallPart<'p> {
    /// A piece of the tool's name.
    name: Option<&'p str>,
    /// A piece of JSON.
    json: &'p str,
    /// A piece of text of no form.
    text: &'p str,
    /// All of what the tool is called with, as a value.
    whole: Option<&'p [u8]>,
}

impl<'p> CallPart<'p> {
    /// The part that an object with `name`, `arguments` and `input` is.
    pub(in crate::model) fn of(object: JsonView<'p>) -> Result<Self, ToolCallFault> {
        let name = typed::text(object, "name")?;
        let (json, whole_json) = text_or_whole(object.get("arguments"));
        let (text, whole_text) = text_or_whole(object.get("input"));
        let whole = match (whole_json, whole_text) {
            (Some(_), Some(_)) => return Err(ToolCallFault::Odd),
            (whole, None) | (None, whole) => whole,
        };
        Ok(Self { name, json, text, whole })
    }

    /// A piece of JSON.
    pub(in crate::model) fn json(json: &'p str) -> Self {
        Self { json, ..Self::default() }
    }

    const fn says_nothing(&self) -> bool {
        self.json.is_empty() && self.text.is_empty() && self.whole.is_none()
    }
}

/// A member as a piece of text, or else as a whole value.
fn text_or_whole(member: Option<JsonView<'_>>) -> (&str, Option<&[u8]>) {
    let Some(member) = member else { return ("", None) };
    match member.as_str() {
        Some(text) => (text, None),
        None if member.is_null() => ("", None),
        None => ("", Some(member.raw())),
    }
}

impl PendingCall {
    const fn new(form: CallForm) -> Self {
        Self {
            form,
            name: String::new(),
            json: String::new(),
            text: String::new(),
            whole: None,
            state: CallState::Held,
        }
    }

    fn add(&mut self, part: &CallPart<'_>, tools: &dyn Tools) -> Result<(), ToolCallFault> {
        if let Some(name) = part.name.filter(|name| !name.is_empty()) {
            let first = self.name.is_empty();
            // Readers put pieces of a name together, or take the first or the last.
            self.name.push_str(name);
            if self.name.len() > NAME_MAX {
                return Err(ToolCallFault::TooMuch);
            }
            let judged = tools.judges(&self.name) || tools.judges(name);
            match self.state {
                CallState::Held if first && !judged => self.state = CallState::Passing,
                CallState::Passing | CallState::Done if judged => return Err(ToolCallFault::Odd),
                CallState::Held | CallState::Passing | CallState::Done => {}
            }
        }
        match self.state {
            CallState::Done if !part.says_nothing() => return Err(ToolCallFault::Odd),
            CallState::Held => {
                self.json.push_str(part.json);
                self.text.push_str(part.text);
                if let Some(whole) = part.whole {
                    // Of two, some readers take the last, and some put them together.
                    if self.whole.replace(whole.to_vec()).is_some() {
                        return Err(ToolCallFault::Odd);
                    }
                }
            }
            CallState::Done | CallState::Passing => {}
        }
        Ok(())
    }

    /// It is whole: judges it. False where it must not be passed on.
    fn end(&mut self, tools: &mut dyn Tools) -> bool {
        self.state = CallState::Done;
        let (whole, json, text) =
            (self.whole.take(), std::mem::take(&mut self.json), std::mem::take(&mut self.text));
        whole.as_deref().is_none_or(|whole| tools.call(&self.name, Arguments::Json(whole)))
            && (json.is_empty() || tools.call(&self.name, Arguments::Json(json.as_bytes())))
            && (text.is_empty() || tools.call(&self.name, Arguments::Text(&text)))
    }
}

/// The calls of one stream so far.
#[derive(Default)]
pub(in crate::model) struct StreamCalls {
    calls: BTreeMap<CallId, PendingCall>,
    /// How many of them are held back.
    held: usize,
}

impl StreamCalls {
    /// Whether a call is held back, and with it all that follows.
    pub(super) const fn is_holding(&self) -> bool {
        self.held > 0
    }

    /// How many numbered calls of a choice have begun.
    pub(in crate::model) fn count_of(&self, choice: u64) -> u64 {
        let first = CallId { choice, former: false, number: 0 };
        let behind = CallId { choice, former: true, number: 0 };
        self.calls.range(first..behind).count() as u64
    }

    /// Adds a piece to a call.
    ///
    /// # Errors
    /// When readers would put it together in different ways, or there is more than can be kept.
    pub(in crate::model) fn piece(
        &mut self,
        of: CallId,
        form: CallForm,
        part: &CallPart<'_>,
        tools: &dyn Tools,
    ) -> Result<(), ToolCallFault> {
        // A block that calls nothing has no call.
        if form == CallForm::Block
            && part.name.is_none()
            && part.says_nothing()
            && !self.calls.contains_key(&of)
        {
            return Ok(());
        }
        if self.calls.len() >= CALLS_MAX && !self.calls.contains_key(&of) {
            return Err(ToolCallFault::TooMuch);
        }
        let new = !self.calls.contains_key(&of);
        let call = self.calls.entry(of).or_insert_with(|| PendingCall::new(form));
        let before = !new && call.state == CallState::Held;
        if call.form != form {
            return Err(ToolCallFault::Odd);
        }
        call.add(part, tools)?;
        let after = call.state == CallState::Held;
        self.held = self.held + usize::from(after && !before) - usize::from(before && !after);
        Ok(())
    }

    /// Those calls are whole: judges them. False where the answer ends here.
    pub(in crate::model) fn end(
        &mut self,
        which: impl Fn(&CallId) -> bool,
        tools: &mut dyn Tools,
    ) -> bool {
        if self.held == 0 {
            return true;
        }
        for (_, call) in
            self.calls.iter_mut().filter(|(of, call)| which(of) && call.state == CallState::Held)
        {
            self.held -= 1;
            if !call.end(tools) {
                return false;
            }
        }
        true
    }
}
