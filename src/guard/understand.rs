//! What does the body say, for which model, and does that model's server understand it?

use std::sync::Arc;

use crate::guard::authenticate::Authenticated;
use crate::guard::candidates::Candidates;
use crate::guard::egress::fetches::Fetches;
use crate::guard::route::Routed;
use crate::guard::table::ModelRoute;
use crate::health::Health;
use crate::model::{BodyRules, ModelCall, Operation, read};
use crate::refusal::{Code, Refusal};
use crate::weights::Weights;

/// What a request asks for once its body is read.
pub enum RequestKind<'b> {
    /// What the token allows.
    Me,
    /// The models that the token may use, or one of them: no body, no upstream.
    Models(Option<String>),
    /// A call to a model.
    Call {
        /// What the body says.
        call: Box<ModelCall<'b>>,
        /// The model, and the upstreams that may serve it.
        candidates: Candidates,
        /// What is fetched and put into the request.
        fetches: Option<Fetches>,
    },
}

/// A request whose body is understood. Only [`understand`] makes one.
pub struct Understood<'b> {
    routed: Routed,
    asked: RequestKind<'b>,
}

impl<'b> Understood<'b> {
    /// The caller and the operation.
    #[must_use]
    pub const fn routed(&self) -> &Routed {
        &self.routed
    }

    /// What is asked for.
    #[must_use]
    pub const fn asked(&self) -> &RequestKind<'b> {
        &self.asked
    }

    /// Both parts, to change what is asked for.
    pub(super) const fn parts(&mut self) -> (&Routed, &mut RequestKind<'b>) {
        (&self.routed, &mut self.asked)
    }

    /// Both parts.
    pub(super) fn into_parts(self) -> (Routed, RequestKind<'b>) {
        (self.routed, self.asked)
    }
}

/// True when a token may use `served` under the name `asked`: its namespace sees the model, and the token grants the name
/// that was asked for or the canonical one.
#[must_use]
pub fn may_use(caller: &Authenticated, asked: &str, served: &ModelRoute) -> bool {
    let verified = &caller.token().verified;
    let seen = served.namespaces.is_empty()
        || served.namespaces.iter().any(|known| known == verified.agent().namespace());
    let allowed = |name: &str| verified.grants().all(|grants| grants.models.allows(name));
    seen && (allowed(asked) || allowed(&served.name))
}

/// Reads the body strictly, finds the model, and judges every field by the profile of the server that will get it.
///
/// # Errors
/// Any refusal of the stage understood. A model that does not exist and one that is not granted are refused alike.
pub fn understand<'b>(
    routed: Routed,
    body: &'b [u8],
    (health, weights): (&Health, &Weights),
) -> Result<Understood<'b>, Refusal> {
    let operation = routed.operation();
    let caller = routed.paced().caller();
    let asked = match operation {
        Operation::ListModels | Operation::ShowModel => {
            RequestKind::Models(routed.model().map(str::to_owned))
        }
        Operation::Me => RequestKind::Me,
        Operation::ChatCompletions
        | Operation::Completions
        | Operation::Embeddings
        | Operation::Messages => {
            let reading = read(operation, body)?;
            let served = caller
                .tables()
                .model(reading.model())
                .filter(|served| may_use(caller, reading.model(), served));
            let served = Arc::clone(served.ok_or_else(|| not_found(reading.model()))?);
            let upstream = Arc::clone(
                served.upstream(health, weights).ok_or_else(|| model_changed(&served.name))?,
            );
            let terms = BodyRules {
                profile: &upstream.profile,
                unknown_fields: caller.class().unknown_fields,
                model_upstream: &served.upstream_name,
            };
            let call = Box::new(reading.understand(&terms)?);
            RequestKind::Call { call, candidates: Candidates::new(served, upstream), fetches: None }
        }
    };
    Ok(Understood { routed, asked })
}

/// The refusal for a model whose weights are not those that it must have.
#[must_use]
pub fn model_changed(model: &str) -> Refusal {
    Refusal::new(Code::ModelChanged).because(format_args!("model {model}: token-shield model list"))
}

/// The refusal for a model that is not there for this token.
#[must_use]
pub fn not_found(model: &str) -> Refusal {
    let shown: String =
        model.chars().filter(|character| !character.is_control()).take(80).collect();
    Refusal::new(Code::ModelNotFound)
        .saying(format!("There is no model {shown:?} for this token."))
        .because(format_args!("asked for {shown:?}"))
        .at("model")
}
