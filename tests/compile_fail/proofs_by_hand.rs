//! No step's proof can be made by hand: each step alone makes its own. Those with named fields.

use token_shield::audit::store::entry::{Entry, RecordedRefusal};
use token_shield::guard::admit::Admitted;
use token_shield::guard::authenticate::Authenticated;
use token_shield::guard::candidates::{Candidates, Turn};
use token_shield::guard::cap::Capped;
use token_shield::guard::pace::Paced;
use token_shield::guard::reserve::Reserved;
use token_shield::guard::route::Routed;
use token_shield::guard::understand::Understood;

fn main() {
    let _ = Authenticated {};
    let _ = Paced {};
    let _ = Routed {};
    let _ = Understood {};
    let _ = Candidates {};
    let _ = Capped {};
    let _ = Turn {};
    let _ = Reserved {};
    let _ = Admitted {};
    let _ = Entry {};
    let _ = RecordedRefusal {};
}
