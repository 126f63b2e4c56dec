//! The texts of an answer, and their replacement.

mod responses;

use super::*;

/// Writes texts in capitals, and holds a colon at the end of a part.
#[derive(Default)]
struct Loud {
    held: Vec<ChannelId>,
}

impl TextFilter for Loud {
    fn push(&mut self, channel: Channel<'_>, text: &str, out: &mut String) {
        self.flush(channel, out);
        match text.strip_suffix(':') {
            Some(text) => {
                out.push_str(&text.to_uppercase());
                self.held.push(channel.id());
            }
            None => out.push_str(&text.to_uppercase()),
        }
    }

    fn flush(&mut self, channel: Channel<'_>, out: &mut String) {
        let before = self.held.len();
        self.held.retain(|held| *held != channel.id());
        out.push_str(if self.held.len() < before { ":" } else { "" });
    }

    fn boundary(&mut self) {}

    fn holding(&self, choice: Option<u64>) -> Vec<ChannelId> {
        let mut holding = self.held.clone();
        holding.retain(|id| choice.is_none_or(|choice| choice == id.choice));
        holding
    }
}

#[track_caller]
fn check_whole(json: &str, expect: &str) {
    let found = whole(json.as_bytes(), &mut Loud::default()).expect("readable");
    assert_eq!(String::from_utf8(found.unwrap_or_else(|| json.into())).expect("text"), expect);
}

#[track_caller]
fn check_stream(events: &[&str], expect: &str) {
    check_texts(Framing::Events, events, expect);
}

#[track_caller]
fn check_lines(events: &[&str], expect: &str) {
    check_texts(Framing::Lines, events, expect);
}

#[track_caller]
fn check_texts(framing: Framing, events: &[&str], expect: &str) {
    let mut stream = StreamTexts::new(framing);
    let (mut loud, mut out) = (Loud::default(), Vec::new());
    for event in events {
        stream.event(format!("{event}\n\n").as_bytes(), &mut loud, &mut out).expect("readable");
    }
    stream.finish(&mut loud, &mut out);
    assert_eq!(String::from_utf8(out).expect("text"), expect);
}

