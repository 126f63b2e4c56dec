//! Fuzz target: the parser of JWK Sets.
#![no_main]

#[path = "../oracles.rs"]
mod oracles;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| oracles::jwks(bytes));
