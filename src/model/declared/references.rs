//! URLs in a body whose fields the gateway does not know.
//!
//! A string is a reference if a reader of URLs would take the whole of it for one. A URL inside of
//! a longer text is text: servers fetch values, not words of a prompt.

use crate::json::Value;
use crate::refusal::{Code, Refusal};

use super::super::fold::fold;
use super::super::path::Path;
use super::super::profile::Profile;
use super::super::signature;
use super::super::validator::schema;
use super::super::{ExternalReference, ReferenceKind};

/// The most references that are listed. The first one already decides.
const REFERENCES_MAX: usize = 64;
/// The most characters of a target that are kept.
const TARGET_MAX: usize = 1_024;
/// Schemes that some servers read without a slash after the colon.
const SCHEMES: [&str; 10] = ["http", "https", "ftp", "ftps", "file", "s3", "gs", "hf", "ws", "wss"];

/// The references in a body.
pub(super) struct References<'r> {
    /// The profile of the server: fields that no caller may send.
    pub(super) profile: &'r Profile,
    /// The members with prompts.
    pub(super) prompts: &'r [String],
    /// The members with JSON schemas.
    pub(super) schemas: &'r [String],
    /// The references so far.
    pub(super) found: Vec<ExternalReference>,
}

impl References<'_> {
    /// Reads a value and everything in it. `key` is the member that has it.
    ///
    /// # Errors
    /// `field-not-allowed` for a field that no caller may send; `field-invalid` for a `data:` URL
    /// whose content is text.
    pub(super) fn read(
        &mut self,
        key: &str,
        value: &Value<'_>,
        path: &Path<'_>,
    ) -> Result<(), Refusal> {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
            Value::String(text) => self.text(key, text, path),
            Value::Array(items) => {
                for (place, item) in items.iter().enumerate() {
                    self.read(key, item, &Path::Item(path, place))?;
                }
                Ok(())
            }
            Value::Object(object) => {
                for (key, value) in object.iter() {
                    self.member(key, value, &Path::Key(path, key))?;
                }
                Ok(())
            }
        }
    }

    /// Reads a member of an object.
    ///
    /// # Errors
    /// As [`Self::read`]; `field-invalid` for a reference that leads out of a schema.
    pub(super) fn member(
        &mut self,
        key: &str,
        value: &Value<'_>,
        path: &Path<'_>,
    ) -> Result<(), Refusal> {
        self.key(key, path)?;
        let is_schema = self.schemas.iter().any(|known| known == key);
        if is_schema && value.as_object().is_some() {
            // A schema names URLs that no server fetches, such as `$schema`. Only its references
            // are followed.
            return schema("", value, path);
        }
        self.read(key, value, path)
    }

    /// Checks the name of a field.
    ///
    /// # Errors
    /// `field-not-allowed`.
    pub(super) fn key(&self, key: &str, path: &Path<'_>) -> Result<(), Refusal> {
        // Some servers compare keys without regard to case.
        if self.profile.never(key) || self.profile.never(&fold(key)) {
            let says = format!("The field {path} is not allowed.");
            return Err(Refusal::new(Code::FieldNotAllowed).saying(says).at(path.to_string()));
        }
        Ok(())
    }

    /// Reads a string.
    ///
    /// # Errors
    /// `field-invalid` for a `data:` URL whose content is text.
    pub(super) fn text(&mut self, key: &str, text: &str, path: &Path<'_>) -> Result<(), Refusal> {
        if self.prompts.iter().any(|known| known == key) {
            return Ok(());
        }
        match reading(text) {
            Reading::Text => {}
            Reading::Inline(content) => {
                // A playlist or a document of markup makes a decoder fetch.
                if !signature::is_base64(content) || !signature::is_content(content) {
                    let says = format!(
                        "The field {path} must be data:TYPE;base64,… and begin as an image, a \
                            sound or a document."
                    );
                    return Err(Refusal::new(Code::FieldInvalid).saying(says).at(path.to_string()));
                }
            }
            // Only the number is bounded: the first one already refuses the request.
            Reading::Url if self.found.len() < REFERENCES_MAX => {
                self.found.push(ExternalReference {
                    path: path.to_string(),
                    kind: ReferenceKind::Media,
                    target: text.chars().take(TARGET_MAX).collect(),
                    steps: path.steps(),
                    slot: None,
                });
            }
            Reading::Url => {}
        }
        Ok(())
    }
}

/// How a reader of URLs takes a string.
enum Reading<'t> {
    /// As no URL.
    Text,
    /// As a `data:` URL (RFC 2397) with this content in base64, or any other text after the comma.
    Inline(&'t str),
    /// As a URL that leads to another place.
    Url,
}

/// Reads a string as lenient readers of URLs do.
fn reading(text: &str) -> Reading<'_> {
    // The URL Standard removes controls and spaces at both ends. Others remove more.
    let trimmed =
        text.trim_matches(|character: char| character.is_control() || character.is_whitespace());
    if begins_as_path(trimmed) {
        return Reading::Url;
    }
    let Some((front, rest)) = trimmed.split_once(':') else { return Reading::Text };
    // It also removes tabs and line feeds inside.
    let scheme: String =
        front.chars().filter(|character| !character.is_control()).collect::<String>();
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.chars().all(|other| other.is_ascii_alphanumeric() || "+-.".contains(other));
    if !is_scheme {
        return Reading::Text;
    }
    if scheme.eq_ignore_ascii_case("data") {
        let content = match rest.split_once(";base64,") {
            Some((_, content)) => content,
            None => rest,
        };
        return Reading::Inline(content);
    }
    let known = SCHEMES.iter().any(|known| scheme.eq_ignore_ascii_case(known));
    let rest = rest.trim_start_matches(|character: char| character.is_control());
    // `https: a title` is text, because no reader takes a space for a host.
    let leads = rest.starts_with(['/', '\\']) || !rest.contains(char::is_whitespace);
    if rest.starts_with(['/', '\\']) || known && leads && !rest.is_empty() {
        Reading::Url
    } else {
        Reading::Text
    }
}

/// Whether a text begins with two slashes of either kind, which continue the scheme of a base URL.
fn begins_as_path(text: &str) -> bool {
    let mut front = text.chars().filter(|character| !character.is_control());
    let slashes = ['/', '\\'];
    front.next().is_some_and(|first| slashes.contains(&first))
        && front.next().is_some_and(|second| slashes.contains(&second))
        && front.next().is_some_and(|third| !third.is_whitespace() && !slashes.contains(&third))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn is_url(text: &str, expect: bool) {
        assert_eq!(matches!(reading(text), Reading::Url), expect, "{text:?}");
    }

    #[test]
    fn what_a_reader_of_urls_would_follow_is_a_reference() {
        for url in [
            "https://x.example/a.png",
            "HTTP://x.example",
            " \u{1}https://x.example",
            "ht\ntps://x.example",
            "http:/x.example",
            "http:\\\\x.example",
            "https:x.example",
            "//x.example/a",
            "\\\\x.example\\share",
            "file:///etc/passwd",
            "s3://bucket/key",
            "gopher://x.example",
            "hf:org/model",
        ] {
            is_url(url, true);
        }
    }

    #[test]
    fn ordinary_texts_are_no_reference() {
        for text in [
            "",
            "json",
            "See https://x.example for more",
            "Note: this is a prompt",
            "https: the secure scheme",
            "10:30",
            "// a comment in a program",
            "/tmp/x",
            "en-US",
            "C:",
            "alloy",
            "1024x1024",
            "key:value",
        ] {
            is_url(text, false);
        }
    }
}