#[test]
fn texts_are_found_wherever_they_stand() {
    check_whole(
        concat!(
            r#"{"id":"a","choices":[{"index":0,"message":{"role":"b","content":"c:","#,
            r#""reasoning_content":"d\n\u00e9","refusal":null,"#,
            r#""tool_calls":[{"function":{"name":"e","arguments":"{}"}}],"new":[{"x":"y"}]},"#,
            r#""logprobs":{"content":[NaN]},"finish_reason":"stop"}],"usage":{"a":1}}"#
        ),
        concat!(
            r#"{"id":"a","choices":[{"index":0,"message":{"role":"b","content":"C:","#,
            r#""reasoning_content":"D\nÉ","refusal":null,"tool_calls":[{"function":{"name":"e","#,
            r#""arguments":"{}"}}],"new":[{"x":"Y"}]},"logprobs":null,"finish_reason":"stop"}],"#,
            r#""usage":{"a":1}}"#
        ),
    );
    check_whole(
        concat!(
            r#" {"type":"message","content":[{"type":"text","text":"a"},{"type":"tool_use","#,
            r#""name":"n","input":{"url":"u"}}]} "#
        ),
        concat!(
            r#" {"type":"message","content":[{"type":"text","text":"A"},{"type":"tool_use","#,
            r#""name":"n","input":{"url":"u"}}]} "#
        ),
    );
    check_whole(
        r#"{"error":{"message":"m","type":"t"}}"#,
        r#"{"error":{"message":"M","type":"T"}}"#,
    );
    check_whole(r#"{"data":[{"embedding":[1,2]}]}"#, r#"{"data":[{"embedding":[1,2]}]}"#);
    for broken in ["", "{", r#"{"a":"\ud800"}"#, r#"{"a":"b}"#, r#"{"\u0061":"b"}"#] {
        assert_eq!(
            whole(broken.as_bytes(), &mut Loud::default()),
            Err(Unreadable::Json),
            "{broken}"
        );
    }
    let deep = format!("{}{}", "[".repeat(80), "]".repeat(80));
    assert_eq!(whole(deep.as_bytes(), &mut Loud::default()), Err(Unreadable::Depth));
}

#[test]
fn what_is_held_comes_out_with_the_end_of_its_choice() {
    check_stream(
        &[
            r#"data: {"choices":[{"index":1,"delta":{"content":"a:"},"finish_reason":null}]}"#,
            r#"data: {"choices":[{"index":0,"delta":{"content":"b:"},"finish_reason":"stop"}]}"#,
            r#"data: {"choices":[{"index":1,"delta":{"content":"c:"},"finish_reason":null}]}"#,
            r#"data: {"choices":[{"index":2,"delta":{"content":"d"},"finish_reason":null}]}"#,
            r#"data: {"choices":[{"index":1,"delta":{},"finish_reason":"stop"}]}"#,
            "data: [DONE]",
        ],
        concat!(
            r#"data: {"choices":[{"index":1,"delta":{"content":"A"},"finish_reason":null}]}"#,
            "\n\n",
            r#"data: {"choices":[{"index":0,"delta":{"content":"B:"},"finish_reason":"stop"}]}"#,
            "\n\n",
            r#"data: {"choices":[{"index":1,"delta":{"content":":C"},"finish_reason":null}]}"#,
            "\n\n",
            r#"data: {"choices":[{"index":2,"delta":{"content":"D"},"finish_reason":null}]}"#,
            "\n\n",
            r#"data: {"choices":[{"index":1,"delta":{"content":":"},"finish_reason":null}]}"#,
            "\n\n",
            r#"data: {"choices":[{"index":1,"delta":{},"finish_reason":"stop"}]}"#,
            "\n\n",
            "data: [DONE]\n\n",
        ),
    );
}

#[test]
fn what_is_held_comes_out_where_it_was_all_of_its_event() {
    let event = |text: &str| {
        format!(
            "data: {{\"choices\":[{{\"index\":0,\"text\":\"{text}\",\"finish_reason\":null}}]}}"
        )
    };
    check_stream(
        &[&event("A"), &event(":")],
        &[event("A"), event(""), event(":"), String::new()].join("\n\n"),
    );
}

#[test]
fn what_is_held_comes_out_with_the_end_of_its_block() {
    let delta = |text: &str| {
        let delta = format!(r#"{{"type":"text_delta","text":"{text}"}}"#);
        let data = format!(r#"{{"type":"content_block_delta","index":0,"delta":{delta}}}"#);
        format!("event: content_block_delta\ndata: {data}")
    };
    let stop = "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}";
    check_stream(
        &[&delta("a:"), stop],
        &[delta("A"), delta(":"), stop.to_owned(), String::new()].join("\n\n"),
    );
}

/// A block that starts with a text does not start twice. Clients would count two blocks.
#[test]
fn what_is_held_of_a_blocks_beginning_comes_out_as_a_delta() {
    let start =
        r#"{"type":"content_block_start","index":3,"content_block":{"type":"text","text":"a:"}}"#;
    let stop = r#"{"type":"content_block_stop","index":3}"#;
    let (mut stream, mut loud, mut out) = (StreamTexts::default(), Loud::default(), Vec::new());
    for data in [start, stop] {
        stream.event(format!("data: {data}\n\n").as_bytes(), &mut loud, &mut out).expect("JSON");
    }
    let out = String::from_utf8(out).expect("UTF-8");
    assert_eq!(out.matches("content_block_start").count(), 1, "{out}");
    let delta =
        r#"{"type":"content_block_delta","index":3,"delta":{"type":"text_delta","text":":"}}"#;
    assert!(out.contains(&format!("event: content_block_delta\ndata: {delta}\n\n")), "{out}");
}

#[test]
fn what_is_not_one_document_is_not_passed_on() {
    let image = "![x](https://evil.example/x.png)";
    let good = format!(r#"{{"content":"{image}"}}"#);
    let mut utf16 = vec![0xff, 0xfe];
    utf16.extend(good.encode_utf16().flat_map(u16::to_le_bytes));
    let odd = [
        format!("data: {good}\n\n").into_bytes(),
        format!("\u{feff}{good}").into_bytes(),
        utf16,
        image.as_bytes().to_vec(),
        format!("\"{image}\" {image}").into_bytes(),
        format!("null{image}").into_bytes(),
        format!("{good}{good}").into_bytes(),
        format!("{{}} {image}").into_bytes(),
        [br#"{"content":""#.as_slice(), b"\xff", br#""}"#].concat(),
        [br#"{"a":1}"#.as_slice(), b"\xff"].concat(),
        format!(r#"{{"Content":"{image}"}}"#).into_bytes(),
        format!(r#"{{"choices":[{{"index":1024,"message":{{"content":"{image}"}}}}]}}"#)
            .into_bytes(),
    ];
    for odd in odd {
        assert!(whole(&odd, &mut Loud::default()).is_err(), "{}", String::from_utf8_lossy(&odd));
        let event = [b"data: ", odd.as_slice(), b"\n\n"].concat();
        let mut out = Vec::new();
        assert!(
            StreamTexts::default().event(&event, &mut Loud::default(), &mut out).is_err()
                && out.is_empty(),
            "{event:?}"
        );
    }
    let lines = format!("data: {good}\ndata: {good}\n\n");
    assert!(
        StreamTexts::default()
            .event(lines.as_bytes(), &mut Loud::default(), &mut Vec::new())
            .is_err()
    );
    for fine in [
        format!(" {good}\n"),
        "{\"Vendor\":{\"X\":1}}".to_owned(),
        "null".to_owned(),
        format!("[{good}]"),
    ] {
        assert!(whole(fine.as_bytes(), &mut ()).is_ok(), "{fine}");
    }
}

/// Checks the output of events. "evil" is inside a code fence only for a client that joins all
/// parts.
#[track_caller]
fn fenced_elsewhere(events: &[&str]) {
    let (mut stream, mut filter, mut out) = (StreamTexts::default(), Fences::default(), Vec::new());
    for event in events {
        stream
            .event(format!("data: {event}\n\n").as_bytes(), &mut filter, &mut out)
            .expect("an event");
    }
    assert!(!filter.believed, "{events:?}");
}

/// A filter that treats all text after a fence as code, until a part begins.
#[derive(Default)]
struct Fences {
    open: bool,
    believed: bool,
}

impl TextFilter for Fences {
    fn push(&mut self, _: Channel<'_>, text: &str, out: &mut String) {
        self.believed |= self.open && text.contains("evil");
        self.open |= text.contains("```");
        out.push_str(text);
    }

    fn flush(&mut self, _: Channel<'_>, _: &mut String) {}

    fn boundary(&mut self) {
        self.open = false;
    }

    fn holding(&self, _: Option<u64>) -> Vec<ChannelId> {
        Vec::new()
    }
}

#[test]
fn a_text_that_stands_elsewhere_is_another() {
    let start = |index: u64, text: &str| {
        let block = format!(r#"{{"type":"text","text":"{text}"}}"#);
        format!(r#"{{"type":"content_block_start","index":{index},"content_block":{block}}}"#)
    };
    let delta = |index: u64, text: &str| {
        let delta = format!(r#"{{"type":"text_delta","text":"{text}"}}"#);
        format!(r#"{{"type":"content_block_delta","index":{index},"delta":{delta}}}"#)
    };
    let fence = "```\\n";
    fenced_elsewhere(&[&start(0, ""), &delta(0, fence), &start(1, ""), &delta(1, "evil")]);
    let mut stream = StreamTexts::default();
    let mut event = |event: &str| {
        stream.event(format!("data: {event}\n\n").as_bytes(), &mut (), &mut Vec::new())
    };
    assert_eq!(
        (event(&delta(1, fence)), event(&delta(0, "evil"))),
        (Ok(()), Err(Unreadable::Index))
    );
    fenced_elsewhere(&[&start(0, fence), &start(1, "evil")]);
    let cited = concat!(
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"citations_delta","#,
        r#""citation":{"text":"```\n"}}}"#
    );
    fenced_elsewhere(&[cited, &delta(0, "evil")]);
    fenced_elsewhere(&[
        r#"{"choices":[{"index":0,"delta":{"zz":{"content":"```\n"},"content":"evil"}}]}"#,
    ]);
    let details =
        r#"{"choices":[{"index":0,"delta":{"reasoning_details":[{"content":"```\n"}]}}]}"#;
    fenced_elsewhere(&[details, r#"{"choices":[{"index":0,"delta":{"content":"evil"}}]}"#]);
    // The same text continues.
    let (mut stream, mut filter) = (StreamTexts::default(), Fences::default());
    for event in [&delta(0, fence), &delta(0, ""), &delta(0, "evil")] {
        stream
            .event(format!("data: {event}\n\n").as_bytes(), &mut filter, &mut Vec::new())
            .expect("an event");
    }
    assert!(filter.believed);
}

#[test]
fn every_string_of_an_error_is_a_text() {
    for json in [
        r#"{"error":{"type":"see","code":{"input":"see"}}}"#,
        r#"{"detail":[{"input":"see","type":"see"}]}"#,
    ] {
        let mut texts = Counted::default();
        whole(json.as_bytes(), &mut texts).expect("an answer");
        assert_eq!(texts.0, 2, "{json}");
    }
}

/// Counts texts.
#[derive(Default)]
struct Counted(usize);

impl TextFilter for Counted {
    fn push(&mut self, _: Channel<'_>, text: &str, out: &mut String) {
        self.0 += 1;
        out.push_str(text);
    }

    fn flush(&mut self, _: Channel<'_>, _: &mut String) {}

    fn boundary(&mut self) {}

    fn holding(&self, _: Option<u64>) -> Vec<ChannelId> {
        Vec::new()
    }
}

#[test]
fn what_is_no_json_for_all_is_refused() {
    for value in ["/**/\"x\"", "+\"x\"", "'x'", "1//\n"] {
        assert_eq!(
            whole(format!(r#"{{"content":{value}}}"#).as_bytes(), &mut ()),
            Err(Unreadable::Json),
            "{value}"
        );
    }
    for value in ["-1.5e+7", "NaN", "-Infinity", "true ", "null"] {
        assert_eq!(
            whole(format!(r#"{{"content":{value}}}"#).as_bytes(), &mut ()),
            Ok(None),
            "{value}"
        );
    }
}

#[test]
fn the_last_line_of_an_answer_ends_its_texts() {
    check_lines(
        &[
            r#"data: {"message":{"content":"a:"},"created_at":"t","done":false}"#,
            r#"data: {"message":{"content":""},"done":true,"done_reason":"stop"}"#,
        ],
        concat!(
            "data: {\"message\":{\"content\":\"A\"},\"created_at\":\"t\",\"done\":false}\n\n",
            "data: {\"message\":{\"content\":\":\"},\"done\":true,\"done_reason\":\"stop\"}\n\n",
        ),
    );
    // A last line without the member gets the held bytes in a line before it.
    check_lines(
        &[r#"data: {"response":"a:","done":false}"#, r#"data: {"done":true}"#],
        concat!(
            "data: {\"response\":\"A\",\"done\":false}\n\n",
            "data: {\"response\":\":\",\"done\":false}\n\n",
            "data: {\"done\":true}\n\n",
        ),
    );
}

#[test]
fn a_text_goes_on_after_done_in_the_other_dialects() {
    let end = r#"data: {"choices":[],"done":true}"#;
    check_stream(
        &[r#"data: {"choices":[{"index":0,"delta":{"content":"a:"}}]}"#, end],
        concat!(
            "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"A\"}}]}\n\n",
            "data: {\"choices\":[],\"done\":true}\n\n",
            "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\":\"}}]}\n\n",
        ),
    );
}
