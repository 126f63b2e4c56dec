//! The texts of a response and its events, which repeat them.

use super::*;

/// The events of a response with one text, which they repeat four times.
fn response(pieces: &[&str]) -> Vec<String> {
    let whole = pieces.concat();
    let at = r#""output_index":0,"content_index":0"#;
    let (mut events, mut number) = (Vec::new(), 0);
    let mut push = |kind: &str, rest: &str| {
        events.push(format!(
            "event: {kind}\ndata: {{\"type\":\"{kind}\",\"sequence_number\":{number},{rest}}}"
        ));
        number += 1;
    };
    push("response.created", r#""response":{"instructions":"as told","output":[]}"#);
    for piece in pieces {
        let delta = format!(r#"{at},"item_id":"msg_1","delta":"{piece}","logprobs":[1]"#);
        push("response.output_text.delta", &delta);
    }
    let part = format!(r#"{{"type":"output_text","text":"{whole}"}}"#);
    let item = format!(r#"{{"type":"message","id":"msg_1","content":[{part}]}}"#);
    push("response.output_text.done", &format!(r#"{at},"text":"{whole}""#));
    push("response.content_part.done", &format!(r#"{at},"part":{part}"#));
    push("response.output_item.done", &format!(r#""output_index":0,"item":{item}"#));
    push("response.completed", &format!(r#""response":{{"object":"response","output":[{item}]}}"#));
    events
}

/// The data of the events after the filter.
fn filtered(events: &[String]) -> Vec<serde_json::Value> {
    let (mut stream, mut loud, mut out) = (StreamTexts::default(), Loud::default(), Vec::new());
    for event in events {
        stream.event(format!("{event}\n\n").as_bytes(), &mut loud, &mut out).expect("readable");
    }
    stream.finish(&mut loud, &mut out);
    let text = String::from_utf8(out).expect("text");
    let mut data = Vec::new();
    for event in text.trim_end().split("\n\n") {
        let (_, json) = event.split_once("data: ").expect("data");
        data.push(serde_json::from_str(json).expect("JSON"));
    }
    data
}

#[test]
fn what_a_response_repeats_is_changed_in_the_same_way() {
    for pieces in [&["one two:"][..], &["one", " two:"], &["one:", " two", ":"]] {
        let events = filtered(&response(pieces));
        let (mut deltas, mut repeated) = (String::new(), Vec::new());
        for event in &events {
            let response = &event["response"];
            let item = if response.is_null() { &event["item"] } else { &response["output"][0] };
            for text in [&event["text"], &event["part"]["text"], &item["content"][0]["text"]] {
                repeated.extend(text.as_str());
            }
            deltas.push_str(event["delta"].as_str().unwrap_or_default());
        }
        let expect = pieces.concat().to_uppercase();
        assert_eq!((deltas.as_str(), repeated), (expect.as_str(), vec![expect.as_str(); 4]));
        // What the caller sent is no text of the answer.
        assert_eq!(events[0]["response"]["instructions"], "as told");
        assert_eq!(events[1]["logprobs"], serde_json::json!([]));
    }
}

#[test]
fn the_numbers_of_events_rise_also_when_one_is_added() {
    let numbers = |events: &[serde_json::Value]| -> Vec<u64> {
        events.iter().filter_map(|event| event["sequence_number"].as_u64()).collect()
    };
    let plain = filtered(&response(&["a", "b"]));
    assert_eq!(numbers(&plain), [0, 1, 2, 3, 4, 5, 6]);
    // The held colon comes out in an event of its own, before the one that ends the text.
    let more = filtered(&response(&["a", "b:"]));
    assert_eq!(numbers(&more), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(more[3]["delta"], ":");
}

#[test]
fn an_item_that_begins_with_a_text_is_refused() {
    for data in [
        concat!(
            r#"{"type":"response.content_part.added","part":{"type":"output_text","#,
            r#""text":"a"}}"#
        ),
        concat!(
            r#"{"type":"response.output_item.added","item":{"type":"message","#,
            r#""content":[{"type":"output_text","text":"a"}]}}"#
        ),
    ] {
        let event = format!("data: {data}\n\n");
        let refused =
            StreamTexts::default().event(event.as_bytes(), &mut Loud::default(), &mut Vec::new());
        assert_eq!(refused, Err(Unreadable::Begun), "{data}");
    }
}

#[test]
fn a_whole_response_is_filtered_without_what_it_repeats_of_the_request() {
    check_whole(
        concat!(
            r#"{"object":"response","status":"completed","instructions":"a","tools":[{"type":"#,
            r#""function","description":"b","parameters":{"Content":1}}],"text":{"format":"#,
            r#"{"type":"json_schema","schema":{"title":"c"}}},"output":[{"type":"message","#,
            r#""content":[{"type":"output_text","text":"d:"}]},{"type":"function_call","#,
            r#""name":"e","call_id":"f","arguments":"{}"}]}"#
        ),
        concat!(
            r#"{"object":"response","status":"completed","instructions":"a","tools":[{"type":"#,
            r#""function","description":"b","parameters":{"Content":1}}],"text":{"format":"#,
            r#"{"type":"json_schema","schema":{"title":"c"}}},"output":[{"type":"message","#,
            r#""content":[{"type":"output_text","text":"D:"}]},{"type":"function_call","#,
            r#""name":"e","call_id":"f","arguments":"{}"}]}"#
        ),
    );
    // Without the mark of a response, these members are texts.
    check_whole(r#"{"instructions":"a"}"#, r#"{"instructions":"A"}"#);
}

#[test]
fn calls_in_a_response_are_no_texts() {
    let mut events = Vec::new();
    for (kind, rest) in [
        ("function_call_arguments.delta", r#""delta":"a:""#),
        ("custom_tool_call_input.delta", r#""delta":"b:""#),
        ("output_item.done", r#""item":{"type":"local_shell_call","action":{"command":["c"]}}"#),
    ] {
        events.push(format!(r#"data: {{"type":"response.{kind}","output_index":1,{rest}}}"#));
    }
    let unchanged = filtered(&events);
    for (event, expect) in unchanged.iter().zip(&events) {
        let expect: serde_json::Value =
            serde_json::from_str(expect.strip_prefix("data: ").expect("data")).expect("JSON");
        assert_eq!(event, &expect);
    }
    assert_eq!(unchanged.len(), events.len());
}

#[test]
fn each_text_of_a_response_has_its_own_order() {
    let delta = |kind: &str, item: u64, part: u64| {
        format!(
            concat!(
                r#"data: {{"type":"response.{kind}.delta","output_index":{item},"#,
                r#""content_index":{part},"delta":"a"}}"#
            ),
            kind = kind,
            item = item,
            part = part
        )
    };
    let order = [delta("reasoning_text", 0, 1), delta("output_text", 0, 0)];
    assert_eq!(filtered(&order).len(), 2);
    let (mut stream, mut loud, mut out) = (StreamTexts::default(), Loud::default(), Vec::new());
    for (event, expect) in
        [(delta("output_text", 1, 0), Ok(())), (delta("output_text", 0, 0), Err(Unreadable::Index))]
    {
        let event = format!("{event}\n\n");
        assert_eq!(stream.event(event.as_bytes(), &mut loud, &mut out), expect, "{event}");
    }
}

/// A chunk of a chat that states the type of an event of a response.
#[test]
fn a_type_does_not_take_a_text_out_of_the_filter() {
    for kind in ["response.custom_tool_call_input.delta", "response.output_text.delta"] {
        let at = r#""output_index":0,"content_index":0"#;
        let chunk = format!(
            r#"{{"type":"{kind}",{at},"choices":[{{"index":0,"delta":{{"content":"shout"}}}}]}}"#
        );
        let (mut stream, mut loud, mut out) = (StreamTexts::default(), Loud::default(), Vec::new());
        stream.event(format!("data: {chunk}\n\n").as_bytes(), &mut loud, &mut out).expect("read");
        stream.finish(&mut loud, &mut out);
        let text = String::from_utf8(out).expect("UTF-8");
        assert!(text.contains("SHOUT") && !text.contains("shout"), "{kind}: {text}");
    }
}

#[test]
fn a_response_does_not_begin_with_a_text() {
    let part = |kind: &str, member: &str| {
        let part = format!(r#"{{"type":"output_text","{member}":"begun"}}"#);
        match kind {
            "response.content_part.added" => {
                format!(r#""output_index":0,"content_index":0,"part":{part}"#)
            }
            _ => format!(r#""response":{{"object":"response","output":[{{"content":[{part}]}}]}}"#),
        }
    };
    for kind in ["response.created", "response.in_progress", "response.content_part.added"] {
        for member in ["text", "refusal"] {
            let event = format!("data: {{\"type\":\"{kind}\",{}}}\n\n", part(kind, member));
            let (mut stream, mut loud) = (StreamTexts::default(), Loud::default());
            let read = stream.event(event.as_bytes(), &mut loud, &mut Vec::new());
            assert_eq!(read, Err(Unreadable::Begun), "{kind} {member}");
        }
    }
}
