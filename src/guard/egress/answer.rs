//! The response filter: addresses in an answer that its client would load or open. Each text of an
//! answer has its own [`RenderedText`].

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::guard::authenticate::CachedToken;
use crate::guard::egress::call;
use crate::guard::egress::findings::{AnswerPolicy, CHANNELS_MAX, Findings, verdict_of_definition};
use crate::guard::egress::policy::EgressPolicy;
use crate::guard::egress::rendered::{Judge, LoadUse, RenderedText, Scope, Verdict};
use crate::guard::egress::request::token_restrictions;
use crate::guard::settings::{Answers, ResponseFilterAction, ToolCallAction};
use crate::guard::table::Tables;
use crate::metrics::Metrics;
use crate::model::response_text::{
    Channel, ChannelId, FilterChain, ITEMS, TextFilter, is_repeated,
};
use crate::model::tools::{Arguments, Tools};

/// Members with text that may continue a text of the caller.
const CONTINUING: [&str; 3] = ["content", "delta", "text"];
/// In the path of a text that no text of the caller precedes.
const REASONING: &str = "reasoning";

/// The filters of one answer, in the order in which its texts pass them.
pub type ResponseFilters = FilterChain<UrlFilter>;

/// The filter for the URLs in one answer.
pub struct UrlFilter {
    /// By choice and key.
    texts: BTreeMap<u64, BTreeMap<String, Text>>,
    /// The number of paths in all of them.
    count: usize,
    /// The texts that continued since the last boundary.
    moved: Vec<ChannelId>,
    /// The state of a text at its beginning.
    beginning: RenderedText,
    /// The same for a text that continues one of the caller, if there is one.
    continuing: Option<RenderedText>,
    policy: AnswerPolicy,
}

impl UrlFilter {
    /// A filter for an answer to that caller. `continuing` is the state after the text of the
    /// caller that the answer continues.
    #[must_use]
    pub fn new(
        caller: &CachedToken,
        answers: Answers,
        tables: Arc<Tables>,
        metrics: Arc<Metrics>,
        continuing: Option<RenderedText>,
    ) -> Self {
        let restrictions = token_restrictions(&caller.verified);
        let policy = AnswerPolicy {
            tables,
            restrictions,
            answers,
            metrics,
            findings: Findings::default(),
            again: false,
        };
        let beginning = RenderedText::new(scope(answers));
        let texts = BTreeMap::new();
        Self { texts, count: 0, moved: Vec::new(), beginning, continuing, policy }
    }

    /// The findings so far.
    #[must_use]
    pub const fn findings(&self) -> &Findings {
        &self.policy.findings
    }

    /// Whether a text replaces a refused tool call.
    #[must_use]
    pub fn replaces_calls(&self) -> bool {
        self.policy.answers.tool_calls == ToolCallAction::Replace
    }

    /// The findings.
    #[must_use]
    pub fn into_findings(self) -> Findings {
        self.policy.findings
    }
}

/// The state after a text of the caller that an answer continues; `None` if nothing in the answer
/// may be changed.
#[must_use]
pub fn after_prefill(
    caller: &CachedToken,
    answers: Answers,
    policy: &EgressPolicy,
    prefill: &str,
) -> Option<RenderedText> {
    let scope = scope(answers);
    if scope == Scope::Nothing {
        return None;
    }
    let restrictions = token_restrictions(&caller.verified);
    // The caller has this text already, so that nothing of it is a finding. But an image of the
    // answer may use its definitions.
    let mut judge = |load_use: LoadUse, host: Result<&str, &str>| match load_use {
        LoadUse::Defined => verdict_of_definition(policy, &restrictions, host),
        LoadUse::Loaded | LoadUse::Linked => Verdict::Pass,
    };
    let (mut state, mut sent) = (RenderedText::new(scope), String::new());
    state.push(prefill, &mut sent, &mut judge);
    state.release(&mut sent);
    Some(state)
}

