//! A stream needs the open entry of its request.

use token_shield::guard::limiter::Permit;
use token_shield::model::Dialect;
use token_shield::proxy::meter::Meter;
use token_shield::proxy::stream::Carried;

fn shortcut(meter: Meter, places: [Permit; 2]) -> Carried {
    Carried { meter, dialect: Dialect::OpenAi, request: String::new(), places, room: None }
}

fn main() {}
