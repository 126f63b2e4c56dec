//! The journal's format: batches of records. Each batch proves that it is whole, and that it
//! follows the one before.
//!
//! A segment is a file of batches, followed by zeros. Each batch begins at a sector. A batch has
//! this form (integers are big-endian):
//!
//! ```text
//! header   8 "TSBATCH1"   8 index of its first record   4 records   4 bytes of frames
//!          4 CRC-32C of these 24 bytes
//! frames   for each record: 2 its length, then its bytes
//! trailer  8 records in the log after this batch   32 the tree's root over them
//!          32 SHA-256 of everything above
//! padding  zeros up to the next sector
//! ```

use sha2::{Digest as _, Sha256};

use crate::merkle::Hash;
use crate::merkle::Tree;

/// Batches begin on multiples of this many bytes. A later write that tears cannot damage an earlier
/// batch.
pub const SECTOR_BYTES: usize = 512;
/// The maximum length of a batch, with padding.
pub const BATCH_BYTES_MAX: usize = 256 * 1024;

/// The first bytes of a batch, with the version of its format.
const MAGIC: &[u8; 8] = b"TSBATCH1";
/// Bytes of a header, with its checksum.
const HEADER_BYTES: usize = 28;
/// Bytes of a trailer.
const TRAILER_BYTES: usize = 72;

/// The batch has no room for the record; it belongs in the next batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchFull;

/// A batch that is being built.
#[derive(Clone, Debug)]
pub struct Builder {
    first: u64,
    count: u32,
    frames: Vec<u8>,
    tree: Tree,
}

impl Builder {
    /// An empty batch after the records of `tree`.
    #[must_use]
    pub const fn new(tree: Tree) -> Self {
        Self { first: tree.size(), count: 0, frames: Vec::new(), tree }
    }

    /// Adds a record, and returns its index. A record of up to 65,535 bytes fits into an empty
    /// batch.
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

    /// The batch's bytes with padding, and the tree after it.
    #[must_use]
    pub fn finish(self) -> (Vec<u8>, Tree) {
        // `push` limits the frames to `BATCH_BYTES_MAX`, so the length fits.
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

/// The reasons why bytes are not the expected batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchFault {
    /// The header or the trailer is incomplete. An interrupted write leaves such a batch.
    #[error("there is no complete batch")]
    Incomplete,
    /// The frames differ from the header's count or length.
    #[error("its frames do not add up")]
    Frames,
    /// The batch is from another index or another log.
    #[error("it does not follow the batch before it")]
    Sequence,
    /// The padding after the batch has other bytes than zeros.
    #[error("its padding is not zero")]
    Padding,
    /// Bytes other than zeros follow the last batch.
    #[error("there are bytes where no batch was ever written")]
    Leftover,
}

/// The defects of a segment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentFault<E> {
    /// A bad batch below the head, or where an interrupted write is impossible.
    #[error("record {index} (byte {offset} of its segment): {fault}")]
    Damaged {
        /// The index of the first missing record.
        index: u64,
        /// The byte offset in the segment.
        offset: usize,
        /// The defect.
        fault: BatchFault,
    },
    /// The records are whole, but differ from the acknowledged ones.
    #[error("the root over the first {size} records is not the one that was acknowledged")]
    Head {
        /// The size with the wrong root.
        size: u64,
    },
    /// The callback did not accept a record.
    #[error("record {index}: {fault}")]
    Record {
        /// Its index.
        index: u64,
        /// The offset of its batch.
        offset: usize,
        /// The callback's reason.
        fault: E,
    },
}

/// An acknowledged size of the log, with its root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcknowledgedTree {
    /// The number of records.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

impl AcknowledgedTree {
    /// The largest size of `marks`; 0 where there are none.
    #[must_use]
    pub fn largest(marks: &[Self]) -> u64 {
        let mut largest = 0;
        for mark in marks {
            largest = mark.size.max(largest);
        }
        largest
    }
}

/// The content of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentContent {
    /// The tree after its last batch.
    pub tree: Tree,
    /// The end of its last batch, with padding. The next batch begins here.
    pub end: usize,
    /// The end of the last acknowledged batch. Whether later batches were synced is unknown.
    pub acknowledged_end: usize,
    /// Bytes that an interrupted write left after `end`, up to the last one that is not zero. 0
    /// where there are none.
    pub torn: usize,
}

impl SegmentContent {
    /// The fault of the batch that begins at the end of the content so far.
    const fn damaged<E>(&self, fault: BatchFault) -> SegmentFault<E> {
        SegmentFault::Damaged { index: self.tree.size(), offset: self.end, fault }
    }
}

