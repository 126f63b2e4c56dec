//! `multipart/form-data` (RFC 7578): a strict reader and a writer.
//!
//! Readers of this format disagree about preambles, folded headers, escapes and boundaries that
//! occur in content. So the reader accepts only what all of them read alike, and the writer makes
//! every byte between the contents anew, with another boundary.

use memchr::memmem;

use crate::crypto::{hex, sha256};

use super::super::ranges::part;

/// The most parts of one body.
const PARTS_MAX: usize = 64;
/// The most bytes of the headers of a part.
const HEADERS_MAX: usize = 4 << 10;
/// The most bytes of a name or a file name.
const NAME_MAX: usize = 255;

/// Why a body is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FormFault {
    /// The media type has no boundary that every reader takes.
    #[error("the media type has no plain boundary")]
    Boundary,
    /// The body does not begin with the boundary.
    #[error("the body does not begin with its boundary")]
    Begin,
    /// The body has no last boundary, or bytes after it.
    #[error("the body does not end with its boundary")]
    End,
    /// Something else than a line end follows a boundary.
    #[error("a boundary occurs in the content of a part")]
    Inside,
    /// The headers of a part cannot be read.
    #[error("the headers of a part cannot be read in one way")]
    Headers,
    /// A name has characters that readers decode differently, or is too long.
    #[error("a name has quotes, escapes, slashes or control characters, or more than 255 bytes")]
    Name,
    /// There are too many parts.
    #[error("the body has more than {PARTS_MAX} parts")]
    Parts,
}

/// One part of a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FormPart<'b> {
    /// The name of the field.
    pub(super) name: &'b str,
    /// The name of the file, if the part is one.
    pub(super) file: Option<&'b str>,
    /// The media type, in lower case and without parameters.
    pub(super) media_type: Option<String>,
    /// The content.
    pub(super) content: &'b [u8],
}

/// The boundary in a media type `multipart/form-data` (RFC 2046 section 5.1.1); `None` for another
/// media type.
///
/// # Errors
/// [`FormFault::Boundary`].
pub(super) fn boundary(media_type: &str) -> Option<Result<String, FormFault>> {
    let (essence, parameters) = media_type.split_once(';').unwrap_or((media_type, ""));
    if !essence.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let mut found = None;
    for parameter in parameters.split(';') {
        let Some((name, value)) = parameter.trim().split_once('=') else { continue };
        let is_boundary = name.eq_ignore_ascii_case("boundary");
        // Some clients add a charset, which has no meaning for a form.
        if !is_boundary {
            continue;
        }
        if found.is_some() {
            return Some(Err(FormFault::Boundary));
        }
        found = Some(match value.strip_prefix('"') {
            Some(rest) => rest.strip_suffix('"').unwrap_or(""),
            None => value,
        });
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&byte);
    match found {
        Some(text) if (1..=70).contains(&text.len()) && text.bytes().all(is_plain) => {
            Some(Ok(text.to_owned()))
        }
        Some(_) | None => Some(Err(FormFault::Boundary)),
    }
}

/// Reads the parts of a body.
///
/// # Errors
/// Why not every reader would find the same parts.
pub(super) fn parts<'b>(body: &'b [u8], boundary: &str) -> Result<Vec<FormPart<'b>>, FormFault> {
    let delimiter = format!("\r\n--{boundary}");
    // The first boundary has no line end before it.
    let first = part(delimiter.as_bytes(), 2..);
    let mut rest = body.strip_prefix(first).ok_or(FormFault::Begin)?;
    let mut found = Vec::new();
    loop {
        if let Some(after) = rest.strip_prefix(b"--") {
            return if after.is_empty() || after == b"\r\n" {
                Ok(found)
            } else {
                Err(FormFault::End)
            };
        }
        // Anything else is content for a reader that compares whole lines.
        rest = rest.strip_prefix(b"\r\n").ok_or(FormFault::Inside)?;
        if found.len() == PARTS_MAX {
            return Err(FormFault::Parts);
        }
        let searched = part(rest, ..rest.len().min(HEADERS_MAX));
        let end = memmem::find(searched, b"\r\n\r\n").ok_or(FormFault::Headers)?;
        let headers = part(rest, ..end);
        rest = part(rest, end + 4..);
        let length = memmem::find(rest, delimiter.as_bytes()).ok_or(FormFault::End)?;
        found.push(headers_of(headers, part(rest, ..length))?);
        rest = part(rest, length + delimiter.len()..);
    }
}

