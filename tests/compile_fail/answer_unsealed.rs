//! A whole answer needs the proof that its outcome is durable.

use bytes::Bytes;
use token_shield::audit::store::entry::Entry;
use token_shield::proxy::exchange::{Exchange, ResponseParts};
use token_shield::proxy::respond::whole;

fn shortcut(entry: &Entry, exchange: &Exchange, parts: ResponseParts) {
    drop(whole(entry, exchange, parts, "", Bytes::new()));
}

fn main() {}
