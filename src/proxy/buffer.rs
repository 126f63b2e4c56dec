//! Bodies held in memory: read with a limit on each, a limit on all together, and a limit on silence.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::refusal::{Code, Refusal};

/// The bytes of all bodies held at once.
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

    fn take(&self, bytes: u64) -> Result<(), Refusal> {
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| used.checked_add(bytes).filter(|sum| *sum <= self.max));
        taken.map(drop).map_err(|_| Refusal::new(Code::BodyMemory).after(Duration::from_secs(1)))
    }
}

/// A body in memory. Its bytes are given back to [`Buffers`] when it is dropped.
#[derive(Default)]
pub struct Held {
    bytes: Bytes,
    counted: u64,
    buffers: Option<Arc<Buffers>>,
}

impl Held {
    fn of(buffers: &Arc<Buffers>) -> Self {
        Self { bytes: Bytes::new(), counted: 0, buffers: Some(Arc::clone(buffers)) }
    }

    /// The body.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn count(&mut self, bytes: u64) -> Result<(), Refusal> {
        if let Some(buffers) = &self.buffers {
            buffers.take(bytes)?;
            self.counted += bytes;
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(buffers) = &self.buffers {
            buffers.used.fetch_sub(self.counted, Ordering::Relaxed);
        }
    }
}

/// Asks whether the headers announce a body that is read here: JSON, as it is.
fn announced(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers.get_all(CONTENT_ENCODING).iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Code::BodyEncoded.into());
    }
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let only = types.next().filter(|_| types.next().is_none()).and_then(|value| value.to_str().ok()).ok_or(Code::ContentType)?;
    let mut parts = only.split(';').map(str::trim);
    let json = parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"));
    let utf8 = parts.all(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        name.eq_ignore_ascii_case("charset") && value.trim_matches('"').eq_ignore_ascii_case("utf-8")
    });
    if json && utf8 { Ok(()) } else { Err(Code::ContentType.into()) }
}

/// Reads a body of at most `max` bytes whose pieces come no more than `idle_max` apart.
///
/// # Errors
/// `content-type`, `body-encoded`, `body-too-large`, `body-slow`, `body-incomplete` or `body-memory`.
pub async fn read(
    headers: &HeaderMap,
    mut body: Incoming,
    buffers: &Arc<Buffers>,
    (max, idle_max): (u64, Duration),
) -> Result<Held, Refusal> {
    announced(headers)?;
    let too_large =
        || Refusal::new(Code::BodyTooLarge).saying(format!("The body is larger than the {max} bytes that this gateway takes."));
    let size = body.size_hint();
    if size.lower() > max {
        return Err(too_large());
    }
    let mut held = Held::of(buffers);
    let mut whole: Vec<u8> = Vec::new();
    loop {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        let frame = tokio::time::timeout(idle_max, frame).await.map_err(|_| Refusal::new(Code::BodySlow))?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| Refusal::new(Code::BodyIncomplete).because(error))?;
        let Ok(data) = frame.into_data() else { continue };
        let sum = (whole.len() + held.bytes.len()) as u64 + data.len() as u64;
        if sum > max {
            return Err(too_large());
        }
        held.count(data.len() as u64)?;
        // The common body is one piece: it is kept without a copy.
        if whole.is_empty() && held.bytes.is_empty() {
            held.bytes = data;
        } else {
            whole.extend_from_slice(&std::mem::take(&mut held.bytes));
            whole.extend_from_slice(&data);
        }
    }
    if !whole.is_empty() {
        held.bytes = Bytes::from(whole);
    }
    Ok(held)
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
        assert_eq!(announced(&map).err().map(|no| no.code), expect);
    }

    #[test]
    fn only_plain_json_is_read() {
        check(&[("content-type", "application/json")], None);
        check(&[("content-type", "Application/JSON; charset=UTF-8")], None);
        check(&[("content-type", "application/json; charset=utf-16")], Some(Code::ContentType));
        check(&[("content-type", "application/json; x=y")], Some(Code::ContentType));
        check(&[("content-type", "text/plain")], Some(Code::ContentType));
        check(&[], Some(Code::ContentType));
        check(&[("content-type", "application/json"), ("content-type", "text/plain")], Some(Code::ContentType));
        check(&[("content-type", "application/json"), ("content-encoding", "gzip")], Some(Code::BodyEncoded));
    }

    #[test]
    fn all_bodies_share_one_limit() {
        let buffers = Arc::new(Buffers::new(10));
        let mut first = Held::of(&buffers);
        first.count(8).expect("room");
        let mut second = Held::of(&buffers);
        assert_eq!(second.count(3).map_err(|no| no.code), Err(Code::BodyMemory));
        drop(first);
        second.count(3).expect("room again");
    }
}
