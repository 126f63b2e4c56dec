//! Answers in the other form: documents as events, and events as documents.

use super::{Unlike, events, joined};
use crate::model::Operation;

const CHAT: &str = r#"{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi","reasoning_content":"so","tool_calls":[{"id":"t","type":"function","function":{"name":"go","arguments":"{}"}}]},"finish_reason":"tool_calls"},{"index":1,"message":{"role":"assistant","content":null},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;
const TEXT: &str = r#"{"id":"c","object":"text_completion","choices":[{"index":0,"text":"hi","finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;
const MESSAGE: &str = r#"{"id":"m","type":"message","role":"assistant","stop_reason":"tool_use","stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":2},"content":[{"type":"thinking","thinking":"so","signature":"s"},{"type":"text","text":"hi"},{"type":"tool_use","id":"t","name":"go","input":{"a":[1]}}]}"#;

fn value(json: &[u8]) -> serde_json::Value {
    serde_json::from_slice(json).expect("JSON")
}

#[test]
fn an_answer_survives_both_ways() {
    for (operation, answer) in
        [(Operation::ChatCompletions, CHAT), (Operation::Completions, TEXT), (Operation::Messages, MESSAGE)]
    {
        let stream = events(operation, answer.as_bytes()).expect("events").concat();
        let again = joined(operation, &stream).expect("joined");
        assert_eq!(value(&again), value(answer.as_bytes()), "{}", String::from_utf8_lossy(&stream));
    }
}

#[test]
fn what_has_no_place_in_the_other_form_is_not_converted() {
    let chat = Operation::ChatCompletions;
    for answer in ["[]", "x", r#"{"error":{"message":"no"}}"#, r#"{"choices":[{"index":0,"text":"x"}]}"#] {
        assert!(events(chat, answer.as_bytes()).is_err(), "{answer}");
    }
    assert!(events(Operation::Messages, CHAT.as_bytes()).is_err());
    let end = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    for odd in [
        r#"{"choices":[{"index":0,"delta":{"audio":{"data":"x"}}}]}"#,
        r#"{"choices":[{"index":0,"delta":{},"logprobs":{"content":[]}}]}"#,
        r#"{"choices":[{"index":-1,"delta":{}}]}"#,
        r#"{"error":{"message":"no"}}"#,
        "x",
    ] {
        assert!(matches!(joined(chat, format!("data: {odd}\n\n{end}").as_bytes()), Err(Unlike::Odd(_))), "{odd}");
    }
}

#[test]
fn events_that_end_too_early_make_no_answer() {
    let half = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"h\"}}]}\n\n";
    assert_eq!(joined(Operation::ChatCompletions, half.as_bytes()), Err(Unlike::Cut));
    assert_eq!(joined(Operation::ChatCompletions, b""), Err(Unlike::Cut));
    assert!(joined(Operation::ChatCompletions, format!("{half}data: [DONE]\n\n").as_bytes()).is_ok());
}
