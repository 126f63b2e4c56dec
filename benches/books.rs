//! Benchmark of the registry with 1, 1,000 and 1,000,000 handles or revoked tokens. It measures the
//! time of a lookup and the memory of each entry.
//!
//! Memory is the growth of the resident set. A registry lives until the end, so that none reuses
//! freed memory of another one.
#![allow(clippy::print_stdout, reason = "this is where figures are printed")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

use token_shield::audit::format::event::Event;
use token_shield::audit::format::record::Record;
use token_shield::clock::Timestamp;
use token_shield::crypto::sha256;
use token_shield::id::{AgentName, HandleId, Principal, TokenId};
use token_shield::registry::Registry;
use token_shield::token::handle;

/// The bytes of a token in a registered handle, signed with Ed25519 and with ML-DSA-65.
const TOKENS: [(&str, usize); 2] = [("Ed25519", 900), ("ML-DSA-65", 5_200)];
const SIZES: [u32; 3] = [1, 1_000, 1_000_000];

/// The resident memory of this process, in bytes (proc(5): second field of `statm`, in pages).
fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split_whitespace().nth(1).and_then(|count| count.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// Applies an event to the registry.
fn seal(registry: &Registry, event: Event) {
    registry.apply(&Record { at: Timestamp(1_790_000_000_000), by: None, event });
}

fn agent(number: u32) -> AgentName {
    format!("fleet/agent-{number}").parse().unwrap_or_else(|fault| panic!("a name: {fault}"))
}

fn own_principal() -> Principal {
    "user:ada".parse().unwrap_or_else(|fault| panic!("a principal: {fault}"))
}

fn name(number: u32) -> String {
    format!("ts_{number:043}")
}

fn token(number: u32) -> TokenId {
    TokenId(sha256(&number.to_le_bytes()))
}

fn principal() -> token_shield::id::Principal {
    "team:bench".parse().unwrap_or_else(|_| std::process::abort())
}

fn handles(bench: &mut Criterion) {
    for (kind, bytes) in TOKENS {
        let registry: &'static Registry = Box::leak(Box::new(Registry::new()));
        let (before, text) = (resident_bytes(), "x".repeat(bytes));
        let mut known = 0;
        for size in SIZES {
            for number in known..size {
                let id = handle::id(&name(number)).unwrap_or(HandleId([0; 32]));
                let set = Event::HandleSet {
                    handle: id,
                    token: text.clone(),
                    id: token(number),
                    agent: agent(number),
                    principal: principal(),
                    until: None,
                };
                seal(registry, set);
            }
            known = size;
            let mut next = (0..size).cycle().step_by(7_919);
            bench.bench_function(
                &format!("books/handle looked up, {size} {kind} handles"),
                |run| {
                    run.iter_batched(
                        || name(next.next().unwrap_or(0)),
                        |name| {
                            handle::id(black_box(&name))
                                .and_then(|id| registry.handle(&id))
                                .is_some_and(|row| row.revoked.is_none())
                        },
                        BatchSize::SmallInput,
                    );
                },
            );
        }
        let each = resident_bytes().saturating_sub(before) / u64::from(known);
        println!(
            "books/memory: {known} handles for {kind} tokens of {bytes} bytes take {each} bytes \
                each"
        );
    }
}

fn revocations(bench: &mut Criterion) {
    let registry: &'static Registry = Box::leak(Box::new(Registry::new()));
    let before = resident_bytes();
    let mut known = 0;
    for size in SIZES {
        for number in known..size {
            let jti = format!("01JB{number:022}");
            seal(
                registry,
                Event::TokenRevoked {
                    token: token(number),
                    jti,
                    agent: agent(number),
                    reason: "lost".to_owned(),
                },
            );
        }
        known = size;
        let (mut next, own) = ((0..size).cycle().step_by(7_919), agent(0));
        let principal = own_principal();
        bench.bench_function(&format!("books/standing asked, {size} revoked tokens"), |run| {
            run.iter_batched(
                || token(next.next().unwrap_or(0)),
                |token| registry.may_act(black_box(&own), &principal, [&token]).is_err(),
                BatchSize::SmallInput,
            );
        });
        let unknown = token(u32::MAX);
        bench.bench_function(
            &format!("books/standing of a good token, {size} revoked ones"),
            |run| {
                run.iter(|| registry.may_act(black_box(&own), &principal, [&unknown]).is_ok());
            },
        );
    }
    let each = resident_bytes().saturating_sub(before) / u64::from(known);
    println!("books/memory: {known} revoked tokens take {each} bytes each");
}

criterion_group!(benches, revocations, handles);
criterion_main!(benches);
