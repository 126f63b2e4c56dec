//! The strict parser of tokens. Each line is one thing that a token may or may not contain.

mod authority;
mod chains;
mod door;
mod forge;
mod lists;
mod mutants;
mod narrow;
mod signature;

use std::time::Duration;

use forge::{Forge, NOW, payload};
use token_shield::clock::Timestamp;
use token_shield::crypto::{Algorithm, Both, SigningKey};
use token_shield::json::Value;
use token_shield::refusal::Code;
use token_shield::token::constraint::{Constraint, ConstraintType};
use token_shield::token::{PostQuantum, Presented, Scope, constraint, jwk, mint};

/// The verdict on a valid Ed25519 token after one claim is set to a JSON text, or removed if the
/// text is empty.
#[track_caller]
fn claim(name: &str, value: &str, expect: Result<(), Code>) {
    let forge = Forge::new(Algorithm::Ed25519);
    forge.check(&forge.token(&[(name, value)]), expect);
}

/// The same for a complete header. `KID` is replaced by the key's id.
#[track_caller]
fn header(text: &str, expect: Result<(), Code>) {
    let forge = Forge::new(Algorithm::Ed25519);
    forge.check(&forge.sign(text.replace("KID", &forge.kid.to_string()), payload(&[])), expect);
}

/// The same for the list of constraints.
#[track_caller]
fn constraints(list: &str, expect: Result<(), Code>) {
    details(
        &format!(
            r#"[{{"type":"agent_delegation","scopes":["inference.chat"],"constraints":{list}}}]"#
        ),
        expect,
    );
}

#[track_caller]
fn details(value: &str, expect: Result<(), Code>) {
    claim("authorization_details", value, expect);
}

/// The same for the presented text, which is made from a valid token.
#[track_caller]
fn presented(make: impl Fn(&str) -> String, expect: Result<(), Code>) {
    let forge = Forge::new(Algorithm::Ed25519);
    forge.check(&make(&forge.token(&[])), expect);
}

#[test]
fn a_good_token_of_each_algorithm_verifies() {
    for algorithm in [Algorithm::MlDsa65, Algorithm::Ed25519] {
        let forge = Forge::new(algorithm);
        let token = forge.token(&[]);
        let verified = forge.verify(&token).expect("a good token");
        assert_eq!(*verified.id(), Presented::read(&token).expect("shape").id());
        assert_eq!(*verified.kid(), forge.kid);
        assert_eq!(verified.jti(), "01JB0000000000000000000000");
        assert_eq!(verified.issuer(), "https://operator.example");
        assert_eq!(verified.agent().as_str(), "research/summarizer");
        assert_eq!(verified.principal().as_str(), "team:research");
        assert_eq!(verified.scopes().names().collect::<Vec<_>>(), ["inference.chat"]);
        assert_eq!(
            (verified.issued(), verified.expires()),
            (Timestamp(1_790_000_000_000), Timestamp(1_790_003_600_000))
        );
        assert!(verified.grants().all(|grants| grants.models.allows("any-model")));
    }
}

#[test]
fn the_shape_is_exact() {
    presented(str::to_owned, Ok(()));
    presented(|_| String::new(), Err(Code::TokenMalformed));
    presented(|_| "..".to_owned(), Err(Code::TokenHeader));
    presented(|token| token.replace('.', ""), Err(Code::TokenMalformed));
    presented(
        |token| token.rsplit_once('.').expect("dots").0.to_owned(),
        Err(Code::TokenMalformed),
    );
    presented(|token| format!("{token}."), Err(Code::TokenMalformed));
    presented(|token| format!("{token}.AAAA"), Err(Code::TokenMalformed));
    presented(|token| format!(".{token}"), Err(Code::TokenMalformed));
    presented(|token| format!("{token}=="), Err(Code::TokenMalformed));
    presented(|token| format!("{token} "), Err(Code::TokenMalformed));
    presented(|token| format!(" {token}"), Err(Code::TokenMalformed));
    presented(|token| format!("{token}\n"), Err(Code::TokenMalformed));
    presented(|token| token.replacen('.', ".\u{a0}", 1), Err(Code::TokenMalformed));
    presented(|token| token.replace(['-', '_'], "+"), Err(Code::TokenMalformed));
    presented(|token| format!("{token}~{token}"), Err(Code::ChainSigner));
    presented(|token| format!("{token}~"), Err(Code::TokenMalformed));
    presented(|token| format!("~{token}"), Err(Code::TokenMalformed));
    presented(|token| [token; 5].join("~"), Err(Code::ChainTooLong));
    presented(|_| "ts_0123456789".to_owned(), Err(Code::HandleUnknown));
    presented(|token| token.repeat(100), Err(Code::TokenTooLarge));
    presented(
        |token| format!("{}.", token.rsplit_once('.').expect("dots").0),
        Err(Code::TokenSignature),
    );
    presented(
        |token| format!("{}.AAAA", token.rsplit_once('.').expect("dots").0),
        Err(Code::TokenSignature),
    );
}

