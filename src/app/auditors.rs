//! The auditors' socket. It serves the log's tree, read-only, to every process that may open the
//! socket file.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tower::limit::GlobalConcurrencyLimitLayer;

use crate::control::bounded::Bounded;
use crate::proxy::descriptors::SOCKET_CONNECTIONS_MAX;
use crate::proxy::tree::{LogTree, PATH};

/// The number of files that are read at once.
const READS_MAX: usize = 16;

/// Binds the socket, for its owner and its group.
///
/// # Errors
/// When it cannot be bound.
pub(super) fn bind(path: &Path) -> std::io::Result<UnixListener> {
    crate::control::socket::bind_for(path, 0o660)
}

/// Serves until `shutdown`.
///
/// # Errors
/// When the listener fails.
pub(super) async fn run(
    listener: UnixListener,
    tree: Arc<LogTree>,
    mut shutdown: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let router = Router::new()
        .fallback(answer)
        .layer(GlobalConcurrencyLimitLayer::new(READS_MAX))
        .with_state(tree);
    let stop = async move {
        let _ = shutdown.wait_for(|stop| *stop).await;
    };
    axum::serve(Bounded::new(listener, SOCKET_CONNECTIONS_MAX).with_idle_limit(), router)
        .with_graceful_shutdown(stop)
        .await
}

/// Serves one file of the tree. Every failure is 404 or 405, without details of the data folder.
async fn answer(method: Method, uri: Uri, State(tree): State<Arc<LogTree>>) -> Response {
    // The tree is read-only for every client of this socket.
    if method != Method::GET {
        return (StatusCode::METHOD_NOT_ALLOWED, "the log is read with GET\n").into_response();
    }
    let file = match uri.path().strip_prefix(PATH) {
        Some(path) => tree.file(path),
        None => None,
    };
    let Some(file) = file else {
        let say = "there is no such file: /audit/log.vkeys, /audit/NAME/EPOCH/checkpoint, \
            /audit/NAME/EPOCH/tile/...\n";
        return (StatusCode::NOT_FOUND, say).into_response();
    };
    match file.read().await {
        Ok((bytes, content_type)) => {
            ([(header::CONTENT_TYPE, content_type)], bytes).into_response()
        }
        // The log may prune an epoch or complete a partial tile between the lookup and the read.
        Err(_) => (
            StatusCode::NOT_FOUND,
            "this file does not exist, or no longer: read the checkpoint again\n",
        )
            .into_response(),
    }
}
