//! Tool calls in whole answers and in streams: held, judged, and never changed.

use super::*;

/// Judges calls of `fetch…`, and lets none pass that names what is evil.
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
    format!(
        "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"tool_calls\":[{{\"index\":{index},\"function\":{{{name}\"arguments\":{arguments}}}}}]}}}}]}}\n\n"
    )
    .into_bytes()
}

const OVER: &[u8] = b"data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n";

/// What comes out of each event, what was judged, and whether the stream may go on.
fn through(events: &[Vec<u8>]) -> (Vec<usize>, Vec<String>, Result<bool, Fault>) {
    let (mut gate, mut tools, mut counts, mut out) = (Gate::default(), Picky::default(), Vec::new(), Vec::new());
    for event in events {
        let mut count = 0;
        let passes = gate.event(event, &mut tools, &mut |event| {
            out.extend_from_slice(event);
            count += 1;
        });
        counts.push(count);
        if passes != Ok(true) {
            return (counts, tools.0, passes);
        }
    }
    let passes = gate.finish(&mut tools, &mut |event| out.extend_from_slice(event));
    assert!(!passes || out == events.concat(), "what goes on goes on byte for byte");
    (counts, tools.0, Ok(passes))
}

#[test]
fn a_call_is_held_until_it_is_judged() {
    let good = [openai(0, Some("fetch"), ""), openai(0, None, r#"{"url":"#), openai(0, None, r#""good"}"#), OVER.to_vec()];
    assert_eq!(through(&good), (vec![0, 0, 0, 4], vec![r#"fetch {"url":"good"}"#.to_owned()], Ok(true)));
    let evil = [openai(0, Some("fetch"), ""), openai(0, None, r#"{"url":"ev"#), openai(0, None, r#"il"}"#), OVER.to_vec()];
    assert_eq!(through(&evil), (vec![0, 0, 0, 0], vec![r#"fetch {"url":"evil"}"#.to_owned()], Ok(false)));
    // The end of the stream ends the call too.
    assert_eq!(through(&evil[..3]).2, Ok(false));
    assert_eq!(through(&[evil[..3].to_vec(), vec![b"data: [DONE]\n\n".to_vec()]].concat()).2, Ok(false));
}

#[test]
fn other_tools_are_not_held() {
    let events = [openai(0, Some("write"), ""), openai(0, None, "evil"), openai(1, Some("fetch"), "{}"), OVER.to_vec()];
    assert_eq!(through(&events), (vec![1, 1, 0, 2], vec!["fetch {}".to_owned()], Ok(true)));
}

#[test]
fn pieces_that_come_late_are_refused() {
    let name = [openai(0, Some("fe"), "{}"), openai(0, Some("tch"), "")];
    assert_eq!(through(&name).2, Err(Fault::Odd));
    let behind = [openai(0, Some("fetch"), "{}"), OVER.to_vec(), openai(0, None, "evil")];
    assert_eq!(through(&behind).2, Err(Fault::Odd));
    // Without a name nobody knows whose it is: it is held.
    let nameless = [openai(0, None, "{"), openai(0, Some("fetch"), "\"evil\":1}"), OVER.to_vec()];
    assert_eq!(through(&nameless).2, Ok(false));
    let many: Vec<Vec<u8>> = (0..2_000).map(|index| openai(index, Some("write"), "")).collect();
    assert_eq!(through(&many).2, Err(Fault::TooMuch));
    let long = vec![openai(0, Some("fetch"), &"a".repeat(1 << 16)); 20];
    assert_eq!(through(&long).2, Err(Fault::TooMuch));
}

#[test]
fn anthropic_blocks_are_calls_too() {
    let event = |data: &str| format!("event: x\ndata: {data}\n\n").into_bytes();
    let start = |name: &str, input: &str| {
        event(&format!(
            r#"{{"type":"content_block_start","index":1,"content_block":{{"type":"tool_use","name":"{name}","input":{input}}}}}"#
        ))
    };
    let delta = event(
        r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"u\":\"evil\"}"}}"#,
    );
    let stop = event(r#"{"type":"content_block_stop","index":1}"#);
    let all = |name: &str, input: &str| through(&[start(name, input), delta.clone(), stop.clone()]);
    assert_eq!(all("fetch", "{}").2, Ok(false));
    assert_eq!((all("write", "{}").0, all("write", "{}").2), (vec![1, 1, 1], Ok(true)));
    assert_eq!(through(&[start("fetch", r#"{"u":"evil"}"#), stop.clone()]).2, Ok(false));
    assert_eq!(through(&[start("fetch", "{}"), stop.clone(), delta.clone()]).2, Err(Fault::Odd));
    let prefilled =
        event(r#"{"type":"message_start","message":{"content":[{"type":"tool_use","name":"fetch","input":{"u":"evil"}}]}}"#);
    assert_eq!(through(&[prefilled]).2, Ok(false));
}

#[test]
fn whole_answers_are_looked_through() {
    let check = |answer: &str, expect| assert_eq!(whole(answer.as_bytes(), &mut Picky::default()), Ok(expect), "{answer}");
    check(r#"{"choices":[{"message":{"tool_calls":[{"function":{"name":"fetch","arguments":"{\"u\":\"evil\"}"}}]}}]}"#, false);
    check(r#"{"choices":[{"message":{"tool_calls":[{"function":{"name":"write","arguments":"{\"u\":\"evil\"}"}}]}}]}"#, true);
    check(r#"{"choices":[{"message":{"function_call":{"name":"fetch","arguments":"evil"}}}]}"#, false);
    check(r#"{"choices":[{"message":{"tool_calls":[{"custom":{"name":"fetch","input":"evil"}}]}}]}"#, false);
    check(r#"{"content":[{"type":"text","text":"evil"},{"type":"tool_use","name":"fetch","input":{"u":["evil"]}}]}"#, false);
    check(r#"{"content":[{"type":"tool_use","name":"fetch","input":{"u":["good"]}}]}"#, true);
    assert_eq!(whole(b"{", &mut Picky::default()), Err(Unreadable::Json));
    assert_eq!(whole(b"{", &mut ()), Ok(true), "nobody asks");
}