/// Reads the headers of a part.
fn headers_of<'b>(headers: &'b [u8], content: &'b [u8]) -> Result<FormPart<'b>, FormFault> {
    let text = std::str::from_utf8(headers).map_err(|_| FormFault::Headers)?;
    let (mut disposition, mut media_type) = (None, None);
    for line in text.split("\r\n") {
        let (name, value) = line.split_once(':').ok_or(FormFault::Headers)?;
        // A folded line begins with a space (RFC 5322 section 2.2.3). Some readers join it.
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if name.is_empty() || !name.bytes().all(is_name) || value.chars().any(char::is_control) {
            return Err(FormFault::Headers);
        }
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-disposition") {
            if disposition.is_some() {
                return Err(FormFault::Headers);
            }
            disposition = Some(disposition_of(value)?);
        } else if name.eq_ignore_ascii_case("content-type") {
            if media_type.is_some() {
                return Err(FormFault::Headers);
            }
            media_type = Some(essence(value)?);
        } else if name.eq_ignore_ascii_case("content-transfer-encoding") {
            // An encoding changes the content for some readers (RFC 7578 section 4.7).
            let is_plain =
                ["binary", "8bit", "7bit"].iter().any(|one| value.eq_ignore_ascii_case(one));
            if !is_plain {
                return Err(FormFault::Headers);
            }
        }
        // All other headers are left out of the written form.
    }
    let Disposition { name, file } = disposition.ok_or(FormFault::Headers)?;
    Ok(FormPart { name, file, media_type, content })
}

/// The names in a header `Content-Disposition`.
struct Disposition<'b> {
    name: &'b str,
    file: Option<&'b str>,
}

/// Reads the value of `Content-Disposition` (RFC 7578 section 4.2).
fn disposition_of(value: &str) -> Result<Disposition<'_>, FormFault> {
    let (kind, mut rest) = value.split_once(';').ok_or(FormFault::Headers)?;
    if !kind.trim().eq_ignore_ascii_case("form-data") {
        return Err(FormFault::Headers);
    }
    let (mut name, mut file) = (None, None);
    loop {
        let (key, after) = rest.trim_start().split_once('=').ok_or(FormFault::Headers)?;
        let (value, next) = match after.strip_prefix('"') {
            // Escapes in quotes are read differently, so a backslash is no plain character.
            Some(quoted) => quoted.split_once('"').ok_or(FormFault::Headers)?,
            None => match after.find(';') {
                Some(end) => after.split_at(end),
                None => (after, ""),
            },
        };
        if !is_plain_name(value) {
            return Err(FormFault::Name);
        }
        let slot = match key.to_ascii_lowercase().as_str() {
            "name" => &mut name,
            "filename" => &mut file,
            // `filename*` names the file a second time, for some readers (RFC 7578 section 4.2).
            _ => return Err(FormFault::Headers),
        };
        if slot.replace(value).is_some() {
            return Err(FormFault::Headers);
        }
        match next.trim_start() {
            "" => break,
            more => rest = more.strip_prefix(';').ok_or(FormFault::Headers)?,
        }
    }
    let name = name.filter(|name| !name.is_empty()).ok_or(FormFault::Name)?;
    Ok(Disposition { name, file })
}

/// Whether every reader takes the text for the same name.
fn is_plain_name(text: &str) -> bool {
    text.len() <= NAME_MAX
        && !text
            .chars()
            .any(|character| character.is_control() || matches!(character, '"' | '\\' | '/' | ';'))
}

/// A media type in lower case and without its parameters.
fn essence(value: &str) -> Result<String, FormFault> {
    let essence = match value.split_once(';') {
        Some((essence, _)) => essence.trim().to_ascii_lowercase(),
        None => value.to_ascii_lowercase(),
    };
    let is_type = |byte: u8| byte.is_ascii_alphanumeric() || b"/.+-".contains(&byte);
    if essence.bytes().all(is_type) { Ok(essence) } else { Err(FormFault::Headers) }
}

/// A form as bytes, and its media type.
pub(super) struct WrittenForm {
    /// The body.
    pub(super) body: Vec<u8>,
    /// The media type with the boundary.
    pub(super) media_type: String,
}

