//! Fetches content that a request names and puts it into the request, so that the model's server needs no network.
//!
//! After the seal, from addresses that were judged, with nothing of the caller's. No redirects, nothing encoded, nothing that does not
//! begin as what may stand in its place; bounded in size, in time and in what its agent may fetch within an hour.

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

use crate::audit::store::entry::Committed;
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
use crate::proxy::resolve::Resolver;
use crate::proxy::watch::RevocationWatcher;
use crate::refusal::{Code, Refusal};

/// How much room a byte of content takes: itself as it grows, its base64, and that in the body.
const ROOM: usize = 5;
/// When to come back where an hour's bytes are nearly used up.
const LATER: Duration = Duration::from_secs(60);

/// Who fetches.
pub struct Fetcher {
    /// Who is asked for addresses.
    pub resolver: Resolver,
    /// TLS towards servers; why there is none where there is none.
    pub tls: Result<TlsConnector, String>,
    /// Bytes of one piece of content.
    pub bytes_max: u64,
    /// All of one request together.
    pub time_max: Duration,
}

/// For whom is fetched.
pub struct FetchJob<'e> {
    /// Which addresses may be dialled.
    pub policy: &'e EgressPolicy,
    /// The agent, and those that it was delegated from.
    pub agents: &'e [Subject],
    /// What they have had.
    pub fetch_quota: &'e Arc<FetchQuota>,
    /// What they may have within an hour.
    pub per_hour: u64,
    /// The room for it.
    pub room: Room,
    /// What is left of the request's own time.
    pub time: Duration,
}

impl Fetcher {
    /// Fetches all of it, one after the other; what has come stands in `contents`, whatever becomes of the rest.
    ///
    /// # Errors
    /// `egress-uncontrolled`, `fetch-failed`, `fetch-slow`, `fetch-fetch_quota` or `body-memory`, with the place in the body.
    pub async fn all(
        &self,
        fetches: &Fetches,
        errand: &mut FetchJob<'_>,
        contents: &mut Vec<Content>,
    ) -> Result<(), Refusal> {
        let slow = || {
            Refusal::new(Code::FetchSlow)
                .because(format_args!("not all of it within {:?}", self.time_max))
        };
        let ends = tokio::time::Instant::now() + self.time_max.min(errand.time);
        for wanted in &fetches.wanted {
            let fetched = tokio::time::timeout_at(ends, self.one(wanted, errand)).await;
            contents.push(
                fetched
                    .unwrap_or_else(|_| Err(slow()))
                    .map_err(|refusal| refusal.at(wanted.reach.path.clone()))?,
            );
        }
        Ok(())
    }

    async fn one(
        &self,
        wanted: &WantedContent,
        errand: &mut FetchJob<'_>,
    ) -> Result<Content, Refusal> {
        let destination = wanted.controlled.destination();
        let place_max = u64::try_from(wanted.reach.inline_bytes_max()).unwrap_or(u64::MAX);
        let max = self.bytes_max.min(place_max);
        let mut taken = errand.fetch_quota.take(errand.agents, (max, errand.per_hour))?;
        let failed = |why: &dyn std::fmt::Display| {
            Refusal::new(Code::FetchFailed).because(format_args!("{destination}: {why}"))
        };
        let _place = fetch_place().await.map_err(|error| failed(&error))?;
        let judged = self.resolver.judged(errand.policy, &wanted.controlled).await?;
        let stream = judged.connect().await.map_err(|error| failed(&error))?;
        let stream = self.secured(stream, destination).await.map_err(|error| failed(&error))?;
        let answer = ask(stream, wanted).await.map_err(|why| failed(&why))?;
        let said = said(answer.status(), answer.headers()).map_err(|why| failed(&why))?;
        let bytes = read(answer.into_body(), (max, &mut taken), &mut errand.room).await.map_err(
            |stop| match stop {
                Stop::Refused(refusal) => refusal,
                Stop::Failed(why) => failed(&why),
            },
        )?;
        let media_type = wanted.reach.media_type_of(&bytes).ok_or_else(|| {
            failed(&format_args!(
                "it does not begin as one of {}",
                wanted.reach.inline_types().join(", ")
            ))
        })?;
        if !agrees(said.as_deref(), media_type) {
            return Err(failed(&format_args!(
                "it begins as {media_type}, and its server calls it something else"
            )));
        }
        Ok(Content { media_type: media_type.to_owned(), bytes })
    }

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
                let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
                    .map_err(std::io::Error::other)?;
                Ok(UpstreamStream::Tls(Box::new(connector.connect(name, stream).await?)))
            }
        }
    }
}

