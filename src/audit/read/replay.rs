//! Recomputes the state and the decisions from the log alone. The code is deliberately simple, and
//! shares no code with the gateway's own state.

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

pub use state::ReplayedState;
use state::{Against, RecordedCaller};

/// The maximum of disagreements that are kept in full. The others are only counted.
const KEPT_MAX: usize = 1_000;

/// A disagreement between the log and the recomputation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disagreement {
    /// The record, `EPOCH#INDEX`.
    pub record: String,
    /// The statement that does not follow from the earlier records.
    pub what: String,
}

/// The result of a replay.
#[derive(Default)]
pub struct ReplayReport {
    /// The number of records that were read.
    pub records: u64,
    /// The number of records without a key, or with a destroyed key.
    pub closed: u64,
    /// The number of records that were moved away.
    pub moved: u64,
    /// The number of admissions.
    pub admissions: u64,
    /// The number of outcomes.
    pub outcomes: u64,
    /// The number of refusals.
    pub refusals: u64,
    /// The number of admissions without an outcome at a later start.
    pub unknown: u64,
    /// The number of admissions without an outcome at the end of the log.
    pub open: u64,
    /// The first disagreements, at most 1,000.
    pub disagreements: Vec<Disagreement>,
    /// The number of all disagreements.
    pub disagreeing: u64,
    /// The state at the end.
    pub state: ReplayedState,
}

/// An admission without an outcome so far.
struct OpenAdmission {
    index: u64,
    record: String,
    agent: String,
    principal: String,
    output_tokens: Option<u64>,
    /// The reasons to refuse it, by the state before it.
    against: Vec<Against>,
    at: Timestamp,
}

/// Outcome codes of requests that were served.
const SERVED: [&str; 2] = ["ok", "upstream-error"];
/// The replay in progress.
struct Run<'o> {
    opener: &'o dyn Opener,
    replay: ReplayReport,
    /// The open admissions, by request.
    open: HashMap<String, OpenAdmission>,
    /// Hashes of the requests that were admitted in this epoch.
    requests: HashSet<u64>,
    hashing: RandomState,
    /// Indices of unreadable admissions since the last start, of any epoch.
    closed: HashSet<u64>,
    /// Whether records are missing since the last known start: there may be unknown admissions.
    midway: bool,
    /// Whether earlier records are missing: the reason of a refusal may be among them.
    gaps: bool,
    /// The kinds with unreadable records.
    unread: BTreeSet<String>,
}

/// Reads the whole log, recomputes the state and the decisions, and collects the disagreements.
/// `progress` gets the number of records.
///
/// # Errors
/// When the log cannot be read.
pub fn replay(
    epochs: &[Epoch],
    opener: &dyn Opener,
    mut progress: impl FnMut(u64),
) -> Result<ReplayReport, ReadFault> {
    let mut run = Run::new(opener);
    // Records before the first available epoch may have the reason of a refusal.
    run.gaps = matches!(epochs.first(), Some(first) if first.number != 1);
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

    /// Replays one record.
    fn take(&mut self, found: StoredRecord<'_>) -> Result<(), ReadFault> {
        self.replay.records += 1;
        let envelope = Envelope::read(found.bytes).map_err(|fault| found.fault(fault))?;
        let at = envelope.moment().map_err(|fault| found.fault(fault))?;
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
            Err(other) => return Err(found.fault(other)),
        }
        Ok(())
    }

    /// Counts a record without a readable payload.
    fn unreadable(&mut self, kind: &str, index: u64) {
        self.replay.closed += 1;
        self.unread.insert(kind.to_owned());
        if kind == "admission" {
            self.closed.insert(index);
        }
    }

    /// Applies a record that changes the state.
    fn control(&mut self, record: &Record) {
        // After a start no request of the former process is open: without an outcome, its end is
        // unknown.
        if matches!(record.event, Event::Start { .. }) {
            self.replay.unknown += self.open.len() as u64;
            self.open.clear();
            self.closed.clear();
            self.midway = false;
        }
        // A regular stop waits for all outcomes. An unreadable outcome is no evidence, so then no
        // admission is reported.
        if matches!(record.event, Event::Stop) {
            let mut left: Vec<OpenAdmission> =
                std::mem::take(&mut self.open).into_values().collect();
            left.sort_unstable_by_key(|open| open.index);
            left.retain(|_| !self.unread.contains("outcome"));
            for open in left {
                self.disagree(
                    &open.record,
                    "it has no outcome, and the gateway stopped in good order after it",
                );
            }
        }
        if let Event::Epoch { reason, .. } = &record.event
            && reason.starts_with("after-loss: ")
        {
            (self.gaps, self.midway) = (true, true);
            // Records that reversed a status may be lost. Only revocations are permanent.
            self.replay.state.lose();
        }
        self.replay.state.apply(record);
    }

    /// Adds a disagreement.
    fn disagree(&mut self, record: &str, what: impl Into<String>) {
        self.replay.disagreeing += 1;
        if self.replay.disagreements.len() < KEPT_MAX {
            self.replay
                .disagreements
                .push(Disagreement { record: record.to_owned(), what: what.into() });
        }
    }

    /// Checks an admission against the state before it.
    fn admission(&mut self, told: &DecryptedRecord, at: Timestamp, index: u64) {
        self.replay.admissions += 1;
        let caller = RecordedCaller::of(told, at);
        let handles_known = !self.gaps && !self.unread.contains("handle-set");
        if handles_known && let Some(why) = self.replay.state.shown_wrongly(&caller) {
            self.disagree(
                &told.record,
                format!("it was admitted, and by the earlier records it is refused: {why}"),
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
        let request = told.text_or_empty("request");
        // Only hashes are kept, because an epoch can have many millions of requests.
        if !self.requests.insert(self.hashing.hash_one(&request)) {
            self.disagree(&told.record, "its request was admitted before");
        }
        self.open.insert(request, open);
    }

    /// Checks an outcome against its admission.
    fn outcome(&mut self, told: &DecryptedRecord) {
        self.replay.outcomes += 1;
        let admission = told.number("admission");
        let Some(open) = self.open.remove(&told.text_or_empty("request")) else {
            // The admission may be unreadable.
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
        let served = SERVED.contains(&told.text_or_empty("code").as_str());
        if served || matches!(told.number("response_bytes"), Some(1..)) {
            // A caller that was suspended at the admission may have been resumed before the request
            // was served.
            let (state, mut against) = (&self.replay.state, open.against);
            against.retain(|why| !state.is_over(why, open.at));
            for why in against {
                self.disagree(
                    &open.record,
                    format!(
                        "it was admitted and served, and by the earlier records it is refused: \
                        {why}"
                    ),
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

    /// Checks that earlier records explain a refusal.
    fn refusal(&mut self, told: &DecryptedRecord, at: Timestamp) {
        self.replay.refusals += 1;
        let code = told.text_or_empty("code");
        if self.gaps || state::reasons(&code).iter().any(|kind| self.unread.contains(*kind)) {
            return;
        }
        if self.replay.state.explains(&code, &RecordedCaller::of(told, at)) == Some(false) {
            self.disagree(
                &told.record,
                format!("it was refused with {code}, and no earlier record is a reason"),
            );
        }
    }
}
