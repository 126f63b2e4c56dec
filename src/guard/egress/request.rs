//! The request filter: references in a request that the model server would fetch or act on. The
//! model server itself never fetches. It would resolve a URL again, and the answer could be another
//! address then. So the gateway fetches the content, or the request does not get it.

use crate::crypto::Draws;
use crate::guard::authenticate::Authenticated;
use crate::guard::candidates::Candidates;
use crate::guard::egress::fetches::{Fetches, WantedContent};
use crate::guard::egress::policy::{
    Controlled, EgressPolicy, TokenRestrictions, Uncontrolled, Use,
};
use crate::guard::settings::{RequestFilterAction, Requests};
use crate::guard::table::Tables;
use crate::guard::understand::{RequestKind, Understood};
use crate::metrics::Metrics;
use crate::model::inline::Placeholder;
use crate::model::{ExternalReference, ModelCall, ReferenceKind};
use crate::refusal::{Code, Refusal};
use crate::token::{Names, Verified};

/// The most characters of a destination in a refusal.
const SHOWN_MAX: usize = 80;
/// The most characters of a destination in a record; a host is never cut.
const TARGET_MAX: usize = 320;

/// A request that reaches no endpoint outside. Only [`clear`] makes one.
pub struct Cleared<'b>(Understood<'b>);

impl<'b> Cleared<'b> {
    /// Takes the value apart for the next step.
    pub(in crate::guard) fn into_inner(self) -> Understood<'b> {
        self.0
    }

    /// The parsed request.
    #[must_use]
    pub const fn understood(&self) -> &Understood<'b> {
        &self.0
    }
}

/// What a caller's tokens leave of the operator's lists.
#[must_use]
pub fn token_restrictions(verified: &Verified) -> TokenRestrictions {
    TokenRestrictions::of(verified.grants())
}

/// Refuses or removes references to the outside: remote media, hosted tools, foreign state and
/// others. The agent's class decides which of the two applies.
///
/// # Errors
/// `egress-uncontrolled` or `tool-not-allowed`, with the JSON path.
pub fn clear<'b>(
    mut understood: Understood<'b>,
    metrics: &Metrics,
    marks: &Draws,
) -> Result<Cleared<'b>, Refusal> {
    let (routed, asked) = understood.parts();
    let caller = routed.paced().caller();
    match asked {
        RequestKind::Models(_) | RequestKind::Constant(_) | RequestKind::Me => {}
        RequestKind::Call { call, candidates, fetches } => {
            runs_here(call.model(), candidates)?;
            if !call.external_references().is_empty() {
                let actions = caller.class().requests;
                let filter = RequestFilter::of(caller, metrics);
                // Inline before strip, so that content which can be fetched is not removed.
                if actions.media == RequestFilterAction::Inline {
                    *fetches = filter.inline(call, Placeholder::new(marks.next()))?;
                    for reach in call.inline_slots() {
                        filter.note(RequestFilterAction::Inline, reach);
                    }
                }
                call.strip(|reach| action(&actions, reach.kind) == RequestFilterAction::Strip);
                for reach in call.stripped() {
                    filter.note(RequestFilterAction::Strip, reach);
                }
                // A reference that cannot be replaced by a note is still here. It is blocked with
                // every setting.
                if let Some(reach) = call.external_references().first() {
                    filter.note(RequestFilterAction::Block, reach);
                    return Err(refuse(reach, filter.controlled(reach), actions.media));
                }
            }
            // Last, because it concerns tools that run at the caller, which reach no endpoint by
            // themselves.
            tool_types(call, caller)?;
        }
    }
    Ok(Cleared(understood))
}

/// Evaluates the references of one caller's request.
struct RequestFilter<'c> {
    tables: &'c Tables,
    restrictions: TokenRestrictions,
    metrics: &'c Metrics,
}

impl<'c> RequestFilter<'c> {
    /// The filter for the requests of `caller`.
    fn of(caller: &'c Authenticated, metrics: &'c Metrics) -> Self {
        let restrictions = token_restrictions(&caller.token().verified);
        Self { tables: caller.tables(), restrictions, metrics }
    }

    /// Evaluates the URL of a reference.
    fn evaluate(&self, reach: &ExternalReference) -> Result<Controlled, Uncontrolled> {
        self.tables.policy.evaluate(Use::Media, &reach.target, &self.restrictions)
    }

    /// Whether a reference is controlled; `None` for a reference that is not to media.
    fn controlled(&self, reach: &ExternalReference) -> Option<Result<(), Uncontrolled>> {
        if reach.kind != ReferenceKind::Media {
            return None;
        }
        Some(match self.evaluate(reach) {
            Ok(_) => Ok(()),
            Err(why) => Err(why),
        })
    }

    /// Counts a reference in the metrics.
    fn note(&self, action: RequestFilterAction, reach: &ExternalReference) {
        let reason = reason(reach, self.controlled(reach).as_ref());
        self.metrics.egress("request", action.as_str(), reason);
    }

    /// Puts marks in the place of content that the gateway fetches. Only controlled content that
    /// may be in a request is replaced.
    ///
    /// # Errors
    /// `field-invalid` for more content than is fetched for one request.
    fn inline(
        &self,
        call: &mut ModelCall<'_>,
        mark: Placeholder,
    ) -> Result<Option<Fetches>, Refusal> {
        call.inline(&mark, |reach| {
            reach.kind == ReferenceKind::Media && self.evaluate(reach).is_ok()
        });
        let mut wanted = Vec::new();
        for reach in call.inline_slots() {
            if let Ok(controlled) = self.evaluate(reach) {
                wanted.push(WantedContent { reach: reach.clone(), controlled });
            }
        }
        // Checked before any fetch begins: each fetch costs the gateway a connection.
        let (count, max) = (wanted.len(), self.tables.fetch.count_max);
        if count > max {
            let says = format!(
                "{count} pieces of content are named by URLs; at most {max} are fetched for one \
                    request."
            );
            return Err(Refusal::new(Code::FieldInvalid).saying(says));
        }
        Ok((count > 0).then_some(Fetches { mark, wanted }))
    }
}

