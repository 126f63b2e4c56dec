//! Checkpoints: signed notes (C2SP signed-note, tlog-checkpoint). Both an ML-DSA-65 and an Ed25519
//! signature are required.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use crate::audit::format::payload::text_of;
use crate::crypto::{
    Algorithm, EntropyFault, KeyFault, Portable, PublicKey, SigningKey, Verifier as _, hex, sha256,
};
use crate::json;
use crate::merkle::Hash;

/// The maximum length of a note, in bytes. It fits its slot in the head.
pub const NOTE_BYTES_MAX: usize = 8_000;

/// The content of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The origin of the log: `<gateway name>/<epoch>`.
    pub origin: String,
    /// The number of records.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

/// The reasons why bytes are not a checkpoint of this log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteFault {
    /// The bytes are not a note, or the text is not canonical.
    #[error("it is not a checkpoint in the form of C2SP tlog-checkpoint")]
    Form,
    /// The checkpoint is of another log.
    #[error("it is a checkpoint of {0:?}")]
    Origin(String),
    /// A required signature is missing.
    #[error("the {0} signature of this log's key is missing")]
    Missing(&'static str),
    /// A signature does not verify.
    #[error("the {0} signature does not verify")]
    Invalid(&'static str),
    /// A line is not a verifier key.
    #[error("line {line}: not a verifier key: {why}")]
    Key {
        /// The line, from 1.
        line: usize,
        /// The defect.
        why: String,
    },
    /// There are no keys for this log.
    #[error(
        "there are no verifier keys for {0:?}: give the log.vkeys of this gateway (--key FILE)"
    )]
    NoKeys(String),
    /// The file does not contain private keys of a log.
    #[error("not the signing keys of a log: {0}")]
    Private(&'static str),
    /// A public key is invalid.
    #[error(transparent)]
    Public(#[from] KeyFault),
}

/// Signature types of C2SP signed-note: 0xff with a name for a type without a number, and 0x01 for
/// Ed25519.
const ML_DSA: &[u8] = b"\xfftoken-shield ML-DSA-65";
/// The signature type of Ed25519.
const ED25519: &[u8] = b"\x01";

/// The signature type in a verifier key.
const fn identifier(algorithm: Algorithm) -> &'static [u8] {
    match algorithm {
        Algorithm::MlDsa65 => ML_DSA,
        Algorithm::Ed25519 => ED25519,
    }
}

/// The key id before a signature: the first 4 bytes of SHA-256(name ‖ 0x0A ‖ identifier ‖ public
/// key).
fn key_id(name: &str, key: &PublicKey) -> [u8; 4] {
    let about = [name.as_bytes(), b"\n", identifier(key.algorithm()), key.bytes()].concat();
    let [a, b, c, d, ..] = sha256(&about);
    [a, b, c, d]
}

impl Checkpoint {
    /// The signed text.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }

    /// Decodes the text. It must be canonical: the result must encode to the same text.
    fn read(text: &str) -> Result<Self, NoteFault> {
        match Self::lines(text) {
            Some(read) if read.text() == text => Ok(read),
            _ => Err(NoteFault::Form),
        }
    }

    /// Decodes the lines of the text; `None` where one is missing or malformed.
    fn lines(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        Some(Self {
            origin: lines.next()?.to_owned(),
            size: lines.next()?.parse().ok()?,
            root: STANDARD.decode(lines.next()?).ok()?.try_into().ok()?,
        })
    }
}

/// The public keys of one epoch.
#[derive(Clone, Debug)]
pub struct LogKeys {
    /// The log's origin, which is also the name of both keys.
    pub origin: String,
    keys: [PublicKey; 2],
}

