//! Proofs for third parties: that a record is in the log (C2SP tlog-proof), and its content.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::audit::format::envelope::Envelope;
use crate::audit::format::envelope::RECORD_BYTES_MAX;
use crate::audit::format::fault::RecordFault;
use crate::audit::format::key::{KeyLookup, Opener, RecordKeyId};
use crate::audit::format::note::{LogKeys, NOTE_BYTES_MAX, NoteFault, peek};
use crate::audit::read::reader::{Epoch, ReadFault};
use crate::audit::read::tiles::{Tiles, epoch_in, epoch_name};
use crate::crypto::encryption::{SALT_BYTES, own_key, salt_of};
use crate::merkle::proof::{inclusion, root_by};
use crate::merkle::{Hash, leaf_hash};

/// The first line of a proof.
const TITLE: &str = "c2sp.org/tlog-proof@v1";
/// The maximum length of a receipt: the record in base64, 64 hashes, and a checkpoint.
pub const RECEIPT_BYTES_MAX: usize =
    RECORD_BYTES_MAX.div_ceil(3) * 4 + 64 * 45 + NOTE_BYTES_MAX + 256;

/// The reasons why a proof is invalid or impossible.
#[derive(Debug, thiserror::Error)]
pub enum ProofFault {
    /// The form differs from C2SP tlog-proof.
    #[error("it is not a proof in the form of C2SP tlog-proof")]
    Form,
    /// The checkpoint is invalid.
    #[error("its checkpoint: {0}")]
    Note(#[from] NoteFault),
    /// The proof is for another record, or for none.
    #[error(
        "the record is not the one that is proven: the root by the proof is not the checkpoint's"
    )]
    Other,
    /// No checkpoint covers the record yet.
    #[error("record {index} is not under a checkpoint yet ({size} are); try again shortly")]
    Early {
        /// The record's index.
        index: u64,
        /// The number of records under the checkpoint.
        size: u64,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadFault),
    /// The record is invalid.
    #[error(transparent)]
    Record(#[from] RecordFault),
    /// A receipt without the record's bytes.
    #[error("the receipt does not carry its record: name the record's file with --record FILE")]
    NoRecord,
    /// The record in the receipt differs from the given record.
    #[error("the receipt carries another record than the file that is given")]
    Differs,
    /// The line is not a disclosed record.
    #[error(
        "it is not a line as audit disclose writes it: {{\"bytes\",\"key\",\"proof\",\"record\"}}"
    )]
    Disclosure,
    /// A disclosed record without a proof.
    #[error(
        "no checkpoint covered the record when it was disclosed, so there is no proof of it: have \
            it disclosed again"
    )]
    Unproven,
    /// The name of the disclosed record differs from the proof.
    #[error("it is disclosed as {0}, and the proof is of another record")]
    Name(String),
    /// A plain record needs no disclosure.
    #[error("the record is plain: everybody reads it as it is")]
    Plain,
    /// The record's key is missing or destroyed.
    #[error("the record's key is not here, or was destroyed")]
    NoKey,
}

/// The proof that record `index` is in `epoch`, under its newest checkpoint.
///
/// # Errors
/// When no checkpoint covers it, or the tree cannot be read.
pub fn prove(epoch: &Epoch, index: u64) -> Result<String, ProofFault> {
    epoch.read(|epoch| prove_under(epoch, index, None))
}

/// The receipt of record `index` with the bytes `record`: the proof, with the record as its extra
/// data.
///
/// # Errors
/// As [`prove`].
pub fn receipt(epoch: &Epoch, index: u64, record: &[u8]) -> Result<String, ProofFault> {
    epoch.read(|epoch| prove_under(epoch, index, Some(record)))
}

/// The proof under the checkpoint of `epoch`, with `record` as extra data.
fn prove_under(epoch: &Epoch, index: u64, record: Option<&[u8]>) -> Result<String, ProofFault> {
    let note = match &epoch.note {
        Some(note) if index < epoch.signed => note,
        _ => return Err(ProofFault::Early { index, size: epoch.signed }),
    };
    let mut tiles = Tiles::new(&epoch.folder, epoch.signed);
    let hashes = inclusion(&mut tiles, index, epoch.signed).map_err(ReadFault::from)?;
    let extra = match record {
        Some(record) => format!("extra {}\n", STANDARD.encode(record)),
        None => String::new(),
    };
    let mut proof = format!("{TITLE}\n{extra}index {index}\n");
    for hash in hashes {
        proof.push_str(&STANDARD.encode(hash));
        proof.push('\n');
    }
    Ok(format!("{proof}\n{note}"))
}

