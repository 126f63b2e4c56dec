//! Proofs for strangers: that a record is in the log (C2SP tlog-proof), and what is in it.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use crate::audit::note::{LogKeys, NoteFault, peek};
use crate::audit::outside::Outside;
use crate::audit::reader::{Epoch, ReadFault};
use crate::audit::record::{Held, Opener, RecordFault};
use crate::audit::tiles::Tiles;
use crate::crypto::seal::{own_key, salt_of};
use crate::merkle::proof::{inclusion, root_by};
use crate::merkle::{Hash, leaf_hash};

/// The first line of a proof.
const TITLE: &str = "c2sp.org/tlog-proof@v1";

/// Why a proof proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum ProofFault {
    /// Not the form of C2SP tlog-proof.
    #[error("it is not a proof in the form of C2SP tlog-proof")]
    Form,
    /// Its checkpoint.
    #[error("its checkpoint: {0}")]
    Note(#[from] NoteFault),
    /// It proves another record, or none.
    #[error("the record is not the one that is proven: the root by the proof is not the checkpoint's")]
    Other,
    /// The record is not under a checkpoint yet.
    #[error("record {index} is not under a checkpoint yet ({size} are); try again shortly")]
    Early {
        /// The record.
        index: u64,
        /// What the checkpoint covers.
        size: u64,
    },
    /// The log.
    #[error(transparent)]
    Read(#[from] ReadFault),
    /// The record itself.
    #[error(transparent)]
    Record(#[from] RecordFault),
    /// Nothing to disclose.
    #[error("the record is plain: everybody reads it as it is")]
    Plain,
    /// Its key is gone.
    #[error("the record's key is not here, or was destroyed")]
    NoKey,
}

/// The proof that record `index` is in `epoch`, under its newest checkpoint.
///
/// # Errors
/// When no checkpoint covers it, or the tree cannot be read.
pub fn prove(epoch: &Epoch, index: u64) -> Result<String, ProofFault> {
    epoch.read(|epoch| prove_under(epoch, index))
}

fn prove_under(epoch: &Epoch, index: u64) -> Result<String, ProofFault> {
    let early = || ProofFault::Early { index, size: epoch.signed };
    let note = epoch.note.as_deref().ok_or_else(early)?;
    if index >= epoch.signed {
        return Err(early());
    }
    let mut tiles = Tiles::new(&epoch.folder, epoch.signed);
    let hashes = inclusion(&mut tiles, index, epoch.signed).map_err(ReadFault::from)?;
    let mut proof = format!("{TITLE}\nindex {index}\n");
    for hash in hashes {
        proof.push_str(&STANDARD.encode(hash));
        proof.push('\n');
    }
    Ok(format!("{proof}\n{note}"))
}

/// Verifies a proof of `record`: gives the log's origin and the record's index.
///
/// # Errors
/// When it proves nothing.
pub fn verify(proof: &str, record: &[u8], keys: &[LogKeys]) -> Result<(String, u64), ProofFault> {
    let (head, note) = proof.split_once("\n\n").ok_or(ProofFault::Form)?;
    let mut lines = head.lines();
    if lines.next() != Some(TITLE) {
        return Err(ProofFault::Form);
    }
    let mut line = lines.next().ok_or(ProofFault::Form)?;
    if line.starts_with("extra ") {
        line = lines.next().ok_or(ProofFault::Form)?;
    }
    let digits = line.strip_prefix("index ").ok_or(ProofFault::Form)?;
    let index: u64 = digits.parse().map_err(|_| ProofFault::Form)?;
    let hash = |line: &str| -> Option<Hash> { STANDARD.decode(line).ok()?.try_into().ok() };
    let hashes: Vec<Hash> = lines.map(|line| hash(line).ok_or(ProofFault::Form)).collect::<Result<_, _>>()?;
    if index.to_string() != digits {
        return Err(ProofFault::Form);
    }
    let origin = peek(note)?.origin;
    let keys = keys.iter().find(|keys| keys.origin == origin).ok_or_else(|| NoteFault::NoKeys(origin.clone()))?;
    let checkpoint = keys.open(note)?;
    let root = root_by(leaf_hash(record), index, checkpoint.size, &hashes).ok_or(ProofFault::Other)?;
    if root == checkpoint.root { Ok((origin, index)) } else { Err(ProofFault::Other) }
}

/// The own key of a record, in base64url: it opens that one and no other.
///
/// # Errors
/// When the record is plain, or its record key is not here.
pub fn disclose(record: &[u8], opener: &dyn Opener) -> Result<String, ProofFault> {
    let outside = Outside::read(record)?;
    let (id, sealed, _) = outside.sealed().ok_or(ProofFault::Plain)?;
    let Held::Key(key) = opener.held(&id) else { return Err(ProofFault::NoKey) };
    let salt = salt_of(&sealed).ok_or(RecordFault::Form)?;
    // A key that does not open it is not given out for one that does.
    let _ = outside.open(opener)?;
    Ok(URL_SAFE_NO_PAD.encode(*own_key(key, &salt)))
}