/// The addresses that these actions may change, or that may end the answer.
const fn scope(answers: Answers) -> Scope {
    match (answers.fetched, answers.clicked) {
        (ResponseFilterAction::Report, ResponseFilterAction::Report) => Scope::Nothing,
        (_, ResponseFilterAction::Report) => Scope::Loads,
        (_, ResponseFilterAction::Strip | ResponseFilterAction::Block) => Scope::Links,
    }
}

impl TextFilter for UrlFilter {
    /// Filters the next piece of a text, and begins a text at its first piece.
    fn push(&mut self, channel: Channel<'_>, text: &str, out: &mut String) {
        let Self { texts, count, moved, beginning, continuing, policy } = self;
        let of_choice = texts.entry(channel.choice).or_default();
        let known = of_choice.get(channel.key);
        if known.is_none_or(|text| !text.paths.contains_key(channel.path)) {
            *count += 1;
            // An answer with endless new paths would use unbounded memory, so it is blocked.
            if *count > CHANNELS_MAX {
                policy.findings.refuse();
                return;
            }
            let first = match continuing {
                Some(state)
                    if known.is_none()
                        && CONTINUING.contains(&channel.key)
                        && !channel.path.contains(REASONING) =>
                {
                    &*state
                }
                Some(_) | None => &*beginning,
            };
            of_choice.entry(channel.key.to_owned()).or_default().begin(channel.path, first.clone());
        }
        if let Some(known) = of_choice.get_mut(channel.key) {
            // A client may show each item of an array alone, and an event may have one item.
            if channel.path.contains(ITEMS) {
                known.part = Some(beginning.clone());
            }
            if !std::mem::replace(&mut known.moved, true) {
                moved.push(channel.id());
            }
            // What a client reads again was found before.
            policy.again = is_repeated(channel.path);
            known.push(channel.path, text, out, policy);
            policy.again = false;
        }
    }

    /// Releases the held text of one channel.
    fn flush(&mut self, channel: Channel<'_>, out: &mut String) {
        let Self { texts, policy, .. } = self;
        if let Some(texts) = texts.get_mut(&channel.choice)
            && let Some(text) = texts.get_mut(channel.key)
        {
            policy.again = text.current.as_deref().is_some_and(is_repeated);
            text.flush(out, policy);
            policy.again = false;
        }
    }

    /// Ends all texts at a boundary of the answer. A client may show the next parts separately, or
    /// join them.
    fn boundary(&mut self) {
        let Self { texts, moved, policy, beginning, .. } = self;
        for id in moved.drain(..) {
            if let Some(texts) = texts.get_mut(&id.choice)
                && let Some(text) = texts.get_mut(&id.key)
            {
                // No text is held at a boundary, so there is no output.
                text.flush(&mut String::new(), policy);
                text.part = Some(beginning.clone());
                text.moved = false;
            }
        }
    }

    /// The channels with held text, of one choice or of all.
    fn holding(&self, choice: Option<u64>) -> Vec<ChannelId> {
        let mut holding = Vec::new();
        for (own, texts) in &self.texts {
            if choice.is_some_and(|choice| choice != *own) {
                continue;
            }
            for (key, text) in texts {
                if text.is_holding() {
                    holding.push(ChannelId { choice: *own, key: key.clone() });
                }
            }
        }
        holding
    }

    fn changes(&self) -> u64 {
        self.policy.findings.removed
    }

    fn is_holding(&self) -> bool {
        self.texts.values().any(|texts| texts.values().any(Text::is_holding))
    }
}

/// The texts of one name. Some clients join all of them, some join those of one path, and some show
/// each part alone. What one of these clients loads is changed, and code must be code for all.
#[derive(Default)]
struct Text {
    /// The text of each path.
    paths: BTreeMap<String, RenderedText>,
    /// All of them in the order of arrival, where there is more than one path.
    joined: Option<RenderedText>,
    /// The part since the last boundary. Before the first one, it is the text of the path.
    part: Option<RenderedText>,
    /// The path of the last part that was not flushed yet.
    current: Option<String>,
    /// Whether the text continued since the last boundary.
    moved: bool,
}

