//! Is there room? Slots and rates of the model and its server.

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

/// A request that has its slots, and is counted. Only [`reserve`] makes one.
pub struct Reserved<'b> {
    routed: Routed,
    asked: ReservedKind<'b>,
    cap: Cap,
}

/// What is asked for, and what is reserved for it.
pub(super) enum ReservedKind<'b> {
    /// What the token allows.
    Me,
    /// The models that the token may use, or one of them.
    Models(Option<String>),
    /// A call.
    Call {
        /// What the body says.
        call: Box<ModelCall<'b>>,
        /// Where it is sent.
        target: CallTarget,
        /// The slots at the model and its server.
        permit: Permit,
    },
}

/// Where a call is sent, and what is put into it first.
pub(super) struct CallTarget {
    pub(super) candidates: Candidates,
    /// The one that is asked first.
    pub(super) upstream: Arc<Upstream>,
    pub(super) fetches: Option<Fetches>,
}

/// All parts of [`Reserved`].
pub(super) struct Parts<'b> {
    pub(super) routed: Routed,
    pub(super) asked: ReservedKind<'b>,
    pub(super) cap: Cap,
}

impl<'b> Reserved<'b> {
    pub(super) fn into_parts(self) -> Parts<'b> {
        Parts { routed: self.routed, asked: self.asked, cap: self.cap }
    }
}

/// Takes the model's slot, and counts the call against the rates of the model and its server.
///
/// # Errors
/// `in-flight-exceeded` or `model-rate-exceeded`.
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
        RequestKind::Call { call, candidates, fetches } => {
            let (upstream, slot) = turn.ok_or(Code::Internal)?.into_parts();
            let model = candidates.model();
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
        if caps.in_flight.is_none() && caps.rps.is_none() && caps.rpm.is_none() {
            continue;
        }
        let subject = limiter.subject(kind, name);
        slots.push((subject, caps.in_flight.unwrap_or(u64::MAX)));
        asks.push(Ask { subject, limits: rates(caps) });
    }
    let permit = limiter.enter(&slots).map_err(over_capacity)?;
    limiter.take(&asks).map_err(|over| over_rate(&over, Code::ModelRateExceeded).refusal)?;
    Ok(permit)
}

/// Counts a call that is sent to another server, with a slot there, against its rates.
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

/// Slots at upstreams are counted elsewhere: a request that finds none there may wait.
fn rates_alone(caps: &Caps) -> Caps {
    Caps { in_flight: None, ..caps.clone() }
}
