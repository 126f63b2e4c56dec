//! The journal's format: batches of records, each proving that it is whole and that it follows the one before.
//!
//! A segment is a file of batches, each on a sector's start, then zeros. A batch (integers big-endian):
//!
//! ```text
//! header   8 "TSBATCH1"   8 index of its first record   4 records   4 bytes of frames   4 CRC-32C of these 24 bytes
//! frames   for each record: 2 its length, then its bytes
//! trailer  8 records in the log after this batch   32 the tree's root over them   32 SHA-256 of everything above
//! padding  zeros up to the next sector
//! ```

use sha2::{Digest as _, Sha256};

use crate::merkle::Hash;
use crate::merkle::Tree;

/// Batches begin on multiples of this many bytes: a later write that tears cannot take an older batch with it.
pub const SECTOR_BYTES: usize = 512;
/// Bytes of a batch at the most, padding included.
pub const BATCH_BYTES_MAX: usize = 256 * 1024;

const MAGIC: &[u8; 8] = b"TSBATCH1";
const HEADER_BYTES: usize = 28;
const TRAILER_BYTES: usize = 72;

/// A batch has no room for the record: begin another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchFull;

/// A batch in the making.
#[derive(Clone, Debug)]
pub struct Builder {
    first: u64,
    count: u32,
    frames: Vec<u8>,
    tree: Tree,
}

impl Builder {
    /// An empty batch that follows what is in `tree`.
    #[must_use]
    pub const fn new(tree: Tree) -> Self {
        Self { first: tree.size(), count: 0, frames: Vec::new(), tree }
    }

    /// Adds a record; says under which index. A record of up to 65,535 bytes fits into an empty batch.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn push(&mut self, record: &[u8]) -> Result<u64, BatchFull> {
        let length = u16::try_from(record.len()).map_err(|_| BatchFull)?;
        if padded(HEADER_BYTES + self.frames.len() + 2 + record.len() + TRAILER_BYTES)
            > BATCH_BYTES_MAX
        {
            return Err(BatchFull);
        }
        let index = self.tree.size();
        self.frames.extend_from_slice(&length.to_be_bytes());
        self.frames.extend_from_slice(record);
        self.tree.push(record);
        self.count += 1;
        Ok(index)
    }

    /// The batch's bytes, padded, and the tree behind it.
    #[must_use]
    pub fn finish(self) -> (Vec<u8>, Tree) {
        // Bounded by BATCH_BYTES_MAX.
        let length = u32::try_from(self.frames.len()).unwrap_or(u32::MAX);
        let mut bytes =
            Vec::with_capacity(padded(HEADER_BYTES + self.frames.len() + TRAILER_BYTES));
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.first.to_be_bytes());
        bytes.extend_from_slice(&self.count.to_be_bytes());
        bytes.extend_from_slice(&length.to_be_bytes());
        let sum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&sum.to_be_bytes());
        bytes.extend_from_slice(&self.frames);
        bytes.extend_from_slice(&self.tree.size().to_be_bytes());
        bytes.extend_from_slice(&self.tree.root());
        let digest = Sha256::digest(&bytes);
        bytes.extend_from_slice(&digest);
        bytes.resize(padded(bytes.len()), 0);
        (bytes, self.tree)
    }
}

/// Why bytes are not the batch that should stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchFault {
    /// No whole header, or no whole trailer that fits to it: what an interrupted write leaves.
    #[error("no whole batch stands there")]
    Incomplete,
    /// The frames do not add up to the header's count.
    #[error("its frames do not add up")]
    Frames,
    /// It belongs elsewhere in the log, or in another log.
    #[error("it does not follow what stands before it")]
    Sequence,
    /// Something stands between its end and the next sector.
    #[error("its padding is not zero")]
    Padding,
    /// Zeros should follow, and something else does.
    #[error("something stands where nothing was ever written")]
    Leftover,
}

/// What should be in a segment and is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentFault<E> {
    /// A batch is bad, below the head or where no interrupted write can have been.
    #[error("record {index} (byte {offset} of its segment): {fault}")]
    Damaged {
        /// The index of the first record that is not there.
        index: u64,
        /// Where in the segment, in bytes.
        offset: usize,
        /// What is wrong.
        fault: BatchFault,
    },
    /// The records are whole, but not those that were acknowledged.
    #[error("the root over the first {size} records is not the one that was acknowledged")]
    Head {
        /// The head's size.
        size: u64,
    },
    /// A record was not accepted.
    #[error("record {index}: {fault}")]
    Record {
        /// Its index.
        index: u64,
        /// Where its batch begins.
        offset: usize,
        /// Why not.
        fault: E,
    },
}

/// How far the log was acknowledged, as the head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcknowledgedTree {
    /// How many records.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

/// What a segment holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentContent {
    /// The tree behind its last batch.
    pub tree: Tree,
    /// Where its last batch ends, padding included: the next one's place.
    pub end: usize,
    /// Where the last batch that the head covers ends. Beyond it nothing is known to have been synced.
    pub acknowledged_end: usize,
    /// How many bytes an interrupted write left behind `end`, up to its last one that is not zero. 0: none.
    pub torn: usize,
}

