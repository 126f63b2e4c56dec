//! What reads a log's folder, and proves and copies what is in it. An auditor's program is built of this and the formats.

pub mod copy;
pub mod export;
pub mod reader;
pub mod receipt;
pub mod replay;
pub mod tiles;
pub mod verify;
