//! The two ways between a successor and its predecessor, while that one drains. Both are HTTP/2 over a pair of sockets that nobody
//! else has: one for what is to be recorded and who was revoked, one for requests on connections that the predecessor has kept.

mod predecessor;
mod successor;

pub(in crate::app) use predecessor::{Predecessor, requests as serve_requests};
pub(in crate::app) use successor::{Successor, Ways};

use serde::{Deserialize, Serialize};

use super::wire::PassedRecord;

/// Where a record is asked for.
const RECORD: &str = "/record";
/// Where work in flight is told.
const IN_FLIGHT: &str = "/in-flight";
/// Where changes of the books are heard.
const CHANGES: &str = "/changes";
/// Requests at once on one way: as many as a gateway may have in flight.
const AT_ONCE: u32 = 1 << 20;
/// Bytes on their way on one way, all requests together: as many as HTTP/2 can say (RFC 9113 section 6.9.1), so that those who do not
/// read take nothing from those who do.
const WINDOW: u32 = (1 << 31) - 1;
/// Bytes on their way for one request.
const STREAM_WINDOW: u32 = 64 << 10;

/// What is to be recorded, and what in its place should nothing more be heard of it.
#[derive(Debug, Serialize, Deserialize)]
struct RecordRequest {
    record: PassedRecord,
    unknown: Option<PassedRecord>,
}

/// What became of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Recorded {
    /// It is durable: the log that it is in, its index there, and its time in milliseconds since 1970.
    Durable(String, u64, i64),
    /// The disk is full.
    Low,
    /// Too much waits.
    Busy,
    /// It is not, and may never be.
    No(String),
}
