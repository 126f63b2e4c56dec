//! Searches for inference servers on their usual ports of this machine.

use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A server that has answered.
pub(super) struct FoundServer {
    /// The name of its program.
    pub(super) name: &'static str,
    /// `HOST:PORT`.
    pub(super) authority: String,
    /// The name of its profile.
    pub(super) profile: String,
    /// The names of its models.
    pub(super) models: Vec<String>,
}

/// The usual ports: name, port, profile.
const USUAL: [(&str, u16, &str); 5] = [
    ("Ollama", 11434, "ollama"),
    ("vLLM", 8000, "vllm"),
    ("llama.cpp", 8080, "llama.cpp"),
    ("LM Studio", 1234, "generic"),
    ("SGLang", 30000, "sglang"),
];

/// The time limit for a server's list of models.
const PATIENCE: Duration = Duration::from_millis(500);

/// The servers that answer on their usual ports. A server of another kind than the port's is known
/// by its answers.
pub(super) async fn usual() -> Vec<FoundServer> {
    let mut found = Vec::new();
    for (name, port, usual) in USUAL {
        let authority = format!("127.0.0.1:{port}");
        // Other programs use these ports too.
        let Some(models) = models(&authority, "").await else { continue };
        let (name, profile) = match kind(&authority, "").await {
            Some(kind) => (kind.name, kind.profile),
            None => (name, usual),
        };
        found.push(FoundServer { name, authority, profile: profile.to_owned(), models });
    }
    found
}

/// The kind of a server.
pub(super) struct ServerKind {
    /// The name of its program.
    pub(super) name: &'static str,
    /// The name of its profile.
    pub(super) profile: &'static str,
}

/// The kinds by the owner that a server writes into its list of models.
const OWNERS: [(&str, ServerKind); 4] = [
    ("vllm", ServerKind { name: "vLLM", profile: "vllm" }),
    ("sglang", ServerKind { name: "SGLang", profile: "sglang" }),
    ("llamacpp", ServerKind { name: "llama.cpp", profile: "llama.cpp" }),
    ("library", ServerKind { name: "Ollama", profile: "ollama" }),
];

/// The kinds by a path that only they have, and a member of the answer.
const PATHS: [(&str, &str, ServerKind); 2] = [
    ("/api/version", "version", ServerKind { name: "Ollama", profile: "ollama" }),
    ("/info", "model_id", ServerKind { name: "TGI", profile: "tgi" }),
];

/// The kind of a server, as its answers show it; `None` if they do not.
pub(super) async fn kind(authority: &str, base_path: &str) -> Option<ServerKind> {
    if let Some(listed) = read(authority, base_path, "/v1/models").await
        && let Some(owner) = listed["data"][0]["owned_by"].as_str()
    {
        for (known, kind) in OWNERS {
            if owner == known {
                return Some(kind);
            }
        }
    }
    // Each path costs a request, so they come after the list that is read anyway.
    for (path, member, kind) in PATHS {
        if let Some(answer) = read(authority, base_path, path).await
            && answer[member].is_string()
        {
            return Some(kind);
        }
    }
    None
}

/// The models that a server lists. `None` if it does not answer in time.
pub(super) async fn models(authority: &str, base_path: &str) -> Option<Vec<String>> {
    let listed = read(authority, base_path, "/v1/models").await?;
    let mut ids = Vec::new();
    for model in listed.get("data")?.as_array()? {
        if let Some(serde_json::Value::String(id)) = model.get("id") {
            ids.push(id.clone());
        }
    }
    Some(ids)
}

/// The JSON at a path of a server. `None` if it does not answer in time, or with another form.
async fn read(authority: &str, base_path: &str, path: &str) -> Option<serde_json::Value> {
    let asked = ask(authority, format!("{base_path}{path}"));
    tokio::time::timeout(PATIENCE, asked).await.ok().flatten()
}

/// Requests the JSON at a path.
async fn ask(authority: &str, path: String) -> Option<serde_json::Value> {
    let stream = TcpStream::connect(authority).await.ok()?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    // The task drives the connection while the answer is read.
    let driver = tokio::spawn(connection);
    let request = hyper::Request::get(path)
        .header("host", authority)
        .body(Empty::<bytes::Bytes>::new())
        .ok()?;
    let body =
        sender.send_request(request).await.ok()?.into_body().collect().await.ok()?.to_bytes();
    driver.abort();
    serde_json::from_slice(&body).ok()
}

/// Whether a program on this machine listens on `port` on all addresses. Agents could then bypass
/// the gateway.
pub(super) fn open_beyond_loopback(port: u16) -> bool {
    let wanted = format!(":{port:04X}");
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let Ok(table) = std::fs::read_to_string(path) else { continue };
        if table.lines().skip(1).any(|line| listens_everywhere(line, &wanted)) {
            return true;
        }
    }
    false
}

/// Whether a line of /proc/net/tcp is a listener on all addresses. `port` is `:` and the port in
/// hex.
fn listens_everywhere(line: &str, port: &str) -> bool {
    let mut fields = line.split_whitespace().skip(1);
    let (Some(local), Some(state)) = (fields.next(), fields.nth(1)) else { return false };
    let Some((address, _)) = local.split_once(':') else { return false };
    // 0A is TCP_LISTEN, and an address of zeros means all addresses (proc(5), /proc/net/tcp).
    state == "0A" && address.bytes().all(|digit| digit == b'0') && local.ends_with(port)
}
