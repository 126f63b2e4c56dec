//! The seal of a request: what lets it be forwarded and answered.
//!
//! An admission is durable before the server sees a byte, an outcome before the caller sees the last frame; a refusal of
//! somebody who is known before it is told, or counted where there are many alike. Where nothing can be recorded nothing is
//! done.

mod closing;
mod committed;
mod counted;
mod nameless;
mod open_requests;
mod refusal_counter;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::mapref::multiple::RefMulti;
use tokio::sync::oneshot;

use crate::audit::format::event::{Event, Written};
use crate::audit::format::key::RecordKeyId;
use crate::audit::format::request::{
    Admission, BodyDigest, FetchedContent, Forwards, ModelDigest, OutboundReference, Outcome,
    RefusedRequest, RequestContext, Server, Used,
};
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

/// How long to wait before another try, where the log is slow or the disk is full.
const LATER: Duration = Duration::from_secs(1);

/// Who may seal: a handle on the log.
#[derive(Clone)]
pub struct AuditRecorder(Arc<RecorderShared>);

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
    /// What was admitted.
    pub committed: Committed<T>,
    /// The entry that is to be closed. It must live as long as the work does.
    pub entry: Entry,
}

/// How a request ended.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// `ok`, `upstream-error`, `aborted`, or a refusal's code.
    pub code: &'static str,
    /// A refusal's detail.
    pub detail: Option<String>,
    /// The HTTP status.
    pub status: u16,
    /// Milliseconds since the request came.
    pub ms: u64,
    /// Tokens in and out.
    pub usage: Option<Used>,
    /// The server that answered, or was asked last.
    pub upstream: Option<Server>,
    /// Which weights answered.
    pub model_digest: Option<Arc<ModelDigest>>,
    /// What the answer would have made its reader reach.
    pub outbound: (Vec<OutboundReference>, u64),
}

/// An entry that is open while its request is at work. One that is dropped is closed as aborted.
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

/// A refusal of a caller who is known, as sealed. Only the pen makes one.
pub struct RecordedRefusal {
    refusal: Refusal,
    record: Option<String>,
}

impl RecordedRefusal {
    /// What was refused.
    #[must_use]
    pub const fn refusal(&self) -> &Refusal {
        &self.refusal
    }

    /// Its record, where it has one of its own: `<origin>#<index>`.
    #[must_use]
    pub fn record(&self) -> Option<&str> {
        self.record.as_deref()
    }
}

/// An answer that may be given: the proof that its entry was closed.
pub struct RecordedAnswer(String);

impl RecordedAnswer {
    /// The outcome: `<origin>#<index>`.
    #[must_use]
    pub fn record(&self) -> &str {
        &self.0
    }
}

/// What names a record: `<origin>#<index>`.
fn name_of(appended: &Appended) -> String {
    format!("{}#{}", appended.origin, appended.index)
}

/// What a caller is told where something cannot be recorded.
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

impl Entry {
    /// Its admission: `<origin>#<index>`.
    #[must_use]
    pub fn record(&self) -> &str {
        &self.record
    }

    /// Content that was fetched for the request: its place in the body, its URL, its media type and itself.
    pub fn fetched(&mut self, (path, target): (&str, &str), media_type: &str, content: &[u8]) {
        let content = BodyDigest {
            bytes: content.len() as u64,
            digest: KeyedDigest::of(&self.digest_key, content),
        };
        let target_digest = KeyedDigest::of(&self.digest_key, target.as_bytes());
        let (path, target, media_type) =
            (path.to_owned(), target.to_owned(), media_type.to_owned());
        self.fetched.push(FetchedContent { path, target, target_digest, media_type, content });
    }

    /// The body as it is sent on with that.
    fn forwards(&mut self, body: &[u8]) {
        self.forwarded = Some(BodyDigest {
            bytes: body.len() as u64,
            digest: KeyedDigest::of(&self.digest_key, body),
        });
    }

    /// Bytes that go to the caller now.
    pub fn deliver(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if let Some(digest) = &mut self.digest {
            digest.update(bytes);
        }
    }

