//! A stream needs the open entry of its request.

use token_shield::proxy::exchange::{Exchange, ResponseParts};
use token_shield::proxy::respond::stream;
use token_shield::proxy::stream::StreamSource;
use token_shield::proxy::watch::RevocationWatcher;

fn shortcut(
    exchange: Box<Exchange>,
    parts: ResponseParts,
    source: StreamSource,
    watch: RevocationWatcher,
) {
    drop(stream(exchange, parts, source, watch));
}

fn main() {}
