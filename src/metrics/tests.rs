//! Tests of `metrics`.

use super::*;

#[test]
fn labels_stay_within_their_sets_and_are_escaped() {
    let metrics =
        Metrics::new(&["a\"b\\\n".to_owned()], &["up".to_owned()], Some(1)).expect("metrics");
    for (model, agent) in [("a\"b\\\n", "ns/one"), ("stranger", "ns/two")] {
        metrics.began();
        metrics.answered(&RequestMeasures {
            model: Some(model),
            operation: "chat",
            code: "ok",
            agent: Some(agent),
            upstream: Some("up"),
            request_s: 0.1,
            overhead_s: 0.0,
            first_token_s: None,
            upstream_s: Some(0.1),
            tokens_in: 3,
            tokens_out: 4,
        });
    }
    let text = metrics.text().expect("text");
    assert!(text.contains(r#"model="a\"b\\\n""#), "{text}");
    assert!(
        text.contains(r#"token_shield_requests_total{code="ok",model="other",operation="chat"} 1"#),
        "{text}"
    );
    assert!(text.contains(r#"agent="ns/one""#) && !text.contains("ns/two"), "{text}");
    assert!(text.contains("token_shield_in_flight 0"), "{text}");
    assert!(!text.contains("stranger"));
}
