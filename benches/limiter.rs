//! Benchmark of the limits of a request: its rates, its slots in flight, and a refusal. It also
//! measures the effect of a large fleet.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

use token_shield::clock::{ManualClock, SystemClock, Timestamp};
use token_shield::guard::gcra::{Limit, Period};
use token_shield::guard::limiter::{Ask, Limiter, SubjectKind};

/// A rate that no benchmark reaches, in requests.
const WIDE: u64 = 4_000_000_000;

/// The checks for a request of `agent`: its class's two rates, its principal and its model, the
/// narrowest first.
fn asks(limiter: &Limiter, agent: &str) -> Vec<Ask> {
    let ask = |kind, name: &str, limits| Ask { subject: limiter.subject(kind, name), limits };
    let (second, minute) = (
        Limit::new(Period::Second, WIDE, Some(WIDE)),
        Limit::new(Period::Minute, WIDE, Some(WIDE)),
    );
    vec![
        ask(SubjectKind::Agent, agent, vec![second, minute]),
        ask(SubjectKind::Principal, "team:research", vec![minute]),
        ask(SubjectKind::Model, "llama-3.1-8b", vec![minute]),
    ]
}

fn rates(bench: &mut Criterion) {
    let limiter = Limiter::new(Arc::new(SystemClock::start()));
    let whole = asks(&limiter, "research/summarizer");
    bench.bench_function("limiter/agent, two rates", |run| {
        run.iter(|| limiter.take(black_box(&whole[..1])).is_ok())
    });
    bench.bench_function("limiter/agent, principal and model", |run| {
        run.iter(|| limiter.take(black_box(&whole)).is_ok())
    });

    let still = Limiter::new(Arc::new(ManualClock::at(Timestamp(0))));
    let mut full = asks(&still, "research/summarizer");
    // The last limit refuses. The counts of the limits before it must be returned.
    full[2].limits = vec![Limit::new(Period::Minute, 1, Some(1))];
    assert!(still.take(&full).is_ok(), "the one request that passes");
    assert!(still.take(&full).is_err(), "and every later one is refused");
    bench.bench_function("limiter/refused by the model", |run| {
        run.iter(|| still.take(black_box(&full)).is_ok())
    });
}

fn fleet(bench: &mut Criterion) {
    let limiter = Limiter::new(Arc::new(SystemClock::start()));
    let fleet: Vec<_> =
        (0..100_000).map(|number| asks(&limiter, &format!("fleet/agent-{number}"))).collect();
    for asks in &fleet {
        assert!(limiter.take(asks).is_ok(), "nothing is near its limit");
    }
    let mut next = (0..fleet.len()).cycle();
    bench.bench_function("limiter/agent, principal and model; 100,000 agents in turn", |run| {
        run.iter_batched(
            || next.next().map_or(&fleet[0], |place| &fleet[place]),
            |asks| limiter.take(black_box(asks)).is_ok(),
            BatchSize::SmallInput,
        );
    });
}

fn in_flight(bench: &mut Criterion) {
    let limiter = Arc::new(Limiter::new(Arc::new(SystemClock::start())));
    let place = |kind, name| (limiter.subject(kind, name), 64);
    let places = [
        place(SubjectKind::Agent, "research/summarizer"),
        place(SubjectKind::Model, "llama-3.1-8b"),
        place(SubjectKind::Upstream, "vllm-a"),
    ];
    bench.bench_function("limiter/three places in flight, taken and given back", |run| {
        run.iter(|| limiter.enter(black_box(&places)).is_ok());
    });
}

criterion_group!(benches, rates, fleet, in_flight);
criterion_main!(benches);
