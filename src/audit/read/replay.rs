//! The books and the decisions, recomputed from the log alone: naive on purpose, and without a line of the gateway's own books.

mod state;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::ops::ControlFlow;

use crate::audit::format::envelope::Envelope;
use crate::audit::format::event::Event;
use crate::audit::format::fault::RecordFault;
use crate::audit::format::key::Opener;
use crate::audit::format::record::Record;
use crate::audit::read::reader::{DecryptedRecord, Epoch, ReadFault, StoredRecord, each};
use crate::audit::read::tiles::is_pruned;
use crate::clock::Timestamp;
use crate::json;

pub use state::ReplayedState;
use state::{Against, RecordedCaller};

/// Disagreements that are kept with their words; the rest is counted.
const KEPT_MAX: usize = 1_000;

/// Where the log and what follows from it disagree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disagreement {
    /// The record, `EPOCH#INDEX`.
    pub record: String,
    /// What does not follow.
    pub what: String,
}

/// What came out.
#[derive(Default)]
pub struct ReplayReport {
    /// Records that were read.
    pub records: u64,
    /// Of which so many stay closed: their key is not here, or was destroyed.
    pub closed: u64,
    /// Records that were moved away.
    pub moved: u64,
    /// Admissions.
    pub admissions: u64,
    /// Outcomes.
    pub outcomes: u64,
    /// Refusals.
    pub refusals: u64,
    /// Admissions without an outcome that a later start closed.
    pub unknown: u64,
    /// Admissions without an outcome so far.
    pub open: u64,
    /// The first disagreements.
    pub disagreements: Vec<Disagreement>,
    /// How many there are in all.
    pub disagreeing: u64,
    /// The books at the end.
    pub state: ReplayedState,
}

/// An admission without an outcome so far.
struct OpenAdmission {
    index: u64,
    record: String,
    agent: String,
    principal: String,
    output_tokens: Option<u64>,
    /// What refuses it, by the books before it.
    against: Vec<Against>,
    at: Timestamp,
}

/// Codes of outcomes that were served.
const SERVED: [&str; 2] = ["ok", "upstream-error"];
struct Run<'o> {
    opener: &'o dyn Opener,
    replay: ReplayReport,
    /// By request.
    open: HashMap<String, OpenAdmission>,
    /// Hashes of the epoch's requests that were let through.
    requests: HashSet<u64>,
    hashing: RandomState,
    /// Admissions since the last start that cannot be read, by their indices, of whatever epoch.
    closed: HashSet<u64>,
    /// No start was read since something was missing: what was admitted there is not known.
    midway: bool,
    /// Something before this place is not there: a refusal's reason may be.
    gaps: bool,
    /// The kinds of which a record cannot be read.
    unread: BTreeSet<String>,
}

/// Reads the whole log, recomputes books and decisions, and notes where they disagree. `progress` hears how many records are read.
///
/// # Errors
/// When it cannot be read.
pub fn replay(
    epochs: &[Epoch],
    opener: &dyn Opener,
    mut progress: impl FnMut(u64),
) -> Result<ReplayReport, ReadFault> {
    let mut run = Run::new(opener);
    // What came before the part that is here may be a reason.
    run.gaps = epochs.first().is_some_and(|first| first.number != 1);
    run.midway = run.gaps;
    for epoch in epochs {
        run.requests.clear();
        if epoch.signed > 0 && is_pruned(&epoch.folder) {
            run.replay.moved += epoch.signed;
            (run.gaps, run.midway) = (true, true);
        }
        let mut fault = None;
        let _ = each(epoch, 0, |found| match run.take(found) {
            Ok(()) => {
                progress(run.replay.records);
                ControlFlow::Continue(())
            }
            Err(error) => {
                fault = Some(error);
                ControlFlow::Break(())
            }
        })?;
        if let Some(fault) = fault {
            return Err(fault);
        }
    }
    run.replay.open = run.open.len() as u64;
    Ok(run.replay)
}

impl<'o> Run<'o> {
    fn new(opener: &'o dyn Opener) -> Self {
        let (replay, hashing) = (ReplayReport::default(), RandomState::new());
        let (open, requests, closed, unread) =
            (HashMap::new(), HashSet::new(), HashSet::new(), BTreeSet::new());
        Self { opener, replay, open, requests, hashing, closed, midway: false, gaps: false, unread }
    }

    fn take(&mut self, found: StoredRecord<'_>) -> Result<(), ReadFault> {
        self.replay.records += 1;
        let fault = |fault: RecordFault| ReadFault::Record { record: found.name(), fault };
        let envelope = Envelope::read(found.bytes).map_err(fault)?;
        let at = envelope.moment().map_err(fault)?;
        if envelope.is_transient() {
            let told = found.tell(self.opener)?;
            match envelope.kind {
                _ if told.payload.is_none() => self.unreadable(envelope.kind, found.index),
                "admission" => self.admission(&told, at, found.index),
                "outcome" => self.outcome(&told),
                "refusal" => self.refusal(&told, at),
                _ => {}
            }
            return Ok(());
        }
        match Record::decode(found.bytes, self.opener) {
            Ok(Some(record)) => self.control(&record),
            Ok(None) | Err(RecordFault::KeyMissing(_)) => {
                self.unreadable(envelope.kind, found.index)
            }
            Err(other) => return Err(fault(other)),
        }
        Ok(())
    }

