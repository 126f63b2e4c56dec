//! Records of one request. The admission is durable before the model server gets a byte. The
//! outcome is durable before the caller gets the last frame. A refusal of an authenticated caller
//! is durable before its answer, or is counted where there are many of the same kind. When the log
//! cannot record, requests are refused.

mod closing;
mod committed;
mod counted;
mod nameless;
mod open_requests;
mod refusal_counter;
mod refused;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::audit::format::event::{Event, Written};
use crate::audit::format::key::RecordKeyId;
use crate::audit::format::request::{
    Admission, BodyDigest, FetchedContent, Forwards, ModelDigest, OutboundReference, Outcome,
    RequestContext, Server, Used,
};
use crate::audit::store::locked::locked;
use crate::audit::store::log::{Appended, Log, LogFault};
use crate::audit::store::vault::Vault;
use crate::clock::Clock;
use crate::crypto::encryption::KeyedDigest;
use crate::crypto::{Draws, EntropyFault};
use crate::failpoint::{Failpoint, is_armed};
use crate::id::{Principal, RequestId};
use crate::metrics::Metrics;
use crate::refusal::{Code, Refusal};

pub use closing::Closing;
pub use committed::Committed;
use open_requests::{AdmissionGuard, Admissions, unknown};
use refusal_counter::RefusalCounter;
pub use refusal_counter::RememberedRefusal;

/// The delay before a retry, when the log is slow or the disk is full.
const LATER: Duration = Duration::from_secs(1);

/// The audit recorder: records requests through a handle on the log.
#[derive(Clone)]
pub struct AuditRecorder(Arc<RecorderShared>);

/// The state that all copies of the recorder share.
struct RecorderShared {
    log: Arc<Log>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    digest_keys: Draws,
    refusal_counter: RefusalCounter,
    open: Arc<Admissions>,
}

/// A durable admission. Only [`AuditRecorder::commit`] makes one.
pub struct DurableAdmission<T> {
    /// The admitted value.
    pub committed: Committed<T>,
    /// The open entry. It must live as long as the request is served.
    pub entry: Entry,
}

/// The end of a request.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// The code: `ok`, `upstream-error`, `aborted`, or a refusal's code.
    pub code: &'static str,
    /// The detail of a refusal, for the operator.
    pub detail: Option<String>,
    /// The HTTP status of the answer.
    pub status: u16,
    /// Milliseconds since the arrival of the request.
    pub ms: u64,
    /// Input and output tokens.
    pub usage: Option<Used>,
    /// The server that answered, or the last one that was tried.
    pub upstream: Option<Server>,
    /// The digest of the weights that answered.
    pub model_digest: Option<Arc<ModelDigest>>,
    /// The references in the answer that could make its client reach out, and the number of all.
    pub outbound: (Vec<OutboundReference>, u64),
}

/// The open entry of a request that is being served. An entry that is dropped is closed as aborted.
pub struct Entry {
    recorder: AuditRecorder,
    about: Option<RequestContext>,
    admission: u64,
    record: String,
    digest_key: [u8; 16],
    digest: Option<KeyedDigest>,
    bytes: u64,
    fetched: Vec<FetchedContent>,
    forwarded: Option<BodyDigest>,
    held: Option<AdmissionGuard>,
}

/// Content that the gateway fetched for a request.
#[derive(Clone, Copy)]
pub struct FetchedPart<'f> {
    /// The path of its URL in the body.
    pub path: &'f str,
    /// Its URL.
    pub target: &'f str,
    /// Its media type.
    pub media_type: &'f str,
    /// Its bytes.
    pub content: &'f [u8],
}

/// The parts of an [`Entry`] that are known before its admission is written.
struct NewEntry {
    recorder: AuditRecorder,
    about: RequestContext,
    digest_key: [u8; 16],
    held: AdmissionGuard,
}

