//! A restart without a gap: one process takes over from another (docs/OPERATIONS.md, "Upgrading").
//!
//! ```text
//! successor                                         predecessor
//! config, keys, certificates            hello →
//!                                                   closes the admin socket, lets requests wait,
//!                                                   records `handover`, closes the log
//!                                     ← passed      listeners, the lock's descriptor, counts,
//!                                                   open work
//! opens the log, computes the state     ready →     (after 5 s it is killed, and the predecessor
//!                                                   opens its log again)
//!                                     ← go
//! serves                              changes →     from here on the successor is the gateway
//! records for both                    records ↔     drains: outcomes, requests on kept
//!                                                   connections, revocations
//! ```
//!
//! Before `go`, the successor acknowledges no record and answers no request. The predecessor
//! resumes only after the successor is dead. So there is only one writer at any time. Both
//! processes hold the open file of the lock, so the lock is never free in between.

mod give;
mod link;
mod process;
mod reopen;
mod take;
mod upgrade;
mod wire;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) use give::Giver;
pub(super) use link::{Predecessor, Successor, serve_requests};
pub use process::Program;
pub use take::{Over, TakeOver, ask};
pub(super) use wire::Published;
pub use wire::{Upgraded, Word, receive, send};

/// The time that a successor has to become ready, from the moment at which the predecessor stops.
const READY_MAX: Duration = Duration::from_secs(5);
/// The time that a process waits for the other one's answer while no work is paused.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// The version of the protocol between the two processes.
const PROTOCOL: u32 = 2;

/// The path of the socket at which a successor asks a running gateway to hand over.
#[must_use]
pub fn socket(data: &Path) -> PathBuf {
    data.join("handover.sock")
}

/// A step of a take-over at which a test can make the process die or hang.
#[cfg(feature = "failpoints")]
fn step(name: &str) {
    use rustix::process::Signal;
    // SIGKILL ends the process like `kill -9`. A panic would be caught.
    for (variable, signal) in
        [("TOKEN_SHIELD_DIES_AT", Signal::KILL), ("TOKEN_SHIELD_HANGS_AT", Signal::STOP)]
    {
        if std::env::var(variable).is_ok_and(|at| at == name) {
            let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
            // The signal may reach another thread first. This thread must not continue meanwhile.
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }
}

/// A step of a take-over. It has no effect in a build without failpoints.
#[cfg(not(feature = "failpoints"))]
const fn step(_: &str) {}
