//! The head: how much of the log was acknowledged. It is in another folder than the log, so that a
//! log that lost its end is detected.
//!
//! The file has two slots for the head, which are written in turn. A torn write leaves the other
//! slot intact. A slot is text: a title, the log's origin, its size, its root, the write's number,
//! and the SHA-256 of these lines. Line feeds fill the rest. Two slots for the newest checkpoint
//! follow. Such a slot has a title, the write's number, the SHA-256 of that number's line and the
//! note, and the note. Zeros fill the rest.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use crate::merkle::Hash;

/// Bytes of a slot: one sector, which a disk writes completely or not.
pub const SLOT_BYTES: usize = 512;
/// Bytes of a slot for a note.
pub const NOTE_SLOT_BYTES: usize = 8_192;
/// Bytes of the file.
pub const HEAD_BYTES: usize = 2 * SLOT_BYTES + 2 * NOTE_SLOT_BYTES;
/// The maximum length of an origin, in bytes.
pub const ORIGIN_BYTES_MAX: usize = 240;

/// The first line of a head's slot, with the version of its format.
const TITLE: &str = "token-shield head 1";
/// The first line of a note's slot.
const NOTE_TITLE: &str = "token-shield note 1";

/// The acknowledged part of a log. It may be smaller than the log, but never larger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The origin of the log: `<gateway name>/e<epoch>`, at most [`ORIGIN_BYTES_MAX`] bytes,
    /// without white space.
    pub origin: String,
    /// The number of records.
    pub size: u64,
    /// The root of the tree over them.
    pub root: Hash,
    /// The number of writes of the head. The slot with the larger number is newer.
    pub write: u64,
}

/// The bytes are not a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither of its two slots is whole")]
pub struct HeadFault;

impl Head {
    /// The bytes of this head's slot.
    #[must_use]
    pub fn encode(&self) -> [u8; SLOT_BYTES] {
        let mut text = format!(
            "{TITLE}\n{}\n{}\n{}\n{}\n",
            self.origin,
            self.size,
            STANDARD.encode(self.root),
            self.write
        );
        let sum = STANDARD.encode(Sha256::digest(text.as_bytes()));
        text.push_str(&sum);
        let mut slot = [b'\n'; SLOT_BYTES];
        // An origin within its limit always fits. The other lines have a bounded length.
        for (place, byte) in slot.iter_mut().zip(text.bytes()) {
            *place = byte;
        }
        slot
    }

    /// The offset of this head's slot in the file.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        if self.write.is_multiple_of(2) { 0 } else { SLOT_BYTES as u64 }
    }

    /// The whole new file: this head in its slot, and the other slot blank.
    #[must_use]
    pub fn first_file(&self) -> [u8; HEAD_BYTES] {
        let mut file = [0; HEAD_BYTES];
        let (heads, _) = file.split_at_mut(2 * SLOT_BYTES);
        heads.fill(b'\n');
        let (even, odd) = heads.split_at_mut(SLOT_BYTES);
        if self.write.is_multiple_of(2) {
            even.copy_from_slice(&self.encode());
        } else {
            odd.copy_from_slice(&self.encode());
        }
        file
    }

    /// The newest head in a file.
    ///
    /// # Errors
    /// When no slot is whole, or the file has another length.
    pub fn decode(file: &[u8]) -> Result<Self, HeadFault> {
        if file.len() != HEAD_BYTES {
            return Err(HeadFault);
        }
        let slots = file.chunks_exact(SLOT_BYTES).zip([0, SLOT_BYTES as u64]);
        let mut newest: Option<Self> = None;
        for (slot, offset) in slots {
            let Some(head) = Self::slot(slot) else { continue };
            // A slot is valid only at its own offset: a head copied into the other slot does not
            // count.
            if head.offset() != offset {
                continue;
            }
            match &newest {
                Some(known) if known.write > head.write => {}
                _ => newest = Some(head),
            }
        }
        newest.ok_or(HeadFault)
    }

    /// Decodes one slot; `None` where it is torn or blank.
    fn slot(slot: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(slot).ok()?.lines().skip(1);
        let head = Self {
            origin: lines.next()?.to_owned(),
            size: lines.next()?.parse().ok()?,
            root: STANDARD.decode(lines.next()?).ok()?.try_into().ok()?,
            write: lines.next()?.parse().ok()?,
        };
        // One comparison checks the title, the checksum, the form of the numbers, and the filling.
        (head.encode() == slot).then_some(head)
    }
}

