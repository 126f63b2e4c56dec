//! Benchmark of the egress filters: evaluation of a URL, filter of a text, and both filters of a
//! whole exchange.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program that measures takes the time and prints it"
)]

use std::hint::black_box;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

use token_shield::guard::egress::policy::{
    EgressPolicy, ListEntry, Lists, SelfEndpoints, TokenRestrictions, Use,
};
use token_shield::guard::egress::rendered::{LoadUse, RenderedText, Scope, Verdict};
use token_shield::model::answer::StreamFilter;
use token_shield::model::response_text::{Channel, ChannelId, StreamTexts, TextFilter, whole};
use token_shield::model::tools::Tools;
use token_shield::model::{BodyRules, Operation, Profile, UnknownFields, read};

const PROSE: &str = "The weather in the mountains turns quickly, so pack for rain even where the \
    morning is clear. Start before seven, take \
    the left path behind the chapel: it is longer, and shaded. There's water at two places (the \
    second one dries up in August), and \
    nothing to eat before the hut.\n\nFrom there you see both valleys. \"It is worth it\", \
    everybody says; and it is.\n\n";
const LINKS: &str = "See [the map](https://docs.example/map) and ![a \
    picture](https://evil.example/x.png?d=1), or https://docs.example.\n\n";

/// A text with a high cost per byte. Each occurrence is changed.
const HOSTILE: &str = "![](//@)";

const EVENT: &str = "data: \
    {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\
    \"choices\":[{\"index\":0,\"delta\":{\"content\":\" mountains\"},\"finish_reason\":null}]}\n\
    \n";
/// The number of streams whose first event is timed.
const STREAMS: usize = 100_000;
/// The bytes that are written between two streams. They replace the content of the processor's
/// caches.
const COLD: usize = 2 << 20;

fn policy() -> EgressPolicy {
    let entries = |names: &[&str]| {
        names
            .iter()
            .map(|name| name.parse::<ListEntry>().unwrap_or_else(|why| panic!("{why}")))
            .collect()
    };
    let lists = Lists {
        links: entries(&["docs.example", "*.wiki.example", "a.example:8443"]),
        ..Lists::default()
    };
    EgressPolicy::new(lists, SelfEndpoints::default())
}

/// The filter of one text, as in an answer.
struct Door<'j> {
    policy: &'j EgressPolicy,
    text: RenderedText,
}

impl<'j> Door<'j> {
    fn new(policy: &'j EgressPolicy) -> Self {
        Self { policy, text: RenderedText::new(Scope::Loads) }
    }

    fn push(&mut self, text: &str, out: &mut String) {
        let Self { policy, text: filter } = self;
        filter.push(text, out, &mut |load_use, url| judge(policy, load_use, url));
    }
}

/// The verdict of the policy. Links are only reported.
fn judge(policy: &EgressPolicy, load_use: LoadUse, url: Result<&str, &str>) -> Verdict {
    let narrowing = TokenRestrictions::default();
    match url.map(|url| policy.evaluate(Use::Links, url, &narrowing)) {
        Ok(Ok(_)) => Verdict::Pass,
        Ok(Err(_)) | Err(_) if load_use == LoadUse::Linked => Verdict::Pass,
        Ok(Err(_)) | Err(_) => Verdict::Strip,
    }
}

impl Tools for Door<'_> {}

impl TextFilter for Door<'_> {
    fn push(&mut self, _: Channel<'_>, text: &str, out: &mut String) {
        self.push(text, out);
    }

    fn flush(&mut self, _: Channel<'_>, out: &mut String) {
        let policy = self.policy;
        self.text.pause(out, &mut |load_use, url| judge(policy, load_use, url));
    }

    fn boundary(&mut self) {}

    fn holding(&self, _: Option<u64>) -> Vec<ChannelId> {
        Vec::new()
    }
}

