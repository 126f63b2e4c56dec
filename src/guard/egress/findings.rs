//! The findings in an answer: which addresses are not controlled, and what becomes of them.

use std::sync::Arc;

use crate::audit::format::request::OutboundReference;
use crate::guard::egress::policy::{EgressPolicy, TokenRestrictions, Uncontrolled, Use};
use crate::guard::egress::rendered::{LoadUse, Verdict};
use crate::guard::settings::{Answers, ResponseFilterAction, ToolCallAction};
use crate::guard::table::Tables;
use crate::metrics::Metrics;
use crate::refusal::{Code, Refusal};

/// At most this many findings are listed one by one.
const NAMED_MAX: usize = 16;
/// The most characters of a listed destination.
const SHOWN_MAX: usize = 256;
/// The most hosts in the text about a refused call.
const ALLOWED_MAX: usize = 8;
/// The most characters of a tool's name in that text.
const TOOL_SHOWN_MAX: usize = 64;
/// The kind of a finding that a client loads.
const FETCHED: &str = "fetched";
/// The kind of a finding that a client opens.
const CLICKED: &str = "clicked";
/// The kind of a finding in a tool call.
const TOOL_CALL: &str = "tool-call";
/// The most texts of one answer, each with its own path.
pub(super) const CHANNELS_MAX: usize = 1_024;

/// The findings in one answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// The first of them, each destination once.
    pub named: Vec<OutboundReference>,
    /// The number of all findings.
    pub count: u64,
    /// The number of addresses that were changed.
    pub removed: u64,
    /// Whether the answer must not be sent further.
    pub blocked: bool,
    /// The text in place of the first refused tool call. The answer ends there.
    pub refused_call: Option<String>,
}

impl Findings {
    /// Counts a finding and lists it, where there is room.
    fn add(&mut self, outbound: OutboundReference) {
        self.count += 1;
        if self.named.len() < NAMED_MAX && !self.named.contains(&outbound) {
            self.named.push(outbound);
        }
    }

    /// Blocks the answer because it has more texts than the filter can track.
    pub(super) fn refuse(&mut self) {
        let target = format!("more than {CHANNELS_MAX} texts");
        self.add(OutboundReference {
            kind: FETCHED,
            verdict: ResponseFilterAction::Block.as_str(),
            reason: Uncontrolled::UNREADABLE,
            target,
        });
        self.blocked = true;
    }

    /// Whether the answer ends: it is blocked, or a tool call is refused.
    #[must_use]
    pub const fn ended(&self) -> bool {
        self.blocked || self.refused_call.is_some()
    }

    /// The text in place of the refused tool call, if the answer ends with it and not with an
    /// error.
    #[must_use]
    pub fn replacement(&self) -> Option<&str> {
        if self.blocked { None } else { self.refused_call.as_deref() }
    }

    /// Checks that the answer may be sent.
    ///
    /// # Errors
    /// `answer-uncontrolled`.
    pub fn passes(&self) -> Result<(), Refusal> {
        if self.ended() { Err(self.refusal()) } else { Ok(()) }
    }

    /// The refusal of the answer, with the first destination that ends it.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        let mut target = "";
        for outbound in &self.named {
            let ends = [ToolCallAction::Replace.as_str(), ToolCallAction::Block.as_str()];
            if ends.contains(&outbound.verdict) {
                target = &outbound.target;
                break;
            }
        }
        Refusal::new(Code::AnswerUncontrolled).because(target)
    }
}

/// Evaluates the addresses in texts, and collects the findings.
pub(super) struct AnswerPolicy {
    pub(super) tables: Arc<Tables>,
    pub(super) restrictions: TokenRestrictions,
    pub(super) answers: Answers,
    pub(super) metrics: Arc<Metrics>,
    pub(super) findings: Findings,
    /// Whether the text repeats an earlier one. A finding that is listed already is not recorded
    /// again.
    pub(super) again: bool,
}

/// A finding, and what becomes of it.
struct Judged<'f> {
    kind: &'static str,
    target: &'f str,
    action: ResponseFilterAction,
    reason: &'static str,
}

impl AnswerPolicy {
    /// Evaluates an address in a text alone.
    pub(super) fn evaluate(&mut self, load_use: LoadUse, host: Result<&str, &str>) -> Verdict {
        if load_use == LoadUse::Defined {
            return self.verdict_of_definition(host);
        }
        match self.judged(load_use, host) {
            Some(judged) => self.record(&judged),
            None => Verdict::Pass,
        }
    }

