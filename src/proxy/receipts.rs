//! Receipts: the proof that a record is in the log, for the agent of the record.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::audit::read::reader::{self, StoredRecord};
use crate::audit::read::receipt::{self, ProofFault};
use crate::audit::read::tiles::epoch_number;
use crate::audit::store::entry::AuditRecorder;
use crate::audit::store::vault::Vault;
use crate::id::AgentName;
use crate::proxy::descriptors::read_place;
use crate::refusal::{Code, Refusal};

/// The path of receipts: `/receipts/NAME/EPOCH/INDEX`, from the value of `audit-record`.
pub(super) const PATH: &str = "/receipts/";
/// A requested checkpoint is written within this time.
const SOON: Duration = Duration::from_secs(1);

/// The receipt of the record that the path names, if the record is one of `agent`.
///
/// # Errors
/// `receipt-unknown`, or `receipt-early` while no checkpoint covers the record.
pub(super) async fn receipt(
    recorder: &AuditRecorder,
    agent: &AgentName,
    path: &str,
) -> Result<Bytes, Refusal> {
    let unknown = || Refusal::new(Code::ReceiptUnknown);
    // The last two parts identify the record. The log's name before them is not needed.
    let mut parts = path.rsplitn(3, '/');
    let index = parts.next().and_then(|index| index.parse().ok()).ok_or_else(unknown)?;
    let epoch = parts.next().and_then(epoch_number).ok_or_else(unknown)?;
    let (dir, vault) = recorder.records();
    let agent = agent.clone();
    // Reading files and decrypting run on a blocking thread, and only a few at once.
    let _place = read_place().await.map_err(|error| Refusal::new(Code::Internal).because(error))?;
    let found =
        tokio::task::spawn_blocking(move || find(&dir, &vault, &agent, (epoch, index))).await;
    let found = found.map_err(|error| Refusal::new(Code::Internal).because(error))?;
    if found.as_ref().is_err_and(|refusal| refusal.code == Code::ReceiptEarly) {
        recorder.want_checkpoint();
    }
    found
}

/// Finds the record and proves it. Another agent's record gives the same refusal as a missing one,
/// so that it does not reveal its existence.
fn find(
    dir: &Path,
    vault: &Arc<Mutex<Vault>>,
    agent: &AgentName,
    (epoch, index): (u32, u64),
) -> Result<Bytes, Refusal> {
    let unknown = |fault: &dyn std::fmt::Display| Refusal::new(Code::ReceiptUnknown).because(fault);
    let epochs = reader::epochs(dir).map_err(|fault| unknown(&fault))?;
    let epoch = epochs.iter().find(|known| known.number == epoch).ok_or(Code::ReceiptUnknown)?;
    let bytes = reader::one(epoch, index).map_err(|fault| unknown(&fault))?;
    let told = {
        // The agent's name is inside the encrypted payload, so the record is decrypted first.
        let vault = vault.lock().unwrap_or_else(PoisonError::into_inner);
        StoredRecord { epoch: epoch.number, index, bytes: &bytes }
            .tell(&*vault)
            .map_err(|fault| unknown(&fault))?
    };
    if told.text("agent").as_deref() != Some(agent.as_str()) {
        return Err(Code::ReceiptUnknown.into());
    }
    receipt::receipt(epoch, index, &bytes).map(Bytes::from).map_err(|fault| {
        let early = matches!(fault, ProofFault::Early { .. });
        if early {
            Refusal::new(Code::ReceiptEarly).after(SOON)
        } else {
            Refusal::new(Code::Internal).because(fault)
        }
    })
}
