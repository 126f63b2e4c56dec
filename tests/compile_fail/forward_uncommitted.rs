//! A call whose admission is not durable cannot be sent.

use http::HeaderValue;
use token_shield::guard::admit::Call;
use token_shield::proxy::forward::UpstreamClient;
use token_shield::proxy::watch::Fresh;

fn shortcut(upstream: &UpstreamClient, fresh: Fresh, call: &Call, request_id: HeaderValue) {
    drop(upstream.send(fresh, call, request_id));
}

fn main() {}
