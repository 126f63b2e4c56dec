//! Step "understand" of the guard: parses the body, finds the model, and checks the body by the
//! profile of the model's upstream.

use std::sync::Arc;

use crate::guard::authenticate::Authenticated;
use crate::guard::candidates::Candidates;
use crate::guard::egress::fetches::Fetches;
use crate::guard::route::Routed;
use crate::guard::table::{ModelRoute, Upstream};
use crate::health::Health;
use crate::model::declared::{self, ModelPlace};
use crate::model::{BodyRules, ModelCall, Operation, Profile, constant, read};
use crate::refusal::{Code, Refusal};
use crate::token::Verified;
use crate::weights::Weights;

/// A body as it came.
#[derive(Clone, Copy)]
pub struct ReceivedBody<'b> {
    /// The bytes.
    pub bytes: &'b [u8],
    /// The value of the header `Content-Type`; empty where the body must be JSON.
    pub media_type: &'b str,
}

/// A request by kind, after its body is parsed.
pub enum RequestKind<'b> {
    /// A question for what the token allows.
    Me,
    /// A question for the models that the token may use, or for one of them. It has no body and no
    /// upstream.
    Models(Option<String>),
    /// A question whose answer is the same for every caller.
    Constant(&'static str),
    /// A call to a model.
    Call {
        /// The parsed body.
        call: Box<ModelCall<'b>>,
        /// The model, and the upstreams that may serve it.
        candidates: Candidates,
        /// URLs to fetch, whose content goes into the request.
        fetches: Option<Fetches>,
    },
}

/// A request whose body is understood. Only [`understand`] makes one.
pub struct Understood<'b> {
    /// The caller and the operation.
    routed: Routed,
    /// The parsed request.
    asked: RequestKind<'b>,
}

impl<'b> Understood<'b> {
    /// The caller and the operation.
    #[must_use]
    pub const fn routed(&self) -> &Routed {
        &self.routed
    }

    /// The request.
    #[must_use]
    pub const fn asked(&self) -> &RequestKind<'b> {
        &self.asked
    }

    /// Both parts. The request can be changed.
    pub(super) const fn parts(&mut self) -> (&Routed, &mut RequestKind<'b>) {
        (&self.routed, &mut self.asked)
    }

    /// Both parts.
    pub(super) fn into_parts(self) -> (Routed, RequestKind<'b>) {
        (self.routed, self.asked)
    }
}

/// True when a token may use `served` under the name `asked`. The agent's namespace must see the
/// model, and the token must grant the requested name or the canonical one.
#[must_use]
pub fn may_use(caller: &Authenticated, asked: &str, served: &ModelRoute) -> bool {
    let verified = &caller.token().verified;
    let seen = served.namespaces.is_empty()
        || served.namespaces.iter().any(|known| known == verified.agent().namespace());
    seen && (grants_model(verified, asked) || grants_model(verified, &served.name))
}

/// Whether every token of the chain allows the model: a delegated token only narrows.
fn grants_model(verified: &Verified, name: &str) -> bool {
    verified.grants().all(|grants| grants.models.allows(name))
}

/// Parses the body strictly, finds the model, and checks every field by the profile of its
/// upstream.
///
/// # Errors
/// Any refusal of the stage understood. An unknown model and one that is not granted get the same
/// refusal, so that a caller cannot learn which models exist.
pub fn understand<'b>(
    routed: Routed,
    body: ReceivedBody<'b>,
    health: &Health,
    weights: &Weights,
) -> Result<Understood<'b>, Refusal> {
    let operation = routed.operation();
    let caller = routed.paced().caller();
    let asked = match operation {
        Operation::ListModels | Operation::ShowModel | Operation::OllamaTags => {
            RequestKind::Models(routed.model().map(str::to_owned))
        }
        // Only the name is read from the body. Nothing of it is forwarded.
        Operation::OllamaShow => {
            RequestKind::Models(Some(read(operation, body.bytes)?.model().to_owned()))
        }
        Operation::OllamaRunning => RequestKind::Constant(constant::NO_RUNNING_MODELS),
        Operation::OllamaVersion => RequestKind::Constant(constant::OLLAMA_VERSION),
        Operation::Me => RequestKind::Me,
        Operation::ChatCompletions
        | Operation::Completions
        | Operation::Embeddings
        | Operation::Rerank
        | Operation::Messages
        | Operation::CountTokens
        | Operation::Responses
        | Operation::OllamaChat
        | Operation::OllamaGenerate
        | Operation::OllamaEmbed
        | Operation::OllamaEmbeddings => {
            // Reads the model's name first: the rules for the other fields depend on the model's
            // upstream.
            let reading = read(operation, body.bytes)?;
            let served = granted(caller, reading.model())?;
            if !served.has(operation) {
                return Err(not_served(operation, &served));
            }
            // Without an upstream, the model exists, but none has the weights that it must have.
            let Some(upstream) = served.upstream(operation, health, weights) else {
                return Err(model_changed(&served.name));
            };
            let upstream = Arc::clone(upstream);
            let call = Box::new(reading.understand(&body_rules(caller, &served, &upstream))?);
            RequestKind::Call { call, candidates: Candidates::new(served, upstream), fetches: None }
        }
        Operation::Declared => declared_call(&routed, body, health, weights)?,
    };
    Ok(Understood { routed, asked })
}

