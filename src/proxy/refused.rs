//! The end of a refused request: it is counted, recorded if its caller is known, and answered.

use std::net::IpAddr;

use http::Response;

use crate::guard::gcra::Limit;
use crate::model::Dialect;
use crate::proxy::Gateway;
use crate::proxy::body::Body;
use crate::proxy::exchange::{Exchange, Occupied};
use crate::proxy::respond::{self, Anonymous, RefusalResponse};
use crate::refusal::{Code, Refusal, Stage};

/// A refusal, with the rate limit for the headers of its answer.
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
    /// The complete HTTP/1.1 answer to a request whose head could not be parsed, for the reason
    /// `code`.
    #[must_use]
    pub fn unread(&self, code: Code) -> Vec<u8> {
        let mut exchange = Exchange::start(self, Dialect::OpenAi, None);
        let refusal = Refusal::new(code);
        exchange.refused(&refusal);
        self.recorder.count_unauthenticated(&exchange.id, &refusal, None);
        let no = RefusalResponse::Anonymous(Anonymous::new(refusal));
        respond::written(respond::refuse(&no, Dialect::OpenAi, &exchange.id_text, None))
    }

    /// The answer to a refused request. The refusal is recorded if the caller is known, otherwise
    /// counted.
    pub(super) async fn refuse(
        &self,
        refused: Refused,
        mut exchange: Box<Exchange>,
        peer: IpAddr,
    ) -> Response<Body> {
        let Refused { refusal, limit } = refused;
        // The slots are free for other requests while the refusal is recorded.
        exchange.occupied = Occupied::default();
        let refusal = respond::clock_named(refusal, &*self.clock);
        exchange.judged(&refusal);
        // Before the stage `Authenticated` the caller's names are not verified. A record must not
        // contain them.
        let is_known = refusal.code.stage() >= Stage::Authenticated;
        let about = if is_known { exchange.about() } else { None };
        // An admitted request has an open entry: the refusal is its outcome.
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
        // The refusal that the caller gets is counted, once. If recording failed, that failure has
        // become the refusal.
        exchange.refused(no.refusal());
        respond::refuse(&no, exchange.dialect, &exchange.id_text, limit)
    }

    /// The refusal of a caller without a credential, counted against its network. It becomes the
    /// network's rate refusal if that rate is exceeded.
    pub(super) fn count_unauthenticated(&self, refusal: Refusal, peer: IpAddr) -> Refused {
        match self.authenticator.limit_unauthenticated(peer) {
            Ok(()) => refusal.into(),
            Err(limited) => limited.into(),
        }
    }
}
