//! The books and the decisions, recomputed from the log alone: naive on purpose, and without a line of the gateway's own books.

mod books;

use std::collections::HashMap;
use std::ops::ControlFlow;

use crate::audit::event::Event;
use crate::audit::outside::Outside;
use crate::audit::reader::{Epoch, Found, ReadFault, Told, each};
use crate::audit::record::{Opener, Record, RecordFault};
use crate::audit::tiles::is_pruned;
use crate::clock::Timestamp;
use crate::json;

pub use books::Books;
use books::Caller;

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
pub struct Replay {
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
    pub books: Books,
}

/// An admission without an outcome so far.
struct Open {
    index: u64,
    agent: String,
    principal: String,
    output_tokens: Option<u64>,
}

struct Run<'o> {
    opener: &'o dyn Opener,
    replay: Replay,
    /// By request.
    open: HashMap<String, Open>,
    /// Something before this place cannot be read: what it says is not missed.
    gaps: bool,
}

/// Reads the whole log, recomputes books and decisions, and notes where they disagree. `progress` hears how many records are read.
///
/// # Errors
/// When it cannot be read.
pub fn replay(epochs: &[Epoch], opener: &dyn Opener, mut progress: impl FnMut(u64)) -> Result<Replay, ReadFault> {
    let mut run = Run { opener, replay: Replay::default(), open: HashMap::new(), gaps: false };
    for epoch in epochs {
        if epoch.signed > 0 && is_pruned(&epoch.folder) {
            run.replay.moved += epoch.signed;
            run.gaps = true;
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

impl Run<'_> {
    fn take(&mut self, found: Found<'_>) -> Result<(), ReadFault> {
        self.replay.records += 1;
        let fault = |fault: RecordFault| ReadFault::Record { record: found.name(), fault };
        let outside = Outside::read(found.bytes).map_err(fault)?;
        let at = outside.moment().map_err(fault)?;
        if outside.is_passing() {
            let told = found.tell(self.opener)?;
            if told.inside.is_none() {
                self.replay.closed += 1;
                self.gaps = true;
                return Ok(());
            }
            match outside.kind {
                "admission" => self.admission(&told, at, found.index),
                "outcome" => self.outcome(&told),
                "refusal" => self.refusal(&told, at),
                _ => {}
            }
            return Ok(());
        }
        match Record::decode(found.bytes, self.opener) {
            Ok(Some(record)) => {
                if matches!(record.event, Event::Start { .. }) {
                    self.replay.unknown += self.open.len() as u64;
                    self.open.clear();
                }
                if matches!(&record.event, Event::Epoch { reason, .. } if reason.starts_with("after-loss: ")) {
                    self.gaps = true;
                }
                self.replay.books.apply(&record);
            }
            Ok(None) | Err(RecordFault::KeyMissing(_)) => {
                self.replay.closed += 1;
                self.gaps = true;
            }
            Err(other) => return Err(fault(other)),
        }
        Ok(())
    }

    fn disagree(&mut self, told: &Told, what: impl Into<String>) {
        self.replay.disagreeing += 1;
        if self.replay.disagreements.len() < KEPT_MAX {
            self.replay.disagreements.push(Disagreement { record: told.record.clone(), what: what.into() });
        }
    }

    fn admission(&mut self, told: &Told, at: Timestamp, index: u64) {
        self.replay.admissions += 1;
        let caller = Caller::of(told);
        for why in self.replay.books.refuses(&caller, at) {
            self.disagree(told, format!("it was let through, and by the books before it is refused: {why}"));
        }
        let open =
            Open { index, agent: caller.agent, principal: caller.principal, output_tokens: told.number("limits.output_tokens") };
        if self.open.insert(told.text("request").unwrap_or_default(), open).is_some() {
            self.disagree(told, "its request was let through before");
        }
    }

    fn outcome(&mut self, told: &Told) {
        self.replay.outcomes += 1;
        let Some(open) = self.open.remove(&told.text("request").unwrap_or_default()) else {
            // Its admission may stand where nothing can be read.
            if !self.gaps {
                self.disagree(told, "there is no open admission of its request before it");
            }
            return;
        };
        if told.number("admission") != Some(open.index) {
            self.disagree(told, format!("its admission is record {}, and it names another", open.index));
        }
        if told.text("agent").as_ref() != Some(&open.agent) || told.text("principal").as_ref() != Some(&open.principal) {
            self.disagree(told, format!("its admission is one of {} in the name of {}", open.agent, open.principal));
        }
        if let (Some(most), Some(used)) = (open.output_tokens, told.number("usage.output"))
            && used > most
        {
            self.disagree(told, format!("{used} tokens were used, and {most} were admitted"));
        }
    }

    fn refusal(&mut self, told: &Told, at: Timestamp) {
        self.replay.refusals += 1;
        let code = told.text("code").unwrap_or_default();
        if !self.gaps && self.replay.books.explains(&code, &Caller::of(told), at) == Some(false) {
            self.disagree(told, format!("it was refused with {code}, and nothing in the books before it says so"));
        }
    }
}

/// The tokens and keys of a record's chain, the operator's first.
fn chain(told: &Told) -> Vec<(String, String)> {
    let Some(inside) = &told.inside else { return Vec::new() };
    let Ok(document) = json::parse(inside.as_bytes(), &json::Limits::deep(4)) else { return Vec::new() };
    let links = document.as_object().and_then(|object| object.get("chain")).and_then(json::Value::as_array);
    let text = |link: &json::Value<'_>, member| {
        let text = link.as_object().and_then(|object| object.get(member)).and_then(json::Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    links.unwrap_or_default().iter().map(|link| (text(link, "token"), text(link, "kid"))).collect()
}
