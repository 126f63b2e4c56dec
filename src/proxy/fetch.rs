//! Fetches the content that a request names and puts it into the request, so that the model server
//! needs no network.
//!
//! A fetch starts after the admission is durable, goes only to checked addresses, and sends no data
//! of the caller. Redirects, content codings and content of a wrong type are refused. Size, time
//! and the bytes per agent and hour are limited.

use std::fmt;
use std::iter::zip;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use crate::audit::store::entry::{Committed, FetchedPart};
use crate::guard::admit::Call;
use crate::guard::egress::destination::{Destination, Scheme};
use crate::guard::egress::fetch_quota::{FetchQuota, QuotaReservation};
use crate::guard::egress::fetches::{Fetches, WantedContent};
use crate::guard::egress::policy::EgressPolicy;
use crate::guard::limiter::Subject;
use crate::guard::route::Routed;
use crate::model::inline::{Content, fill};
use crate::proxy::Gateway;
use crate::proxy::buffer::Room;
use crate::proxy::connect::UpstreamStream;
use crate::proxy::descriptors::fetch_place;
use crate::proxy::exchange::Exchange;
use crate::proxy::forward::AGENT;
use crate::proxy::media_type::{before, essence};
use crate::proxy::resolve::Resolver;
use crate::proxy::watch::RevocationWatcher;
use crate::refusal::{Code, Refusal};

/// Buffer room for each byte of content: the growing buffer, its base64 text, and that text in the
/// body.
const ROOM: usize = 5;
/// The retry delay when the hour's bytes are nearly used up.
const LATER: Duration = Duration::from_secs(60);

/// Fetches content for requests, with the settings of the config.
pub struct Fetcher {
    /// Resolves host names.
    pub resolver: Resolver,
    /// The TLS client, or the reason why there is none.
    pub tls: Result<TlsConnector, String>,
    /// The largest size of one piece of content, in bytes.
    pub bytes_max: u64,
    /// The time for all content of one request together.
    pub time_max: Duration,
}

/// The caller and limits of one request's fetches.
pub struct FetchJob<'e> {
    /// Checks which addresses may be dialled.
    pub policy: &'e EgressPolicy,
    /// The agent and its ancestors in the delegation.
    pub agents: &'e [Subject],
    /// The bytes that agents have fetched.
    pub fetch_quota: &'e Arc<FetchQuota>,
    /// The bytes that each of the agents may fetch within an hour.
    pub per_hour: u64,
    /// The buffer room that the content uses.
    pub room: Room,
    /// The time that remains of the request's own limit.
    pub time: Duration,
}

impl Fetcher {
    /// Fetches all content, one piece after the other. `contents` has the fetched pieces, also
    /// after an error.
    ///
    /// # Errors
    /// `egress-uncontrolled`, `fetch-failed`, `fetch-slow`, `fetch-quota` or `body-memory`, with
    /// the position in the body.
    pub async fn all(
        &self,
        fetches: &Fetches,
        errand: &mut FetchJob<'_>,
        contents: &mut Vec<Content>,
    ) -> Result<(), Refusal> {
        // One limit for all pieces: a request with many slow pieces must not hold its slots longer.
        let ends = tokio::time::Instant::now() + self.time_max.min(errand.time);
        for wanted in &fetches.wanted {
            let fetched = match tokio::time::timeout_at(ends, self.one(wanted, errand)).await {
                Ok(fetched) => fetched,
                Err(_) => Err(self.slow()),
            };
            contents.push(fetched.map_err(|refusal| refusal.at(wanted.reach.path.clone()))?);
        }
        Ok(())
    }

    /// The refusal for content that does not arrive in time.
    fn slow(&self) -> Refusal {
        Refusal::new(Code::FetchSlow)
            .because(format_args!("not all of it within {:?}", self.time_max))
    }

    /// Fetches one piece: quota, slot, address check, connection, request, body, type check.
    ///
    /// # Errors
    /// See [`Self::all`].
    async fn one(
        &self,
        wanted: &WantedContent,
        errand: &mut FetchJob<'_>,
    ) -> Result<Content, Refusal> {
        let destination = wanted.controlled.destination();
        let place_max = u64::try_from(wanted.reach.inline_bytes_max()).unwrap_or(u64::MAX);
        let max = self.bytes_max.min(place_max);
        // The quota is reserved before the fetch. Parallel requests of an agent cannot exceed it
        // together.
        let mut taken = errand.fetch_quota.take(errand.agents, max, errand.per_hour)?;
        let _place = fetch_place().await.map_err(|error| failed(destination, error))?;
        // The connection uses the checked addresses. A second resolution could return others (DNS
        // rebinding).
        let judged = self.resolver.judged(errand.policy, &wanted.controlled).await?;
        let stream = judged.connect().await.map_err(|error| failed(destination, error))?;
        let stream =
            self.secured(stream, destination).await.map_err(|error| failed(destination, error))?;
        let answer = ask(stream, wanted).await.map_err(|why| failed(destination, why))?;
        let said =
            said(answer.status(), answer.headers()).map_err(|why| failed(destination, why))?;
        let bytes = match read(answer.into_body(), max, &mut taken, &mut errand.room).await {
            Ok(bytes) => bytes,
            Err(Stop::Refused(refusal)) => return Err(refusal),
            Err(Stop::Failed(why)) => return Err(failed(destination, why)),
        };
        let Some(media_type) = wanted.reach.media_type_of(&bytes) else {
            let types = wanted.reach.inline_types().join(", ");
            let why = format!("it does not begin as one of {types}");
            return Err(failed(destination, why));
        };
        // The type comes from the content itself. A contradicting label can be a sign of content
        // that two parsers read differently.
        if !agrees(said.as_deref(), media_type) {
            let why = format!("it begins as {media_type}, and its server calls it something else");
            return Err(failed(destination, why));
        }
        Ok(Content { media_type: media_type.to_owned(), bytes })
    }

