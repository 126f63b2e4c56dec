//! The offline verifier: checks every byte of a log's folder. It takes no lock and changes no file.
//! It can therefore run beside a gateway that writes, on a copy, or on write-once storage.

mod bundles;
mod fault;
mod heads;
mod journal;
mod layout;
mod remains;

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::audit::format::envelope::{ALWAYS_PLAIN, Envelope};
use crate::audit::format::event::{Event, Left};
use crate::audit::format::fault::RecordFault;
use crate::audit::format::head::Head;
use crate::audit::format::key::{KeyLookup, Opener, RecordKeyId};
use crate::audit::format::note::{Checkpoint, LogKeys};
use crate::audit::format::record::Record;
use crate::audit::read::tiles::{self, Tiles, epoch_name};
use crate::merkle::tile::{Edge, WIDTH};
use crate::merkle::{Hash, Tree};

use fault::FaultLocation;
pub use fault::VerifyFault;
use heads::{Begins, HeadContent, Since, first_record};

/// The number of tries when new checkpoints replace the right edge during the read.
const TRIES: usize = 50;

/// The log to verify, and the data to compare it with.
pub struct VerifyTarget<'w> {
    /// The log's folder.
    pub dir: &'w Path,
    /// The public keys of its epochs (`log.vkeys`).
    pub keys: &'w [LogKeys],
    /// The head, which states how much was acknowledged.
    pub head: Option<&'w Path>,
    /// An earlier checkpoint. The log must still have all records that it covers.
    pub since: Option<&'w str>,
}

/// An epoch that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedEpoch {
    /// Its origin: `<gateway name>/<epoch>`.
    pub origin: String,
    /// Its number of records.
    pub size: u64,
    /// The number of records under the checkpoint.
    pub signed: u64,
    /// The root over all of them.
    pub root: Hash,
    /// The root that the checkpoint signs.
    pub signed_root: Hash,
    /// The times of the first and the last record.
    pub times: Option<(String, String)>,
    /// Bytes of an interrupted write after the records. The next start cuts them off.
    pub torn: usize,
    /// The number of files of an interrupted checkpoint. The next start finishes it.
    pub unfinished: usize,
    /// The number of acknowledged records, where the head is for this epoch.
    pub acknowledged: Option<u64>,
    /// The reason in the next epoch's record of a loss.
    pub lost: Option<String>,
    /// Whether the records were moved away. The checkpoint and the tree are still there.
    pub pruned: bool,
}

/// Verifies a whole log. `progress` gets the number of verified records and the total.
///
/// # Errors
/// The first defect.
pub fn verify(
    wanted: &VerifyTarget<'_>,
    mut progress: impl FnMut(u64, u64),
) -> Result<Vec<VerifiedEpoch>, VerifyFault> {
    // The head is read first: every record that it acknowledges was in the log before.
    let head = match wanted.head {
        Some(path) => Some(HeadContent::read(path)?),
        None => None,
    };
    layout::top(wanted.dir)?;
    let mut epochs = tiles::epochs(wanted.dir)?;
    // The folder of the next epoch is made before its files. An empty one is not an error.
    let coming = pop_coming(&mut epochs);
    let since = match wanted.since {
        Some(note) => Some(Since::read(note, wanted.keys)?),
        None => None,
    };
    let mut seen: Vec<VerifiedEpoch> = Vec::new();
    if head.is_some() {
        begins(&epochs)?;
    }
    let (mut done, mut last_at, mut through) = (0, String::new(), 0);
    for (place, (number, folder)) in epochs.iter().enumerate() {
        // A defect in the next epoch's first record is reported when that epoch is verified.
        let next = match epochs.get(place + 1) {
            Some((_, next)) => first_record(next).ok().flatten(),
            None => None,
        };
        let mut epoch = One {
            folder,
            number: *number,
            open: place + 1 == epochs.len(),
            at: last_at.clone(),
            through,
            acknowledged: 0,
            left: None,
            head: head.as_ref(),
            since: since.as_ref(),
        };
        let found = epoch
            .verify(wanted.keys, next.as_ref(), |size, of| progress(done + size, done + of))?;
        // A pruned epoch has lost its first record, and with it the link to the previous epoch.
        if let Some(before) = seen.last()
            && !found.pruned
        {
            epoch.follows(before)?;
        }
        done += found.size;
        (last_at, through) = (epoch.at, epoch.through);
        seen.push(found);
    }
    // A later `pruned` record must state it: otherwise deleted records would look pruned.
    let missing =
        epochs.iter().zip(&seen).find(|((number, _), seen)| seen.pruned && *number > through);
    if let Some(((number, _), _)) = missing {
        return Err(VerifyFault::of(
            FaultLocation::record(&epoch_name(*number), 0),
            "its records are missing, and no record says that they were moved away",
        ));
    }
    if let Some(Since(since)) = since
        && !has_origin(&seen, &since.origin)
    {
        return Err(VerifyFault::of(
            FaultLocation::log(),
            format!("there is no epoch {}: the log is not that of the checkpoint", since.origin),
        ));
    }
    if let Some(HeadContent { head, .. }) = head
        && !has_origin(&seen, &head.origin)
        && !is_coming(&head, coming)
    {
        return Err(VerifyFault::of(
            FaultLocation::log(),
            format!("the head is that of {}, which is not there", head.origin),
        ));
    }
    Ok(seen)
}

