//! What a listener serves, and the service of the inference API.

use std::future::Future;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;

use crate::proxy::body::Body;
use crate::proxy::entrance::Entrance;
use crate::proxy::{Gateway, Origin};
use crate::refusal::Code;

/// What a listener serves. A listener for another protocol brings a service of its own.
pub trait Service: Send + Sync + 'static {
    /// Answers one request.
    fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
        origin: Origin,
    ) -> impl Future<Output = Response<Body>> + Send;

    /// The whole HTTP/1.1 answer to a request whose head could not be read, for the reason `code`.
    fn unread(&self, code: Code) -> Vec<u8>;

    /// A peer has sent more HTTP/2 control frames than it may.
    fn flooded(&self);

    /// Waits until it is clear which process serves. True where it is this one.
    fn is_here(&self) -> impl Future<Output = bool> + Send;

    /// Waits until this process does not serve, or not for now.
    fn closed(&self) -> impl Future<Output = ()> + Send;

    /// Ends the requests that are still at work in this process. Their streams end with an event that says so.
    fn cut(&self);

    /// Ends what another process still answers over connections of this one.
    fn cut_elsewhere(&self);
}

/// The inference API.
pub struct Api {
    /// Answers its requests.
    pub gateway: Arc<Gateway>,
    /// Knows which process serves.
    pub entrance: Arc<Entrance>,
}

impl Service for Api {
    async fn serve(self: Arc<Self>, request: Request<Incoming>, origin: Origin) -> Response<Body> {
        self.entrance.serve(&self.gateway, request, origin).await
    }

    fn unread(&self, code: Code) -> Vec<u8> {
        self.gateway.unread(code)
    }

    fn flooded(&self) {
        self.gateway.metrics.flood();
    }

    async fn is_here(&self) -> bool {
        self.entrance.is_here().await
    }

    async fn closed(&self) {
        self.entrance.closed().await;
    }

    fn cut(&self) {
        self.gateway.recorder.cut();
        self.gateway.registry.announce();
    }

    fn cut_elsewhere(&self) {
        self.entrance.cut();
    }
}
