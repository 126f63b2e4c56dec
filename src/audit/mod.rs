//! The audit log: each event is durable before it takes effect (docs/AUDIT.md).
//!
//! | folder | floor | content |
//! | --- | --- | --- |
//! | `format/` | 1 | bytes of records, batches, heads, checkpoints; pure functions without I/O |
//! | `read/` | 1 | tiles, verification, replay, receipts, copies, exports; never writes the log |
//! | `store/` | 3 | the writer, the recorder of requests, the record keys, retention |
//!
//! `store/` may use `read/`, and both may use `format/`. `read/` never uses `store/`. `format/`
//! uses neither. The files of these folders have no dependency cycle, direct or indirect.
//! `tests/architecture/floors.rs` enforces the order of the folders.

pub mod format;
pub mod read;
pub mod store;