    /// Closes the entry: the last frame may go when the answer is there.
    #[must_use]
    pub fn close(mut self, ending: Ending) -> Closing {
        self.end(ending)
    }

    fn end(&mut self, ending: Ending) -> Closing {
        let (answer, answered) = oneshot::channel();
        let Some((about, digest)) = self.about.take().zip(self.digest.take()) else {
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
            // Nobody waits for it; the log has kept it a place.
            drop(self.end(Ending { code: "aborted", ..Ending::default() }));
        }
    }
}

impl AuditRecorder {
    /// A pen for `log`.
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

    /// Asks whether anything can be sealed.
    ///
    /// # Errors
    /// `audit-unavailable` when the log cannot be written any more, `gateway-stopping` after [`AuditRecorder::cut`].
    pub fn ready(&self) -> Result<(), Refusal> {
        if self.0.open.cut.load(Ordering::SeqCst) {
            return Err(Code::GatewayStopping.into());
        }
        if self.0.log.healthy() { Ok(()) } else { Err(Code::AuditUnavailable.into()) }
    }

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

    async fn append(&self, event: Event) -> Result<Appended, Refusal> {
        let (answer, answered) = oneshot::channel();
        self.write(event, answer);
        let appended = answered.await.unwrap_or(Err(LogFault::Stopped));
        appended.map_err(|fault| refusal_of(&fault))
    }

    /// A key for the digests of one record.
    #[must_use]
    pub fn digest_key(&self) -> [u8; 16] {
        self.0.digest_keys.next()
    }

    /// Records the admission of `value`, and returns when the record is durable. The record has the digest of the body that
    /// `value` forwards.
    ///
    /// # Errors
    /// `audit-unavailable` when the log cannot be written any more, `audit-slow` or `audit-full` when it cannot now.
    pub async fn commit<T: Forwards>(
        &self,
        value: T,
        mut admission: Admission,
    ) -> Result<DurableAdmission<T>, Refusal> {
        if self.0.log.slow() {
            return Err(Refusal::new(Code::AuditSlow).after(LATER));
        }
        // Counted before it is asked: who ends the log waits for this one, or this one finds it ending.
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
        let open = admission.about.clone();
        let digest_key = self.0.digest_keys.next();
        let own = self.clone();
        let entry = move |record, index| {
            own.0.open.admissions.insert(open.request, (index, open.clone()));
            Entry {
                record,
                recorder: own,
                about: Some(open),
                admission: index,
                digest_key,
                digest: Some(KeyedDigest::new(&digest_key)),
                bytes: 0,
                fetched: Vec::new(),
                forwarded: None,
                held: Some(held),
            }
        };
        let event = Event::Admission(Box::new(admission));
        if is_armed(Failpoint::AdmissionNotAwaited) {
            self.write(event, oneshot::channel().0);
            return Ok(DurableAdmission {
                committed: Committed::new(value),
                entry: entry(String::new(), 0),
            });
        }
        let (answer, answered) = oneshot::channel();
        let metrics = Arc::clone(&self.0.metrics);
        // The entry comes with the record: a caller who has left meanwhile drops it unseen, and it is closed all the same.
        self.0.log.append_with(event, None, move |appended| {
            drop(answer.send(appended.map(|appended| {
                metrics.audit_record("admission");
                entry(name_of(&appended), appended.index)
            })));
        });
        let entry =
            answered.await.unwrap_or(Err(LogFault::Stopped)).map_err(|fault| refusal_of(&fault))?;
        Ok(DurableAdmission { committed: Committed::new(value), entry })
    }

    /// Admits nothing more, and waits until every admission has its outcome; false where one has none after `patience`.
    pub async fn finish(&self, patience: Duration) -> bool {
        let open = &self.0.open;
        open.ending.store(true, Ordering::SeqCst);
        let none = async {
            loop {
                let none = open.none.notified();
                if open.count.load(Ordering::SeqCst) == 0 {
                    return;
                }
                none.await;
            }
        };
        tokio::time::timeout(patience, none).await.is_ok() && !open.lost.load(Ordering::SeqCst)
    }

    /// Lets everything end that is still going on, the next time that it is asked whether it may: who calls this wakes them.
    pub fn cut(&self) {
        self.0.open.cut.store(true, Ordering::SeqCst);
    }

