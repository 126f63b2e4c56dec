//! Hostile input. Each case is refused with the status and code of docs/THREATS.md, and no request
//! is forwarded.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use token_shield::json::Value;
use token_shield::token::mint;

use crate::harness::{Answer, Gateway, owned};

const CHAT: &str = "/v1/chat/completions";
const GOOD: &str = r#"{"model":"up","messages":[{"role":"user","content":"hello"}]}"#;

/// Checks the status, the code and the request id of a refusal, and that no request was forwarded.
#[track_caller]
fn refused(gateway: &Gateway, what: &str, answer: &Answer, (status, code): (u16, &str)) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{what}: {answer:?}");
    assert!(
        answer.head.contains("\r\ntoken-shield-request: "),
        "{what}: no request id: {answer:?}"
    );
    assert_eq!(gateway.forwarded.load(Ordering::SeqCst), 0, "{what}: something was forwarded");
}

#[test]
fn the_good_request_passes() {
    let gateway = Gateway::start();
    let answer = gateway.send(&gateway.chat(GOOD));
    assert_eq!((answer.status, gateway.forwarded.load(Ordering::SeqCst)), (200, 1), "{answer:?}");
}

/// A name, a body that must be refused, and the expected status and code.
type Body = (&'static str, Vec<u8>, (u16, &'static str));

fn text(body: &str) -> Vec<u8> {
    body.as_bytes().to_vec()
}

