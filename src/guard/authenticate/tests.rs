//! Tests of the step "authenticate".

use http::header::HeaderMap;

use super::*;
use http::HeaderValue;

/// Reads a credential from these headers and compares it, or the refusal's code.
#[track_caller]
fn check(headers: &[(&'static str, &str)], expect: Result<&str, Code>) {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, HeaderValue::from_str(value).expect("value"));
    }
    assert_eq!(Credential::read(&map).map(|read| read.0).map_err(|no| no.code), expect);
}

#[test]
fn exactly_one_credential_is_read() {
    check(&[], Err(Code::TokenMissing));
    check(&[("authorization", "Bearer a.b.c")], Ok("a.b.c"));
    check(&[("authorization", "bearer a.b.c")], Ok("a.b.c"));
    check(&[("x-api-key", "a.b.c")], Ok("a.b.c"));
    check(&[("api-key", "a.b.c")], Ok("a.b.c"));
    check(&[("authorization", "Bearer a"), ("x-api-key", "a")], Ok("a"));
    check(&[("authorization", "Bearer a"), ("x-api-key", "a"), ("api-key", "a")], Ok("a"));
    check(&[("authorization", "Bearer a"), ("x-api-key", "b")], Err(Code::TokenAmbiguous));
    check(&[("authorization", "Bearer a"), ("x-api-key", "")], Ok("a"));
    check(&[("authorization", "Basic a"), ("x-api-key", "a")], Err(Code::TokenAmbiguous));
    check(&[("x-api-key", "")], Err(Code::TokenMissing));
    check(&[("authorization", "Bearer a"), ("authorization", "bearer a")], Ok("a"));
    check(
        &[("authorization", "Bearer a"), ("authorization", "Bearer b")],
        Err(Code::TokenAmbiguous),
    );
    check(&[("x-api-key", "a"), ("x-api-key", "b")], Err(Code::TokenAmbiguous));
    check(&[("authorization", "Basic YTpi")], Err(Code::TokenScheme));
    check(&[("authorization", "a.b.c")], Err(Code::TokenScheme));
    check(&[("x-api-key", &"a".repeat(50_000))], Err(Code::TokenTooLarge));
}

#[test]
fn a_peer_is_its_network() {
    let net = |text: &str| network(text.parse().expect("address"));
    // One host can write its IPv4 address in two forms. Both must count as one peer.
    assert_eq!(net("10.0.0.1"), net("::ffff:10.0.0.1"));
    assert_ne!(net("10.0.0.1"), net("10.0.0.2"));
    // A host has a whole /64, so addresses inside it count as one peer.
    assert_eq!(net("2001:db8::1"), net("2001:db8::2"));
    assert_ne!(net("2001:db8:0:1::1"), net("2001:db8::1"));
}
