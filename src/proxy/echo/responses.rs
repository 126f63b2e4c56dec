//! The answers of the upstream `echo` in the Responses dialect.

use super::message::{Content, EchoMessage, ToolCall};
use super::reply::Reply;
use super::request::EchoRequest;
use super::words::{pieces, quoted};

/// Answers `responses`.
pub(super) fn answer(request: &EchoRequest<'_>) -> Reply {
    let message = EchoMessage::answering(request);
    let ended = Ended::of(&message.content);
    let item = match &message.content {
        Content::Text { text, .. } => message_item(request, ended.status, &part(text)),
        Content::Tool(call) => call_item(request, call, ended.status, &call.arguments),
    };
    if request.streams() {
        return Reply::Events(events(request, &message, &ended, &item));
    }
    Reply::Whole(ended.document(request, &message, &item).into_bytes())
}

/// How an answer ends.
struct Ended {
    /// Its status.
    status: &'static str,
    /// The member `incomplete_details`, as JSON text.
    details: &'static str,
    /// The type of the last event.
    event: &'static str,
}

impl Ended {
    /// The end of a content.
    const fn of(content: &Content) -> Self {
        match content {
            Content::Text { cut: true, .. } => Self {
                status: "incomplete",
                details: r#"{"reason":"max_output_tokens"}"#,
                event: "response.incomplete",
            },
            Content::Text { cut: false, .. } | Content::Tool(_) => {
                Self { status: "completed", details: "null", event: "response.completed" }
            }
        }
    }

    /// The complete response, with its one item.
    fn document(&self, request: &EchoRequest<'_>, message: &EchoMessage, item: &str) -> String {
        let (input, output) = (message.input, message.output);
        let usage = format!(
            concat!(
                r#"{{"input_tokens":{input},"input_tokens_details":{{"cached_tokens":0}},"#,
                r#""output_tokens":{output},"output_tokens_details":{{"reasoning_tokens":0}},"#,
                r#""total_tokens":{total}}}"#
            ),
            input = input,
            output = output,
            total = input.saturating_add(output)
        );
        document(request, self.status, self.details, item, &usage)
    }
}

/// A response. `details`, `output` and `usage` are JSON text.
fn document(
    request: &EchoRequest<'_>,
    status: &str,
    details: &str,
    output: &str,
    usage: &str,
) -> String {
    let (id, created, model) = (request.id, request.created, quoted(request.model()));
    format!(
        concat!(
            r#"{{"id":"resp_{id}","object":"response","created_at":{created},"#,
            r#""status":"{status}","error":null,"incomplete_details":{details},"model":{model},"#,
            r#""output":[{output}],"parallel_tool_calls":true,"tool_choice":"auto","tools":[],"#,
            r#""store":false,"usage":{usage}}}"#
        ),
        id = id,
        created = created,
        status = status,
        details = details,
        model = model,
        output = output,
        usage = usage
    )
}

/// A part with text.
fn part(text: &str) -> String {
    format!(r#"{{"type":"output_text","text":{},"annotations":[]}}"#, quoted(text))
}

/// The item of a message. `content` is JSON text.
fn message_item(request: &EchoRequest<'_>, status: &str, content: &str) -> String {
    let id = request.id;
    format!(
        concat!(
            r#"{{"id":"msg_{id}","type":"message","status":"{status}","role":"assistant","#,
            r#""content":[{content}]}}"#
        ),
        id = id,
        status = status,
        content = content
    )
}

/// The item of a tool call.
fn call_item(request: &EchoRequest<'_>, call: &ToolCall, status: &str, arguments: &str) -> String {
    let (id, name, arguments) = (request.id, quoted(&call.name), quoted(arguments));
    format!(
        concat!(
            r#"{{"id":"fc_{id}","type":"function_call","status":"{status}","#,
            r#""call_id":"call_{id}","name":{name},"arguments":{arguments}}}"#
        ),
        id = id,
        status = status,
        name = name,
        arguments = arguments
    )
}

/// The events of a stream. Each has the next number.
#[derive(Default)]
struct Events(Vec<Vec<u8>>);

impl Events {
    /// Appends an event. `rest` is the JSON text after its number, with the leading comma.
    fn push(&mut self, kind: &str, rest: &str) {
        let number = self.0.len();
        let data = format!(r#"{{"type":"{kind}","sequence_number":{number}{rest}}}"#);
        self.0.push(format!("event: {kind}\ndata: {data}\n\n").into_bytes());
    }
}

/// The events of an answer, in the order of OpenAI's streams.
fn events(
    request: &EchoRequest<'_>,
    message: &EchoMessage,
    ended: &Ended,
    item: &str,
) -> Vec<Vec<u8>> {
    let mut events = Events::default();
    let begun = document(request, "in_progress", "null", "", "null");
    for kind in ["response.created", "response.in_progress"] {
        events.push(kind, &format!(r#","response":{begun}"#));
    }
    let begun = match &message.content {
        Content::Text { .. } => message_item(request, "in_progress", ""),
        Content::Tool(call) => call_item(request, call, "in_progress", ""),
    };
    events.push("response.output_item.added", &format!(r#","output_index":0,"item":{begun}"#));
    match &message.content {
        Content::Text { text, .. } => text_events(request, text, &mut events),
        Content::Tool(call) => {
            let at = format!(r#","item_id":"fc_{}","output_index":0"#, request.id);
            let (name, json) = (quoted(&call.name), quoted(&call.arguments));
            let delta = format!(r#"{at},"delta":{json}"#);
            events.push("response.function_call_arguments.delta", &delta);
            let done = format!(r#"{at},"name":{name},"arguments":{json}"#);
            events.push("response.function_call_arguments.done", &done);
        }
    }
    events.push("response.output_item.done", &format!(r#","output_index":0,"item":{item}"#));
    let whole = ended.document(request, message, item);
    events.push(ended.event, &format!(r#","response":{whole}"#));
    events.0
}

/// Appends the events of a text: word by word, and then twice as a whole.
fn text_events(request: &EchoRequest<'_>, text: &str, events: &mut Events) {
    let at = format!(r#","item_id":"msg_{}","output_index":0,"content_index":0"#, request.id);
    events.push("response.content_part.added", &format!(r#"{at},"part":{}"#, part("")));
    for piece in pieces(text) {
        let delta = format!(r#"{at},"delta":{},"logprobs":[]"#, quoted(piece));
        events.push("response.output_text.delta", &delta);
    }
    let done = format!(r#"{at},"text":{},"logprobs":[]"#, quoted(text));
    events.push("response.output_text.done", &done);
    events.push("response.content_part.done", &format!(r#"{at},"part":{}"#, part(text)));
}
