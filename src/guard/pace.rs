//! Step "pace" of the guard: checks rates and slots in flight. They are those of the agent, of the
//! agents that it was delegated from, and of its principal. The slots are taken before the body is
//! read, so that a caller holds at most as many bodies as it may have requests.

use std::iter::zip;
use std::sync::Arc;
use std::time::Duration;

use crate::guard::authenticate::Authenticated;
use crate::guard::gcra::{Headroom, Limit, Period};
use crate::guard::limiter::{Ask, InFlightExceeded, Limiter, Permit, RateExceeded, Subject};
use crate::guard::queue::Holder;
use crate::guard::settings::Caps;
use crate::guard::slots::no_places;
use crate::guard::table::rates;
use crate::refusal::{Code, Refusal};

/// A caller within its rates, with its slots in flight. Only [`pace`] makes one.
pub struct Paced {
    /// The caller.
    caller: Authenticated,
    /// The remaining part of the tightest rate; `None` without a rate.
    headroom: Option<Headroom>,
    /// The slots of the agent, its ancestors and the principal.
    permit: Permit,
}

impl Paced {
    /// The caller.
    #[must_use]
    pub const fn caller(&self) -> &Authenticated {
        &self.caller
    }

    /// The remaining part of the agent's tightest rate, for the answer's headers.
    #[must_use]
    pub const fn headroom(&self) -> Option<Headroom> {
        self.headroom
    }

    /// The caller's slots. They must be kept until the answer is delivered.
    #[must_use]
    pub fn into_permit(self) -> Permit {
        self.permit
    }
}

/// A request that exceeds a rate or a slot limit.
pub struct OverPace {
    /// The refusal.
    pub refusal: Refusal,
    /// The rate that refused, for the answer's headers; `None` where slots refused.
    pub limit: Option<Limit>,
}

/// Counts the request, narrow subjects first: agent, ancestors, principal.
///
/// # Errors
/// `rate-exceeded` or `rate-is-zero`, with the limit that refused; `in-flight-exceeded`.
pub fn pace(caller: Authenticated, limiter: &Arc<Limiter>) -> Result<Paced, OverPace> {
    let token = caller.token();
    let class = rates(&caller.class().caps);
    let mut asks = Vec::with_capacity(token.agents.len() + 1);
    // Each token of a chain limits its own agent. So delegated agents share the rate of their
    // parent.
    for (&subject, grants) in zip(&token.agents, token.verified.grants()) {
        let mut limits = class.clone();
        // The token's rates are added to those of the class, not put in their place: a token can
        // only narrow.
        limits.extend(grants.rps.map(|rate| Limit::new(Period::Second, rate, None)));
        limits.extend(grants.rpm.map(|rate| Limit::new(Period::Minute, rate, None)));
        asks.push(Ask { subject, limits });
    }
    if let Some(caps) = principal_caps(&caller) {
        asks.push(Ask { subject: token.principal, limits: rates(caps) });
    }
    // Rates before slots: a refusal by rate is the cheaper check, and the caller learns the waiting
    // time.
    let headroom = limiter.take(&asks).map_err(|over| over_rate(&over, Code::RateExceeded))?;
    let permit = limiter
        .enter(&slots(&caller))
        .map_err(|full| OverPace { refusal: over_capacity(full), limit: None })?;
    Ok(Paced { caller, headroom, permit })
}

/// The caps of the principal in whose name the caller acts, where the config has some.
fn principal_caps(caller: &Authenticated) -> Option<&Caps> {
    let verified = &caller.token().verified;
    caller.tables().principal(verified.issuer(), verified.principal().as_str())
}

/// The subjects whose slots a request takes, with their limits.
fn slots(caller: &Authenticated) -> Vec<(Subject, u64)> {
    let token = caller.token();
    let class = caller.class().caps.in_flight.unwrap_or(u64::MAX);
    let mut slots = Vec::with_capacity(token.agents.len() + 1);
    for (&subject, grants) in zip(&token.agents, token.verified.grants()) {
        // The smaller limit counts, so that a token can only narrow its class.
        slots.push((subject, grants.in_flight.map_or(class, |own| own.min(class))));
    }
    let principal = principal_caps(caller).and_then(|caps| caps.in_flight);
    slots.extend(principal.map(|limit| (token.principal, limit)));
    slots
}

impl Holder {
    /// The holder for a caller's slots at upstreams: its class, and the agent of the operator's own
    /// token. Agents below that are named by the token's holder, so they do not count separately.
    #[must_use]
    pub fn of(caller: &Authenticated) -> Self {
        let verified = &caller.token().verified;
        // Ids and lineage are in the same order, so the last pair is the root token's.
        let mut root = "";
        for (_, agent) in zip(verified.ids(), verified.agent().lineage()) {
            root = agent;
        }
        let class = caller.class();
        Self { class: class.name.as_str().into(), weight: class.weight, root: root.into() }
    }
}

/// The refusal where every slot is in use.
pub(super) fn over_capacity(full: InFlightExceeded) -> Refusal {
    // Waiting cannot help with zero slots, so this refusal has no Retry-After.
    if full.limit == 0 {
        return no_places();
    }
    let (who, limit) = (full.kind.as_str(), full.limit);
    let says =
        format!("The {who}'s {limit} requests in flight are all in use; wait for one to end.");
    Refusal::new(Code::InFlightExceeded).saying(says).after(Duration::from_secs(1))
}

/// The refusal for a rate that is used up.
pub(super) fn over_rate(over: &RateExceeded, code: Code) -> OverPace {
    let limit = over.exceeded.limit;
    let per = match limit.period {
        Period::Second => "second",
        Period::Minute => "minute",
    };
    let who = over.kind.as_str();
    let refusal = match over.exceeded.wait_ns {
        // A rate of zero: no Retry-After.
        None => Refusal::new(Code::RateIsZero),
        Some(wait) => Refusal::new(code)
            .saying(format!(
                "The {who}'s rate of {} requests a {per} is used up; Retry-After says when the \
                    next one fits.",
                limit.rate
            ))
            .after(Duration::from_nanos(wait)),
    };
    OverPace { refusal, limit: Some(limit) }
}
