//! A body that skips the functions that ask for a proof cannot be made.

use bytes::Bytes;
use token_shield::proxy::body::Body;

fn main() {
    let _ = Body::whole(Bytes::new());
}
