//! Fuzz target: the parser and verifier of tokens.
#![no_main]

#[path = "../oracles.rs"]
mod oracles;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| oracles::jws(bytes));
