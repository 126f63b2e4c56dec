//! A real gateway in this process, with an upstream that counts requests. Tests use raw bytes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use token_shield::app::{App, Listeners};
use token_shield::clock::{Clock, SystemClock};
use token_shield::config;
use token_shield::control::{Command, Control, Operator, Reply};
use token_shield::crypto::{Algorithm, SigningKey};
use token_shield::json::{Object, Value};
use token_shield::token::{jwk, mint};
use tokio::runtime::Runtime;
use tokio::sync::watch;

pub(crate) const ISS: &str = "https://operator.example";
pub(crate) const AUD: &str = "https://gateway.example";
/// The longest time that a test waits for an expected event.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway with the keys of two issuers (ML-DSA-65, and Ed25519 with `pq = "off"`), one model on
/// a counting upstream, and echo.
pub(crate) struct Gateway {
    pub(crate) api: SocketAddr,
    pub(crate) key: SigningKey,
    pub(crate) classical: SigningKey,
    pub(crate) control: Arc<Control>,
    pub(crate) forwarded: Arc<AtomicUsize>,
    runtime: Option<Runtime>,
    stop: watch::Sender<bool>,
    done: Option<tokio::task::JoinHandle<()>>,
    #[cfg_attr(
        not(feature = "failpoints"),
        expect(dead_code, reason = "it is kept for as long as the gateway runs")
    )]
    pub(crate) data: tempfile::TempDir,
}

