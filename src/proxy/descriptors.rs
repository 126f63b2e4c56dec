//! File descriptors: how many may be open, and the share of each use.
//!
//! A process without free descriptors cannot open a tile of its log, and a log that cannot be
//! written ends service. So unauthenticated callers never get the last descriptors. Everything that
//! others can make the process open is limited in number and has its share. The rest is for the
//! log, and for files that are open for a moment.

use std::io;
use std::sync::{Arc, OnceLock};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// Simultaneous connections of operators, of scrapers, and of auditors, each at their own socket.
/// Further ones wait in the backlog.
pub const SOCKET_CONNECTIONS_MAX: usize = 16;
/// Sockets with that many connections each.
const SOCKETS: usize = 3;
/// Files of the log that are read at once for auditors and for receipts. Further reads wait.
const READS_MAX: usize = 8;
/// Descriptors for the log's own files, a take-over, name resolution, key sets and weights.
const OWN: usize = 40;
/// Descriptors that callers' connections and connections to upstreams never use.
const KEPT: usize = OWN + READS_MAX + SOCKETS * SOCKET_CONNECTIONS_MAX;
/// A gateway does not start with fewer callers' connections than this.
const CONNECTIONS_MIN: usize = 16;
/// The limit that is assumed when the system sets none. It is above any real use.
const UNLIMITED: usize = 1 << 30;

/// Slots for reads of the log's files.
static READS: Semaphore = Semaphore::const_new(READS_MAX);

/// Slots for connections to upstreams, of all pools together, and to the hosts of fetched content.
static UPSTREAMS: OnceLock<Places> = OnceLock::new();

/// The slots for outgoing connections.
struct Places {
    free: Arc<Semaphore>,
    all: usize,
    /// The slots that fetches may use: a quarter of all, so that slow foreign servers cannot block
    /// the upstreams.
    fetches: Semaphore,
}

/// A slot for a connection to a host of fetched content. Dropping it releases the slot.
pub struct FetchPlace {
    _place: Option<OwnedSemaphorePermit>,
    _fetch: Option<SemaphorePermit<'static>>,
}

/// The share of each use of descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Descriptors that may be open (RLIMIT_NOFILE).
    pub limit: usize,
    /// Descriptors that were open when the shares were computed.
    pub open: usize,
    /// Callers' connections at once.
    pub connections: usize,
    /// Connections to upstreams at once.
    pub upstreams: usize,
}

/// The limit is too low for any service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the limit of open files (RLIMIT_NOFILE) is {limit}; {open} are open and {KEPT} are kept for \
        the log and for operators, so \
     that fewer than {CONNECTIONS_MIN} connections are left: raise it to {wanted} or more \
     (LimitNOFILE= of the systemd unit, \
     ulimit -Hn of the shell, --ulimit nofile= of the container)"
)]
pub struct TooFew {
    /// The limit.
    pub limit: usize,
    /// Descriptors that are open.
    pub open: usize,
    /// The limit at which the configured number of connections is not lowered.
    pub wanted: usize,
}

impl Shares {
    /// Divides `limit` descriptors, of which `open` are in use. Callers get `connections` if as
    /// many are left for upstreams; otherwise each side gets one half.
    ///
    /// # Errors
    /// If fewer than `CONNECTIONS_MIN` callers' connections would be left.
    pub fn of(limit: usize, open: usize, connections: usize) -> Result<Self, TooFew> {
        let left = limit.saturating_sub(open).saturating_sub(KEPT);
        let connections_now = connections.min(left / 2);
        // A config that wants fewer connections than the minimum may have them.
        if connections_now < CONNECTIONS_MIN.min(connections) {
            return Err(TooFew { limit, open, wanted: wanted(open, connections) });
        }
        Ok(Self { limit, open, connections: connections_now, upstreams: left - connections_now })
    }

    /// The warning for an operator if fewer than `connections` are served at once.
    #[must_use]
    pub fn lowered(&self, connections: usize) -> Option<String> {
        let Self { limit, open, connections: now, upstreams } = self;
        let wanted = wanted(*open, connections);
        (*now < connections).then(|| {
            format!(
                "limits.connections = {connections} is lowered to {now}: the limit of open files \
                    (RLIMIT_NOFILE) is {limit}, of \
                 which {open} are open, {KEPT} are kept for the log and for operators, and \
                 {upstreams} are for upstreams; raise \
                 it to {wanted} (LimitNOFILE= of the systemd unit, ulimit -Hn of the shell, \
                 --ulimit nofile= of the container)"
            )
        })
    }
}

/// The limit at which no share is lowered.
const fn wanted(open: usize, connections: usize) -> usize {
    open + KEPT + 2 * connections
}

