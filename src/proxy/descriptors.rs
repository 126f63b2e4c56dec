//! File descriptors: how many may be open, and how they are shared out.
//!
//! A process without descriptors cannot open a tile of its log, and a log that cannot be written ends service. So strangers
//! never get the last ones: everything that others can make the process open is bounded in number, and has its part of the
//! limit. What is left over belongs to the log, and to what is opened for a moment.

use std::io;
use std::sync::{Arc, OnceLock};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// Connections at once of operators, of scrapers, and of auditors at their own socket; others wait in the backlog.
pub const SOCKET_CONNECTIONS_MAX: usize = 16;
/// Sockets with so many connections each.
const SOCKETS: usize = 3;
/// Files of the log that are read at once for auditors and for receipts; other reads wait.
const READS_MAX: usize = 8;
/// Descriptors for the log's own files, a take-over, names that are looked up, key sets and weights.
const OWN: usize = 40;
/// Descriptors that are kept free of callers' connections and of those to upstreams.
const KEPT: usize = OWN + READS_MAX + SOCKETS * SOCKET_CONNECTIONS_MAX;
/// Callers' connections below which a gateway does not start.
const CONNECTIONS_MIN: usize = 16;
/// More than anybody opens: the limit where there is none.
const UNLIMITED: usize = 1 << 30;

/// Reads of the log's files.
static READS: Semaphore = Semaphore::const_new(READS_MAX);

/// Connections to upstreams that may be open at once, all pools together, and to where content is fetched from.
static UPSTREAMS: OnceLock<Places> = OnceLock::new();

struct Places {
    free: Arc<Semaphore>,
    all: usize,
    /// Those that fetches may take: a quarter, so that slow servers of others never keep all from upstreams.
    fetches: Semaphore,
}

/// A place for a connection to where content is fetched from; given back when dropped.
pub struct FetchPlace {
    _place: Option<OwnedSemaphorePermit>,
    _fetch: Option<SemaphorePermit<'static>>,
}

/// How the descriptors are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Descriptors that may be open (RLIMIT_NOFILE).
    pub limit: usize,
    /// Descriptors that were open when they were shared out.
    pub open: usize,
    /// Callers' connections at once.
    pub connections: usize,
    /// Connections to upstreams at once.
    pub upstreams: usize,
}

/// That the limit is too low for any service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the limit of open files (RLIMIT_NOFILE) is {limit}; {open} are open and {KEPT} are kept for the log and for operators, so \
     that fewer than {CONNECTIONS_MIN} connections are left: raise it to {wanted} or more (LimitNOFILE= of the systemd unit, \
     ulimit -Hn of the shell, --ulimit nofile= of the container)"
)]
pub struct TooFew {
    /// The limit.
    pub limit: usize,
    /// Descriptors that are open.
    pub open: usize,
    /// The limit at which nothing is lowered.
    pub wanted: usize,
}

impl Shares {
    /// Shares out `limit` descriptors of which `open` are in use: `connections` for callers where that leaves as many for
    /// upstreams, else one half each.
    ///
    /// # Errors
    /// When hardly any would be left.
    pub fn of(limit: usize, open: usize, connections: usize) -> Result<Self, TooFew> {
        let left = limit.saturating_sub(open).saturating_sub(KEPT);
        let connections_now = connections.min(left / 2);
        if connections_now < CONNECTIONS_MIN.min(connections) {
            return Err(TooFew { limit, open, wanted: wanted(open, connections) });
        }
        Ok(Self { limit, open, connections: connections_now, upstreams: left - connections_now })
    }

    /// What an operator is told where fewer than `connections` are served at once.
    #[must_use]
    pub fn lowered(&self, connections: usize) -> Option<String> {
        let Self { limit, open, connections: now, upstreams } = self;
        let wanted = wanted(*open, connections);
        (*now < connections).then(|| {
            format!(
                "limits.connections = {connections} is lowered to {now}: the limit of open files (RLIMIT_NOFILE) is {limit}, of \
                 which {open} are open, {KEPT} are kept for the log and for operators, and {upstreams} are for upstreams; raise \
                 it to {wanted} (LimitNOFILE= of the systemd unit, ulimit -Hn of the shell, --ulimit nofile= of the container)"
            )
        })
    }
}

const fn wanted(open: usize, connections: usize) -> usize {
    open + KEPT + 2 * connections
}

/// Raises the soft limit of open files to the hard one; gives the limit that holds.
pub fn raise() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "the limit of open files could not be raised to its hard limit");
    }
    getrlimit(Resource::Nofile)
        .current
        .map_or(UNLIMITED, |limit| usize::try_from(limit).unwrap_or(UNLIMITED).min(UNLIMITED))
}

/// Shares out what this process may open, once everything that it always needs is open.
///
/// # Errors
/// When hardly any would be left.
pub fn share(connections: usize) -> Result<Shares, TooFew> {
    // Where nobody says what is open, the log, the listeners and the runtime come to about as many.
    let open = std::fs::read_dir("/proc/self/fd").map_or(KEPT / 2, Iterator::count);
    let shares = Shares::of(raise(), open, connections)?;
    // What one process shared out first holds: tests run several gateways in one.
    let all = shares.upstreams.min(Semaphore::MAX_PERMITS);
    let fetches = (all / 4).max(1);
    UPSTREAMS.get_or_init(|| Places {
        free: Arc::new(Semaphore::new(all)),
        all,
        fetches: Semaphore::new(fetches),
    });
    Ok(shares)
}

/// Waits for a place for a connection to an upstream; it is given back when dropped.
///
/// # Errors
/// Never while the process serves.
pub async fn upstream_place() -> io::Result<Option<OwnedSemaphorePermit>> {
    let Some(places) = UPSTREAMS.get() else { return Ok(None) };
    Arc::clone(&places.free).acquire_owned().await.map(Some).map_err(io::Error::other)
}

/// A place for a connection that can do without one: nothing where none is free.
#[must_use]
pub fn spare_place() -> Option<Option<OwnedSemaphorePermit>> {
    let Some(places) = UPSTREAMS.get() else { return Some(None) };
    Arc::clone(&places.free).try_acquire_owned().ok().map(Some)
}

/// Waits for a place for a connection to where content is fetched from.
///
/// # Errors
/// Never while the process serves.
pub async fn fetch_place() -> io::Result<FetchPlace> {
    let fetch = match UPSTREAMS.get() {
        Some(places) => Some(places.fetches.acquire().await.map_err(io::Error::other)?),
        None => None,
    };
    Ok(FetchPlace { _place: upstream_place().await?, _fetch: fetch })
}

/// Waits for its turn to read a file of the log for an auditor or for a receipt.
///
/// # Errors
/// Never while the process serves.
pub async fn read_place() -> io::Result<SemaphorePermit<'static>> {
    READS.acquire().await.map_err(io::Error::other)
}

/// Whether an idle connection to an upstream may be kept: idle ones take half of the places at the most.
#[must_use]
pub fn may_stay_idle() -> bool {
    UPSTREAMS.get().is_none_or(|places| places.free.available_permits() > places.all / 2)
}

/// Whether an error says that something is short that comes back: descriptors or memory of the kernel.
#[must_use]
pub fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let short = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
    error.raw_os_error().is_some_and(|code| short.iter().any(|errno| errno.raw_os_error() == code))
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
        for (code, expect) in
            [(24, true), (23, true), (12, true), (105, true), (103, false), (22, false)]
        {
            assert_eq!(is_shortage(&io::Error::from_raw_os_error(code)), expect, "{code}");
        }
    }
}
