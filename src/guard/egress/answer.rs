//! Door 2: what an answer would make its reader fetch or open. Every text of an answer passes a [`Scanner`] of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::audit::request::Led;
use crate::guard::authenticate::Remembered;
use crate::guard::egress::call;
use crate::guard::egress::judge::{Narrowing, Uncontrolled, Use};
use crate::guard::egress::request::narrowing;
use crate::guard::egress::text::{Found, Kind, Scanner, Verdict};
use crate::guard::settings::{Answers, Called, Reply};
use crate::guard::table::Tables;
use crate::metrics::Metrics;
use crate::model::prose::{Channel, Prose};
use crate::model::tools::{Arguments, Tools};
use crate::refusal::{Code, Refusal};

/// Findings that are named one by one.
const NAMED_MAX: usize = 16;
/// Texts of one answer that have filters of their own.
const CHANNELS_MAX: usize = 256;
/// Bytes of a destination that is named.
const SHOWN_MAX: usize = 256;
/// The kind of what a tool is called with.
const CALLED: &str = "called";

/// What was found in one answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// The first of them, each destination once.
    pub named: Vec<Led>,
    /// All of them.
    pub count: u64,
    /// Those that gave way.
    pub removed: u64,
    /// Whether the answer must not go on.
    pub blocked: bool,
}

impl Findings {
    fn add(&mut self, led: Led) {
        self.count += 1;
        if self.named.len() < NAMED_MAX && !self.named.contains(&led) {
            self.named.push(led);
        }
    }

    /// That the answer may go on.
    ///
    /// # Errors
    /// `answer-uncontrolled`.
    pub fn passes(&self) -> Result<(), Refusal> {
        let target = self.named.iter().find(|led| led.verdict == Reply::Block.as_str()).map_or("", |led| led.target.as_str());
        if self.blocked { Err(Refusal::new(Code::AnswerUncontrolled).because(target)) } else { Ok(()) }
    }
}

/// The filter of one answer.
pub struct Filter {
    /// By choice and key.
    scanners: BTreeMap<u64, BTreeMap<String, Scanner>>,
    count: usize,
    /// A text has gone on since all of them were paused.
    moved: bool,
    bench: Bench,
}

/// Who judges what the scanners find.
struct Bench {
    tables: Arc<Tables>,
    narrowing: Narrowing,
    answers: Answers,
    metrics: Arc<Metrics>,
    fences: bool,
    findings: Findings,
}

impl Filter {
    /// A filter for an answer to that caller. `fences` says whether the answer's texts begin with it: fenced code is left alone then.
    #[must_use]
    pub fn new((caller, answers): (&Remembered, Answers), tables: Arc<Tables>, metrics: Arc<Metrics>, fences: bool) -> Self {
        let narrowing = narrowing(&caller.verified);
        let bench = Bench { tables, narrowing, answers, metrics, fences, findings: Findings::default() };
        Self { scanners: BTreeMap::new(), count: 0, moved: false, bench }
    }

    /// What was found so far.
    #[must_use]
    pub const fn findings(&self) -> &Findings {
        &self.bench.findings
    }

    /// What was found.
    #[must_use]
    pub fn into_findings(self) -> Findings {
        self.bench.findings
    }
}

impl Prose for Filter {
    fn piece(&mut self, channel: Channel<'_>, text: &str, out: &mut String) {
        self.moved = true;
        let Self { scanners, count, bench, .. } = self;
        let of_choice = scanners.entry(channel.choice).or_default();
        let known = of_choice.contains_key(channel.key);
        // An answer of more texts than any server writes has one filter a choice for what is beyond.
        let beyond = !known && *count >= CHANNELS_MAX;
        let key = if beyond { "" } else { channel.key };
        if !known && !of_choice.contains_key(key) {
            *count += 1;
            of_choice.insert(key.to_owned(), Scanner::new(bench.fences));
        }
        let Some(scanner) = of_choice.get_mut(key) else { return };
        scanner.push(text, out, &mut |found| bench.judge(found));
        if beyond {
            scanner.pause(out, &mut |found| bench.judge(found));
        }
    }

