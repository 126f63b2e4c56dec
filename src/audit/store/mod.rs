//! What changes the log: its writer, the recorder of requests, the record keys, and retention.
//!
//! Only `vault` is built without the feature `gateway`: the offline commands read the record keys.

#[cfg(feature = "gateway")]
pub mod entry;
#[cfg(feature = "gateway")]
pub mod log;
#[cfg(feature = "gateway")]
pub mod retain;
pub mod vault;
