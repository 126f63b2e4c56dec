//! Checks that inline content begins with the signature of its media type. A server's decoder uses
//! the content and ignores the label. A playlist with the label of a video would make the decoder
//! fetch URLs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::ranges::part;

/// The number of consecutive text bytes by which content is treated as text.
const TEXT_MIN: usize = 8;
/// The number of base64 characters that are decoded: 24 bytes.
const CHARS: usize = 32;
/// The number of bytes that they hold.
const FRONT: usize = 24;

/// Whether a text has only the characters of base64.
pub(super) fn is_base64(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='))
}

/// The first bytes of base64 content. There are none if it is not base64.
fn first(content: &[u8]) -> Vec<u8> {
    // Only complete groups of 4 characters can be decoded.
    let whole = content.len().min(CHARS) / 4 * 4;
    STANDARD.decode(part(content, ..whole)).unwrap_or_default()
}

/// Whether base64 content begins as the media type requires. Text has no signature.
pub(super) fn fits(media_type: &str, content: &str) -> bool {
    let content = content.as_bytes();
    let front = first(content);
    match tagged(&front) {
        Some(tag) => {
            // Each 4 characters of base64 hold 3 bytes, so decoding can start at the end of the
            // tag.
            let after = first(part(content, tag / 3 * 4..));
            is_sound(media_type, part(&after, tag % 3..))
        }
        None => begins_as(media_type, &front),
    }
}

/// The length of the ID3 tag before a sound (ID3v2.4.0, section 3.1).
fn tagged(bytes: &[u8]) -> Option<usize> {
    let [b'I', b'D', b'3', _, _, flags, size @ ..] = bytes else { return None };
    let size = size
        .first_chunk::<4>()?
        .iter()
        // The size is "synchsafe": 7 bits in each of 4 bytes, with the high bit zero.
        .try_fold(0_usize, |size, byte| (*byte < 0x80).then(|| size << 7 | usize::from(*byte)))?;
    // Flag 0x10 announces a footer of 10 bytes.
    let footer = if flags & 0x10 == 0 { 0 } else { 10 };
    Some(10 + size + footer)
}

/// Whether the bytes after a tag are a sound of that type.
fn is_sound(media_type: &str, bytes: &[u8]) -> bool {
    matches!(media_type, "audio/mpeg" | "audio/mp3" | "audio/aac" | "audio/flac")
        && begins_as(media_type, bytes)
}

/// Whether content begins as the media type requires. A decoder skips a tag before a sound and uses
/// the bytes after it.
pub(super) fn is(media_type: &str, bytes: &[u8]) -> bool {
    match tagged(bytes) {
        Some(tag) => is_sound(media_type, part(bytes, tag..)),
        None => begins_as(media_type, bytes),
    }
}

/// Whether a signature is at an offset. It must not be empty.
fn has(bytes: &[u8], place: usize, signature: &[u8]) -> bool {
    part(bytes, place..).starts_with(signature)
}