impl NewEntry {
    /// The open entry of the admission with that record and index. Its request counts as open from
    /// here on.
    fn admitted(self, record: String, index: u64) -> Entry {
        let Self { recorder, about, digest_key, held } = self;
        recorder.0.open.admissions.insert(about.request, (index, about.clone()));
        Entry {
            record,
            recorder,
            about: Some(about),
            admission: index,
            digest_key,
            digest: Some(KeyedDigest::new(&digest_key)),
            bytes: 0,
            fetched: Vec::new(),
            forwarded: None,
            held: Some(held),
        }
    }
}

/// A recorded refusal of an authenticated caller. Only [`AuditRecorder`] makes one.
pub struct RecordedRefusal {
    refusal: Refusal,
    record: Option<String>,
}

impl RecordedRefusal {
    /// The refusal.
    #[must_use]
    pub const fn refusal(&self) -> &Refusal {
        &self.refusal
    }

    /// Its record `<origin>#<index>`, where it has one. A counted refusal has none.
    #[must_use]
    pub fn record(&self) -> Option<&str> {
        self.record.as_deref()
    }
}

/// The permission to finish an answer: the proof that its entry was closed.
pub struct RecordedAnswer(String);

impl RecordedAnswer {
    /// The record of the outcome: `<origin>#<index>`.
    #[must_use]
    pub fn record(&self) -> &str {
        &self.0
    }
}

/// The name of a record: `<origin>#<index>`.
fn name_of(appended: &Appended) -> String {
    format!("{}#{}", appended.origin, appended.index)
}

/// The refusal that a caller gets where a record cannot be written.
fn refusal_of(fault: &LogFault) -> Refusal {
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "every other fault means the same to a caller"
    )]
    let refusal = match fault {
        LogFault::Low | LogFault::NoSpace(_) => Refusal::new(Code::AuditFull).after(LATER),
        LogFault::Short(_) => Refusal::new(Code::AuditResources).after(LATER),
        LogFault::Busy => Refusal::new(Code::AuditSlow).after(LATER),
        _ => Code::AuditUnavailable.into(),
    };
    refusal.because(fault)
}

/// The result that the log's thread sent. Where the thread ended without one, the refusal of
/// [`LogFault::Stopped`].
fn answer_of<T>(
    sent: Result<Result<T, LogFault>, oneshot::error::RecvError>,
) -> Result<T, Refusal> {
    match sent {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(fault)) => Err(refusal_of(&fault)),
        Err(_) => Err(refusal_of(&LogFault::Stopped)),
    }
}

impl Entry {
    /// The record of its admission: `<origin>#<index>`.
    #[must_use]
    pub fn record(&self) -> &str {
        &self.record
    }

    /// Adds fetched content.
    pub fn fetched(&mut self, part: FetchedPart<'_>) {
        let content = BodyDigest {
            bytes: part.content.len() as u64,
            digest: KeyedDigest::of(&self.digest_key, part.content),
        };
        self.fetched.push(FetchedContent {
            path: part.path.to_owned(),
            target: part.target.to_owned(),
            target_digest: KeyedDigest::of(&self.digest_key, part.target.as_bytes()),
            media_type: part.media_type.to_owned(),
            content,
        });
    }

    /// Stores the digest of the body that is sent after the fetched content was inserted.
    fn forwards(&mut self, body: &[u8]) {
        self.forwarded = Some(BodyDigest {
            bytes: body.len() as u64,
            digest: KeyedDigest::of(&self.digest_key, body),
        });
    }

    /// Adds bytes of the answer that are sent to the caller now.
    pub fn deliver(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if let Some(digest) = &mut self.digest {
            digest.update(bytes);
        }
    }

    /// Closes the entry. The last frame may be sent when the returned future is ready.
    #[must_use]
    pub fn close(mut self, ending: Ending) -> Closing {
        self.end(ending)
    }

