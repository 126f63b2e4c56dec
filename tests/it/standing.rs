//! A change of status has effect at once, limits are enforced, and commands survive a restart.

use std::io::{Read, Write};
use std::net::TcpStream;

use token_shield::clock::{Clock, SystemClock};
use token_shield::control::{Command, StatusVerb};

use crate::harness::{Answer, Gateway, PATIENCE};

const HELLO: &str = r#"{"model":"echo","messages":[{"role":"user","content":"hello"}]}"#;

fn stand(gateway: &Gateway, verb: StatusVerb) {
    gateway.command(Command::AgentStatus {
        agent: "research/agent".to_owned(),
        verb,
        reason: "test".to_owned(),
        unregistered: true,
    });
}

#[track_caller]
fn check(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{answer:?}");
}

#[test]
fn a_good_request_is_answered() {
    let gateway = Gateway::start();
    let answer = gateway.send(&gateway.chat(HELLO));
    check(&answer, 200, "");
    assert!(
        answer.body.contains("hello") && answer.head.contains("token-shield-request: rq_"),
        "{answer:?}"
    );
}

#[test]
fn a_standing_acts_on_the_next_request_and_ends() {
    let gateway = Gateway::start();
    for (stop, code, go) in [
        (StatusVerb::Suspend, "agent-suspended", StatusVerb::Resume),
        (StatusVerb::Quarantine, "agent-quarantined", StatusVerb::Release),
    ] {
        stand(&gateway, stop);
        check(&gateway.send(&gateway.chat(HELLO)), 403, code);
        stand(&gateway, go);
        check(&gateway.send(&gateway.chat(HELLO)), 200, "");
    }
    stand(&gateway, StatusVerb::Revoke);
    check(&gateway.send(&gateway.chat(HELLO)), 403, "agent-revoked");
}

#[test]
fn a_command_is_carried_out_whoever_waits_for_it() {
    let gateway = Gateway::start();
    let reason = "test".to_owned();
    gateway.command_and_leave(Command::AgentStatus {
        agent: "research/agent".to_owned(),
        verb: StatusVerb::Quarantine,
        reason,
        unregistered: true,
    });
    // The next command is executed after it.
    gateway.command(Command::AgentRegister {
        agent: "research/other".to_owned(),
        principal: None,
        class: None,
    });
    check(&gateway.send(&gateway.chat(HELLO)), 403, "agent-quarantined");
}

#[test]
fn a_token_is_revoked_by_its_label() {
    let gateway = Gateway::start();
    let mut claims = gateway.claims();
    claims.set("jti", token_shield::json::Value::from_text("LABEL-1"));
    let token = gateway.sign(claims);
    gateway.command(Command::TokenRegister { token: token.clone(), class: None });
    check(
        &gateway.send(&gateway.request_as(&token, "/v1/chat/completions", &[], HELLO.as_bytes())),
        200,
        "",
    );
    let revoked = gateway
        .command(Command::TokenRevoke { token: "LABEL-1".to_owned(), reason: "lost".to_owned() });
    assert_eq!(revoked.sealed.len(), 1);
    check(
        &gateway.send(&gateway.request_as(&token, "/v1/chat/completions", &[], HELLO.as_bytes())),
        401,
        "token-revoked",
    );
}

/// The rest of a chunked answer, up to its last chunk (RFC 9112 section 7.1). The connection may
/// stay open.
fn answer(stream: &mut TcpStream) -> String {
    let (mut rest, mut piece) = (Vec::new(), vec![0; 64 << 10]);
    while !rest.ends_with(b"\r\n0\r\n\r\n") {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(count) => rest.extend_from_slice(&piece[..count]),
        }
    }
    String::from_utf8_lossy(&rest).into_owned()
}

#[test]
fn an_open_stream_ends_within_a_second_of_a_quarantine() {
    let gateway = Gateway::start();
    // So long that the stream is still open when the command comes.
    let text = "word ".repeat(180_000);
    let body = format!(
        r#"{{"model":"echo","stream":true,"messages":[{{"role":"user","content":"{text}"}}]}}"#
    );
    let mut stream = TcpStream::connect(gateway.api).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream.write_all(&gateway.chat(&body)).expect("write");
    let mut first = [0; 1024];
    assert!(stream.read(&mut first).expect("the stream begins") > 0);
    stand(&gateway, StatusVerb::Quarantine);
    let clock = SystemClock::start();
    let rest = answer(&mut stream);
    assert!(rest.contains("agent-quarantined"), "the stream ended without a reason");
    assert!(!rest.contains("[DONE]"), "the stream ran to its end");
    assert!(clock.monotonic().as_secs() < 5, "it took {:?}", clock.monotonic());
}

#[test]
fn a_rate_holds_and_says_when_to_come_back() {
    let gateway = Gateway::with("rpm = 60\nburst = 3\nin_flight = 8", "");
    let answers: Vec<Answer> = (0..6).map(|_| gateway.send(&gateway.chat(HELLO))).collect();
    let passed = answers.iter().filter(|answer| answer.status == 200).count();
    assert!((3..=4).contains(&passed), "{passed} passed");
    let refused = answers.iter().find(|answer| answer.status == 429).expect("a refusal");
    check(refused, 429, "rate-exceeded");
    assert!(
        refused.head.contains("retry-after: 1") && refused.head.contains("ratelimit-policy"),
        "{}",
        refused.head
    );
    assert!(!refused.head.contains("x-should-retry: false"));
}

#[test]
fn a_limit_of_zero_refuses() {
    let gateway = Gateway::with("rpm = 0\nin_flight = 8", "");
    let answer = gateway.send(&gateway.chat(HELLO));
    check(&answer, 429, "rate-is-zero");
    assert!(answer.head.contains("x-should-retry: false"));
}

#[test]
fn a_request_with_more_choices_than_tokens_uses_up_no_rate() {
    let more = "[[model]]\nname = \"once\"\nroute = [\"counting\"]\nrpm = 1\n";
    let gateway = Gateway::with("rpm = 600\nburst = 100\nin_flight = 8\noutput_tokens = 2", more);
    let hello = r#""messages":[{"role":"user","content":"hi"}]"#;
    let body = |choices: u32| format!(r#"{{"model":"once","n":{choices},{hello}}}"#);
    // These requests are invalid. The model's rate of one request must stay unused.
    for _ in 0..3 {
        check(&gateway.send(&gateway.chat(&body(3))), 400, "field-invalid");
    }
    check(&gateway.send(&gateway.chat(&body(2))), 200, "");
    check(&gateway.send(&gateway.chat(&body(2))), 429, "model-rate-exceeded");
}

#[test]
fn output_tokens_are_clamped_and_a_header_says_so() {
    let gateway = Gateway::with("rpm = 600\nin_flight = 8\noutput_tokens = 2", "");
    let body = concat!(
        r#"{"model":"echo","max_tokens":50,"messages":[{"role":"user","content":"one two "#,
        r#"three four"}]}"#
    );
    let answer = gateway.send(&gateway.chat(body));
    check(&answer, 200, "");
    assert!(answer.body.contains("one two") && !answer.body.contains("three"), "{answer:?}");
    assert!(answer.head.contains("token-shield-output-tokens: 2"), "{}", answer.head);
}
