//! The ends of texts. Only this module releases the bytes that filters hold.

use super::channel::Channel;
use super::filter::TextFilter;

/// The texts that end.
#[derive(Clone, Copy, Debug)]
pub(super) enum TextEnd<'k> {
    /// One text, because no part of it follows.
    Text(Channel<'k>),
    /// All texts of a choice, because the choice ends.
    Choice(u64),
    /// All texts, because the stream ends or the next parts are separate texts.
    All,
}

/// Ends texts. Calls `take` for each of them with the held bytes.
pub(super) fn drain(
    filter: &mut dyn TextFilter,
    end: TextEnd<'_>,
    take: &mut dyn FnMut(Channel<'_>, String),
) {
    let choice = match end {
        TextEnd::Text(channel) => {
            // A filter has state for a text even if it holds no bytes of it. So it is always
            // flushed.
            let mut held = String::new();
            filter.flush(channel, &mut held);
            return take(channel, held);
        }
        TextEnd::Choice(choice) => Some(choice),
        TextEnd::All => None,
    };
    for id in filter.holding(choice) {
        let mut held = String::new();
        filter.flush(id.channel(), &mut held);
        take(id.channel(), held);
    }
}