/// Whether the head is that of the epoch whose folder is still empty. After the folder comes its
/// head, with size 0.
fn is_coming(head: &Head, coming: Option<u32>) -> bool {
    match coming {
        Some(number) => {
            head.size == 0 && head.origin.ends_with(&format!("/{}", epoch_name(number)))
        }
        None => false,
    }
}

/// The next epoch, where its folder is still empty. It is taken off the list.
fn pop_coming(epochs: &mut Vec<(u32, PathBuf)>) -> Option<u32> {
    let (_, folder) = epochs.last()?;
    if epochs.len() == 1 || !not_begun(folder) {
        return None;
    }
    let (number, _) = epochs.pop()?;
    Some(number)
}

/// Checks that no epoch before the first one is missing. Without a head the log may be an archive
/// or an export, which can begin later.
fn begins(epochs: &[(u32, PathBuf)]) -> Result<(), VerifyFault> {
    match epochs.first() {
        Some((number, _)) if *number != 1 => Err(VerifyFault::of(
            FaultLocation::epoch(&epoch_name(*number)),
            "the epochs before it are missing",
        )),
        _ => Ok(()),
    }
}

/// Whether an epoch has that origin.
fn has_origin(epochs: &[VerifiedEpoch], origin: &str) -> bool {
    epochs.iter().any(|epoch| epoch.origin == origin)
}

/// Whether an epoch's folder is still empty.
fn not_begun(folder: &Path) -> bool {
    let journal = tiles::segments(&folder.join("journal")).unwrap_or_default();
    journal.0.is_empty()
        && journal.1.is_none()
        && !folder.join("checkpoint").exists()
        && !has_files(&folder.join("tile"))
}

/// Whether there is a file below `folder`.
fn has_files(folder: &Path) -> bool {
    let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .any(|entry| !entry.file_type().is_ok_and(|kind| kind.is_dir()) || has_files(&entry.path()))
}

/// The time in a record; `None` where its form is wrong.
fn first_time(record: &[u8]) -> Option<String> {
    Some(Envelope::read(record).ok()?.at.to_owned())
}

/// An opener without keys: the envelopes of records are verified without decryption.
struct Nobody;

impl Opener for Nobody {
    fn held(&self, _: &RecordKeyId) -> KeyLookup<'_> {
        KeyLookup::Missing
    }
}

/// One epoch that is being verified.
struct One<'v> {
    folder: &'v Path,
    number: u32,
    /// Whether it is being written, or stays as a loss has left it.
    open: bool,
    /// The time of the last record so far.
    at: String,
    /// The newest epoch whose records may be missing, by the `pruned` records so far.
    through: u32,
    /// The number of its records that checkpoint and head acknowledge.
    acknowledged: u64,
    /// The part that a loss has left, by the next epoch's record.
    left: Option<Left>,
    head: Option<&'v HeadContent>,
    since: Option<&'v Since>,
}

