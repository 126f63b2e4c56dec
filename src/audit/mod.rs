//! The audit log: what happened, durable before it takes effect (docs/AUDIT.md).
//!
//! `record`, `journal` and `head` are formats: pure functions of bytes. `log` is the pen, the one writer.

pub mod copy;
#[cfg(feature = "gateway")]
pub mod entry;
pub mod event;
pub mod export;
pub mod head;
mod inside;
pub mod journal;
#[cfg(feature = "gateway")]
pub mod log;
pub mod note;
pub mod outside;
pub mod reader;
pub mod receipt;
pub mod record;
pub mod replay;
pub mod request;
#[cfg(feature = "gateway")]
pub mod retain;
pub mod tiles;
pub mod vault;
pub mod verify;
