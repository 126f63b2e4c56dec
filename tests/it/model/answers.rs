//! The answers of servers: usage, streams, errors, lists.

use token_shield::model::answer::StreamFilter;
use token_shield::model::usage::{self, Usage};
use token_shield::model::{Dialect, Operation, error, models};
use token_shield::refusal::{Code, Refusal};

use super::{CHAT, MESSAGES};

/// Pushes `stream` in pieces of several sizes. Each time the bytes, usage and end must be the same.
#[track_caller]
pub(super) fn filters(
    operation: Operation,
    usage_asked: bool,
    stream: &str,
    expect: &str,
    usage: Option<(u64, u64)>,
) {
    for size in [1, 2, 5, 64, stream.len()] {
        let mut filter = StreamFilter::new(operation, usage_asked, ());
        let mut out = Vec::new();
        for piece in stream.as_bytes().chunks(size) {
            filter.push(piece, &mut out).expect("short events");
        }
        filter.finish(&mut out).expect("an end");
        assert_eq!(String::from_utf8_lossy(&out), expect, "in pieces of {size}");
        assert_eq!(
            filter.heard().usage,
            usage.map(|(input, output)| Usage { input, output, reasoning: 0 }),
            "in pieces of {size}"
        );
        assert!(filter.ended(), "in pieces of {size}");
    }
}

