//! Is there room? Rates and places of model and upstream, and the cap on output tokens. The last question: what leaves
//! here is the body as it will be forwarded.

use std::sync::Arc;

use bytes::Bytes;

use crate::audit::format::request::Server;
use crate::guard::cache_salt::{CacheSalts, CacheScope};
use crate::guard::egress::fetches::Fetches;
use crate::guard::gcra::Headroom;
use crate::guard::govern::Governed;
use crate::guard::limiter::{Ask, Kind, Limiter, Permit, Subject};
use crate::guard::pace::{full_house, over_rate};
use crate::guard::places::Place;
use crate::guard::queue::Holder;
use crate::guard::route::Routed;
use crate::guard::settings::Caps;
use crate::guard::table::{Served, Upstream, rates};
use crate::guard::understand::Asked;
use crate::id::RequestId;
use crate::model::{Changes, Echo, ModelCall, Operation, Reach, echo};
use crate::refusal::{Code, Refusal};

/// Places that were stripped and are named, at the most.
const NAMED_MAX: usize = 16;

/// Work that was admitted.
pub enum Work {
    /// Answer with the models that the token may use, or one of them.
    Models(Option<String>),
    /// Answer with what the token allows.
    Me,
    /// Answer with what the built-in model says.
    Echo {
        /// The answer.
        answer: Echo,
        /// What the models of the metrics are called.
        served: Arc<Served>,
        /// Whether the answer goes on from a text of the caller's.
        continues: bool,
    },
    /// Forward a call.
    Call(Call),
}

/// A call as it will be forwarded.
pub struct Call {
    /// The body in the server's terms.
    pub body: Bytes,
    /// True when the caller asked for a stream.
    pub stream: bool,
    /// The cap on the output tokens of all its choices together, where the operation counts them.
    pub output_tokens: Option<u64>,
    /// True when the caller asked for usage in the stream.
    pub usage_asked: bool,
    /// True when the answer goes on from a text of the caller's.
    pub continues: bool,
    /// The model.
    pub served: Arc<Served>,
    /// The server that the body was written for.
    pub upstream: Arc<Upstream>,
    /// What is fetched and stands in the body as marks until then.
    pub fetches: Option<Fetches>,
    /// For whom places at upstreams are taken.
    pub holder: Holder,
    /// Whose connection it may go over, where an upstream's are kept apart.
    pub owner: Subject,
}

/// What the answer's headers say about what was changed.
#[derive(Default)]
pub struct Notes {
    /// The cap on output tokens, where it was lowered to it.
    pub output_tokens: Option<u64>,
    /// Fields that were dropped.
    pub dropped: Vec<String>,
    /// What was taken out because it would have made the server reach outside.
    pub stripped: Vec<Reach>,
    /// How many URLs of the answer gave way to a mark.
    pub removed: u64,
}

/// A request that is admitted, with its place at the model and its server. Only [`admit`] makes one.
pub struct Admitted {
    routed: Routed,
    work: Work,
    notes: Notes,
    permit: Permit,
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

    /// The call as it will be forwarded, where there is one.
    #[must_use]
    pub const fn call(&self) -> Option<&Call> {
        match &self.work {
            Work::Call(call) => Some(call),
            Work::Models(_) | Work::Me | Work::Echo { .. } => None,
        }
    }

    /// The model's canonical name.
    #[must_use]
    pub fn model(&self) -> Option<&Arc<str>> {
        match &self.work {
            Work::Call(call) => Some(&call.served.name),
            Work::Echo { served, .. } => Some(&served.name),
            Work::Models(_) | Work::Me => None,
        }
    }

    /// The server that is asked first.
    #[must_use]
    pub fn server(&self) -> Option<&Server> {
        match &self.work {
            Work::Call(call) => Some(&call.upstream.server),
            Work::Echo { served, .. } => served.route.first().map(|upstream| &upstream.server),
            Work::Models(_) | Work::Me => None,
        }
    }

    /// What was taken out because it would have made the server reach outside.
    #[must_use]
    pub fn stripped(&self) -> &[Reach] {
        &self.notes.stripped
    }

    /// The cap on output tokens, where the operation counts them.
    #[must_use]
    pub const fn output_tokens(&self) -> Option<u64> {
        self.cap
    }

    /// All parts; the permit must live as long as the server works.
    #[must_use]
    pub fn into_parts(self) -> (Routed, Work, Notes, Permit) {
        (self.routed, self.work, self.notes, self.permit)
    }
}

/// What the gateway writes into a body or an answer of its own.
pub struct Stamp<'s> {
    /// The request.
    pub request: RequestId,
    /// Seconds since 1970.
    pub created: i64,
    /// Salts of prompt caches.
    pub cache_salts: &'s CacheSalts,
}

/// The server that is asked first, and a place there.
pub struct Turn {
    /// The server; it has the profile of the one that the body was understood for.
    pub upstream: Arc<Upstream>,
    /// The place.
    pub place: Place,
}

