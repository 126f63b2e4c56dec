//! The authority of a token: its details, its constraints, and the signing of new tokens.

use super::*;

#[test]
fn the_authority_is_one_closed_object() {
    let with = |member: &str| {
        format!(
            concat!(
                r#"[{{"type":"agent_delegation","scopes":["inference.chat"],"#,
                r#""constraints":[]{member}}}]"#
            ),
            member = member
        )
    };
    details(&with(""), Ok(()));
    details(&with(r#","locations":["x"]"#), Err(Code::TokenClaims));
    details(r#"[{"scopes":["inference.chat"],"constraints":[]}]"#, Err(Code::TokenClaims));
    details(
        r#"[{"type":"other","scopes":["inference.chat"],"constraints":[]}]"#,
        Err(Code::TokenClaims),
    );
    details(r#"[{"type":"agent_delegation","constraints":[]}]"#, Err(Code::TokenClaims));
    details(r#"[{"type":"agent_delegation","scopes":["inference.chat"]}]"#, Err(Code::TokenClaims));
    details(
        r#"[{"type":"agent_delegation","scopes":"inference.chat","constraints":[]}]"#,
        Err(Code::TokenClaims),
    );
    details(
        r#"[{"type":"agent_delegation","scopes":[7],"constraints":[]}]"#,
        Err(Code::TokenClaims),
    );
    details(
        r#"[{"type":"agent_delegation","scopes":["inference.chat"],"constraints":{}}]"#,
        Err(Code::TokenClaims),
    );
    details(&format!("[{0},{0}]", with("").trim_matches(['[', ']'])), Err(Code::TokenClaims));
    details(r#"["agent_delegation"]"#, Err(Code::TokenClaims));
    details(
        r#"[{"type":"agent_delegation","scopes":["inference.chat","admin"],"constraints":[]}]"#,
        Err(Code::ScopeUnknown),
    );
    details(
        r#"[{"type":"agent_delegation","scopes":["*"],"constraints":[]}]"#,
        Err(Code::ScopeUnknown),
    );
}

#[test]
fn constraints_that_hold_are_read() {
    let forge = Forge::new(Algorithm::Ed25519);
    let list = r#"[{"key":"model","one_of":["llama-3.1-8b","bge-m3"]},
        {"key":"model","prefix":"llama"},{"key":"requests_per_second","rate":2},
        {"rate":120,"key":"requests_per_minute"},{"key":"requests_in_flight","max":8},
        {"key":"output_tokens","max":4096}]"#;
    let details =
        format!(r#"[{{"type":"agent_delegation","scopes":["inference.*"],"constraints":{list}}}]"#);
    let verified =
        forge.verify(&forge.token(&[("authorization_details", &details)])).expect("a good token");
    let grants = verified.grants().next().expect("grants");
    assert_eq!(
        (grants.rps, grants.rpm, grants.in_flight, grants.output_tokens),
        (Some(2), Some(120), Some(8), Some(4096))
    );
    let allowed = |name| grants.models.allows(name);
    assert!(allowed("llama-3.1-8b"));
    // Both constraints apply. One model is listed with another prefix; the other has the prefix but
    // is not listed.
    assert!(
        !allowed("bge-m3") && !allowed("llama-3.1-70b") && !allowed("LLAMA-3.1-8b") && !allowed("")
    );
    assert!(
        verified.scopes().allow(Scope::Embeddings) && !verified.scopes().allow(Scope::ModelsRead)
    );
}

#[test]
fn constraints_that_are_not_exact_are_refused() {
    constraints("[]", Ok(()));
    constraints("[7]", Err(Code::ConstraintMalformed));
    constraints("[{}]", Err(Code::ConstraintMalformed));
    constraints(r#"[{"key":"model"}]"#, Err(Code::ConstraintMalformed));
    constraints(r#"[{"key":7,"max":1}]"#, Err(Code::ConstraintMalformed));
    constraints(r#"[{"key":"model","one_of":[]}]"#, Err(Code::ConstraintMalformed));
    constraints(r#"[{"key":"model","one_of":"m"}]"#, Err(Code::ConstraintMalformed));
    constraints(r#"[{"key":"model","one_of":["m",1]}]"#, Err(Code::ConstraintMalformed));
    constraints(r#"[{"key":"model","one_of":["m"],"prefix":"m"}]"#, Err(Code::ConstraintMalformed));
    constraints(r#"[{"key":"model","one_of":["m"],"note":"x"}]"#, Err(Code::ConstraintMalformed));
    constraints(r#"[{"key":"model","prefix":""}]"#, Err(Code::ConstraintMalformed));
    for number in ["-1", "1.0", "1e2", "-0", "9007199254740992", r#""8""#, "null", "true"] {
        constraints(
            &format!(r#"[{{"key":"requests_per_minute","rate":{number}}}]"#),
            Err(Code::ConstraintMalformed),
        );
        constraints(
            &format!(r#"[{{"key":"requests_in_flight","max":{number}}}]"#),
            Err(Code::ConstraintMalformed),
        );
    }
    constraints(
        r#"[{"key":"requests_in_flight","max":8},{"key":"requests_in_flight","max":8}]"#,
        Err(Code::ConstraintMalformed),
    );
    constraints(
        r#"[{"key":"model","one_of":["a"]},{"key":"model","one_of":["b"]}]"#,
        Err(Code::ConstraintMalformed),
    );
}

#[test]
fn a_limit_that_cannot_be_held_refuses_the_token() {
    constraints(r#"[{"key":"unknown","max":1}]"#, Err(Code::ConstraintNotEnforced));
    constraints(r#"[{"key":"model","not_one_of":["m"]}]"#, Err(Code::ConstraintNotEnforced));
    constraints(r#"[{"key":"model","like":"m"}]"#, Err(Code::ConstraintNotEnforced));
    constraints(r#"[{"key":"Model","one_of":["m"]}]"#, Err(Code::ConstraintNotEnforced));
    constraints(r#"[{"key":"requests_per_minute","max":1}]"#, Err(Code::ConstraintNotEnforced));
    constraints(r#"[{"key":"output_tokens","rate":1}]"#, Err(Code::ConstraintNotEnforced));
    for row in constraint::TABLE.iter().filter(|row| row.enforced().is_none()) {
        constraints(
            &format!(r#"[{{"key":"{}","{}":1}}]"#, row.key, row.kind.as_str()),
            Err(Code::ConstraintNotEnforced),
        );
    }
}

#[test]
fn a_minted_token_verifies() {
    for algorithm in [Algorithm::MlDsa65, Algorithm::Ed25519] {
        let forge = Forge::new(algorithm);
        let now = Timestamp(1_790_000_000_000);
        let (agent, principal) = (
            "research/summarizer".parse().expect("agent"),
            "team:research".parse().expect("principal"),
        );
        let parties =
            mint::Parties { iss: "https://operator.example", aud: "https://gateway.example" };
        let span = mint::TokenSpan { issued: now, lifetime: Duration::from_secs(3600) };
        let mut request = mint::MintRequest::new(parties, agent, principal, span, 99);
        request.scopes = vec!["inference.chat".to_owned(), "models.read".to_owned()];
        request.not_before = Some(Timestamp(1_790_000_005_000));
        request.limits = [
            ("model", ConstraintType::OneOf, Value::Array(vec![Value::from_text("llama-3.1-8b")])),
            ("requests_per_second", ConstraintType::Rate, Value::from_u64(1)),
            ("requests_per_minute", ConstraintType::Rate, Value::from_u64(3)),
            ("requests_in_flight", ConstraintType::Max, Value::from_u64(2)),
            ("output_tokens", ConstraintType::Max, Value::from_u64(64)),
        ]
        .into_iter()
        .map(|(key, kind, value)| Constraint::new(key, kind, value).expect("a row"))
        .collect();
        let token = mint::mint(&request, &forge.key).expect("token");
        let verified = forge.verify(&token).expect("a minted token");
        assert_eq!(verified.jti(), request.jti);
        let grants = verified.grants().next().expect("grants");
        assert_eq!(
            (grants.rps, grants.rpm, grants.in_flight, grants.output_tokens),
            (Some(1), Some(3), Some(2), Some(64))
        );
        assert!(grants.models.allows("llama-3.1-8b") && !grants.models.allows("bge-m3"));
        assert!(
            verified.scopes().allow(Scope::ModelsRead) && !verified.scopes().allow(Scope::Messages)
        );
    }
}

#[test]
fn the_page_shows_the_tables_of_the_code() {
    let page = include_str!("../../../docs/TOKEN.md");
    assert!(
        page.contains(&constraint::markdown()),
        "docs/TOKEN.md: the table of constraints should be\n{}",
        constraint::markdown()
    );
    for scope in Scope::ALL {
        assert!(
            page.contains(&format!("| `{}` |", scope.as_str())),
            "docs/TOKEN.md does not list {}",
            scope.as_str()
        );
    }
    for code in
        Code::ALL.iter().filter(|code| code.stage() == token_shield::refusal::Stage::Verified)
    {
        assert!(
            page.contains(&format!("`{code}`")),
            "docs/TOKEN.md does not say when {code} is answered"
        );
    }
}
