//! The response filter: URLs in an answer that its client would fetch or open. Each text of an
//! answer has its own [`Scanner`].

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::audit::format::request::OutboundReference;
use crate::guard::authenticate::CachedToken;
use crate::guard::egress::call;
use crate::guard::egress::policy::{TokenRestrictions, Uncontrolled, Use};
use crate::guard::egress::request::token_restrictions;
use crate::guard::egress::text::{Found, Kind, Scanner, Verdict};
use crate::guard::settings::{Answers, Called, ResponseFilterAction};
use crate::guard::table::Tables;
use crate::metrics::Metrics;
use crate::model::response_text::{Channel, ChannelId, FilterChain, ITEMS, TextFilter};
use crate::model::tools::{Arguments, Tools};
use crate::refusal::{Code, Refusal};

/// At most this many findings are listed one by one.
const NAMED_MAX: usize = 16;
/// The most texts of one answer, each with its own path.
const CHANNELS_MAX: usize = 1_024;
/// The most characters of a listed destination.
const SHOWN_MAX: usize = 256;
/// The kind of a finding in a tool call.
const TOOL_CALL: &str = "tool-call";

/// The findings in one answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// The first of them, each destination once.
    pub named: Vec<OutboundReference>,
    /// The number of all findings.
    pub count: u64,
    /// The number of URLs that were replaced by a mark.
    pub removed: u64,
    /// Whether the answer must not be sent further.
    pub blocked: bool,
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
    fn refuse(&mut self) {
        let target = format!("more than {CHANNELS_MAX} texts");
        self.add(OutboundReference {
            kind: Kind::Either.as_str(),
            verdict: ResponseFilterAction::Block.as_str(),
            reason: Uncontrolled::UNREADABLE,
            target,
        });
        self.blocked = true;
    }

    /// Checks that the answer may be sent.
    ///
    /// # Errors
    /// `answer-uncontrolled`.
    pub fn passes(&self) -> Result<(), Refusal> {
        if !self.blocked {
            return Ok(());
        }
        let mut target = "";
        for outbound in &self.named {
            if outbound.verdict == ResponseFilterAction::Block.as_str() {
                target = &outbound.target;
                break;
            }
        }
        Err(Refusal::new(Code::AnswerUncontrolled).because(target))
    }
}

/// The filters of one answer, in the order in which its texts pass them.
pub type ResponseFilters = FilterChain<UrlFilter>;

/// The filter for the URLs in one answer.
pub struct UrlFilter {
    /// By choice and key.
    texts: BTreeMap<u64, BTreeMap<String, Text>>,
    /// The number of paths in all of them.
    count: usize,
    /// Whether a text continued since the last boundary.
    moved: bool,
    bench: AnswerPolicy,
}

/// Evaluates what the scanners find, and collects the findings.
struct AnswerPolicy {
    tables: Arc<Tables>,
    restrictions: TokenRestrictions,
    answers: Answers,
    metrics: Arc<Metrics>,
    /// Whether fenced code blocks are recognised.
    fences: bool,
    findings: Findings,
}

impl UrlFilter {
    /// A filter for an answer to that caller. With `fences`, the answer's texts begin with this
    /// answer, and URLs in fenced code are left unchanged.
    #[must_use]
    pub fn new(
        caller: &CachedToken,
        answers: Answers,
        tables: Arc<Tables>,
        metrics: Arc<Metrics>,
        fences: bool,
    ) -> Self {
        let restrictions = token_restrictions(&caller.verified);
        let bench = AnswerPolicy {
            tables,
            restrictions,
            answers,
            metrics,
            fences,
            findings: Findings::default(),
        };
        Self { texts: BTreeMap::new(), count: 0, moved: false, bench }
    }

    /// The findings so far.
    #[must_use]
    pub const fn findings(&self) -> &Findings {
        &self.bench.findings
    }

    /// The findings.
    #[must_use]
    pub fn into_findings(self) -> Findings {
        self.bench.findings
    }
}

