//! Fields that a profile does not know: they are dropped or refused.

use std::collections::HashSet;
use std::sync::OnceLock;

use super::fold::fold;
use super::kind::Rule;
use super::path::{Path, shown};
use super::profile::{Profile, Shape};
use crate::json::Value;
use crate::refusal::{Code, Refusal};
use crate::suggest::nearest;

/// Whether a field that the shape does not have may be dropped. Only a field that decorates the
/// request may. Without a field that bounds, stops, shapes or protects the answer, the caller would
/// get another answer than it asked for.
pub(super) fn may_drop(profile: &Profile, shape: &Shape, key: &str) -> bool {
    // Some servers compare keys without regard to case. So a similar key is treated like the real
    // one.
    let folded = fold(key);
    let key = folded.as_str();
    shape.rule(key).is_none()
        && !profile.never(key)
        && !profile.is_binding(key)
        && !withheld().contains(key)
}

/// The fields that any built-in profile withholds from its server: those that would make it reach
/// out, or that only the gateway may set.
fn withheld() -> &'static HashSet<String> {
    static FIELDS: OnceLock<HashSet<String>> = OnceLock::new();
    FIELDS.get_or_init(|| {
        let mut fields = HashSet::new();
        for profile in Profile::NAMES.into_iter().filter_map(Profile::named) {
            for shape in &profile.shapes {
                for (name, rule) in &shape.fields {
                    match rule {
                        Rule::Reach(_) | Rule::Refuse | Rule::Set => {
                            fields.insert(name.clone());
                        }
                        Rule::Pass(_) | Rule::Drop => {}
                    }
                }
            }
        }
        fields
    })
}

/// The refusal of a field that the shape does not have.
pub(super) fn refusal(
    profile: &Profile,
    shape: &Shape,
    key: &str,
    value: &Value<'_>,
    path: &Path<'_>,
) -> Refusal {
    let refusal = Refusal::new(Code::FieldNotAllowed).at(path.to_string());
    let server = profile.name();
    if profile.never(key) {
        return refusal
            .saying(format!("The field {path} is not allowed: it is never taken from a caller."));
    }
    let folded = fold(key);
    if let Some((known, _)) = shape.fields.iter().find(|(known, _)| fold(known) == folded) {
        let says = format!(
            "The field {path} is not allowed: {} is not {known:?}; keys are compared exactly.",
            shown(key)
        );
        return refusal.saying(says);
    }
    let near = nearest(shape.fields.iter().map(|(known, _)| known.as_str()), key);
    let near = near.map_or_else(String::new, |near| format!("; did you mean {near:?}"));
    let rule = match value {
        Value::Null => "open",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "[open]",
        Value::Object(_) => "object",
    };
    let why = if may_drop(profile, shape, key) {
        "An agent's class with unknown_fields = \"drop\" drops it."
    } else {
        "It would change the answer or reach out, so it is not dropped."
    };
    refusal.saying(format!(
        "The field {path} is not one that the profile {server} passes{near}. {why} The line that \
            would let it pass, built into config/profiles/{server}.toml under [shape.{}]: {} = \
            \"{rule}\".",
        shape.name,
        shown(key),
    ))
}
