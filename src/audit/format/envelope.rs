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
    let version = rest
        .strip_suffix('}')
        .and_then(|rest| rest.rsplit_once(",\"v\":"))
        .map_or("", |(_, version)| version);
    let plain = version.bytes().all(|byte| byte.is_ascii_digit()) && !version.starts_with('0');
    version.parse().ok().filter(|_| plain).map_or(RecordFault::Form, RecordFault::Newer)
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
        let rest = text.strip_prefix("{\"at\":\"").ok_or(RecordFault::Form)?;
        let (at, rest) = rest.split_once('"').ok_or(RecordFault::Form)?;
        if !is_moment(at) {
            return Err(RecordFault::Member("at"));
        }
        let rest = rest.strip_suffix(",\"v\":1}").ok_or_else(|| newer(rest))?;
        if let Some(rest) = rest.strip_prefix(",\"ciphertext\":\"") {
            let (text, rest) = rest.split_once('"').ok_or(RecordFault::Form)?;
            let rest = rest.strip_prefix(",\"key\":\"").ok_or(RecordFault::Form)?;
            let (key, rest) = rest.split_once('"').ok_or(RecordFault::Form)?;
            let key: RecordKeyId = key.parse().map_err(|_| RecordFault::Member("key"))?;
            let kind = kind(rest.strip_prefix(",\"kind\":").ok_or(RecordFault::Form)?)?;
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
        let rest = rest.strip_prefix(",\"kind\":").ok_or(RecordFault::Form)?;
        let (word, plain) =
            rest.split_once(",\"payload\":").ok_or(RecordFault::Member("payload"))?;
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
    let word = quoted
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .ok_or(RecordFault::Member("kind"))?;
    let good = !word.is_empty()
        && word.len() <= 64
        && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    if good { Ok(word) } else { Err(RecordFault::Member("kind")) }
}

/// Whether the text has the form `2026-11-21T08:15:30.000Z`, with a date and time that exist.
fn is_moment(text: &str) -> bool {
    let shape = b"dddd-dd-ddTdd:dd:dd.dddZ";
    let shaped = text.len() == shape.len()
        && text
            .bytes()
            .zip(shape)
            .all(|(byte, like)| if *like == b'd' { byte.is_ascii_digit() } else { byte == *like });
    let number = |from: usize, to: usize| {
        text.as_bytes()
            .get(from..to)
            .unwrap_or_default()
            .iter()
            .fold(0_u32, |sum, digit| sum * 10 + u32::from(digit - b'0'))
    };
    shaped && number(11, 13) < 24 && number(14, 16) < 60 && number(17, 19) < 60 && {
        let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
        let leap =
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let days = match month {
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            4 | 6 | 9 | 11 => 30,
            2 => 28 + u32::from(leap),
            _ => 0,
        };
        (1..=days).contains(&day)
    }
}

/// Whether the text is base64url, without stray bits in its last character.
fn is_base64url(text: &str) -> bool {
    // The loop has no early exit, so that the compiler can check many bytes at once.
    let alphabet = text.bytes().fold(true, |good, byte| {
        good & (byte.is_ascii_alphanumeric() | (byte == b'-') | (byte == b'_'))
    });
    let last = text.len() - text.len() % 4;
    alphabet && text.get(last..).is_some_and(|tail| URL_SAFE_NO_PAD.decode(tail).is_ok())
}

/// Checks that `text` is an object in canonical form (RFC 8785): sorted members, integers below
/// 2^53, and no unneeded escapes.
fn canonical(text: &str) -> Result<(), RecordFault> {
    /// Whether all objects are sorted, and all numbers are integers below 2^53.
    fn sorted(value: &json::Value<'_>) -> bool {
        match value {
            json::Value::Null | json::Value::Bool(_) | json::Value::String(_) => true,
            json::Value::Number(_) => value.as_u64().is_some_and(|number| number < 1 << 53),
            json::Value::Array(items) => items.iter().all(sorted),
            json::Value::Object(object) => {
                let names: Vec<&str> = object.iter().map(|(name, _)| name).collect();
                names.is_sorted()
                    && names.iter().all(|name| name.is_ascii())
                    && object.iter().all(|(_, value)| sorted(value))
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
