//! Checkpoints: signed notes (C2SP signed-note, tlog-checkpoint). Both an ML-DSA-65 and an Ed25519
//! signature are required.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use crate::crypto::{
    Algorithm, EntropyFault, KeyFault, Portable, PublicKey, SigningKey, Verifier as _, entropy,
    sha256,
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
        let mut lines = text.lines();
        let mut line = || lines.next().ok_or(NoteFault::Form);
        let read = Self {
            origin: line()?.to_owned(),
            size: line()?.parse().map_err(|_| NoteFault::Form)?,
            root: STANDARD
                .decode(line()?)
                .ok()
                .and_then(|root| root.try_into().ok())
                .ok_or(NoteFault::Form)?,
        };
        if read.text() == text { Ok(read) } else { Err(NoteFault::Form) }
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
    /// The lines for `log.vkeys`.
    #[must_use]
    pub fn lines(&self) -> String {
        let line = |key: &PublicKey| {
            let id: String =
                key_id(&self.origin, key).iter().map(|byte| format!("{byte:02x}")).collect();
            let encoded = STANDARD.encode([identifier(key.algorithm()), key.bytes()].concat());
            format!("{}+{id}+{encoded}\n", self.origin)
        };
        self.keys.iter().map(line).collect()
    }

    /// The fingerprint of both keys: SHA-256 in hex over their lines in `log.vkeys`. Each line has
    /// its line feed, and the ML-DSA-65 line is first.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        sha256(self.lines().as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Decodes a note and verifies both signatures. Further signature lines are ignored.
    ///
    /// # Errors
    /// When it is not a checkpoint of this log under these keys.
    pub fn open(&self, note: &str) -> Result<Checkpoint, NoteFault> {
        let (checkpoint, signatures) = split(note)?;
        if checkpoint.origin != self.origin {
            return Err(NoteFault::Origin(checkpoint.origin));
        }
        let text = checkpoint.text();
        // The log's signatures are the first two lines, in this order. Later lines are those of
        // witnesses.
        let mut lines = signatures.iter();
        for key in &self.keys {
            let name = key.algorithm().as_str();
            // The id only selects the key. The signature below is the proof.
            let id = key_id(&self.origin, key);
            let own = lines
                .next()
                .filter(|(named, bytes)| *named == self.origin && bytes.starts_with(&id));
            let (_, bytes) = own.ok_or(NoteFault::Missing(name))?;
            let signature = bytes.get(4..).unwrap_or_default();
            Portable
                .verify(key, text.as_bytes(), signature)
                .map_err(|_| NoteFault::Invalid(name))?;
        }
        Ok(checkpoint)
    }
}

/// Signature lines: the key's name, and the bytes with the key's id before the signature.
type Signatures<'n> = Vec<(&'n str, Vec<u8>)>;

/// Splits a note into its checkpoint and its signature lines.
fn split(note: &str) -> Result<(Checkpoint, Signatures<'_>), NoteFault> {
    let (text, signatures) = note.split_once("\n\n").ok_or(NoteFault::Form)?;
    let checkpoint = Checkpoint::read(&format!("{text}\n"))?;
    let signatures = signatures.strip_suffix('\n').ok_or(NoteFault::Form)?;
    let mut read = Vec::new();
    for line in signatures.split('\n') {
        let (name, encoded) = line
            // Each signature line begins with an em dash (C2SP signed-note).
            .strip_prefix("\u{2014} ")
            .and_then(|rest| rest.split_once(' '))
            .ok_or(NoteFault::Form)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| NoteFault::Form)?;
        if name.is_empty()
            || name.contains(|letter: char| letter == '+' || letter.is_whitespace())
            || bytes.len() < 5
        {
            return Err(NoteFault::Form);
        }
        read.push((name, bytes));
    }
    Ok((checkpoint, read))
}

/// The content of a note without verification, to find its keys.
///
/// # Errors
/// When it is not a checkpoint.
pub fn peek(note: &str) -> Result<Checkpoint, NoteFault> {
    Ok(split(note)?.0)
}

