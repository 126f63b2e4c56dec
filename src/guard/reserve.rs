//! Step "reserve" of the guard: takes a model's slot and counts a call against the rates of the
//! model and its upstream.

use std::sync::Arc;

use crate::guard::candidates::{Candidates, Turn};
use crate::guard::cap::{Cap, Capped};
use crate::guard::egress::fetches::Fetches;
use crate::guard::limiter::{Ask, Limiter, Permit, SubjectKind};
use crate::guard::pace::{over_capacity, over_rate};
use crate::guard::route::Routed;
use crate::guard::settings::Caps;
use crate::guard::slots::Slot;
use crate::guard::table::{Upstream, rates};
use crate::guard::understand::RequestKind;
use crate::model::ModelCall;
use crate::refusal::{Code, Refusal};

/// A request that has its slots and is counted. Only [`reserve`] makes one.
pub struct Reserved<'b> {
    /// The caller and the operation.
    routed: Routed,
    /// The request.
    asked: ReservedKind<'b>,
    /// The cap on output tokens.
    cap: Cap,
}

/// The request by kind, with what is reserved for it.
pub(super) enum ReservedKind<'b> {
    /// A question for what the token allows.
    Me,
    /// A question for the models that the token may use, or for one of them.
    Models(Option<String>),
    /// A question whose answer is the same for every caller.
    Constant(&'static str),
    /// A call.
    Call {
        /// The parsed body.
        call: Box<ModelCall<'b>>,
        /// The upstreams that may serve it.
        target: CallTarget,
        /// The slots at the model and its upstream.
        permit: Permit,
    },
}

/// The upstreams of a call, and the fetches that go into its body first.
pub(super) struct CallTarget {
    /// The model and its upstreams.
    pub(super) candidates: Candidates,
    /// The upstream that is tried first; the body was written for it.
    pub(super) upstream: Arc<Upstream>,
    /// URLs to fetch, whose content goes into the body.
    pub(super) fetches: Option<Fetches>,
}

/// All parts of [`Reserved`].
pub(super) struct Parts<'b> {
    pub(super) routed: Routed,
    pub(super) asked: ReservedKind<'b>,
    pub(super) cap: Cap,
}

impl<'b> Reserved<'b> {
    /// Takes the value apart for the next step.
    pub(super) fn into_parts(self) -> Parts<'b> {
        Parts { routed: self.routed, asked: self.asked, cap: self.cap }
    }
}

/// Takes the model's slot, and counts the call against the rates of the model and its upstream.
///
/// # Errors
/// `in-flight-exceeded` or `model-rate-exceeded`; `internal` where a call comes without a
/// slot at an upstream.
pub fn reserve<'b>(
    capped: Capped<'b>,
    turn: Option<Turn>,
    limiter: &Arc<Limiter>,
) -> Result<Reserved<'b>, Refusal> {
    let (governed, cap) = capped.into_parts();
    let (routed, asked) = governed.into_inner().into_inner().into_inner().into_parts();
    let asked = match asked {
        RequestKind::Me => ReservedKind::Me,
        RequestKind::Models(one) => ReservedKind::Models(one),
        RequestKind::Constant(answer) => ReservedKind::Constant(answer),
        RequestKind::Call { call, candidates, fetches } => {
            // A call always has a turn (a slot at an upstream). Without one, the caller of this
            // function has a fault.
            let Some(turn) = turn else { return Err(Code::Internal.into()) };
            let (upstream, slot) = turn.into_parts();
            let model = candidates.model();
            // The queue counts the upstream's slots; only its rates are counted here.
            let rates = rates_alone(&upstream.caps);
            let shared = [
                (SubjectKind::Model, &*model.name, &model.caps),
                (SubjectKind::Upstream, &*upstream.name, &rates),
            ];
            let permit = enter(limiter, &shared)?.at(slot);
            ReservedKind::Call {
                call,
                target: CallTarget { candidates, upstream, fetches },
                permit,
            }
        }
    };
    Ok(Reserved { routed, asked, cap })
}

/// Takes slots of the model and the upstream, then counts the call against their rates.
fn enter(limiter: &Arc<Limiter>, shared: &[(SubjectKind, &str, &Caps)]) -> Result<Permit, Refusal> {
    let mut slots = Vec::with_capacity(2);
    let mut asks = Vec::with_capacity(2);
    for &(kind, name, caps) in shared {
        // No limit: no account, so that the limiter's table keeps only subjects that need one.
        if caps.in_flight.is_none() && caps.rps.is_none() && caps.rpm.is_none() {
            continue;
        }
        let subject = limiter.subject(kind, name);
        // A subject with a rate but without a slot limit is counted too (`u64::MAX`).
        slots.push((subject, caps.in_flight.unwrap_or(u64::MAX)));
        asks.push(Ask { subject, limits: rates(caps) });
    }
    // Slots before rates: a request that finds no slot must not use up a rate. On a rate refusal,
    // `permit` is dropped, which returns the slots.
    let permit = limiter.enter(&slots).map_err(over_capacity)?;
    limiter.take(&asks).map_err(|over| over_rate(&over, Code::ModelRateExceeded).refusal)?;
    Ok(permit)
}

/// Counts a call that is sent to another upstream, with a slot there, against its rates.
///
/// # Errors
/// `model-rate-exceeded`.
pub fn enter_server(
    limiter: &Arc<Limiter>,
    upstream: &Upstream,
    slot: Slot,
) -> Result<Permit, Refusal> {
    Ok(enter(limiter, &[(SubjectKind::Upstream, &upstream.name, &rates_alone(&upstream.caps))])?
        .at(slot))
}

/// The caps without the slot limit. The queue counts slots at upstreams, because a request that
/// finds none there may wait.
fn rates_alone(caps: &Caps) -> Caps {
    Caps { in_flight: None, ..caps.clone() }
}