/// The newest checkpoint in the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadNote {
    /// The note.
    pub note: String,
    /// The number of writes of a note.
    pub write: u64,
}

impl HeadNote {
    /// The bytes of this note's slot.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let sum = STANDARD.encode(Sha256::digest(format!("{}\n{}", self.write, self.note)));
        let mut slot = format!("{NOTE_TITLE}\n{}\n{sum}\n{}", self.write, self.note).into_bytes();
        // A note within its limit always fits.
        slot.resize(NOTE_SLOT_BYTES, 0);
        slot
    }

    /// The offset of this note's slot in the file.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        let heads = 2 * SLOT_BYTES as u64;
        if self.write.is_multiple_of(2) { heads } else { heads + NOTE_SLOT_BYTES as u64 }
    }

    /// The newest note in a file; `None` where there is none yet.
    #[must_use]
    pub fn decode(file: &[u8]) -> Option<Self> {
        let slots = file.get(2 * SLOT_BYTES..)?.chunks_exact(NOTE_SLOT_BYTES);
        slots.filter_map(Self::slot).max_by_key(|note| note.write)
    }

    /// Decodes one slot; `None` where it is torn or blank.
    fn slot(slot: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(slot).ok()?.trim_end_matches('\0');
        let mut lines = text.splitn(4, '\n').skip(1);
        let write = lines.next()?.parse().ok()?;
        let note = Self { note: lines.nth(1)?.to_owned(), write };
        (note.encode() == slot).then_some(note)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(write: u64) -> Head {
        Head { origin: "gw.example/e000001".to_owned(), size: write * 3, root: [7; 32], write }
    }

    fn file(older: &Head, newer: &Head) -> Vec<u8> {
        let mut file = older.first_file().to_vec();
        let offset = usize::try_from(newer.offset()).expect("small");
        file[offset..offset + SLOT_BYTES].copy_from_slice(&newer.encode());
        file
    }

    #[test]
    fn the_newer_slot_counts() {
        assert_eq!(Head::decode(&head(1).first_file()), Ok(head(1)));
        assert_eq!(Head::decode(&file(&head(1), &head(2))), Ok(head(2)));
        assert_eq!(Head::decode(&file(&head(2), &head(3))), Ok(head(3)));
        let longest = Head {
            origin: "x".repeat(ORIGIN_BYTES_MAX),
            size: u64::MAX,
            root: [255; 32],
            write: u64::MAX,
        };
        assert_eq!(Head::decode(&longest.first_file()), Ok(longest));
    }

    #[test]
    fn the_newest_whole_note_counts() {
        let note = |write: u64| HeadNote { note: format!("text {write}\n\n\u{2014} x y\n"), write };
        let mut file = head(1).first_file().to_vec();
        assert_eq!(HeadNote::decode(&file), None);
        for write in [1, 2, 3] {
            let offset = usize::try_from(note(write).offset()).expect("small");
            file[offset..offset + NOTE_SLOT_BYTES].copy_from_slice(&note(write).encode());
            assert_eq!(HeadNote::decode(&file), Some(note(write)));
        }
        let newest = usize::try_from(note(3).offset()).expect("small");
        for place in (0..100).chain([NOTE_SLOT_BYTES - 1]) {
            let mut torn = file.clone();
            torn[newest + place] ^= 1;
            assert_eq!(HeadNote::decode(&torn), Some(note(2)), "byte {place}");
        }
        assert_eq!(Head::decode(&file), Ok(head(1)));
    }

    #[test]
    fn a_flipped_bit_falls_back_to_the_older_slot_or_to_nothing() {
        let whole = file(&head(4), &head(5));
        for place in 0..2 * SLOT_BYTES * 8 {
            let mut flipped = whole.clone();
            flipped[place / 8] ^= 1 << (place % 8);
            let expect = if place / 8 < SLOT_BYTES { head(5) } else { head(4) };
            assert_eq!(Head::decode(&flipped), Ok(expect), "bit {place}");
        }
        assert_eq!(Head::decode(&[b'\n'; HEAD_BYTES]), Err(HeadFault));
        assert_eq!(Head::decode(&whole[..HEAD_BYTES - 1]), Err(HeadFault));
    }
}