    /// The outcomes of what is open, as they are where this process ends and can say nothing of it: `unknown`.
    #[must_use]
    pub fn unknown(&self) -> Vec<Written> {
        let of = |row: RefMulti<'_, RequestId, (u64, RequestContext)>| {
            let (index, about) = row.value();
            unknown(about.clone(), *index, self.0.digest_keys.next())
        };
        self.0.open.admissions.iter().filter_map(of).collect()
    }

    /// The outcome of an admission that is recorded elsewhere, should this process say nothing of it. It names no index.
    #[must_use]
    pub fn unknown_of(&self, admission: &Admission) -> Option<Written> {
        unknown(admission.about.clone(), 0, self.0.digest_keys.next())
    }

    /// Where the records lie, and what opens them.
    #[must_use]
    pub fn records(&self) -> (PathBuf, Arc<Mutex<Vault>>) {
        let log = &self.0.log;
        (log.folder().to_owned(), Arc::clone(log.vault()))
    }

    /// Asks for a checkpoint soon.
    pub fn want_checkpoint(&self) {
        self.0.log.want_checkpoint();
    }

    /// Seals a refusal of somebody who is known; returns when it is durable, or counted where there were many like it. Where
    /// the log cannot be written the refusal becomes that.
    pub async fn record_refusal(
        &self,
        refusal: Refusal,
        about: RequestContext,
        ms: u64,
    ) -> RecordedRefusal {
        if self.is_nameless(refusal.code, &about) {
            self.count_unauthenticated(&about.request, &refusal, about.peer);
            return RecordedRefusal {
                refusal: self.ready().err().unwrap_or(refusal),
                record: None,
            };
        }
        let now = self.0.clock.now();
        let caller = Arc::clone(&about.caller);
        let (whose, code) = ((&caller.agent, &caller.principal), refusal.code);
        self.0.refusal_counter.tell(RememberedRefusal::of(
            &about.request,
            &refusal,
            Some(caller.agent.as_str().to_owned()),
            None,
            now,
        ));
        if !self.0.refusal_counter.agent(whose, code, now) {
            return match self.ready() {
                Ok(()) => RecordedRefusal { refusal, record: None },
                Err(refusal) => RecordedRefusal { refusal, record: None },
            };
        }
        let refused = RefusedRequest {
            about,
            stage: refusal.code.stage().as_str(),
            code: refusal.code.as_str(),
            detail: refusal.detail.clone(),
            param: refusal.param.clone(),
            status: refusal.code.status(),
            ms,
        };
        match self.append(Event::Refusal(Box::new(refused))).await {
            Ok(appended) => RecordedRefusal { refusal, record: Some(name_of(&appended)) },
            Err(refusal) => {
                // It has no record of its own: the summary that is recorded once the log can be written counts it.
                self.0.refusal_counter.count(whose, code);
                RecordedRefusal { refusal, record: None }
            }
        }
    }

    /// Closes the entry of a request that is refused after it was admitted; returns when that is durable.
    pub async fn close_refused(
        &self,
        entry: Entry,
        ending: Ending,
        refusal: Refusal,
    ) -> RecordedRefusal {
        let record = Some(entry.record.clone());
        match entry.close(ending).await {
            Ok(_) => RecordedRefusal { refusal, record },
            Err(refusal) => RecordedRefusal { refusal, record },
        }
    }

    /// Records what the gateway did or noticed by itself.
    pub fn note(&self, event: Event) {
        let (answer, _) = oneshot::channel();
        self.write(event, answer);
    }

    /// Lets go of a record key that the process that writes the log has destroyed. Gives whose it was.
    #[must_use]
    pub fn drop_key(&self, id: &RecordKeyId) -> Option<Principal> {
        let mut vault = self.0.log.vault().lock().unwrap_or_else(PoisonError::into_inner);
        vault.drop_key(id)?.parse().ok()
    }

    /// What is remembered of a refusal that was told not long ago.
    #[must_use]
    pub fn told(&self, request: &RequestId) -> Option<RememberedRefusal> {
        self.0.refusal_counter.told(request)
    }
}