/// The base64url of a 64-byte signature has four unused bits in its last character. Only one of the
/// sixteen spellings is accepted.
#[test]
fn base64url_has_one_spelling() {
    let forge = Forge::new(Algorithm::Ed25519);
    let token = forge.token(&[]);
    let (front, last) = token.split_at(token.len() - 1);
    let spellings = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let place = spellings.find(last).expect("base64url");
    assert_eq!(place % 16, 0);
    for other in spellings.chars().skip(place + 1).take(15) {
        forge.check(&format!("{front}{other}"), Err(Code::TokenMalformed));
    }
}

#[test]
fn the_header_is_typ_alg_and_kid() {
    header(r#"{"typ":"at+jwt","alg":"Ed25519","kid":"KID"}"#, Ok(()));
    header(r#"{"kid":"KID","alg":"EdDSA","typ":"application/at+jwt"}"#, Ok(()));
    for extra in [
        r#""crit":["exp"]"#,
        r#""crit":[]"#,
        r#""jku":"https://evil.example/keys""#,
        r#""jwk":{"kty":"OKP"}"#,
        r#""x5u":"https://evil.example/cert""#,
        r#""x5c":["AAAA"]"#,
        r#""x5t":"AAAA""#,
        r#""b64":false"#,
        r#""zip":"DEF""#,
        r#""cty":"JWT""#,
        r#""enc":"A256GCM""#,
        r#""nonce":"1""#,
        r#""Alg":"none""#,
    ] {
        header(
            &format!(r#"{{"typ":"at+jwt","alg":"Ed25519","kid":"KID",{extra}}}"#),
            Err(Code::TokenHeader),
        );
    }
    header(r#"{"alg":"Ed25519","kid":"KID"}"#, Err(Code::TokenHeader));
    header(r#"{"typ":"JWT","alg":"Ed25519","kid":"KID"}"#, Err(Code::TokenHeader));
    header(r#"{"typ":"AT+JWT","alg":"Ed25519","kid":"KID"}"#, Err(Code::TokenHeader));
    header(r#"{"typ":["at+jwt"],"alg":"Ed25519","kid":"KID"}"#, Err(Code::TokenHeader));
    header(r#"{"typ":"at+jwt","kid":"KID"}"#, Err(Code::TokenHeader));
    header(r#"{"typ":"at+jwt","alg":null,"kid":"KID"}"#, Err(Code::TokenHeader));
    header(r#"{"typ":"at+jwt","alg":"Ed25519"}"#, Err(Code::TokenHeader));
    header(r#"{"typ":"at+jwt","alg":"Ed25519","kid":7}"#, Err(Code::TokenHeader));
    header(r#"{"typ":"at+jwt","alg":"none","alg":"Ed25519","kid":"KID"}"#, Err(Code::TokenHeader));
    header(r#"{"typ":"at+jwt","alg":"Ed25519","kid":"KID"} "#, Ok(()));
    header(r#"{"typ":"at+jwt","alg":"Ed25519","kid":"KID"}{}"#, Err(Code::TokenHeader));
    header(
        "\u{feff}{\"typ\":\"at+jwt\",\"alg\":\"Ed25519\",\"kid\":\"KID\"}",
        Err(Code::TokenHeader),
    );
    header(r#"["typ"]"#, Err(Code::TokenHeader));
    header("", Err(Code::TokenHeader));
}

#[test]
fn the_algorithm_is_the_keys() {
    for name in [
        "none",
        "None",
        "",
        "HS256",
        "RS256",
        "ES256",
        "ML-DSA-65",
        "ML-DSA-44",
        "ed25519",
        "EDDSA",
        "Ed25519 ",
    ] {
        header(
            &format!(r#"{{"typ":"at+jwt","alg":"{name}","kid":"KID"}}"#),
            Err(Code::TokenAlgorithm),
        );
    }
    let forge = Forge::new(Algorithm::MlDsa65);
    for name in ["Ed25519", "EdDSA", "none", "ML-DSA-87", "ml-dsa-65"] {
        let token = forge.sign(forge.header().replace("ML-DSA-65", name), payload(&[]));
        forge.check(&token, Err(Code::TokenAlgorithm));
    }
}

#[test]
fn the_kid_names_a_known_key_or_nothing() {
    for kid in [
        "",
        "KIDKID",
        "../../etc/passwd",
        "https://evil.example/key",
        "KID=",
        "' OR 1=1 --",
        "\\u0000",
    ] {
        header(
            &format!(r#"{{"typ":"at+jwt","alg":"Ed25519","kid":"{kid}"}}"#),
            Err(Code::TokenKeyUnknown),
        );
    }
    // Signed by an unknown key. Under its own kid the key is unknown. Under the known kid the
    // signature is wrong.
    let forge = Forge::new(Algorithm::Ed25519);
    let stranger = SigningKey::from_seed(Algorithm::Ed25519, [6; 32].into());
    let own = jwk::Jwk::of(stranger.public().expect("key")).id();
    let other = Forge { key: stranger, ..Forge::new(Algorithm::Ed25519) };
    forge.check(&other.token(&[]), Err(Code::TokenSignature));
    forge.check(&Forge { kid: own, ..other }.token(&[]), Err(Code::TokenKeyUnknown));
}

#[test]
fn the_payload_is_one_strict_object() {
    let forge = Forge::new(Algorithm::Ed25519);
    let check = |text: &[u8], expect| forge.check(&forge.sign(forge.header(), text), expect);
    let good = payload(&[]);
    check(good.as_bytes(), Ok(()));
    check(good.replacen('{', r#"{"exp":9999999999,"#, 1).as_bytes(), Err(Code::TokenClaims));
    check(good.replacen('{', r#"{"\u0073ub":"team:other","#, 1).as_bytes(), Err(Code::TokenClaims));
    check(good.replace(r#"{"type""#, r#"{"type":"x","type""#).as_bytes(), Err(Code::TokenClaims));
    check(format!("\u{feff}{good}").as_bytes(), Err(Code::TokenClaims));
    check(format!("{good}{good}").as_bytes(), Err(Code::TokenClaims));
    check(format!("[{good}]").as_bytes(), Err(Code::TokenClaims));
    check(
        &good.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>(),
        Err(Code::TokenClaims),
    );
    check(b"", Err(Code::TokenClaims));
    check(b"null", Err(Code::TokenClaims));
    check(b"\xff", Err(Code::TokenClaims));
    check(
        payload(&[("x", &format!("{}{}", "[".repeat(30), "]".repeat(30)))]).as_bytes(),
        Err(Code::TokenClaims),
    );
    check(payload(&[("x", "NaN")]).as_bytes(), Err(Code::TokenClaims));
    check(payload(&[("x", "1e999")]).as_bytes(), Err(Code::TokenClaims));
    // An unknown claim is ignored (RFC 7519 section 4).
    check(payload(&[("department", r#"{"a":[1.5,null]}"#)]).as_bytes(), Ok(()));
}

#[test]
fn every_required_claim_is_required() {
    for name in [
        "iss",
        "aud",
        "sub",
        "client_id",
        "iat",
        "exp",
        "jti",
        "del_depth",
        "del_max_depth",
        "authorization_details",
    ] {
        claim(name, "", Err(Code::TokenClaims));
    }
}

#[test]
fn every_claim_has_its_type() {
    for name in [
        "iss",
        "aud",
        "sub",
        "client_id",
        "iat",
        "nbf",
        "exp",
        "jti",
        "del_depth",
        "del_max_depth",
        "authorization_details",
    ] {
        for value in ["null", "true", "{}", "[]", "1.5", "-1", "[1]", "[null]"] {
            claim(name, value, Err(Code::TokenClaims));
        }
    }
    for name in ["iat", "nbf", "exp"] {
        for value in [
            r#""1790000000""#,
            "1790000000.0",
            "179e7",
            "-0",
            "18446744073709551615",
            "253402207201",
            "[1790000000]",
        ] {
            claim(name, value, Err(Code::TokenClaims));
        }
    }
    for name in ["iss", "aud", "sub", "client_id", "jti"] {
        claim(name, "1790000000", Err(Code::TokenClaims));
    }
}

#[test]
fn names_have_their_form() {
    claim("sub", r#""""#, Err(Code::TokenClaims));
    claim("sub", r#""team research""#, Err(Code::TokenClaims));
    claim("sub", r#""te\u0000am""#, Err(Code::TokenClaims));
    claim("jti", r#""""#, Err(Code::TokenClaims));
    claim("jti", r#""a b""#, Err(Code::TokenClaims));
    claim("jti", &format!(r#""{}""#, "j".repeat(129)), Err(Code::TokenClaims));
    for agent in [
        "research",
        "research/",
        "/a",
        "Research/a",
        "research//a",
        "research/../a",
        "research/a/b",
        "research/ſ",
        "research/a\\n",
    ] {
        claim("client_id", &format!(r#""{agent}""#), Err(Code::TokenClaims));
    }
}

#[test]
fn the_issuer_speaks_for_its_namespaces() {
    claim("iss", r#""https://other.example""#, Err(Code::TokenIssuer));
    claim("iss", r#""https://operator.example/""#, Err(Code::TokenIssuer));
    claim("iss", r#""https://Operator.example""#, Err(Code::TokenIssuer));
    claim("client_id", r#""support/agent""#, Ok(()));
    claim("client_id", r#""finance/agent""#, Err(Code::TokenNamespace));
    claim("client_id", r#""researchx/agent""#, Err(Code::TokenNamespace));
    claim("client_id", r#""r/research""#, Err(Code::TokenNamespace));
    let forge = Forge::with(Algorithm::Ed25519, |policy| policy.namespaces = vec!["*".to_owned()]);
    forge.check(&forge.token(&[("client_id", r#""finance/agent""#)]), Ok(()));
    let forge = Forge::with(Algorithm::Ed25519, |policy| policy.namespaces.clear());
    forge.check(&forge.token(&[]), Err(Code::TokenNamespace));
}

#[test]
fn the_audience_names_this_gateway() {
    claim("aud", r#"["https://other.example","https://gateway.example"]"#, Ok(()));
    claim("aud", r#""https://gateway.example/""#, Err(Code::TokenAudience));
    claim("aud", r#""""#, Err(Code::TokenAudience));
    claim("aud", r#"["https://other.example"]"#, Err(Code::TokenAudience));
    claim("aud", r#"["https://gateway.example",7]"#, Err(Code::TokenClaims));
    claim("aud", r#"[["https://gateway.example"]]"#, Err(Code::TokenClaims));
}

#[test]
fn dates_hold() {
    let at = |second: i64, changes: &[(&str, &str)], expect: Result<(), Code>| {
        let forge = Forge::new(Algorithm::Ed25519);
        let token = forge.token(changes);
        assert_eq!(
            forge.verify_with(&token, &Both, second).map(|_| ()).map_err(|refusal| refusal.code),
            expect,
            "{second}"
        );
        // A token from the token cache gets the same checks again.
        let verified = forge.verify(&forge.token(&[])).expect("a good token");
        if changes.is_empty() {
            let found =
                verified.still_valid(Timestamp(second * 1000)).map_err(|refusal| refusal.code);
            assert_eq!(found, expect, "{second}");
        }
    };
    at(1_790_000_000, &[], Ok(()));
    at(1_789_999_995, &[], Ok(()));
    at(1_789_999_994, &[], Err(Code::TokenNotYetValid));
    at(1_790_003_599, &[], Ok(()));
    at(1_790_003_600, &[], Err(Code::TokenExpired));
    at(0, &[], Err(Code::TokenNotYetValid));
    at(NOW, &[("nbf", "1790000015")], Ok(()));
    at(NOW, &[("nbf", "1790000016")], Err(Code::TokenNotYetValid));
    at(NOW, &[("iat", "1790000016")], Err(Code::TokenNotYetValid));
    at(NOW, &[("iat", "1790003600")], Err(Code::TokenClaims));
    at(NOW, &[("exp", "1789999999")], Err(Code::TokenClaims));
    at(NOW, &[("exp", "1790000001")], Err(Code::TokenExpired));
}

#[test]
fn a_life_is_as_long_as_the_issuer_allows() {
    let forge =
        Forge::with(Algorithm::Ed25519, |policy| policy.ttl_max = Duration::from_secs(3600));
    forge.check(&forge.token(&[]), Ok(()));
    forge.check(&forge.token(&[("exp", "1790003601")]), Err(Code::TokenLifetime));
    forge.check(&forge.token(&[("exp", "253402207200")]), Err(Code::TokenLifetime));
    // nbf does not shorten the time between iat and exp.
    forge.check(
        &forge.token(&[("exp", "1790003601"), ("nbf", "1790000010")]),
        Err(Code::TokenLifetime),
    );
}

#[test]
fn post_quantum_is_the_issuers_choice() {
    for (policy, ed25519) in [
        (PostQuantum::RequiredRoot, Err(Code::TokenPostQuantum)),
        (PostQuantum::Required, Err(Code::TokenPostQuantum)),
        (PostQuantum::Off, Ok(())),
    ] {
        let forge = Forge::with(Algorithm::Ed25519, |issuer| issuer.post_quantum = policy);
        forge.check(&forge.token(&[]), ed25519);
        let forge = Forge::with(Algorithm::MlDsa65, |issuer| issuer.post_quantum = policy);
        forge.check(&forge.token(&[]), Ok(()));
    }
}

#[test]
fn what_later_builds_read_is_refused_by_name() {
    claim("cnf", r#"{"jkt":"AAAA"}"#, Err(Code::ProofNotSupported));
    claim("cnf", "null", Err(Code::TokenClaims));
    claim("del_depth", "1", Err(Code::TokenClaims));
    claim("par_hash", r#""AAAA""#, Err(Code::TokenClaims));
    claim("del_max_depth", "0", Err(Code::ChainDepth));
    claim("del_max_depth", "2", Err(Code::TokenClaims));
    claim("del_depth", r#""0""#, Err(Code::TokenClaims));
}
