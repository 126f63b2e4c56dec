//! The admin API: one JSON request and one JSON reply, over a Unix socket of mode 0600. The kernel
//! reports the uid of the peer.

use std::sync::Arc;

use axum::Router;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{Json, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::serve::IncomingStream;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tower::limit::GlobalConcurrencyLimitLayer;

use crate::control::bounded::Bounded;
use crate::control::{Command, Control, Operator, Question, Reply};

/// The maximum number of commands and questions at once. Others wait.
const COMMANDS_MAX: usize = 64;

/// The header in which root's command names the uid of the user who became root with sudo.
pub const SUDO_UID: &str = "token-shield-sudo-uid";

/// A request on the admin socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AdminRequest {
    /// A change of state.
    Command(Command),
    /// A question about the state.
    Question(Question),
}

/// The answer to a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdminAnswer {
    /// The command was executed, or this is the state.
    Done(Reply),
    /// The request was refused.
    Refused {
        /// A code for programs ([`CODES`](crate::control::CODES)).
        code: String,
        /// The reason, for people.
        message: String,
    },
}

/// The uid of a connection's peer; `None` if the kernel does not report it.
#[derive(Clone)]
struct Peer(Option<u32>);

impl Connected<IncomingStream<'_, Bounded<UnixListener>>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Bounded<UnixListener>>) -> Self {
        match stream.io().get_ref().peer_cred() {
            Ok(peer) => Self(Some(peer.uid())),
            Err(_) => Self(None),
        }
    }
}

/// The uid in the header [`SUDO_UID`], if there is a valid one.
fn sudo_uid(headers: &HeaderMap) -> Option<u32> {
    headers.get(SUDO_UID)?.to_str().ok()?.parse().ok()
}

/// Handles one request: checks the peer's uid, and executes the request in that user's name.
async fn answer(
    ConnectInfo(Peer(uid)): ConnectInfo<Peer>,
    State(control): State<Arc<Control>>,
    headers: HeaderMap,
    Json(request): Json<AdminRequest>,
) -> (StatusCode, Json<AdminAnswer>) {
    // The mode of the socket enforces this too, but only after the mode is set.
    let own = rustix::process::geteuid().as_raw();
    let Some(uid) = uid.filter(|uid| *uid == 0 || *uid == own) else {
        let message = "only root and the gateway's own user are operators".to_owned();
        return (
            StatusCode::FORBIDDEN,
            Json(AdminAnswer::Refused { code: "not-owner".to_owned(), message }),
        );
    };
    // Root may name the user who became root with sudo. This adds no risk, because root could write
    // any record.
    let asker = match sudo_uid(&headers) {
        Some(asker) if uid == 0 => asker,
        Some(_) | None => uid,
    };
    let answer = perform(&control, &Operator(format!("uid:{asker}")), request).await;
    let status = if matches!(answer, AdminAnswer::Done(_)) {
        StatusCode::OK
    } else {
        StatusCode::UNPROCESSABLE_ENTITY
    };
    (status, Json(answer))
}

/// Executes a request.
pub async fn perform(
    control: &Arc<Control>,
    operator: &Operator,
    request: AdminRequest,
) -> AdminAnswer {
    let done = match request {
        AdminRequest::Command(command) => control.apply(operator, command).await,
        AdminRequest::Question(question) => control.ask(&question),
    };
    done.map_or_else(
        |fault| AdminAnswer::Refused { code: fault.code().to_owned(), message: fault.to_string() },
        AdminAnswer::Done,
    )
}

/// Serves the admin API until `shutdown` turns true.
///
/// # Errors
/// When the listener fails.
pub async fn run(
    listener: Bounded<UnixListener>,
    control: Arc<Control>,
    mut shutdown: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/v1", post(answer))
        .layer(GlobalConcurrencyLimitLayer::new(COMMANDS_MAX))
        .with_state(control);
    let service = router.into_make_service_with_connect_info::<Peer>();
    let stop = async move {
        let _ = shutdown.wait_for(|stop| *stop).await;
    };
    axum::serve(listener, service).with_graceful_shutdown(stop).await
}
