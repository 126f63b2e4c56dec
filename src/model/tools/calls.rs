//! The calls of one stream, joined from their parts. The dialects determine which parts belong to
//! which call.

use std::collections::BTreeMap;

use crate::model::tree::JsonView;

use super::{Arguments, CALLS_MAX, ToolCallFault, Tools, typed};

/// The maximum length of a tool's name in bytes.
const NAME_MAX: usize = 256;

/// The identity of a call in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::model) struct CallId {
    /// The choice of the call; [`Self::BLOCKS`] for Anthropic's blocks,
    /// [`Self::RESPONSE_ITEMS`] for the items of a response.
    pub(in crate::model) choice: u64,
    /// Whether it is OpenAI's deprecated `function_call`, of which a choice has at most one.
    pub(in crate::model) former: bool,
    /// The index of the call.
    pub(in crate::model) number: u64,
}

impl CallId {
    /// The choice value of Anthropic's blocks.
    pub(in crate::model) const BLOCKS: u64 = u64::MAX;
    /// The choice value of the items of a response.
    pub(in crate::model) const RESPONSE_ITEMS: u64 = u64::MAX - 1;
}

/// The member that contains a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum CallForm {
    /// OpenAI's `function`.
    Function,
    /// OpenAI's `custom`.
    Custom,
    /// OpenAI's deprecated `function_call`.
    FormerFunction,
    /// A block of Anthropic's dialect.
    Block,
    /// An item of the Responses dialect.
    Item,
}

/// One call of a stream.
struct PendingCall {
    /// The member that contains the call.
    form: CallForm,
    /// The name of the tool, joined from its parts.
    name: String,
    /// The arguments as JSON, from all parts so far.
    json: String,
    /// The arguments as text without a defined form, from all parts so far.
    text: String,
    /// The arguments as a complete value, if the start of the call had one.
    whole: Option<Vec<u8>>,
    /// Whether it is held.
    state: CallState,
}

/// The state of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CallState {
    /// Held back until it is complete.
    Held,
    /// A call of a tool that is not checked.
    Passing,
    /// Complete and checked.
    Done,
}

/// The part of a call in one event.
#[derive(Default)]
pub(in crate::model) struct CallPart<'p> {
    /// A part of the tool's name.
    name: Option<&'p str>,
    /// A part of JSON arguments.
    json: &'p str,
    /// A part of text arguments.
    text: &'p str,
    /// The complete arguments as a value.
    whole: Option<&'p [u8]>,
}

impl<'p> CallPart<'p> {
    /// The part in an object with `name`, `arguments` and `input`.
    pub(in crate::model) fn of(object: JsonView<'p>) -> Result<Self, ToolCallFault> {
        let name = typed::text(object, "name")?;
        let (json, whole_json) = text_or_whole(object.get("arguments"));
        let (text, whole_text) = text_or_whole(object.get("input"));
        let whole = match (whole_json, whole_text) {
            // Clients differ in which of the two values they use.
            (Some(_), Some(_)) => return Err(ToolCallFault::Odd),
            (whole, None) | (None, whole) => whole,
        };
        Ok(Self { name, json, text, whole })
    }

    /// A part of JSON arguments.
    pub(in crate::model) fn json(json: &'p str) -> Self {
        Self { json, ..Self::default() }
    }

    /// A part of text arguments.
    pub(in crate::model) fn text(text: &'p str) -> Self {
        Self { text, ..Self::default() }
    }

    /// Whether the part has no arguments.
    const fn says_nothing(&self) -> bool {
        self.json.is_empty() && self.text.is_empty() && self.whole.is_none()
    }
}

/// A member as a part of text, or as a complete value.
fn text_or_whole(member: Option<JsonView<'_>>) -> (&str, Option<&[u8]>) {
    let Some(member) = member else { return ("", None) };
    match member.as_str() {
        Some(text) => (text, None),
        None if member.is_null() => ("", None),
        None => ("", Some(member.raw())),
    }
}

impl PendingCall {
    /// A new call without parts.
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

    /// Adds a part. Returns an error if clients could join the parts in different ways.
    fn add(&mut self, part: &CallPart<'_>, tools: &dyn Tools) -> Result<(), ToolCallFault> {
        if let Some(name) = part.name.filter(|name| !name.is_empty()) {
            let first = self.name.is_empty();
            // Some clients join the parts of a name. Others take the first or the last part.
            self.name.push_str(name);
            if self.name.len() > NAME_MAX {
                return Err(ToolCallFault::TooMuch);
            }
            // Both readings of the name are checked.
            let judged = tools.judges(&self.name) || tools.judges(name);
            match self.state {
                CallState::Held if first && !judged => self.state = CallState::Passing,
                // The first part of the name was already sent. A later part must not turn it into a
                // checked tool.
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
                    // Of two values, some clients take the last, and some join them.
                    if self.whole.replace(whole.to_vec()).is_some() {
                        return Err(ToolCallFault::Odd);
                    }
                }
            }
            CallState::Done | CallState::Passing => {}
        }
        Ok(())
    }

    /// Checks the complete call. Returns false if it must not be forwarded.
    fn end(&mut self, tools: &mut dyn Tools) -> bool {
        self.state = CallState::Done;
        // Clients differ in which form of arguments they use. So every form is checked.
        let (whole, json, text) =
            (self.whole.take(), std::mem::take(&mut self.json), std::mem::take(&mut self.text));
        if let Some(whole) = whole
            && !tools.call(&self.name, Arguments::Json(&whole))
        {
            return false;
        }
        (json.is_empty() || tools.call(&self.name, Arguments::Json(json.as_bytes())))
            && (text.is_empty() || tools.call(&self.name, Arguments::Text(&text)))
    }
}

/// The calls of one stream so far.
#[derive(Default)]
pub(in crate::model) struct StreamCalls {
    /// The calls, by identity.
    calls: BTreeMap<CallId, PendingCall>,
    /// The number of calls that are held back.
    held: usize,
}

impl StreamCalls {
    /// Whether a call is held back. Then all later events are held too.
    pub(super) const fn is_holding(&self) -> bool {
        self.held > 0
    }

    /// The number of indexed calls of a choice that have started.
    pub(in crate::model) fn count_of(&self, choice: u64) -> u64 {
        let first = CallId { choice, former: false, number: 0 };
        let behind = CallId { choice, former: true, number: 0 };
        self.calls.range(first..behind).count() as u64
    }

    /// Adds a part to a call.
    ///
    /// # Errors
    /// When clients could join the parts in different ways, or there are too many parts to keep.
    pub(in crate::model) fn piece(
        &mut self,
        of: CallId,
        form: CallForm,
        part: &CallPart<'_>,
        tools: &dyn Tools,
    ) -> Result<(), ToolCallFault> {
        // A block without a name and arguments is no call.
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
        // Clients could read a call in two forms as two different calls.
        if call.form != form {
            return Err(ToolCallFault::Odd);
        }
        call.add(part, tools)?;
        let after = call.state == CallState::Held;
        self.held = self.held + usize::from(after && !before) - usize::from(before && !after);
        Ok(())
    }

    /// Checks the given calls, which are complete. Returns false where the answer must end.
    pub(in crate::model) fn end(
        &mut self,
        which: impl Fn(&CallId) -> bool,
        tools: &mut dyn Tools,
    ) -> bool {
        // Most events end no held call.
        if self.held == 0 {
            return true;
        }
        for (of, call) in &mut self.calls {
            if !which(of) || call.state != CallState::Held {
                continue;
            }
            self.held -= 1;
            if !call.end(tools) {
                return false;
            }
        }
        true
    }
}