impl LogKeys {
    /// The keys of the epoch with that origin.
    ///
    /// # Errors
    /// When there are none.
    pub fn of_origin<'k>(keys: &'k [Self], origin: &str) -> Result<&'k Self, NoteFault> {
        match keys.iter().find(|keys| keys.origin == origin) {
            Some(keys) => Ok(keys),
            None => Err(NoteFault::NoKeys(origin.to_owned())),
        }
    }

    /// The lines for `log.vkeys`.
    #[must_use]
    pub fn lines(&self) -> String {
        let mut lines = String::new();
        for key in &self.keys {
            lines.push_str(&self.line(key));
        }
        lines
    }

    /// The line of one of the keys: `NAME+ID+KEY`, with its line feed.
    fn line(&self, key: &PublicKey) -> String {
        let id = hex(&key_id(&self.origin, key));
        let encoded = STANDARD.encode([identifier(key.algorithm()), key.bytes()].concat());
        format!("{}+{id}+{encoded}\n", self.origin)
    }

    /// The fingerprint of both keys: SHA-256 in hex over their lines in `log.vkeys`. Each line has
    /// its line feed, and the ML-DSA-65 line is first.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex(&sha256(self.lines().as_bytes()))
    }

    /// Decodes a note and verifies both signatures. Further signature lines are ignored.
    ///
    /// # Errors
    /// When it is not a checkpoint of this log under these keys.
    pub fn open(&self, note: &str) -> Result<Checkpoint, NoteFault> {
        let (checkpoint, signatures) = split(note).ok_or(NoteFault::Form)?;
        if checkpoint.origin != self.origin {
            return Err(NoteFault::Origin(checkpoint.origin));
        }
        let text = checkpoint.text();
        // The log's signatures are the first two lines, in this order. Later lines are those of
        // witnesses.
        let mut lines = signatures.iter();
        for key in &self.keys {
            let name = key.algorithm().as_str();
            let own = lines.next().and_then(|line| line.signature(&self.origin, key));
            let signature = own.ok_or(NoteFault::Missing(name))?;
            Portable
                .verify(key, text.as_bytes(), signature)
                .map_err(|_| NoteFault::Invalid(name))?;
        }
        Ok(checkpoint)
    }
}

/// A signature line.
struct SignatureLine<'n> {
    /// The key's name.
    name: &'n str,
    /// The key's id in 4 bytes, and the signature.
    bytes: Vec<u8>,
}

impl<'n> SignatureLine<'n> {
    /// Decodes a line; `None` where it has another form.
    fn read(line: &'n str) -> Option<Self> {
        // Each signature line begins with an em dash (C2SP signed-note).
        let (name, encoded) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
        let bytes = STANDARD.decode(encoded).ok()?;
        if name.is_empty()
            || name.contains(|letter: char| letter == '+' || letter.is_whitespace())
            || bytes.len() < 5
        {
            return None;
        }
        Some(Self { name, bytes })
    }

    /// The signature, where the line has the name and the id of `key`. The id only selects the key.
    /// The signature is the proof.
    fn signature(&self, origin: &str, key: &PublicKey) -> Option<&[u8]> {
        if self.name != origin {
            return None;
        }
        self.bytes.strip_prefix(&key_id(origin, key))
    }
}

/// Splits a note into its checkpoint and its signature lines; `None` where it has another form.
fn split(note: &str) -> Option<(Checkpoint, Vec<SignatureLine<'_>>)> {
    let (text, signatures) = note.split_once("\n\n")?;
    let checkpoint = Checkpoint::read(&format!("{text}\n")).ok()?;
    let mut lines = Vec::new();
    for line in signatures.strip_suffix('\n')?.split('\n') {
        lines.push(SignatureLine::read(line)?);
    }
    Some((checkpoint, lines))
}

/// The content of a note without verification, to find its keys.
///
/// # Errors
/// When it is not a checkpoint.
pub fn peek(note: &str) -> Result<Checkpoint, NoteFault> {
    let (checkpoint, _) = split(note).ok_or(NoteFault::Form)?;
    Ok(checkpoint)
}

/// The number of records that a note's checkpoint covers, without verification; 0 where there is
/// no checkpoint.
#[must_use]
pub fn peek_size(note: Option<&str>) -> u64 {
    match note.map(peek) {
        Some(Ok(checkpoint)) => checkpoint.size,
        _ => 0,
    }
}

/// Decodes `log.vkeys`: the keys of every epoch. Empty lines and lines that begin with `#` are
/// ignored.
///
/// # Errors
/// When a line is not a verifier key, or an epoch does not have exactly one key of each kind.
pub fn read_vkeys(text: &str) -> Result<Vec<LogKeys>, NoteFault> {
    let mut found: Vec<OriginKeys> = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let VerifierKey { name, key } =
            VerifierKey::read(text).map_err(|why| NoteFault::Key { line, why })?;
        match found.iter_mut().find(|known| known.origin == name) {
            Some(known) => known.keys.push(key),
            None => found.push(OriginKeys { origin: name.to_owned(), keys: vec![key] }),
        }
    }
    found.into_iter().map(OriginKeys::pair).collect()
}

