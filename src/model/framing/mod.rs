//! Framing of streams: how bytes are split into events. Each framing has one file; a dialect uses
//! one of them.

pub mod sse;
