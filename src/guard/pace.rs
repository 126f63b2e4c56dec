//! Does the agent keep its pace? Rates and places in flight of the agent, of those that it was delegated from, and of its
//! principal. The places are taken before the body is read, so that nobody holds more bodies than requests.

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

/// A caller within its rates, with its places in flight. Only [`pace`] makes one.
pub struct Paced {
    caller: Authenticated,
    headroom: Option<Headroom>,
    permit: Permit,
}

impl Paced {
    /// Who is asking.
    #[must_use]
    pub const fn caller(&self) -> &Authenticated {
        &self.caller
    }

    /// What is left of the agent's tightest rate, for the answer's headers.
    #[must_use]
    pub const fn headroom(&self) -> Option<Headroom> {
        self.headroom
    }

    /// The caller's places; they must be kept until the answer is delivered.
    #[must_use]
    pub fn into_permit(self) -> Permit {
        self.permit
    }
}

/// A request beyond its pace: the refusal and, where a rate refused, the limit for the answer's headers.
pub struct OverPace {
    /// The refusal.
    pub refusal: Refusal,
    /// The limit that refused.
    pub limit: Option<Limit>,
}

/// Counts the request, narrow before wide: agent, ancestors, principal.
///
/// # Errors
/// `rate-exceeded` or `rate-is-zero`, with the limit that refused; `in-flight-exceeded`.
pub fn pace(caller: Authenticated, limiter: &Arc<Limiter>) -> Result<Paced, OverPace> {
    let token = caller.token();
    let class = rates(&caller.class().caps);
    let mut asks = Vec::with_capacity(token.agents.len() + 1);
    // Each token of a chain limits its own agent, so that children share what their parent has.
    for (&subject, grants) in token.agents.iter().zip(token.verified.grants()) {
        let mut limits = class.clone();
        limits.extend(grants.rps.map(|rate| Limit::new(Period::Second, rate, None)));
        limits.extend(grants.rpm.map(|rate| Limit::new(Period::Minute, rate, None)));
        asks.push(Ask { subject, limits });
    }
    if let Some(caps) = principal_caps(&caller) {
        asks.push(Ask { subject: token.principal, limits: rates(caps) });
    }
    let headroom = limiter.take(&asks).map_err(|over| over_rate(&over, Code::RateExceeded))?;
    let permit = limiter
        .enter(&slots(&caller))
        .map_err(|full| OverPace { refusal: over_capacity(full), limit: None })?;
    Ok(Paced { caller, headroom, permit })
}

/// The caps of the principal in whose name the caller acts.
fn principal_caps(caller: &Authenticated) -> Option<&Caps> {
    let verified = &caller.token().verified;
    caller.tables().principal(verified.issuer(), verified.principal().as_str())
}

/// Whose places a request takes, and how many there are.
fn slots(caller: &Authenticated) -> Vec<(Subject, u64)> {
    let token = caller.token();
    let class = caller.class().caps.in_flight.unwrap_or(u64::MAX);
    let mut slots = Vec::with_capacity(token.agents.len() + 1);
    for (&subject, grants) in token.agents.iter().zip(token.verified.grants()) {
        slots.push((subject, grants.in_flight.map_or(class, |own| own.min(class))));
    }
    let principal = principal_caps(caller).and_then(|caps| caps.in_flight);
    slots.extend(principal.map(|limit| (token.principal, limit)));
    slots
}

impl Holder {
    /// For whom a caller takes places: its class, and the agent of the operator's own token. Names below that are its holder's.
    #[must_use]
    pub fn of(caller: &Authenticated) -> Self {
        let verified = &caller.token().verified;
        let root =
            verified.ids().zip(verified.agent().lineage()).last().map_or("", |(_, agent)| agent);
        let class = caller.class();
        Self { class: class.name.as_str().into(), weight: class.weight, root: root.into() }
    }
}

/// The refusal where every place is taken.
pub(super) fn over_capacity(full: InFlightExceeded) -> Refusal {
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
        None => Refusal::new(Code::RateIsZero),
        Some(wait) => Refusal::new(code)
            .saying(format!(
                "The {who}'s rate of {} requests a {per} is used up; Retry-After says when the next one fits.",
                limit.rate
            ))
            .after(Duration::from_nanos(wait)),
    };
    OverPace { refusal, limit: Some(limit) }
}