/// Takes the model's place, counts the call, and writes the body.
///
/// # Errors
/// `in-flight-exceeded` or `model-rate-exceeded`; `field-invalid` where more choices are asked for than there are tokens.
pub fn admit(governed: Governed<'_>, turn: Option<Turn>, limiter: &Arc<Limiter>, stamp: &Stamp<'_>) -> Result<Admitted, Refusal> {
    let (routed, asked) = governed.into_inner().into_inner().into_inner().into_parts();
    let caller = routed.paced().caller();
    let token = caller.token();
    let class = caller.class();
    let (work, notes) = match asked {
        Asked::Models(one) => (Work::Models(one), Notes::default()),
        Asked::Me => (Work::Me, Notes::default()),
        Asked::Call { call, served, upstream: _, fetches } => {
            let Turn { upstream, place } = turn.ok_or(Code::Internal)?;
            let rates = rates_alone(&upstream.caps);
            let shared = [(Kind::Model, &*served.name, &served.caps), (Kind::Upstream, &*upstream.name, &rates)];
            let permit = enter(limiter, &shared)?.at(place);
            let class_cap = class.output_tokens;
            let cap = token.verified.grants().filter_map(|grants| grants.output_tokens).fold(class_cap, u64::min);
            let principal = (token.verified.issuer(), token.verified.principal().as_str());
            let scope = (class.cache_scope, principal, class.name.as_str());
            let each = if writes_tokens(call.operation()) { each_choice(cap, call.choices())? } else { cap };
            let whose = (Holder::of(caller), token.principal);
            let (mut work, notes) = write(&call, (served, upstream), (each, scope), whose, stamp);
            if let Work::Call(call) = &mut work {
                call.fetches = fetches;
            }
            let cap = writes_tokens(call.operation()).then_some(cap);
            return Ok(Admitted { routed, work, notes, permit, cap });
        }
    };
    Ok(Admitted { routed, work, notes, permit: Permit::default(), cap: None })
}

/// Takes places of the model and the upstream, then counts the call against their rates.
fn enter(limiter: &Arc<Limiter>, shared: &[(Kind, &str, &Caps)]) -> Result<Permit, Refusal> {
    let mut places = Vec::with_capacity(2);
    let mut asks = Vec::with_capacity(2);
    for &(kind, name, caps) in shared {
        if caps.in_flight.is_none() && caps.rps.is_none() && caps.rpm.is_none() {
            continue;
        }
        let subject = limiter.subject(kind, name);
        places.push((subject, caps.in_flight.unwrap_or(u64::MAX)));
        asks.push(Ask { subject, limits: rates(caps) });
    }
    let permit = limiter.enter(&places).map_err(full_house)?;
    limiter.take(&asks).map_err(|over| over_rate(&over, Code::ModelRateExceeded).refusal)?;
    Ok(permit)
}

/// Counts a call that goes on to another server, with a place there, against its rates.
///
/// # Errors
/// `model-rate-exceeded`.
pub fn enter_server(limiter: &Arc<Limiter>, upstream: &Upstream, place: Place) -> Result<Permit, Refusal> {
    Ok(enter(limiter, &[(Kind::Upstream, &upstream.name, &rates_alone(&upstream.caps))])?.at(place))
}

/// Places at upstreams are counted elsewhere: who finds none there may wait.
fn rates_alone(caps: &Caps) -> Caps {
    Caps { in_flight: None, ..caps.clone() }
}

/// What the cap on output tokens leaves to each of the choices that are asked for.
fn each_choice(cap: u64, choices: u64) -> Result<u64, Refusal> {
    match cap / choices {
        0 if cap == 0 => Err(Refusal::new(Code::RateIsZero).saying("A cap of zero output tokens stands; no request passes.")),
        0 => Err(Refusal::new(Code::FieldInvalid)
            .saying(format!("{choices} choices are asked for, more than the {cap} output tokens that this request may have."))),
        each => Ok(each),
    }
}

fn write(
    call: &ModelCall<'_>,
    (served, upstream): (Arc<Served>, Arc<Upstream>),
    (cap, (scope, principal, class)): (u64, (CacheScope, (&str, &str), &str)),
    (holder, owner): (Holder, Subject),
    stamp: &Stamp<'_>,
) -> (Work, Notes) {
    let (dropped, stripped) = (call.dropped().to_vec(), call.stripped().iter().take(NAMED_MAX).cloned().collect::<Vec<_>>());
    let lowered = |asked: Option<u64>| asked.is_some_and(|asked| asked > cap).then_some(cap);
    if upstream.echo {
        let answer = echo::answer(call, cap, stamp.created, &stamp.request.to_string());
        let notes = Notes { output_tokens: lowered(call.output_tokens_asked()), dropped, stripped, removed: 0 };
        return (Work::Echo { answer, served, continues: call.continues() }, notes);
    }
    let profile = &upstream.profile;
    let request_id = profile.takes_request_id().then(|| stamp.request.to_string());
    let cache_salt = profile.takes_cache_salt().then(|| stamp.cache_salts.salt(scope, principal, class)).flatten();
    let written = call.write(&Changes { output_tokens: cap, request_id, cache_salt });
    let notes =
        Notes { output_tokens: if written.clamped { written.output_tokens } else { None }, dropped, stripped, removed: 0 };
    let forward = Call {
        body: Bytes::from(written.body),
        stream: call.stream(),
        output_tokens: written.output_tokens.map(|each| each.saturating_mul(call.choices())),
        usage_asked: call.usage_asked(),
        continues: call.continues(),
        served,
        upstream,
        fetches: None,
        holder,
        owner,
    };
    (Work::Call(forward), notes)
}

/// True for operations that count output tokens.
#[must_use]
pub const fn writes_tokens(operation: Operation) -> bool {
    match operation {
        Operation::ChatCompletions | Operation::Completions | Operation::Messages => true,
        Operation::Embeddings | Operation::ListModels | Operation::ShowModel | Operation::Me => false,
    }
}