    /// Adds TLS to a connection if the scheme needs it. The certificate must match the host of the
    /// URL.
    async fn secured(
        &self,
        stream: tokio::net::TcpStream,
        destination: &Destination,
    ) -> std::io::Result<UpstreamStream> {
        stream.set_nodelay(true)?;
        match destination.scheme {
            Scheme::Http => Ok(UpstreamStream::Tcp(stream)),
            Scheme::Https => {
                let connector =
                    self.tls.as_ref().map_err(|why| std::io::Error::other(why.clone()))?;
                let host = destination.host.to_string();
                // An IPv6 literal has brackets in a URL and none in a certificate's name.
                let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
                    .map_err(std::io::Error::other)?;
                Ok(UpstreamStream::Tls(Box::new(connector.connect(name, stream).await?)))
            }
        }
    }
}

/// The refusal for content of `destination` that cannot be fetched.
fn failed(destination: &Destination, why: impl fmt::Display) -> Refusal {
    Refusal::new(Code::FetchFailed).because(format_args!("{destination}: {why}"))
}

impl Gateway {
    /// The call with the fetched content in its body, and the room that the content uses.
    ///
    /// # Errors
    /// As [`Fetcher::all`], or a revocation during the fetch.
    pub(super) async fn fetched(
        &self,
        mut call: Committed<Call>,
        routed: &Routed,
        watch: &mut RevocationWatcher,
        exchange: &mut Exchange,
    ) -> Result<(Committed<Call>, Option<Room>), Refusal> {
        let Some(fetches) = &call.get().fetches else { return Ok((call, None)) };
        let wiring = Arc::clone(&exchange.config);
        let Some(fetcher) = &wiring.fetcher else {
            return Err(Refusal::new(Code::Internal).because("the config has no fetcher"));
        };
        let caller = routed.paced().caller();
        let mut errand = FetchJob {
            policy: &caller.tables().policy,
            agents: &caller.token().agents,
            fetch_quota: &self.fetch_quota,
            per_hour: caller.class().fetch_per_hour,
            room: Room::of(&self.buffers),
            time: exchange.deadline().saturating_sub(self.clock.monotonic()),
        };
        let mut contents = Vec::with_capacity(fetches.wanted.len());
        let fetched = tokio::select! {
            fetched = fetcher.all(fetches, &mut errand, &mut contents) => fetched,
            refusal = watch.revoked() => Err(refusal),
        };
        // Every fetched piece is recorded, also if a later one failed: the gateway did contact its
        // host.
        let mut bytes = 0;
        for (wanted, content) in zip(&fetches.wanted, &contents) {
            bytes += content.bytes.len() as u64;
            if let Some(entry) = exchange.entry() {
                entry.fetched(FetchedPart {
                    path: &wanted.reach.path,
                    target: &wanted.reach.target,
                    media_type: &content.media_type,
                    content: &content.bytes,
                });
            }
        }
        self.metrics.fetched(bytes);
        fetched.inspect_err(|refusal| {
            self.metrics.egress("request", "block", refusal.code.as_str())
        })?;
        let Some(body) = fill(&call.get().body, &fetches.mark, &contents) else {
            return Err(Refusal::new(Code::Internal).because("a mark without content"));
        };
        // The fetch took time: the caller may have been revoked since the admission.
        watch.check()?;
        let Some(entry) = exchange.entry() else {
            return Err(Refusal::new(Code::Internal).because("a call without an entry"));
        };
        call.amend(entry, |call| {
            call.body = Bytes::from(body);
            call.fetches = None;
        });
        Ok((call, Some(errand.room)))
    }
}

/// The task of a connection. Dropping the value ends the task and closes the connection.
struct FetchConnection(tokio::task::JoinHandle<()>);

impl Drop for FetchConnection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The body of an answer, and the connection that it arrives over.
struct FetchBody {
    body: Incoming,
    _connection: FetchConnection,
}

