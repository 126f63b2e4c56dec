//! The predecessor's view of its successor. The successor records, answers requests of kept
//! connections, and reports changes of the state.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{AT_ONCE, CHANGES, IN_FLIGHT, RECORD, RecordRequest, Recorded, STREAM_WINDOW, WINDOW};
use crate::app::fault::text_of;
use crate::app::handover::wire::PassedRecord;
use crate::app::issuers;
use crate::audit::format::event::{Event, Written};
use crate::audit::format::key::{KeyLookup, Opener, RecordKeyId};
use crate::audit::format::record::Record;
use crate::audit::store::entry::AuditRecorder;
use crate::audit::store::log::{Appended, LogFault, Remote, Then};
use crate::clock::Timestamp;
use crate::config;
use crate::guard::passed::InFlight;
use crate::keyring::Keyring;
use crate::proxy::Gateway;
use crate::proxy::entrance::RemoteProcess;

/// The interval at which work in flight is reported to the successor, if it has changed.
const TELL: Duration = Duration::from_millis(200);

/// The number of tries to read a config file that is being written.
const FILE_TRIES: u32 = 25;
/// The pause between two tries.
const FILE_PAUSE: Duration = Duration::from_millis(200);

/// The successor of this process.
pub(in crate::app) struct Successor {
    /// The connection for records.
    way: SendRequest<Full<Bytes>>,
    recorder: AuditRecorder,
    pid: u32,
    /// The runtime for appends. The log calls from its own thread, which has no runtime.
    runtime: Handle,
    /// False after the connection for records has ended.
    healthy: Arc<AtomicBool>,
    /// The number of records without a confirmation.
    pending: watch::Sender<usize>,
}

/// Both connections to a successor, before it gets `go`.
pub(in crate::app) struct Ways {
    pub(in crate::app) records: SendRequest<Full<Bytes>>,
    pub(in crate::app) requests: RemoteProcess,
    /// The task that drives the connection for records.
    driver: JoinHandle<()>,
}

/// The HTTP/2 client of both connections.
fn client() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .initial_max_send_streams(AT_ONCE as usize)
        .initial_connection_window_size(WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .max_concurrent_reset_streams(AT_ONCE as usize)
        .max_header_list_size(1 << 20);
    builder
}

/// A socket for use with hyper.
fn stream(stream: std::os::unix::net::UnixStream) -> std::io::Result<TokioIo<UnixStream>> {
    stream.set_nonblocking(true)?;
    Ok(TokioIo::new(UnixStream::from_std(stream)?))
}

impl Ways {
    /// Opens the connections over this end of both pairs of sockets.
    ///
    /// # Errors
    /// When they cannot be used.
    pub(in crate::app) async fn open(
        records: std::os::unix::net::UnixStream,
        requests: std::os::unix::net::UnixStream,
    ) -> Result<Self, String> {
        let socket = requests.try_clone().map_err(text_of)?;
        let records = stream(records).map_err(text_of)?;
        let requests = stream(requests).map_err(text_of)?;
        let (records, driver) = client().handshake(records).await.map_err(text_of)?;
        let (requests, answering) = client().handshake(requests).await.map_err(text_of)?;
        tokio::spawn(async move {
            if let Err(error) = answering.await {
                tracing::debug!(%error, "the successor's way of requests broke");
            }
        });
        let driver = tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::warn!(%error, "the successor's way of records broke");
            }
        });
        Ok(Self { records, requests: RemoteProcess::new(requests, socket), driver })
    }
}

impl Successor {
    /// The successor at the other end of `ways`, for the requests of `gateway`. Also returns the
    /// task that ends when the connection for records does. If the successor ends, every stream of
    /// this process is woken, and ends.
    pub(in crate::app) fn new(
        ways: Ways,
        pid: u32,
        gateway: Arc<Gateway>,
    ) -> (Arc<Self>, RemoteProcess, JoinHandle<()>) {
        let Ways { records, requests, driver } = ways;
        let healthy = Arc::new(AtomicBool::new(true));
        let (gone, recorder) = (Arc::clone(&healthy), gateway.recorder.clone());
        let driver = tokio::spawn(async move {
            let _ = driver.await;
            gone.store(false, Ordering::SeqCst);
            gateway.registry.announce();
        });
        (
            Arc::new(Self {
                way: records,
                recorder,
                pid,
                runtime: Handle::current(),
                healthy,
                pending: watch::Sender::new(0),
            }),
            requests,
            driver,
        )
    }

