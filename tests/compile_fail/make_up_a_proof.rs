//! A verified signature cannot be made up.

fn main() {
    let _ = token_shield::crypto::Genuine(());
}
