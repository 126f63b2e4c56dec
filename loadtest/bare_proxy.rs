//! A reverse proxy without checks. It shows the cost of hyper's server and client alone, on the
//! runtime that token-shield uses.

use std::convert::Infallible;
use std::error::Error;
use std::io::Write as _;

use bytes::Bytes;
use clap::Parser;
use http_body_util::Either;
use http_body_util::Empty;
use hyper::Request;
use hyper::Response;
use hyper::StatusCode;
use hyper::Uri;
use hyper::body::Incoming;
use hyper::header::CONNECTION;
use hyper::header::HOST;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// The allocator of token-shield, so that both programs manage memory in the same form.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Upstreams = Client<HttpConnector, Incoming>;

/// Forwards every request to one upstream.
#[derive(Debug, Parser)]
struct Words {
    /// The address to listen on. Port 0 is any free port. The first line on stdout is the real
    /// address.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// The upstream's `host:port`.
    #[arg(long)]
    upstream: String,
}

// As many workers as the process may use cores, as in token-shield.
#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let words = Words::parse();
    let listener = TcpListener::bind(&words.listen).await?;
    writeln!(std::io::stdout(), "{}", listener.local_addr()?)?;
    std::io::stdout().flush()?;
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Upstreams = Client::builder(TokioExecutor::new()).build(connector);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let client = client.clone();
        let authority = words.upstream.clone();
        let service =
            service_fn(move |request| forward(client.clone(), authority.clone(), request));
        // A connection breaks when the load generator disconnects. This is not an error.
        tokio::spawn(async move {
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
        });
    }
}

async fn forward(
    client: Upstreams,
    authority: String,
    mut request: Request<Incoming>,
) -> Result<Response<Either<Incoming, Empty<Bytes>>>, Infallible> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let answer =
        match Uri::builder().scheme("http").authority(authority).path_and_query(path).build() {
            Ok(uri) => {
                *request.uri_mut() = uri;
                request.headers_mut().remove(HOST);
                request.headers_mut().remove(CONNECTION);
                client.request(request).await.ok()
            }
            Err(_) => None,
        };
    Ok(answer.map_or_else(
        || {
            let mut broken = Response::new(Either::Right(Empty::new()));
            *broken.status_mut() = StatusCode::BAD_GATEWAY;
            broken
        },
        |answer| answer.map(Either::Left),
    ))
}
