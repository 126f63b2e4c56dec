//! Conversion of a whole answer in Ollama's dialect to the lines of a stream: it is one line.

use crate::json::{self, Object, Value};
use crate::model::convert::Unlike;

/// The line with the content of `answer`. `chat` is false for `generate`.
///
/// Ollama itself answers so when a request only loads a model.
///
/// # Errors
/// When it is no complete answer of that operation.
pub(in crate::model::dialect) fn lines(
    chat: bool,
    answer: Object<'_>,
) -> Result<Vec<Vec<u8>>, Unlike> {
    let has_content =
        if chat { answer.object("message").is_some() } else { answer.text("response").is_some() };
    if !has_content {
        return Err(Unlike::Odd("it has no message and no response"));
    }
    if !answer.is_true("done") {
        return Err(Unlike::Cut);
    }
    let mut line = Vec::new();
    json::write(&Value::Object(answer), &mut line);
    line.push(b'\n');
    Ok(vec![line])
}