/// Reads a segment that follows `tree`, and passes each record with its index to `each`. Everything
/// up to the largest of the `marks` must be whole and have their roots. Every segment but the
/// `last` must be whole too. After both, one interrupted write may follow.
///
/// # Errors
/// The first defect.
pub fn walk<E>(
    segment: &[u8],
    tree: &Tree,
    marks: &[AcknowledgedTree],
    last: bool,
    mut each: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<SegmentContent, SegmentFault<E>> {
    let mut walk = SegmentContent { tree: tree.clone(), end: 0, acknowledged_end: 0, torn: 0 };
    let acknowledged = AcknowledgedTree::largest(marks);
    loop {
        let rest = segment.get(walk.end..).unwrap_or_default();
        let fault = match Whole::read(rest) {
            Ok(batch) => {
                let after = batch.follow(&walk.tree).map_err(|fault| walk.damaged(fault))?;
                // The head and checkpoints are written only at a batch's end, so a mark inside a
                // batch is wrong.
                for mark in marks {
                    let within = walk.tree.size() < mark.size && mark.size <= after.size();
                    if within && (mark.size, mark.root) != (after.size(), after.root()) {
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
            Err(fault) => fault,
        };
        // Bytes after the last batch. Only zeros end the segment.
        let Some(last_byte) = rest.iter().rposition(|&byte| byte != 0) else { return Ok(walk) };
        if walk.tree.size() < acknowledged || !last {
            return Err(walk.damaged(fault));
        }
        let bytes = last_byte + 1;
        // The writer waits for each write. So at most one write was in progress, and no batch
        // follows it.
        if bytes > BATCH_BYTES_MAX
            || (1..rest.len().div_ceil(SECTOR_BYTES)).any(|sector| whole_at(rest, sector))
        {
            return Err(walk.damaged(BatchFault::Leftover));
        }
        walk.torn = bytes;
        return Ok(walk);
    }
}

/// The end of the batch that reaches `size` records, with padding, and the number of records up to
/// there. With fewer records, the end of the last whole batch. For a copy of a segment that may be
/// written at the same time: the bytes after that may be torn.
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

/// Whether a whole batch begins at this sector.
fn whole_at(bytes: &[u8], sector: usize) -> bool {
    let Some(rest) = bytes.get(sector * SECTOR_BYTES..) else { return false };
    Whole::read(rest).is_ok()
}

/// The length with padding to the next sector.
const fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(SECTOR_BYTES)
}

/// A batch with a correct header and trailer. Its position in the log is not checked yet.
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
    /// Decodes the batch at the start of `bytes`.
    fn read(bytes: &'a [u8]) -> Result<Self, BatchFault> {
        Self::parts(bytes).ok_or(BatchFault::Incomplete)
    }

    /// Decodes a batch; `None` where it is incomplete or changed.
    fn parts(bytes: &'a [u8]) -> Option<Self> {
        let mut at = Cursor(bytes);
        let magic: [u8; 8] = at.array()?;
        let first = u64::from_be_bytes(at.array()?);
        let count = u32::from_be_bytes(at.array()?);
        let length = usize::try_from(u32::from_be_bytes(at.array()?)).ok()?;
        // The header has its own checksum, so that a length from a torn header is never used.
        let sum = crc32c::crc32c(bytes.get(..HEADER_BYTES - 4)?);
        if magic != *MAGIC || u32::from_be_bytes(at.array()?) != sum {
            return None;
        }
        let frames = at.take(length)?;
        let size = u64::from_be_bytes(at.array()?);
        let root = at.array()?;
        let digest: [u8; 32] = at.array()?;
        let end = HEADER_BYTES + length + TRAILER_BYTES;
        // The hash covers the whole batch but its padding, so a torn batch fails here.
        if padded(end) > BATCH_BYTES_MAX || Sha256::digest(bytes.get(..end - 32)?)[..] != digest {
            return None;
        }
        let padding = bytes.get(end..padded(end))?;
        Some(Self { first, count, frames, size, root, padding, padded: padded(end) })
    }

    /// The tree after this batch, if the batch follows `tree`.
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
            // An empty batch would let two different files have the same records.
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

    /// The records of the batch. A wrong frame length ends the iteration; `follow` reports it.
    fn records(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut at = Cursor(self.frames);
        std::iter::from_fn(move || {
            let length = u16::from_be_bytes(at.array()?);
            at.take(usize::from(length))
        })
    }
}

/// A parser that takes bytes from the front.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    /// Takes `count` bytes; `None` where fewer are left.
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(front)
    }

    /// Takes `N` bytes as an array.
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
}