impl TextFilter for UrlFilter {
    /// Filters the next piece of a text, and begins a text at its first piece.
    fn push(&mut self, channel: Channel<'_>, text: &str, out: &mut String) {
        self.moved = true;
        let Self { texts, count, bench, .. } = self;
        let of_choice = texts.entry(channel.choice).or_default();
        let is_known = match of_choice.get(channel.key) {
            Some(text) => text.paths.contains_key(channel.path),
            None => false,
        };
        if !is_known {
            *count += 1;
            // An answer with endless new paths would use unbounded memory, so it is blocked.
            if *count > CHANNELS_MAX {
                bench.findings.refuse();
                return;
            }
            // No fences in array items, because a client may show each item separately.
            let fences = bench.fences && !channel.path.contains(ITEMS);
            of_choice.entry(channel.key.to_owned()).or_default().begin(channel.path, fences);
        }
        if let Some(known) = of_choice.get_mut(channel.key) {
            known.push(channel.path, text, out, bench);
        }
    }

    /// Releases the held text of one channel.
    fn flush(&mut self, channel: Channel<'_>, out: &mut String) {
        let Self { texts, bench, .. } = self;
        if let Some(texts) = texts.get_mut(&channel.choice)
            && let Some(text) = texts.get_mut(channel.key)
        {
            text.flush(out, bench);
        }
    }

