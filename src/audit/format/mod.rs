//! The formats of the log: pure functions of bytes, and the decisions that depend on nothing else.

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
