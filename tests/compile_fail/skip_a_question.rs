//! A request that was not governed cannot be admitted.

use std::sync::Arc;

use token_shield::guard::admit::{Admitted, Stamp, Turn, admit};
use token_shield::guard::egress::request::Cleared;
use token_shield::guard::limiter::Limiter;

fn shortcut(cleared: Cleared<'_>, turn: Option<Turn>, limiter: &Arc<Limiter>, stamp: &Stamp<'_>) -> Option<Admitted> {
    admit(cleared, turn, limiter, stamp).ok()
}

fn main() {}