    /// Records the outcome. A second call has no effect.
    fn end(&mut self, ending: Ending) -> Closing {
        let (answer, answered) = oneshot::channel();
        let (Some(about), Some(digest)) = (self.about.take(), self.digest.take()) else {
            return Closing(answered);
        };
        let (open, request) = (Arc::clone(&self.recorder.0.open), about.request);
        let Ending { code, detail, status, ms, usage, upstream, model_digest, outbound } = ending;
        let outcome = Outcome {
            about,
            admission: self.admission,
            upstream,
            model_digest,
            code,
            detail,
            status,
            ms,
            usage,
            outbound,
            fetched: std::mem::take(&mut self.fetched),
            forwarded: self.forwarded,
            digest_key: self.digest_key,
            delivered: BodyDigest { bytes: self.bytes, digest: digest.finish() },
        };
        let (held, metrics) = (self.held.take(), Arc::clone(&self.recorder.0.metrics));
        // This runs even if the caller drops `Closing`, so that the admission is always removed.
        self.recorder.0.log.append_with(Event::Outcome(Box::new(outcome)), None, move |appended| {
            match &appended {
                Ok(_) => metrics.audit_record("outcome"),
                Err(_) => held.iter().for_each(|held| held.0.lost.store(true, Ordering::SeqCst)),
            }
            open.admissions.remove(&request);
            drop(answer.send(appended));
            drop(held);
        });
        Closing(answered)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.about.is_some() {
            // No caller waits for it. The queue accepts it above its limit.
            drop(self.end(Ending { code: "aborted", ..Ending::default() }));
        }
    }
}

impl AuditRecorder {
    /// An audit recorder for `log`.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn new(
        log: Arc<Log>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, EntropyFault> {
        let refusal_counter = RefusalCounter::new(clock.now());
        Ok(Self(Arc::new(RecorderShared {
            log,
            clock,
            metrics,
            digest_keys: Draws::new()?,
            refusal_counter,
            open: Arc::default(),
        })))
    }

    /// Checks whether records can be written.
    ///
    /// # Errors
    /// `audit-unavailable` after a failure, `gateway-stopping` after [`AuditRecorder::cut`].
    pub fn ready(&self) -> Result<(), Refusal> {
        if self.0.open.cut.load(Ordering::SeqCst) {
            return Err(Code::GatewayStopping.into());
        }
        if self.0.log.healthy() { Ok(()) } else { Err(Code::AuditUnavailable.into()) }
    }

    /// Appends an event of the gateway itself, and counts it in the metrics.
    fn write(&self, event: Event, answer: oneshot::Sender<Result<Appended, LogFault>>) {
        let own = Arc::clone(&self.0);
        let kind = event.kind();
        self.0.log.append_with(event, None, move |appended| {
            if appended.is_ok() {
                own.metrics.audit_record(kind);
            }
            drop(answer.send(appended));
        });
    }

    /// Appends an event, and returns when it is durable.
    async fn append(&self, event: Event) -> Result<Appended, Refusal> {
        let (answer, answered) = oneshot::channel();
        self.write(event, answer);
        answer_of(answered.await)
    }

    /// A random key for the digests of one record.
    #[must_use]
    pub fn digest_key(&self) -> [u8; 16] {
        self.0.digest_keys.next()
    }

