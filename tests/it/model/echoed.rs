//! The answers of the built-in upstream `echo` to what the gateway sends it.

use token_shield::model::{BodyChanges, Dialect, Operation, UnknownFields};
use token_shield::proxy::echo::{self, Reply};

use super::answers::filters;
use super::{CHAT, MESSAGES, chat, messages, said, understand};

#[track_caller]
fn echoed(operation: Operation, body: &str, cap: u64) -> String {
    let profile = if operation.dialect() == Dialect::Ollama { "ollama" } else { "generic" };
    let call = understand(operation, profile, UnknownFields::Refuse, body.as_bytes())
        .unwrap_or_else(|no| panic!("{no}\n{body}"));
    let sent =
        call.write(&BodyChanges { output_tokens: Some(cap), request_id: None, cache_salt: None });
    match echo::answer(operation, &sent.body, "rq_1", 7).expect("a JSON object") {
        Reply::Whole(bytes) => String::from_utf8(bytes).expect("UTF-8"),
        Reply::Events(pieces) | Reply::Lines(pieces) => {
            String::from_utf8(pieces.concat()).expect("UTF-8")
        }
    }
}

#[track_caller]
fn echoes(operation: Operation, body: &str, cap: u64, parts: &[&str]) {
    let answer = echoed(operation, body, cap);
    for part in parts {
        assert!(answer.contains(part), "{part} is not in {answer}");
    }
}