/// Reads a segment that follows `tree`, and gives each record with its index to `each`. Everything up to the furthest of the
/// `marks` must be whole and have their roots, and so must every segment but the `last`; behind both, one interrupted write may
/// have left something.
///
/// # Errors
/// The first thing that is wrong.
pub fn walk<E>(
    segment: &[u8],
    tree: &Tree,
    marks: &[AcknowledgedTree],
    last: bool,
    mut each: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<SegmentContent, SegmentFault<E>> {
    let mut walk = SegmentContent { tree: tree.clone(), end: 0, acknowledged_end: 0, torn: 0 };
    let acknowledged = marks.iter().map(|mark| mark.size).max().unwrap_or(0);
    loop {
        let rest = segment.get(walk.end..).unwrap_or_default();
        let damaged =
            |fault| SegmentFault::Damaged { index: walk.tree.size(), offset: walk.end, fault };
        let torn = match Whole::read(rest) {
            Ok(batch) => {
                let after = batch.follow(&walk.tree).map_err(damaged)?;
                for mark in marks
                    .iter()
                    .filter(|mark| walk.tree.size() < mark.size && mark.size <= after.size())
                {
                    if (mark.size, mark.root) != (after.size(), after.root()) {
                        return Err(SegmentFault::Head { size: mark.size });
                    }
                }
                if after.size() <= acknowledged {
                    walk.acknowledged_end = walk.end + batch.padded;
                }
                for (index, record) in (walk.tree.size()..).zip(batch.records()) {
                    each(index, record).map_err(|fault| SegmentFault::Record {
                        index,
                        offset: walk.end,
                        fault,
                    })?;
                }
                walk.end += batch.padded;
                walk.tree = after;
                continue;
            }
            Err(fault) => rest.iter().rposition(|&byte| byte != 0).map(|place| (place + 1, fault)),
        };
        // Behind the last batch. Zeros end the segment.
        let Some((bytes, fault)) = torn else {
            return Ok(walk);
        };
        if walk.tree.size() < acknowledged || !last {
            return Err(damaged(fault));
        }
        // One write was on its way at the most, and nothing was written behind it.
        if bytes > BATCH_BYTES_MAX
            || (1..rest.len().div_ceil(SECTOR_BYTES)).any(|sector| whole_at(rest, sector))
        {
            return Err(damaged(BatchFault::Leftover));
        }
        walk.torn = bytes;
        return Ok(walk);
    }
}

/// Where the batch ends that reaches `size` records, padding included, and how many records there are then; with fewer in the
/// segment, where its last whole batch ends. For who copies a segment that may be written just then: what follows may be torn.
#[must_use]
pub fn reach(segment: &[u8], size: u64) -> (usize, u64) {
    let (mut end, mut reached) = (0, 0);
    while reached < size
        && let Ok(batch) = Whole::read(segment.get(end..).unwrap_or_default())
    {
        (end, reached) = (end + batch.padded, batch.size);
    }
    (end, reached)
}

/// Whether a whole batch stands at this sector.
fn whole_at(bytes: &[u8], sector: usize) -> bool {
    bytes.get(sector * SECTOR_BYTES..).is_some_and(|rest| Whole::read(rest).is_ok())
}

const fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(SECTOR_BYTES)
}

/// A batch whose header and trailer are right. Whether it belongs where it stands is another question.
struct Whole<'a> {
    first: u64,
    count: u32,
    frames: &'a [u8],
    size: u64,
    root: Hash,
    padding: &'a [u8],
    padded: usize,
}

impl<'a> Whole<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, BatchFault> {
        Self::parts(bytes).ok_or(BatchFault::Incomplete)
    }

    fn parts(bytes: &'a [u8]) -> Option<Self> {
        let mut at = Cursor(bytes);
        let magic: [u8; 8] = at.array()?;
        let first = u64::from_be_bytes(at.array()?);
        let count = u32::from_be_bytes(at.array()?);
        let length = usize::try_from(u32::from_be_bytes(at.array()?)).ok()?;
        let sum = crc32c::crc32c(bytes.get(..HEADER_BYTES - 4)?);
        if magic != *MAGIC || u32::from_be_bytes(at.array()?) != sum {
            return None;
        }
        let frames = at.take(length)?;
        let size = u64::from_be_bytes(at.array()?);
        let root = at.array()?;
        let digest: [u8; 32] = at.array()?;
        let end = HEADER_BYTES + length + TRAILER_BYTES;
        if padded(end) > BATCH_BYTES_MAX || Sha256::digest(bytes.get(..end - 32)?)[..] != digest {
            return None;
        }
        let padding = bytes.get(end..padded(end))?;
        Some(Self { first, count, frames, size, root, padding, padded: padded(end) })
    }

    /// The tree behind this batch, if it follows `tree`.
    fn follow(&self, tree: &Tree) -> Result<Tree, BatchFault> {
        if self.first != tree.size() {
            return Err(BatchFault::Sequence);
        }
        let mut after = tree.clone();
        let mut bytes = 0;
        for record in self.records() {
            after.push(record);
            bytes += 2 + record.len();
        }
        if bytes != self.frames.len()
            || after.size() - tree.size() != u64::from(self.count)
            || self.count == 0
        {
            return Err(BatchFault::Frames);
        }
        if (self.size, self.root) != (after.size(), after.root()) {
            return Err(BatchFault::Sequence);
        }
        if self.padding.iter().any(|&byte| byte != 0) {
            return Err(BatchFault::Padding);
        }
        Ok(after)
    }

    fn records(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut at = Cursor(self.frames);
        std::iter::from_fn(move || {
            let length = u16::from_be_bytes(at.array()?);
            at.take(usize::from(length))
        })
    }
}

/// Bytes, read from the front.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(front)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
}
