//! A budget of frames for each HTTP/2 connection against floods (RFC 9113 section 10.5).
//!
//! The HTTP/2 library answers or drops control frames as fast as they arrive, and does not limit
//! their rate. This scanner reads the nine bytes of each frame header (section 4.1) in both
//! directions, without a copy.
//!
//! Each frame from the peer costs one, except `DATA`. While a request's stream is open, flow
//! control and the largest body limit its `DATA`: large frames are free, small ones cost a part.
//! After that only this budget limits it: the library drops the bytes and returns their window.
//!
//! Frames to the peer earn credit, because an honest client answers them. It sends `WINDOW_UPDATE`
//! for `DATA`, acknowledgements for `SETTINGS` and `PING`, `RST_STREAM` for an answer that it no
//! longer wants.

use std::collections::BTreeSet;

use tokio::time::Instant;

/// Frames that a peer may send at once without credit.
const BURST: u32 = 1000;
/// Frames per second that a peer may send permanently without credit.
const REFILL: u32 = 200;
/// The largest credit, in frames.
const CREDIT_MAX: u32 = 1 << 20;
/// Credit for each answer's `HEADERS`: for the request's own, a reset and a `WINDOW_UPDATE`.
const CREDIT_ANSWER: u32 = 3;
/// Credit for each `DATA`: it covers a `WINDOW_UPDATE` for the stream and one for the connection.
const CREDIT_DATA: u32 = 2;
/// Bytes of `DATA` that earn one more: a client may return a large frame's window in pieces.
const CREDIT_BYTES: u32 = 1024;
/// A `DATA` frame with this many body bytes or more is free while its stream is open.
const DATA_FREE: u32 = 256;
/// Bytes of one `DATA` that padding may use (section 6.1), including the byte with its length.
const PADDING_MAX: u32 = 256;
/// Parts that make up the cost of one frame.
const WHOLE: u32 = 256;
/// The cost of a smaller `DATA` on an open stream, in parts: a body may come in small pieces.
const DATA_SMALL: u32 = 1;
/// The cost of `DATA` on an ended stream, in parts: one window may still be in transit then.
const DATA_LATE: u32 = 32;
/// Open streams that the scanner tracks. The library refuses streams above a much lower number.
/// `DATA` on further streams costs as if they had ended.
const OPEN_MAX: usize = 1024;
/// The largest header block in bytes, with `CONTINUATION` frames. The library's limit is lower.
const BLOCK_MAX: u32 = 256 << 10;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
/// The flag `END_STREAM` of `DATA` and `HEADERS`. `ACK` of `SETTINGS` and `PING` is the same bit.
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// The flag of `DATA` with padding after the body.
const PADDED: u8 = 8;
/// The error code `ENHANCE_YOUR_CALM` (section 7).
const CALM: u8 = 0xb;
const HEADER: usize = 9;

/// The peer sent more control frames than its budget allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more HTTP/2 control frames than the connection's budget allows")]
pub struct Flood;

/// The fields of a frame header (section 4.1).
#[derive(Clone, Copy)]
struct Frame {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Frame {
    const fn read([l0, l1, l2, kind, flags, s0, s1, s2, s3]: [u8; HEADER]) -> Self {
        let length = u32::from_be_bytes([0, l0, l1, l2]);
        // The highest bit is reserved and ignored (section 4.1).
        let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
        Self { length, kind, flags, stream }
    }

    const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The cost of this `DATA` from the peer, in parts. `open`: its body may still arrive.
    const fn data_cost(self, open: bool) -> u32 {
        // The real padding length is in the payload, which is not read: the largest is assumed.
        let body = self.length.saturating_sub(if self.has(PADDED) { PADDING_MAX } else { 0 });
        match (open, body) {
            // The last frame of a body may be empty.
            (true, _) if self.has(END_STREAM) => 0,
            // An empty frame moves no data. It is the cheapest flood, so it costs a whole frame.
            (_, 0) => WHOLE,
            (true, DATA_FREE..) => 0,
            (true, _) => DATA_SMALL,
            (false, _) => DATA_LATE,
        }
    }
}

/// The position of one direction of a connection, relative to its frames.
struct FrameScan {
    /// The bytes of the current header, of which `have` are read.
    header: [u8; HEADER],
    have: usize,
    /// Payload bytes to skip before the next header.
    skip: usize,
}

impl FrameScan {
    /// A position before the first frame, after `skip` other bytes.
    const fn after(skip: usize) -> Self {
        Self { header: [0; HEADER], have: 0, skip }
    }

