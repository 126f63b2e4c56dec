//! Door 1: what a request would make the model server fetch or do. The server itself never fetches: a URL that is let through would be
//! resolved there, by whoever answers then. Content is fetched by the gateway or not at all.

use crate::crypto::Draws;
use crate::guard::authenticate::Authenticated;
use crate::guard::egress::fetches::{Fetches, WantedContent};
use crate::guard::egress::policy::{EgressPolicy, TokenRestrictions, Uncontrolled, Use};
use crate::guard::settings::{RequestFilterAction, Requests};
use crate::guard::understand::{RequestKind, Understood};
use crate::metrics::Metrics;
use crate::model::inline::Placeholder;
use crate::model::{ExternalReference, ModelCall, ReferenceKind};
use crate::refusal::{Code, Refusal};
use crate::token::Verified;

/// Characters of a destination that a refusal repeats.
const SHOWN_MAX: usize = 80;
/// Characters of one that a record has: a host is whole in it.
const TARGET_MAX: usize = 320;

/// A request that reaches nothing outside. Only [`clear`] makes one.
pub struct Cleared<'b>(Understood<'b>);

impl<'b> Cleared<'b> {
    pub(in crate::guard) fn into_inner(self) -> Understood<'b> {
        self.0
    }

    /// The request.
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

/// Refuses remote media, hosted tools, foreign state and whatever else would leave, or takes it out where the agent's class says so.
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
        RequestKind::Models(_) | RequestKind::Me => {}
        RequestKind::Call { call, fetches, .. } => {
            if !call.external_references().is_empty() {
                let actions = caller.class().requests;
                let action = |reach: &ExternalReference| action(&actions, reach.kind);
                let (policy, restrictions) =
                    (&caller.tables().policy, token_restrictions(&caller.token().verified));
                let judged = |reach: &ExternalReference| {
                    (reach.kind == ReferenceKind::Media).then(|| {
                        policy.evaluate(Use::Media, &reach.target, &restrictions).map(|_| ())
                    })
                };
                let note = |action: RequestFilterAction, reach: &ExternalReference| {
                    metrics.egress(
                        "request",
                        action.as_str(),
                        reason(reach, judged(reach).as_ref()),
                    );
                };
                if actions.media == RequestFilterAction::Inline {
                    *fetches = inline(call, caller, Placeholder::new(marks.next()))?;
                    call.inline_slots()
                        .iter()
                        .for_each(|reach| note(RequestFilterAction::Inline, reach));
                }
                call.strip(|reach| action(reach) == RequestFilterAction::Strip);
                call.stripped().iter().for_each(|reach| note(RequestFilterAction::Strip, reach));
                // What no note can stand for is left, and is blocked whatever the class says.
                if let Some(reach) = call.external_references().first() {
                    note(RequestFilterAction::Block, reach);
                    return Err(refuse(reach, judged(reach), actions.media));
                }
            }
            tool_types(call, caller)?;
        }
    }
    Ok(Cleared(understood))
}

/// Makes places for the content that the gateway fetches itself: what is controlled, and may stand in the request.
fn inline(
    call: &mut ModelCall<'_>,
    caller: &Authenticated,
    mark: Placeholder,
) -> Result<Option<Fetches>, Refusal> {
    let (tables, restrictions) = (caller.tables(), token_restrictions(&caller.token().verified));
    let judged = |reach: &ExternalReference| {
        tables.policy.evaluate(Use::Media, &reach.target, &restrictions)
    };
    call.inline(&mark, |reach| reach.kind == ReferenceKind::Media && judged(reach).is_ok());
    let wanted = |reach: &ExternalReference| {
        judged(reach).ok().map(|controlled| WantedContent { reach: reach.clone(), controlled })
    };
    let wanted: Vec<WantedContent> = call.inline_slots().iter().filter_map(wanted).collect();
    let (count, max) = (wanted.len(), tables.fetch.count_max);
    if count > max {
        let says = format!(
            "{count} pieces of content lie behind URLs; at most {max} are fetched for one request."
        );
        return Err(Refusal::new(Code::FieldInvalid).saying(says));
    }
    Ok((count > 0).then_some(Fetches { mark, wanted }))
}

