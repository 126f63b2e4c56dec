//! A check that was made before a wait does not allow a send after it: a future that keeps it is
//! not `Send`.

use http::HeaderValue;
use token_shield::audit::store::entry::Committed;
use token_shield::guard::admit::Call;
use token_shield::proxy::forward::UpstreamClient;
use token_shield::proxy::watch::RevocationWatcher;

async fn shortcut(
    upstream: &UpstreamClient,
    watch: &mut RevocationWatcher,
    call: &Committed<Call>,
    request_id: HeaderValue,
) {
    let Ok(fresh) = watch.check() else { return };
    tokio::task::yield_now().await;
    drop(upstream.send(fresh, call, request_id).await);
}

fn served<F: Future + Send>(_: F) {}

fn main() {
    let _ = |upstream: &UpstreamClient,
             watch: &mut RevocationWatcher,
             call: &Committed<Call>,
             request_id: HeaderValue| {
        served(shortcut(upstream, watch, call, request_id));
    };
}