/// Decodes `log.vkeys`: the keys of every epoch. Empty lines and lines that begin with `#` are
/// ignored.
///
/// # Errors
/// When a line is not a verifier key, or an epoch does not have exactly one key of each kind.
pub fn read_vkeys(text: &str) -> Result<Vec<LogKeys>, NoteFault> {
    let mut found: Vec<(String, Vec<PublicKey>)> = Vec::new();
    for (number, line) in
        (1..).zip(text.lines()).filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
    {
        let fault = |why: &str| NoteFault::Key { line: number, why: why.to_owned() };
        let mut parts = line.splitn(3, '+');
        let (name, id, encoded) = match (parts.next(), parts.next(), parts.next()) {
            (Some(name), Some(id), Some(encoded)) => (name, id, encoded),
            _ => return Err(fault("write NAME+ID+KEY")),
        };
        let bytes = STANDARD.decode(encoded).map_err(|_| fault("its key is not base64"))?;
        let (algorithm, raw) = if let Some(raw) = bytes.strip_prefix(ML_DSA) {
            (Algorithm::MlDsa65, raw)
        } else {
            (
                Algorithm::Ed25519,
                bytes
                    .strip_prefix(ED25519)
                    .ok_or_else(|| fault("its signature type is not known"))?,
            )
        };
        let key = PublicKey::read(algorithm, raw).map_err(|error| fault(&error.to_string()))?;
        // A wrong id means a damaged line, or a key under another log's name.
        if id != key_id(name, &key).iter().map(|byte| format!("{byte:02x}")).collect::<String>() {
            return Err(fault("its id is not that of its key"));
        }
        match found.iter_mut().find(|(known, _)| known == name) {
            Some((_, keys)) => keys.push(key),
            None => found.push((name.to_owned(), vec![key])),
        }
    }
    // A second key of one kind would allow a second, different history.
    let pair = |(origin, keys): (String, Vec<PublicKey>)| {
        let of = |algorithm| keys.iter().find(|key| key.algorithm() == algorithm).cloned();
        match (of(Algorithm::MlDsa65), of(Algorithm::Ed25519), keys.len()) {
            (Some(pq), Some(classical), 2) => Ok(LogKeys { origin, keys: [pq, classical] }),
            _ => Err(NoteFault::NoKeys(origin)),
        }
    };
    found.into_iter().map(pair).collect()
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
        let key = |algorithm| Ok(SigningKey::from_seed(algorithm, Zeroizing::new(entropy()?)));
        Ok(Self { pq: key(Algorithm::MlDsa65)?, classical: key(Algorithm::Ed25519)? })
    }

    /// The pair in the format of its private file.
    #[must_use]
    pub fn write(&self) -> Zeroizing<String> {
        let seed = |key: &SigningKey| Zeroizing::new(URL_SAFE_NO_PAD.encode(**key.seed()));
        let (pq, classical) = (seed(&self.pq), seed(&self.classical));
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
        let object = document.as_object().ok_or(NoteFault::Private("not a JSON object"))?;
        let member = |name| object.get(name).and_then(json::Value::as_str);
        // The member `use` keeps the keys of tokens and of the log apart.
        if member("use") != Some("token-shield log") {
            return Err(NoteFault::Private(
                "its use is not \"token-shield log\" (token-shield audit key makes one)",
            ));
        }
        let seed = |name| {
            let bytes = member(name)
                .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
                .map(Zeroizing::new)?;
            <[u8; 32]>::try_from(bytes.as_slice()).ok().map(Zeroizing::new)
        };
        let fault =
            NoteFault::Private("ML-DSA-65 and Ed25519 must be seeds of 32 bytes in base64url");
        let (pq, classical) = seed("ML-DSA-65").zip(seed("Ed25519")).ok_or(fault)?;
        let of = SigningKey::from_seed;
        Ok(Self { pq: of(Algorithm::MlDsa65, pq), classical: of(Algorithm::Ed25519, classical) })
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