impl<'v> One<'v> {
    /// The epoch's name.
    fn name(&self) -> String {
        epoch_name(self.number)
    }

    /// The location of a record of this epoch.
    fn record(&self, index: u64) -> FaultLocation {
        FaultLocation::record(&self.name(), index)
    }

    /// Verifies the epoch; `next` is the first record of the next epoch. While a gateway writes the
    /// epoch, its right edge changes. Then the edge is read again, under the next checkpoint.
    fn verify(
        &mut self,
        keys: &[LogKeys],
        next: Option<&Begins>,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<VerifiedEpoch, VerifyFault> {
        let lost = next.and_then(Begins::lost);
        self.open |= lost.is_some();
        self.left = match next {
            Some(next) if lost.is_some() => next.left.clone(),
            _ => None,
        };
        let ends = format!("/{}", self.name());
        let keys = keys.iter().find(|keys| keys.origin.ends_with(&ends));
        let keys = keys.ok_or_else(|| {
            VerifyFault::of(
                FaultLocation::epoch(&self.name()),
                "there are no verifier keys for it (--key FILE)",
            )
        })?;
        let mut edge = Edge::new();
        for _ in 0..TRIES {
            let snapshot = tiles::snapshot(self.folder)?;
            let signed = self.signed(snapshot.note.as_deref(), keys)?;
            self.acknowledged = self.acknowledged_under(&signed);
            let pruned = signed.size > 0 && !self.open && tiles::is_pruned(self.folder);
            if !pruned {
                self.bundles(&mut edge, &signed, &mut progress)?;
            }
            let at = self.at.clone();
            // A fault counts only when the folder did not change during the read.
            match self.right(edge.clone(), &signed, keys, pruned, lost.clone()) {
                Err(_) if tiles::snapshot(self.folder)? != snapshot => self.at = at,
                done => return done,
            }
        }
        Err(VerifyFault::of(
            FaultLocation::epoch(&self.name()),
            "it changes faster than it can be read",
        ))
    }

    /// The head, where it is that of this epoch.
    fn head_of(&self, signed: &Checkpoint) -> Option<&'v HeadContent> {
        self.head.filter(|heads| heads.head.origin == signed.origin)
    }

    /// The number of records that the checkpoint, the head, or the record of a loss acknowledges.
    fn acknowledged_under(&self, signed: &Checkpoint) -> u64 {
        let mut acknowledged = signed.size;
        if let Some(heads) = self.head_of(signed) {
            acknowledged = acknowledged.max(heads.head.size);
        }
        if let Some(left) = &self.left {
            acknowledged = acknowledged.max(left.size);
        }
        acknowledged
    }

    /// The verified checkpoint. An open epoch may have none yet.
    fn signed(&self, note: Option<&str>, keys: &LogKeys) -> Result<Checkpoint, VerifyFault> {
        match note {
            Some(note) => keys.open(note).map_err(|fault| {
                VerifyFault::of(FaultLocation::file(&self.folder.join("checkpoint")), fault)
            }),
            None if self.open => {
                Ok(Checkpoint { origin: keys.origin.clone(), size: 0, root: Tree::new().root() })
            }
            None => Err(VerifyFault::of(
                FaultLocation::epoch(&self.name()),
                "a closed epoch has no checkpoint",
            )),
        }
    }

