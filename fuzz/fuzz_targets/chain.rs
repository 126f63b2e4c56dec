//! Fuzz target: chains of delegated tokens.
#![no_main]

#[path = "../oracles.rs"]
mod oracles;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| { oracles::chain(bytes); });