#[test]
fn echo_says_what_it_was_told() {
    echoes(
        CHAT,
        &said(concat!(
            r#"{"role":"system","content":"be brief"},{"role":"user","content":"hi "#,
            r#"\"there\" you"}"#
        )),
        9,
        &[
            r#""content":"hi \"there\" you""#,
            r#""finish_reason":"stop""#,
            r#""prompt_tokens":5,"completion_tokens":3,"total_tokens":8"#,
        ],
    );
    echoes(CHAT, &chat(r#","n":2"#), 9, &[r#""index":1"#, r#""completion_tokens":2"#]);
    echoes(
        CHAT,
        &said(r#"{"role":"user","content":"one  two three"}"#),
        2,
        &[r#""content":"one  two""#, r#""finish_reason":"length""#, r#""completion_tokens":2"#],
    );
    echoes(
        CHAT,
        &said(concat!(
            r#"{"role":"user","content":"x"},{"role":"tool","tool_call_id":"c","#,
            r#""content":"{\"sky\":1}"}"#
        )),
        9,
        &[r#""content":"{\"sky\":1}""#],
    );
    echoes(
        CHAT,
        &chat(r#","response_format":{"type":"json_object"}"#),
        9,
        &[r#""content":"{\"echo\":\"hi\"}""#],
    );
    echoes(
        Operation::Completions,
        r#"{"model":"m","prompt":["a b","c"],"n":2}"#,
        1,
        &[r#""text":"a""#, r#""index":3,"text":"c""#, r#""prompt_tokens":3,"completion_tokens":4"#],
    );
    echoes(
        MESSAGES,
        &messages(""),
        9,
        &[
            r#""content":[{"type":"text","text":"hi"}]"#,
            r#""stop_reason":"end_turn""#,
            r#""input_tokens":1,"output_tokens":1"#,
        ],
    );
    echoes(
        MESSAGES,
        r#"{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"a b"}]}"#,
        9,
        &[r#""text":"a""#, r#""stop_reason":"max_tokens""#],
    );
}

#[test]
fn echo_calls_a_tool_when_told_to() {
    let tools = concat!(
        r#"],"tools":[{"type":"function","function":{"name":"weather"}}],"#,
        r#""tool_choice":"auto","x":["#
    );
    let tools = tools.split_at(tools.len() - 6).0;
    let told = |text: &str| {
        format!(r#"{{"model":"m","messages":[{{"role":"user","content":{text}}}{tools}}}"#)
    };
    echoes(
        CHAT,
        &told(r#""call weather {\"city\": \"Łódź\"}""#),
        9,
        &[
            r#""name":"weather","arguments":"{\"city\":\"Łódź\"}""#,
            r#""finish_reason":"tool_calls""#,
        ],
    );
    echoes(CHAT, &told(r#""call weather""#), 9, &[r#""arguments":"{}""#]);
    echoes(CHAT, &told(r#""call moon {}""#), 9, &[r#""content":"call moon {}""#]);
    echoes(CHAT, &told(r#""call weather {bad""#), 9, &[r#""content":"call weather {bad""#]);
    let anthropic = |stream: bool| {
        format!(
            concat!(
                r#"{{"model":"m","max_tokens":9,"stream":{stream},"#,
                r#""messages":[{{"role":"user","content":"call f {{\"a\":1.50}}"}}],"#,
                r#""tools":[{{"name":"f","input_schema":{{}}}}]}}"#
            ),
            stream = stream
        )
    };
    echoes(
        MESSAGES,
        &anthropic(false),
        9,
        &[r#""name":"f","input":{"a":1.50}"#, r#""stop_reason":"tool_use""#],
    );
    echoes(MESSAGES, &anthropic(true), 9, &[r#""partial_json":"{\"a\":1.50}""#, r#""input":{}"#]);
}

#[test]
fn echo_streams_in_small_chunks() {
    let body = said(concat!(
        r#"{"role":"user","content":"one two three"}],"stream":true,"#,
        r#""stream_options":{"include_usage":true},"stop":["x""#
    ));
    let answer = echoed(CHAT, &body, 2);
    let parts = [
        r#""delta":{"role":"assistant","content":""}"#,
        r#"{"content":"one "}"#,
        r#"{"content":"two"}"#,
        r#""finish_reason":"length""#,
        r#""choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2"#,
        "data: [DONE]\n\n",
    ];
    let mut from = 0;
    for part in parts {
        let at = answer[from..]
            .find(part)
            .unwrap_or_else(|| panic!("{part} is not behind {from} in {answer}"));
        from += at + part.len();
    }
    assert_eq!(from, answer.len());
    filters(CHAT, true, &answer, &answer, Some((3, 2)));
    // The gateway requests usage always, and removes it if the caller did not request it.
    let answer = echoed(CHAT, &chat(r#","stream":true"#), 9);
    let usage = answer.split_inclusive("\n\n").find(|event| event.contains("\"usage\""));
    let passed = answer.replace(usage.expect("an event about usage"), "");
    filters(CHAT, false, &answer, &passed, Some((1, 1)));
    let stream = echoed(MESSAGES, &messages(r#","stream":true"#), 9);
    filters(MESSAGES, false, &stream, &stream, Some((1, 1)));
}

#[test]
fn echo_answers_in_lines() {
    let chat = Operation::OllamaChat;
    let body = said(r#"{"role":"user","content":"one two three"}"#);
    let answer = echoed(chat, &body, 2);
    let contents = [r#""content":"one "}"#, r#""content":"two"}"#, r#""content":""}"#];
    for (line, content) in answer.lines().zip(contents) {
        assert!(line.contains(content), "{answer}");
    }
    assert_eq!(answer.lines().count(), contents.len());
    assert!(answer.contains(r#""done":true,"done_reason":"length""#), "{answer}");
    filters(chat, false, &answer, &answer, Some((3, 2)));
    let body = r#"{"model":"m","prompt":"a b","stream":false}"#;
    echoes(Operation::OllamaGenerate, body, 9, &[r#""response":"a b","done":true"#]);
    let body = concat!(
        r#"{"model":"m","messages":[{"role":"user","content":"call f {\"a\":1}"}],"stream":false,"#,
        r#""tools":[{"type":"function","function":{"name":"f"}}]}"#
    );
    echoes(chat, body, 9, &[r#""function":{"name":"f","arguments":{"a":1}}"#]);
}

#[test]
fn echo_counts_and_ranks() {
    let counted = [r#"{"input_tokens":1}"#];
    echoes(Operation::CountTokens, &messages(""), 9, &counted);
    let body = r#"{"model":"m","query":"b","documents":["a","b"],"top_n":1}"#;
    let ranked = [r#""results":[{"index":1,"relevance_score":1}]"#, r#""total_tokens":3"#];
    echoes(Operation::Rerank, body, 9, &ranked);
}

#[test]
fn echo_embeds_deterministically() {
    let vector = |text: &str, dimensions: usize| -> Vec<f64> {
        let answer = echoed(
            Operation::Embeddings,
            &format!(r#"{{"model":"m","input":"{text}","dimensions":{dimensions}}}"#),
            0,
        );
        let numbers = answer
            .split_once("\"embedding\":[")
            .and_then(|(_, rest)| rest.split_once(']'))
            .expect("a vector")
            .0;
        numbers.split(',').map(|number| number.parse().expect("a number")).collect()
    };
    let (one, two) = (vector("a", 16), vector("b", 16));
    assert_eq!((one.len(), &one), (16, &vector("a", 16)));
    let dot =
        |one: &[f64], two: &[f64]| one.iter().zip(two).map(|(one, two)| one * two).sum::<f64>();
    assert!((dot(&one, &one) - 1.0).abs() < 1e-5 && dot(&one, &two).abs() < 0.9);
    let packed = echoed(
        Operation::Embeddings,
        r#"{"model":"m","input":["a",[1,2]],"encoding_format":"base64","dimensions":3}"#,
        0,
    );
    let text = packed
        .split_once("\"embedding\":\"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .expect("base64")
        .0;
    assert_eq!(text.len(), 16);
    assert!(
        packed.contains(r#""index":1"#)
            && packed.contains(r#""usage":{"prompt_tokens":3,"total_tokens":3}"#),
        "{packed}"
    );
}