const fn action(actions: &Requests, kind: ReferenceKind) -> RequestFilterAction {
    match kind {
        ReferenceKind::Media => actions.media,
        ReferenceKind::HostedTool => actions.hosted_tools,
        ReferenceKind::Mcp => actions.mcp,
        ReferenceKind::Background | ReferenceKind::ForeignState => RequestFilterAction::Block,
    }
}

/// That every tool is of a type that each token of the chain leaves.
fn tool_types(call: &ModelCall<'_>, caller: &Authenticated) -> Result<(), Refusal> {
    let lists = || caller.token().verified.grants().filter_map(|grants| grants.tool_types.as_ref());
    if lists().next().is_none() {
        return Ok(());
    }
    match call.tool_types().find(|(_, kind)| !lists().all(|types| types.contains(kind))) {
        Some((path, kind)) => {
            let says = format!(
                "The token allows tools of other types than {:?} (tool_type).",
                shown(kind, SHOWN_MAX)
            );
            Err(Refusal::new(Code::ToolNotAllowed).saying(says).at(path))
        }
        None => Ok(()),
    }
}

/// Why something reaches out, as metrics name it.
fn reason(reach: &ExternalReference, found: Option<&Result<(), Uncontrolled>>) -> &'static str {
    match found {
        Some(Err(why)) => why.as_str(),
        Some(Ok(())) => "listed",
        None => reach.kind.as_str(),
    }
}

/// What a caller is told: where it leads, if that can be read. Whether that is a part of the operator's network is for the record.
fn refuse(
    reach: &ExternalReference,
    found: Option<Result<(), Uncontrolled>>,
    media: RequestFilterAction,
) -> Refusal {
    let target = || shown(&reach.target, TARGET_MAX);
    let detail = match &found {
        Some(Err(why)) => format!("{}: {why}", target()),
        Some(Ok(())) | None => target(),
    };
    let (code, says) = match (reach.kind, found) {
        (ReferenceKind::Media, Some(Err(Uncontrolled::Unreadable(why)))) => (
            Code::EgressUncontrolled,
            format!(
                "Remote content is not fetched, and this is no URL that could be judged: {why}. Send the content itself, as data:."
            ),
        ),
        (ReferenceKind::Media, Some(Err(_))) => {
            let host = EgressPolicy::host(&reach.target).map_or_else(|| "It".to_owned(), |host| shown(&host, SHOWN_MAX));
            (Code::EgressUncontrolled, format!("{host} is not a controlled destination. Send the content itself, as data:."))
        }
        (ReferenceKind::Media, Some(Ok(())) | None) if media == RequestFilterAction::Inline => (
            Code::EgressUncontrolled,
            "What lies behind this URL cannot be put in its place. Send the content itself.".to_owned(),
        ),
        (ReferenceKind::Media, Some(Ok(())) | None) => (
            Code::EgressUncontrolled,
            "Remote content is not fetched for agents of this class. Send the content itself, as data:.".to_owned(),
        ),
        (ReferenceKind::HostedTool, _) => {
            (Code::ToolNotAllowed, "Only tools that run at the caller pass; hosted tools would run outside.".to_owned())
        }
        (ReferenceKind::Mcp, _) => (Code::ToolNotAllowed, "MCP servers named by a request are not reached.".to_owned()),
        (ReferenceKind::Background, _) => {
            (Code::EgressUncontrolled, "Work that outlives its request, and calls back, is not accepted.".to_owned())
        }
        (ReferenceKind::ForeignState, _) => {
            (Code::EgressUncontrolled, "State kept by another server cannot be named; send the content itself.".to_owned())
        }
    };
    Refusal::new(code).saying(says).at(reach.path.clone()).because(detail)
}

/// The beginning of a stranger's text, with everything escaped that is not visible ASCII.
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
