//! Functions that read a log's folder: they verify, prove, copy and export its content. An
//! auditor's program needs only these and the formats.

pub mod copy;
pub mod export;
pub mod reader;
pub mod receipt;
pub mod replay;
pub mod tiles;
pub mod verify;
