//! A restart without a gap: one process goes on where another one is (docs/OPERATIONS.md "Upgrading").
//!
//! ```text
//! successor                                         predecessor
//! config, keys, certificates            hello →
//!                                                   operators' doors closed, requests wait, `handover` recorded, log closed
//!                                     ← passed      listeners, the lock's descriptor, what was counted, what is open
//! log opened, books folded              ready →     (within 5 s, or it is killed, and the predecessor opens its log again)
//!                                     ← go
//! serves                              changes →     from here on the successor is the gateway
//! records for both                    records ↔     drains: outcomes, requests on kept connections, who was revoked
//! ```
//!
//! Before `go` the successor writes nothing that anybody was told of, and answers nobody; the predecessor resumes only once the
//! successor is dead. So there is one writer at any time, and the lock, whose open file both hold, is never free in between.

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
pub use take::{Over, Taken, ask};
pub(super) use wire::Published;
pub use wire::{Upgraded, Word, receive, send};

/// How long a successor may take from the moment at which the predecessor has stopped.
const READY_MAX: Duration = Duration::from_secs(5);
/// How long an answer of the other process is waited for where nothing stands still meanwhile.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// The version of what is said between the two.
const PROTOCOL: u32 = 1;

/// Where a running gateway is asked to hand over.
#[must_use]
pub fn socket(data: &Path) -> PathBuf {
    data.join("handover.sock")
}

/// The steps of a take-over at which a test can let a process die, or hang.
#[cfg(feature = "seeded-faults")]
fn step(name: &str) {
    use rustix::process::Signal;
    // As `kill -9` would, and not as a panic that is caught.
    for (variable, signal) in [("TOKEN_SHIELD_DIES_AT", Signal::KILL), ("TOKEN_SHIELD_HANGS_AT", Signal::STOP)] {
        if std::env::var(variable).is_ok_and(|at| at == name) {
            let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
            // The signal may reach another thread first: this one does not run ahead of it.
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }
}

/// The steps of a take-over at which a test can let a process die or hang: none in this build.
#[cfg(not(feature = "seeded-faults"))]
const fn step(_: &str) {}
