//! The audit log: what happened, durable before it takes effect (docs/AUDIT.md).
//!
//! | folder | floor | what |
//! | --- | --- | --- |
//! | `format/` | 1 | the bytes: records, events, batches, heads, checkpoints. Pure functions: no file, no thread |
//! | `read/` | 1 | readers of a log's folder: tiles, verification, replay, receipts, copies, exports. No file of the log changes |
//! | `store/` | 3 | the writer, the recorder of requests, the record keys, retention |
//!
//! `store/` may use `read/`, and both may use `format/`. `read/` never uses `store/`, and `format/` uses neither. No two files
//! of these folders use each other, directly or through others. `tests/architecture/floors.rs` enforces the order of the folders.

pub mod format;
pub mod read;
pub mod store;
