//! The interface of a filter for the texts of an answer.

use super::channel::{Channel, ChannelId};

/// A filter for the texts of one answer.
///
/// It gets each text in parts, and may hold a part back until it can decide. Only the module
/// `drain` calls [`flush`](Self::flush), at the ends of texts.
pub trait TextFilter: Send {
    /// Takes the next part of a text, and appends the output to `out`.
    fn push(&mut self, channel: Channel<'_>, text: &str, out: &mut String);

    /// Appends the held bytes of a text to `out`. No part follows, or the next part begins a new
    /// text.
    ///
    /// The path of `channel` has no effect: the text ends at all of its paths.
    fn flush(&mut self, channel: Channel<'_>, out: &mut String);

    /// Begins a part that clients may show separately or join with the parts before. All texts were
    /// flushed before.
    fn boundary(&mut self);

    /// The texts of a choice with held bytes. `None` means all choices.
    fn holding(&self, choice: Option<u64>) -> Vec<ChannelId>;

    /// Whether any text has held bytes.
    fn is_holding(&self) -> bool {
        !self.holding(None).is_empty()
    }

    /// The number of changes so far. A stream with changes has a comment that names it.
    fn changes(&self) -> u64 {
        0
    }

    /// Whether the filter passes every text unchanged. Then the caller may skip it.
    fn passes_all(&self) -> bool {
        false
    }
}

/// The filter that passes every text.
impl TextFilter for () {
    fn push(&mut self, _: Channel<'_>, text: &str, out: &mut String) {
        out.push_str(text);
    }

    fn flush(&mut self, _: Channel<'_>, _: &mut String) {}

    fn boundary(&mut self) {}

    fn holding(&self, _: Option<u64>) -> Vec<ChannelId> {
        Vec::new()
    }

    fn passes_all(&self) -> bool {
        true
    }
}