    /// Evaluates an address in the joined text. A finding that stays was recorded before, in its
    /// text alone.
    pub(super) fn evaluate_again(
        &mut self,
        load_use: LoadUse,
        host: Result<&str, &str>,
    ) -> Verdict {
        if load_use == LoadUse::Defined {
            return self.verdict_of_definition(host);
        }
        match self.judged(load_use, host) {
            Some(judged) if judged.action != ResponseFilterAction::Report => self.record(&judged),
            Some(_) | None => Verdict::Pass,
        }
    }

    /// The verdict of a definition. Nothing is recorded before an image uses it.
    fn verdict_of_definition(&self, host: Result<&str, &str>) -> Verdict {
        verdict_of_definition(&self.tables.policy, &self.restrictions, host)
    }

    /// The finding in an address; `None` where its host is controlled.
    fn judged<'f>(&self, load_use: LoadUse, host: Result<&'f str, &'f str>) -> Option<Judged<'f>> {
        let (kind, wanted, action) = match load_use {
            LoadUse::Loaded | LoadUse::Defined => (FETCHED, Use::Media, self.answers.fetched),
            LoadUse::Linked => (CLICKED, Use::Links, self.answers.clicked),
        };
        let reason = reason(&self.tables.policy, &self.restrictions, wanted, host)?;
        let (Ok(target) | Err(target)) = host;
        Some(Judged { kind, target, action, reason })
    }

    /// Records a finding, and returns its effect on the text.
    fn record(&mut self, judged: &Judged<'_>) -> Verdict {
        let Judged { kind, target, action, reason } = *judged;
        let outbound = OutboundReference {
            kind,
            verdict: action.as_str(),
            reason,
            target: target.chars().take(SHOWN_MAX).collect(),
        };
        let known = self.again && self.findings.named.contains(&outbound);
        if !known {
            self.metrics.egress("answer", action.as_str(), reason);
            self.findings.add(outbound);
        }
        match action {
            ResponseFilterAction::Report => Verdict::Pass,
            ResponseFilterAction::Strip => {
                self.findings.removed += u64::from(!known);
                Verdict::Strip
            }
            ResponseFilterAction::Block => {
                self.findings.blocked = true;
                Verdict::Block
            }
        }
    }

    /// Records a call of `tool` with a destination that is not controlled; true where it may be
    /// sent.
    pub(super) fn tool_call(&mut self, tool: &str, target: &str, reason: &'static str) -> bool {
        let action = self.answers.tool_calls;
        self.metrics.egress("answer", action.as_str(), reason);
        self.findings.add(OutboundReference {
            kind: TOOL_CALL,
            verdict: action.as_str(),
            reason,
            target: format!("{target} ({tool})").chars().take(SHOWN_MAX).collect(),
        });
        match action {
            ToolCallAction::Report => return true,
            ToolCallAction::Replace => {
                let text = self.refused_call(tool);
                self.findings.refused_call.get_or_insert(text);
            }
            ToolCallAction::Block => self.findings.blocked = true,
        }
        false
    }

    /// The text in place of a refused call. It names what the tool may reach.
    fn refused_call(&self, tool: &str) -> String {
        let mut left = self.tables.policy.left(Use::Tunnel, &self.restrictions);
        let more = left.len().saturating_sub(ALLOWED_MAX);
        // The text is part of an answer, so it stays short.
        left.truncate(ALLOWED_MAX);
        let mut allowed = if left.is_empty() { "no host".to_owned() } else { left.join(", ") };
        if more > 0 {
            allowed.push_str(&format!(", and {more} more"));
        }
        // The name comes from the model. It must not be read as Markdown.
        let plain = |letter: &char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
        let tool: String = tool.chars().filter(plain).take(TOOL_SHOWN_MAX).collect();
        let code = Code::AnswerUncontrolled.as_str();
        format!("[refused by policy: {code} – the tool {tool} may reach {allowed}]")
    }
}

/// Whether an image may use the definition of an address.
pub(super) fn verdict_of_definition(
    policy: &EgressPolicy,
    restrictions: &TokenRestrictions,
    host: Result<&str, &str>,
) -> Verdict {
    match reason(policy, restrictions, Use::Media, host) {
        Some(_) => Verdict::Strip,
        None => Verdict::Pass,
    }
}

/// Why a host is not controlled; `None` where it is.
fn reason(
    policy: &EgressPolicy,
    restrictions: &TokenRestrictions,
    wanted: Use,
    host: Result<&str, &str>,
) -> Option<&'static str> {
    let Ok(url) = host else { return Some(Uncontrolled::UNREADABLE) };
    // A link to the reader's own machine sends nothing to another one.
    if wanted == Use::Links && EgressPolicy::is_loopback(url) {
        return None;
    }
    match policy.evaluate(wanted, url, restrictions) {
        Ok(_) => None,
        Err(why) => Some(why.as_str()),
    }
}
