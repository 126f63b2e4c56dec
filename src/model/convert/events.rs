//! Conversion of a whole answer to the events of a stream.

use super::{Unlike, object};
use crate::model::Operation;

/// The events or lines with the content of `answer`, including the dialect's last one. Usage is a
/// separate event.
///
/// # Errors
/// When `answer` is no answer of that operation.
pub fn events(operation: Operation, answer: &[u8]) -> Result<Vec<Vec<u8>>, Unlike> {
    operation.dialect().events_of_whole(operation, object(answer)?)
}