#[test]
fn whole_answers_report_usage() {
    let of = |answer: &str| usage::of(CHAT, answer.as_bytes());
    assert_eq!(
        of(concat!(
            r#"{"choices":[{"message":{"content":"\","#,
            r#"\"usage\":{\"prompt_tokens\":1}"}}],"usage":{"prompt_tokens":5,"#,
            r#""completion_tokens":7}}"#
        )),
        Some(Usage { input: 5, output: 7, reasoning: 0 })
    );
    assert_eq!(
        of(r#"{"usage":{"prompt_tokens":5,"total_tokens":5}}"#),
        Some(Usage { input: 5, output: 0, reasoning: 0 })
    );
    assert_eq!(
        of(concat!(
            r#"{"usage":{"input_tokens":5,"cache_read_input_tokens":100,"#,
            r#""cache_creation_input_tokens":null,"output_tokens":2}}"#
        )),
        Some(Usage { input: 105, output: 2, reasoning: 0 })
    );
    assert_eq!(
        of(r#"{"logprob":-Infinity,"usage":{"prompt_tokens":5}}"#),
        Some(Usage { input: 5, output: 0, reasoning: 0 })
    );
    for none in [
        "",
        "[]",
        r#"{"usage":null}"#,
        r#"{"usage":{"prompt_tokens":-5}}"#,
        r#"{"x":{"usage":{"prompt_tokens":5}}}"#,
        r#"{"usage":{"prompt_tokens":5"#,
    ] {
        assert_eq!(of(none), None, "{none}");
    }
}

#[test]
fn usage_that_nobody_asked_for_is_taken_out() {
    let text = "data: \
        {\"choices\":[{\"delta\":{\"content\":\"usage \\\"usage\\\":{\"}}],\"usage\":null}\n\n: \
        ping\n\n";
    let last = "data: \
        {\"id\":\"x\",\"choices\": [ ],\"usage\":{\"prompt_tokens\":3,\
        \"completion_tokens\":4}}\n\n";
    let done = "data: [DONE]\n\n";
    filters(CHAT, false, &format!("{text}{last}{done}"), &format!("{text}{done}"), Some((3, 4)));
    filters(
        CHAT,
        true,
        &format!("{text}{last}{done}"),
        &format!("{text}{last}{done}"),
        Some((3, 4)),
    );
    let crlf = |text: &str| text.replace('\n', "\r\n");
    filters(
        CHAT,
        false,
        &crlf(&format!("{text}{last}{done}")),
        &crlf(&format!("{text}{done}")),
        Some((3, 4)),
    );
    // An event with usage and a choice stays. Its removal would also remove the choice.
    let beside =
        "data: {\"choices\":[{}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\n";
    filters(
        CHAT,
        false,
        &format!("{beside}{last}{done}"),
        &format!("{beside}{done}"),
        Some((3, 4)),
    );
    // The end counts also without its blank line.
    filters(CHAT, false, &format!("{text}data: [DONE]"), &format!("{text}data: [DONE]"), None);
}

#[test]
fn messages_streams_pass_and_report() {
    let stream = "event: message_start\ndata: \
        {\"type\":\"message_start\",\"message\":{\"content\":[],\"usage\":{\"input_tokens\":9,\
        \"output_tokens\":1}}}\n\n\
        event: content_block_delta\ndata: \
        {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"message_stop usage\"}}\n\n\
        event: message_delta\ndata: {\"type\":\"message_delta\",\
        \"usage\":{\"output_tokens\":12}}\n\n\
        event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    filters(MESSAGES, false, stream, stream, Some((9, 12)));
}

#[test]
fn refusals_and_models_speak_both_dialects() {
    let refusal = Refusal::new(Code::FieldInvalid).saying("no \"x\"").at("n");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    assert_eq!(
        text(error::body(Dialect::OpenAi, &refusal, "rq_1")),
        concat!(
            r#"{"error":{"message":"no \"x\"","type":"invalid_request_error","param":"n","#,
            r#""code":"field-invalid","request":"rq_1"}}"#
        )
    );
    assert_eq!(
        text(error::event(Dialect::Anthropic, &Code::AuditUnavailable.into(), "rq_1", None)),
        "event: error\ndata: \
            {\"type\":\"error\",\"error\":{\"message\":\"The gateway cannot write its audit log, \
            so it serves no requests.\",\"type\":\"overloaded_error\",\"param\":null,\
            \"code\":\"audit-unavailable\"},\"request_id\":\"rq_1\"}\n\n"
    );
    let entry = models::ModelEntry { id: "m".to_owned(), created: 0, owner: "o".to_owned() };
    assert_eq!(
        text(models::one(Dialect::OpenAi, &entry)),
        r#"{"id":"m","object":"model","created":0,"owned_by":"o"}"#
    );
    let listed = text(models::list(Dialect::Anthropic, &[entry]));
    assert_eq!(
        listed,
        concat!(
            r#"{"data":[{"type":"model","id":"m","display_name":"m","#,
            r#""created_at":"1970-01-01T00:00:00.000Z"}],"has_more":false,"first_id":"m","#,
            r#""last_id":"m"}"#
        )
    );
}

/// The start of the last event is found in every form, because it waits until the outcome is
/// durable.
#[test]
fn the_last_event_is_found_however_it_is_written() {
    let stop = r#"{"type":"message_stop"}"#;
    for (operation, last) in [
        (CHAT, "data: [DONE]\n\n".to_owned()),
        (CHAT, "data:[DONE]\n\n".to_owned()),
        (CHAT, "data:  [DONE] \r\n\r\n".to_owned()),
        (CHAT, "data: [DONE]\n\n: x data: [DONE]\n\n".to_owned()),
        (CHAT, "data: [DONE]\n\ndata: [DONE]\n\n".to_owned()),
        (CHAT, "id: 7\ndata: [DONE]\n\n".to_owned()),
        (MESSAGES, format!("event: message_stop\ndata: {stop}\n\n")),
        (MESSAGES, format!("data: {stop}\nevent: message_stop\n\n")),
        (MESSAGES, format!("event:message_stop\ndata:{stop}\n\n")),
    ] {
        let first = concat!(
            r#"data: {"type":"ping","choices":[{"delta":{"content":"data: [DONE] "#,
            r#"message_stop"}}]}"#
        );
        let first = format!("{}{first}", if operation == MESSAGES { "event: ping\n" } else { "" });
        for stream in [format!("{first}\n\n{last}"), last.clone()] {
            for size in [1, 3, stream.len()] {
                let (mut filter, mut out, mut place) =
                    (StreamFilter::new(operation, true, ()), Vec::new(), None);
                for piece in stream.as_bytes().chunks(size) {
                    let found = filter.push(piece, &mut out).expect("short events");
                    place = place.or(found);
                }
                assert_eq!(
                    place,
                    Some(stream.len() - last.len()),
                    "{stream:?} in pieces of {size}"
                );
            }
        }
    }
}

/// Some SDKs ignore events by their names, and others read the type in the data. Both must match.
#[test]
fn an_event_is_named_as_its_data_say() {
    let delta =
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"x"}}"#;
    let chunk = r#"{"choices":[{"index":0,"delta":{"content":"x"}}]}"#;
    for (operation, event, passes) in [
        (MESSAGES, format!("event: content_block_delta\ndata: {delta}\n\n"), true),
        (MESSAGES, format!("event: ping\ndata: {delta}\n\n"), false),
        (MESSAGES, format!("event: content_block_delta\nevent: ping\ndata: {delta}\n\n"), false),
        (MESSAGES, "data: [DONE]\n\n".to_owned(), true),
        (MESSAGES, ": x\n\n".to_owned(), true),
        (CHAT, format!("data: {chunk}\n\n"), true),
        (CHAT, format!("event: message\ndata: {chunk}\n\n"), true),
        (CHAT, format!("event: thread.x\ndata: {chunk}\n\n"), false),
        (CHAT, format!("event: error\ndata: {chunk}\n\n"), false),
        (CHAT, "event: error\ndata: {\"error\":{\"message\":\"x\"}}\n\n".to_owned(), true),
    ] {
        let (mut filter, mut out) = (StreamFilter::new(operation, true, ()), Vec::new());
        let passed = filter.push(event.as_bytes(), &mut out);
        assert_eq!(passed.is_ok(), passes, "{event}");
        assert_eq!(out, if passes { event.as_bytes() } else { b"" }, "{event}");
    }
    // An event without a name gets the one that its data say, because some clients need it.
    let (mut filter, mut out) = (StreamFilter::new(MESSAGES, true, ()), Vec::new());
    filter.push(format!("data: {delta}\n\n").as_bytes(), &mut out).expect("it passes");
    assert_eq!(out, format!("event: content_block_delta\ndata: {delta}\n\n").as_bytes());
}