/// An upstream that counts requests and answers each with a small JSON document.
fn upstream(count: Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let count = Arc::clone(&count);
            std::thread::spawn(move || {
                let mut buffer = [0; 65_536];
                while let Ok(read) = stream.read(&mut buffer) {
                    if read == 0 {
                        return;
                    }
                    if buffer[..read].starts_with(b"POST ") {
                        count.fetch_add(1, Ordering::SeqCst);
                        let body = br#"{"id":"x","object":"chat.completion","choices":[]}"#;
                        let head = format!(
                            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: \
                                {}\r\n\r\n",
                            body.len()
                        );
                        if stream.write_all(&[head.as_bytes(), body].concat()).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

fn write_key(data: &std::path::Path, name: &str, algorithm: Algorithm) -> SigningKey {
    let key = SigningKey::generate(algorithm).expect("key");
    let public = jwk::Jwk::of(key.public().expect("public"));
    std::fs::write(data.join(name), jwk::write_set(&[public])).expect("jwks");
    key
}

impl Gateway {
    pub(crate) fn start() -> Self {
        Self::with("rpm = 6000\nburst = 5000\nin_flight = 64\noutput_tokens = 1000000", "")
    }

    /// A gateway whose class `default` has `class`. `more` is the end of its config.
    pub(crate) fn with(class: &str, more: &str) -> Self {
        let data = tempfile::tempdir().expect("folder");
        let key = write_key(data.path(), "operator.jwks", Algorithm::MlDsa65);
        let classical = write_key(data.path(), "classical.jwks", Algorithm::Ed25519);
        let forwarded = Arc::new(AtomicUsize::new(0));
        let upstream = upstream(Arc::clone(&forwarded));
        let text = format!(
            "name = \"test\"\ndata = \"state\"\n[listen]\napi = \"127.0.0.1:0\"\nmetrics \
                = \"127.0.0.1:0\"\n\
             [audit]\nreserve = \"1MiB\"\n[timeouts]\nheader = \"1s\"\nbody_idle \
             = \"1s\"\n[limits]\npeer_rps = 1000000\nbody = \"1MiB\"\n\
             [[issuer]]\niss = \"{ISS}\"\naud = \"{AUD}\"\njwks = \"operator.jwks\"\nnamespaces = \
             [\"research\"]\nprincipals = [\"*\"]\nttl_max = \"1d\"\n\
             [[issuer]]\niss = \"https://classical.example\"\naud = \"{AUD}\"\njwks \
             = \"classical.jwks\"\nnamespaces = [\"old\"]\nprincipals = [\"team:old\"]\npq \
             = \"off\"\n\
             [class.default]\n{class}\n[[upstream]]\nname = \"counting\"\nurl \
             = \"http://{upstream}\"\ncontrolled = true\n\
             [[upstream]]\nname = \"echo\"\nurl = \"echo:\"\n[[model]]\nname = \"up\"\nroute = \
             [\"counting\"]\n\
             [[model]]\nname = \"echo\"\nroute = [\"echo\"]\n[[model]]\nname \
             = \"secret\"\nnamespaces = [\"board\"]\nroute = [\"counting\"]\n{more}"
        );
        let config = config::read(&text, data.path()).expect("config");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("runtime");
        let (stop, stopped) = watch::channel(false);
        let app = App::build(config.clone(), None).expect("gateway");
        let control = Arc::clone(app.control());
        let listeners = runtime.block_on(Listeners::bind(&config)).expect("listeners");
        let api = listeners.api.local_addr().expect("address");
        let done = runtime.spawn(async move { app.run(listeners, stopped).await.expect("run") });
        Self {
            api,
            key,
            classical,
            control,
            forwarded,
            runtime: Some(runtime),
            stop,
            done: Some(done),
            data,
        }
    }

    pub(crate) fn command(&self, command: Command) -> Reply {
        let runtime = self.runtime.as_ref().expect("running");
        runtime
            .block_on(self.control.apply(&Operator("uid:0".to_owned()), command))
            .expect("command")
    }

    /// Gives a command, and stops waiting before it is executed.
    pub(crate) fn command_and_leave(&self, command: Command) {
        let runtime = self.runtime.as_ref().expect("running");
        runtime.block_on(async {
            let operator = Operator("uid:0".to_owned());
            let mut done = std::pin::pin!(self.control.apply(&operator, command));
            let polled = std::future::poll_fn(|cx| {
                std::task::Poll::Ready(done.as_mut().poll(cx).is_ready())
            })
            .await;
            assert!(!polled, "it was done at once");
        });
    }

    /// The claims of a valid token.
    pub(crate) fn claims(&self) -> Object<'static> {
        let now = SystemClock::start().now().seconds().unsigned_abs();
        let text = format!(
            r#"{{"iss":"{ISS}","aud":"{AUD}","sub":"team:research","client_id":"research/agent",
            "iat":{now},"exp":{},"jti":"J-{now}",
            "del_depth":0,"del_max_depth":1,"authorization_details":[{{"type":"agent_delegation",
            "scopes":["inference.*","models.read"],"constraints":[]}}]}}"#,
            now + 3600
        );
        owned(&text).as_object().expect("object").clone()
    }

    pub(crate) fn sign(&self, claims: Object<'static>) -> String {
        mint::sign(&Value::Object(claims), &self.key).expect("token")
    }

    pub(crate) fn token(&self) -> String {
        self.sign(self.claims())
    }

    /// A POST of `body` with a valid token and `headers` (lines without line ends).
    pub(crate) fn post(&self, path: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
        self.request_as(&self.token(), path, headers, body)
    }

    /// The same with the caller's own token.
    pub(crate) fn request_as(
        &self,
        token: &str,
        path: &str,
        headers: &[&str],
        body: &[u8],
    ) -> Vec<u8> {
        let mut lines = vec![
            format!("POST {path} HTTP/1.1"),
            "host: gateway.example".to_owned(),
            format!("authorization: Bearer {token}"),
            format!("content-length: {}", body.len()),
        ];
        if !headers.iter().any(|line| line.to_ascii_lowercase().starts_with("content-type")) {
            lines.push("content-type: application/json".to_owned());
        }
        lines.extend(headers.iter().map(|line| (*line).to_owned()));
        [lines.join("\r\n").as_bytes(), b"\r\n\r\n", body].concat()
    }

    pub(crate) fn chat(&self, body: &str) -> Vec<u8> {
        self.post("/v1/chat/completions", &[], body.as_bytes())
    }

    /// Sends raw bytes on a new connection, and reads one answer.
    pub(crate) fn send(&self, bytes: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.api).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        // A server that refuses early may close the connection before all bytes are written.
        let _ = stream.write_all(bytes);
        Answer::read(&mut stream)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let (Some(runtime), Some(done)) = (self.runtime.take(), self.done.take()) {
            let ended = runtime.block_on(async { tokio::time::timeout(PATIENCE, done).await });
            if !std::thread::panicking() {
                ended.expect("the gateway stops").expect("the gateway ran well");
            }
            runtime.shutdown_background();
        }
    }
}

/// A value without borrowed data.
pub(crate) fn owned(text: &str) -> Value<'static> {
    let leaked: &'static str = Box::leak(text.to_owned().into_boxed_str());
    token_shield::json::parse(leaked.as_bytes(), &token_shield::json::Limits::deep(64))
        .expect("JSON")
}

/// One answer. Status 0 means that the connection closed without one.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        let mut buffer = [0; 16_384];
        loop {
            if let Some(answer) = Self::parse(&bytes, false) {
                return answer;
            }
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => {
                    return Self::parse(&bytes, true).unwrap_or(Self {
                        status: 0,
                        head: String::new(),
                        body: String::new(),
                    });
                }
                Ok(read) => bytes.extend_from_slice(&buffer[..read]),
            }
        }
    }

    fn parse(bytes: &[u8], ended: bool) -> Option<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let length = head.to_ascii_lowercase().lines().find_map(|line| {
            line.strip_prefix("content-length: ").and_then(|text| text.parse().ok())
        });
        let body = &bytes[end + 4..];
        let length: usize = length.unwrap_or(if ended { body.len() } else { usize::MAX });
        (ended || body.len() >= length).then(|| Self {
            status,
            head,
            body: String::from_utf8_lossy(body).into_owned(),
        })
    }

    /// The refusal's code.
    pub(crate) fn code(&self) -> String {
        let value: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        // In Ollama's dialect the error is a text, and the code is beside it.
        let code = value["error"]["code"].as_str().or_else(|| value["code"].as_str());
        code.unwrap_or_default().to_owned()
    }
}