/// The record in a receipt; `None` where it has none.
///
/// # Errors
/// When the receipt is too long, or its record is not canonical base64.
pub fn carried(receipt: &str) -> Result<Option<Vec<u8>>, ProofFault> {
    if receipt.len() > RECEIPT_BYTES_MAX {
        return Err(ProofFault::Form);
    }
    let Some(line) = receipt.lines().nth(1) else { return Ok(None) };
    let Some(text) = line.strip_prefix("extra ") else { return Ok(None) };
    let record = STANDARD.decode(text).map_err(|_| ProofFault::Form)?;
    Ok(Some(record))
}

/// Verifies a receipt. Returns the log's origin, the record's index, and the record. `record` is
/// needed where the receipt does not contain it.
///
/// # Errors
/// When the receipt is invalid.
pub fn verify_receipt(
    receipt: &str,
    record: Option<Vec<u8>>,
    keys: &[LogKeys],
) -> Result<(String, u64, Vec<u8>), ProofFault> {
    let record = match (carried(receipt)?, record) {
        (Some(carried), Some(given)) if carried != given => return Err(ProofFault::Differs),
        (Some(record), _) | (None, Some(record)) => record,
        (None, None) => return Err(ProofFault::NoRecord),
    };
    let (origin, index) = verify(receipt, &record, keys)?;
    Ok((origin, index, record))
}

/// A proof whose form was checked.
struct ParsedProof<'p> {
    index: u64,
    /// The hashes from the leaf to the root.
    hashes: Vec<Hash>,
    /// The note of the checkpoint.
    note: &'p str,
}

impl<'p> ParsedProof<'p> {
    /// Decodes a proof; `None` where its form differs from C2SP tlog-proof.
    fn read(proof: &'p str) -> Option<Self> {
        let (head, note) = proof.split_once("\n\n")?;
        let mut lines = head.lines();
        if lines.next() != Some(TITLE) {
            return None;
        }
        let mut line = lines.next()?;
        if let Some(extra) = line.strip_prefix("extra ") {
            STANDARD.decode(extra).ok()?;
            line = lines.next()?;
        }
        let digits = line.strip_prefix("index ")?;
        let index: u64 = digits.parse().ok()?;
        let mut hashes = Vec::new();
        for line in lines {
            hashes.push(STANDARD.decode(line).ok()?.try_into().ok()?);
        }
        // A number with leading zeros or a sign would give a second form of the same proof.
        (index.to_string() == digits).then_some(Self { index, hashes, note })
    }
}

/// Verifies a proof of `record`. Returns the log's origin and the record's index.
///
/// # Errors
/// When the proof is invalid.
pub fn verify(proof: &str, record: &[u8], keys: &[LogKeys]) -> Result<(String, u64), ProofFault> {
    let ParsedProof { index, hashes, note } = ParsedProof::read(proof).ok_or(ProofFault::Form)?;
    // The origin selects the keys. It is trusted only after `open` has verified the signatures.
    let origin = peek(note)?.origin;
    let checkpoint = LogKeys::of_origin(keys, &origin)?.open(note)?;
    let root =
        root_by(leaf_hash(record), index, checkpoint.size, &hashes).ok_or(ProofFault::Other)?;
    if root == checkpoint.root { Ok((origin, index)) } else { Err(ProofFault::Other) }
}

