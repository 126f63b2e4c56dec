//! The envelope of a record: its canonical form, and the parts that are never encrypted.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::audit::format::fault::RecordFault;
use crate::audit::format::key::{KeyLookup, Opener, RecordKeyId};
use crate::clock::Timestamp;
use crate::crypto::encryption;
use crate::json;

/// The maximum length of a record, in bytes: the length of an entry has two bytes (C2SP
/// tlog-tiles).
pub const RECORD_BYTES_MAX: usize = 65_535;

/// The parts of a record that are never encrypted, and the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope<'r> {
    /// The time as its text: RFC 3339 with milliseconds. The texts sort by time.
    pub at: &'r str,
    /// The kind.
    pub kind: &'r str,
    /// The payload.
    pub payload: Payload<'r>,
}

/// The payload of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload<'r> {
    /// A plain object, in canonical form.
    Plain(&'r str),
    /// A ciphertext.
    Encrypted {
        /// The id of the record key.
        key: RecordKeyId,
        /// The ciphertext in base64url.
        text: &'r str,
    },
}

/// The minimum length of a ciphertext's text: salt, tag and the two bytes of an empty object, in
/// base64url.
const CIPHERTEXT_TEXT_MIN: usize = 46;

/// The kinds of records that are never encrypted. A verifier without keys must read them, to follow
/// the log from epoch to epoch.
pub(in crate::audit) const ALWAYS_PLAIN: [&str; 2] = ["epoch", "pruned"];

/// The record's bytes from its parts. `payload` is an object, or the members of a ciphertext with a
/// comma before them.
pub(super) fn outer(at: &str, kind: &str, payload: &str) -> String {
    // The members are in canonical order: at, ciphertext, key, kind, payload, v. These texts need
    // no escapes.
    let (encrypted, plain) = if payload.starts_with('{') { ("", payload) } else { (payload, "") };
    let plain = if plain.is_empty() { String::new() } else { format!(",\"payload\":{plain}") };
    format!("{{\"at\":\"{at}\"{encrypted},\"kind\":\"{kind}\"{plain},\"v\":1}}")
}

/// The additional authenticated data of a ciphertext: the record without the ciphertext. It binds
/// the ciphertext to its time, key and kind.
pub(super) fn aad(at: &str, key: &RecordKeyId, kind: &str) -> String {
    outer(at, kind, &format!(",\"key\":\"{key}\""))
}

/// The fault of a record with another version: `Newer` only where the version is a canonical
/// number.
fn newer(rest: &str) -> RecordFault {
    let Some(body) = rest.strip_suffix('}') else { return RecordFault::Form };
    let Some((_, version)) = body.rsplit_once(",\"v\":") else { return RecordFault::Form };
    let plain = version.bytes().all(|byte| byte.is_ascii_digit()) && !version.starts_with('0');
    match version.parse() {
        Ok(version) if plain => RecordFault::Newer(version),
        _ => RecordFault::Form,
    }
}

/// The part of `text` after `prefix`. Another start is a fault of the form.
fn after<'r>(text: &'r str, prefix: &str) -> Result<&'r str, RecordFault> {
    text.strip_prefix(prefix).ok_or(RecordFault::Form)
}

/// The part of `text` up to the next quote, and the part after that quote.
fn until_quote(text: &str) -> Result<(&str, &str), RecordFault> {
    text.split_once('"').ok_or(RecordFault::Form)
}

impl<'r> Envelope<'r> {
    /// Decodes the envelope. The record must be in its canonical form.
    ///
    /// # Errors
    /// When it is not.
    pub fn read(bytes: &'r [u8]) -> Result<Self, RecordFault> {
        // The length is checked first, so that a large input costs no work.
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(RecordFault::TooLong {
                member: "the record",
                bytes: bytes.len(),
                most: RECORD_BYTES_MAX,
            });
        }
        let text = std::str::from_utf8(bytes).map_err(|_| RecordFault::Form)?;
        let (at, rest) = until_quote(after(text, "{\"at\":\"")?)?;
        if !is_moment(at) {
            return Err(RecordFault::Member("at"));
        }
        let Some(rest) = rest.strip_suffix(",\"v\":1}") else { return Err(newer(rest)) };
        if let Some(rest) = rest.strip_prefix(",\"ciphertext\":\"") {
            let (text, rest) = until_quote(rest)?;
            let (key, rest) = until_quote(after(rest, ",\"key\":\"")?)?;
            let key: RecordKeyId = key.parse().map_err(|_| RecordFault::Member("key"))?;
            let kind = kind(after(rest, ",\"kind\":")?)?;
            // A kind that is always plain must not be encrypted: it could hide a link between
            // epochs from a verifier.
            if ALWAYS_PLAIN.contains(&kind)
                || text.len() < CIPHERTEXT_TEXT_MIN
                || !is_base64url(text)
            {
                return Err(RecordFault::Member("ciphertext"));
            }
            return Ok(Self { at, kind, payload: Payload::Encrypted { key, text } });
        }
        let Some((word, plain)) = after(rest, ",\"kind\":")?.split_once(",\"payload\":") else {
            return Err(RecordFault::Member("payload"));
        };
        let kind = kind(word)?;
        canonical(plain)?;
        Ok(Self { at, kind, payload: Payload::Plain(plain) })
    }

    /// Whether the record does not change the state: requests, and counts of refusals.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self.kind,
            "admission" | "outcome" | "refusal" | "refusals" | "unauthenticated-refusals"
        )
    }

    /// The time.
    ///
    /// # Errors
    /// When the date does not exist.
    pub fn moment(&self) -> Result<Timestamp, RecordFault> {
        self.at.parse().map_err(|_| RecordFault::Member("at"))
    }

    /// The id of the record key; `None` where the record is plain.
    #[must_use]
    pub const fn record_key(&self) -> Option<RecordKeyId> {
        match self.payload {
            Payload::Encrypted { key, .. } => Some(key),
            Payload::Plain(_) => None,
        }
    }

    /// The key's id, the ciphertext and its additional authenticated data; `None` where the record
    /// is plain.
    #[must_use]
    pub fn encrypted(&self) -> Option<(RecordKeyId, Vec<u8>, String)> {
        let Payload::Encrypted { key, text } = self.payload else { return None };
        Some((key, URL_SAFE_NO_PAD.decode(text).ok()?, aad(self.at, &key, self.kind)))
    }

    /// The payload object in canonical form; `None` where the key was destroyed.
    ///
    /// # Errors
    /// When the key is missing or wrong, or the payload is not in canonical form.
    pub fn open(&self, opener: &dyn Opener) -> Result<Option<String>, RecordFault> {
        let Some((id, bytes, aad)) = self.encrypted() else {
            let Payload::Plain(plain) = self.payload else {
                return Err(RecordFault::Member("ciphertext"));
            };
            return Ok(Some(plain.to_owned()));
        };
        let plain = match opener.held(&id) {
            KeyLookup::Destroyed => return Ok(None),
            // A disclosed record has its own key instead of the record key.
            KeyLookup::Missing => {
                let own = encryption::salt_of(&bytes).and_then(|salt| opener.own(&id, &salt));
                encryption::decrypt_with(
                    own.ok_or(RecordFault::KeyMissing(id))?,
                    aad.as_bytes(),
                    &bytes,
                )
            }
            KeyLookup::Key(key) => encryption::decrypt(key, aad.as_bytes(), &bytes),
        };
        let plain = String::from_utf8(plain.map_err(|_| RecordFault::Closed)?)
            .map_err(|_| RecordFault::Form)?;
        canonical(&plain)?;
        Ok(Some(plain))
    }
}

