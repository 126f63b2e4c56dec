//! Conversion of answers: documents to events, and events to documents.

use super::{Unlike, events, joined};
use crate::clock::{Clock as _, SystemClock};
use crate::model::Operation;

const CHAT: &str = concat!(
    r#"{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"#,
    r#""message":{"role":"assistant","content":"hi","reasoning_content":"so","#,
    r#""tool_calls":[{"id":"t","type":"function","function":{"name":"go","arguments":"{}"}}]},"#,
    r#""finish_reason":"tool_calls"},{"index":1,"message":{"role":"assistant","content":null},"#,
    r#""finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#
);
const TEXT: &str = concat!(
    r#"{"id":"c","object":"text_completion","choices":[{"index":0,"text":"hi","#,
    r#""finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#
);
const MESSAGE: &str = concat!(
    r#"{"id":"m","type":"message","role":"assistant","stop_reason":"tool_use","#,
    r#""stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":2},"#,
    r#""content":[{"type":"thinking","thinking":"so","signature":"s"},{"type":"text","#,
    r#""text":"hi"},{"type":"tool_use","id":"t","name":"go","input":{"a":[1]}}]}"#
);
const LINE: &str = concat!(
    r#"{"model":"m","created_at":"t","message":{"role":"assistant","content":"hi","#,
    r#""tool_calls":[{"function":{"name":"go","arguments":{"a":[1]}}}]},"done":true,"#,
    r#""done_reason":"stop","prompt_eval_count":1,"eval_count":2}"#
);
const GENERATED: &str = r#"{"model":"m","response":"hi","thinking":"so","done":true}"#;

fn value(json: &[u8]) -> serde_json::Value {
    serde_json::from_slice(json).expect("JSON")
}

#[test]
fn an_answer_survives_both_ways() {
    for (operation, answer) in [
        (Operation::ChatCompletions, CHAT),
        (Operation::Completions, TEXT),
        (Operation::Messages, MESSAGE),
        (Operation::OllamaChat, LINE),
        (Operation::OllamaGenerate, GENERATED),
    ] {
        let stream = events(operation, answer.as_bytes()).expect("events").concat();
        let again = joined(operation, &stream).expect("joined");
        assert_eq!(value(&again), value(answer.as_bytes()), "{}", String::from_utf8_lossy(&stream));
    }
}

