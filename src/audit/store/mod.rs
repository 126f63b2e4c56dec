//! The parts that change the log: the writer, the recorder of requests, the record keys, retention.
//!
//! Without the feature `gateway`, only `vault` is built: the offline commands read the record keys.

#[cfg(feature = "gateway")]
pub mod entry;
#[cfg(feature = "gateway")]
mod locked;
#[cfg(feature = "gateway")]
pub mod log;
#[cfg(feature = "gateway")]
pub mod retain;
pub mod vault;
