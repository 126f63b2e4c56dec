//! Request bodies in the content coding `zstd` (RFC 8878, and RFC 9659 for its window).

use bytes::Bytes;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use crate::refusal::{Code, Refusal};

/// The largest window that a decoder of this coding has to support (RFC 9659, section 3). The
/// decoder keeps as many bytes in memory.
const WINDOW_MAX: u64 = 8 << 20;

/// Decodes a body that is one frame. Calls `takes` before each block with the bytes so far and the
/// bytes of the block, so that a short body cannot become a large one.
///
/// # Errors
/// `body-encoded` if it is not one complete frame; the refusal of `takes`.
pub(super) fn decoded(
    body: &[u8],
    mut takes: impl FnMut(usize, usize) -> Result<(), Refusal>,
) -> Result<Bytes, Refusal> {
    let (mut rest, mut decoder) = (body, FrameDecoder::new());
    decoder.set_max_window_size(WINDOW_MAX);
    decoder.reset(&mut rest).map_err(invalid)?;
    let mut whole = Vec::new();
    loop {
        // One block has at most 128 KiB (RFC 8878, section 3.1.1.2.3).
        let ends = decoder
            .decode_blocks(&mut rest, BlockDecodingStrategy::UptoBlocks(1))
            .map_err(invalid)?;
        let more = decoder.can_collect();
        takes(whole.len(), more)?;
        if let Some(bytes) = decoder.collect() {
            whole.extend_from_slice(&bytes);
        }
        if ends {
            break;
        }
    }
    // Bytes after the frame could be another one, which other decoders would add.
    if rest.is_empty() { Ok(Bytes::from(whole)) } else { Err(invalid("bytes follow its frame")) }
}

/// The refusal for a body that is not one frame.
fn invalid(why: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::BodyEncoded)
        .saying("The body is not one frame of zstd with a window of at most 8 MiB.")
        .because(why)
}

#[cfg(test)]
mod tests {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn packed(bytes: &[u8]) -> Vec<u8> {
        compress_to_vec(bytes, CompressionLevel::Fastest)
    }

    /// Decodes at most `max` bytes. Also checks that no more than one window and one block were
    /// decoded beyond them.
    #[track_caller]
    fn check(body: &[u8], max: usize, expect: Result<&[u8], Code>) {
        let mut asked = 0;
        let decoded = decoded(body, |sum, more| {
            asked = sum + more;
            if asked > max { Err(Code::BodyTooLarge.into()) } else { Ok(()) }
        });
        assert!(asked <= max + (WINDOW_MAX as usize) + (128 << 10), "{asked}");
        match (&decoded, expect) {
            (Ok(bytes), Ok(expect)) => assert_eq!(bytes, expect),
            (Err(refusal), Err(code)) => assert_eq!(refusal.code, code),
            _ => panic!("{decoded:?} is not {expect:?}"),
        }
    }

    #[test]
    fn one_frame_is_decoded() {
        let text = br#"{"model":"echo","input":"hi"}"#.repeat(9_000);
        check(&packed(&text), text.len(), Ok(&text));
        check(&packed(&text), text.len() - 1, Err(Code::BodyTooLarge));
        check(&packed(b""), 0, Ok(b""));
    }

    #[test]
    fn a_short_body_does_not_become_a_large_one() {
        let bomb = packed(&vec![b' '; 64 << 20]);
        assert!(bomb.len() < 1 << 20, "{}", bomb.len());
        check(&bomb, 1 << 20, Err(Code::BodyTooLarge));
    }

    #[test]
    fn anything_else_is_refused() {
        let frame = packed(b"hello");
        check(frame.get(..frame.len() - 1).expect("bytes"), 99, Err(Code::BodyEncoded));
        check(&[&frame[..], &frame].concat(), 99, Err(Code::BodyEncoded));
        check(b"{}", 99, Err(Code::BodyEncoded));
        // A frame without a segment of its own, with a window of 16 MiB, and one empty block.
        let wide = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 14 << 3, 0x01, 0x00, 0x00];
        check(&wide, 99, Err(Code::BodyEncoded));
        let narrow = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 13 << 3, 0x01, 0x00, 0x00];
        check(&narrow, 99, Ok(b""));
    }
}