    /// Records the admission of `value`, and returns when the record is durable. The record has the
    /// digest of the body that `value` forwards.
    ///
    /// # Errors
    /// `audit-unavailable` when the log has failed. `audit-slow`, `audit-full` or `audit-resources`
    /// when a later retry can succeed.
    pub async fn commit<T: Forwards>(
        &self,
        value: T,
        mut admission: Admission,
    ) -> Result<DurableAdmission<T>, Refusal> {
        if self.0.log.slow() {
            return Err(Refusal::new(Code::AuditSlow).after(LATER));
        }
        // Counted before `ending` is read: the end waits for this request, or this request sees it.
        let held = AdmissionGuard::new(&self.0.open);
        if self.0.open.ending.load(Ordering::SeqCst) {
            return Err(refusal_of(&LogFault::Closed));
        }
        if let Some(body) = value.forwarded() {
            admission.forwarded = Some(BodyDigest {
                bytes: body.len() as u64,
                digest: KeyedDigest::of(&admission.digest_key, body),
            });
        }
        let new = NewEntry {
            recorder: self.clone(),
            about: admission.about.clone(),
            // The outcome has its own digest key, so its digests differ from those of the
            // admission.
            digest_key: self.0.digest_keys.next(),
            held,
        };
        let event = Event::Admission(Box::new(admission));
        if is_armed(Failpoint::AdmissionNotAwaited) {
            self.write(event, oneshot::channel().0);
            return Ok(DurableAdmission {
                committed: Committed::new(value),
                entry: new.admitted(String::new(), 0),
            });
        }
        let (answer, answered) = oneshot::channel();
        let metrics = Arc::clone(&self.0.metrics);
        // The entry is made with the record: if the caller has left, it is dropped and closed.
        self.0.log.append_with(event, None, move |appended| {
            drop(answer.send(appended.map(|appended| {
                metrics.audit_record("admission");
                new.admitted(name_of(&appended), appended.index)
            })));
        });
        let entry = answer_of(answered.await)?;
        Ok(DurableAdmission { committed: Committed::new(value), entry })
    }

    /// Ends admissions, and waits for all outcomes. False where one is missing after `patience`.
    pub async fn finish(&self, patience: Duration) -> bool {
        let open = &self.0.open;
        open.ending.store(true, Ordering::SeqCst);
        let none = async {
            loop {
                // Created before the count is read, so that no notification is lost.
                let none = open.none.notified();
                if open.count.load(Ordering::SeqCst) == 0 {
                    return;
                }
                none.await;
            }
        };
        tokio::time::timeout(patience, none).await.is_ok() && !open.lost.load(Ordering::SeqCst)
    }

    /// Marks all requests as cut: each ends at its next `ready`. The caller of this wakes them.
    pub fn cut(&self) {
        self.0.open.cut.store(true, Ordering::SeqCst);
    }

    /// The outcomes `unknown` of all open requests, where this process ends without real ones.
    #[must_use]
    pub fn unknown(&self) -> Vec<Written> {
        let mut outcomes = Vec::new();
        for row in self.0.open.admissions.iter() {
            let (index, about) = row.value();
            outcomes.extend(unknown(about.clone(), *index, self.0.digest_keys.next()));
        }
        outcomes
    }

    /// The outcome `unknown` of an admission that another process records. It has no index.
    #[must_use]
    pub fn unknown_of(&self, admission: &Admission) -> Option<Written> {
        unknown(admission.about.clone(), 0, self.0.digest_keys.next())
    }

    /// The folder of the records, and the keys that decrypt them.
    #[must_use]
    pub fn records(&self) -> (PathBuf, Arc<Mutex<Vault>>) {
        let log = &self.0.log;
        (log.folder().to_owned(), Arc::clone(log.vault()))
    }

    /// Requests a checkpoint soon.
    pub fn want_checkpoint(&self) {
        self.0.log.want_checkpoint();
    }

    /// Records an event of the gateway itself, without waiting.
    pub fn note(&self, event: Event) {
        let (answer, _) = oneshot::channel();
        self.write(event, answer);
    }

    /// Removes a record key that another process has destroyed. Returns the principal.
    #[must_use]
    pub fn drop_key(&self, id: &RecordKeyId) -> Option<Principal> {
        let mut vault = locked(self.0.log.vault());
        vault.drop_key(id)?.parse().ok()
    }

    /// A refusal that was answered recently, for an operator's request.
    #[must_use]
    pub fn told(&self, request: &RequestId) -> Option<RememberedRefusal> {
        self.0.refusal_counter.told(request)
    }
}
