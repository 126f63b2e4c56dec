//! No step's proof can be made by hand: each step alone makes its own. Those that wrap the proof of
//! another step.

use token_shield::audit::store::entry::{Committed, RecordedAnswer};
use token_shield::guard::egress::request::Cleared;
use token_shield::guard::govern::Governed;
use token_shield::guard::screen::Screened;
use token_shield::proxy::exchange::OpenExchange;
use token_shield::proxy::respond::Anonymous;
use token_shield::proxy::watch::Fresh;

fn made<T>() -> T {
    loop {}
}

fn main() {
    let _ = Cleared(made());
    let _ = Screened(made());
    let _ = Governed(made());
    let _ = Committed(made::<()>());
    let _ = RecordedAnswer(made());
    let _ = OpenExchange(made());
    let _ = Anonymous(made());
    let _ = Fresh(made());
}