    fn pause(&mut self, channel: Channel<'_>, out: &mut String) {
        let Self { scanners, bench, .. } = self;
        if let Some(scanner) = scanners.get_mut(&channel.choice).and_then(|scanners| scanners.get_mut(channel.key)) {
            scanner.pause(out, &mut |found| bench.judge(found));
        }
    }

    fn part(&mut self) {
        if !std::mem::take(&mut self.moved) {
            return;
        }
        let Self { scanners, bench, .. } = self;
        let scanners = scanners.values_mut().flat_map(BTreeMap::values_mut);
        scanners.for_each(|scanner| scanner.pause(&mut String::new(), &mut |found| bench.judge(found)));
    }

    fn holding(&self, choice: Option<u64>) -> Vec<(u64, String)> {
        let asked = self.scanners.iter().filter(|(own, _)| choice.is_none_or(|choice| choice == **own));
        let all = asked.flat_map(|(own, scanners)| scanners.iter().map(move |(key, scanner)| (*own, key, scanner)));
        all.filter(|(.., scanner)| scanner.is_holding()).map(|(own, key, _)| (own, key.clone())).collect()
    }
}

impl Tools for Filter {
    fn any(&self) -> bool {
        !self.bench.tables.fetch_tools.is_empty()
    }

    fn ended(&self) -> bool {
        self.bench.findings.blocked
    }

    fn judges(&self, tool: &str) -> bool {
        self.bench.tables.fetch_tools.iter().any(|pattern| pattern.is_of(tool))
    }

    fn call(&mut self, tool: &str, arguments: Arguments<'_>) -> bool {
        let bench = &mut self.bench;
        let Some(call::Led { target, reason }) = call::leads(arguments, &bench.tables.judge, &bench.narrowing) else {
            return true;
        };
        let verdict = bench.answers.called;
        bench.metrics.egress("answer", verdict.as_str(), reason);
        let target: String = format!("{target} ({tool})").chars().take(SHOWN_MAX).collect();
        bench.findings.add(Led { kind: CALLED, verdict: verdict.as_str(), reason, target });
        bench.findings.blocked |= verdict == Called::Block;
        verdict == Called::Report
    }
}

impl Bench {
    fn judge(&mut self, found: &Found<'_>) -> Verdict {
        let uses: &[Use] = match found.kind {
            Kind::Fetched => &[Use::Media],
            Kind::Clicked => &[Use::Links],
            Kind::Either => &[Use::Media, Use::Links],
        };
        let judged = |url| uses.iter().try_for_each(|wanted| self.tables.judge.judge(*wanted, url, &self.narrowing).map(|_| ()));
        let reason = match found.url.map(judged) {
            Ok(Ok(())) => return Verdict::Pass,
            Ok(Err(why)) => why.as_str(),
            Err(_) => Uncontrolled::UNREADABLE,
        };
        let reply = match found.kind {
            _ if found.fenced => Reply::Report,
            Kind::Fetched => self.answers.fetched,
            Kind::Clicked => self.answers.clicked,
            Kind::Either => self.answers.fetched.max(self.answers.clicked),
        };
        self.metrics.egress("answer", reply.as_str(), reason);
        self.note(found, reply, reason);
        match reply {
            Reply::Report => Verdict::Pass,
            Reply::Strip => Verdict::Strip,
            Reply::Block => Verdict::Block,
        }
    }

    fn note(&mut self, found: &Found<'_>, reply: Reply, reason: &'static str) {
        self.findings.removed += u64::from(reply == Reply::Strip);
        self.findings.blocked |= reply == Reply::Block;
        let target = found.url.unwrap_or_else(|odd| odd);
        let target: String = target.chars().take(SHOWN_MAX).collect();
        self.findings.add(Led { kind: found.kind.as_str(), verdict: reply.as_str(), reason, target });
    }
}