/// The own key of a record in base64url. It decrypts this record and no other.
///
/// # Errors
/// When the record is plain, or its record key is missing.
pub fn disclose(record: &[u8], opener: &dyn Opener) -> Result<String, ProofFault> {
    let envelope = Envelope::read(record)?;
    // AES-GCM does not commit to its key. A disclosure by the log's writer therefore proves less
    // than the record key does (docs/AUDIT.md, Disclosures).
    let Some((id, encrypted, _)) = envelope.encrypted() else { return Err(ProofFault::Plain) };
    let KeyLookup::Key(key) = opener.held(&id) else { return Err(ProofFault::NoKey) };
    let salt = salt_of(&encrypted).ok_or(RecordFault::Form)?;
    // The record is decrypted first, so that no wrong key is disclosed.
    let _ = envelope.open(opener)?;
    Ok(URL_SAFE_NO_PAD.encode(*own_key(key, &salt)))
}

/// A record that was disclosed with its own key: one line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disclosure {
    /// The record, in base64.
    bytes: String,
    /// The record's own key, in base64url.
    key: String,
    /// The proof that the record is in the log (C2SP tlog-proof); `None` where no checkpoint
    /// covered it yet.
    proof: Option<String>,
    /// The name of the record: `EPOCH#INDEX`.
    record: String,
}

/// A disclosed record that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disclosed {
    /// The origin of the log: `<gateway name>/<epoch>`.
    pub origin: String,
    /// The record's index.
    pub index: u64,
    /// The time, in RFC 3339.
    pub at: String,
    /// The kind.
    pub kind: String,
    /// The payload object in canonical form.
    pub payload: String,
}

/// The own key of a single record.
struct OwnKey(Zeroizing<[u8; 32]>);

impl Opener for OwnKey {
    fn held(&self, _: &RecordKeyId) -> KeyLookup<'_> {
        KeyLookup::Missing
    }

    fn own(&self, _: &RecordKeyId, _: &[u8; SALT_BYTES]) -> Option<&[u8; 32]> {
        Some(&self.0)
    }
}

impl Disclosure {
    /// Discloses record `index` of `epoch`. Without a checkpoint that covers it, the proof is
    /// missing.
    ///
    /// # Errors
    /// When the record does not exist or is plain, or its record key is missing.
    pub fn of(epoch: &Epoch, index: u64, opener: &dyn Opener) -> Result<Self, ProofFault> {
        let bytes = crate::audit::read::reader::one(epoch, index)?;
        Ok(Self {
            key: disclose(&bytes, opener)?,
            bytes: STANDARD.encode(&bytes),
            proof: prove(epoch, index).ok(),
            record: format!("{}#{index}", epoch_name(epoch.number)),
        })
    }

    /// Decodes a line.
    ///
    /// # Errors
    /// When it is not a disclosure.
    pub fn read(line: &str) -> Result<Self, ProofFault> {
        serde_json::from_str(line).map_err(|_| ProofFault::Disclosure)
    }

    /// The record's own key; `None` where it is not 32 bytes in base64url.
    fn own_key(&self) -> Option<OwnKey> {
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(&self.key).ok()?);
        let key: [u8; 32] = bytes.as_slice().try_into().ok()?;
        Some(OwnKey(Zeroizing::new(key)))
    }

    /// Verifies that the record is in the log, and decrypts it.
    ///
    /// # Errors
    /// When the proof is invalid, or the key does not decrypt the record.
    pub fn verify(&self, keys: &[LogKeys]) -> Result<Disclosed, ProofFault> {
        let bytes = STANDARD.decode(&self.bytes).map_err(|_| ProofFault::Disclosure)?;
        let Some(key) = self.own_key() else { return Err(ProofFault::Disclosure) };
        let Some(proof) = &self.proof else { return Err(ProofFault::Unproven) };
        let (origin, index) = verify(proof, &bytes, keys)?;
        let number = epoch_in(&origin).ok_or(ProofFault::Form)?;
        // The name is not signed. Without this check, a valid record could be presented under
        // another name.
        if self.record != format!("{}#{index}", epoch_name(number)) {
            return Err(ProofFault::Name(self.record.clone()));
        }
        let envelope = Envelope::read(&bytes)?;
        if envelope.encrypted().is_none() {
            return Err(ProofFault::Plain);
        }
        let Some(payload) = envelope.open(&key)? else { return Err(ProofFault::NoKey) };
        Ok(Disclosed {
            origin,
            index,
            at: envelope.at.to_owned(),
            kind: envelope.kind.to_owned(),
            payload,
        })
    }
}
