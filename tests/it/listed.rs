//! The models of a caller, and the rates of a model, in a running gateway.

use crate::harness::Gateway;

#[test]
fn a_caller_sees_the_models_of_its_namespace() {
    let gateway = Gateway::start();
    let request = format!(
        "GET /v1/models HTTP/1.1\r\nhost: gateway.example\r\nauthorization: Bearer {}\r\n\r\n",
        gateway.token()
    );
    let answer = gateway.send(request.as_bytes());
    assert_eq!(answer.status, 200, "{answer:?}");
    for (name, is_listed) in [("up", true), ("echo", true), ("secret", false)] {
        let id = format!("\"id\":\"{name}\"");
        assert_eq!(answer.body.contains(&id), is_listed, "{name}: {}", answer.body);
    }
}

#[test]
fn the_rate_of_a_model_applies_to_all_its_callers() {
    let model = "[[model]]\nname = \"rare\"\nroute = [\"echo\"]\nrpm = 1\nburst = 1\n";
    let gateway = Gateway::with("rpm = 6000\nburst = 5000", model);
    let ask = || {
        let body = r#"{"model":"rare","messages":[{"role":"user","content":"hello"}]}"#;
        gateway.send(&gateway.chat(body))
    };
    assert_eq!(ask().status, 200);
    let refused = ask();
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (429, "model-rate-exceeded"),
        "{refused:?}"
    );
}

#[test]
fn an_alias_may_stand_for_all_names_of_one_beginning() {
    let model = concat!(
        "[[model]]\nname = \"one\"\naliases = [\"claude-*\", \"gpt-4o\"]\nroute = [\"echo\"]\n",
        "[[model]]\nname = \"other\"\naliases = [\"claude-opus-*\"]\nroute = [\"echo\"]\nrpm = 1\n",
        "burst = 1\n",
    );
    let gateway = Gateway::with("rpm = 6000\nburst = 5000", model);
    let ask = |model: &str| {
        let body =
            format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"hello"}}]}}"#);
        gateway.send(&gateway.chat(&body)).status
    };
    let of_one = ["claude-haiku-4-5", "claude-", "gpt-4o", "one"];
    assert_eq!(of_one.map(ask), [200; 4]);
    assert_eq!(["claude", "gpt-4o-mini", "Claude-x"].map(ask), [404; 3]);
    // The longer beginning takes precedence. Its model has a rate of one request.
    assert_eq!(["claude-opus-4-5", "claude-opus-x"].map(ask), [200, 429]);
}
