//! Redacts the gateway's own secrets in the answers of upstreams, and the upstreams' addresses in
//! errors.
//!
//! A server may repeat the credential that the gateway sent to it. Examples are an error, a log
//! line that a model repeats, and a debug field. A secret is found in plain form, percent-encoded,
//! and with JSON escapes (also in JSON inside a text). It is also found in base64 at each of its
//! three alignments. It is found in whole strings, in parts of streams, and in numbers and words
//! without quotes. Addresses are searched only in errors, because an ordinary text may contain
//! `10.0.0.5:8000`.

mod document;
mod forms;
mod matcher;
mod stream;

use std::ops::Range;

use matcher::{Matcher, Track};

pub use forms::UpstreamAddress;
pub use stream::{Redacted, Unsearchable};

use document::Document;

use super::ranges::part;

/// The minimum length of a secret in bytes. Shorter secrets would occur in ordinary text by chance.
pub const SECRET_MIN: usize = 16;
/// The replacement of a secret.
const SECRET_MARK: &[u8] = b"[credential]";
/// The replacement of an upstream's address.
const PLACE_MARK: &[u8] = b"[upstream]";
/// The replacement of a number or word that contains a secret. It is a string, so that the document
/// stays JSON.
const BARE_SECRET_MARK: &[u8] = b"\"[credential]\"";
/// The replacement of a number or word that contains an address.
const BARE_PLACE_MARK: &[u8] = b"\"[upstream]\"";

/// The secrets and addresses that are removed from answers.
#[derive(Debug)]
pub struct Redactor {
    /// The secrets, in all forms.
    secrets: Matcher,
    /// The addresses of upstreams, in all forms.
    places: Matcher,
}

/// A range of bytes that is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Edit {
    /// The offset of the first byte.
    from: usize,
    /// The offset after the last byte.
    to: usize,
    /// The bytes that replace the range.
    mark: &'static [u8],
}

impl Redactor {
    /// A redactor for `secrets` and for the addresses in `places`. Secrets of fewer than
    /// [`SECRET_MIN`] bytes are ignored.
    #[must_use]
    pub fn new(secrets: &[&str], places: &[UpstreamAddress]) -> Self {
        let mut forms: Vec<Vec<u8>> = Vec::new();
        for secret in secrets {
            if secret.len() >= SECRET_MIN {
                forms.extend(forms::of_secret(secret.as_bytes()));
            }
        }
        let mut written: Vec<Vec<u8>> = Vec::new();
        for place in places {
            written.extend(place.forms());
        }
        Self {
            secrets: Matcher::new(forms.iter().map(Vec::as_slice)),
            places: Matcher::new(written.iter().map(Vec::as_slice)),
        }
    }

    /// Redacts the secrets in a text for the operator, such as a detail or a log line. `None` if it
    /// contains none.
    #[must_use]
    pub fn text(&self, text: &str) -> Option<String> {
        let mut edits = Vec::new();
        found(&self.secrets, text.as_bytes(), false, |from, to| {
            edits.push(Edit { from, to, mark: SECRET_MARK })
        });
        if edits.is_empty() {
            return None;
        }
        Some(String::from_utf8_lossy(&edited(text.as_bytes(), edits)).into_owned())
    }

    /// Whether bytes that are no JSON have a secret.
    #[must_use]
    pub fn has_secret(&self, bytes: &[u8]) -> bool {
        let mut has = false;
        found(&self.secrets, bytes, false, |_, _| has = true);
        has
    }

    /// Redacts the secrets in a whole answer and, if it is an error, the addresses. `None` if the
    /// answer is unchanged. `error` is true if its status is that of an error.
    #[must_use]
    pub fn whole(&self, answer: &[u8], error: bool) -> Option<Vec<u8>> {
        let mut texts = stream::Texts::default();
        let mut edits = Vec::new();
        for (_, edit) in texts.read(self, answer, error, 0) {
            edits.push(edit);
        }
        // A text may end with the beginning of a secret, for example in an answer that was cut.
        texts.end(self, &mut |_, edit| edits.push(edit));
        (!edits.is_empty()).then(|| redacted(answer, edits))
    }

    /// Redacts whole numbers and words outside of strings that contain a secret. A word without
    /// quotes is no JSON, but lenient parsers accept it. A secret of digits is a number.
    fn bare_secrets(&self, document: &Document<'_>, edits: &mut Vec<Edit>) {
        document.between(SECRET_MIN, |range| {
            let base = range.start;
            let bare = part(document.json, range);
            found(&self.secrets, bare, false, |from, to| {
                edits.push(bare_edit(bare, from..to, base, BARE_SECRET_MARK));
            });
        });
    }

    /// Redacts the addresses in an error, in strings and outside of them.
    fn places(&self, document: &Document<'_>, edits: &mut Vec<Edit>) {
        for text in &document.texts {
            let inside = part(document.json, text.from..text.to);
            found(&self.places, inside, true, |from, to| {
                if forms::stands_alone(inside, from, to) {
                    edits.push(Edit {
                        from: text.from + from,
                        to: text.from + to,
                        mark: PLACE_MARK,
                    });
                }
            });
        }
        document.between(1, |range| {
            let base = range.start;
            let bare = part(document.json, range);
            found(&self.places, bare, false, |from, to| {
                if forms::stands_alone(bare, from, to) {
                    edits.push(bare_edit(bare, from..to, base, BARE_PLACE_MARK));
                }
            });
        });
    }
}

/// The edit that replaces the words of `bare` that overlap `place`. `bare` begins at offset `base`.
fn bare_edit(bare: &[u8], place: Range<usize>, base: usize, mark: &'static [u8]) -> Edit {
    let from = match part(bare, ..place.start).iter().rposition(separates) {
        Some(at) => at + 1,
        None => 0,
    };
    let after = part(bare, place.end..);
    let to = place.end + after.iter().position(separates).unwrap_or(after.len());
    Edit { from: base + from, to: base + to, mark }
}

/// Whether a byte separates two numbers or words of a document.
fn separates(byte: &u8) -> bool {
    byte.is_ascii_whitespace() || b",:{}[]".contains(byte)
}

/// Finds the words in one whole text.
fn found(matcher: &Matcher, text: &[u8], json: bool, mut each: impl FnMut(usize, usize)) {
    let mut track = Track::default();
    // Offsets in a text in memory fit into `usize`.
    track.push(matcher, text, json, &mut |place| each(place.start as usize, place.end as usize));
}

/// A document with edits. The values of `logprobs` become `null`, because they repeat the text in
/// tokens.
fn redacted(json: &[u8], mut edits: Vec<Edit>) -> Vec<u8> {
    let tokens = Document::read(json).logprobs;
    for (from, to) in tokens {
        edits.push(Edit { from, to, mark: b"null" });
    }
    edited(json, edits)
}

/// The bytes with edits. Where edits overlap, the first one determines the replacement.
fn edited(bytes: &[u8], mut edits: Vec<Edit>) -> Vec<u8> {
    // Of two edits with the same start, the longer one comes first.
    edits.sort_by_key(|edit| (edit.from, usize::MAX - edit.to));
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    for edit in edits {
        if edit.from >= at {
            out.extend_from_slice(part(bytes, at..edit.from));
            out.extend_from_slice(edit.mark);
        }
        // An overlapping edit extends the removed range.
        at = at.max(edit.to);
    }
    out.extend_from_slice(part(bytes, at..));
    out
}

#[cfg(test)]
mod tests;
