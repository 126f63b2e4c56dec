//! Fuzz target: the response filter.
#![no_main]

#[path = "../egress_oracles.rs"]
mod oracles;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| oracles::filter(bytes));
