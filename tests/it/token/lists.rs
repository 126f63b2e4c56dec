//! Lists in a token are sets: each entry once, and no more entries than the issuer's config allows.
//! Also the principals for which an issuer may speak.

use token_shield::crypto::Algorithm;
use token_shield::refusal::Code;
use token_shield::token::Principals;

use super::forge::Forge;
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