/// A line of `log.vkeys`.
struct VerifierKey<'l> {
    /// The name of the key: the origin of its log.
    name: &'l str,
    key: PublicKey,
}

impl<'l> VerifierKey<'l> {
    /// Decodes a line, or says why it is not a verifier key.
    fn read(line: &'l str) -> Result<Self, String> {
        let mut parts = line.splitn(3, '+');
        let (Some(name), Some(id), Some(encoded)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err("write NAME+ID+KEY".to_owned());
        };
        let bytes = STANDARD.decode(encoded).map_err(|_| "its key is not base64")?;
        let (algorithm, raw) = if let Some(raw) = bytes.strip_prefix(ML_DSA) {
            (Algorithm::MlDsa65, raw)
        } else if let Some(raw) = bytes.strip_prefix(ED25519) {
            (Algorithm::Ed25519, raw)
        } else {
            return Err("its signature type is not known".to_owned());
        };
        let key = PublicKey::read(algorithm, raw).map_err(|error| error.to_string())?;
        // A wrong id means a damaged line, or a key under another log's name.
        if id != hex(&key_id(name, &key)) {
            return Err("its id is not that of its key".to_owned());
        }
        Ok(Self { name, key })
    }
}

/// All keys with the name of one log.
struct OriginKeys {
    origin: String,
    keys: Vec<PublicKey>,
}

impl OriginKeys {
    /// The pair of keys. A second key of one kind is a fault: it would allow a second, different
    /// history.
    fn pair(self) -> Result<LogKeys, NoteFault> {
        let Self { origin, keys } = self;
        let Ok([first, second]) = <[PublicKey; 2]>::try_from(keys) else {
            return Err(NoteFault::NoKeys(origin));
        };
        match (first.algorithm(), second.algorithm()) {
            (Algorithm::MlDsa65, Algorithm::Ed25519) => {
                Ok(LogKeys { origin, keys: [first, second] })
            }
            (Algorithm::Ed25519, Algorithm::MlDsa65) => {
                Ok(LogKeys { origin, keys: [second, first] })
            }
            (Algorithm::MlDsa65, Algorithm::MlDsa65) | (Algorithm::Ed25519, Algorithm::Ed25519) => {
                Err(NoteFault::NoKeys(origin))
            }
        }
    }
}

/// The private keys of one epoch.
pub struct LogSigner {
    pq: SigningKey,
    classical: SigningKey,
}

impl LogSigner {
    /// Generates a new pair.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn generate() -> Result<Self, EntropyFault> {
        Ok(Self {
            pq: SigningKey::generate(Algorithm::MlDsa65)?,
            classical: SigningKey::generate(Algorithm::Ed25519)?,
        })
    }

    /// The pair in the format of its private file.
    #[must_use]
    pub fn write(&self) -> Zeroizing<String> {
        let (pq, classical) = (seed_text(&self.pq), seed_text(&self.classical));
        Zeroizing::new(format!(
            "{{\"Ed25519\":\"{}\",\"ML-DSA-65\":\"{}\",\"use\":\"token-shield log\"}}\n",
            *classical, *pq
        ))
    }

    /// Decodes such a file.
    ///
    /// # Errors
    /// When it is not a file of signing keys.
    pub fn read(text: &str) -> Result<Self, NoteFault> {
        let document = json::parse(text.trim_end().as_bytes(), &json::Limits::deep(2))
            .map_err(|_| NoteFault::Private("not JSON"))?;
        let json::Value::Object(object) = &document else {
            return Err(NoteFault::Private("not a JSON object"));
        };
        // The member `use` keeps the keys of tokens and of the log apart.
        if text_of(object, "use") != Some("token-shield log") {
            return Err(NoteFault::Private(
                "its use is not \"token-shield log\" (token-shield audit key makes one)",
            ));
        }
        let (Some(pq), Some(classical)) =
            (signing_key(object, Algorithm::MlDsa65), signing_key(object, Algorithm::Ed25519))
        else {
            return Err(NoteFault::Private(
                "ML-DSA-65 and Ed25519 must be seeds of 32 bytes in base64url",
            ));
        };
        Ok(Self { pq, classical })
    }

    /// The public keys, for the log of that origin.
    ///
    /// # Errors
    /// Never for keys of this type.
    pub fn public(&self, origin: &str) -> Result<LogKeys, NoteFault> {
        Ok(LogKeys {
            origin: origin.to_owned(),
            keys: [self.pq.public()?, self.classical.public()?],
        })
    }

    /// Signs a checkpoint, and returns its note.
    ///
    /// # Errors
    /// Never for keys of this type.
    pub fn sign(&self, checkpoint: &Checkpoint) -> Result<String, NoteFault> {
        let text = checkpoint.text();
        let mut note = format!("{text}\n");
        // `open` requires this order of the signatures.
        for key in [&self.pq, &self.classical] {
            let id = key_id(&checkpoint.origin, &key.public()?);
            let bytes = [&id[..], &key.sign(text.as_bytes())].concat();
            note.push_str(&format!("\u{2014} {} {}\n", checkpoint.origin, STANDARD.encode(bytes)));
        }
        Ok(note)
    }
}

