//! The offline verifier: checks every byte of a log's folder. It takes no lock and changes no file.
//! It can therefore run beside a gateway that writes, on a copy, or on write-once storage.

mod fault;
mod heads;
mod journal;
mod layout;
mod remains;

use std::fs;
use std::path::Path;

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
use crate::merkle::tile::{Edge, FullTile, Tile, WIDTH, bundle_records, tile_bytes};
use crate::merkle::{Hash, Tree, leaf_hash};

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
    let head = wanted.head.map(HeadContent::read).transpose()?;
    layout::top(wanted.dir)?;
    let mut epochs = tiles::epochs(wanted.dir)?;
    // The folder of the next epoch is made before its files. An empty one is not an error.
    let coming =
        if epochs.len() > 1 { epochs.pop_if(|(_, folder)| not_begun(folder)) } else { None };
    let coming = coming.map(|(number, _)| format!("/{}", epoch_name(number)));
    let since = wanted.since.map(|note| Since::read(note, wanted.keys)).transpose()?;
    let mut seen: Vec<VerifiedEpoch> = Vec::new();
    if let Some((number, _)) =
        epochs.first().filter(|(number, _)| *number != 1 && wanted.head.is_some())
    {
        return Err(VerifyFault::of(
            FaultLocation::epoch(&epoch_name(*number)),
            "the epochs before it are missing",
        ));
    }
    let (mut done, mut last_at, mut through) = (0, String::new(), 0);
    for (place, (number, folder)) in epochs.iter().enumerate() {
        // A defect in the next epoch's first record is reported when that epoch is verified.
        let next = epochs.get(place + 1).and_then(|(_, next)| first_record(next).ok().flatten());
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
        if let Some(before) = seen.last().filter(|_| !found.pruned) {
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
    let named = |origin: &str| seen.iter().any(|epoch| epoch.origin == origin);
    if let Some(since) = since.filter(|since| !named(&since.0.origin)) {
        return Err(VerifyFault::of(
            FaultLocation::log(),
            format!("there is no epoch {}: the log is not that of the checkpoint", since.0.origin),
        ));
    }
    // After a new folder comes its head, with size 0.
    let empty = |head: &Head| {
        head.size == 0 && coming.as_ref().is_some_and(|coming| head.origin.ends_with(coming))
    };
    if let Some(heads) = head.filter(|heads| !named(&heads.head.origin) && !empty(&heads.head)) {
        return Err(VerifyFault::of(
            FaultLocation::log(),
            format!("the head speaks of {}, which is not there", heads.head.origin),
        ));
    }
    Ok(seen)
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

impl One<'_> {
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
        self.left = next.and_then(|next| next.left.clone()).filter(|_| lost.is_some());
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
            let head = self
                .head
                .filter(|heads| heads.head.origin == signed.origin)
                .map_or(0, |heads| heads.head.size);
            let left = self.left.as_ref().map_or(0, |left| left.size);
            self.acknowledged = signed.size.max(head).max(left);
            let pruned = signed.size > 0 && !self.open && tiles::is_pruned(self.folder);
            if !pruned {
                self.bundles(&mut edge, &signed, &mut progress)?;
            }
            let at = self.at.clone();
            // A fault counts only when the folder did not change during the read.
            match self.right(edge.clone(), &signed, keys, (pruned, lost.clone())) {
                Err(_) if tiles::snapshot(self.folder)? != snapshot => self.at = at,
                done => return done,
            }
        }
        Err(VerifyFault::of(
            FaultLocation::epoch(&self.name()),
            "it changes faster than it can be read",
        ))
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
        (pruned, lost): (bool, Option<String>),
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
        if let Some((_, path)) = extra.first().filter(|_| !self.open) {
            return Err(VerifyFault::of(FaultLocation::file(path), "it does not belong there"));
        }
        let first = if pruned { None } else { Tiles::new(self.folder, signed.size).record(0).ok() };
        let head = self.head.filter(|heads| heads.head.origin == signed.origin);
        let walked = journal::verify(self, signed, edge, (head, keys), &extra)?;
        let first = first
            .or(walked.first)
            .and_then(|bytes| Some(Envelope::read(&bytes).ok()?.at.to_owned()));
        Ok(VerifiedEpoch {
            origin: signed.origin.clone(),
            size: walked.size,
            signed: signed.size,
            root: walked.root,
            signed_root: signed.root,
            times: first.map(|first| (first, self.at.clone())),
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
                format!("it follows {}, but {} stands before it", previous.origin, before.origin),
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
            let before = previous.origin.rsplit('/').next().and_then(tiles::epoch_number);
            if first && before == Some(self.number - 1) {
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

    /// Verifies every full bundle between `edge` and the checkpoint, and every full tile above
    /// them.
    fn bundles(
        &mut self,
        edge: &mut Edge,
        signed: &Checkpoint,
        progress: &mut impl FnMut(u64, u64),
    ) -> Result<(), VerifyFault> {
        for bundle in edge.size() / WIDTH..signed.size / WIDTH {
            self.bundle(edge, bundle, signed)?;
            progress(edge.size(), signed.size);
        }
        Ok(())
    }

    /// Verifies the records of a bundle, and the tiles that they complete.
    fn bundle(
        &mut self,
        edge: &mut Edge,
        bundle: u64,
        signed: &Checkpoint,
    ) -> Result<(), VerifyFault> {
        let tiles = Tiles::new(self.folder, signed.size);
        let first = bundle * WIDTH;
        let tile = Tile { level: None, index: bundle, width: (signed.size - first).min(WIDTH) };
        let bytes =
            tiles.bytes(tile).map_err(|fault| VerifyFault::of(self.record(first), fault))?;
        let leaves = tiles
            .hashes(Tile { level: Some(0), ..tile })
            .map_err(|fault| VerifyFault::of(self.record(first), fault))?;
        let mut leaves = leaves.iter();
        let mut full = Vec::new();
        for (index, record) in (first..).zip(bundle_records(&bytes)) {
            let record = record.map_err(|fault| VerifyFault::of(self.record(index), fault))?;
            let Some(leaf) = leaves.next() else {
                return Err(VerifyFault::of(
                    FaultLocation::file(&self.folder.join(tile.path())),
                    "it has more records than its name says",
                ));
            };
            // Either the record or its hash was changed. In both cases this is the first defect.
            if *leaf != leaf_hash(record) {
                return Err(VerifyFault::of(
                    self.record(index),
                    "it is not the record that its hash stands for",
                ));
            }
            self.check_envelope(index, record)?;
            full.extend(edge.push_leaf(*leaf));
            self.was(edge, signed)?;
        }
        if edge.size() != first + tile.width {
            return Err(VerifyFault::of(self.record(edge.size()), "its bundle ends before it"));
        }
        // The leaves' own tile was just compared with the records.
        for FullTile { level, index, hashes } in full.into_iter().filter(|full| full.level > 0) {
            self.equal(&tiles, Tile { level: Some(level), index, width: WIDTH }, &hashes)?;
        }
        Ok(())
    }

    /// Checks that the file of a tile has these hashes.
    fn equal(&self, tiles: &Tiles, tile: Tile, hashes: &[Hash]) -> Result<(), VerifyFault> {
        let level = u32::from(tile.level.unwrap_or(0));
        let first = |place: u64| (tile.index * WIDTH + place) << (8 * level);
        let bytes =
            tiles.bytes(tile).map_err(|fault| VerifyFault::of(self.record(first(0)), fault))?;
        let expect = tile_bytes(hashes);
        if bytes == expect {
            return Ok(());
        }
        // The first wrong hash gives the first record below it, for the report.
        let differs = expect
            .iter()
            .zip(&bytes)
            .position(|(one, other)| one != other)
            .unwrap_or(bytes.len().min(expect.len()));
        let what = format!("{} does not hold the hash over it", tile.path());
        Err(VerifyFault::of(self.record(first(differs as u64 / 32)), what))
    }

    /// Verifies the tiles at the right edge, and the root.
    fn root(&self, tiles: &Tiles, edge: &Edge, signed: &Checkpoint) -> Result<(), VerifyFault> {
        for (tile, hashes) in edge.partial() {
            self.equal(tiles, tile, hashes)?;
        }
        if edge.tree().root() != signed.root {
            let what = "the root over its records is not the one that its checkpoint signs";
            return Err(VerifyFault::of(FaultLocation::epoch(&self.name()), what));
        }
        Ok(())
    }

    /// Checks that the log still has all records of the earlier checkpoint.
    fn was(&self, edge: &Edge, signed: &Checkpoint) -> Result<(), VerifyFault> {
        let Some(Since(since)) = self.since.filter(|since| since.0.origin == signed.origin) else {
            return Ok(());
        };
        if edge.size() == since.size && edge.tree().root() != since.root {
            let what = format!(
                "the first {} records are not those that the former checkpoint covers",
                since.size
            );
            return Err(VerifyFault::of(FaultLocation::epoch(&self.name()), what));
        }
        Ok(())
    }
}