/// Raises the soft limit of open files to the hard limit. Returns the limit that applies.
pub fn raise() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "the limit of open files could not be raised to its hard limit");
    }
    let Some(limit) = getrlimit(Resource::Nofile).current else { return UNLIMITED };
    match usize::try_from(limit) {
        Ok(limit) => limit.min(UNLIMITED),
        Err(_) => UNLIMITED,
    }
}

/// Computes the shares of this process, after everything that it always needs is open.
///
/// # Errors
/// If too few descriptors are left.
pub fn share(connections: usize) -> Result<Shares, TooFew> {
    // Without `/proc` the number is estimated: the log, the listeners and the runtime use about
    // this many.
    let open = std::fs::read_dir("/proc/self/fd").map_or(KEPT / 2, Iterator::count);
    let shares = Shares::of(raise(), open, connections)?;
    // The first call decides: tests run several gateways in one process.
    let all = shares.upstreams.min(Semaphore::MAX_PERMITS);
    let fetches = (all / 4).max(1);
    UPSTREAMS.get_or_init(|| Places {
        free: Arc::new(Semaphore::new(all)),
        all,
        fetches: Semaphore::new(fetches),
    });
    Ok(shares)
}

/// Waits for a slot for a connection to an upstream. Dropping it releases the slot. None before
/// [`share`] ran.
///
/// # Errors
/// None while the process serves: the semaphore is never closed.
pub async fn upstream_place() -> io::Result<Option<OwnedSemaphorePermit>> {
    let Some(places) = UPSTREAMS.get() else { return Ok(None) };
    let place = Arc::clone(&places.free).acquire_owned().await.map_err(io::Error::other)?;
    Ok(Some(place))
}

/// A slot for an optional connection, without waiting; none if no slot is free.
#[must_use]
pub fn spare_place() -> Option<Option<OwnedSemaphorePermit>> {
    let Some(places) = UPSTREAMS.get() else { return Some(None) };
    match Arc::clone(&places.free).try_acquire_owned() {
        Ok(place) => Some(Some(place)),
        Err(_) => None,
    }
}

/// Waits for a slot for a connection to a host of fetched content.
///
/// # Errors
/// None while the process serves: the semaphore is never closed.
pub async fn fetch_place() -> io::Result<FetchPlace> {
    // The fetch slot comes first. A fetch that waits for it holds no slot of the upstreams.
    let fetch = match UPSTREAMS.get() {
        Some(places) => Some(places.fetches.acquire().await.map_err(io::Error::other)?),
        None => None,
    };
    Ok(FetchPlace { _place: upstream_place().await?, _fetch: fetch })
}

/// Waits for a slot to read a file of the log for an auditor or for a receipt.
///
/// # Errors
/// None while the process serves: the semaphore is never closed.
pub async fn read_place() -> io::Result<SemaphorePermit<'static>> {
    READS.acquire().await.map_err(io::Error::other)
}

/// Whether an idle connection to an upstream may stay open: idle ones use at most half of the
/// slots.
#[must_use]
pub fn may_stay_idle() -> bool {
    let Some(places) = UPSTREAMS.get() else { return true };
    places.free.available_permits() > places.all / 2
}

/// Whether an error reports a temporary shortage: of descriptors, or of kernel memory.
#[must_use]
pub fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let short = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
    let Some(code) = error.raw_os_error() else { return false };
    short.iter().any(|errno| errno.raw_os_error() == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_never_get_the_last_descriptors() {
        for limit in [160, 256, 1024, 4096, 65_536, 1 << 20] {
            for connections in [16, 100, 10_000] {
                let shares = Shares::of(limit, 30, connections).expect("enough");
                assert!(
                    shares.open + shares.connections + shares.upstreams + KEPT <= limit,
                    "{shares:?}"
                );
                assert!(shares.upstreams >= shares.connections, "{shares:?}");
                let lowered = shares.lowered(connections);
                assert_eq!(lowered.is_some(), shares.connections < connections, "{shares:?}");
            }
        }
    }

    #[test]
    fn what_is_told_names_the_numbers() {
        let told = Shares::of(256, 30, 10_000).expect("enough").lowered(10_000).expect("lowered");
        for number in ["10000", "65", "256", "30", "96", "20126"] {
            assert!(told.contains(number), "{number}: {told}");
        }
        assert_eq!(Shares::of(20_126, 30, 10_000).expect("enough").lowered(10_000), None);
        assert!(Shares::of(64, 30, 10_000).is_err_and(|few| few.to_string().contains("20126")));
        assert!(Shares::of(200, 30, 8).is_ok_and(|shares| shares.connections == 8));
    }

    #[test]
    fn shortages_are_known() {
        // EMFILE, ENFILE, ENOMEM and ENOBUFS; then ECONNABORTED and EINVAL.
        for (code, expect) in
            [(24, true), (23, true), (12, true), (105, true), (103, false), (22, false)]
        {
            assert_eq!(is_shortage(&io::Error::from_raw_os_error(code)), expect, "{code}");
        }
    }
}
