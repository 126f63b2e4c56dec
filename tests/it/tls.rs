//! TLS as a caller sees it: version 1.3, and a key exchange that is secure against a quantum
//! computer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, NamedGroup, ProtocolVersion, RootCertStore, StreamOwned,
};

#[test]
fn the_handshake_is_post_quantum() {
    let folder = tempfile::tempdir().expect("folder");
    let data = folder.path().join("data");
    let mut child = Command::new(env!("CARGO_BIN_EXE_token-shield"))
        .args([
            "dev",
            "--json",
            "--tls",
            "--listen",
            "127.0.0.1:0",
            "--upstream",
            "http://127.0.0.1:9",
            "--upstream-model",
            "none",
            "--data",
        ])
        .arg(&data)
        .env("TOKEN_SHIELD_LOG", "error")
        .stdout(Stdio::piped())
        .spawn()
        .expect("start");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut line).expect("first line");
    let about: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    let address = about["url"]
        .as_str()
        .and_then(|url| url.strip_prefix("https://"))
        .expect("https")
        .to_owned();

    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(data.join("tls/ca.pem")).expect("CA")).expect("CA");
    // The client also offers TLS 1.2 and classical groups, so the server makes the choice.
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions");
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").expect("name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("client");
    let mut stream = StreamOwned::new(connection, TcpStream::connect(&address).expect("connect"));
    stream
        .write_all(b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .expect("write");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    let group =
        stream.conn.negotiated_key_exchange_group().map(rustls::crypto::SupportedKxGroup::name);
    let version = stream.conn.protocol_version();
    Command::new("kill").arg(child.id().to_string()).status().expect("SIGTERM");
    assert!(child.wait().expect("end").success());
    assert!(answer.starts_with(b"HTTP/1.1 401"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(
        (group, version),
        (Some(NamedGroup::X25519MLKEM768), Some(ProtocolVersion::TLSv1_3))
    );
}