/// Sends the request for the content. The URL is the only data from the caller's request in it.
///
/// # Errors
/// The fault of the URL or of the connection, as text.
async fn ask(
    stream: UpstreamStream,
    wanted: &WantedContent,
) -> Result<Response<FetchBody>, String> {
    let url = url::Url::parse(&wanted.reach.target).map_err(|error| error.to_string())?;
    let target = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let host = match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => String::new(),
    };
    let host = HeaderValue::from_str(&host).map_err(|error| error.to_string())?;
    let accept = HeaderValue::from_str(&wanted.reach.inline_types().join(", "))
        .map_err(|error| error.to_string())?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() =
        target.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
    let headers = request.headers_mut();
    headers.insert(HOST, host);
    headers.insert(ACCEPT, accept);
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    let (mut sender, connection): (SendRequest<Empty<Bytes>>, _) =
        handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let connection = FetchConnection(tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection for content ended");
        }
    }));
    let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
    Ok(answer.map(|body| FetchBody { body, _connection: connection }))
}

/// The media type that the server gives its content, if the head permits the content.
///
/// # Errors
/// If the status is not 200, or the content is encoded.
fn said(status: StatusCode, headers: &HeaderMap) -> Result<Option<String>, String> {
    // A redirect leads to an unchecked destination, so it is never followed.
    if status.is_redirection() {
        return Err(format!("status {status}: where else it leads is not followed"));
    }
    if status != StatusCode::OK {
        return Err(format!("status {status}"));
    }
    if headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        return Err("it is encoded though identity was asked for".to_owned());
    }
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(None) };
    let text = value.to_str().map_err(|_| "its content-type is no text".to_owned())?;
    Ok(Some(essence(text)))
}

/// The type of a media type, without the subtype.
fn kind(media_type: &str) -> &str {
    before(media_type, "/")
}

/// Whether the server's media type fits the real type of the content. Many servers label all
/// content as octets.
fn agrees(said: Option<&str>, media_type: &str) -> bool {
    match said {
        None | Some("" | "application/octet-stream" | "binary/octet-stream") => true,
        // Ogg contains audio or video (RFC 5334), and older servers use this one label for both.
        Some("application/ogg") => matches!(kind(media_type), "audio" | "video"),
        Some(said) if kind(media_type) == "application" => said == media_type,
        Some(said) => kind(said) == kind(media_type),
    }
}

/// Why reading a body ended early.
enum Stop {
    Failed(String),
    Refused(Refusal),
}

/// The fault of content that has `bytes` bytes or more, with a limit of `max`.
fn too_large(bytes: u64, max: u64) -> Stop {
    Stop::Failed(format!("it has {bytes} bytes or more; the limit is {max}"))
}

/// The refusal for content that is larger than what is left of the agent's quota.
fn used_up() -> Stop {
    let says = "It is larger than what is left of the bytes that may be fetched for this agent \
        within an hour.";
    Stop::Refused(Refusal::new(Code::FetchQuota).saying(says).after(LATER))
}

/// Reads a body of at most `max` bytes, within the reserved quota and the buffer room.
///
/// # Errors
/// [`Stop`], with the limit that was exceeded.
async fn read(
    mut coming: FetchBody,
    max: u64,
    taken: &mut QuotaReservation,
    room: &mut Room,
) -> Result<Vec<u8>, Stop> {
    let announced = coming.body.size_hint().lower();
    if announced > max {
        return Err(too_large(announced, max));
    }
    if announced > taken.bytes() {
        return Err(used_up());
    }
    let mut whole = Vec::new();
    while let Some(frame) = coming.body.frame().await {
        let frame = frame.map_err(|error| Stop::Failed(error.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        let bytes = u64::try_from(whole.len() + data.len()).unwrap_or(u64::MAX);
        // The bytes were transferred in any case, so they count against the quota before the limits
        // are checked.
        let paid = taken.spend(data.len() as u64);
        if bytes > max {
            return Err(too_large(bytes, max));
        }
        if !paid {
            return Err(used_up());
        }
        room.grow(data.len().saturating_mul(ROOM)).map_err(Stop::Refused)?;
        whole.extend_from_slice(&data);
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_content_itself_is_read() {
        let head = |status: u16, headers: &[(http::HeaderName, &'static str)]| {
            let map: HeaderMap = headers
                .iter()
                .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
                .collect();
            said(StatusCode::from_u16(status).expect("a status"), &map)
        };
        assert_eq!(
            head(200, &[(CONTENT_TYPE, "Image/PNG; x=1")]),
            Ok(Some("image/png".to_owned()))
        );
        assert_eq!(head(200, &[]), Ok(None));
        for status in [204, 206, 301, 302, 303, 304, 307, 308, 400, 404, 500] {
            assert!(head(status, &[]).is_err(), "{status}");
        }
        assert!(head(200, &[(CONTENT_ENCODING, "gzip")]).is_err());
        assert!(head(200, &[(CONTENT_ENCODING, "identity")]).is_ok());
    }

    #[test]
    fn what_it_is_called_is_of_the_kind_that_it_is() {
        for (said, media_type, expect) in [
            (None, "image/png", true),
            (Some("application/octet-stream"), "application/pdf", true),
            (Some("image/jpg"), "image/jpeg", true),
            (Some("text/html"), "image/png", false),
            (Some("application/ogg"), "audio/ogg", true),
            (Some("application/json"), "application/pdf", false),
            (Some("video/mp4"), "audio/mp4", false),
        ] {
            assert_eq!(agrees(said, media_type), expect, "{said:?} {media_type}");
        }
    }
}
