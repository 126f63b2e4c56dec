//! A whole answer as the events of a stream.

use super::{Unlike, object};
use crate::model::Operation;

/// The events that say what `answer` says, the dialect's last event included. Usage is an event of its own.
///
/// # Errors
/// When it is no answer of that operation.
pub fn events(operation: Operation, answer: &[u8]) -> Result<Vec<Vec<u8>>, Unlike> {
    operation.dialect().events_of_whole(operation, object(answer)?)
}
