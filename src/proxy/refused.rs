//! What becomes of a request that is refused: counted, sealed where its caller is known, and told.

use std::net::IpAddr;

use http::Response;

use crate::guard::gcra::Limit;
use crate::model::Dialect;
use crate::proxy::Gateway;
use crate::proxy::body::Body;
use crate::proxy::exchange::{Exchange, Occupied};
use crate::proxy::respond::{self, Anonymous, RefusalResponse};
use crate::refusal::{Code, Refusal, Stage};

/// A refusal on its way out, with the rate limit to show in its headers.
pub(super) struct Refused {
    pub(super) refusal: Refusal,
    pub(super) limit: Option<Limit>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, limit: None }
    }
}

impl Gateway {
    /// The whole HTTP/1.1 answer to a request whose head could not be read, for the reason `code`.
    #[must_use]
    pub fn unread(&self, code: Code) -> Vec<u8> {
        let mut exchange = Exchange::start(self, Dialect::OpenAi, None);
        let refusal = Refusal::new(code);
        exchange.refused(&refusal);
        self.recorder.count_unauthenticated(&exchange.id, &refusal, None);
        let no = RefusalResponse::Anonymous(Anonymous::new(refusal));
        respond::written(respond::refuse(&no, Dialect::OpenAi, &exchange.id_text, None))
    }

    /// The answer to a refused request: sealed where the caller is known, counted where not.
    pub(super) async fn refuse(
        &self,
        refused: Refused,
        mut exchange: Box<Exchange>,
        peer: IpAddr,
    ) -> Response<Body> {
        let Refused { refusal, limit } = refused;
        // Others may have its slots while the refusal is recorded.
        exchange.occupied = Occupied::default();
        let refusal = respond::clock_named(refusal, &*self.clock);
        exchange.judged(&refusal);
        let about = exchange.about().filter(|_| refusal.code.stage() >= Stage::Authenticated);
        let no = if let Some((entry, ending)) = exchange.take_entry() {
            RefusalResponse::Recorded(self.recorder.close_refused(entry, ending, refusal).await)
        } else if let Some(about) = about {
            RefusalResponse::Recorded(
                self.recorder.record_refusal(refusal, about, exchange.ms()).await,
            )
        } else {
            self.recorder.count_unauthenticated(&exchange.id, &refusal, Some(peer));
            RefusalResponse::Anonymous(Anonymous::new(refusal))
        };
        // What is told is what counts, once: where it cannot be recorded, that has become the refusal.
        exchange.refused(no.refusal());
        respond::refuse(&no, exchange.dialect, &exchange.id_text, limit)
    }

    /// A refusal of somebody without a credential, counted against the peer's network.
    pub(super) fn count_unauthenticated(&self, refusal: Refusal, peer: IpAddr) -> Refused {
        self.authenticator.limit_unauthenticated(peer).err().unwrap_or(refusal).into()
    }
}