    /// Calls `seen` for each frame header that `bytes` complete. Headers may be split at any byte.
    fn push<F>(&mut self, mut bytes: &[u8], mut seen: F) -> Result<(), Flood>
    where
        F: FnMut(Frame) -> Result<(), Flood>,
    {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            let (header, rest) =
                bytes[skipped..].split_at((HEADER - self.have).min(bytes.len() - skipped));
            self.header[self.have..self.have + header.len()].copy_from_slice(header);
            self.have += header.len();
            bytes = rest;
            if self.have == HEADER {
                let frame = Frame::read(self.header);
                self.have = 0;
                self.skip = frame.length as usize;
                seen(frame)?;
            }
        }
        Ok(())
    }

    /// Whether the next byte begins a frame header.
    const fn is_between_frames(&self) -> bool {
        self.have == 0 && self.skip == 0
    }
}

/// A token bucket of the peer's frames. It is filled only when empty, to read the clock rarely.
struct Budget {
    /// Parts of a frame's cost that are used and not charged yet.
    parts: u32,
    /// Frames that are left in the bucket.
    left: u32,
    /// Frames that are paid by frames to the peer.
    credit: u32,
    filled: Instant,
}

impl Budget {
    /// Charges one frame: first to the credit, then to the bucket. Fails if both are used up.
    fn spend(&mut self, now: impl Fn() -> Instant) -> Result<(), Flood> {
        if self.credit > 0 {
            self.credit -= 1;
            return Ok(());
        }
        if self.left == 0 {
            let now = now();
            let earned =
                now.saturating_duration_since(self.filled).as_secs_f64() * f64::from(REFILL);
            // The cast saturates: a day without frames fills the bucket to `BURST` and no further.
            self.left = (earned as u32).min(BURST);
            self.filled = now;
        }
        self.left = self.left.checked_sub(1).ok_or(Flood)?;
        Ok(())
    }

    /// Charges `parts`; each full [`WHOLE`] costs one frame.
    fn spend_parts(&mut self, parts: u32, now: impl Fn() -> Instant) -> Result<(), Flood> {
        self.parts += parts;
        if self.parts < WHOLE {
            return Ok(());
        }
        self.parts -= WHOLE;
        self.spend(now)
    }

    /// Adds credit for frames to the peer.
    fn earn(&mut self, frames: u32) {
        self.credit = (self.credit + frames).min(CREDIT_MAX);
    }
}

/// The frames of one HTTP/2 connection, in both directions.
pub struct Frames {
    incoming: FrameScan,
    outgoing: FrameScan,
    budget: Budget,
    /// The highest stream id that the peer opened.
    last_stream: u32,
    /// Requests whose bodies may still arrive: neither side has ended their streams.
    open: BTreeSet<u32>,
    /// Bytes of the open header block; none if no block is open.
    block: Option<u32>,
}

impl Frames {
    /// A connection whose first `preface` bytes belong to no frame.
    #[must_use]
    pub fn new(preface: usize) -> Self {
        let budget = Budget { parts: 0, left: BURST, credit: 0, filled: Instant::now() };
        let (incoming, outgoing) = (FrameScan::after(preface), FrameScan::after(0));
        Self { incoming, outgoing, budget, last_stream: 0, open: BTreeSet::new(), block: None }
    }

    /// Counts bytes from the peer.
    ///
    /// # Errors
    /// If the peer's budget is used up, or if one header block exceeds its limit.
    pub fn came(&mut self, bytes: &[u8]) -> Result<(), Flood> {
        self.came_at(bytes, Instant::now)
    }

    fn came_at(&mut self, bytes: &[u8], now: impl Fn() -> Instant) -> Result<(), Flood> {
        let Self { incoming, budget, last_stream, open, block, .. } = self;
        incoming.push(bytes, |frame| {
            match frame.kind {
                // A higher id opens a stream; a known id carries trailers (section 5.1.1).
                HEADERS => {
                    if frame.stream > *last_stream {
                        *last_stream = frame.stream;
                        if !frame.has(END_STREAM) && open.len() < OPEN_MAX {
                            open.insert(frame.stream);
                        }
                    } else if frame.has(END_STREAM) {
                        open.remove(&frame.stream);
                    }
                    *block = (!frame.has(END_HEADERS)).then_some(frame.length);
                }
                CONTINUATION => {
                    // Without a limit a header block could grow forever (CONTINUATION flood).
                    let whole = block.unwrap_or(0).saturating_add(frame.length);
                    if whole > BLOCK_MAX {
                        return Err(Flood);
                    }
                    *block = (!frame.has(END_HEADERS)).then_some(whole);
                }
                DATA => {
                    let cost = frame.data_cost(open.contains(&frame.stream));
                    if frame.has(END_STREAM) {
                        open.remove(&frame.stream);
                    }
                    return budget.spend_parts(cost, &now);
                }
                RST_STREAM => {
                    open.remove(&frame.stream);
                }
                _ => {}
            }
            budget.spend(&now)
        })
    }

