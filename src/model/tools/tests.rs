//! Tool calls in whole answers and in streams: held, checked, and never changed.

mod responses;

use super::*;
use crate::model::event::StreamEvent;
use crate::model::framing::sse::EventLines;
use crate::model::tree::TreeMemory;

/// Checks calls of `fetch…`, and refuses every call with "evil" in its arguments.
#[derive(Default)]
struct Picky(Vec<String>);

impl Tools for Picky {
    fn any(&self) -> bool {
        true
    }

    fn judges(&self, tool: &str) -> bool {
        tool.starts_with("fetch")
    }

    fn call(&mut self, tool: &str, arguments: Arguments<'_>) -> bool {
        let text = match arguments {
            Arguments::Json(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Arguments::Text(text) => format!("text {text}"),
        };
        let passes = !text.contains("evil");
        self.0.push(format!("{tool} {text}"));
        passes
    }
}

fn openai(index: u64, name: Option<&str>, arguments: &str) -> Vec<u8> {
    let name = name.map(|name| format!(r#""name":"{name}","#)).unwrap_or_default();
    let arguments = serde_json::to_string(arguments).expect("a string");
    let function = format!(r#"{{{name}"arguments":{arguments}}}"#);
    let call = format!(r#"{{"index":{index},"function":{function}}}"#);
    let delta = format!(r#"{{"tool_calls":[{call}]}}"#);
    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{delta}}}]}}\n\n").into_bytes()
}

const OVER: &[u8] =
    b"data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n";

/// The number of forwarded events after each event, the checked calls, and whether the stream may
/// continue.
fn through(events: &[Vec<u8>]) -> (Vec<usize>, Vec<String>, Result<bool, ToolCallFault>) {
    let (mut gate, mut tools, mut counts, mut out) =
        (Gate::default(), Picky::default(), Vec::new(), Vec::new());
    for event in events {
        let mut count = 0;
        let lines = EventLines::read(event);
        let read = StreamEvent::read(&lines, TreeMemory::default());
        let next = gate.event(&read, &mut tools, &mut |event| {
            out.extend_from_slice(event);
            count += 1;
        });
        if next == Ok(Passage::PassedOn) {
            out.extend_from_slice(event);
            count += 1;
        }
        counts.push(count);
        match next {
            Ok(Passage::PassedOn | Passage::Held) => {}
            Ok(Passage::Ends) => return (counts, tools.0, Ok(false)),
            Err(fault) => return (counts, tools.0, Err(fault)),
        }
    }
    let passes = gate.finish(&mut tools, &mut |event| out.extend_from_slice(event));
    assert!(!passes || out == events.concat(), "what goes on goes on byte for byte");
    (counts, tools.0, Ok(passes))
}

#[test]
fn a_call_is_held_until_it_is_judged() {
    let good = [
        openai(0, Some("fetch"), ""),
        openai(0, None, r#"{"url":"#),
        openai(0, None, r#""good"}"#),
        OVER.to_vec(),
    ];
    assert_eq!(
        through(&good),
        (vec![0, 0, 0, 4], vec![r#"fetch {"url":"good"}"#.to_owned()], Ok(true))
    );
    let evil = [
        openai(0, Some("fetch"), ""),
        openai(0, None, r#"{"url":"ev"#),
        openai(0, None, r#"il"}"#),
        OVER.to_vec(),
    ];
    assert_eq!(
        through(&evil),
        (vec![0, 0, 0, 0], vec![r#"fetch {"url":"evil"}"#.to_owned()], Ok(false))
    );
    // The end of the stream also ends the call.
    assert_eq!(through(&evil[..3]).2, Ok(false));
    assert_eq!(
        through(&[evil[..3].to_vec(), vec![b"data: [DONE]\n\n".to_vec()]].concat()).2,
        Ok(false)
    );
}

#[test]
fn other_tools_are_not_held() {
    let events = [
        openai(0, Some("write"), ""),
        openai(0, None, "evil"),
        openai(1, Some("fetch"), "{}"),
        OVER.to_vec(),
    ];
    assert_eq!(through(&events), (vec![1, 1, 0, 2], vec!["fetch {}".to_owned()], Ok(true)));
}

#[test]
fn pieces_that_come_late_are_refused() {
    let name = [openai(0, Some("fe"), "{}"), openai(0, Some("tch"), "")];
    assert_eq!(through(&name).2, Err(ToolCallFault::Odd));
    let behind = [openai(0, Some("fetch"), "{}"), OVER.to_vec(), openai(0, None, "evil")];
    assert_eq!(through(&behind).2, Err(ToolCallFault::Odd));
    // Without a name the tool is unknown, so the call is held.
    let nameless = [openai(0, None, "{"), openai(0, Some("fetch"), "\"evil\":1}"), OVER.to_vec()];
    assert_eq!(through(&nameless).2, Ok(false));
    let many: Vec<Vec<u8>> = (0..2_000).map(|index| openai(index, Some("write"), "")).collect();
    assert_eq!(through(&many).2, Err(ToolCallFault::TooMuch));
    let long: Vec<Vec<u8>> = std::iter::once(openai(0, Some("fetch"), ""))
        .chain(vec![openai(0, None, &"a".repeat(1 << 19)); 9])
        .collect();
    assert_eq!(through(&long).2, Err(ToolCallFault::TooMuch));
    let name = vec![openai(0, Some(&"w".repeat(100)), ""); 3];
    assert_eq!(through(&name).2, Err(ToolCallFault::TooMuch));
}

#[test]
fn the_next_call_ends_the_one_before() {
    let events = [
        openai(0, Some("fetch"), "{}"),
        openai(1, Some("write"), "a"),
        openai(1, None, "b"),
        OVER.to_vec(),
    ];
    assert_eq!(through(&events), (vec![0, 2, 1, 1], vec!["fetch {}".to_owned()], Ok(true)));
    let evil = [openai(0, Some("fetch"), "\"evil\""), openai(1, Some("write"), "a")];
    assert_eq!(through(&evil).2, Ok(false));
    let back =
        [openai(0, Some("fetch"), "{}"), openai(1, Some("write"), "a"), openai(0, None, "evil")];
    assert_eq!(through(&back).2, Err(ToolCallFault::Odd));
}

/// A part of choice 0 with these tool calls.
fn calls(calls: &str) -> Vec<u8> {
    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"tool_calls\":[{calls}]}}}}]}}\n\n")
        .into_bytes()
}

#[track_caller]
fn stopped(events: &[Vec<u8>]) {
    let (_, judged, passes) = through(&[events, &[OVER.to_vec()]].concat());
    assert_ne!(passes, Ok(true), "went on, judged: {judged:?}");
}

#[test]
fn what_a_hostile_server_puts_together_differently_is_refused() {
    let fetch = r#""function":{"name":"fetch","arguments":"{\"url\":\"evil\"}"}"#;
    // Another name in the same call, in a later call, or of another kind.
    stopped(&[calls(&format!(r#"{{"index":0,{fetch},"custom":{{"name":"x"}}}}"#))]);
    stopped(&[calls(&format!(r#"{{"index":0,{fetch}}},{{"index":0,"function":{{"name":"x"}}}}"#))]);
    stopped(&[
        calls(&format!(r#"{{"index":0,{fetch}}}"#)),
        calls(r#"{"index":0,"custom":{"name":"x"}}"#),
    ]);
    let both = concat!(
        r#"data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"#,
        r#""function":{"name":"fetch","arguments":"\"evil\""}}]},"#,
        r#""message":{"tool_calls":[{"index":0,"function":{"name":"x"}}]}}]}"#
    );
    stopped(&[format!("{both}\n\n").into_bytes()]);
    // Indexes that clients interpret in different ways.
    let two = || {
        vec![
            calls(r#"{"index":0,"function":{"name":"write","arguments":""}}"#),
            calls(r#"{"index":1,"function":{"name":"fetch"}}"#),
        ]
    };
    for index in ["-1", "true", "\"1\"", "1.5", "3"] {
        let evil = calls(&format!(r#"{{"index":{index},"function":{{"arguments":"evil"}}}}"#));
        stopped(&[two(), vec![evil]].concat());
    }
    // Without indexes the calls are counted in order of arrival.
    let unnumbered = [
        calls(r#"{"function":{"name":"write","arguments":"{}"}}"#),
        calls(r#"{"function":{"name":"fetch","arguments":"\"evil\""}}"#),
    ];
    stopped(&unnumbered);
    let fine = [
        calls(r#"{"function":{"name":"fetch","arguments":"{}"}}"#),
        calls(r#"{"function":{"name":"fetch","arguments":"{}"}}"#),
        OVER.to_vec(),
    ];
    assert_eq!(through(&fine).2, Ok(true));
    // Arguments as a value: twice, late, or together with text.
    stopped(&[
        calls(r#"{"index":0,"function":{"name":"fetch","arguments":{"url":"evil"}}}"#),
        calls(r#"{"index":0,"function":{"arguments":{}}}"#),
    ]);
    stopped(&[
        calls(r#"{"index":0,"function":{"name":"fetch","arguments":"{}"}}"#),
        OVER.to_vec(),
        calls(r#"{"index":0,"function":{"arguments":{"url":"evil"}}}"#),
    ]);
    stopped(&[calls(
        r#"{"index":0,"function":{"name":"fetch","arguments":"\"evil\"","input":null}}"#,
    )]);
    stopped(&[calls(r#"{"index":0,"custom":{"name":"fetch","arguments":"","input":"evil"}}"#)]);
    stopped(&[calls(r#"{"index":0,"custom":{"name":"fetch","input":{"u":"evil"}}}"#)]);
    // Names in another case.
    stopped(&[b"data: {\"choices\":[{\"index\":0,\"delta\":{\"Tool_Calls\":[]}}]}\n\n".to_vec()]);
    stopped(&[calls(
        r#"{"index":0,"function":{"name":"write","Name":"fetch","arguments":"\"evil\""}}"#,
    )]);
}

#[test]
fn blocks_come_one_by_one() {
    let event = |name: &str, data: &str| format!("event: {name}\ndata: {data}\n\n").into_bytes();
    let start = |index: i64, name: &str, input: &str| {
        let block = format!(r#"{{"type":"tool_use","name":"{name}","input":{input}}}"#);
        event(
            "content_block_start",
            &format!(r#"{{"type":"content_block_start","index":{index},"content_block":{block}}}"#),
        )
    };
    let delta = |index: i64, text: &str| {
        let text = serde_json::to_string(text).expect("a string");
        let delta = format!(r#"{{"type":"input_json_delta","partial_json":{text}}}"#);
        event(
            "content_block_delta",
            &format!(r#"{{"type":"content_block_delta","index":{index},"delta":{delta}}}"#),
        )
    };
    let stop = |index: i64| {
        event("content_block_stop", &format!(r#"{{"type":"content_block_stop","index":{index}}}"#))
    };
    stopped(&[start(5, "fetch", "{}"), start(0, "write", "{}"), delta(0, "evil"), stop(0)]);
    stopped(&[start(0, "fetch", r#"{"url":"evil"}"#), start(0, "fetch", "{}"), stop(0)]);
    stopped(&[
        start(0, "write", "{}"),
        stop(0),
        start(1, "fetch", "{}"),
        delta(-1, "evil"),
        stop(1),
    ]);
    stopped(&[start(0, "fetch", "{}"), delta(1, "evil"), stop(0)]);
    // Events whose type is only in their name, or differs from it.
    let unnamed = |bytes: Vec<u8>| {
        String::from_utf8(bytes)
            .expect("UTF-8")
            .replacen("\"type\":\"content_block_", "\"x\":\"", 1)
            .into_bytes()
    };
    stopped(&[unnamed(start(0, "fetch", r#"{"url":"evil"}"#)), unnamed(stop(0))]);
    let other = String::from_utf8(start(0, "write", "{}"))
        .expect("UTF-8")
        .replace("event: content_block_start", "event: content_block_stop");
    stopped(&[other.into_bytes()]);
    let fine = [
        start(0, "fetch", "{}"),
        delta(0, "{}"),
        stop(0),
        start(1, "write", "{}"),
        delta(1, "x"),
        stop(1),
    ];
    assert_eq!((through(&fine).0, through(&fine).2), (vec![0, 0, 3, 1, 1, 1], Ok(true)));
    // llama.cpp stops all blocks at the end.
    let late = [
        start(0, "write", "{}"),
        delta(0, "x"),
        start(1, "fetch", "{}"),
        delta(1, "{}"),
        stop(0),
        stop(1),
    ];
    assert_eq!((through(&late).0, through(&late).2), (vec![1, 1, 0, 0, 0, 4], Ok(true)));
    let evil =
        [start(0, "fetch", "{}"), start(1, "fetch", "{}"), delta(1, "evil"), stop(0), stop(1)];
    assert_eq!(through(&evil).2, Ok(false));
    stopped(&[start(0, "write", "{}"), start(1, "fetch", "{}"), delta(0, "evil")]);
    stopped(&[start(0, "fetch", "{}"), stop(0), stop(0)]);
}

#[test]
fn anthropic_blocks_are_calls_too() {
    let event = |data: &str| format!("event: x\ndata: {data}\n\n").into_bytes();
    let start = |name: &str, input: &str| {
        let block = format!(r#"{{"type":"tool_use","name":"{name}","input":{input}}}"#);
        event(&format!(r#"{{"type":"content_block_start","index":0,"content_block":{block}}}"#))
    };
    let delta = event(concat!(
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","#,
        r#""partial_json":"{\"u\":\"evil\"}"}}"#
    ));
    let stop = event(r#"{"type":"content_block_stop","index":0}"#);
    let all = |name: &str, input: &str| through(&[start(name, input), delta.clone(), stop.clone()]);
    assert_eq!(all("fetch", "{}").2, Ok(false));
    assert_eq!((all("write", "{}").0, all("write", "{}").2), (vec![1, 1, 1], Ok(true)));
    assert_eq!(through(&[start("fetch", r#"{"u":"evil"}"#), stop.clone()]).2, Ok(false));
    assert_eq!(
        through(&[start("fetch", "{}"), stop.clone(), delta.clone()]).2,
        Err(ToolCallFault::Odd)
    );
    let prefilled = event(concat!(
        r#"{"type":"message_start","message":{"content":[{"type":"tool_use","name":"fetch","#,
        r#""input":{"u":"evil"}}]}}"#
    ));
    assert_eq!(through(&[prefilled]).2, Err(ToolCallFault::Odd));
}

#[test]
fn whole_answers_are_looked_through() {
    let check = |answer: &str, expect| {
        assert_eq!(whole(answer.as_bytes(), &mut Picky::default()), Ok(expect), "{answer}")
    };
    check(
        concat!(
            r#"{"choices":[{"message":{"tool_calls":[{"function":{"name":"fetch","#,
            r#""arguments":"{\"u\":\"evil\"}"}}]}}]}"#
        ),
        false,
    );
    check(
        concat!(
            r#"{"choices":[{"message":{"tool_calls":[{"function":{"name":"write","#,
            r#""arguments":"{\"u\":\"evil\"}"}}]}}]}"#
        ),
        true,
    );
    check(
        r#"{"choices":[{"message":{"function_call":{"name":"fetch","arguments":"evil"}}}]}"#,
        false,
    );
    check(
        r#"{"choices":[{"message":{"tool_calls":[{"custom":{"name":"fetch","input":"evil"}}]}}]}"#,
        false,
    );
    check(
        concat!(
            r#"{"content":[{"type":"text","text":"evil"},{"type":"tool_use","name":"fetch","#,
            r#""input":{"u":["evil"]}}]}"#
        ),
        false,
    );
    check(r#"{"content":[{"type":"tool_use","name":"fetch","input":{"u":["good"]}}]}"#, true);
    assert_eq!(whole(b"{", &mut Picky::default()), Err(Unreadable::Json));
    assert_eq!(whole(b"{", &mut ()), Ok(true), "nobody asks");
}

fn ollama(name: &str, url: &str) -> Vec<u8> {
    let call = format!(r#"{{"function":{{"name":"{name}","arguments":{{"url":"{url}"}}}}}}"#);
    format!("data: {{\"message\":{{\"tool_calls\":[{call}]}},\"done\":false}}\n\n").into_bytes()
}

#[test]
fn calls_in_lines_are_judged_at_once() {
    let good = [ollama("fetch", "good"), ollama("write", "evil"), ollama("fetch", "fine")];
    let judged = [r#"fetch {"url":"good"}"#, r#"fetch {"url":"fine"}"#].map(str::to_owned);
    assert_eq!(through(&good), (vec![1, 1, 1], judged.to_vec(), Ok(true)));
    let evil = [ollama("fetch", "good"), ollama("fetch", "evil"), ollama("write", "x")];
    let (counts, _, passes) = through(&evil);
    assert_eq!((counts, passes), (vec![1, 0], Ok(false)));
    for odd in
        [r#"{"tool_calls":{}}"#, r#"{"tool_calls":[1]}"#, r#"{"tool_calls":[{"function":1}]}"#]
    {
        let event = format!("data: {{\"message\":{odd}}}\n\n").into_bytes();
        assert_eq!(through(&[event]).2, Err(ToolCallFault::Odd), "{odd}");
    }
    // In the other dialects the member may be a text.
    let text = b"data: {\"message\":\"text\"}\n\n".to_vec();
    assert_eq!(through(&[text]).2, Ok(true));
}
