//! Step "admit" of the guard: writes the body as it is forwarded. It is the last step before the
//! admission is recorded.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;

use crate::audit::format::request::{Forwards, Server};
use crate::guard::betas::Betas;
use crate::guard::cache_salt::{CacheOwner, CacheSalts};
use crate::guard::candidates::Candidates;
use crate::guard::egress::answer::after_prefill;
use crate::guard::egress::fetches::Fetches;
use crate::guard::egress::rendered::RenderedText;
use crate::guard::gcra::Headroom;
use crate::guard::limiter::{Permit, Subject};
use crate::guard::queue::Holder;
use crate::guard::reserve::{CallTarget, Parts, Reserved, ReservedKind};
use crate::guard::route::Routed;
use crate::guard::settings::Answers;
use crate::guard::table::Upstream;
use crate::id::RequestId;
use crate::model::declared::DeclaredTarget;
use crate::model::{BodyChanges, ExternalReference, ModelCall, Operation};

/// At most this many removed references are listed in headers and records.
const NAMED_MAX: usize = 16;

/// What is done for an admitted request.
pub enum Action {
    /// Answer without an upstream.
    Local(Local),
    /// Forward a call.
    Call(Box<Call>),
}

impl Action {
    /// The call that is to be forwarded.
    ///
    /// # Errors
    /// The work that needs no upstream.
    pub fn into_call(self) -> Result<Call, Local> {
        match self {
            Self::Call(call) => Ok(*call),
            Self::Local(local) => Err(local),
        }
    }
}

/// Work that needs no upstream.
pub enum Local {
    /// Answer with the models that the token may use, or one of them.
    Models(Option<String>),
    /// Answer with this JSON, which is the same for every caller.
    Constant(&'static str),
    /// Answer with what the token allows.
    Me,
}

/// A call as it will be forwarded.
pub struct Call {
    /// The operation.
    pub operation: Operation,
    /// The body in the terms of the upstream's profile.
    pub body: Bytes,
    /// True when the caller asked for a stream.
    pub stream: bool,
    /// The cap on the output tokens of all choices together, where the operation counts them.
    pub output_tokens: Option<u64>,
    /// True when the caller asked for usage in the stream.
    pub usage_asked: bool,
    /// Where the body goes, at a declared route.
    pub declared: Option<DeclaredTarget>,
    /// The header `anthropic-beta`, if the server gets one.
    pub betas: Option<HeaderValue>,
    /// The actions of the response filter.
    pub answers: Answers,
    /// The state of the response filter after the text of the caller that the answer continues.
    pub continuing: Option<Box<RenderedText>>,
    /// The model, and the upstreams that may serve it.
    pub candidates: Candidates,
    /// The upstream that the body was written for.
    pub upstream: Arc<Upstream>,
    /// URLs that the gateway fetches. Until then, marks are in the body in their place.
    pub fetches: Option<Fetches>,
    /// The holder for whom slots at upstreams are taken.
    pub holder: Holder,
    /// The principal. An upstream may keep the connections of different principals apart.
    pub owner: Subject,
}

impl Forwards for Call {
    fn forwarded(&self) -> Option<&[u8]> {
        match self.fetches {
            // With fetches, the body still has marks in it. It is not yet what the upstream will
            // get.
            None => Some(&self.body),
            Some(_) => None,
        }
    }
}

/// Changes to a request or an answer, as the answer's headers report them.
#[derive(Default)]
pub struct Adjustments {
    /// The cap on output tokens, where it was lowered to it.
    pub output_tokens: Option<u64>,
    /// Fields that were dropped.
    pub dropped: Vec<String>,
    /// References that were removed because the model server would have fetched them.
    pub stripped: Vec<ExternalReference>,
    /// How many addresses of the answer were changed.
    pub removed: u64,
}

/// A request that is admitted, with its slots at the model and its upstream. Only [`admit`] makes
/// one.
pub struct Admitted {
    /// The caller and the operation.
    routed: Routed,
    /// The work for the request.
    work: Action,
    /// The changes that were made to it.
    adjustments: Adjustments,
    /// Its slots.
    permit: Permit,
    /// The cap on the output tokens of all choices together.
    cap: Option<u64>,
}

impl Admitted {
    /// The caller and the operation.
    #[must_use]
    pub const fn routed(&self) -> &Routed {
        &self.routed
    }

    /// Rate headroom for the answer's headers.
    #[must_use]
    pub const fn headroom(&self) -> Option<Headroom> {
        self.routed.paced().headroom()
    }

    /// The call as it is forwarded, where there is one.
    #[must_use]
    pub const fn call(&self) -> Option<&Call> {
        match &self.work {
            Action::Call(call) => Some(call),
            Action::Local(_) => None,
        }
    }

    /// The model's canonical name, where the request is a call.
    #[must_use]
    pub fn model(&self) -> Option<&Arc<str>> {
        match &self.work {
            Action::Call(call) => Some(&call.candidates.model().name),
            Action::Local(_) => None,
        }
    }

