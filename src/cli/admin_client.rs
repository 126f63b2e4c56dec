//! Sends a command to the gateway: through the admin socket if a gateway answers there. Otherwise
//! it executes the command under the data folder's lock, as the folder's owner.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::as_owner::{asker, own_name};
use super::fault::{CliFault, REFUSED};
use super::owner::{Owner, refused_to, shown_owner};
use super::target::{Addresses, GatewayTarget};
use super::{Failure, GatewayArgs};
use crate::app::keys::fetch_all;
use crate::app::{GatewayState, StartFault};
use crate::audit::store::log::LogFault;
use crate::config::Config;
use crate::control::api::{AdminAnswer, AdminRequest, SUDO_UID, perform};
use crate::control::{Control, Operator, Reply};

/// How long a connection to a socket may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long an answer may take. It must be longer than the longest sync that a log allows.
const ANSWER_MAX: Duration = Duration::from_secs(150);

/// Sends one request and returns the reply.
pub(super) async fn send(place: &GatewayArgs, request: AdminRequest) -> Result<Reply, Failure> {
    once(AdminClient::open(&place.find()?).await?, request).await
}

/// [`send`] for commands that stop an agent: they must reach the right gateway. A gateway that was
/// found by a search must run, unless `offline` is set.
pub(super) async fn send_stop(
    place: &GatewayArgs,
    offline: bool,
    request: AdminRequest,
) -> Result<Reply, Failure> {
    let target = place.find()?;
    let resting = target.named || offline;
    once(AdminClient::open_for(&target, resting).await?, request).await
}

/// Sends one request, and releases the client also after an error.
async fn once(client: AdminClient, request: AdminRequest) -> Result<Reply, Failure> {
    // The close comes also after a refusal, so that the lock is released in order.
    let reply = client.send(request).await;
    client.close()?;
    reply
}

/// The part that executes a request.
pub(super) enum AdminClient {
    /// A running gateway at this socket.
    Gateway(PathBuf),
    /// The log and the state, under the lock.
    Offline(GatewayState, Arc<Control>),
    /// The same in a process of the folder's owner. Root uses it.
    Owner(Owner),
}

/// The result of a connection to a socket's path.
enum Reached {
    Gateway,
    /// A socket on which no process listens any more.
    Stale,
    /// No file at the path.
    Nothing,
}

impl AdminClient {
    /// Finds the receiver.
    pub(super) async fn open(target: &GatewayTarget) -> Result<Self, Failure> {
        Self::open_for(target, true).await
    }

    /// [`AdminClient::open`]. Without `resting`, the gateway must run.
    async fn open_for(target: &GatewayTarget, resting: bool) -> Result<Self, Failure> {
        // The socket's path is enough to reach a running gateway, even if the config has a fault.
        let socket = match (Addresses::read(&target.config), &target.data) {
            (Ok(addresses), _) => addresses.admin,
            (Err(_), Some(data)) => data.join("admin.sock"),
            (Err(why), None) => return Err(why.into()),
        };
        let reached = reach(&socket).await?;
        let silence = match reached {
            Reached::Gateway => return Ok(Self::Gateway(socket)),
            Reached::Stale => format!("{} is a socket without a running gateway", socket.display()),
            Reached::Nothing => format!("no gateway answers at {}", socket.display()),
        };
        // Without this rule a command could change the log of another gateway, and the agent would
        // still be served.
        if !resting {
            let what = "a gateway that is found, not named, must run for this command: \
                        name it with --config FILE or --data DIR, or use --offline";
            return Err(CliFault::failed("not-running", format!("{silence}; {what}")).into());
        }
        let config = target
            .read()
            .map_err(|why| CliFault::failed("config", format!("{silence}, and {why}")))?;
        let log = &config.audit.dir;
        fs::symlink_metadata(log).map_err(|error| {
            if error.kind() == ErrorKind::NotFound {
                return CliFault::failed(
                    "no-log",
                    format!("{silence}, and {}", LogFault::None(log.clone())),
                );
            }
            CliFault::failed("failed", format!("{silence}, and {}: {error}", log.display()))
        })?;
        // Files that root creates would lock the owner out of the log. So root works through a
        // process of the owner.
        let owner = config.audit.owner().map_err(|fault| not_trusted(&fault))?;
        // The effective uid decides which files this process may open.
        let own = rustix::process::geteuid();
        match owner.filter(|owner| owner.uid != own.as_raw()) {
            None => Self::state(&config, &socket).await,
            Some(owner) if own.is_root() => Ok(Self::Owner(Owner::start(target, owner)?)),
            Some(owner) => Err(refused_to(log, owner.uid).into()),
        }
    }