impl Text {
    /// Begins the text of a new path.
    fn begin(&mut self, path: &str, first: RenderedText) {
        // Until now there was one path, so its state is that of the joined text too.
        if self.joined.is_none() {
            self.joined = self.paths.values().next().cloned();
        }
        self.paths.insert(path.to_owned(), first);
    }

    /// Filters the next piece of the text at `path`.
    fn push(&mut self, path: &str, text: &str, out: &mut String, policy: &mut AnswerPolicy) {
        if self.current.as_deref() != Some(path) {
            self.current = Some(path.to_owned());
        }
        self.pass(path, text, FilterStep::Push, out, policy);
    }

    /// Releases the held text at a boundary.
    fn flush(&mut self, out: &mut String, policy: &mut AnswerPolicy) {
        if let Some(path) = self.current.take() {
            self.pass(&path, "", FilterStep::Pause, out, policy);
        }
    }

    /// Passes a piece through all states. What one of them changes or holds, the next ones do not
    /// get.
    fn pass(
        &mut self,
        path: &str,
        text: &str,
        step: FilterStep,
        out: &mut String,
        policy: &mut AnswerPolicy,
    ) {
        let Self { paths, joined, part, .. } = self;
        let Some(first) = paths.get_mut(path) else { return };
        if joined.is_none() && part.is_none() {
            return step.apply(first, text, out, &mut |used, host| policy.evaluate(used, host));
        }
        let mut passed = String::with_capacity(text.len());
        step.apply(first, text, &mut passed, &mut |used, host| policy.evaluate(used, host));
        for state in joined.iter_mut().chain(part) {
            let mut next = String::with_capacity(passed.len());
            let judge = &mut |used, host: Result<&str, &str>| policy.evaluate_again(used, host);
            step.apply(state, &passed, &mut next, judge);
            passed = next;
        }
        if path.contains(ITEMS)
            && let Some(part) = &mut self.part
        {
            // The next item has a state of its own, so nothing may be held in this one.
            part.pause(&mut passed, &mut |used, host| policy.evaluate_again(used, host));
        }
        out.push_str(&passed);
    }

    /// Whether text is held that could become a finding.
    fn is_holding(&self) -> bool {
        self.paths.values().chain(&self.joined).chain(&self.part).any(RenderedText::is_holding)
    }
}

/// A step of a text.
#[derive(Clone, Copy)]
enum FilterStep {
    /// A piece follows.
    Push,
    /// The text ends, or other text may be shown directly after it.
    Pause,
}

impl FilterStep {
    fn apply(self, state: &mut RenderedText, text: &str, out: &mut String, judge: &mut Judge<'_>) {
        state.push(text, out, judge);
        match self {
            Self::Push => {}
            Self::Pause => state.pause(out, judge),
        }
    }
}

impl Tools for UrlFilter {
    /// Whether the config names any tools.
    fn any(&self) -> bool {
        !self.policy.tables.fetch_tools.is_empty()
    }

    /// Whether the answer has ended: it is blocked, or a call is refused.
    fn ended(&self) -> bool {
        self.policy.findings.ended()
    }

    /// Whether the calls of that tool are evaluated.
    fn judges(&self, tool: &str) -> bool {
        self.policy.tables.fetch_tools.iter().any(|pattern| pattern.is_of(tool))
    }

    /// Evaluates one call; true where it may be sent.
    fn call(&mut self, tool: &str, arguments: Arguments<'_>) -> bool {
        let policy = &mut self.policy;
        // Without a destination that is not controlled, the call passes.
        let Some(call::CallDestination { target, reason }) =
            call::leads(arguments, &policy.tables.policy, &policy.restrictions)
        else {
            return true;
        };
        policy.tool_call(tool, &target, reason)
    }
}
