//! The built-in upstream `echo`: an inference server within the process. It answers with the text
//! of the request, so that a gateway can be tested without a model.
//!
//! It serves HTTP/1.1 over a pipe in memory. A request to it therefore takes the same path as a
//! request to any other upstream. It knows only the request that it receives.

mod anthropic;
mod embeddings;
mod message;
mod ollama;
mod openai;
mod reply;
mod request;
mod rerank;
mod responses;
mod words;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;

pub use self::reply::Reply;
use self::reply::ReplyBody;
use self::request::EchoRequest;
use crate::clock::{Clock as _, SystemClock};
use crate::model::Operation;
use crate::model::framing::Framing;
use crate::proxy::JSON;

/// Bytes that each direction of a connection buffers, similar to a socket.
const PIPE_BYTES: usize = 64 << 10;

/// Opens a connection to `echo`. A task serves it until the caller drops its end.
pub(super) fn connect() -> DuplexStream {
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    tokio::spawn(async move {
        let connection =
            http1::Builder::new().serve_connection(TokioIo::new(far), service_fn(serve));
        // A caller that disconnects during an answer is normal, so this is only a debug line.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to echo ended");
        }
    });
    near
}

/// Serves one request.
async fn serve(request: Request<Incoming>) -> Result<Response<ReplyBody>, hyper::Error> {
    let Some(operation) = served(request.method(), request.uri().path()) else {
        return Ok(fault(StatusCode::NOT_FOUND, "echo does not serve this path"));
    };
    // The answer's id contains the request's, so that a test can match the two.
    let id = match request.headers().get("x-request-id") {
        Some(id) => String::from_utf8_lossy(id.as_bytes()).into_owned(),
        None => "echo".to_owned(),
    };
    let body = request.into_body().collect().await?.to_bytes();
    let created = SystemClock::start().now().seconds();
    match answer(operation, &body, &id, created) {
        Some(reply) => Ok(response(StatusCode::OK, reply)),
        None => Ok(fault(StatusCode::BAD_REQUEST, "the body is not a JSON object")),
    }
}

/// The operation of a path, if `echo` serves it with this method.
fn served(method: &Method, path: &str) -> Option<Operation> {
    let operation = Operation::ALL.into_iter().find(|operation| operation.path() == path)?;
    match operation {
        Operation::ChatCompletions
        | Operation::Completions
        | Operation::Embeddings
        | Operation::Rerank
        | Operation::Messages
        | Operation::CountTokens
        | Operation::Responses
        | Operation::OllamaChat
        | Operation::OllamaGenerate => (*method == Method::POST).then_some(operation),
        Operation::OllamaEmbed
        | Operation::OllamaEmbeddings
        | Operation::OllamaTags
        | Operation::OllamaShow
        | Operation::OllamaRunning
        | Operation::OllamaVersion
        | Operation::ListModels
        | Operation::ShowModel
        | Operation::Me
        | Operation::Declared => None,
    }
}

/// Answers a request body. `id` names the answer; `created` is in seconds since 1970.
///
/// `None` if the body is not a JSON object, or if `operation` has no body.
#[must_use]
pub fn answer(operation: Operation, body: &[u8], id: &str, created: i64) -> Option<Reply> {
    let request = EchoRequest::read(body, id, created)?;
    match operation {
        Operation::ChatCompletions => Some(openai::chat(&request)),
        Operation::Completions => Some(openai::completion(&request)),
        Operation::Embeddings => Some(embeddings::answer(&request)),
        Operation::Rerank => Some(rerank::answer(&request)),
        Operation::Messages => Some(anthropic::messages(&request)),
        Operation::CountTokens => Some(anthropic::count_tokens(&request)),
        Operation::Responses => Some(responses::answer(&request)),
        Operation::OllamaChat => Some(ollama::chat(&request)),
        Operation::OllamaGenerate => Some(ollama::generate(&request)),
        Operation::OllamaEmbed
        | Operation::OllamaEmbeddings
        | Operation::OllamaTags
        | Operation::OllamaShow
        | Operation::OllamaRunning
        | Operation::OllamaVersion
        | Operation::ListModels
        | Operation::ShowModel
        | Operation::Me
        | Operation::Declared => None,
    }
}

/// A response with the media type of `reply`.
fn response(status: StatusCode, reply: Reply) -> Response<ReplyBody> {
    let content_type = match &reply {
        Reply::Whole(_) => JSON,
        Reply::Events(_) => Framing::Events.media_type(),
        Reply::Lines(_) => Framing::Lines.media_type(),
    };
    let mut response = Response::new(ReplyBody::new(reply));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An error response in OpenAI's form.
fn fault(status: StatusCode, message: &str) -> Response<ReplyBody> {
    let body = format!(
        r#"{{"error":{{"message":{},"type":"invalid_request_error","code":null}}}}"#,
        words::quoted(message)
    );
    response(status, Reply::Whole(body.into_bytes()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::Full;
    use hyper::client::conn::http1::handshake;

    use super::*;

    /// Sends one request over a connection. Returns the status, media type and body of the answer.
    async fn exchange(path: &str, body: &'static str) -> (u16, String, String) {
        let (mut sender, connection) =
            handshake(TokioIo::new(connect())).await.expect("a connection");
        let served = tokio::spawn(connection);
        let request = Request::post(path)
            .header("host", "localhost")
            .header("x-request-id", "rq_7")
            .body(Full::new(Bytes::from_static(body.as_bytes())))
            .expect("a request");
        let (head, body) = sender.send_request(request).await.expect("an answer").into_parts();
        let bytes = body.collect().await.expect("a body").to_bytes();
        drop(sender);
        served.await.expect("the connection ends").expect("without a fault");
        let content_type = head.headers[CONTENT_TYPE].to_str().expect("text").to_owned();
        let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
        (head.status.as_u16(), content_type, text)
    }

    #[tokio::test]
    async fn a_connection_answers_over_http() {
        let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
        let (status, content_type, text) = exchange("/v1/chat/completions", body).await;
        assert_eq!((status, &*content_type), (200, JSON));
        assert!(text.contains(r#""id":"chatcmpl-rq_7""#), "{text}");
        let body = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
        let (status, content_type, text) = exchange("/v1/messages", body).await;
        assert_eq!((status, &*content_type), (200, Framing::Events.media_type()));
        assert!(text.starts_with("event: message_start\n"), "{text}");
        let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
        let (status, content_type, text) = exchange("/api/chat", body).await;
        assert_eq!((status, &*content_type), (200, Framing::Lines.media_type()));
        assert_eq!(text.lines().count(), 2, "{text}");
        assert_eq!(exchange("/v1/models", "{}").await.0, 404);
        assert_eq!(exchange("/v1/messages", "[]").await.0, 400);
    }
}
