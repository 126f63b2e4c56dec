//! Tool calls in the events of a response.

use super::*;

fn event(kind: &str, rest: &str) -> Vec<u8> {
    format!("event: {kind}\ndata: {{\"type\":\"{kind}\",\"output_index\":0,{rest}}}\n\n")
        .into_bytes()
}

fn item(name: &str, arguments: &str) -> String {
    let arguments = serde_json::to_string(arguments).expect("a string");
    format!(r#""item":{{"type":"function_call","name":"{name}","arguments":{arguments}}}"#)
}

/// The events of a call. `done` is what the last three of them repeat.
fn call(name: &str, pieces: &[&str], done: [&str; 3]) -> Vec<Vec<u8>> {
    let quoted = |text: &str| serde_json::to_string(text).expect("a string");
    let mut events = vec![event("response.output_item.added", &item(name, ""))];
    for piece in pieces {
        let delta = format!(r#""delta":{}"#, quoted(piece));
        events.push(event("response.function_call_arguments.delta", &delta));
    }
    let [text, in_item, in_response] = done;
    let text = format!(r#""arguments":{}"#, quoted(text));
    events.push(event("response.function_call_arguments.done", &text));
    events.push(event("response.output_item.done", &item(name, in_item)));
    let whole = item(name, in_response);
    let whole = whole.strip_prefix(r#""item":"#).expect("an item");
    events.push(event("response.completed", &format!(r#""response":{{"output":[{whole}]}}"#)));
    events
}

#[test]
fn a_call_is_held_until_its_item_ends() {
    let good = call("fetch", &[r#"{"url":"#, r#""good"}"#], [r#"{"url":"good"}"#; 3]);
    let (counts, judged, passes) = through(&good);
    assert_eq!((counts, passes), (vec![0, 0, 0, 0, 5, 1], Ok(true)));
    assert!(judged.iter().all(|call| call == r#"fetch {"url":"good"}"#), "{judged:?}");
    let (counts, judged, _) = through(&call("add", &["evil"], ["evil"; 3]));
    assert_eq!((counts, judged), (vec![1; 5], Vec::<String>::new()));
}

#[test]
fn each_repetition_is_checked() {
    for (pieces, done, counts) in [
        (&["evil"][..], ["good", "good", "good"], vec![0, 0, 0, 0]),
        (&["ev", "il"], ["good", "good", "good"], vec![0, 0, 0, 0, 0]),
        (&["good"], ["evil", "good", "good"], vec![0, 0, 0]),
        (&["good"], ["good", "evil", "good"], vec![0, 0, 0, 0]),
        (&["good"], ["good", "good", "evil"], vec![0, 0, 0, 4, 0]),
    ] {
        let (found, _, passes) = through(&call("fetch", pieces, done));
        assert_eq!((found, passes), (counts, Ok(false)), "{pieces:?} {done:?}");
    }
}

#[test]
fn neither_of_two_names_hides_a_call() {
    let mut events = call("add", &["evil"], ["good", "evil", "good"]);
    events[3] = event("response.output_item.done", &item("fetch", "evil"));
    let (counts, _, passes) = through(&events);
    assert_eq!((counts, passes), (vec![1, 1, 1, 0], Ok(false)));
    let mut events = call("fetch", &[], ["good", "good", "good"]);
    events[2] = event("response.output_item.done", &item("add", "evil"));
    let (counts, _, passes) = through(&events);
    assert_eq!((counts, passes), (vec![0, 0, 0], Ok(false)));
}

#[test]
fn custom_tools_are_checked_as_text() {
    let custom = |input: &str| format!(r#""item":{{"type":"x","name":"fetch","input":"{input}"}}"#);
    let events = [
        event("response.output_item.added", &custom("")),
        event("response.custom_tool_call_input.delta", r#""delta":"ev""#),
        event("response.custom_tool_call_input.delta", r#""delta":"il""#),
        event("response.output_item.done", &custom("good")),
    ];
    let (_, judged, passes) = through(&events);
    assert_eq!((judged.last().map(String::as_str), passes), (Some("fetch text evil"), Ok(false)));
}

#[test]
fn items_without_an_index_are_known_by_their_id() {
    let plain = |kind: &str, rest: &str| {
        let event = String::from_utf8(event(kind, rest)).expect("UTF-8");
        event.replace(r#""output_index":0,"#, "").into_bytes()
    };
    let added = |id: &str| {
        plain(
            "response.output_item.added",
            &format!(r#""item":{{"type":"function_call","id":"{id}","name":"fetch"}}"#),
        )
    };
    let delta = |id: &str, text: &str| {
        plain(
            "response.function_call_arguments.delta",
            &format!(r#""item_id":"{id}","delta":"{text}""#),
        )
    };
    let done = plain("response.completed", r#""response":{"output":[]}"#);
    let two = [added("a"), delta("a", "good"), added("b"), delta("b", "fine"), done.clone()];
    let (_, judged, passes) = through(&two);
    assert_eq!((judged, passes), (vec!["fetch good".into(), "fetch fine".into()], Ok(true)));
    let one = [added("a"), delta("a", "ev"), delta("a", "il"), done.clone()];
    assert_eq!(through(&one).2, Ok(false));
    assert_eq!(through(&[added("a"), delta("b", "x"), done]).2, Err(ToolCallFault::Odd));
    let other = event("response.function_call_arguments.delta", r#""item_id":"b","delta":"x""#);
    let begin = event(
        "response.output_item.added",
        r#""item":{"type":"function_call","id":"a","name":"fetch"}"#,
    );
    assert_eq!(through(&[begin, other]).2, Err(ToolCallFault::Odd));
}

/// Judges the tool of a shell at the caller.
#[derive(Default)]
struct Shell(bool);

impl Tools for Shell {
    fn any(&self) -> bool {
        true
    }

    fn judges(&self, tool: &str) -> bool {
        tool == "local_shell"
    }

    fn call(&mut self, _: &str, arguments: Arguments<'_>) -> bool {
        self.0 = matches!(arguments, Arguments::Json(json) if json.starts_with(b"{\"command\""));
        false
    }
}

#[test]
fn a_call_without_a_name_has_that_of_its_type() {
    let call = r#"{"type":"local_shell_call","action":{"command":["curl"]}}"#;
    let mut shell = Shell::default();
    let whole = format!(r#"{{"object":"response","output":[{call}]}}"#);
    assert_eq!((super::super::whole(whole.as_bytes(), &mut shell), shell.0), (Ok(false), true));
    for kind in ["response.output_item.added", "response.output_item.done"] {
        let event = event(kind, &format!(r#""item":{call}"#));
        let lines = EventLines::read(&event);
        let read = StreamEvent::read(&lines, TreeMemory::default());
        let mut shell = Shell::default();
        let next = Gate::default().event(&read, &mut shell, &mut |_| {});
        assert_eq!((next, shell.0), (Ok(Passage::Ends), true));
    }
}

#[test]
fn what_clients_join_in_different_ways_is_refused() {
    let begin = event("response.output_item.added", &item("fetch", ""));
    let delta = event("response.function_call_arguments.delta", r#""delta":"good""#);
    for events in [
        vec![begin.clone(), begin.clone()],
        vec![delta.clone()],
        vec![begin, event("response.output_item.done", &item("fetch", "good")), delta],
    ] {
        assert_eq!(through(&events).2, Err(ToolCallFault::Odd), "{events:?}");
    }
}

/// A response repeats the tools of the caller, whose names belong to it.
#[test]
fn names_in_the_caller_s_tools_are_no_names_of_members() {
    let tools = r#""tools":[{"parameters":{"properties":{"Name":{},"INPUT":{}}}}]"#;
    let created = event("response.created", &format!(r#""response":{{{tools},"output":[]}}"#));
    assert_eq!(through(&[created]).2, Ok(true));
    let alike = event("response.created", r#""response":{"OUTPUT":[]}"#);
    assert!(matches!(through(&[alike]).2, Err(ToolCallFault::Unreadable(_))));
}
