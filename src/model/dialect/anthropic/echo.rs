//! What `echo` says in Anthropic's dialect.

use crate::model::ModelCall;
use crate::model::echo::{Echo, Said, pieces, quoted};

/// `messages`.
pub(in crate::model) fn messages(call: &ModelCall<'_>, said: &Said, id: &str) -> Echo {
    let model = quoted(call.model());
    let reason = match (&said.tool, said.cut) {
        (Some(_), _) => "tool_use",
        (None, true) => "max_tokens",
        (None, false) => "end_turn",
    };
    let head = |content: &str, reason: &str, output: u64| {
        format!(
            r#"{{"id":"msg_{id}","type":"message","role":"assistant","model":{model},"content":[{content}],"stop_reason":{reason},"stop_sequence":null,"usage":{{"input_tokens":{},"output_tokens":{output}}}}}"#,
            said.input
        )
    };
    let block = |input: &str, text: &str| match &said.tool {
        Some((name, _)) => format!(
            r#"{{"type":"tool_use","id":"toolu_{id}","name":{},"input":{input}}}"#,
            quoted(name)
        ),
        None => format!(r#"{{"type":"text","text":{}}}"#, quoted(text)),
    };
    let arguments = said.tool.as_ref().map_or("{}", |(_, arguments)| arguments.as_str());
    if !call.stream() {
        return Echo::Whole(
            head(&block(arguments, &said.text), &quoted(reason), said.output).into_bytes(),
        );
    }
    let delta =
        |delta: String| event("content_block_delta", &format!(r#","index":0,"delta":{delta}"#));
    let mut events =
        vec![event("message_start", &format!(r#","message":{}"#, head("", "null", 0)))];
    events.push(event(
        "content_block_start",
        &format!(r#","index":0,"content_block":{}"#, block("{}", "")),
    ));
    match &said.tool {
        Some(_) => events.push(delta(format!(
            r#"{{"type":"input_json_delta","partial_json":{}}}"#,
            quoted(arguments)
        ))),
        None => events
            .extend(pieces(&said.text).map(|piece| {
                delta(format!(r#"{{"type":"text_delta","text":{}}}"#, quoted(piece)))
            })),
    }
    events.push(event("content_block_stop", r#","index":0"#));
    events.push(event(
        "message_delta",
        &format!(
            r#","delta":{{"stop_reason":{},"stop_sequence":null}},"usage":{{"input_tokens":{},"output_tokens":{}}}"#,
            quoted(reason),
            said.input,
            said.output
        ),
    ));
    events.push(event("message_stop", ""));
    Echo::Stream(events)
}

/// An event; `rest` is what follows its type, from the comma on.
fn event(kind: &str, rest: &str) -> Vec<u8> {
    format!("event: {kind}\ndata: {{\"type\":\"{kind}\"{rest}}}\n\n").into_bytes()
}
