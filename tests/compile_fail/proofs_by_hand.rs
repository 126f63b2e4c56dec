//! No step's proof can be made by hand: each step alone makes its own. Those with named fields.

use token_shield::audit::store::entry::{Entry, SealedRefusal};
use token_shield::guard::admit::Admitted;
use token_shield::guard::authenticate::Authenticated;
use token_shield::guard::candidates::{Candidates, Turn};
use token_shield::guard::cap::Capped;
use token_shield::guard::pace::Paced;
use token_shield::guard::reserve::Reserved;
use token_shield::guard::route::Routed;
use token_shield::guard::understand::Understood;

fn made<T>() -> T {
    loop {}
}

fn main() {
    let _ = Authenticated { ..made() };
    let _ = Paced { ..made() };
    let _ = Routed { ..made() };
    let _ = Understood { ..made() };
    let _ = Candidates { ..made() };
    let _ = Capped { ..made() };
    let _ = Turn { ..made() };
    let _ = Reserved { ..made() };
    let _ = Admitted { ..made() };
    let _ = Entry { ..made() };
    let _ = SealedRefusal { ..made() };
}
