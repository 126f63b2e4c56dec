//! The way of a command: through the admin socket if a gateway answers there, else with the data folder's own lock.

use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::{Failure, Place};
use crate::app::Books;
use crate::config::Config;
use crate::control::api::{Answer, Request, perform};
use crate::control::{Operator, Reply};

/// Sends one request and gives the reply.
pub(super) async fn send(place: &Place, request: Request) -> Result<Reply, Failure> {
    let config = place.read()?;
    send_to(&config, request).await
}

/// Sends one request to the gateway of that config.
pub(super) async fn send_to(config: &Config, request: Request) -> Result<Reply, Failure> {
    let answer = match UnixStream::connect(&config.proxy.admin).await {
        Ok(stream) => over(stream, &request).await?,
        // Nobody listens: the folder's lock says whether that is so.
        Err(_) => {
            let books = Books::open(config)?;
            let control = std::sync::Arc::new(books.control(config, None));
            let operator = Operator(format!("uid:{}", rustix::process::getuid().as_raw()));
            let answer = perform(&control, &operator, request).await;
            books.log.close()?;
            answer
        }
    };
    match answer {
        Answer::Done(reply) => Ok(reply),
        Answer::Refused(why) => Err(why.into()),
    }
}

async fn over(stream: UnixStream, request: &Request) -> Result<Answer, Failure> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let body = Full::new(bytes::Bytes::from(serde_json::to_vec(request)?));
    let request =
        hyper::Request::post("/v1").header("host", "localhost").header("content-type", "application/json").body(body)?;
    let response = sender.send_request(request).await?;
    let bytes = response.into_body().collect().await?.to_bytes();
    driver.abort();
    serde_json::from_slice(&bytes).map_err(|_| format!("the gateway answered: {}", String::from_utf8_lossy(&bytes)).into())
}

/// Prints the rows of a reply, as JSON lines or as a table.
pub(super) fn print(reply: &Reply, json: bool) -> Result<(), Failure> {
    for row in &reply.rows {
        if json {
            println!("{row}");
            continue;
        }
        let members = row.as_object().into_iter().flatten().filter(|(name, value)| !value.is_null() && *name != "jwk");
        let shown: Vec<String> = members
            .map(|(name, value)| format!("{name}={}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
            .collect();
        println!("{}", shown.join("  "));
    }
    Ok(())
}

/// Says on standard error what was sealed.
pub(super) fn say_sealed(what: &str, reply: &Reply) {
    let indices: Vec<String> = reply.sealed.iter().map(|index| format!("#{index}")).collect();
    eprintln!("{what}, sealed as {}", indices.join(" "));
    if let Some(note) = &reply.note {
        eprintln!("note: {note}");
    }
}
