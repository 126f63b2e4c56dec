//! The end of a response whose tool call is refused.

use super::calls::local_call;
use super::whole::{Events, item_events};
use crate::json::{Object, Value};
use crate::model::convert::{of, own, text};
use crate::model::dialect::repeated::repeated;
use crate::model::tools::{CallsOf, Tools};

/// The members of the response that the last event repeats.
const REPEATED: [&str; 4] = ["id", "object", "created_at", "model"];
/// The members of a call that the last event repeats, except what it is called with.
const OF_CALL: [&str; 5] = ["type", "id", "call_id", "name", "status"];
/// The members with what a call is called with.
const CALLED_WITH: [&str; 2] = ["arguments", "input"];
/// The maximum number of bytes of all repeated calls.
const CALLS_BYTES_MAX: usize = 256 << 10;
/// The cost of a repeated call in addition to its bytes.
const CALL_COST: usize = 1 << 10;

/// The events so far.
#[derive(Default)]
pub(in crate::model) struct SentItems {
    /// The members of the first event's response that the last one repeats.
    head: Option<Object<'static>>,
    /// The number of the last event that the caller has.
    number: Option<u64>,
    /// The index of the next item.
    next: u64,
    /// How many items the caller has whole.
    done: u64,
    /// The calls among them.
    calls: Vec<Value<'static>>,
    /// Their bytes.
    bytes: usize,
}

impl SentItems {
    /// Reads an event. `sent` is true when the caller gets it now.
    pub(in crate::model::dialect) fn read(&mut self, event: &Object<'_>, sent: bool) {
        if let (None, Some(response)) = (&self.head, event.object("response")) {
            self.head = Some(repeated(response, &REPEATED));
        }
        if !sent {
            return;
        }
        self.number = self.number.max(event.number("sequence_number"));
        if let Some(index) = event.number("output_index") {
            self.next = self.next.max(index.saturating_add(1));
        }
        if event.text("type") != Some("response.output_item.done") {
            return;
        }
        // Some servers send no index.
        self.done = self.done.saturating_add(1);
        self.next = self.next.max(self.done);
        if let Some(item) = event.object("item") {
            self.keep_call(item);
        }
    }

    /// Keeps an item that is a call, because agents read the calls from the last event. Texts are
    /// not kept: the caller has them, and no filter has seen this copy.
    fn keep_call(&mut self, item: &Object<'_>) {
        if item.text("name").is_none() {
            return;
        }
        let mut call = repeated(item, &OF_CALL);
        for name in CALLED_WITH {
            if let Some(value @ Value::String(said)) = item.get(name) {
                self.bytes = self.bytes.saturating_add(said.len());
                call.set(name, own(value));
            }
        }
        self.bytes = self.bytes.saturating_add(CALL_COST);
        // A server could otherwise fill the memory with calls.
        if self.bytes <= CALLS_BYTES_MAX {
            self.calls.push(Value::Object(call));
        }
    }

    /// The events that end the response with `refused` in place of the call.
    pub(in crate::model::dialect) fn end(&mut self, refused: &str) -> Vec<u8> {
        let mut events = Events::after(self.number);
        let message = message(refused);
        // The message has the form that the writer of events expects.
        if item_events(self.next, &message, &mut events).is_err() {
            return Vec::new();
        }
        let mut output = std::mem::take(&mut self.calls);
        output.push(Value::Object(message));
        let mut response = self.head.clone().unwrap_or_default();
        let required =
            [("id", text("resp_refused")), ("object", text("response")), ("model", text(""))];
        for (name, value) in required {
            if response.get(name).is_none() {
                response.set(name, value);
            }
        }
        if response.get("created_at").is_none() {
            response.set("created_at", Value::from_u64(0));
        }
        // SDKs require these members.
        for (name, value) in [
            ("status", text("completed")),
            ("output", Value::Array(output)),
            ("error", Value::Null),
            ("incomplete_details", Value::Null),
            ("parallel_tool_calls", Value::Bool(true)),
            ("tool_choice", text("auto")),
            ("tools", Value::Array(Vec::new())),
            ("usage", Value::Null),
        ] {
            response.set(name, value);
        }
        events.push("response.completed", [("response", Value::Object(response))]);
        events.into_bytes()
    }
}