/// Checks that the server runs the model itself. Some servers forward the prompts for models with
/// certain names to a service outside.
///
/// # Errors
/// `egress-uncontrolled`.
fn runs_here(asked: &str, candidates: &Candidates) -> Result<(), Refusal> {
    let profile = &candidates.first().profile;
    let served = &candidates.model().upstream_name;
    if !profile.forwards_model(asked) && !profile.forwards_model(served) {
        return Ok(());
    }
    let server = &candidates.first().name;
    let detail = format!("upstream {server} forwards {} outside", shown(served, TARGET_MAX));
    Err(Refusal::new(Code::EgressUncontrolled)
        .saying("The model's server would forward this request to a service outside.")
        .at("model")
        .because(detail))
}

/// The class's action for a kind of reference.
const fn action(actions: &Requests, kind: ReferenceKind) -> RequestFilterAction {
    match kind {
        ReferenceKind::Media => actions.media,
        ReferenceKind::HostedTool => actions.hosted_tools,
        ReferenceKind::Mcp => actions.mcp,
        // Always blocked: such work outlives the request, and so the gateway's control over it.
        ReferenceKind::Background | ReferenceKind::ForeignState => RequestFilterAction::Block,
    }
}

/// Checks that each token of the chain allows the type of every tool.
fn tool_types(call: &ModelCall<'_>, caller: &Authenticated) -> Result<(), Refusal> {
    let verified = &caller.token().verified;
    if type_lists(verified).next().is_none() {
        return Ok(());
    }
    // Every list must allow the type: a delegated token only narrows.
    for (path, kind) in call.tool_types() {
        if !type_lists(verified).all(|types| types.contains(kind)) {
            let kind = shown(kind, SHOWN_MAX);
            let says = format!("The token allows tools of other types than {kind:?} (tool_type).");
            return Err(Refusal::new(Code::ToolNotAllowed).saying(says).at(path));
        }
    }
    Ok(())
}

/// The lists of tool types that the tokens of a chain have.
fn type_lists(verified: &Verified) -> impl Iterator<Item = &Names> {
    verified.grants().filter_map(|grants| grants.tool_types.as_ref())
}

/// The reason why a reference is not controlled, as metrics name it.
fn reason(reach: &ExternalReference, found: Option<&Result<(), Uncontrolled>>) -> &'static str {
    match found {
        Some(Err(why)) => why.as_str(),
        Some(Ok(())) => "listed",
        None => reach.kind.as_str(),
    }
}

/// The refusal for a reference. The caller learns the destination, where it can be parsed. Only the
/// record tells whether it is in the operator's network.
fn refuse(
    reach: &ExternalReference,
    found: Option<Result<(), Uncontrolled>>,
    media: RequestFilterAction,
) -> Refusal {
    let target = shown(&reach.target, TARGET_MAX);
    let detail = match &found {
        Some(Err(why)) => format!("{target}: {why}"),
        Some(Ok(())) | None => target,
    };
    let (code, says) = match (reach.kind, found) {
        (ReferenceKind::Media, Some(Err(Uncontrolled::Unreadable(why)))) => (
            Code::EgressUncontrolled,
            format!(
                "Remote content is not fetched, and this is no URL that could be judged: {why}. \
                    Send the content itself, as data:."
            ),
        ),
        (ReferenceKind::Media, Some(Err(_))) => {
            let host = EgressPolicy::host(&reach.target)
                .map_or_else(|| "It".to_owned(), |host| shown(&host, SHOWN_MAX));
            (
                Code::EgressUncontrolled,
                format!(
                    "{host} is not a controlled destination. Send the \
                content itself, as data:."
                ),
            )
        }
        (ReferenceKind::Media, Some(Ok(())) | None) if media == RequestFilterAction::Inline => (
            Code::EgressUncontrolled,
            "The content of this URL cannot be put in its place. Send the content itself."
                .to_owned(),
        ),
        (ReferenceKind::Media, Some(Ok(())) | None) => (
            Code::EgressUncontrolled,
            "Remote content is not fetched for agents of this class. Send the content itself, as \
                data:."
                .to_owned(),
        ),
        (ReferenceKind::HostedTool, _) => (
            Code::ToolNotAllowed,
            "Only tools that run at the caller pass; hosted tools would run \
                outside."
                .to_owned(),
        ),
        (ReferenceKind::Mcp, _) => (
            Code::ToolNotAllowed,
            "MCP servers named by a request are not \
            reached."
                .to_owned(),
        ),
        (ReferenceKind::Background, _) => (
            Code::EgressUncontrolled,
            "Work that outlives its request, and calls back, is not \
                accepted."
                .to_owned(),
        ),
        (ReferenceKind::ForeignState, _) => (
            Code::EgressUncontrolled,
            "State kept by another server cannot be named; send the \
                content itself."
                .to_owned(),
        ),
    };
    Refusal::new(code).saying(says).at(reach.path.clone()).because(detail)
}

/// The beginning of a caller's text. Every character that is not visible ASCII is escaped, so that
/// it cannot change a terminal or a log line.
fn shown(text: &str, max: usize) -> String {
    let mut shown = String::new();
    for character in text.chars().take(max) {
        if character.is_ascii_graphic() {
            shown.push(character)
        } else {
            shown.extend(character.escape_unicode())
        }
    }
    shown
}