/// The seed of a key in base64url.
fn seed_text(key: &SigningKey) -> Zeroizing<String> {
    Zeroizing::new(URL_SAFE_NO_PAD.encode(**key.seed()))
}

/// The signing key in the member that has the algorithm's name; `None` where it is not a seed of 32
/// bytes in base64url.
fn signing_key(object: &json::Object<'_>, algorithm: Algorithm) -> Option<SigningKey> {
    let text = text_of(object, algorithm.as_str())?;
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
    let seed: [u8; 32] = bytes.as_slice().try_into().ok()?;
    Some(SigningKey::from_seed(algorithm, Zeroizing::new(seed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> Checkpoint {
        Checkpoint { origin: "gw.example/e000001".to_owned(), size: 1234, root: [7; 32] }
    }

    #[test]
    fn a_note_comes_back_under_its_keys_alone() {
        let signer =
            LogSigner::read(&LogSigner::generate().expect("keys").write()).expect("read back");
        let keys = signer.public("gw.example/e000001").expect("public");
        let note = signer.sign(&checkpoint()).expect("note");
        assert!(note.len() <= NOTE_BYTES_MAX);
        assert_eq!(keys.open(&note), Ok(checkpoint()));
        let read = read_vkeys(&keys.lines()).expect("vkeys");
        assert_eq!(read[0].open(&note), Ok(checkpoint()));
        let other =
            LogSigner::generate().expect("keys").public("gw.example/e000001").expect("public");
        assert_eq!(other.open(&note), Err(NoteFault::Missing("ML-DSA-65")));
        let elsewhere = signer.public("gw.example/e000002").expect("public");
        assert_eq!(elsewhere.open(&note), Err(NoteFault::Origin("gw.example/e000001".to_owned())));
        // Both signatures are required, so neither alone is enough.
        let lines: Vec<&str> = note.lines().collect();
        for (left_out, name) in [(4, "ML-DSA-65"), (5, "Ed25519")] {
            let rest: String = lines
                .iter()
                .enumerate()
                .filter(|(place, _)| *place != left_out)
                .map(|(_, line)| format!("{line}\n"))
                .collect();
            assert_eq!(keys.open(&rest), Err(NoteFault::Missing(name)));
        }
        let witnessed = format!("{note}\u{2014} witness.example AAAAAAAA\n");
        assert_eq!(keys.open(&witnessed), Ok(checkpoint()));
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let signer = LogSigner::generate().expect("keys");
        let keys = signer.public("gw.example/e000001").expect("public");
        let note = signer.sign(&checkpoint()).expect("note");
        for place in (0..note.len())
            .filter(|place| *place < 200 || place % 101 == 0 || place + 150 > note.len())
        {
            let mut changed = note.clone().into_bytes();
            changed[place] ^= 1;
            if let Ok(changed) = String::from_utf8(changed) {
                assert!(keys.open(&changed).is_err(), "byte {place}");
            }
        }
        for text in ["gw.example/e000001\n01234\n", "gw.example/e000001\n1234\nAA==\n"] {
            assert_eq!(Checkpoint::read(text), Err(NoteFault::Form));
        }
    }
}