#[test]
fn what_has_no_place_in_the_other_form_is_not_converted() {
    let chat = Operation::ChatCompletions;
    for answer in
        ["[]", "x", r#"{"error":{"message":"no"}}"#, r#"{"choices":[{"index":0,"text":"x"}]}"#]
    {
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
        assert!(
            matches!(joined(chat, format!("data: {odd}\n\n{end}").as_bytes()), Err(Unlike::Odd(_))),
            "{odd}"
        );
    }
}

/// Each choice becomes an event with the answer's other members. A short answer must not become
/// gigabytes.
#[test]
fn an_answer_that_grows_by_its_choices_is_not_converted() {
    let answer = |bytes: usize, choices: usize| {
        let choices = vec![r#"{"index":0,"text":"x"}"#; choices].join(",");
        format!(
            r#"{{"object":"text_completion","note":"{}","choices":[{choices}]}}"#,
            "x".repeat(bytes)
        )
    };
    assert!(events(Operation::Completions, answer(1 << 20, 4).as_bytes()).is_ok());
    assert!(matches!(
        events(Operation::Completions, answer(1 << 20, 100).as_bytes()),
        Err(Unlike::Odd(_))
    ));
    assert!(matches!(
        events(Operation::Completions, answer(1000, 100_000).as_bytes()),
        Err(Unlike::Odd(_))
    ));
}

#[test]
fn events_that_end_too_early_make_no_answer() {
    let half = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"h\"}}]}\n\n";
    assert_eq!(joined(Operation::ChatCompletions, half.as_bytes()), Err(Unlike::Cut));
    assert_eq!(joined(Operation::ChatCompletions, b""), Err(Unlike::Cut));
    assert!(
        joined(Operation::ChatCompletions, format!("{half}data: [DONE]\n\n").as_bytes()).is_ok()
    );
}

/// Anthropic's events around those of one block.
fn message(block: &str, deltas: &str) -> String {
    let start = concat!(
        r#"{"type":"message_start","message":{"id":"m","type":"message","content":[],"#,
        r#""usage":{"input_tokens":1}}}"#
    );
    let end = concat!(
        r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"#,
        r#""usage":{"output_tokens":1}}"#
    );
    format!(
        "data: {start}\n\ndata: \
            {{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{block}}}\n\n{deltas}\
         data: {end}\n\ndata: {{\"type\":\"message_stop\"}}\n\n"
    )
}

#[test]
fn deltas_go_behind_what_their_block_began_with() {
    let delta = |kind: &str, member: &str, text: &str| {
        let delta = format!(r#"{{"type":"{kind}","{member}":"{text}"}}"#);
        format!("data: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{delta}}}\n\n")
    };
    let deltas =
        delta("thinking_delta", "thinking", "b") + &delta("thinking_delta", "thinking", "c");
    let deltas = deltas
        + &delta("signature_delta", "signature", "s")
        + &delta("signature_delta", "signature", "t");
    let whole = joined(
        Operation::Messages,
        message(r#"{"type":"thinking","thinking":"a"}"#, &deltas).as_bytes(),
    )
    .expect("joined");
    let block = &value(&whole)["content"][0];
    assert_eq!(
        *block,
        serde_json::json!({"type": "thinking", "thinking": "abc", "signature": "st"})
    );
}

#[test]
fn a_long_answer_in_small_pieces_is_joined_in_linear_time() {
    let delta = concat!(
        r#"data: {"type":"content_block_delta","index":0,"#,
        r#""delta":{"type":"text_delta","text":"abcdefgh "}}"#,
        "\n\n"
    );
    let took = |count: usize| {
        let events = message(r#"{"type":"text","text":""}"#, &delta.repeat(count));
        let clock = SystemClock::start();
        let whole = joined(Operation::Messages, events.as_bytes()).expect("joined");
        assert_eq!(value(&whole)["content"][0]["text"].as_str().map(str::len), Some(9 * count));
        clock.monotonic()
    };
    let few = (0..3).map(|_| took(5_000)).min().unwrap_or_default();
    let many = (0..2).map(|_| took(80_000)).min().unwrap_or_default();
    // Sixteen times as many parts. Quadratic time would take 256 times as long.
    assert!(many < few * 64, "{many:?} for sixteen times what took {few:?}");
}

#[test]
fn answers_with_many_members_are_not_joined() {
    let members: Vec<String> = (0..300).map(|number| format!("\"m{number}\":1")).collect();
    let chat = format!("data: {{{}}}\n\n", members.join(","));
    assert!(matches!(joined(Operation::ChatCompletions, chat.as_bytes()), Err(Unlike::Odd(_))));
    let usage =
        format!("data: {{\"type\":\"message_delta\",\"usage\":{{{}}}}}\n\n", members.join(","));
    let events = message(r#"{"type":"text","text":""}"#, &usage);
    assert!(matches!(joined(Operation::Messages, events.as_bytes()), Err(Unlike::Odd(_))));
}

#[test]
fn lines_are_joined_to_one_answer() {
    let lines = concat!(
        "{\"message\":{\"role\":\"assistant\",\"content\":\"a\",\"tool_calls\":[1]},",
        "\"done\":false}\n{\"message\":{\"content\":\"b\",\"tool_calls\":[2]},",
        "\"done\":true,\"eval_count\":2}\n"
    );
    let whole = joined(Operation::OllamaChat, lines.as_bytes()).expect("joined");
    let expect = serde_json::json!({
        "message": {"role": "assistant", "content": "ab", "tool_calls": [1, 2]},
        "done": true, "eval_count": 2,
    });
    assert_eq!(value(&whole), expect);
    let cut = lines.split_inclusive('\n').next().expect("a line");
    assert_eq!(joined(Operation::OllamaChat, cut.as_bytes()), Err(Unlike::Cut));
    for odd in ["{\"error\":\"no\"}", "{\"message\":1}", "{\"response\":{}}", "[]"] {
        let stream = format!("{odd}\n{lines}");
        assert!(joined(Operation::OllamaChat, stream.as_bytes()).is_err(), "{odd}");
    }
    assert!(events(Operation::OllamaChat, GENERATED.as_bytes()).is_err());
    assert!(events(Operation::OllamaGenerate, b"{\"response\":\"a\",\"done\":false}").is_err());
}
