//! Messages to a service manager (sd_notify(3)): datagrams to the socket that `NOTIFY_SOCKET`
//! names. Without it, no message is sent.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

/// The connection to the service manager.
pub(super) struct Notifier {
    /// The socket and the address of the service manager. `None` without one.
    way: Option<(UnixDatagram, SocketAddr)>,
    /// How often it expects a sign of life.
    watchdog: Option<Duration>,
}

/// The address in `NOTIFY_SOCKET`: a path, or `@` and a name in the abstract namespace.
fn address(name: &str) -> Option<SocketAddr> {
    if let Some(name) = name.strip_prefix('@') {
        return SocketAddr::from_abstract_name(name).ok();
    }
    if name.starts_with('/') { SocketAddr::from_pathname(name).ok() } else { None }
}

/// The value of an environment variable, if it is set and UTF-8.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Half of the time after which a service manager kills a silent process (sd_watchdog_enabled(3)).
/// `WATCHDOG_PID` names the process that it was set for: this one or the former one.
fn watchdog(micros: &str, pid: Option<&str>, is_successor: bool) -> Option<Duration> {
    let own = std::process::id().to_string();
    // A successor inherits the variable with the pid of the former process, so the pid does not
    // match.
    let meant = is_successor || pid.is_none_or(|pid| pid == own);
    let micros: u64 = micros.parse().ok()?;
    if micros == 0 || !meant {
        return None;
    }
    // Half of the limit leaves room for one late message.
    Some(Duration::from_micros(micros) / 2)
}

impl Notifier {
    /// The service manager of the environment. `is_successor`: it started another process, and this
    /// one has taken over.
    #[must_use]
    pub(super) fn from_environment(is_successor: bool) -> Self {
        let way = variable("NOTIFY_SOCKET").and_then(|name| {
            let way = address(&name).and_then(|to| Some((UnixDatagram::unbound().ok()?, to)));
            if way.is_none() {
                tracing::warn!(
                    name,
                    "NOTIFY_SOCKET does not name a socket: the service manager gets no messages"
                );
            }
            way
        });
        let pid = variable("WATCHDOG_PID");
        let watchdog = variable("WATCHDOG_USEC")
            .and_then(|micros| watchdog(&micros, pid.as_deref(), is_successor));
        Self { way, watchdog }
    }

    /// Sends one message of `NAME=value` lines. A failure does not stop the gateway.
    fn tell(&self, lines: &str) {
        let Some((socket, to)) = &self.way else { return };
        // The gateway also works without its service manager.
        if let Err(error) = socket.send_to_addr(lines.as_bytes(), to) {
            tracing::warn!(%error, lines, "a message to the service manager failed");
        }
    }

    /// Reports that the process serves and is the service's main process.
    pub(super) fn ready(&self) {
        self.tell(&format!("MAINPID={}\nREADY=1", std::process::id()));
    }

    /// Reports a reload. [`Notifier::ready`] follows.
    pub(super) fn reloading(&self) {
        // systemd compares this time with its own, so that it can ignore an older READY=1
        // (sd_notify(3)).
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        self.tell(&format!(
            "RELOADING=1\nMONOTONIC_USEC={}",
            now.tv_sec * 1_000_000 + now.tv_nsec / 1_000
        ));
    }

    /// Reports an orderly stop.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Reports another process as the service's main process.
    pub(super) fn succeeded_by(&self, pid: u32) {
        self.tell(&format!("MAINPID={pid}"));
    }

    /// Sends a sign of life at intervals, if the service manager expects it.
    pub(super) fn keep_alive(
        self: &Arc<Self>,
    ) -> Option<impl Future<Output = ()> + Send + 'static> {
        let every = self.watchdog?;
        let own = Arc::clone(self);
        Some(async move {
            let mut ticks = tokio::time::interval(every);
            loop {
                ticks.tick().await;
                own.tell("WATCHDOG=1");
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_path_or_abstract() {
        assert!(address("/run/systemd/notify").is_some());
        assert!(
            address("@name").is_some_and(|address| address.as_abstract_name() == Some(b"name"))
        );
        assert!(address("relative").is_none() && address("").is_none());
    }

    #[test]
    fn a_watchdog_is_that_of_the_process_it_names() {
        let own = std::process::id().to_string();
        let half = Some(Duration::from_secs(1));
        assert_eq!(watchdog("2000000", Some(&own), false), half);
        assert_eq!(watchdog("2000000", None, false), half);
        assert_eq!(watchdog("2000000", Some("1"), false), None);
        assert_eq!(watchdog("2000000", Some("1"), true), half);
        assert_eq!(watchdog("0", None, false), None);
        assert_eq!(watchdog("x", None, false), None);
    }
}
