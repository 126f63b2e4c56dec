//! Step "cap" of the guard: finds how many output tokens a request may have.

use crate::guard::candidates::Candidates;
use crate::guard::govern::Governed;
use crate::guard::understand::{RequestKind, Understood};
use crate::refusal::{Code, Refusal};
use crate::weights::Weights;

/// The cap on output tokens of one request.
#[derive(Clone, Copy, Debug)]
pub struct Cap {
    /// The cap on all choices together; `None` where no class and no token has a cap, and where the
    /// operation has no output tokens.
    pub all: Option<u64>,
    /// The cap on each choice, where there is one.
    pub each: Option<u64>,
}

/// A request whose cap is known. Only [`cap`] makes one.
pub struct Capped<'b> {
    /// The request of the step before.
    governed: Governed<'b>,
    /// Its cap.
    cap: Cap,
}

impl<'b> Capped<'b> {
    /// The caller, the operation and the parsed request.
    #[must_use]
    pub const fn understood(&self) -> &Understood<'b> {
        self.governed.understood()
    }

    /// Takes the value apart for the next step.
    pub(super) fn into_parts(self) -> (Governed<'b>, Cap) {
        (self.governed, self.cap)
    }
}

/// Takes the lowest cap of the class and of all tokens of the chain. Without any, no cap is
/// written. A cap never exceeds the context that the servers report, because some servers refuse
/// such a request.
///
/// # Errors
/// `rate-is-zero` for a cap of zero; `field-invalid` where a request has more choices than output
/// tokens.
pub fn cap<'b>(governed: Governed<'b>, weights: &Weights) -> Result<Capped<'b>, Refusal> {
    let understood = governed.understood();
    let caller = understood.routed().paced().caller();
    let mut lowest = caller.class().output_tokens;
    for grants in caller.token().verified.grants() {
        lowest = lowest.into_iter().chain(grants.output_tokens).min();
    }
    let cap = match (understood.asked(), lowest) {
        (RequestKind::Call { call, candidates, .. }, Some(lowest)) if call.writes_tokens() => {
            let each = each_choice(lowest, call.choices())?;
            match context(candidates, weights) {
                // Each choice has the whole context.
                Some(context) if context < each => {
                    Cap { all: Some(context.saturating_mul(call.choices())), each: Some(context) }
                }
                Some(_) | None => Cap { all: Some(lowest), each: Some(each) },
            }
        }
        (
            RequestKind::Call { .. }
            | RequestKind::Models(_)
            | RequestKind::Constant(_)
            | RequestKind::Me,
            _,
        ) => Cap { all: None, each: None },
    };
    Ok(Capped { governed, cap })
}

/// The smallest context of the servers that may get the request, in tokens; `None` if none is
/// known.
fn context(candidates: &Candidates, weights: &Weights) -> Option<u64> {
    let model = &candidates.model().name;
    candidates.iter().filter_map(|upstream| weights.context(model, &upstream.name)).min()
}

/// The cap on each of the requested choices.
fn each_choice(cap: u64, choices: u64) -> Result<u64, Refusal> {
    // Rounded down, so that all choices together stay within the cap. The division is safe: a
    // parsed request has at least one choice.
    match cap / choices {
        0 if cap == 0 => Err(Refusal::new(Code::RateIsZero).saying(
            "The cap on output tokens is \
            zero: no request passes.",
        )),
        0 => Err(Refusal::new(Code::FieldInvalid).saying(format!(
            "{choices} choices are asked for, more than the {cap} output tokens \
                that this request may have."
        ))),
        each => Ok(each),
    }
}