/// The item that takes the place of a call.
fn message(refused: &str) -> Object<'static> {
    let part = of([
        ("type", text("output_text")),
        ("text", Value::from_text(refused.to_owned())),
        ("annotations", Value::Array(Vec::new())),
    ]);
    let mut message = Object::new();
    for (name, value) in [
        ("id", text("msg_refused")),
        ("type", text("message")),
        ("status", text("completed")),
        ("role", text("assistant")),
        ("content", Value::Array(vec![part])),
    ] {
        message.set(name, value);
    }
    message
}

/// Replaces the first refused call of a response, and the items after it. `None` if there is none.
pub(in crate::model::dialect) fn replace<T: Tools>(
    answer: &mut Object<'_>,
    tools: &mut T,
    text_of: &dyn Fn(&T) -> Option<String>,
) -> Option<()> {
    let Some(Value::Array(output)) = answer.get_mut("output") else { return None };
    let refused = output.iter().position(|item| match item.as_object() {
        Some(item) => !passes(item, tools),
        None => false,
    })?;
    // The items after the call may refer to it.
    output.truncate(refused);
    output.push(Value::Object(message(&text_of(tools)?)));
    answer.set("status", text("completed"));
    Some(())
}

/// Whether the item is no call, or a call that may be sent.
fn passes<T: Tools>(item: &Object<'_>, tools: &mut T) -> bool {
    if item.text("name").is_some() {
        return tools.pass(item);
    }
    let Some(local) = item.text("type").and_then(local_call) else { return true };
    let Some(action) = item.get(local.member) else { return true };
    // The same call with a name, as the other dialects have it.
    tools.pass(&Object::from_iter([
        ("name".into(), text(local.tool)),
        ("arguments".into(), own(action)),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::convert::object;

    fn read(sent: &mut SentItems, event: &str, passed: bool) {
        sent.read(&object(event.as_bytes()).expect("an event"), passed);
    }

    /// The data of the events of an end.
    fn ended(sent: &mut SentItems) -> Vec<serde_json::Value> {
        let bytes = sent.end("[refused]");
        let text = String::from_utf8(bytes).expect("UTF-8");
        let mut all = Vec::new();
        for event in text.trim_end().split("\n\n") {
            let (_, data) = event.split_once("\ndata: ").expect("two lines");
            all.push(serde_json::from_str(data).expect("JSON"));
        }
        all
    }

    #[test]
    fn numbers_and_indexes_go_on() {
        let mut sent = SentItems::default();
        let created = r#"{"type":"response.created","sequence_number":0,
            "response":{"id":"r","model":"m","created_at":5,"instructions":"secret"}}"#;
        read(&mut sent, created, true);
        let call = r#"{"type":"response.output_item.done","sequence_number":4,"output_index":2,
            "item":{"type":"function_call","id":"f","call_id":"c","name":"ok","arguments":"{}"}}"#;
        read(&mut sent, call, true);
        // The caller does not have this one.
        read(&mut sent, &call.replace(":4", ":5").replace(":2", ":3"), false);
        let events = ended(&mut sent);
        for (place, event) in events.iter().enumerate() {
            assert_eq!(event["sequence_number"], 5 + place);
        }
        assert_eq!(events[0]["type"], "response.output_item.added");
        assert_eq!(events[0]["output_index"], 3);
        let last = &events[events.len() - 1];
        assert_eq!(last["type"], "response.completed");
        let response = &last["response"];
        assert_eq!((&response["id"], &response["created_at"]), (&"r".into(), &5.into()));
        assert_eq!(response["output"][0]["call_id"], "c");
        assert_eq!(response["output"][1]["content"][0]["text"], "[refused]");
        assert!(response["instructions"].is_null());
    }

    #[test]
    fn a_stream_that_begins_with_the_call_has_an_end() {
        let events = ended(&mut SentItems::default());
        assert_eq!(events[0]["sequence_number"], 0);
        assert_eq!(events[0]["output_index"], 0);
        let said = events.iter().find(|event| event["type"] == "response.output_text.delta");
        assert_eq!(said.expect("a delta")["delta"], "[refused]");
    }

    #[test]
    fn the_memory_for_calls_is_bounded() {
        let mut sent = SentItems::default();
        let item = format!(
            r#"{{"type":"response.output_item.done","item":{{"name":"a","arguments":"{}"}}}}"#,
            "x".repeat(64 << 10)
        );
        for _ in 0..20 {
            read(&mut sent, &item, true);
        }
        assert!(sent.calls.len() <= 4 && sent.next == 20);
    }
}
