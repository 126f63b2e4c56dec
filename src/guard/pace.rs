//! Does the agent keep its pace? Rates of the agent, of those that it was delegated from, and of its principal.

use std::time::Duration;

use crate::guard::authenticate::Authenticated;
use crate::guard::gcra::{Headroom, Limit, Period};
use crate::guard::limiter::{Ask, Limiter, RateExceeded};
use crate::guard::table::rates;
use crate::refusal::{Code, Refusal};

/// A caller within its rates. Only [`pace`] makes one.
pub struct Paced {
    caller: Authenticated,
    headroom: Option<Headroom>,
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
}

/// A request that is over a rate: the refusal, and the limit for the answer's headers.
pub struct OverRate {
    /// The refusal.
    pub refusal: Refusal,
    /// The limit that refused.
    pub limit: Limit,
}

/// Counts the request, narrow before wide: agent, ancestors, principal.
///
/// # Errors
/// `rate-exceeded` or `rate-is-zero`, with the limit that refused.
pub fn pace(caller: Authenticated, limiter: &Limiter) -> Result<Paced, OverRate> {
    let token = caller.token();
    let class = rates(&caller.class().caps);
    let mut asks = Vec::with_capacity(token.agents.len() + 1);
    for (place, &subject) in token.agents.iter().enumerate() {
        let mut limits = class.clone();
        if place == 0 {
            let grants = token.verified.grants();
            limits.extend(grants.rps.map(|rate| Limit::new(Period::Second, rate, None)));
            limits.extend(grants.rpm.map(|rate| Limit::new(Period::Minute, rate, None)));
        }
        asks.push(Ask { subject, limits });
    }
    if let Some(caps) = caller.tables().principal(token.verified.principal().as_str()) {
        asks.push(Ask { subject: token.principal, limits: rates(caps) });
    }
    match limiter.take(&asks) {
        Ok(headroom) => Ok(Paced { caller, headroom }),
        Err(over) => Err(over_rate(&over, Code::RateExceeded)),
    }
}

/// The refusal for a rate that is used up.
pub(super) fn over_rate(over: &RateExceeded, code: Code) -> OverRate {
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
    OverRate { refusal, limit }
}