fn egress(bench: &mut Criterion) {
    let mut group = bench.benchmark_group("egress");
    let (policy, narrowing) = (policy(), TokenRestrictions::default());
    group.bench_function("a listed URL judged", |run| {
        run.iter(|| {
            policy
                .evaluate(Use::Links, black_box("https://docs.example/a/b?c=d"), &narrowing)
                .is_ok()
        });
    });
    for (name, text) in [
        ("text without links", PROSE.repeat(3_000)),
        ("text with links", format!("{PROSE}{LINKS}").repeat(2_000)),
        ("nothing but what is changed", HOSTILE.repeat(100_000)),
    ] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(BenchmarkId::new("filter", name), |run| {
            run.iter(|| {
                let mut out = String::with_capacity(text.len() + 64);
                Door::new(&policy).push(black_box(&text), &mut out);
                out.len()
            });
        });
    }
    let text = PROSE.repeat(2);
    let answer = format!(
        concat!(
            r#"{{"id":"c","object":"chat.completion","created":1,"model":"m","#,
            r#""choices":[{{"index":0,"message":{{"role":"assistant","#,
            r#""content":{text:?}}},"finish_reason":"stop"}}],"#,
            r#""usage":{{"prompt_tokens":9,"completion_tokens":9}}}}"#
        ),
        text = text
    );
    let profile = Profile::named("vllm").unwrap_or_else(|| panic!("a profile"));
    let asked = format!(
        r#"{{"model":"m","messages":[{{"role":"user","content":{:?}}}]}}"#,
        PROSE.repeat(5)
    );
    let terms =
        BodyRules { profile: &profile, unknown_fields: UnknownFields::Refuse, model_upstream: "m" };
    let call =
        read(Operation::ChatCompletions, asked.as_bytes()).and_then(|read| read.understand(&terms));
    let call = call.unwrap_or_else(|no| panic!("{no}"));
    // The request filter reads what the parser of the body has found. This measures it without
    // findings, together with a filter of a whole answer.
    group.bench_function("doors 1 and 2, nothing found", |run| {
        run.iter(|| {
            let through = black_box(&call).external_references().is_empty();
            through && whole(black_box(answer.as_bytes()), &mut Door::new(&policy)).is_ok()
        });
    });
    group.throughput(Throughput::Bytes(answer.len() as u64));
    group.bench_function(
        BenchmarkId::new("whole answer", format!("{} bytes", answer.len())),
        |run| {
            run.iter(|| whole(black_box(answer.as_bytes()), &mut Door::new(&policy)).is_ok());
        },
    );
    let (mut stream, mut door, mut out) = (StreamTexts::default(), Door::new(&policy), Vec::new());
    group.throughput(Throughput::Elements(1));
    group.bench_function("event of a stream", |run| {
        run.iter(|| {
            out.clear();
            stream.event(black_box(EVENT.as_bytes()), &mut door, &mut out).is_ok()
        });
    });
    group.finish();
}

/// Compares the time of a stream's first event through a new filter with a plain copy. The
/// difference is what the response filter adds to the time to the first token.
fn first_event(_: &mut Criterion) {
    let policy = policy();
    let mut cold = vec![0_u8; COLD];
    let (mut filtered, mut copied) = (Vec::with_capacity(STREAMS), Vec::with_capacity(STREAMS));
    for turn in 0..STREAMS {
        cold.iter_mut().step_by(64).for_each(|byte| *byte = byte.wrapping_add(turn as u8));
        let began = Instant::now();
        let mut filter = StreamFilter::new(Operation::ChatCompletions, true, Door::new(&policy));
        let mut out = Vec::with_capacity(EVENT.len());
        let passed = filter.push(black_box(EVENT.as_bytes()), &mut out).is_ok();
        filtered.push(began.elapsed());
        assert!(passed && out == EVENT.as_bytes(), "the event came out at once, as it was");
        let began = Instant::now();
        black_box(black_box(EVENT.as_bytes()).to_vec());
        copied.push(began.elapsed());
    }
    for (name, times) in [("filtered", &mut filtered), ("copied", &mut copied)] {
        times.sort_unstable();
        let at = |share: usize| times[STREAMS * share / 1000];
        println!(
            "egress/first event of a stream, cold, {name}: p50 {:?}, p99 {:?}, p99.9 {:?}",
            at(500),
            at(990),
            at(999)
        );
    }
}

criterion_group!(benches, egress, first_event);
criterion_main!(benches);
