//! Receipts: the proof that a record is in the log, for the agent of the record.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use crate::audit::format::note::peek;
use crate::audit::read::reader::{self, Epoch, StoredRecord};
use crate::audit::read::receipt::{self, ProofFault};
use crate::audit::read::tiles::epoch_number;
use crate::audit::store::entry::AuditRecorder;
use crate::audit::store::vault::Vault;
use crate::id::AgentName;
use crate::lock::locked;
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
    let Some(record) = RecordPath::read(path) else { return Err(Code::ReceiptUnknown.into()) };
    let (dir, vault) = recorder.records();
    let agent = agent.clone();
    // Reading files and decrypting run on a blocking thread, and only a few at once.
    let _place = read_place().await.map_err(|error| Refusal::new(Code::Internal).because(error))?;
    let found = tokio::task::spawn_blocking(move || find(&dir, &vault, &agent, &record)).await;
    let found = found.map_err(|error| Refusal::new(Code::Internal).because(error))?;
    if found.as_ref().is_err_and(|refusal| refusal.code == Code::ReceiptEarly) {
        recorder.want_checkpoint();
    }
    found
}

/// A record as the path of its receipt names it.
#[derive(Debug, PartialEq, Eq)]
struct RecordPath {
    /// The origin of its log: `<gateway name>/<epoch>`.
    origin: String,
    /// The number of its epoch.
    epoch: u32,
    /// Its index in the epoch.
    index: u64,
}

impl RecordPath {
    /// Parses `NAME/EPOCH/INDEX`. None for any other form, also of its numbers.
    fn read(path: &str) -> Option<Self> {
        let (origin, digits) = path.rsplit_once('/')?;
        let (_, epoch) = origin.rsplit_once('/')?;
        let epoch = epoch_number(epoch)?;
        let index: u64 = digits.parse().ok()?;
        // `parse` accepts `+7` and `07` too. A record has only one name.
        if index.to_string() != digits {
            return None;
        }
        Some(Self { origin: origin.to_owned(), epoch, index })
    }

    /// Whether the epoch's checkpoint names the origin of the path. True without a checkpoint: no
    /// record of that epoch has a receipt yet.
    fn is_of(&self, epoch: &Epoch) -> bool {
        let Some(note) = &epoch.note else { return true };
        match peek(note) {
            Ok(checkpoint) => checkpoint.origin == self.origin,
            Err(_) => true,
        }
    }
}

/// The refusal for a record that is not there for this agent.
fn unknown(fault: impl fmt::Display) -> Refusal {
    Refusal::new(Code::ReceiptUnknown).because(fault)
}

/// Finds the record and proves it. Another agent's record gives the same refusal as a missing one,
/// so that it does not reveal its existence.
fn find(
    dir: &Path,
    vault: &Arc<Mutex<Vault>>,
    agent: &AgentName,
    record: &RecordPath,
) -> Result<Bytes, Refusal> {
    let epochs = reader::epochs(dir).map_err(unknown)?;
    let Some(epoch) = epochs.iter().find(|known| known.number == record.epoch) else {
        return Err(Code::ReceiptUnknown.into());
    };
    if !record.is_of(epoch) {
        return Err(unknown("the log has another name"));
    }
    let index = record.index;
    let bytes = reader::one(epoch, index).map_err(unknown)?;
    let told = {
        // The agent's name is inside the encrypted payload, so the record is decrypted first.
        let vault = locked(vault);
        let stored = StoredRecord { epoch: epoch.number, index, bytes: &bytes };
        stored.tell(&*vault).map_err(unknown)?
    };
    if told.text("agent").as_deref() != Some(agent.as_str()) {
        return Err(Code::ReceiptUnknown.into());
    }
    match receipt::receipt(epoch, index, &bytes) {
        Ok(receipt) => Ok(Bytes::from(receipt)),
        Err(ProofFault::Early { .. }) => Err(Refusal::new(Code::ReceiptEarly).after(SOON)),
        Err(fault) => Err(Refusal::new(Code::Internal).because(fault)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::format::note::Checkpoint;

    #[test]
    fn a_record_has_one_path() {
        for (path, origin, epoch, index) in [
            ("gw/e000001/0", "gw/e000001", 1, 0),
            ("gw.example/e000012/345", "gw.example/e000012", 12, 345),
        ] {
            let origin = origin.to_owned();
            assert_eq!(RecordPath::read(path), Some(RecordPath { origin, epoch, index }));
        }
        for path in [
            "",
            "0",
            "e000001/0",
            "gw/e1/0",
            "gw/e000001/",
            "gw/e000001/+0",
            "gw/e000001/00",
            "gw/e000001/-1",
            "gw/e000001/x",
            "gw/e000001/0/",
        ] {
            assert_eq!(RecordPath::read(path), None, "{path}");
        }
    }

    #[test]
    fn the_name_of_the_log_is_part_of_the_path() {
        let epoch = |note: Option<&str>| Epoch {
            number: 1,
            folder: "e000001".into(),
            signed: 0,
            note: note.map(str::to_owned),
        };
        let checkpoint = Checkpoint { origin: "gw/e000001".to_owned(), size: 1, root: [0; 32] };
        let note = format!("{}\n\u{2014} gw/e000001 AAAAAAAA\n", checkpoint.text());
        let path = |path| RecordPath::read(path).expect("a path");
        assert!(path("gw/e000001/0").is_of(&epoch(Some(&note))));
        assert!(!path("other/e000001/0").is_of(&epoch(Some(&note))));
        assert!(path("other/e000001/0").is_of(&epoch(None)));
    }
}