    /// Verifies all but the full bundles: the part that the next checkpoint changes.
    fn right(
        &mut self,
        mut edge: Edge,
        signed: &Checkpoint,
        keys: &LogKeys,
        pruned: bool,
        lost: Option<String>,
    ) -> Result<VerifiedEpoch, VerifyFault> {
        let tiles = Tiles::new(self.folder, signed.size);
        if pruned {
            edge = Edge::load(signed.size, |tile| tiles.hashes(tile))?;
            remains::agree(&tiles, self.folder)?;
        } else if !signed.size.is_multiple_of(WIDTH) {
            self.bundle(&mut edge, signed.size / WIDTH, signed)?;
        }
        self.root(&tiles, &edge, signed)?;
        // Listed before the journal is read: every record of these tiles is then in the journal.
        let extra = layout::extra(self.folder, signed.size)?;
        if !self.open
            && let Some(file) = extra.first()
        {
            return Err(VerifyFault::of(
                FaultLocation::file(&file.path),
                "it does not belong there",
            ));
        }
        let first = if pruned { None } else { Tiles::new(self.folder, signed.size).record(0).ok() };
        let head = self.head_of(signed);
        let walked = journal::verify(self, signed, edge, head, keys, &extra)?;
        let times = match &first.or(walked.first) {
            Some(bytes) => first_time(bytes).map(|first| (first, self.at.clone())),
            None => None,
        };
        Ok(VerifiedEpoch {
            origin: signed.origin.clone(),
            size: walked.size,
            signed: signed.size,
            root: walked.root,
            signed_root: signed.root,
            times,
            torn: walked.torn,
            unfinished: extra.len(),
            acknowledged: head.map(|heads| heads.head.size),
            lost,
            pruned,
        })
    }

    /// Checks that the first record names the previous epoch, with its checkpoint.
    fn follows(&self, before: &VerifiedEpoch) -> Result<(), VerifyFault> {
        match first_record(self.folder)? {
            Some(Begins { previous, .. }) if previous.origin == before.origin => {
                let same = previous.size == before.signed
                    && previous.root == STANDARD.encode(before.signed_root);
                // After a loss, the head may have had a newer checkpoint than the folder.
                if same || (before.lost.is_some() && previous.size > before.signed) {
                    return Ok(());
                }
                Err(VerifyFault::of(
                    self.record(0),
                    format!("it does not follow the checkpoint of {}", before.origin),
                ))
            }
            Some(Begins { previous, .. }) => Err(VerifyFault::of(
                self.record(0),
                format!("it follows {}, but {} is before it", previous.origin, before.origin),
            )),
            // The first record is not written yet. Any other first record was refused before.
            None => Ok(()),
        }
    }

    /// Checks the envelope of a record: its form, and its time.
    fn check_envelope(&mut self, index: u64, bytes: &[u8]) -> Result<(), VerifyFault> {
        let envelope =
            Envelope::read(bytes).map_err(|fault| VerifyFault::of(self.record(index), fault))?;
        if envelope.at < self.at.as_str() {
            return Err(VerifyFault::of(self.record(index), RecordFault::Earlier));
        }
        self.at.replace_range(.., envelope.at);
        let first = index == 0 && self.number > 1;
        if ALWAYS_PLAIN.contains(&envelope.kind) || first {
            // A program that can write the journal can add a batch after the acknowledged part.
            // Such a batch must not excuse missing records.
            let acknowledged = index < self.acknowledged;
            self.link(first, acknowledged, bytes)
                .map_err(|what| VerifyFault::of(self.record(index), what))?;
        }
        Ok(())
    }

    /// Checks a record about other epochs. The first record of an epoch must name the previous
    /// epoch. `pruned` names the newest epoch whose records may be missing, and counts only for
    /// epochs before its own.
    fn link(&mut self, first: bool, acknowledged: bool, bytes: &[u8]) -> Result<(), String> {
        let event = Record::decode(bytes, &Nobody).map(|record| record.map(|record| record.event));
        if let Ok(Some(Event::Epoch { previous, .. })) = &event {
            if first && tiles::epoch_in(&previous.origin) == Some(self.number - 1) {
                return Ok(());
            }
            return Err(
                "only the first record of an epoch says which one it follows: the one before it"
                    .to_owned(),
            );
        }
        if first {
            return Err("it does not say which epoch it follows".to_owned());
        }
        if let Some(Event::Pruned { through, .. }) = event.map_err(|fault| fault.to_string())? {
            let number = tiles::epoch_number(&through).ok_or("its through is no epoch")?;
            if acknowledged {
                self.through = self.through.max(number.min(self.number - 1));
            }
        }
        Ok(())
    }
}
