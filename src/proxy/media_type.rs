//! Media types in headers.

/// The text before the first `mark`; all of it if `mark` is not in it.
pub(super) fn before<'t>(text: &'t str, mark: &str) -> &'t str {
    match text.split_once(mark) {
        Some((front, _)) => front,
        None => text,
    }
}

/// The type and subtype of a media type, in lower case and without parameters.
pub(super) fn essence(text: &str) -> String {
    before(text, ";").trim().to_ascii_lowercase()
}
