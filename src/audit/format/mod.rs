//! The formats of the log: pure functions of bytes, without files, threads or clocks.

pub mod envelope;
pub mod event;
pub mod fault;
pub mod head;
pub mod journal;
pub mod key;
pub mod note;
pub(super) mod payload;
pub mod record;
pub mod request;
