//! The predecessor's half of a take-over.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::net::UnixListener;
use tokio::sync::{OwnedMutexGuard, watch};

use super::link::{Predecessor, Successor, Ways};
use super::process::{Process, Program};
use super::reopen::{blocking, open_again};
use super::take::{agrees, is_same_socket};
use super::wire::{
    Hello, PassedRecord, PassedState, Published, TakeOverResult, Word, receive, send,
};
use super::{ANSWER_MAX, PROTOCOL, READY_MAX, step};
use crate::app::fault::text_of;
use crate::app::management::ManagementSockets;
use crate::app::notify::Notifier;
use crate::audit::format::event::Event;
use crate::audit::store::log::{Log, LogFault};
use crate::config::Config;
use crate::control::Control;
use crate::guard::passed::InFlight;
use crate::guard::settings::{Issuer, Jwks};
use crate::keyring::Keyring;
use crate::lock::locked;
use crate::proxy::Gateway;
use crate::proxy::entrance::Entrance;
use crate::token::jwk;

/// The time that requests wait for the log of a process that resumes. After it they are refused,
/// and the caller may retry.
const GO_ON_SOON: Duration = Duration::from_secs(1);

/// The pause after a failed accept.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The parts of a running gateway that a take-over needs.
pub(in crate::app) struct Giver {
    pub(in crate::app) config: Config,
    pub(in crate::app) source: Option<PathBuf>,
    pub(in crate::app) program: Option<Program>,
    pub(in crate::app) gateway: Arc<Gateway>,
    pub(in crate::app) keyring: Arc<Keyring>,
    /// The issuers in force. A reload changes them.
    pub(in crate::app) issuers: watch::Receiver<Arc<Vec<Issuer>>>,
    pub(in crate::app) control: Arc<Control>,
    pub(in crate::app) log: Arc<Log>,
    pub(in crate::app) entrance: Arc<Entrance>,
    pub(in crate::app) management: Arc<tokio::sync::Mutex<ManagementSockets>>,
    /// A copy of the API's socket.
    pub(in crate::app) api: std::net::TcpListener,
    /// The socket at which a successor connects.
    pub(in crate::app) handover: std::os::unix::net::UnixListener,
    /// The socket files that are removed at the stop.
    pub(in crate::app) own: Vec<PathBuf>,
    pub(in crate::app) notifier: Arc<Notifier>,
    pub(in crate::app) predecessor: Option<Arc<Predecessor>>,
    pub(in crate::app) stopping: watch::Receiver<bool>,
    pub(in crate::app) successor: Arc<Mutex<Option<Arc<Successor>>>>,
    pub(in crate::app) outcome: watch::Sender<Option<TakeOverResult>>,
    /// Locked while this process waits for a successor that it has started.
    pub(in crate::app) upgrading: tokio::sync::Mutex<()>,
    /// The number of connections that still wait for an answer.
    pub(in crate::app) owed: Arc<watch::Sender<usize>>,
    /// Locked during a take-over, so that only one is under way.
    pub(in crate::app) turn: Arc<tokio::sync::Mutex<()>>,
}

