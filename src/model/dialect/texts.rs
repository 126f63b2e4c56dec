//! The members of answers that hold texts, in all dialects. Servers mix dialects, and clients of
//! one dialect may read members of another.

use super::{anthropic, ollama, openai, responses};

/// Whether a member holds no text for the user, or is a label.
pub(in crate::model) fn is_no_text(name: &str, value: &[u8]) -> bool {
    if openai::texts::NO_TEXTS.contains(&name) || anthropic::texts::NO_TEXTS.contains(&name) {
        return true;
    }
    let is_label = openai::texts::LABELS.contains(&name)
        || anthropic::texts::LABELS.contains(&name)
        || ollama::texts::LABELS.contains(&name)
        || responses::texts::LABELS.contains(&name);
    // An object or array under a label's name may hold texts, so it is still searched.
    is_label && !matches!(value.first(), Some(b'{' | b'['))
}

/// Whether clients join the member or show it.
pub(in crate::model) fn is_shown(name: &str) -> bool {
    openai::texts::SHOWN.contains(&name)
        || anthropic::texts::SHOWN.contains(&name)
        || ollama::texts::SHOWN.contains(&name)
        || responses::texts::SHOWN.contains(&name)
}

/// Whether a member must not occur twice.
pub(in crate::model) fn is_once(name: &str) -> bool {
    openai::texts::ONCE.contains(&name)
        || anthropic::texts::ONCE.contains(&name)
        || ollama::texts::ONCE.contains(&name)
        || responses::texts::ONCE.contains(&name)
}

/// Whether every string in a member is a text, because the member reports an error.
pub(in crate::model) fn is_error(name: &str) -> bool {
    openai::texts::ERRORS.contains(&name)
}

/// Whether this member of the outermost object marks the whole answer as an error.
pub(in crate::model) fn is_error_object(name: &[u8], value: &[u8]) -> bool {
    (name, value) == openai::texts::ERROR_OBJECT
}

/// Whether the items of an array are choices.
pub(in crate::model) fn are_choices(name: &str) -> bool {
    name == openai::texts::CHOICES
}

/// Whether a part of that type is a part of a text.
pub(in crate::model) fn is_part(kind: &str) -> bool {
    openai::texts::PARTS.contains(&kind)
        || anthropic::texts::PARTS.contains(&kind)
        || responses::texts::PARTS.contains(&kind)
}

pub(in crate::model) use super::anthropic::texts::{addition, base_type, path_name};
pub(in crate::model) use super::ollama::texts::ends_answer;
pub use super::responses::texts::is_repeated;
pub(in crate::model) use super::responses::texts::{begins, is_apart, is_delta, is_event};

/// Whether an event of that type ends all texts.
pub(in crate::model) fn ends_texts(kind: &str) -> bool {
    anthropic::texts::ends_texts(kind) || is_event(kind) && !is_delta(kind)
}