/// Writes a form. `received` is the body that the parts come from.
pub(super) fn written(parts: &[FormPart<'_>], received: &[u8]) -> WrittenForm {
    // No content can have the boundary, because it is a hash of all contents: a caller would have
    // to find a text that contains its own hash.
    let digest = hex(&sha256(received));
    let boundary = format!("token-shield-{}", digest.get(..32).unwrap_or(&digest));
    let mut body = Vec::with_capacity(received.len() + 256 * parts.len());
    for part in parts {
        body.extend_from_slice(format!("--{boundary}\r\n").as_bytes());
        body.extend_from_slice(b"Content-Disposition: form-data; name=\"");
        body.extend_from_slice(part.name.as_bytes());
        body.push(b'"');
        if let Some(file) = part.file {
            body.extend_from_slice(format!("; filename=\"{file}\"").as_bytes());
        }
        if let Some(media_type) = &part.media_type {
            body.extend_from_slice(format!("\r\nContent-Type: {media_type}").as_bytes());
        }
        body.extend_from_slice(b"\r\n\r\n");
        body.extend_from_slice(part.content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    WrittenForm { body, media_type: format!("multipart/form-data; boundary={boundary}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BODY: &str = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n\
        --b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a b.wav\"\r\n\
        Content-Type: audio/wav\r\n\r\nRIFF\r\n--\r\n--b--\r\n";

    #[test]
    fn parts_are_read_and_written_anew() {
        let found = parts(BODY.as_bytes(), "b").expect("parts");
        let file = FormPart {
            name: "file",
            file: Some("a b.wav"),
            media_type: Some("audio/wav".to_owned()),
            content: b"RIFF\r\n--",
        };
        assert_eq!(found.get(1), Some(&file));
        let again = written(&found, BODY.as_bytes());
        let boundary = boundary(&again.media_type).expect("a form").expect("a boundary");
        assert_eq!(parts(&again.body, &boundary), Ok(found));
    }

    #[test]
    fn what_readers_would_split_differently_is_refused() {
        let with = |headers: &str, content: &str| {
            format!("--b\r\n{headers}\r\n\r\n{content}\r\n--b--\r\n")
        };
        let name = "Content-Disposition: form-data; name=\"x\"";
        for (body, expect) in [
            (format!("preamble\r\n{BODY}"), FormFault::Begin),
            (format!("{BODY}epilogue"), FormFault::End),
            (with(name, "a\r\n--bc"), FormFault::Inside),
            (with(name, "a\r\n--b \r\nx"), FormFault::Inside),
            (
                "--b\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\na".to_owned(),
                FormFault::End,
            ),
            (with(&format!("{name}\r\n folded"), "a"), FormFault::Headers),
            (with(&format!("{name}\r\n{name}"), "a"), FormFault::Headers),
            (with("Content-Type: text/plain", "a"), FormFault::Headers),
            (with(&format!("{name}; filename*=utf-8''a"), "a"), FormFault::Headers),
            (with(&format!("{name}; name=\"y\""), "a"), FormFault::Headers),
            (with("Content-Disposition: form-data; name=\"a\\\"b\"", "a"), FormFault::Name),
            (with("Content-Disposition: form-data; name=\"\"", "a"), FormFault::Name),
            (with(&format!("{name}; filename=\"../a\""), "a"), FormFault::Name),
            (
                with(&format!("{name}\r\nContent-Transfer-Encoding: base64"), "a"),
                FormFault::Headers,
            ),
        ] {
            assert_eq!(parts(body.as_bytes(), "b"), Err(expect), "{body:?}");
        }
    }

    #[test]
    fn a_boundary_is_one_plain_word() {
        let read = |text: &str| boundary(text);
        assert_eq!(read("application/json"), None);
        assert_eq!(read("multipart/form-data; boundary=\"a b\""), Some(Err(FormFault::Boundary)));
        assert_eq!(read("multipart/form-data"), Some(Err(FormFault::Boundary)));
        assert_eq!(
            read("multipart/form-data; boundary=a; boundary=b"),
            Some(Err(FormFault::Boundary))
        );
        assert_eq!(read("Multipart/Form-Data; Boundary=a"), Some(Ok("a".to_owned())));
        assert_eq!(
            read("multipart/form-data; charset=utf-8; boundary=\"--x\""),
            Some(Ok("--x".to_owned()))
        );
    }

    proptest! {
        #[test]
        fn every_content_survives(
            contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..5)
        ) {
            let mut made = Vec::new();
            for content in &contents {
                made.push(FormPart { name: "x", file: None, media_type: None, content });
            }
            let form = written(&made, &contents.concat());
            let boundary = boundary(&form.media_type).expect("a form").expect("a boundary");
            prop_assert_eq!(parts(&form.body, &boundary), Ok(made));
        }

        #[test]
        fn no_bytes_are_read_with_a_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parts(&body, "b");
            let framed = [b"--b\r\n".as_slice(), &body, b"\r\n--b--"].concat();
            if let Ok(found) = parts(&framed, "b") {
                let form = written(&found, &framed);
                let boundary = boundary(&form.media_type).expect("a form").expect("a boundary");
                prop_assert_eq!(parts(&form.body, &boundary), Ok(found));
            }
        }
    }
}
