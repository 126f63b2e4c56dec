//! The way of a command: through the admin socket if a gateway answers there, else with the data folder's own lock.

use std::path::PathBuf;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::{Failure, Place};
use crate::app::Books;
use crate::app::keys::fetch_all;
use crate::config::Config;
use crate::control::api::{Answer, Request, perform};
use crate::control::{Control, Operator, Reply};

/// Sends one request and gives the reply.
pub(super) async fn send(place: &Place, request: Request) -> Result<Reply, Failure> {
    let config = place.read()?;
    send_to(&config, request).await
}

/// Sends one request to the gateway of that config.
pub(super) async fn send_to(config: &Config, request: Request) -> Result<Reply, Failure> {
    let door = Door::open(config).await?;
    let reply = door.send(request).await;
    door.close()?;
    reply
}

/// Where requests go, as many as there are.
pub(super) enum Door {
    /// A gateway that runs, behind this socket.
    Gateway(PathBuf),
    /// The books, under their lock.
    Books(Books, Arc<Control>),
}

impl Door {
    /// Finds out which it is.
    pub(super) async fn open(config: &Config) -> Result<Self, Failure> {
        if UnixStream::connect(&config.proxy.admin).await.is_ok() {
            return Ok(Self::Gateway(config.proxy.admin.clone()));
        }
        // Nobody listens: the folder's lock says whether that is so.
        let books = Books::open(config)?;
        for fault in fetch_all(config, &books.keyring).await {
            eprintln!("warning: {fault}");
        }
        let control = Arc::new(books.control(config, None));
        Ok(Self::Books(books, control))
    }

    /// Sends one request and gives the reply.
    pub(super) async fn send(&self, request: Request) -> Result<Reply, Failure> {
        let answer = match self {
            Self::Gateway(socket) => over(UnixStream::connect(socket).await?, &request).await?,
            Self::Books(_, control) => {
                let operator = Operator(own_name());
                perform(control, &operator, request).await
            }
        };
        match answer {
            Answer::Done(reply) => Ok(reply),
            Answer::Refused(why) => Err(why.into()),
        }
    }

    /// Gives the lock back, once everything is on the disk.
    pub(super) fn close(self) -> Result<(), Failure> {
        match self {
            Self::Gateway(_) => Ok(()),
            Self::Books(books, _) => Ok(books.log.close()?),
        }
    }
}

/// Who commands, where no gateway runs that could ask the kernel.
pub(super) fn own_name() -> String {
    format!("uid:{}", rustix::process::getuid().as_raw())
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
