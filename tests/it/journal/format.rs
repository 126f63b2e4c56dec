//! The format of the journal: every truncation and every flipped bit, against every head.

use std::convert::Infallible;

use token_shield::audit::format::journal::{
    AcknowledgedTree, BATCH_BYTES_MAX, BatchFault, BatchFull, Builder, SegmentContent,
    SegmentFault, walk,
};
use token_shield::merkle::Tree;

/// A segment with a few batches, and then zeros.
struct Segment {
    bytes: Vec<u8>,
    /// The log's tree after each batch, and where the batch ended. The first entry is the empty
    /// log.
    marks: Vec<(AcknowledgedTree, usize)>,
}

fn mark(tree: &Tree) -> AcknowledgedTree {
    AcknowledgedTree { size: tree.size(), root: tree.root() }
}

fn segment() -> Segment {
    let mut tree = Tree::new();
    let mut bytes = Vec::new();
    let mut marks = vec![(mark(&tree), 0)];
    // One batch almost fills its sector, one has several sectors, and one has an empty record.
    for records in [
        vec![vec![b'a'; 380]],
        vec![vec![b'b'; 700], vec![b'c'; 1]],
        vec![vec![], vec![b'd'; 60], vec![b'e'; 9]],
    ] {
        let mut batch = Builder::new(tree);
        for record in &records {
            batch.push(record).expect("room");
        }
        let (batch, after) = batch.finish();
        bytes.extend(batch);
        tree = after;
        marks.push((mark(&tree), bytes.len()));
    }
    bytes.resize(bytes.len() + 2048, 0);
    Segment { bytes, marks }
}

fn read(bytes: &[u8], head: &AcknowledgedTree) -> Result<SegmentContent, SegmentFault<Infallible>> {
    walk(bytes, &Tree::new(), &[*head], true, |_, _| Ok(()))
}

#[test]
fn a_whole_segment_is_read_from_every_head() {
    let Segment { bytes, marks } = segment();
    let mut records = Vec::new();
    for (head, acknowledged_end) in &marks {
        records.clear();
        let found = walk(&bytes, &Tree::new(), &[*head], true, |index, record| {
            records.push((index, record.len()));
            Ok::<_, Infallible>(())
        })
        .expect("whole");
        assert_eq!((mark(&found.tree), found.end), marks[3]);
        assert_eq!((found.acknowledged_end, found.torn), (*acknowledged_end, 0));
    }
    assert_eq!(records, [(0, 380), (1, 700), (2, 1), (3, 0), (4, 60), (5, 9)]);
}