    /// The log and the state of a gateway that does not run.
    async fn state(config: &Config, socket: &Path) -> Result<Self, Failure> {
        let state = GatewayState::open_existing(config).map_err(|fault| {
            if let StartFault::Log(LogFault::Locked(_)) = fault {
                let message = format!(
                    "{fault}; it does not answer at {}: no change was made",
                    socket.display()
                );
                return Failure::from(CliFault::failed("locked", message));
            }
            if let StartFault::Log(LogFault::None(_)) = fault {
                return CliFault::failed("no-log", fault.to_string()).into();
            }
            fault.into()
        })?;
        // Keys at URLs belong to the state. Without them, `token verify` would refuse valid tokens.
        for fault in fetch_all(config, &state.keyring).await {
            eprintln!("warning: {fault}");
        }
        let control = Arc::new(state.control(config, None));
        Ok(Self::Offline(state, control))
    }

    /// [`AdminClient::state`] for the process of the folder's owner.
    pub(super) async fn of_owner(target: &GatewayTarget) -> Result<Self, Failure> {
        let config = target.read()?;
        let socket = config.proxy.admin.clone();
        Self::state(&config, &socket).await
    }

    /// Sends one request and returns the reply.
    pub(super) async fn send(&self, request: AdminRequest) -> Result<Reply, Failure> {
        let (answer, exit) = match self {
            Self::Gateway(socket) => {
                // The limit is longer than the longest sync, so a slow disk does not look like a
                // missing answer.
                let answered = timeout(ANSWER_MAX, over(socket, &request)).await;
                (answered.map_err(|_| no_answer(socket))??, REFUSED)
            }
            Self::Offline(_, control) => {
                // Without a gateway, the user who runs this program is the record's operator.
                let operator = Operator(own_name());
                (perform(control, &operator, request).await, super::fault::FAILED)
            }
            Self::Owner(owner) => (owner.send(&request)?, super::fault::FAILED),
        };
        match answer {
            AdminAnswer::Done(reply) => Ok(reply),
            AdminAnswer::Refused { code, message } => {
                Err(CliFault { exit, code: code_of(&code), message }.into())
            }
        }
    }

    /// Releases the lock, after everything is on the disk.
    pub(super) fn close(self) -> Result<(), Failure> {
        match self {
            Self::Gateway(_) => Ok(()),
            Self::Offline(state, _) => Ok(state.log.close()?),
            Self::Owner(owner) => owner.close(),
        }
    }
}

/// The error if the owner of a data folder is not clear.
fn not_trusted(fault: &LogFault) -> CliFault {
    #[allow(clippy::wildcard_enum_match_arm, reason = "other faults have no code of their own")]
    let code = match fault {
        LogFault::Symlink(_) | LogFault::TwoOwners { .. } => "not-trusted",
        _ => "failed",
    };
    CliFault::failed(code, fault.to_string())
}

/// The documented code of a refusal. `refused` if the code is not documented.
fn code_of(code: &str) -> &'static str {
    for known in crate::control::CODES {
        if known == code {
            return known;
        }
    }
    "refused"
}

/// The error if the gateway does not answer within the time limit.
fn no_answer(socket: &Path) -> CliFault {
    let message = format!("the gateway at {} does not answer", socket.display());
    CliFault::failed("no-answer", message)
}

/// Connects to the socket and closes the connection at once.
async fn reach(socket: &Path) -> Result<Reached, CliFault> {
    let connected = timeout(CONNECT_MAX, UnixStream::connect(socket)).await;
    let error = match connected {
        Ok(Ok(_)) => return Ok(Reached::Gateway),
        Ok(Err(error)) => error,
        Err(_) => return Err(no_answer(socket)),
    };
    #[allow(clippy::wildcard_enum_match_arm, reason = "any other error is reported")]
    match error.kind() {
        // A file without a listener is left after a crash. The lock then decides whether the log is
        // free.
        ErrorKind::NotFound => Ok(Reached::Nothing),
        ErrorKind::ConnectionRefused => Ok(Reached::Stale),
        ErrorKind::PermissionDenied => Err(refused_to(socket, shown_owner(socket))),
        _ => Err(CliFault::failed("no-answer", format!("{}: {error}", socket.display()))),
    }
}

/// Sends the request over HTTP/1.1 on the socket.
async fn over(socket: &Path, request: &AdminRequest) -> Result<AdminAnswer, Failure> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let body = Full::new(bytes::Bytes::from(serde_json::to_vec(request)?));
    // HTTP/1.1 requires a Host header (RFC 9112 section 3.2). Its value has no meaning here.
    let request = hyper::Request::post("/v1")
        .header("host", "localhost")
        .header("content-type", "application/json")
        // The gateway uses this value only if the kernel reports that the peer is root.
        .header(SUDO_UID, asker())
        .body(body)?;
    let response = sender.send_request(request).await?;
    let bytes = response.into_body().collect().await?.to_bytes();
    // There is one request for each connection.
    driver.abort();
    serde_json::from_slice(&bytes)
        .map_err(|_| format!("the gateway answered: {}", String::from_utf8_lossy(&bytes)).into())
}