    /// Pauses all scanners at a boundary of the answer.
    fn boundary(&mut self) {
        if !std::mem::take(&mut self.moved) {
            return;
        }
        let Self { texts, bench, .. } = self;
        for texts in texts.values_mut() {
            for text in texts.values_mut() {
                // No text is held at a boundary, so there is no output.
                text.flush(&mut String::new(), bench);
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

    fn is_holding(&self) -> bool {
        self.texts.values().any(|texts| texts.values().any(Text::is_holding))
    }
}

/// The texts of one name. Some clients join them wherever they are, and some join only those of one
/// path.
#[derive(Default)]
struct Text {
    /// One scanner for each path.
    paths: BTreeMap<String, Scanner>,
    /// A scanner for all of them in the order of arrival, where there is more than one path.
    joined: Option<Scanner>,
    /// The path of the text that continued since the last boundary.
    current: Option<String>,
}

impl Text {
    /// Begins the text of a new path.
    fn begin(&mut self, path: &str, fences: bool) {
        // Until now there was one path, so its scanner's state is that of the joined text too.
        if self.joined.is_none() {
            self.joined = self.paths.values().next().cloned();
        }
        self.paths.insert(path.to_owned(), Scanner::new(fences));
    }

    /// Filters the next piece of the text at `path`.
    fn push(&mut self, path: &str, text: &str, out: &mut String, bench: &mut AnswerPolicy) {
        let Some(scanner) = self.paths.get_mut(path) else { return };
        if self.current.as_deref() != Some(path) {
            self.current = Some(path.to_owned());
        }
        let Some(joined) = &mut self.joined else {
            scanner.push(text, out, &mut |found| bench.evaluate(found));
            return;
        };
        let mut own = String::with_capacity(text.len());
        scanner.push(text, &mut own, &mut |found| bench.evaluate(found));
        // What the first scanner has passed is scanned again as the joined text: a URL may be split
        // over two paths.
        joined.push(&own, out, &mut |found| bench.judge_again(found));
    }

    /// Releases the held text at a boundary.
    fn flush(&mut self, out: &mut String, bench: &mut AnswerPolicy) {
        let Some(path) = self.current.take() else { return };
        let Some(scanner) = self.paths.get_mut(&path) else { return };
        let mut own = String::new();
        scanner.pause(&mut own, &mut |found| bench.evaluate(found));
        let Some(joined) = &mut self.joined else {
            out.push_str(&own);
            return;
        };
        joined.push(&own, out, &mut |found| bench.judge_again(found));
        joined.pause(out, &mut |found| bench.judge_again(found));
    }

    /// Whether a scanner holds text back that could become a URL.
    fn is_holding(&self) -> bool {
        self.paths.values().chain(&self.joined).any(Scanner::is_holding)
    }
}

impl Tools for UrlFilter {
    /// Whether the config names any tools.
    fn any(&self) -> bool {
        !self.bench.tables.fetch_tools.is_empty()
    }

    /// Whether the answer has been blocked.
    fn ended(&self) -> bool {
        self.bench.findings.blocked
    }

    /// Whether the calls of that tool are evaluated.
    fn judges(&self, tool: &str) -> bool {
        self.bench.tables.fetch_tools.iter().any(|pattern| pattern.is_of(tool))
    }

    /// Evaluates one call; true where it may be sent.
    fn call(&mut self, tool: &str, arguments: Arguments<'_>) -> bool {
        let bench = &mut self.bench;
        // Without a destination that is not controlled, the call passes.
        let Some(call::CallDestination { target, reason }) =
            call::leads(arguments, &bench.tables.policy, &bench.restrictions)
        else {
            return true;
        };
        let verdict = bench.answers.tool_calls;
        bench.metrics.egress("answer", verdict.as_str(), reason);
        let target: String = format!("{target} ({tool})").chars().take(SHOWN_MAX).collect();
        bench.findings.add(OutboundReference {
            kind: TOOL_CALL,
            verdict: verdict.as_str(),
            reason,
            target,
        });
        bench.findings.blocked |= verdict == Called::Block;
        verdict == Called::Report
    }
}

impl AnswerPolicy {
    /// Evaluates a finding in the text of one path.
    fn evaluate(&mut self, found: &Found<'_>) -> Verdict {
        let Some((reply, reason)) = self.replied(found) else { return Verdict::Pass };
        self.noted(found, reply, reason)
    }

    /// Evaluates a finding in the joined text. A finding that stays was recorded before, in the
    /// text of its path.
    fn judge_again(&mut self, found: &Found<'_>) -> Verdict {
        match self.replied(found) {
            None | Some((ResponseFilterAction::Report, _)) => Verdict::Pass,
            Some((reply, reason)) => self.noted(found, reply, reason),
        }
    }

    /// Why a URL is not controlled for one of the `uses`; `None` where it is for all of them.
    fn reason(&self, uses: &[Use], url: &str) -> Option<&'static str> {
        for wanted in uses {
            if let Err(why) = self.tables.policy.evaluate(*wanted, url, &self.restrictions) {
                return Some(why.as_str());
            }
        }
        None
    }

    /// The action for a finding and its reason; `None` where the destination is controlled.
    fn replied(&self, found: &Found<'_>) -> Option<(ResponseFilterAction, &'static str)> {
        let uses: &[Use] = match found.kind {
            Kind::Fetched => &[Use::Media],
            Kind::Clicked => &[Use::Links],
            // The client decides between fetching and opening, so both lists must have it.
            Kind::Either => &[Use::Media, Use::Links],
        };
        let reason = match found.url {
            Ok(url) => self.reason(uses, url)?,
            Err(_) => Uncontrolled::UNREADABLE,
        };
        let reply = match found.kind {
            // Clients show fenced code as text and do not fetch from it.
            _ if found.fenced => ResponseFilterAction::Report,
            Kind::Fetched => self.answers.fetched,
            Kind::Clicked => self.answers.clicked,
            // The stricter of the two actions.
            Kind::Either => self.answers.fetched.max(self.answers.clicked),
        };
        Some((reply, reason))
    }

    /// Records a finding, and returns its effect on the text.
    fn noted(
        &mut self,
        found: &Found<'_>,
        reply: ResponseFilterAction,
        reason: &'static str,
    ) -> Verdict {
        self.metrics.egress("answer", reply.as_str(), reason);
        self.note(found, reply, reason);
        match reply {
            ResponseFilterAction::Report => Verdict::Pass,
            ResponseFilterAction::Strip => Verdict::Strip,
            ResponseFilterAction::Block => Verdict::Block,
        }
    }

    /// Adds a finding to the list and the counts.
    fn note(&mut self, found: &Found<'_>, reply: ResponseFilterAction, reason: &'static str) {
        self.findings.removed += u64::from(reply == ResponseFilterAction::Strip);
        self.findings.blocked |= reply == ResponseFilterAction::Block;
        let target = found.url.unwrap_or_else(|odd| odd);
        let target: String = target.chars().take(SHOWN_MAX).collect();
        self.findings.add(OutboundReference {
            kind: found.kind.as_str(),
            verdict: reply.as_str(),
            reason,
            target,
        });
    }
}
