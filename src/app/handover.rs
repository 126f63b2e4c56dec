//! A restart without a gap: one process takes over from another (docs/OPERATIONS.md, "Upgrading").
//!
//! ```text
//! successor                                         predecessor
//! config, keys, certificates            hello →
//!                                                   closes the admin socket, lets requests wait,
//!                                                   records `handover`, closes the log
//!                                     ← passed      listeners, the lock's descriptor, counts, open work
//! opens the log, computes the state     ready →     (after 5 s it is killed, and the predecessor
//!                                                   opens its log again)
//!                                     ← go
//! serves                              changes →     from here on the successor is the gateway
//! records for both                    records ↔     drains: outcomes, requests on kept connections,
//!                                                   revocations
//! ```
//!
//! Before `go`, the successor acknowledges no record and answers no request. The predecessor resumes
//! only when the successor is dead. So there is only one writer at any time. Both processes have the
//! open file of the lock, so it is never free in between.

mod give;
mod link;
mod process;
mod take;
mod wire;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) use give::Giver;
pub use give::Program;
pub(super) use link::{Predecessor, Successor, serve_requests};
pub use take::{Over, TakeOver, ask};
pub(super) use wire::Published;
pub use wire::{Upgraded, Word, receive, send};

/// How long a successor may take from the moment at which the predecessor has stopped.
const READY_MAX: Duration = Duration::from_secs(5);
/// How long a process waits for an answer of the other one, if no work is paused meanwhile.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// The version of the protocol between the two.
const PROTOCOL: u32 = 2;

/// The socket at which a running gateway can be asked to hand over.
#[must_use]
pub fn socket(data: &Path) -> PathBuf {
    data.join("handover.sock")
}

/// The steps of a take-over at which a test can let a process die, or hang.
#[cfg(feature = "failpoints")]
fn step(name: &str) {
    use rustix::process::Signal;
    // Like `kill -9`, and not like a panic, which is caught.
    for (variable, signal) in
        [("TOKEN_SHIELD_DIES_AT", Signal::KILL), ("TOKEN_SHIELD_HANGS_AT", Signal::STOP)]
    {
        if std::env::var(variable).is_ok_and(|at| at == name) {
            let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
            // The signal may reach another thread first. This one must not run ahead.
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }
}

/// The steps of a take-over at which a test can let a process die or hang: none in this build.
#[cfg(not(feature = "failpoints"))]
const fn step(_: &str) {}
