//! Request and answer bodies in memory, with a limit on each, a limit on all together, and a limit
//! on silence.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::guard::understand::ReceivedBody;
use crate::proxy::JSON;
use crate::proxy::media_type::essence;
use crate::proxy::times::ReadLimits;
use crate::proxy::zstd;
use crate::refusal::{Code, Refusal};

/// The memory that all buffered bodies may use together, in bytes.
pub struct Buffers {
    used: AtomicU64,
    max: u64,
}

impl Buffers {
    /// Room for `max` bytes.
    #[must_use]
    pub const fn new(max: u64) -> Self {
        Self { used: AtomicU64::new(0), max }
    }

    /// Takes `bytes` of the shared room.
    ///
    /// # Errors
    /// `body-memory`, with a retry after 1 s, if the room is used up.
    fn take(&self, bytes: u64) -> Result<(), Refusal> {
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            let sum = used.checked_add(bytes)?;
            (sum <= self.max).then_some(sum)
        });
        match taken {
            Ok(_) => Ok(()),
            Err(_) => Err(Refusal::new(Code::BodyMemory).after(Duration::from_secs(1))),
        }
    }
}

/// Room taken from [`Buffers`]. Dropping it releases the room.
pub struct Room {
    buffers: Arc<Buffers>,
    bytes: u64,
}

impl Room {
    /// An empty share of `buffers`.
    #[must_use]
    pub fn of(buffers: &Arc<Buffers>) -> Self {
        Self { buffers: Arc::clone(buffers), bytes: 0 }
    }

    /// Takes `bytes` more.
    ///
    /// # Errors
    /// `body-memory`. The room taken before stays taken.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        let bytes = bytes as u64;
        self.buffers.take(bytes)?;
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.buffers.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A body in memory, and the room that it uses.
#[derive(Default)]
pub struct BufferedBody {
    bytes: Bytes,
    /// The value of `Content-Type`; empty for JSON.
    media_type: String,
    room: Option<Room>,
}

impl BufferedBody {
    /// The body.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The body as the guard reads it.
    #[must_use]
    pub fn received(&self) -> ReceivedBody<'_> {
        ReceivedBody { bytes: &self.bytes, media_type: &self.media_type }
    }

    /// Drops the bytes and returns the room.
    #[must_use]
    pub fn into_room(self) -> Option<Room> {
        self.room
    }
}

/// Bytes that the gateway reads of an unused body, so that its connection stays usable (64 KiB).
const REST_MAX: usize = 64 << 10;
/// How long it waits for those bytes.
const REST_TIME: Duration = Duration::from_millis(100);

/// The content coding of a body (RFC 9110, section 8.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    /// None.
    Identity,
    /// `zstd`.
    Zstd,
}

/// The body that a path takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedBody {
    /// JSON in UTF-8.
    Json,
    /// What the declaration of the route says. The guard compares it with the media type.
    Declared,
}

/// The headers of a body.
#[derive(Debug, PartialEq, Eq)]
struct Announced {
    coding: Coding,
    /// The media type with its parameters; empty for JSON.
    media_type: String,
}

/// Checks that the headers announce a body that the gateway reads.
///
/// # Errors
/// `body-encoded` or `content-type`.
fn announced(headers: &HeaderMap, expected: ExpectedBody) -> Result<Announced, Refusal> {
    let mut coding = Coding::Identity;
    for value in headers.get_all(CONTENT_ENCODING) {
        if value.is_empty() || value.as_bytes().eq_ignore_ascii_case(b"identity") {
            continue;
        }
        // A second coding would have to be undone too.
        if coding == Coding::Zstd || !value.as_bytes().eq_ignore_ascii_case(b"zstd") {
            return Err(Code::BodyEncoded.into());
        }
        coding = Coding::Zstd;
    }
    // Two Content-Type fields are refused, because they can disagree.
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(only), None) = (types.next(), types.next()) else {
        return Err(Code::ContentType.into());
    };
    let Ok(only) = only.to_str() else { return Err(Code::ContentType.into()) };
    // A declared route takes JSON under the same conditions as every other path.
    let is_json = essence(only) == JSON;
    if expected == ExpectedBody::Declared && !is_json {
        return Ok(Announced { coding, media_type: only.to_owned() });
    }
    let mut parts = only.split(';');
    let Some(essence) = parts.next() else { return Err(Code::ContentType.into()) };
    if essence.trim().eq_ignore_ascii_case("application/json") && parts.all(is_utf8) {
        let media_type = match expected {
            ExpectedBody::Json => String::new(),
            ExpectedBody::Declared => JSON.to_owned(),
        };
        Ok(Announced { coding, media_type })
    } else {
        Err(Code::ContentType.into())
    }
}

/// Whether a parameter of a media type is `charset=utf-8`, or empty, after a last semicolon.
fn is_utf8(parameter: &str) -> bool {
    if parameter.trim().is_empty() {
        return true;
    }
    let Some((name, value)) = parameter.trim().split_once('=') else { return false };
    let value = value.trim_matches('"').to_ascii_lowercase();
    name.eq_ignore_ascii_case("charset") && matches!(value.as_str(), "utf-8" | "utf8")
}

/// The refusal for a body of more than `max` bytes.
fn too_large(max: u64) -> Refusal {
    Refusal::new(Code::BodyTooLarge)
        .saying(format!("The body is larger than the {max} bytes that this gateway takes."))
}