/// A valid body with more members.
fn with(more: &str) -> Vec<u8> {
    text(&GOOD.replace(r#""model":"up""#, &format!(r#""model":"up",{more}"#)))
}

/// Bodies that are not JSON, or that have another form than the API needs.
fn malformed_bodies() -> Vec<Body> {
    let deep =
        format!(r#"{{"model":"up","messages":[],"tools":{}{}}}"#, "[".repeat(100), "]".repeat(100));
    let utf16: Vec<u8> = GOOD.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let json = (400, "json-invalid");
    let field = (400, "field-not-allowed");
    vec![
        ("empty body", Vec::new(), json),
        ("not an object", text("[]"), json),
        ("duplicate model", text(r#"{"model":"up","model":"echo","messages":[]}"#), json),
        ("duplicate by escape", text(r#"{"model":"up","\u006dodel":"echo","messages":[]}"#), json),
        (
            "duplicate in a message",
            text(r#"{"model":"up","messages":[{"role":"user","role":"system","content":"x"}]}"#),
            json,
        ),
        (
            "duplicate in a schema",
            with(r#""tools":[{"type":"function","function":{"parameters":{"a":1,"a":2}}}]"#),
            json,
        ),
        // Some JSON parsers ignore case, and would read this member as a second `model`.
        ("MODEL beside model", with(r#""MODEL":"secret""#), field),
        // U+017F folds to `s` in Unicode, so a lenient parser would read `messages`.
        ("Kelvin and long s", with("\"me\u{17f}\u{17f}ages\":[]"), field),
        // RFC 8259 section 8.1: JSON is UTF-8 without a byte order mark.
        ("byte order mark", [b"\xEF\xBB\xBF", GOOD.as_bytes()].concat(), json),
        ("UTF-16", utf16, json),
        ("NaN", with(r#""temperature":NaN"#), json),
        ("Infinity", with(r#""temperature":Infinity"#), json),
        ("1e999", with(r#""temperature":1e999"#), json),
        ("integer beyond 64 bits", with(r#""seed":99999999999999999999"#), json),
        ("leading zero", with(r#""seed":01"#), json),
        // Parsers disagree about these: some replace, round or drop the value.
        ("lone surrogate", with(r#""user":"\ud800""#), json),
        ("raw control character", with("\"user\":\"a\u{1}b\""), json),
        ("comment", text(&format!("{GOOD}/* x */")), json),
        ("trailing bytes", text(&format!("{GOOD}x")), json),
        ("second document", text(&format!("{GOOD}{GOOD}")), json),
        ("depth bomb", deep.into_bytes(), json),
    ]
}

/// Bodies with members that are not allowed.
fn refused_bodies() -> Vec<Body> {
    let part = |part: &str| {
        text(&format!(r#"{{"model":"up","messages":[{{"role":"user","content":[{part}]}}]}}"#))
    };
    let field = (400, "field-not-allowed");
    let invalid = (400, "field-invalid");
    vec![
        ("model missing", text(r#"{"messages":[]}"#), (400, "field-missing")),
        ("model not a string", text(r#"{"model":["up"],"messages":[]}"#), invalid),
        ("unknown model", text(&GOOD.replace("up", "nothing")), (404, "model-not-found")),
        (
            // The same answer as for an unknown model, so that names of other namespaces stay
            // hidden.
            "model of another namespace",
            text(&GOOD.replace("up", "secret")),
            (404, "model-not-found"),
        ),
        ("two caps", with(r#""max_tokens":5,"max_completion_tokens":5"#), invalid),
        ("cap as a string", with(r#""max_tokens":"5""#), invalid),
        ("fractional cap", with(r#""max_tokens":1.5"#), invalid),
        ("huge n", with(r#""n":100000"#), invalid),
        ("stream as a string", with(r#""stream":"yes""#), invalid),
        ("chat_template", with(r#""chat_template":"{{ cycler }}""#), field),
        ("kv_transfer_params", with(r#""kv_transfer_params":{"remote_host":"x"}"#), field),
        ("vllm_xargs", with(r#""vllm_xargs":{}"#), field),
        ("lora", with(r#""lora":[]"#), field),
        ("cache_salt", with(r#""cache_salt":"x""#), field),
        ("priority", with(r#""priority":-1"#), field),
        ("api_base", with(r#""api_base":"http://evil.example""#), field),
        ("unknown limit", with(r#""max_frobs":1"#), field),
        (
            "remote image",
            part(r#"{"type":"image_url","image_url":{"url":"http://169.254.169.254/x"}}"#),
            (403, "egress-uncontrolled"),
        ),
        (
            "file URL image",
            part(r#"{"type":"image_url","image_url":{"url":"file:///etc/passwd"}}"#),
            (403, "egress-uncontrolled"),
        ),
        ("hosted tool", with(r#""tools":[{"type":"web_search"}]"#), (403, "tool-not-allowed")),
        (
            "MCP tool",
            with(r#""tools":[{"type":"mcp","server_url":"http://evil.example"}]"#),
            (403, "tool-not-allowed"),
        ),
    ]
}

#[test]
fn hostile_bodies_are_refused() {
    let gateway = Gateway::start();
    for (what, body, expect) in malformed_bodies().into_iter().chain(refused_bodies()) {
        let answer = gateway.send(&gateway.post(CHAT, &[], &body));
        refused(&gateway, what, &answer, expect);
    }
}

#[test]
fn hostile_headers_are_refused() {
    let gateway = Gateway::start();
    let type_refused = (415, "content-type");
    for (what, headers, expect) in [
        ("text body", vec!["content-type: text/plain"], type_refused),
        ("UTF-16 announced", vec!["content-type: application/json; charset=utf-16"], type_refused),
        ("gzip", vec!["content-encoding: gzip"], (415, "body-encoded")),
        ("two credentials", vec!["x-api-key: a.b.c"], (401, "token-ambiguous")),
        (
            "two Authorization headers",
            vec!["authorization: Bearer a.b.c"],
            (401, "token-ambiguous"),
        ),
        ("upgrade", vec!["connection: upgrade", "upgrade: websocket"], (426, "upgrade-not-served")),
        ("unknown Expect", vec!["expect: 200-maybe"], (400, "framing-invalid")),
        ("two hosts", vec!["host: other.example"], (421, "host-not-served")),
    ] {
        refused(
            &gateway,
            what,
            &gateway.send(&gateway.post(CHAT, &headers, GOOD.as_bytes())),
            expect,
        );
    }
    let host = |host: &str| {
        let request = String::from_utf8(gateway.chat(GOOD)).expect("text");
        gateway.send(request.replace("host: gateway.example", host).as_bytes())
    };
    for (what, line) in [
        ("user in the host", "host: a@b"),
        ("path in the host", "host: a/b"),
        ("empty host", "host: "),
        ("no host", "x: y"),
    ] {
        refused(&gateway, what, &host(line), (421, "host-not-served"));
    }
}

#[test]
fn hostile_framing_is_refused() {
    let gateway = Gateway::start();
    let request = String::from_utf8(gateway.chat(GOOD)).expect("text");
    let length = format!("content-length: {}", GOOD.len());
    for (what, lines) in [
        // Both headers together allow request smuggling (RFC 9112 section 6.3).
        ("length, then chunked", format!("{length}\r\ntransfer-encoding: chunked")),
        ("chunked, then length", format!("transfer-encoding: chunked\r\n{length}")),
    ] {
        let bytes = request.replace(&length, &lines);
        refused(&gateway, what, &gateway.send(bytes.as_bytes()), (400, "framing-invalid"));
    }
    let malformed = (400, "request-malformed");
    for (what, bytes, expect) in [
        (
            "two lengths",
            request.replace(&length, &format!("{length}\r\ncontent-length: 3")),
            malformed,
        ),
        ("signed length", request.replace(&length, "content-length: +3"), malformed),
        (
            "chunked twice over",
            request.replace(&length, "transfer-encoding: chunked, identity"),
            malformed,
        ),
        (
            // Obsolete line folding (RFC 9112 section 5.2).
            "folded header",
            request.replace("host: gateway.example", "host: gateway.example\r\nx: a\r\n b"),
            malformed,
        ),
        // A server must refuse this (RFC 9112 section 5.1).
        ("space before the colon", request.replace("host: ", "host : "), malformed),
        ("a method of two words", request.replace("POST", "PO ST"), malformed),
        ("not HTTP", "\x16\x03\x01\x02".repeat(20), malformed),
        (
            "oversize headers",
            request.replace("host: ", &format!("x: {}\r\nhost: ", "a".repeat(70_000))),
            (431, "headers-too-large"),
        ),
        (
            "a target without end",
            request.replace(CHAT, &format!("/{}", "a".repeat(70_000))),
            (431, "headers-too-large"),
        ),
    ] {
        let answer = gateway.send(bytes.as_bytes());
        refused(&gateway, what, &answer, expect);
    }
    // Slow clients must not hold a connection without a limit.
    let cut = &request.as_bytes()[..request.len() - 5];
    refused(&gateway, "a body that never ends", &gateway.send(cut), (408, "body-slow"));
    let slow = gateway.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n");
    refused(&gateway, "headers that never end", &slow, (408, "headers-slow"));
    // A connection without a complete start of a request is closed within the same time.
    for begun in ["", "P", "PRI * HTTP/2.0\r\n\r\nSM"] {
        assert_eq!(gateway.send(begun.as_bytes()).status, 0, "{begun:?}");
    }
    let large = format!(r#"{{"model":"up","messages":[],"user":"{}"}}"#, "a".repeat(2 << 20));
    refused(
        &gateway,
        "a large body",
        &gateway.send(&gateway.chat(&large)),
        (413, "body-too-large"),
    );
}

#[test]
fn garbage_after_a_good_request_is_refused_by_name() {
    let gateway = Gateway::start();
    let mut stream = TcpStream::connect(gateway.api).expect("connect");
    stream.write_all(&gateway.chat(GOOD)).expect("write");
    assert_eq!(Answer::read(&mut stream).status, 200);
    stream.write_all(b"\0\0\r\n\r\n").expect("write");
    let answer = Answer::read(&mut stream);
    assert_eq!((answer.status, answer.code().as_str()), (400, "request-malformed"), "{answer:?}");
    assert!(answer.head.contains("\r\ntoken-shield-request: "), "{answer:?}");
    assert_eq!(stream.read(&mut [0]).expect("read"), 0, "the connection stays open");
}

/// After a refusal before the body is read, the answer states whether the connection ends or can be
/// used again.
#[test]
fn a_refusal_says_what_becomes_of_the_connection() {
    let gateway = Gateway::start();
    let request = gateway.post("/v1/batches", &[], GOOD.as_bytes());
    let head = request.len() - GOOD.len();
    let mut stream = TcpStream::connect(gateway.api).expect("connect");
    stream.set_nodelay(true).expect("no delay");
    // Many turns, because the body may arrive before or after the refusal.
    for _ in 0..20 {
        stream.write_all(&request[..head]).expect("the head");
        stream.write_all(&request[head..]).expect("the body");
        let answer = Answer::read(&mut stream);
        assert_eq!((answer.status, answer.code().as_str()), (404, "route-unknown"), "{answer:?}");
        assert!(!answer.head.contains("connection: close"), "{answer:?}");
    }
    stream.write_all(&request[..head]).expect("the head alone");
    let answer = Answer::read(&mut stream);
    assert!(answer.status == 404 && answer.head.contains("connection: close"), "{answer:?}");
    assert_eq!(stream.read(&mut [0]).expect("read"), 0, "the connection stays open");
}

#[test]
fn hostile_targets_are_refused() {
    let gateway = Gateway::start();
    let canonical = (400, "target-not-canonical");
    for (path, expect) in [
        // Paths that a server after the gateway could read as another route.
        ("/v1/%2e%2e/chat/completions", canonical),
        ("/v1//chat/completions", canonical),
        ("/v1/chat%2fcompletions", canonical),
        ("/v1/chat/completions;x", canonical),
        ("/v1/chat/completions%00", canonical),
        ("/v1/./chat/completions", canonical),
        ("/v1/chat/completions/", canonical),
        ("/v1/chat/completions?x=1", canonical),
        ("/v1/chat/completions?api_key=a.b.c", (401, "token-in-query")),
        ("/v1/chat/completions?access_token=a.b.c", (401, "token-in-query")),
        ("/api/pull", (404, "route-unknown")),
        ("/slots", (404, "route-unknown")),
        ("/metrics", (404, "route-unknown")),
        ("/V1/chat/completions", (404, "route-unknown")),
    ] {
        refused(&gateway, path, &gateway.send(&gateway.post(path, &[], GOOD.as_bytes())), expect);
    }
    let answer = gateway.send(
        String::from_utf8(gateway.chat(GOOD)).expect("text").replacen("POST", "GET", 1).as_bytes(),
    );
    refused(&gateway, "GET", &answer, (405, "method-not-allowed"));
}

fn header(gateway: &Gateway, header: &str) -> String {
    let token = gateway.token();
    let (_, rest) = token.split_once('.').expect("dots");
    format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header))
}

#[test]
fn hostile_token_headers_are_refused() {
    let gateway = Gateway::start();
    let good = gateway.token();
    let kid =
        token_shield::token::jwk::Jwk::of(gateway.key.public().expect("public")).id().to_string();
    let with = |more: &str| {
        header(&gateway, &format!(r#"{{"typ":"at+jwt","alg":"ML-DSA-65","kid":"{kid}"{more}}}"#))
    };
    let fault = (401, "token-header");
    for (what, token, expect) in [
        (
            "alg none",
            header(&gateway, &format!(r#"{{"typ":"at+jwt","alg":"none","kid":"{kid}"}}"#)),
            (401, "token-algorithm"),
        ),
        (
            "alg of another family",
            header(&gateway, &format!(r#"{{"typ":"at+jwt","alg":"HS256","kid":"{kid}"}}"#)),
            (401, "token-algorithm"),
        ),
        (
            "alg of another key",
            header(&gateway, &format!(r#"{{"typ":"at+jwt","alg":"Ed25519","kid":"{kid}"}}"#)),
            (401, "token-algorithm"),
        ),
        (
            "unknown kid",
            header(
                &gateway,
                &format!(r#"{{"typ":"at+jwt","alg":"ML-DSA-65","kid":"{}"}}"#, "A".repeat(43)),
            ),
            (401, "token-key-unknown"),
        ),
        (
            "kid as a path",
            header(&gateway, r#"{"typ":"at+jwt","alg":"ML-DSA-65","kid":"../../etc/passwd"}"#),
            (401, "token-key-unknown"),
        ),
        ("jku", with(r#","jku":"http://evil.example/jwks""#), fault),
        ("jwk", with(r#","jwk":{"kty":"OKP"}"#), fault),
        ("x5u", with(r#","x5u":"http://evil.example""#), fault),
        ("x5c", with(r#","x5c":[]"#), fault),
        ("crit", with(r#","crit":["exp"]"#), fault),
        ("b64", with(r#","b64":false"#), fault),
        ("zip", with(r#","zip":"DEF""#), fault),
        ("duplicate alg", with(r#","alg":"none""#), fault),
        (
            "typ JWT",
            header(&gateway, &format!(r#"{{"typ":"JWT","alg":"ML-DSA-65","kid":"{kid}"}}"#)),
            fault,
        ),
        ("padding", format!("{good}="), (401, "token-malformed")),
        ("a fourth part", format!("{good}.e30"), (401, "token-malformed")),
        ("no dots", "abc".to_owned(), (401, "token-malformed")),
        ("a chain below a token without a key", format!("{good}~{good}"), (401, "chain-signer")),
        ("five tokens", [good.as_str(); 5].join("~"), (401, "chain-too-long")),
        ("a handle", format!("ts_{}", "A".repeat(43)), (401, "handle-unknown")),
        ("41 KiB", "a".repeat(41 << 10), (401, "token-too-large")),
        ("a changed payload", good.replacen("eyJpc3M", "eyJpc3N", 1), (401, "token-signature")),
    ] {
        refused(
            &gateway,
            what,
            &gateway.send(&gateway.request_as(&token, CHAT, &[], GOOD.as_bytes())),
            expect,
        );
    }
}

#[test]
fn hostile_claims_are_refused() {
    let gateway = Gateway::start();
    let claims = (401, "token-claims");
    for (name, value, expect) in [
        ("iss", "5", claims),
        ("iss", r#""https://other.example""#, (401, "token-issuer")),
        ("aud", "{}", claims),
        ("aud", "[]", claims),
        ("aud", r#"["https://other.example"]"#, (401, "token-audience")),
        ("sub", "null", claims),
        ("client_id", r#""research""#, claims),
        ("client_id", r#""board/agent""#, (401, "token-namespace")),
        ("iat", "1.5", claims),
        ("iat", r#""1790000000""#, claims),
        ("iat", "99999999999", claims),
        ("exp", "1", claims),
        ("exp", "9007199254740993", claims),
        ("nbf", "99999999999", (401, "token-not-yet-valid")),
        ("nbf", r#""now""#, claims),
        ("jti", "7", claims),
        ("del_depth", "1", claims),
        ("del_max_depth", "3", claims),
        ("cnf", r#"{"jkt":"x"}"#, (401, "proof-not-supported")),
        ("authorization_details", "[]", claims),
    ] {
        let mut changed = gateway.claims();
        changed.set(name, owned(value));
        let token = gateway.sign(changed);
        refused(
            &gateway,
            &format!("{name} = {value}"),
            &gateway.send(&gateway.request_as(&token, CHAT, &[], GOOD.as_bytes())),
            expect,
        );
    }
}

#[test]
fn hostile_constraints_are_refused() {
    let gateway = Gateway::start();
    let (malformed, not_enforced) =
        ((401, "constraint-malformed"), (401, "constraint-not-enforced"));
    for (what, scopes, constraints, expect) in [
        ("no scope", "", "", (403, "scope-missing")),
        ("unknown scope", r#""inference.everything""#, "", (401, "scope-unknown")),
        (
            "unknown constraint",
            r#""inference.*""#,
            r#"{"key":"weekday","one_of":["monday"]}"#,
            not_enforced,
        ),
        (
            "planned constraint",
            r#""inference.*""#,
            r#"{"key":"tokens_per_day","rate":5}"#,
            not_enforced,
        ),
        (
            "constraint twice",
            r#""inference.*""#,
            r#"{"key":"output_tokens","max":5},{"key":"output_tokens","max":6}"#,
            malformed,
        ),
        (
            "negative constraint",
            r#""inference.*""#,
            r#"{"key":"output_tokens","max":-5}"#,
            malformed,
        ),
        (
            "constraint too many members",
            r#""inference.*""#,
            r#"{"key":"output_tokens","max":5,"x":1}"#,
            malformed,
        ),
        (
            "model not granted",
            r#""inference.*""#,
            r#"{"key":"model","one_of":["echo"]}"#,
            (404, "model-not-found"),
        ),
    ] {
        let mut changed = gateway.claims();
        let details = format!(
            r#"[{{"type":"agent_delegation","scopes":[{scopes}],"constraints":[{constraints}]}}]"#
        );
        changed.set("authorization_details", owned(&details));
        let token = gateway.sign(changed);
        refused(
            &gateway,
            what,
            &gateway.send(&gateway.request_as(&token, CHAT, &[], GOOD.as_bytes())),
            expect,
        );
    }
    let foreign = mint::sign(&Value::Object(gateway.claims()), &gateway.classical).expect("token");
    let answer = gateway.send(&gateway.request_as(&foreign, CHAT, &[], GOOD.as_bytes()));
    refused(&gateway, "a key of another issuer", &answer, (401, "token-issuer"));
}
