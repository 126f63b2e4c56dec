//! How the bytes of a stream are cut into events. Each framing has one file; a dialect uses one of them.

pub mod sse;