    fn unreadable(&mut self, kind: &str, index: u64) {
        self.replay.closed += 1;
        self.unread.insert(kind.to_owned());
        if kind == "admission" {
            self.closed.insert(index);
        }
    }

    fn control(&mut self, record: &Record) {
        if matches!(record.event, Event::Start { .. }) {
            self.replay.unknown += self.open.len() as u64;
            self.open.clear();
            self.closed.clear();
            self.midway = false;
        }
        if matches!(record.event, Event::Stop) {
            let mut left: Vec<OpenAdmission> = self.open.drain().map(|(_, open)| open).collect();
            left.sort_unstable_by_key(|open| open.index);
            left.retain(|_| !self.unread.contains("outcome"));
            for open in left {
                self.disagree(
                    &open.record,
                    "it has no outcome, and the gateway stopped in good order after it",
                );
            }
        }
        if matches!(&record.event, Event::Epoch { reason, .. } if reason.starts_with("after-loss: "))
        {
            (self.gaps, self.midway) = (true, true);
            self.replay.state.lose();
        }
        self.replay.state.apply(record);
    }

    fn disagree(&mut self, record: &str, what: impl Into<String>) {
        self.replay.disagreeing += 1;
        if self.replay.disagreements.len() < KEPT_MAX {
            self.replay
                .disagreements
                .push(Disagreement { record: record.to_owned(), what: what.into() });
        }
    }

    fn admission(&mut self, told: &DecryptedRecord, at: Timestamp, index: u64) {
        self.replay.admissions += 1;
        let caller = RecordedCaller::of(told, at);
        let handles_known = !self.gaps && !self.unread.contains("handle-set");
        if let Some(why) = self.replay.state.shown_wrongly(&caller).filter(|_| handles_known) {
            self.disagree(
                &told.record,
                format!("it was let through, and by the books before it is refused: {why}"),
            );
        }
        let against = self.replay.state.refuses(&caller, at);
        let record = told.record.clone();
        let output_tokens = told.number("limits.output_tokens");
        let open = OpenAdmission {
            index,
            record,
            agent: caller.agent,
            principal: caller.principal,
            output_tokens,
            against,
            at,
        };
        let request = told.text("request").unwrap_or_default();
        if !self.requests.insert(self.hashing.hash_one(&request)) {
            self.disagree(&told.record, "its request was let through before");
        }
        self.open.insert(request, open);
    }

    fn outcome(&mut self, told: &DecryptedRecord) {
        self.replay.outcomes += 1;
        let admission = told.number("admission");
        let Some(open) = self.open.remove(&told.text("request").unwrap_or_default()) else {
            // Its admission may be one that cannot be read.
            let unread = admission.is_some_and(|admission| self.closed.contains(&admission));
            if !unread && !self.midway {
                self.disagree(&told.record, "there is no open admission of its request before it");
            }
            return;
        };
        if admission != Some(open.index) {
            self.disagree(
                &told.record,
                format!("its admission is record {}, and it names another", open.index),
            );
        }
        if told.text("agent").as_ref() != Some(&open.agent)
            || told.text("principal").as_ref() != Some(&open.principal)
        {
            self.disagree(
                &told.record,
                format!("its admission is one of {} in the name of {}", open.agent, open.principal),
            );
        }
        let served = told.text("code").is_some_and(|code| SERVED.contains(&code.as_str()));
        if served || told.number("response_bytes").is_some_and(|bytes| bytes > 0) {
            // Who was suspended when it was recorded may have been resumed when it was asked again.
            let (state, mut against) = (&self.replay.state, open.against);
            against.retain(|why| !state.is_over(why, open.at));
            for why in against {
                self.disagree(
                    &open.record,
                    format!("it was let through and served, and by the books before it is refused: {why}"),
                );
            }
        }
        if let (Some(most), Some(used)) = (open.output_tokens, told.number("usage.output"))
            && used > most
        {
            self.disagree(
                &told.record,
                format!("{used} tokens were used, and {most} were admitted"),
            );
        }
    }

    fn refusal(&mut self, told: &DecryptedRecord, at: Timestamp) {
        self.replay.refusals += 1;
        let code = told.text("code").unwrap_or_default();
        if self.gaps || state::reasons(&code).iter().any(|kind| self.unread.contains(*kind)) {
            return;
        }
        if self.replay.state.explains(&code, &RecordedCaller::of(told, at)) == Some(false) {
            self.disagree(
                &told.record,
                format!("it was refused with {code}, and nothing in the books before it says so"),
            );
        }
    }
}

/// The tokens and keys of a record's chain, the operator's first.
fn chain(told: &DecryptedRecord) -> Vec<(String, String)> {
    let Some(payload) = &told.payload else { return Vec::new() };
    let Ok(document) = json::parse(payload.as_bytes(), &json::Limits::deep(4)) else {
        return Vec::new();
    };
    let links =
        document.as_object().and_then(|object| object.get("chain")).and_then(json::Value::as_array);
    let text = |link: &json::Value<'_>, member| {
        let text =
            link.as_object().and_then(|object| object.get(member)).and_then(json::Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    links.unwrap_or_default().iter().map(|link| (text(link, "token"), text(link, "kid"))).collect()
}