    /// Reports the work in flight to the successor, at intervals.
    pub(in crate::app) async fn tell(self: Arc<Self>, gateway: Arc<Gateway>) {
        let mut told = None;
        loop {
            let now = InFlight::of(&gateway.limiter, &gateway.slots);
            if told.as_ref() != Some(&now)
                && let Ok(body) = serde_json::to_vec(&now)
                && ask(self.way.clone(), IN_FLIGHT, body).await.is_ok()
            {
                told = Some(now);
            }
            tokio::time::sleep(TELL).await;
        }
    }

    /// Subscribes to changes of the state. The answer shows that the successor serves.
    ///
    /// # Errors
    /// When it does not answer.
    pub(in crate::app) async fn subscribe(&self) -> Result<Incoming, String> {
        let request = Request::get(format!("http://successor{CHANGES}")).body(Full::default());
        let request = request.map_err(text_of)?;
        let answer = self.way.clone().send_request(request).await.map_err(text_of)?;
        Ok(answer.into_body())
    }

    /// Applies the changes of the state that the successor reports. If that fails, open requests
    /// end.
    pub(in crate::app) async fn follow(
        self: Arc<Self>,
        changes: Incoming,
        gateway: Arc<Gateway>,
        keyring: Arc<Keyring>,
        source: Option<PathBuf>,
    ) {
        let Err(why) = follow(changes, &gateway, &keyring, source.as_deref()).await else { return };
        // A dead successor is handled by the task of the connection. This case is a live one whose
        // changes cannot be read: a revocation could be missed, so every open answer is cut.
        if self.is_there() {
            tracing::error!(
                why,
                "the changes of the successor cannot be followed: open answers end"
            );
            gateway.recorder.cut();
            gateway.registry.announce();
        }
    }

    /// Waits until every record has an answer.
    pub(in crate::app) async fn settled(&self) {
        let _ = self.pending.subscribe().wait_for(|pending| *pending == 0).await;
    }

    /// Whether the connection for records is open.
    fn is_there(&self) -> bool {
        self.healthy.load(Ordering::SeqCst)
    }

    /// Sends one record, and waits for the answer.
    async fn record(&self, event: &Event) -> Result<Recorded, String> {
        let record = Written::of(event).ok_or("it is recorded by the successor itself")?;
        let unknown = if let Event::Admission(admission) = event {
            self.recorder.unknown_of(admission)
        } else {
            None
        };
        let asked = RecordRequest {
            record: PassedRecord::from(&record),
            unknown: unknown.as_ref().map(PassedRecord::from),
        };
        let body = serde_json::to_vec(&asked).map_err(text_of)?;
        let answer = ask(self.way.clone(), RECORD, body).await?;
        serde_json::from_slice(&answer).map_err(text_of)
    }
}

impl Remote for Arc<Successor> {
    fn append(&self, event: Event, then: Then) {
        let own = Arc::clone(self);
        self.pending.send_modify(|pending| *pending += 1);
        self.runtime.spawn(async move {
            then(match own.record(&event).await {
                Ok(Recorded::Durable(origin, index, at)) => {
                    let at = Timestamp(at);
                    Ok(Appended {
                        origin: origin.into(),
                        index,
                        at,
                        record: Record { at, by: None, event },
                    })
                }
                Ok(Recorded::Low) => Err(LogFault::Low),
                Ok(Recorded::Busy) => Err(LogFault::Busy),
                Ok(Recorded::No(why)) | Err(why) => {
                    // The record may be durable or not. `Stopped` covers both, and the request
                    // fails closed.
                    tracing::debug!(why, kind = event.kind(), "the successor has not recorded it");
                    Err(LogFault::Stopped)
                }
            });
            own.pending.send_modify(|pending| *pending -= 1);
        });
    }

    fn healthy(&self) -> bool {
        self.is_there()
    }

    fn process(&self) -> u32 {
        self.pid
    }
}

/// Posts `body`, and returns the body of the answer.
async fn ask(
    mut way: SendRequest<Full<Bytes>>,
    path: &str,
    body: Vec<u8>,
) -> Result<Vec<u8>, String> {
    let request =
        Request::post(format!("http://successor{path}")).body(Full::new(Bytes::from(body)));
    let request = request.map_err(text_of)?;
    let answer = way.send_request(request).await.map_err(text_of)?;
    if answer.status() != StatusCode::OK {
        return Err(format!("{path}: {}", answer.status()));
    }
    let body = answer.into_body().collect().await.map_err(text_of)?;
    Ok(body.to_bytes().to_vec())
}