    /// The upstream that is tried first, as records describe it.
    #[must_use]
    pub fn server(&self) -> Option<&Server> {
        match &self.work {
            Action::Call(call) => Some(&call.upstream.server),
            Action::Local(_) => None,
        }
    }

    /// References that were removed because the model server would have fetched them.
    #[must_use]
    pub fn stripped(&self) -> &[ExternalReference] {
        &self.adjustments.stripped
    }

    /// The cap on output tokens, where the operation counts them.
    #[must_use]
    pub const fn output_tokens(&self) -> Option<u64> {
        self.cap
    }

    /// Splits into the work and the rest.
    #[must_use]
    pub fn into_action(self) -> (Action, Rest) {
        (
            self.work,
            Rest { routed: self.routed, adjustments: self.adjustments, permit: self.permit },
        )
    }
}

impl Forwards for Admitted {
    fn forwarded(&self) -> Option<&[u8]> {
        self.call()?.forwarded()
    }
}

/// The parts of an admitted request other than its work.
pub struct Rest {
    /// The caller and the operation.
    pub routed: Routed,
    /// The changes.
    pub adjustments: Adjustments,
    /// The slots at the model and its upstream. They must be kept until the upstream has finished.
    pub permit: Permit,
}

/// Values that the gateway itself writes into a body or an answer.
pub struct BodyStamp<'s> {
    /// The request's id.
    pub request: RequestId,
    /// Makes the salts for prompt caches.
    pub cache_salts: &'s CacheSalts,
    /// The beta features that the caller requests.
    pub betas: &'s Betas,
}

/// Writes the body as it is forwarded. Cannot fail: every check was made before.
#[must_use]
pub fn admit(reserved: Reserved<'_>, stamp: &BodyStamp<'_>) -> Admitted {
    let Parts { routed, asked, cap } = reserved.into_parts();
    let (work, adjustments, permit) = match asked {
        ReservedKind::Me => (Action::Local(Local::Me), Adjustments::default(), Permit::default()),
        ReservedKind::Constant(answer) => {
            (Action::Local(Local::Constant(answer)), Adjustments::default(), Permit::default())
        }
        ReservedKind::Models(one) => {
            (Action::Local(Local::Models(one)), Adjustments::default(), Permit::default())
        }
        ReservedKind::Call { call, target, permit } => {
            let (call, adjustments) = write(&call, target, cap.each, &routed, stamp);
            (Action::Call(Box::new(call)), adjustments, permit)
        }
    };
    Admitted { routed, work, adjustments, permit, cap: cap.all }
}

/// Writes a call's body for its first upstream, and lists the changes.
fn write(
    call: &ModelCall<'_>,
    target: CallTarget,
    cap: Option<u64>,
    routed: &Routed,
    stamp: &BodyStamp<'_>,
) -> (Call, Adjustments) {
    let CallTarget { candidates, upstream, fetches } = target;
    let caller = routed.paced().caller();
    let (token, class) = (caller.token(), caller.class());
    let profile = &upstream.profile;
    // The profile decides: a server that does not know these fields could refuse the whole request.
    let request_id =
        if profile.takes_request_id() { Some(stamp.request.to_string()) } else { None };
    let cache_salt = if profile.takes_cache_salt() {
        let owner = CacheOwner {
            issuer: token.verified.issuer(),
            principal: token.verified.principal().as_str(),
            class: class.name.as_str(),
        };
        stamp.cache_salts.salt(class.cache_scope, owner)
    } else {
        None
    };
    let written = call.write(&BodyChanges { output_tokens: cap, request_id, cache_salt });
    // Reported only where the gateway lowered the caller's own cap.
    let lowered = if written.clamped { written.output_tokens } else { None };
    let betas = stamp.betas.sent(call.operation(), profile);
    let adjustments = Adjustments {
        output_tokens: lowered,
        dropped: [call.dropped(), &betas.dropped].concat(),
        // Bounded, because the caller decides how many references a body has.
        stripped: call.stripped().iter().take(NAMED_MAX).cloned().collect(),
        removed: 0,
    };
    let answers = class.answers.of(call.is_structured());
    let policy = &caller.tables().policy;
    let continuing = match call.prefill() {
        Some(prefill) => after_prefill(token, answers, policy, &prefill).map(Box::new),
        None => None,
    };
    let forward = Call {
        operation: call.operation(),
        body: Bytes::from(written.body),
        stream: call.stream(),
        // The server applies the cap to each choice; the record counts all of them.
        output_tokens: written.output_tokens.map(|each| each.saturating_mul(call.choices())),
        usage_asked: call.usage_asked(),
        declared: written.target,
        betas: betas.header,
        answers,
        continuing,
        candidates,
        upstream,
        fetches,
        holder: Holder::of(caller),
        owner: token.principal,
    };
    (forward, adjustments)
}