/// Reads a body within `limits`, and undoes its content coding. The limit on its size applies
/// before and after that. Two pieces come at most `times.idle_max` apart, and all of them
/// before `times.ends`.
///
/// # Errors
/// `content-type`, `body-encoded`, `body-too-large`, `body-slow`, `body-incomplete` or
/// `body-memory`.
pub async fn read(
    headers: HeaderMap,
    body: &mut Incoming,
    expected: ExpectedBody,
    buffers: &Arc<Buffers>,
    limits: ReadLimits,
) -> Result<BufferedBody, Refusal> {
    let ReadLimits { bytes_max, times } = limits;
    let Announced { coding, media_type } = announced(&headers, expected)?;
    // The head contains a token. It is not kept in memory while the body arrives.
    drop(headers);
    let size = body.size_hint();
    // An announced length above the limit is refused before the first byte is read.
    if size.lower() > bytes_max {
        return Err(too_large(bytes_max));
    }
    let mut room = Room::of(buffers);
    let mut first = Bytes::new();
    let mut whole: Vec<u8> = Vec::new();
    loop {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
        let frame = tokio::time::timeout(times.patience(), frame)
            .await
            .map_err(|_| Refusal::new(Code::BodySlow))?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| Refusal::new(Code::BodyIncomplete).because(error))?;
        let Ok(data) = frame.into_data() else { continue };
        let sum = (whole.len() + first.len()) as u64 + data.len() as u64;
        if sum > bytes_max {
            return Err(too_large(bytes_max));
        }
        // Room is taken as bytes arrive, not as announced: an announced length alone must not
        // reserve memory.
        room.grow(data.len())?;
        // Most bodies are one piece: that piece is kept without a copy.
        if whole.is_empty() && first.is_empty() {
            first = data;
        } else {
            whole.extend_from_slice(&std::mem::take(&mut first));
            whole.extend_from_slice(&data);
        }
    }
    let bytes = if whole.is_empty() { first } else { Bytes::from(whole) };
    let body = match coding {
        Coding::Identity => BufferedBody { bytes, media_type: String::new(), room: Some(room) },
        Coding::Zstd => decode(bytes, bytes_max, room).await?,
    };
    Ok(BufferedBody { media_type, ..body })
}

/// Decodes a body in zstd on a blocking thread: a short body can be long work.
async fn decode(packed: Bytes, bytes_max: u64, mut room: Room) -> Result<BufferedBody, Refusal> {
    // The room moves with the work, which continues if the caller leaves.
    let work = move || {
        let bytes = zstd::decoded(&packed, |sum, more| {
            if (sum + more) as u64 > bytes_max {
                return Err(too_large(bytes_max));
            }
            room.grow(more)
        })?;
        Ok(BufferedBody { bytes, media_type: String::new(), room: Some(room) })
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(decoded) => decoded,
        Err(why) => Err(Refusal::new(Code::Internal).because(why)),
    }
}

/// Reads the rest of an unused body, if it is short and already there. True if all of it is read.
pub(super) async fn spent(body: &mut Incoming) -> bool {
    let mut taken = 0;
    let rest = async {
        // A chunked body reaches its end only after its last chunk was read.
        while taken <= REST_MAX && !body.is_end_stream() {
            match std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        taken += data.len();
                    }
                }
                Some(Err(_)) => return false,
                None => return true,
            }
        }
        body.is_end_stream()
    };
    tokio::time::timeout(REST_TIME, rest).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[track_caller]
    fn check(headers: &[(&'static str, &'static str)], expect: Option<Code>) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        assert_eq!(announced(&map, ExpectedBody::Json).err().map(|no| no.code), expect);
    }

    #[test]
    fn only_plain_json_is_read() {
        check(&[("content-type", "application/json")], None);
        check(&[("content-type", "Application/JSON; charset=UTF-8")], None);
        check(&[("content-type", "application/json;charset=utf8;")], None);
        check(&[("content-type", "application/json"), ("content-encoding", "")], None);
        check(&[("content-type", "application/json; charset=utf-16")], Some(Code::ContentType));
        check(&[("content-type", "application/json; x=y")], Some(Code::ContentType));
        check(&[("content-type", "text/plain")], Some(Code::ContentType));
        check(&[], Some(Code::ContentType));
        check(
            &[("content-type", "application/json"), ("content-type", "text/plain")],
            Some(Code::ContentType),
        );
        check(
            &[("content-type", "application/json"), ("content-encoding", "gzip")],
            Some(Code::BodyEncoded),
        );
        check(&[("content-type", "application/json"), ("content-encoding", "ZSTD")], None);
        for twice in [["zstd", "zstd"], ["zstd", "gzip"], ["zstd, zstd", ""]] {
            let [first, second] = twice;
            check(
                &[
                    ("content-type", "application/json"),
                    ("content-encoding", first),
                    ("content-encoding", second),
                ],
                Some(Code::BodyEncoded),
            );
        }
    }

    #[test]
    fn all_bodies_share_one_limit() {
        let buffers = Arc::new(Buffers::new(10));
        let mut first = Room::of(&buffers);
        first.grow(8).expect("room");
        let mut second = Room::of(&buffers);
        assert_eq!(second.grow(3).map_err(|no| no.code), Err(Code::BodyMemory));
        let (bytes, media_type) = (Bytes::from_static(b"12345678"), String::new());
        let held = BufferedBody { bytes, media_type, room: Some(first) };
        let kept = held.into_room();
        assert_eq!(second.grow(3).map_err(|no| no.code), Err(Code::BodyMemory));
        drop(kept);
        second.grow(3).expect("room again");
    }
}