/// A key store without keys. Records of changes are not encrypted on this connection.
struct NoKeys;

impl Opener for NoKeys {
    fn held(&self, _: &RecordKeyId) -> KeyLookup<'_> {
        KeyLookup::Missing
    }
}

/// Reads and applies changes until the connection ends, which is an error too.
async fn follow(
    mut changes: Incoming,
    gateway: &Gateway,
    keyring: &Keyring,
    source: Option<&Path>,
) -> Result<(), String> {
    // The successor's config may name fewer issuers than this one.
    if let Some(path) = source {
        follow_issuers(path, keyring).await?;
        gateway.registry.announce();
    }
    let mut rest = Vec::new();
    while let Some(frame) = changes.frame().await {
        let Ok(data) = frame.map_err(text_of)?.into_data() else { continue };
        rest.extend_from_slice(&data);
        // A frame may contain several lines, or a part of one.
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let mut line: Vec<u8> = rest.drain(..=end).collect();
            // The line feed is no part of the record.
            line.pop();
            apply(&line, gateway, keyring, source).await?;
        }
    }
    Err("it has ended".to_owned())
}

/// Applies one record of a change to the state of this process.
async fn apply(
    line: &[u8],
    gateway: &Gateway,
    keyring: &Keyring,
    source: Option<&Path>,
) -> Result<(), String> {
    let Some(record) = Record::decode(line, &NoKeys).map_err(text_of)? else {
        return Ok(());
    };
    keyring.apply(&record);
    gateway.registry.apply(&record);
    // The successor has destroyed the record key in the files. This process must also drop its copy
    // in memory.
    if let Event::Forgotten { record_key, .. } = &record.event
        && let Ok(id) = record_key.parse::<RecordKeyId>()
        && let Some(principal) = gateway.recorder.drop_key(&id)
    {
        let agents = gateway.registry.agents_for(&principal);
        gateway.recorder.remove_principal(&principal, &agents);
        gateway.registry.remove_principal(&principal);
    }
    if matches!(record.event, Event::Reload { .. })
        && let Some(path) = source
    {
        follow_issuers(path, keyring).await?;
        gateway.registry.announce();
    }
    Ok(())
}

/// Takes in the issuers of the config that the successor has read. Requests of a removed issuer
/// end. Open requests depend on no other part of the config.
async fn follow_issuers(path: &Path, keyring: &Keyring) -> Result<(), String> {
    let mut tries = FILE_TRIES;
    loop {
        tries -= 1;
        let why = match look_for_issuers(path, keyring) {
            Ok(()) => return Ok(()),
            Err(why) if tries == 0 => return Err(why),
            Err(why) => why,
        };
        // The file was complete when the successor read it. Another program writes it now, so this
        // process tries again.
        tracing::warn!(why, path = %path.display(), "the config cannot be read for its issuers \
            yet");
        tokio::time::sleep(FILE_PAUSE).await;
    }
}

/// Reads the config's issuers once.
fn look_for_issuers(path: &Path, keyring: &Keyring) -> Result<(), String> {
    // Only the names of issuers. Unknown keys of the config are ignored.
    #[derive(serde::Deserialize)]
    struct Named {
        iss: String,
    }
    #[derive(serde::Deserialize)]
    struct Sketch {
        #[serde(default)]
        issuer: Vec<Named>,
    }
    let text = std::fs::read_to_string(path).map_err(text_of)?;
    let read = config::read(&text, config::base_of(path)).map_err(text_of);
    match read.and_then(|config| issuers(&config).map_err(text_of)) {
        Ok(issuers) => keyring.set_issuers(issuers),
        // A newer program may know config keys that this one does not know. The names are enough to
        // end requests of removed issuers.
        Err(why) => {
            let sketch: Sketch =
                toml::from_str(&text).map_err(|error| error.message().to_owned())?;
            tracing::warn!(
                why,
                "this process does not know the successor's config, and goes by the names of its \
                    issuers alone"
            );
            keyring.retain_issuers(|iss| sketch.issuer.iter().any(|named| named.iss == iss));
        }
    }
    Ok(())
}
