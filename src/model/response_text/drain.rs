//! The ends of texts. This is the only place that takes out what filters hold.

use super::channel::Channel;
use super::filter::TextFilter;

/// Which texts end.
#[derive(Clone, Copy, Debug)]
pub(super) enum TextEnd<'k> {
    /// One text, because no piece of it follows.
    Text(Channel<'k>),
    /// All texts of a choice, because the choice ends.
    Choice(u64),
    /// All texts, because the stream ends or the next pieces are texts of their own.
    All,
}

/// Ends texts. Calls `take` for each of them with what the filter held of it.
pub(super) fn drain(
    filter: &mut dyn TextFilter,
    end: TextEnd<'_>,
    take: &mut dyn FnMut(Channel<'_>, String),
) {
    let choice = match end {
        TextEnd::Text(channel) => {
            // A filter has state of a text even if it holds nothing of it.
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