    /// Counts bytes to the peer.
    pub fn went(&mut self, bytes: &[u8]) {
        let Self { outgoing, budget, open, .. } = self;
        let counted = outgoing.push(bytes, |frame| {
            // The answer may end before the request's body: from then on its `DATA` costs.
            if frame.kind == RST_STREAM
                || matches!(frame.kind, HEADERS | DATA) && frame.has(END_STREAM)
            {
                open.remove(&frame.stream);
            }
            budget.earn(match frame.kind {
                HEADERS => CREDIT_ANSWER,
                DATA => CREDIT_DATA + frame.length / CREDIT_BYTES,
                // A peer sends no frame in reply to an acknowledgement, so it earns no credit.
                SETTINGS | PING if !frame.has(ACK) => 1,
                _ => 0,
            });
            Ok(())
        });
        debug_assert!(counted.is_ok(), "what goes out is not refused");
    }

    /// True while a header block has begun and not ended.
    #[must_use]
    pub const fn is_in_head(&self) -> bool {
        self.block.is_some()
    }

    /// The `GOAWAY` frame that reports the flood, if the next byte to the peer can begin a frame.
    #[must_use]
    pub fn farewell(&self) -> Option<[u8; 17]> {
        // Written inside another frame, its bytes would be read as that frame's payload.
        self.outgoing.is_between_frames().then(|| {
            let [s0, s1, s2, s3] = self.last_stream.to_be_bytes();
            [0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, s0, s1, s2, s3, 0, 0, 0, CALM]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, flags: u8, stream: u32, length: usize) -> Vec<u8> {
        let mut bytes = vec![0, (length >> 8) as u8, length as u8, kind, flags];
        bytes.extend(stream.to_be_bytes());
        bytes.resize(HEADER + length, 0);
        bytes
    }

    fn sent(frames: &mut Frames, bytes: &[u8]) -> Result<(), Flood> {
        let now = frames.budget.filled;
        frames.came_at(bytes, || now)
    }

    #[test]
    fn every_control_frame_is_counted_however_its_bytes_are_split() {
        for kind in [2, RST_STREAM, SETTINGS, 5, PING, GOAWAY, WINDOW_UPDATE, 42, DATA] {
            for piece in [1, 7, 9, 1024] {
                let flood: Vec<u8> =
                    std::iter::repeat_n(frame(kind, 0, 1, usize::from(kind) % 9), BURST as usize)
                        .flatten()
                        .collect();
                let mut frames = Frames::new(24);
                sent(&mut frames, &[0; 24]).expect("preface");
                for bytes in flood.chunks(piece) {
                    sent(&mut frames, bytes).expect("the burst is free");
                }
                assert_eq!(sent(&mut frames, &frame(kind, 0, 1, 0)), Err(Flood), "{kind}");
            }
        }
    }

    #[test]
    fn a_rest_fills_the_bucket_and_no_more() {
        let mut frames = Frames::new(0);
        let ping = frame(PING, 0, 0, 8);
        for _ in 0..BURST {
            sent(&mut frames, &ping).expect("burst");
        }
        let later = frames.budget.filled + Duration::from_secs(24 * 3600);
        for _ in 0..BURST {
            frames.came_at(&ping, || later).expect("filled again");
        }
        assert_eq!(frames.came_at(&ping, || later), Err(Flood));
        let second = later + Duration::from_secs(1);
        for _ in 0..REFILL {
            frames.came_at(&ping, || second).expect("a second's worth");
        }
        assert_eq!(frames.came_at(&ping, || second), Err(Flood));
    }

    #[test]
    fn what_answers_us_is_free() {
        let mut frames = Frames::new(0);
        for round in 0..100_000_u32 {
            let stream = 2 * round + 1;
            let ask = [
                frame(HEADERS, END_HEADERS, stream, 40),
                frame(DATA, 0, stream, 1000),
                frame(DATA, END_STREAM, stream, 80),
            ];
            sent(&mut frames, &ask.concat()).expect("a request");
            frames.went(
                &[frame(HEADERS, END_HEADERS, stream, 90), frame(DATA, 0, stream, 20)].concat(),
            );
            let updates = [
                frame(WINDOW_UPDATE, 0, stream, 4),
                frame(WINDOW_UPDATE, 0, 0, 4),
                frame(RST_STREAM, 0, stream, 4),
            ];
            sent(&mut frames, &updates.concat()).expect("what an honest client sends");
        }
    }

    /// How many times `bytes` pass, of at most `most` attempts.
    fn passed(frames: &mut Frames, bytes: &[u8], most: usize) -> usize {
        (0..most).take_while(|_| sent(frames, bytes).is_ok()).count()
    }

    #[test]
    fn data_on_a_stream_that_was_answered_is_counted() {
        let endings = [
            frame(HEADERS, END_HEADERS | END_STREAM, 1, 9),
            frame(DATA, END_STREAM, 1, 9),
            frame(RST_STREAM, 0, 1, 4),
        ];
        for ending in endings {
            for length in [1, 255, 256, 16 << 10] {
                let mut frames = Frames::new(0);
                sent(&mut frames, &frame(HEADERS, END_HEADERS, 1, 40)).expect("a request");
                frames.went(&ending);
                let taken = passed(&mut frames, &frame(DATA, 0, 1, length), 100_000);
                // One window of the stream may have been in transit, in pieces of any size.
                assert!((1000..10_000).contains(&taken), "{taken} of {length} bytes");
            }
        }
    }

    #[test]
    fn data_of_a_request_that_the_peer_ended_is_counted() {
        for ending in [
            frame(DATA, END_STREAM, 1, 9),
            frame(RST_STREAM, 0, 1, 4),
            frame(HEADERS, END_HEADERS | END_STREAM, 1, 4),
        ] {
            let mut frames = Frames::new(0);
            sent(&mut frames, &[frame(HEADERS, END_HEADERS, 1, 40), ending].concat())
                .expect("a request");
            assert!(passed(&mut frames, &frame(DATA, 0, 1, 256), 100_000) < 10_000);
        }
    }

    #[test]
    fn a_body_in_small_pieces_passes() {
        let mut frames = Frames::new(0);
        sent(&mut frames, &frame(HEADERS, END_HEADERS, 1, 40)).expect("a request");
        assert_eq!(passed(&mut frames, &frame(DATA, 0, 1, 100), 50_000), 50_000);
        assert_eq!(passed(&mut frames, &frame(DATA, 0, 1, 16 << 10), 100_000), 100_000);
        sent(&mut frames, &frame(DATA, END_STREAM, 1, 0)).expect("its end");
        let mut frames = Frames::new(0);
        sent(&mut frames, &frame(HEADERS, END_HEADERS, 1, 40)).expect("a request");
        assert!(
            passed(&mut frames, &frame(DATA, 0, 1, 1), 1 << 20) < 300_000,
            "they are not free for ever"
        );
    }

    #[test]
    fn padding_is_no_body() {
        let mut frames = Frames::new(0);
        sent(&mut frames, &frame(HEADERS, END_HEADERS, 1, 40)).expect("a request");
        assert!(passed(&mut frames, &frame(DATA, PADDED, 1, 256), 100_000) < 2_000);
    }

    #[test]
    fn streams_that_are_open_are_known_up_to_a_number() {
        let mut frames = Frames::new(0);
        frames.budget.credit = CREDIT_MAX;
        for round in 0..100_000 {
            sent(&mut frames, &frame(HEADERS, END_HEADERS, 2 * round + 1, 40)).expect("credit");
        }
        assert_eq!(frames.open.len(), OPEN_MAX);
    }

    #[test]
    fn requests_that_are_reset_at_once_are_counted() {
        let mut frames = Frames::new(0);
        let reset = |stream| {
            [frame(HEADERS, END_HEADERS | END_STREAM, stream, 40), frame(RST_STREAM, 0, stream, 4)]
                .concat()
        };
        let pairs =
            (0..BURST).take_while(|round| sent(&mut frames, &reset(2 * round + 1)).is_ok()).count();
        assert_eq!(pairs, BURST as usize / 2);
    }

    #[test]
    fn acknowledgements_of_ours_earn_nothing() {
        let mut frames = Frames::new(0);
        frames.went(
            &[frame(PING, ACK, 0, 8), frame(SETTINGS, ACK, 0, 0), frame(WINDOW_UPDATE, 0, 0, 4)]
                .concat(),
        );
        assert_eq!(frames.budget.credit, 0);
        frames.went(&[frame(PING, 0, 0, 8), frame(SETTINGS, 0, 0, 6)].concat());
        assert_eq!(frames.budget.credit, 2);
    }

    #[test]
    fn a_header_block_without_an_end_is_bounded() {
        let mut frames = Frames::new(0);
        sent(&mut frames, &frame(HEADERS, 0, 1, 100)).expect("the first of it");
        assert!(frames.is_in_head());
        let more = frame(CONTINUATION, 0, 1, 16 << 10);
        let taken = (0..100).take_while(|_| sent(&mut frames, &more).is_ok()).count();
        assert_eq!(taken, 15);
    }

    #[test]
    fn the_last_word_stands_between_frames() {
        let mut frames = Frames::new(0);
        sent(&mut frames, &frame(HEADERS, END_HEADERS, 7, 4)).expect("a request");
        frames.went(&frame(DATA, 0, 7, 10)[..12]);
        assert_eq!(frames.farewell(), None);
        frames.went(&[0; 7]);
        assert_eq!(
            frames.farewell(),
            Some([0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, CALM])
        );
    }
}
