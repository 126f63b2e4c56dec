//! The cap on output tokens in a body: the caller's, and the one that is written.

use crate::json::{Object, Value};
use crate::refusal::{Code, Refusal};

use super::Operation;
use super::dialect::NestedCap;
use super::gateway_fields::GatewayFields;

/// The cap on output tokens that the caller requests, under any of its names. A negative value is
/// the same as no cap. Operations without output tokens have none.
///
/// # Errors
/// `field-invalid` for two caps, and for a cap of zero.
pub(super) fn asked(
    operation: Operation,
    gateway: &GatewayFields,
    object: &Object<'_>,
) -> Result<Option<u64>, Refusal> {
    if !operation.writes_tokens() {
        return Ok(None);
    }
    if let Some(nested) = operation.dialect().nested_cap() {
        let Some(cap) = object.object(nested.object).and_then(|inner| inner.get(nested.name))
        else {
            return Ok(None);
        };
        return of(cap, &format!("{}.{}", nested.object, nested.name));
    }
    let mut found: Option<(&str, Option<u64>)> = None;
    for name in gateway.cap_names(operation) {
        match object.get(name) {
            None | Some(Value::Null) => {}
            Some(value) => {
                // Servers choose differently between two caps. The gateway could not know which one
                // holds.
                if let Some((other, _)) = found {
                    let says = format!(
                        "The fields {other} and {name} are both present; send one of them."
                    );
                    return Err(Refusal::new(Code::FieldInvalid).saying(says).at(name));
                }
                found = Some((name, of(value, name)?));
            }
        }
    }
    Ok(found.and_then(|(_, asked)| asked))
}

/// The cap in the field `name`; `None` for a negative value and for null.
fn of(value: &Value<'_>, name: &str) -> Result<Option<u64>, Refusal> {
    if value.as_u64() == Some(0) {
        let says = format!("The field {name} must not be 0: some servers read that as no limit.");
        return Err(Refusal::new(Code::FieldInvalid).saying(says).at(name));
    }
    Ok(value.as_u64())
}

impl NestedCap {
    /// The object of the body with this cap. `own` is the caller's object, or null.
    pub(super) fn with<'v>(self, own: &Value<'v>, cap: u64) -> Value<'v> {
        let mut inner = if let Value::Object(own) = own { own.clone() } else { Object::new() };
        inner.set(self.name, Value::from_u64(cap));
        Value::Object(inner)
    }
}
