//! The two connections between a successor and its predecessor, while the predecessor drains. Each
//! is HTTP/2 over a pair of sockets that only these two processes have. One carries records and
//! changes of the state. The other carries requests that arrive on connections which the
//! predecessor has kept.

mod predecessor;
mod successor;

pub(in crate::app) use predecessor::{Predecessor, requests as serve_requests};
pub(in crate::app) use successor::{Successor, Ways};

use serde::{Deserialize, Serialize};

use super::wire::PassedRecord;

/// The path to which the predecessor sends a record.
const RECORD: &str = "/record";
/// The path to which the predecessor reports its work in flight.
const IN_FLIGHT: &str = "/in-flight";
/// The path from which the predecessor reads changes of the state.
const CHANGES: &str = "/changes";
/// The maximum of concurrent requests on one connection: as many as a gateway may have in flight.
const AT_ONCE: u32 = 1 << 20;
/// The flow-control window of one connection in bytes, for all requests together. It is the maximum
/// of HTTP/2 (RFC 9113 section 6.9.1), so that a slow client takes no window from the others.
const WINDOW: u32 = (1 << 31) - 1;
/// The flow-control window of one request in bytes.
const STREAM_WINDOW: u32 = 64 << 10;

/// A record to append. `unknown` is the outcome to record if the predecessor then ends without a
/// report.
#[derive(Debug, Serialize, Deserialize)]
struct RecordRequest {
    record: PassedRecord,
    unknown: Option<PassedRecord>,
}

/// The result of an append.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Recorded {
    /// The record is durable. The fields are the log's origin, the record's index in it, and its
    /// time in milliseconds since 1970.
    Durable(String, u64, i64),
    /// The disk is full.
    Low,
    /// The queue of the log is full.
    Busy,
    /// The record is not durable, and may never be. The field is the reason.
    No(String),
}
