//! The service of a listener, and the service of the inference API.

use std::future::Future;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;

use crate::proxy::body::Body;
use crate::proxy::entrance::Entrance;
use crate::proxy::{Gateway, Origin};
use crate::refusal::Code;

/// The requests' side of a listener. A listener for another protocol has another implementation.
pub trait Service: Send + Sync + 'static {
    /// Answers one request.
    fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
        origin: Origin,
    ) -> impl Future<Output = Response<Body>> + Send;

    /// The complete HTTP/1.1 answer to a request whose head could not be parsed, for the reason
    /// `code`.
    fn unread(&self, code: Code) -> Vec<u8>;

    /// Called when a peer has sent more HTTP/2 control frames than its budget allows.
    fn flooded(&self);

    /// Waits until the serving process is decided; true if it is this one.
    fn is_here(&self) -> impl Future<Output = bool> + Send;

    /// Waits until this process does not serve, permanently or for the moment.
    fn closed(&self) -> impl Future<Output = ()> + Send;

    /// Ends the open requests of this process. Their streams end with an event that reports it.
    fn cut(&self);

    /// Ends the answers of another process over connections of this one.
    fn cut_elsewhere(&self);
}

/// The inference API.
pub struct Api {
    /// Answers the requests.
    pub gateway: Arc<Gateway>,
    /// Decides which process serves.
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
        // The announcement wakes all watchers, which then see the cut and end their streams.
        self.gateway.recorder.cut();
        self.gateway.registry.announce();
    }

    fn cut_elsewhere(&self) {
        self.entrance.cut();
    }
}
