//! The common form of keys that some parser reads as the same key.

/// Whether [`fold`] leaves a key unchanged, because it is in ASCII without capitals.
pub(super) fn is_folded(key: &str) -> bool {
    key.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase())
}

/// The common form of all spellings that some parser reads as the same key. It ignores case, the
/// characters that case folding maps to ASCII (long s, Kelvin sign), and full-width letters.
pub(super) fn fold(key: &str) -> String {
    let mut folded = String::with_capacity(key.len());
    for character in key.chars() {
        // Uppercase first: the long s has an ASCII uppercase form. Lowercase second: the Kelvin
        // sign has an ASCII lowercase form.
        for upper in narrow(character).to_uppercase() {
            folded.extend(upper.to_lowercase());
        }
    }
    folded
}

/// The ASCII character for a full-width one. Other characters stay.
fn narrow(character: char) -> char {
    match u32::from(character) {
        code @ 0xff01..=0xff5e => char::from_u32(code - 0xfee0).unwrap_or(character),
        _ => character,
    }
}
