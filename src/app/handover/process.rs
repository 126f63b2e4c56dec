//! The program of this process, and another process by its process file descriptor
//! (pidfd_open(2)). The descriptor never refers to a later process with the same id.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The program and the arguments of this process. The successor is started with the same ones.
#[derive(Clone, Debug)]
pub struct Program {
    /// The path of the program. A newer version may be there by now.
    pub path: PathBuf,
    /// The arguments.
    pub words: Vec<OsString>,
}

/// Another process.
pub(super) struct Process {
    /// Its id. 0 if only the descriptor is known.
    pub(super) pid: u32,
    descriptor: OwnedFd,
}

impl Process {
    /// The process with this id. The caller must know that it is alive.
    ///
    /// # Errors
    /// When there is none, or the kernel has no such descriptors.
    pub(super) fn of(pid: i32) -> std::io::Result<Self> {
        let known = Pid::from_raw(pid).ok_or(std::io::ErrorKind::NotFound)?;
        Ok(Self { pid: pid.unsigned_abs(), descriptor: pidfd_open(known, PidfdFlags::empty())? })
    }

    /// A descriptor of this process, on which another one can wait.
    ///
    /// # Errors
    /// When the kernel has no such descriptors.
    pub(super) fn own() -> std::io::Result<OwnedFd> {
        Ok(pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?)
    }

    /// The process that has passed on a descriptor of itself.
    pub(super) const fn passed(descriptor: OwnedFd) -> Self {
        Self { pid: 0, descriptor }
    }

    /// A second handle on the same process.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub(super) fn try_clone(&self) -> std::io::Result<Self> {
        Ok(Self { pid: self.pid, descriptor: self.descriptor.try_clone()? })
    }

    /// Whether it has ended, or ends within that time. Blocks.
    pub(super) fn is_over(&self, within: Duration) -> bool {
        let within = Timespec {
            tv_sec: i64::try_from(within.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(within.subsec_nanos()),
        };
        // A pidfd becomes readable when the process ends (pidfd_open(2)).
        let mut asked = [PollFd::new(&self.descriptor, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut asked, Some(&within))).is_ok_and(|ready| ready > 0)
    }

    /// Kills the process, and returns after it has ended. Blocks until then, because two writers
    /// would damage the log.
    pub(super) fn kill(&self) {
        loop {
            if let Err(error) = pidfd_send_signal(&self.descriptor, Signal::KILL) {
                tracing::debug!(%error, pid = self.pid, "it has ended already");
            }
            if self.is_over(Duration::from_secs(5)) {
                return;
            }
            tracing::error!(
                pid = self.pid,
                "the successor does not end: no record is written until it has"
            );
        }
    }
}
