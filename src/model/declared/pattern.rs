//! The path of a declared route.

use super::super::profile_table::{ProfileFault, fault};

/// The segment that stands for the model's name.
const MODEL: &str = "{model}";

/// A path, of which one segment may be the model's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    /// The path as declared.
    text: String,
}

/// What a path says of a request, if it fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatchedPath<'p> {
    /// The model's name, if the pattern has a place for it.
    pub model: Option<&'p str>,
}

impl PathPattern {
    /// Reads a pattern: an absolute path of plain segments, at most one of them `{model}`.
    ///
    /// # Errors
    /// Why it is no such path. `key` is for the error.
    pub(super) fn read(text: &str, key: &str) -> Result<Self, ProfileFault> {
        let wrong = |what: &str| Err(fault(key, format!("{text:?} {what}")));
        let Some(rest) = text.strip_prefix('/') else { return wrong("must begin with /") };
        let mut models = 0;
        for segment in rest.split('/') {
            if segment == MODEL {
                models += 1;
                continue;
            }
            let is_plain = !segment.is_empty()
                && segment != "."
                && segment != ".."
                && segment.bytes().all(is_plain);
            // A caller's path has no escapes, so a pattern with one would never fit.
            if !is_plain {
                return wrong("must have segments of letters, digits, `-`, `_`, `.` and `:`");
            }
        }
        if models > 1 {
            return wrong("has {model} twice");
        }
        Ok(Self { text: text.to_owned() })
    }

    /// The path as declared.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the model's name is a part of the path.
    #[must_use]
    pub fn has_model(&self) -> bool {
        self.text.split('/').any(|segment| segment == MODEL)
    }

    /// Compares with a path, segment by segment.
    #[must_use]
    pub fn matches<'p>(&self, path: &'p str) -> Option<MatchedPath<'p>> {
        let (mut wanted, mut segments) = (self.text.split('/'), path.split('/'));
        let mut model = None;
        loop {
            match (wanted.next(), segments.next()) {
                (None, None) => return Some(MatchedPath { model }),
                (Some(MODEL), Some(name)) if !name.is_empty() => model = Some(name),
                (Some(literal), Some(segment)) if literal == segment => {}
                (Some(_) | None, Some(_) | None) => return None,
            }
        }
    }

    /// The path at a server, with the model's name there.
    #[must_use]
    pub(super) fn with(&self, model: &str) -> String {
        self.text.replace(MODEL, &escaped(model))
    }
}

/// Whether a byte is plain in a segment.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':')
}

/// A name as one segment of a path (RFC 3986 section 2.1). A slash in a name must not become one
/// of the path.
fn escaped(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        if is_plain(byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    // A server would resolve these two as dot segments.
    match text.as_str() {
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> PathPattern {
        PathPattern::read(text, "path").expect("a pattern")
    }

    #[test]
    fn a_path_fits_segment_by_segment() {
        let plain = pattern("/v1/audio/speech");
        assert_eq!(plain.matches("/v1/audio/speech"), Some(MatchedPath { model: None }));
        let infer = pattern("/v2/models/{model}/infer");
        assert_eq!(
            infer.matches("/v2/models/bert/infer"),
            Some(MatchedPath { model: Some("bert") })
        );
        for other in [
            "/v1/audio/speech/",
            "/v1/audio",
            "/v1/audio/Speech",
            "/v2/models//infer",
            "/v2/models/a/b/infer",
            "/v2/models/bert/infer/x",
        ] {
            assert!(plain.matches(other).is_none() && infer.matches(other).is_none(), "{other}");
        }
    }

    #[test]
    fn only_plain_paths_are_declared() {
        for wrong in
            ["", "v1", "/", "/a//b", "/a/../b", "/a%2f", "/a?b", "/{model}/{model}", "/{x}"]
        {
            assert!(PathPattern::read(wrong, "path").is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_name_stays_one_segment() {
        let infer = pattern("/v2/models/{model}/infer");
        assert_eq!(infer.with("org/bert v2"), "/v2/models/org%2Fbert%20v2/infer");
        assert_eq!(infer.with(".."), "/v2/models/%2E%2E/infer");
    }
}