impl Gateway {
    /// The call with the content in it that it names, and the room that this takes.
    pub(super) async fn fetched(
        &self,
        mut call: Committed<Call>,
        routed: &Routed,
        watch: &mut RevocationWatcher,
        exchange: &mut Exchange,
    ) -> Result<(Committed<Call>, Option<Room>), Refusal> {
        let Some(fetches) = &call.get().fetches else { return Ok((call, None)) };
        let wiring = Arc::clone(&exchange.config);
        let fetcher = wiring
            .fetcher
            .as_ref()
            .ok_or_else(|| Refusal::new(Code::Internal).because("nobody fetches content"))?;
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
        // What has come is recorded, whatever becomes of the rest.
        for (wanted, content) in fetches.wanted.iter().zip(&contents) {
            if let Some(entry) = exchange.entry() {
                entry.fetched(
                    (&wanted.reach.path, &wanted.reach.target),
                    &content.media_type,
                    &content.bytes,
                );
            }
        }
        self.metrics.fetched(contents.iter().map(|content| content.bytes.len() as u64).sum());
        fetched.inspect_err(|refusal| {
            self.metrics.egress("request", "block", refusal.code.as_str())
        })?;
        let Some(body) = fill(&call.get().body, &fetches.mark, &contents) else {
            return Err(Refusal::new(Code::Internal).because("a mark without content"));
        };
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

/// A connection that is closed when this is dropped.
struct FetchConnection(tokio::task::JoinHandle<()>);

impl Drop for FetchConnection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An answer's body, and the connection that it comes over.
struct FetchBody {
    body: Incoming,
    _connection: FetchConnection,
}

/// Asks for the content. Nothing but the URL says who asks or why.
async fn ask(
    stream: UpstreamStream,
    wanted: &WantedContent,
) -> Result<Response<FetchBody>, String> {
    let url = url::Url::parse(&wanted.reach.target).map_err(|error| error.to_string())?;
    let target = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let host = url
        .host_str()
        .map(|host| url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")));
    let host =
        HeaderValue::from_str(&host.unwrap_or_default()).map_err(|error| error.to_string())?;
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

/// What the server calls what it sends, once its head says that it is the content itself.
fn said(status: StatusCode, headers: &HeaderMap) -> Result<Option<String>, String> {
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
    Ok(Some(text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()))
}

/// Whether what a server calls its content is of the kind that it is. Many servers call everything octets.
fn agrees(said: Option<&str>, media_type: &str) -> bool {
    let kind = |media_type: &str| media_type.split('/').next().unwrap_or_default().to_owned();
    match said {
        None | Some("" | "application/octet-stream" | "binary/octet-stream") => true,
        Some("application/ogg") => matches!(kind(media_type).as_str(), "audio" | "video"),
        Some(said) if kind(media_type) == "application" => said == media_type,
        Some(said) => kind(said) == kind(media_type),
    }
}

/// Why reading ended before its end.
enum Stop {
    Failed(String),
    Refused(Refusal),
}

async fn read(
    mut coming: FetchBody,
    (max, taken): (u64, &mut QuotaReservation),
    room: &mut Room,
) -> Result<Vec<u8>, Stop> {
    let too_large =
        |bytes: u64| Stop::Failed(format!("it has {bytes} bytes or more; the limit is {max}"));
    let used_up = || {
        let says = "It is larger than what is left of the bytes that may be fetched for this agent within an hour.";
        Stop::Refused(Refusal::new(Code::FetchQuota).saying(says).after(LATER))
    };
    let announced = coming.body.size_hint().lower();
    if announced > max {
        return Err(too_large(announced));
    }
    if announced > taken.bytes() {
        return Err(used_up());
    }
    let mut whole = Vec::new();
    while let Some(frame) = coming.body.frame().await {
        let frame = frame.map_err(|error| Stop::Failed(error.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        let bytes = u64::try_from(whole.len() + data.len()).unwrap_or(u64::MAX);
        let paid = taken.spend(data.len() as u64);
        if bytes > max {
            return Err(too_large(bytes));
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
