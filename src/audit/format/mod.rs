//! The formats of the log: pure functions of bytes, and the decisions that depend on nothing else.

pub mod event;
pub mod fault;
pub mod head;
pub(super) mod inside;
pub mod journal;
pub mod key;
pub mod note;
pub mod outside;
pub mod record;
pub mod request;