#[test]
fn a_truncation_loses_nothing_acknowledged_unnoticed() {
    let Segment { bytes, marks } = segment();
    for (head, acknowledged_end) in &marks {
        for length in 0..bytes.len() {
            let found = read(&bytes[..length], head);
            let (whole, end) =
                marks.iter().rev().find(|(_, end)| *end <= length).expect("the first is 0");
            match found {
                Ok(found) => {
                    assert_eq!(
                        (mark(&found.tree), found.end),
                        (*whole, *end),
                        "head {}, length {length}",
                        head.size
                    );
                    let left = bytes[*end..length]
                        .iter()
                        .rposition(|&byte| byte != 0)
                        .map_or(0, |place| place + 1);
                    assert_eq!(found.torn, left);
                    // A segment that ends with a batch looks complete. Its number of records shows
                    // that some are missing.
                    assert_eq!(found.tree.size() >= head.size, length >= *acknowledged_end);
                    assert!(length >= *acknowledged_end || length == *end);
                }
                Err(SegmentFault::Damaged { index, .. }) => {
                    assert!(length < *acknowledged_end, "head {}, length {length}", head.size);
                    assert_eq!(index, whole.size);
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[test]
fn a_flipped_bit_is_noticed_or_was_never_acknowledged() {
    let Segment { bytes, marks } = segment();
    let (last_start, last_end) = (marks[2].1, marks[3].1);
    for (head, acknowledged_end) in &marks {
        for place in 0..bytes.len() {
            for bit in [1, 0x80] {
                let mut flipped = bytes.clone();
                flipped[place] ^= bit;
                let found = read(&flipped, head);
                let place = format!("head {}, byte {place}, bit {bit}: {found:?}", head.size);
                match (
                    found,
                    flipped.iter().zip(&bytes).position(|(a, b)| a != b).expect("flipped"),
                ) {
                    (found, at) if at < *acknowledged_end || at < last_start => {
                        assert!(found.is_err(), "{place}")
                    }
                    // The last batch is not acknowledged. It looks like an interrupted write.
                    (Ok(found), at) if at < last_end => {
                        assert_eq!(mark(&found.tree), marks[2].0, "{place}");
                        assert!(found.torn > 0);
                    }
                    (Err(SegmentFault::Damaged { fault, .. }), at) if at < last_end => {
                        assert_eq!(fault, BatchFault::Padding, "{place}");
                    }
                    (Ok(found), at) => {
                        assert_eq!(
                            (mark(&found.tree), found.torn),
                            (marks[3].0, at - last_end + 1),
                            "{place}"
                        );
                    }
                    (Err(_), _) => panic!("{place}"),
                }
            }
        }
    }
}

#[track_caller]
fn refuses(
    bytes: &[u8],
    tree: &Tree,
    head: &AcknowledgedTree,
    last: bool,
    expect: SegmentFault<Infallible>,
) {
    assert_eq!(walk(bytes, tree, &[*head], last, |_, _| Ok(())), Err(expect));
}

#[test]
fn batches_that_are_whole_but_belong_elsewhere_are_refused() {
    let Segment { bytes, marks } = segment();
    let none = marks[0].0;
    let (first, second) = (marks[1].1, marks[2].1);
    let damaged = |index, offset, fault| SegmentFault::Damaged { index, offset, fault };
    let swapped = [&bytes[first..second], &bytes[..first]].concat();
    refuses(&swapped, &Tree::new(), &none, true, damaged(0, 0, BatchFault::Sequence));
    let twice = [&bytes[..first], &bytes[..first]].concat();
    refuses(&twice, &Tree::new(), &none, true, damaged(1, first, BatchFault::Sequence));
    // The correct index, but after another history.
    let mut other = Tree::new();
    other.push(b"another record");
    refuses(&bytes[first..], &other, &none, true, damaged(1, 0, BatchFault::Sequence));
    // Zeros with a complete batch after them are not an interrupted write.
    let mut hole = bytes.clone();
    hole[..first].fill(0);
    refuses(&hole, &Tree::new(), &none, true, damaged(0, 0, BatchFault::Leftover));
    // Only the last segment may end with an interrupted write.
    refuses(
        &bytes[..first + 100],
        &Tree::new(),
        &none,
        false,
        damaged(1, first, BatchFault::Incomplete),
    );
    let mut far = bytes[..first].to_vec();
    far.resize(first + BATCH_BYTES_MAX + 1, 0);
    far.push(1);
    refuses(&far, &Tree::new(), &none, true, damaged(1, first, BatchFault::Leftover));
}

#[test]
fn a_head_of_another_history_is_refused() {
    let Segment { bytes, marks } = segment();
    let wrong = AcknowledgedTree { root: [0; 32], ..marks[2].0 };
    refuses(&bytes, &Tree::new(), &wrong, true, SegmentFault::Head { size: 3 });
    let inside_a_batch = AcknowledgedTree { size: 2, ..marks[2].0 };
    refuses(&bytes, &Tree::new(), &inside_a_batch, true, SegmentFault::Head { size: 2 });
}

#[test]
fn a_batch_has_a_limit_and_takes_the_largest_record() {
    let mut batch = Builder::new(Tree::new());
    let largest = vec![b'x'; 65_535];
    assert_eq!(batch.push(&vec![b'x'; 65_536]), Err(BatchFull));
    assert_eq!([0; 3].map(|_| batch.push(&largest)), [Ok(0), Ok(1), Ok(2)]);
    assert_eq!(batch.push(&largest), Err(BatchFull));
    while batch.push(b"") != Err(BatchFull) {}
    let (bytes, tree) = batch.finish();
    assert!(bytes.len() == 196_608 + 512 || bytes.len() == BATCH_BYTES_MAX, "{}", bytes.len());
    assert_eq!(read(&bytes, &mark(&tree)).expect("whole").tree, tree);
}
