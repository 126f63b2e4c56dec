//! All integration tests, in one binary.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot set up fails")]

mod answers;
mod audit;
mod checks;
mod clock;
mod compile_fail;
mod corpus;
mod egress;
mod entry;
mod faults;
mod fetch;
mod fields;
mod filter;
mod format;
mod harness;
mod hostile;
mod journal;
mod kill;
mod listed;
mod live;
mod model;
mod prune;
mod rates;
mod refusals;
mod replay;
mod shipped;
mod standing;
mod tamper;
mod tls;
mod token;
mod turn;
mod vectors;
