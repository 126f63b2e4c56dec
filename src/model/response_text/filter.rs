//! What filters the texts of an answer.

use super::channel::{Channel, ChannelId};

/// A filter of the texts of one answer.
///
/// It gets each text in pieces, and may hold a piece back until it can decide. Only the module
/// `drain` calls [`flush`](Self::flush), at the ends of texts.
pub trait TextFilter: Send {
    /// Takes the next piece of a text, and appends to `out` what passes.
    fn push(&mut self, channel: Channel<'_>, text: &str, out: &mut String);

    /// Appends to `out` what is held of a text. No piece follows, or the next piece begins a text of
    /// its own.
    ///
    /// The path of `channel` does not count: the text ends at all of its paths.
    fn flush(&mut self, channel: Channel<'_>, out: &mut String);

    /// Ends what is open in all texts, such as fenced code: readers may show the next pieces
    /// separately. All texts were flushed before.
    fn boundary(&mut self);

    /// The texts of a choice of which something is held. `None` means all choices.
    fn holding(&self, choice: Option<u64>) -> Vec<ChannelId>;

    /// Whether something is held of any text.
    fn is_holding(&self) -> bool {
        !self.holding(None).is_empty()
    }

    /// Whether it passes every text unchanged, so that nobody needs to ask it.
    fn passes_all(&self) -> bool {
        false
    }
}

/// Passes every text.
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
