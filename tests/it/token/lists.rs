//! Lists in a token are sets: each entry once, and no more entries than the issuer's config allows.
//! Also the principals for which an issuer may speak.

use token_shield::clock::Timestamp;
use token_shield::crypto::{Algorithm, SigningKey};
use token_shield::refusal::Code;
use token_shield::token::delegate::{Narrowed, delegate};
use token_shield::token::jwk::Jwk;
use token_shield::token::{Names, Principals, inspect, jwk};

use super::forge::{Forge, NOW};
use super::{claim, constraints};

/// A JSON list with this number of names.
fn list(count: usize) -> String {
    let names: Vec<String> = (0..count).map(|number| format!("\"n{number}\"")).collect();
    format!("[{}]", names.join(","))
}

#[test]
fn constraints_have_lists_of_64() {
    for key in ["model", "egress_host", "tool_type"] {
        let with = |names: &str, expect| {
            constraints(&format!(r#"[{{"key":"{key}","one_of":{names}}}]"#), expect)
        };
        with(&list(64), Ok(()));
        with(&list(65), Err(Code::TokenList));
        with(&list(3_500), Err(Code::TokenList));
        with(r#"["a","b","a"]"#, Err(Code::TokenList));
        with("[]", Err(Code::ConstraintMalformed));
    }
}

#[test]
fn audiences_and_scopes_are_lists_too() {
    let audiences = |count: usize| list(count).replace("\"n0\"", "\"https://gateway.example\"");
    claim("aud", &audiences(64), Ok(()));
    claim("aud", &audiences(65), Err(Code::TokenList));
    claim("aud", r#"["https://gateway.example","https://gateway.example"]"#, Err(Code::TokenList));
    let scopes = |names: &str, expect| {
        super::details(
            &format!(r#"[{{"type":"agent_delegation","scopes":[{names}],"constraints":[]}}]"#),
            expect,
        )
    };
    scopes(r#""inference.chat","inference.*""#, Ok(()));
    scopes(r#""inference.chat","inference.chat""#, Err(Code::TokenList));
}

#[test]
fn an_issuers_config_says_how_long_a_list_is() {
    let forge = Forge::with(Algorithm::Ed25519, |policy| policy.list_max = 200);
    let token = |count| {
        let detail = format!(
            concat!(
                r#"{{"type":"agent_delegation","scopes":[],"constraints":[{{"key":"model","#,
                r#""one_of":{}}}]}}"#
            ),
            list(count)
        );
        forge.token(&[("authorization_details", &format!("[{detail}]"))])
    };
    assert!(forge.verify(&token(200)).is_ok());
    assert_eq!(
        forge.verify(&token(201)).map(|_| ()).map_err(|refusal| refusal.code),
        Err(Code::TokenList)
    );
}

#[test]
fn a_child_keeps_a_list_that_is_longer_than_usual() {
    let forge = Forge::with(Algorithm::Ed25519, |policy| policy.list_max = 200);
    let key = SigningKey::from_seed(Algorithm::Ed25519, [77; 32].into());
    let holder = Jwk::of(key.public().expect("a key")).write();
    let detail = format!(
        concat!(
            r#"[{{"type":"agent_delegation","scopes":["inference.chat"],"constraints":"#,
            r#"[{{"key":"holder","rank":"bearer","order":["bound","bearer"]}},"#,
            r#"{{"key":"model","one_of":{}}}]}}]"#
        ),
        list(70)
    );
    let root = forge.token(&[
        ("authorization_details", &detail),
        ("cnf", &format!(r#"{{"jwk":{holder}}}"#)),
        ("del_max_depth", "2"),
    ]);
    let wanted = Narrowed { name: "part".to_owned(), ..Narrowed::default() };
    let chain = delegate(&root, &key, &wanted, Timestamp(NOW * 1000), 5).expect("a chain");
    forge.check(&chain, Ok(()));
    // An inspector sees who may sign the next child.
    let [first, second] = &*inspect::lines(&chain).expect("two tokens") else { panic!("{chain}") };
    let shows = |lines: &[(String, String)], name: &str| {
        lines.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    };
    let id = Jwk::of(key.public().expect("a key")).id().to_string();
    assert_eq!(shows(first, "holder"), Some(id));
    assert_eq!(shows(second, "holder"), None);
    // It also sees that the holder of the parent's key signed the child.
    let joint = shows(second, "joint").expect("a child");
    assert!(joint.starts_with("narrower than its parent"), "{joint}");
}

#[test]
fn published_keys_of_other_kinds_are_left_out() {
    let own = SigningKey::from_seed(Algorithm::Ed25519, [78; 32].into());
    let own = Jwk::of(own.public().expect("a key"));
    let ours = own.write();
    let other_use = ours.replacen('{', r#"{"use":"enc","#, 1);
    let set = format!(
        r#"{{"keys":[{{"kty":"RSA","n":"AQAB","e":"AQAB"}},{{"kty":"AKP","alg":"ML-DSA-87"}},
            {{"kty":"OKP","crv":"X25519","x":"AA"}},{other_use},{ours}]}}"#
    );
    let read = jwk::read_published(&set).expect("the only key of our kind");
    assert_eq!(read.iter().map(Jwk::id).collect::<Vec<_>>(), [own.id()]);
}

#[test]
fn the_memory_of_a_list_is_about_the_length_of_its_names() {
    let name = "n".repeat(1_000);
    let names = Names::read(&[&name], 1).expect("one name");
    assert!((1_000..1_200).contains(&names.bytes()), "{}", names.bytes());
}

#[test]
fn an_issuers_own_patterns_are_kept() {
    let own = Principals::of(vec!["team:*".to_owned()]).beside(vec!["user:*".to_owned()]);
    assert_eq!(own.own(), ["team:*"]);
}

#[test]
fn an_issuer_speaks_for_its_principals() {
    let check = |principals: &[&str], sub: &str, expect: Result<(), Code>| {
        let forge = Forge::with(Algorithm::Ed25519, |policy| {
            policy.principals =
                Principals::of(principals.iter().map(|name| (*name).to_owned()).collect());
        });
        let found = forge.verify(&forge.token(&[("sub", &format!("\"{sub}\""))]));
        assert_eq!(
            found.map(|_| ()).map_err(|refusal| refusal.code),
            expect,
            "{principals:?} {sub}"
        );
    };
    let no = Err(Code::TokenPrincipal);
    check(&["*"], "team:research", Ok(()));
    check(&["support:*", "team:research"], "support:desk", Ok(()));
    check(&["support:*", "team:research"], "team:research", Ok(()));
    check(&["support:*"], "team:research", no);
    check(&["support:*"], "support", no);
    check(&["support:*"], "Support:desk", no);
    check(&["team:research"], "team:research2", no);
    check(&["team:research"], "team:researc", no);
}