/// Decodes `"kind"` in quotes: 1 to 64 lower case letters and hyphens.
fn kind(quoted: &str) -> Result<&str, RecordFault> {
    if let Some(rest) = quoted.strip_prefix('"')
        && let Some(word) = rest.strip_suffix('"')
        && (1..=64).contains(&word.len())
        && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
    {
        return Ok(word);
    }
    Err(RecordFault::Member("kind"))
}

/// The number in some digits of a text. The caller has checked that these bytes are digits.
fn digits(text: &[u8], from: usize, to: usize) -> u32 {
    let mut number = 0_u32;
    for digit in text.get(from..to).unwrap_or_default() {
        number = number * 10 + u32::from(digit - b'0');
    }
    number
}

/// Whether the text has the form `2026-11-21T08:15:30.000Z`, with a date and time that exist.
fn is_moment(text: &str) -> bool {
    let shape = b"dddd-dd-ddTdd:dd:dd.dddZ";
    let shaped = text.len() == shape.len()
        && text
            .bytes()
            .zip(shape)
            .all(|(byte, like)| if *like == b'd' { byte.is_ascii_digit() } else { byte == *like });
    if !shaped {
        return false;
    }
    let text = text.as_bytes();
    if digits(text, 11, 13) >= 24 || digits(text, 14, 16) >= 60 || digits(text, 17, 19) >= 60 {
        return false;
    }
    let year = digits(text, 0, 4);
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match digits(text, 5, 7) {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + u32::from(leap),
        _ => 0,
    };
    (1..=days).contains(&digits(text, 8, 10))
}

/// Whether the text is base64url, without stray bits in its last character.
fn is_base64url(text: &str) -> bool {
    // The loop has no early exit, so that the compiler can check many bytes at once.
    let mut good = true;
    for byte in text.bytes() {
        good &= byte.is_ascii_alphanumeric() | (byte == b'-') | (byte == b'_');
    }
    let last = text.len() - text.len() % 4;
    let Some(tail) = text.get(last..) else { return false };
    good && URL_SAFE_NO_PAD.decode(tail).is_ok()
}

/// Checks that `text` is an object in canonical form (RFC 8785): sorted members, integers below
/// 2^53, and no unneeded escapes.
fn canonical(text: &str) -> Result<(), RecordFault> {
    /// Whether all objects are sorted, and all numbers are integers below 2^53.
    fn sorted(value: &json::Value<'_>) -> bool {
        match value {
            json::Value::Null | json::Value::Bool(_) | json::Value::String(_) => true,
            json::Value::Number(_) => matches!(value.as_u64(), Some(number) if number < 1 << 53),
            json::Value::Array(items) => items.iter().all(sorted),
            json::Value::Object(object) => {
                let mut before = "";
                for (name, value) in object.iter() {
                    if name < before || !name.is_ascii() || !sorted(value) {
                        return false;
                    }
                    before = name;
                }
                true
            }
        }
    }
    let document =
        json::parse(text.as_bytes(), &json::Limits::deep(4)).map_err(RecordFault::Json)?;
    if document.as_object().is_none() || !sorted(&document) {
        return Err(RecordFault::Form);
    }
    let mut again = Vec::with_capacity(text.len());
    // The document is written again and compared, which checks all other rules of the form.
    json::write(&document, &mut again);
    if again == text.as_bytes() { Ok(()) } else { Err(RecordFault::Form) }
}