/// The model that a caller asks for.
///
/// # Errors
/// `model-not-found` for an unknown model and for one that is not granted.
fn granted(caller: &Authenticated, asked: &str) -> Result<Arc<ModelRoute>, Refusal> {
    match caller.tables().model(asked) {
        Some(served) if may_use(caller, asked, served) => Ok(Arc::clone(served)),
        Some(_) | None => Err(not_found(asked)),
    }
}

/// Makes the call of a request at a declared route.
///
/// # Errors
/// Any refusal of the stage understood.
fn declared_call<'b>(
    routed: &Routed,
    body: ReceivedBody<'b>,
    health: &Health,
    weights: &Weights,
) -> Result<RequestKind<'b>, Refusal> {
    let Some(requested) = routed.declared() else { return Err(Code::Internal.into()) };
    let (offered, caller) = (&requested.offered, routed.paced().caller());
    let route = &offered.route;
    let parsed = declared::parse(route, body.bytes, body.media_type)?;
    let named = match route.model {
        ModelPlace::Field => parsed.model().map(str::to_owned).or_else(|| offered.model.clone()),
        ModelPlace::Path => requested.model.clone(),
        ModelPlace::Fixed => offered.model.clone(),
    };
    let Some(asked) = named else {
        let says = "The field model is required.";
        return Err(Refusal::new(Code::FieldMissing).saying(says).at("model"));
    };
    let served = granted(caller, &asked)?;
    // A server may choose the model by its name in the body. So that name must be the one that was
    // checked.
    if let Some(inside) = parsed.model() {
        let other = caller.tables().model(inside);
        if !other.is_some_and(|other| Arc::ptr_eq(other, &served)) {
            let says = format!("The field model must name the model of this route, {asked:?}.");
            return Err(Refusal::new(Code::FieldInvalid).saying(says).at("model"));
        }
    }
    let fits = |profile: &Profile| route.is_of(profile.name());
    if !served.route.iter().any(|upstream| fits(&upstream.profile)) {
        let servers = route.servers.join(", ");
        let says = format!(
            "No server of this model has {}. It is a route of servers of the kind {servers}.",
            route.path.as_str()
        );
        return Err(Refusal::new(Code::DialectNotServed).saying(says));
    }
    let Some(upstream) = served.upstream_with(fits, health, weights) else {
        return Err(model_changed(&served.name));
    };
    let upstream = Arc::clone(upstream);
    let call = Box::new(parsed.understand(&body_rules(caller, &served, &upstream), asked)?);
    Ok(RequestKind::Call { call, candidates: Candidates::new(served, upstream), fetches: None })
}

/// The rules by which a caller's body for that upstream is checked.
fn body_rules<'t>(
    caller: &Authenticated,
    served: &'t ModelRoute,
    upstream: &'t Upstream,
) -> BodyRules<'t> {
    BodyRules {
        profile: &upstream.profile,
        unknown_fields: caller.class().unknown_fields,
        model_upstream: &served.upstream_name,
    }
}

/// The refusal for a model whose weights are not those that it must have.
#[must_use]
pub fn model_changed(model: &str) -> Refusal {
    Refusal::new(Code::ModelChanged).because(format_args!("model {model}: token-shield model list"))
}

/// The refusal for an operation that no server of the model has. It names the operations that they
/// have.
fn not_served(operation: Operation, served: &ModelRoute) -> Refusal {
    let mut paths = Vec::new();
    for known in Operation::ALL {
        if served.has(known) {
            paths.push(known.path());
        }
    }
    let message = format!(
        "No server of this model has {}. They have {}.",
        operation.path(),
        paths.join(", ")
    );
    Refusal::new(Code::DialectNotServed).saying(message)
}

/// The refusal for a model that does not exist for this token.
#[must_use]
pub fn not_found(model: &str) -> Refusal {
    // The name is the caller's text: bounded, and without control characters that could change a
    // terminal or a log line.
    let shown: String =
        model.chars().filter(|character| !character.is_control()).take(80).collect();
    Refusal::new(Code::ModelNotFound)
        .saying(format!("There is no model {shown:?} for this token."))
        .because(format_args!("asked for {shown:?}"))
        .at("model")
}
