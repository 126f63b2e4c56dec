//! Door 1: what a request would make the model server fetch or do. In this build everything that reaches out is blocked.

use crate::guard::understand::{Asked, Understood};
use crate::model::{Reach, ReachKind};
use crate::refusal::{Code, Refusal};

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

/// Refuses remote media, hosted tools, foreign state and whatever else would leave.
///
/// # Errors
/// `egress-uncontrolled` or `tool-not-allowed`, with the JSON path.
pub fn clear(understood: Understood<'_>) -> Result<Cleared<'_>, Refusal> {
    match understood.asked() {
        Asked::Models(_) | Asked::Me => {}
        Asked::Call { call, .. } => {
            if let Some(reach) = call.reaches().first() {
                return Err(refuse(reach));
            }
        }
    }
    Ok(Cleared(understood))
}

fn refuse(reach: &Reach) -> Refusal {
    let (code, says) = match reach.kind {
        ReachKind::Media => (Code::EgressUncontrolled, "Remote media is not fetched; send it inline as data:."),
        ReachKind::HostedTool => (Code::ToolNotAllowed, "Only tools of type function pass; hosted tools would run outside."),
        ReachKind::Mcp => (Code::ToolNotAllowed, "MCP servers named by a request are not reached."),
        ReachKind::Background => (Code::EgressUncontrolled, "Work that outlives its request, and calls back, is not accepted."),
        ReachKind::ForeignState => {
            (Code::EgressUncontrolled, "State kept by another server cannot be named; send the content itself.")
        }
    };
    Refusal::new(code).saying(says).at(reach.path.clone()).because(&reach.target)
}
