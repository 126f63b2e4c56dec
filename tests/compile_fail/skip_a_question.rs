//! A request that was not governed gets no cap, one without a cap no slot, and one without a slot
//! is not admitted.

use std::sync::Arc;

use token_shield::guard::admit::{BodyStamp, admit};
use token_shield::guard::candidates::Turn;
use token_shield::guard::cap::{Capped, cap};
use token_shield::guard::egress::request::Cleared;
use token_shield::guard::govern::Governed;
use token_shield::guard::limiter::Limiter;
use token_shield::guard::reserve::reserve;
use token_shield::weights::Weights;

fn ungoverned(cleared: Cleared<'_>, weights: &Weights) {
    drop(cap(cleared, weights));
}

fn uncapped(governed: Governed<'_>, turn: Option<Turn>, limiter: &Arc<Limiter>) {
    drop(reserve(governed, turn, limiter));
}

fn unreserved(capped: Capped<'_>, stamp: &BodyStamp<'_>) {
    drop(admit(capped, stamp));
}

fn main() {}
