//! A call cannot be sent without a check of its caller, nor twice after one.

use http::HeaderValue;
use token_shield::audit::store::entry::Committed;
use token_shield::guard::admit::Call;
use token_shield::proxy::forward::UpstreamClient;
use token_shield::proxy::watch::Fresh;

fn twice(upstream: &UpstreamClient, fresh: Fresh, call: &Committed<Call>, request_id: HeaderValue) {
    drop(upstream.send(fresh, call, request_id.clone()));
    drop(upstream.send(fresh, call, request_id));
}

fn main() {}
