//! The first part of a request: framing, credential, status and rate. After it the caller is
//! authenticated and within its rates.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, EXPECT};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response};
use hyper::body::{Body as _, Incoming};

use crate::guard::authenticate::{Authentication, Credential, TokenLookup};
use crate::guard::pace::{Paced, pace};
use crate::guard::route::{RequestTarget, route};
use crate::model::Dialect;
use crate::proxy::answer::{Answer, Failed};
use crate::proxy::body::Body;
use crate::proxy::cors::Cors;
use crate::proxy::exchange::Exchange;
use crate::proxy::framing::framing;
use crate::proxy::public::{Public, readable};
use crate::proxy::refused::Refused;
use crate::proxy::watch::RevocationWatcher;
use crate::proxy::{Gateway, Origin, buffer, receipts, respond};
use crate::refusal::Code;

/// An authenticated caller within its rates, and the watcher of its status.
struct Arrived {
    paced: Paced,
    watch: RevocationWatcher,
}

impl Gateway {
    /// Answers one request.
    pub async fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
        origin: Origin,
    ) -> Response<Body> {
        let mut exchange = Exchange::start(&self, dialect(&request), Some(origin.peer));
        exchange.reader.clone_from(&origin.reader);
        let (parts, mut body) = request.into_parts();
        let alone = parts.method == Method::HEAD;
        let cors = Cors::of(&parts, &exchange.config.cors);
        let is_preflight = cors.as_ref().is_some_and(Cors::is_preflight);
        let over_http1 = parts.version <= http::Version::HTTP_11;
        // A caller that waits for 100 Continue has sent no body yet. Reading it here would request
        // it without use (RFC 9110 section 10.1.1).
        let expects = parts.headers.contains_key(EXPECT);
        let request = Request::from_parts(parts, ());
        let answer = if is_preflight {
            exchange.operation = "preflight";
            framing(&request, origin.framing)
                .map(|()| Answer::Public(Bytes::new(), respond::TEXT))
                .map_err(Refused::from)
        } else {
            self.answer(request, &mut body, &origin, &mut exchange).await
        };
        let answered = match answer {
            Ok(answer) => match Box::pin(answer.respond(exchange)).await {
                Ok(response) => Ok(response),
                Err(Failed { refusal, exchange }) => Err((refusal.into(), exchange)),
            },
            Err(refused) => Err((refused, exchange)),
        };
        let mut close = false;
        let mut response = match answered {
            Ok(response) => response,
            Err((refused, exchange)) => {
                // RFC 9112 section 6.1: close after a message whose framing two parsers could read
                // differently (request smuggling).
                let code = refused.refusal.code;
                close = over_http1 && matches!(code, Code::FramingInvalid | Code::UpgradeNotServed);
                Box::pin(self.refuse(refused, exchange, origin.peer)).await
            }
        };
        // RFC 9112 section 9.6: unread bytes of a request end its connection, and `Connection:
        // close` announces it.
        close |=
            over_http1 && !(body.is_end_stream() || !expects && buffer::spent(&mut body).await);
        if let Some(cors) = cors {
            cors.allow(response.headers_mut());
        }
        if close {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if alone { respond::headers_alone(response) } else { response }
    }

    /// The steps of a request. Each step takes the proof that the step before it made.
    async fn answer(
        &self,
        request: Request<()>,
        body: &mut Incoming,
        origin: &Origin,
        exchange: &mut Exchange,
    ) -> Result<Answer, Refused> {
        // Framing comes first: until it is valid, the end of this request is uncertain.
        framing(&request, origin.framing)?;
        let (parts, ()) = request.into_parts();
        let target = RequestTarget::read(&parts.uri)?;
        // Public pages need no credential, so they come before authentication.
        if let Some(public) = Public::of(&parts.method, target.path(), &exchange.config) {
            return Box::pin(self.public(public, &parts.headers, origin.peer, exchange)).await;
        }
        let arrived = self.arrive(&parts, &target, origin.peer, exchange)?;
        if let Some(name) = target.path().strip_prefix(receipts::PATH) {
            exchange.operation = "receipt";
            let agent = arrived.paced.caller().token().verified.agent();
            let receipt: Bytes = Box::pin(receipts::receipt(&self.recorder, agent, name)).await?;
            return Ok(Answer::Public(receipt, respond::TEXT));
        }
        let routed = route(arrived.paced, &parts.method, &target)?;
        self.infer(routed, arrived.watch, parts.headers, body, exchange).await
    }

    /// Authenticates the caller, and counts the request against its rates.
    ///
    /// # Errors
    /// Why the credential is refused, or which rate is exceeded.
    fn arrive(
        &self,
        parts: &Parts,
        target: &RequestTarget<'_>,
        peer: IpAddr,
        exchange: &mut Exchange,
    ) -> Result<Arrived, Refused> {
        let credential =
            Credential::read(&parts.headers).map_err(|no| self.count_unauthenticated(no, peer))?;
        let Authentication { caller, changes, .. } =
            self.authenticate(&credential, peer, exchange)?;
        let watch = RevocationWatcher::new(
            Arc::clone(&self.authenticator),
            self.recorder.clone(),
            Arc::clone(&self.clock),
            Arc::clone(caller.token()),
            changes,
        );
        let paced = pace(caller, &self.limiter)
            .map_err(|over| Refused { refusal: over.refusal, limit: over.limit })?;
        // A refusal of the stage `routed` comes after authentication: the caller is known, so it is
        // recorded.
        readable(&parts.method, target.path(), &exchange.config)?;
        Ok(Arrived { paced, watch })
    }

    /// Verifies the credential. On a refusal the exchange still gets the caller's names, for the
    /// record.
    fn authenticate(
        &self,
        credential: &Credential<'_>,
        peer: IpAddr,
        exchange: &mut Exchange,
    ) -> Result<Authentication, Refused> {
        let tables = Arc::clone(&exchange.config.tables);
        let known =
            self.authenticator.authenticate(credential, peer, tables).map_err(|denied| {
                self.metrics.token_cache("refused");
                exchange.caller = denied.token;
                exchange.handle = denied.handle;
                denied.refusal
            })?;
        self.metrics.token_cache(match known.found {
            TokenLookup::Cached => "hit",
            TokenLookup::Verified => "miss",
        });
        exchange.caller = Some(Arc::clone(known.caller.token()));
        exchange.handle = known.caller.handle().copied();
        Ok(known)
    }
}

/// The dialect of errors for the caller that sent `request`.
pub(super) fn dialect<B>(request: &Request<B>) -> Dialect {
    if request.uri().path().starts_with("/api/") {
        return Dialect::Ollama;
    }
    if request.uri().path().starts_with("/v1/responses") {
        return Dialect::Responses;
    }
    let anthropic = request.uri().path().starts_with("/v1/messages")
        || request.headers().contains_key("anthropic-version");
    if anthropic { Dialect::Anthropic } else { Dialect::OpenAi }
}
