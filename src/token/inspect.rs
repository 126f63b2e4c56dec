//! What a token says, without trusting it: for people who hold one and wonder.

use crate::clock::Timestamp;
use crate::json::{self, Value};
use crate::refusal::Refusal;
use crate::token::Presented;

/// A line for each thing that the token says: a name and a value.
///
/// # Errors
/// When the text is not shaped like a token.
pub fn lines(text: &str) -> Result<Vec<(String, String)>, Refusal> {
    let presented = Presented::read(text)?;
    let mut lines = vec![
        ("id".to_owned(), presented.id().to_string()),
        ("alg".to_owned(), presented.algorithm.clone()),
        ("kid".to_owned(), presented.kid.clone()),
    ];
    let payload = json::parse(&presented.payload, &json::Limits { depth: 16 });
    let Ok(payload) = payload else {
        lines.push(("payload".to_owned(), "is not strict JSON".to_owned()));
        return Ok(lines);
    };
    for (name, value) in payload.as_object().into_iter().flat_map(json::Object::iter) {
        let shown = match (name, value.as_u64()) {
            ("iat" | "exp" | "nbf", Some(seconds)) => {
                let at = Timestamp(i64::try_from(seconds).unwrap_or(i64::MAX / 1000).saturating_mul(1000));
                format!("{at}")
            }
            _ => shown(value),
        };
        lines.push((name.to_owned(), shown));
    }
    Ok(lines)
}

fn shown(value: &Value<'_>) -> String {
    match value {
        Value::String(text) => text.to_string(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            let mut bytes = Vec::new();
            json::write(value, &mut bytes);
            String::from_utf8(bytes).unwrap_or_default()
        }
    }
}