/// Whether bytes begin with the signature of the media type. False for unknown types.
fn begins_as(media_type: &str, bytes: &[u8]) -> bool {
    match media_type {
        "image/png" => bytes.starts_with(b"\x89PNG\r\n\x1a\n"),
        "image/jpeg" | "image/jpg" | "video/jpeg" => bytes.starts_with(b"\xff\xd8\xff"),
        "image/gif" => bytes.starts_with(b"GIF87a") || bytes.starts_with(b"GIF89a"),
        "image/webp" => bytes.starts_with(b"RIFF") && has(bytes, 8, b"WEBP"),
        // The reserved bytes of the header must be zero.
        "image/bmp" => bytes.starts_with(b"BM") && has(bytes, 6, &[0; 4]),
        "audio/wav" | "audio/x-wav" | "audio/wave" => {
            bytes.starts_with(b"RIFF") && has(bytes, 8, b"WAVE")
        }
        "audio/mpeg" | "audio/mp3" => is_mpeg_audio(bytes),
        "audio/aac" => bytes.starts_with(b"ADIF") || is_mpeg_audio(bytes),
        "audio/flac" => bytes.starts_with(b"fLaC"),
        // Version 0, and the three flags of a page (RFC 3533, section 6).
        "audio/ogg" | "video/ogg" => {
            bytes.starts_with(b"OggS\0") && matches!(bytes.get(5), Some(0..=7))
        }
        "audio/webm" | "video/webm" | "video/x-matroska" => bytes.starts_with(b"\x1a\x45\xdf\xa3"),
        "audio/mp4" | "video/mp4" => has(bytes, 4, b"ftyp"),
        // Old files begin without the type atom.
        "video/quicktime" => [b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"]
            .iter()
            .any(|kind| has(bytes, 4, *kind)),
        "application/pdf" => bytes.starts_with(b"%PDF-"),
        "text/plain" => true,
        _ => false,
    }
}

/// The allowed types of content without a label.
const TYPES: [&str; 13] = [
    "image/png",
    "image/jpeg",
    "image/gif",
    "image/webp",
    "image/bmp",
    "audio/wav",
    "audio/mpeg",
    "audio/flac",
    "audio/ogg",
    "audio/webm",
    "audio/mp4",
    "audio/aac",
    "application/pdf",
];

/// Whether unlabelled content is media: it begins as a known type, or it is no text. Raw samples
/// have no signature. Playlists and manifests make decoders fetch URLs, and they are text.
pub(super) fn is_content(content: &str) -> bool {
    let front = first(content.as_bytes());
    // A playlist can follow an ID3 tag. So content with a tag must be a known sound.
    TYPES.iter().any(|media_type| fits(media_type, content))
        || !(is_text(&front) || front.starts_with(b"ID3"))
}

/// Whether raw bytes are media, as [`is_content`] decides it for base64.
pub(super) fn is_binary(bytes: &[u8]) -> bool {
    if let Some(tag) = tagged(bytes) {
        return TYPES.iter().any(|media_type| is_sound(media_type, part(bytes, tag..)));
    }
    let front = part(bytes, ..bytes.len().min(FRONT));
    TYPES.iter().any(|media_type| begins_as(media_type, front))
        || !(is_text(front) || front.starts_with(b"ID3"))
}

/// Whether bytes begin with the sync word of an MPEG audio frame or an ADTS header. `FF FE` is the
/// byte order mark of UTF-16 text; of sounds, only Layer I with a checksum begins so.
fn is_mpeg_audio(bytes: &[u8]) -> bool {
    matches!(bytes, [0xff, second, ..] if second & 0xe0 == 0xe0 && *second != 0xfe)
}

/// Whether bytes look like text: ASCII, UTF-8 with its byte order mark, or UTF-16.
fn is_text(bytes: &[u8]) -> bool {
    let marked = bytes.starts_with(b"\xef\xbb\xbf")
        || bytes.starts_with(b"\xff\xfe")
        || bytes.starts_with(b"\xfe\xff");
    marked
        || bytes.iter().take(TEXT_MIN).all(is_plain)
        || bytes.windows(TEXT_MIN).any(|run| run.iter().all(is_plain))
}

/// Whether a byte is visible ASCII or white space.
fn is_plain(byte: &u8) -> bool {
    byte.is_ascii_graphic() || byte.is_ascii_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(bytes: &[u8]) -> String {
        STANDARD.encode(bytes)
    }

    #[test]
    fn content_is_what_it_is_said_to_be() {
        for (media_type, bytes) in [
            ("image/png", &b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"[..]),
            ("image/jpeg", b"\xff\xd8\xff\xe0\0\x10JFIF"),
            ("image/gif", b"GIF89a\x01\0"),
            ("image/webp", b"RIFF\x24\0\0\0WEBPVP8 "),
            ("audio/wav", b"RIFF\x24\0\0\0WAVEfmt "),
            ("audio/mpeg", b"\xff\xfb\x90\x64"),
            ("audio/mp3", b"ID3\x04\0\0\0\0\0\x02ab\xff\xfb\x90\x64"),
            ("audio/flac", b"ID3\x04\0\x10\0\0\0\x01a3DI\x04\0\x10\0\0\0\x01fLaC"),
            ("video/mp4", b"\0\0\0\x20ftypisom"),
            ("video/webm", b"\x1a\x45\xdf\xa3\x9f"),
            ("application/pdf", b"%PDF-1.7\n%"),
            ("text/plain", b"hello"),
        ] {
            assert!(
                fits(media_type, &packed(bytes))
                    && (media_type == "text/plain" || is_content(&packed(bytes))),
                "{media_type}"
            );
        }
        assert!(is_content(&packed(&[0, 1, 0, 2, 3, 255, 1, 0, 4, 4])), "raw samples");
    }

    #[test]
    fn what_makes_a_decoder_fetch_is_no_content() {
        for text in [
            "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nhttp://x/p.m3u8\n",
            "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n",
            "<?xml version=\"1.0\"?><MPD>",
            "\u{feff}#EXTM3U\n",
            "ffconcat version 1.0\nfile http://x\n",
            "<svg xmlns=\"http://www.w3.org/2000/svg\">",
            " \n#EXTM3U",
            "http://x/",
            "ID3\u{4}\0\0\0\0\0\u{2}ab#EXTM3U\nhttp://x/p.m3u8\n",
            "ID3\u{4}\0\0\0\0\u{1}\0",
        ] {
            let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
            let marked = [&b"\xff\xfe"[..], &wide].concat();
            assert!(!is_content(&packed(&marked)), "{text:?} in UTF-16");
            assert!(!fits("audio/mpeg", &packed(&marked)), "{text:?} in UTF-16");
            let packed = packed(text.as_bytes());
            for media_type in [
                "video/mp4",
                "video/webm",
                "video/jpeg",
                "image/png",
                "audio/mpeg",
                "audio/ogg",
                "application/pdf",
            ] {
                assert!(!fits(media_type, &packed), "{media_type}: {text}");
            }
            assert!(!is_content(&packed), "{text}");
        }
        assert!(
            !fits("image/svg+xml", &packed(b"<svg")) && !fits("image/png", "") && !is_content("")
        );
    }
}
