//! All integration tests, in one binary.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot set up fails")]

mod audit;
mod checks;
mod clock;
mod compile_fail;
mod corpus;
mod egress;
mod entry;
mod faults;
mod fetch;
mod filter;
mod harness;
mod hostile;
mod journal;
mod kill;
mod live;
mod model;
mod prune;
mod refusals;
mod replay;
mod shipped;
mod standing;
mod tamper;
mod tls;
mod token;
mod turn;
mod vectors;