impl Giver {
    /// Answers at the socket until another process has taken over.
    pub(in crate::app) async fn run(self: Arc<Self>) -> io::Result<()> {
        let listener = UnixListener::from_std(self.handover.try_clone()?)?;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.entrance.left() => return Ok(()),
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "no connection of a successor can be accepted now");
                    // Without descriptors, the next call would fail at once.
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            };
            let own = Arc::clone(&self);
            self.owed.send_modify(|owed| *owed += 1);
            tokio::spawn(async move {
                if let Err(error) = async { own.clone().answer(stream).await }.await {
                    tracing::warn!(%error, "a take-over was not asked for to the end");
                }
                own.owed.send_modify(|owed| *owed -= 1);
            });
        }
    }

    /// Handles one connection at the socket: an operator's `upgrade` or a successor's `take-over`.
    ///
    /// # Errors
    /// When the peer is another user, or sends an invalid message.
    async fn answer(self: Arc<Self>, accepted: tokio::net::UnixStream) -> io::Result<()> {
        let peer = accepted.peer_cred()?;
        let stream = accepted.into_std()?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(READY_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        // The descriptors of the lock and the listeners go only to the same user or root. The
        // kernel reports the peer's uid (SO_PEERCRED, unix(7)), so the peer cannot forge it.
        let uid = peer.uid();
        if uid != 0 && uid != rustix::process::geteuid().as_raw() {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("uid {uid} asked"),
            ));
        }
        let Some(pid) = peer.pid() else {
            return Err(io::Error::other("the peer is in another process namespace"));
        };
        let process = Process::of(pid)?;
        let (stream, word) =
            blocking(move || receive(&stream).map(|(word, _)| (stream, word))).await??;
        match word {
            Word::Upgrade => {
                let answer = match self.upgrade().await {
                    Ok(done) => Word::Done(done),
                    Err(why) => Word::Refused(why),
                };
                blocking(move || send(&stream, &answer, &[])).await?
            }
            Word::TakeOver(hello) => {
                let (pid, version) = (process.pid, hello.version.clone());
                let Ok(turn) = Arc::clone(&self.turn).try_lock_owned() else {
                    let why = Word::Refused("another take-over is under way".to_owned());
                    return blocking(move || send(&stream, &why, &[])).await?;
                };
                let given = self.give(&stream, process, hello, turn).await;
                match &given {
                    Ok(()) => tracing::info!(pid, version, "another process has taken over"),
                    Err(why) => {
                        tracing::error!(pid, why, "the take-over failed; this process continues");
                        let why = why.clone();
                        let _ = blocking(move || send(&stream, &Word::Refused(why), &[])).await;
                    }
                }
                self.outcome
                    .send_replace(Some(TakeOverResult { pid, given: given.map(|()| version) }));
                Ok(())
            }
            Word::Refused(_)
            | Word::Passed(_)
            | Word::Ready
            | Word::Failed(_)
            | Word::Go
            | Word::Done(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Checks that this process may hand over now.
    pub(super) fn may(&self) -> Result<(), String> {
        // A chain of three processes is not possible: the former process sends its records to this
        // one.
        if let Some(predecessor) = &self.predecessor
            && let Some(left) = predecessor.left()
        {
            return Err(format!(
                "the former process still drains, for {} s at the most: try again then, or end it \
                    with SIGTERM",
                left.as_secs() + 1
            ));
        }
        if *self.stopping.borrow() {
            return Err("the gateway is stopping".to_owned());
        }
        if locked(&self.successor).is_some() {
            return Err("another process has taken over already: ask that one".to_owned());
        }
        if self.log.healthy() {
            Ok(())
        } else {
            Err("the audit log has failed: restart the gateway".to_owned())
        }
    }

    /// Checks that this successor may take over.
    fn suits(&self, hello: &Hello) -> Result<(), String> {
        // Another protocol version could read the passed state differently, so the first check is
        // this one.
        let proxy = &self.config.proxy;
        if hello.protocol != PROTOCOL {
            return Err(format!(
                "this gateway ({}) and that one ({}) do not hand over to each other: stop this \
                    one, start that one",
                env!("CARGO_PKG_VERSION"),
                hello.version
            ));
        }
        if hello.name != self.config.name {
            return Err(format!(
                "this gateway's name is {:?}, not {:?}",
                self.config.name, hello.name
            ));
        }
        let same = agrees(hello.api, proxy.listen.address)
            && agrees(hello.metrics, proxy.metrics)
            && is_same_socket(&hello.admin, &proxy.admin)
            && match (&hello.auditors, &proxy.auditors.socket) {
                (Some(wanted), Some(found)) => is_same_socket(wanted, found),
                (wanted, found) => wanted.is_none() && found.is_none(),
            };
        if !same {
            let why = "[listen] of the config has changed, and sockets are passed on as they are: \
                stop this gateway, start the other";
            return Err(why.to_owned());
        }
        self.may()
    }

    /// Hands over. On an error this process resumes.
    async fn give(
        &self,
        stream: &UnixStream,
        process: Process,
        hello: Hello,
        _turn: OwnedMutexGuard<()>,
    ) -> Result<(), String> {
        self.suits(&hello)?;
        let stream = stream.try_clone().map_err(|error| error.to_string())?;
        // The order matters. Commands stop first, then the admin, auditors' and metrics sockets.
        // Then new requests wait too.
        let _commands = self.control.pause().await;
        let mut management = self.management.lock().await;
        management.close().await;
        self.entrance.shut();
        step("shut");
        let given = self.try_give(stream, &process, hello, &management).await;
        let Err(why) = given else {
            management.leave();
            return Ok(());
        };
        // From here on no other process may hold the log. The successor may have opened it already.
        let process = blocking(move || {
            process.kill();
            process
        });
        drop(process.await);
        step("killed");
        // The log may stay closed while a resource is short. Then requests are refused for that
        // reason and do not wait.
        let mut going_on = std::pin::pin!(self.go_on());
        let soon = tokio::time::timeout(GO_ON_SOON, &mut going_on).await;
        // Requests continue before the admin socket: the socket may need a descriptor that is not
        // free yet.
        self.entrance.open();
        open_again(&mut management, &self.stopping).await;
        drop(management);
        if soon.is_err() {
            going_on.await;
        }
        Err(why)
    }

    /// Opens the log again, and records that this process resumes.
    async fn go_on(&self) {
        let log = Arc::clone(&self.log);
        let resumed = blocking(move || log.resume()).await;
        let recorded = match resumed {
            Ok(Ok(records)) => {
                // The killed successor may have written records. They count, so the state takes
                // them in.
                for record in &records {
                    self.keyring.apply(record);
                    self.gateway.registry.apply(record);
                    self.gateway.weights.apply(record);
                }
                // The policy may be newer than the start: a reload may have changed it.
                let policy = Arc::clone(&self.gateway.config.load().policy);
                self.record(env!("CARGO_PKG_VERSION"), &policy).await
            }
            // The process stops already and has closed the log. There is no record to write.
            Ok(Err(LogFault::Closed)) => Ok(()),
            Ok(Err(fault)) => Err(fault),
            Err(error) => return tracing::error!(%error, "the log was not opened again"),
        };
        if let Err(fault) = recorded {
            tracing::error!(%fault, "that this process continues is not recorded");
        }
    }

    /// Records a `handover` event with the version and policy that serve from now on.
    async fn record(&self, version: &str, policy: &str) -> Result<(), LogFault> {
        let event = Event::Handover { version: version.to_owned(), policy: policy.to_owned() };
        self.log.append(event, None).await?;
        Ok(())
    }

    /// Performs the steps of a take-over up to the point where the successor serves.
    ///
    /// # Errors
    /// The reason for the operator. The caller then kills the successor and resumes.
    async fn try_give(
        &self,
        stream: UnixStream,
        process: &Process,
        hello: Hello,
        management: &ManagementSockets,
    ) -> Result<(), String> {
        // Held counters are recorded now, because the successor starts with new ones.
        self.gateway.recorder.flush(true);
        self.record(&hello.version, &hello.policy).await.map_err(text_of)?;
        step("recorded");
        // Closes the journal. All records up to here are durable, and the successor can read them.
        let log = Arc::clone(&self.log);
        blocking(move || log.pause()).await.map_err(text_of)?.map_err(text_of)?;
        step("paused");
        let (records, their_records) = UnixStream::pair().map_err(text_of)?;
        let (requests, their_requests) = UnixStream::pair().map_err(text_of)?;
        let ways = Ways::open(records, requests).await?;
        self.pass(&stream, management, [&their_records, &their_requests]).await?;
        drop((their_records, their_requests));
        step("passed");
        let (stream, word) = blocking(move || {
            let _ = stream.set_read_timeout(Some(READY_MAX));
            receive(&stream).map(|(word, _)| (stream, word))
        })
        .await
        .map_err(text_of)?
        .map_err(|error| {
            format!("the successor was not ready within {} s: {error}", READY_MAX.as_secs())
        })?;
        match word {
            Word::Ready => {}
            Word::Failed(why) | Word::Refused(why) => {
                return Err(format!("the successor cannot serve: {why}"));
            }
            Word::Upgrade | Word::TakeOver(_) | Word::Passed(_) | Word::Go | Word::Done(_) => {
                return Err("the successor says something else".to_owned());
            }
        }
        step("ready");
        // From here on the successor may write. If it dies before it answers, this process takes in
        // its records.
        blocking(move || send(&stream, &Word::Go, &[])).await.map_err(text_of)?.map_err(text_of)?;
        step("gone");
        let (successor, requests, driver) =
            Successor::new(ways, process.pid, Arc::clone(&self.gateway));
        // The answer proves that the successor has opened the log and serves. Before it, this
        // process can still resume.
        let changes = tokio::time::timeout(READY_MAX, successor.subscribe()).await;
        let changes = changes
            .map_err(text_of)?
            .map_err(|why| format!("the successor does not serve: {why}"))?;
        step("served");
        let telling = tokio::spawn(Arc::clone(&successor).tell(Arc::clone(&self.gateway)));
        let (gateway, keyring) = (Arc::clone(&self.gateway), Arc::clone(&self.keyring));
        // The successor may have been started with another config file.
        let source = hello.source.or_else(|| self.source.clone());
        let following =
            tokio::spawn(Arc::clone(&successor).follow(changes, gateway, keyring, source));
        *locked(&self.successor) = Some(Arc::clone(&successor));
        // From here on records go to the successor, and then also new requests on kept connections.
        self.log.leave(Arc::new(successor));
        self.entrance.leave(requests);
        self.notifier.succeeded_by(process.pid);
        tokio::spawn(async move {
            let _ = driver.await;
            telling.abort();
            following.abort();
        });
        step("left");
        Ok(())
    }

    /// The JWK Sets of the last fetch. The successor uses a set if it cannot fetch the same URL.
    fn published(&self) -> Vec<Published> {
        let mut fetched = self.keyring.fetched();
        let mut published = Vec::new();
        for issuer in self.issuers.borrow().iter() {
            if let Some(Jwks::Url { url, .. }) = &issuer.jwks
                && let Some(keys) = fetched.remove(&issuer.iss)
                && !keys.is_empty()
            {
                let (iss, url) = (issuer.iss.clone(), url.clone());
                published.push(Published { iss, url, set: jwk::write_set(&keys) });
            }
        }
        published
    }

    /// Sends the state and the descriptors that the successor needs.
    async fn pass(
        &self,
        stream: &UnixStream,
        management: &ManagementSockets,
        ways: [&UnixStream; 2],
    ) -> Result<(), String> {
        let Some(sockets) = management.sockets() else {
            return Err("another process has the sockets".to_owned());
        };
        let state = PassedState {
            tallies: self.gateway.limiter.tallies(),
            in_flight: InFlight::of(&self.gateway.limiter, &self.gateway.slots),
            fetched: self.gateway.fetch_quota.passed(),
            cache_salt: URL_SAFE_NO_PAD.encode(**self.gateway.cache_salts.key()),
            published: self.published(),
            weights: self.gateway.weights.passed(),
            open: self.gateway.recorder.unknown().iter().map(PassedRecord::from).collect(),
            auditors: sockets.auditors.is_some(),
            own: self.own.clone(),
            drain_s: self.config.proxy.timeouts.drain_streams.as_secs(),
        };
        let lock = self.log.lock().map_err(text_of)?;
        let process = Process::own().map_err(text_of)?;
        let [records, requests] = ways;
        // The order is part of the protocol: the successor reads the descriptors by position.
        let mut descriptors = vec![
            process.as_fd(),
            lock.file().as_fd(),
            records.as_fd(),
            requests.as_fd(),
            self.api.as_fd(),
            sockets.metrics.as_fd(),
            sockets.admin.as_fd(),
            self.handover.as_fd(),
        ];
        if let Some(auditors) = &sockets.auditors {
            descriptors.push(auditors.as_fd());
        }
        // Copies, so that the blocking thread owns its descriptors.
        let stream = stream.try_clone().map_err(text_of)?;
        let mut copies = Vec::new();
        for descriptor in descriptors {
            copies.push(descriptor.try_clone_to_owned().map_err(text_of)?);
        }
        let sent = blocking(move || {
            let descriptors: Vec<_> = copies.iter().map(OwnedFd::as_fd).collect();
            send(&stream, &Word::Passed(Box::new(state)), &descriptors)
        });
        sent.await.map_err(text_of)?.map_err(text_of)
    }
}
