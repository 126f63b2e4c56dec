//! What becomes of a request that is refused: counted, sealed where its caller is known, and told.

use std::net::IpAddr;
use std::sync::Arc;

use http::{Method, Response};

use crate::guard::gcra::Limit;
use crate::guard::route::reads;
use crate::model::Dialect;
use crate::proxy::body::Body;
use crate::proxy::meter::Meter;
use crate::proxy::respond::{self, Anonymous, No};
use crate::proxy::{Gateway, KEYS_PATH, Way, Wiring, receipts, tree};
use crate::refusal::{Allow, Code, Refusal, Stage};

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
        let id = self.request_ids.next(self.clock.now());
        let refusal = Refusal::new(code);
        Meter::start(Arc::clone(&self.metrics), Arc::clone(&self.clock), id).refused(&refusal);
        self.pen.stranger(&id, &refusal, None);
        let no = No::Anonymous(Anonymous::new(refusal));
        respond::written(respond::refuse(&no, Dialect::OpenAi, &id.to_string(), None))
    }

    /// The answer to a refused request: sealed where the caller is known, counted where not.
    pub(super) async fn refuse(&self, refused: Refused, mut way: Box<Way>, peer: IpAddr) -> Response<Body> {
        let Refused { refusal, limit } = refused;
        let refusal = respond::clock_named(refusal, &*self.clock);
        way.meter.judged(&refusal);
        let about = way.meter.about(&way.wiring.policy).filter(|_| refusal.code.stage() >= Stage::Authenticated);
        let no = if let Some((entry, ending)) = way.meter.take_entry() {
            No::Sealed(self.pen.close_refused(entry, ending, refusal).await)
        } else if let Some(about) = about {
            No::Sealed(self.pen.seal_refusal(refusal, about, way.meter.ms()).await)
        } else {
            self.pen.stranger(&way.id, &refusal, Some(peer));
            No::Anonymous(Anonymous::new(refusal))
        };
        // What is told is what counts, once: where it cannot be recorded, that has become the refusal.
        way.meter.refused(no.refusal());
        respond::refuse(&no, way.dialect, &way.id_text, limit)
    }

    /// A refusal of somebody without a credential, counted against the peer's network.
    pub(super) fn stranger(&self, refusal: Refusal, peer: IpAddr) -> Refused {
        self.authenticator.count_stranger(peer).err().unwrap_or(refusal).into()
    }
}

/// Refuses other methods than those that read, on the paths beside the operations: keys, the log's tree, receipts.
pub(super) fn readable(method: &Method, path: &str, wiring: &Wiring) -> Result<(), Refusal> {
    let known = path.starts_with(receipts::PATH)
        || wiring.publish_keys && path == KEYS_PATH
        || wiring.tree.is_some() && path.starts_with(tree::PATH);
    if known && !reads(method) { Err(Refusal::new(Code::MethodNotAllowed).allowing(Allow::Read)) } else { Ok(()) }
}
