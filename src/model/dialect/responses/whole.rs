//! Conversion of a whole answer of the Responses dialect to the events of a stream.

use crate::json::{Object, Value};
use crate::model::convert::{Unlike, event, text};

/// The maximum number of bytes of members outside of the output, which the first two events repeat.
const REPEATED_MAX: usize = 16 << 20;

/// How many times longer than the answer its events may be, in addition to [`REPEATED_MAX`].
const EVENTS_EACH: usize = 6;

/// The events so far. Each gets the next number.
#[derive(Default)]
pub(super) struct Events {
    /// The number of the first event.
    first: u64,
    /// The events.
    all: Vec<Vec<u8>>,
    /// Their bytes.
    bytes: usize,
    /// The maximum number of their bytes.
    bytes_max: usize,
}

impl Events {
    /// Events that continue a stream, in any number. `last` is the number of its last event.
    pub(super) fn after(last: Option<u64>) -> Self {
        let first = last.map_or(0, |last| last.saturating_add(1));
        Self { first, bytes_max: usize::MAX, ..Self::default() }
    }

    /// The bytes of all events.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.all.concat()
    }

    /// Appends an event of that type, with these members.
    pub(super) fn push<'v>(
        &mut self,
        kind: &'static str,
        members: impl IntoIterator<Item = (&'static str, Value<'v>)>,
    ) {
        let mut data = Object::new();
        data.set("type", text(kind));
        data.set(
            "sequence_number",
            Value::from_u64(self.first.saturating_add(self.all.len() as u64)),
        );
        members.into_iter().for_each(|(name, value)| data.set(name, value));
        // Beyond the limit only the bytes are counted, so that the memory is bounded.
        if self.bytes <= self.bytes_max {
            let event = event(Some(kind), &Value::Object(data));
            self.bytes = self.bytes.saturating_add(event.len());
            self.all.push(event);
        }
    }

    /// Whether the events are longer than the limit.
    const fn is_full(&self) -> bool {
        self.bytes > self.bytes_max
    }
}

/// The place of a text in the output.
#[derive(Clone)]
struct Place {
    /// The members that name the item.
    item: Vec<(&'static str, Value<'static>)>,
    /// The member with the index of the part, and the index.
    part: (&'static str, u64),
}

impl Place {
    /// The members that name the place.
    fn members(&self) -> Vec<(&'static str, Value<'static>)> {
        let (name, index) = self.part;
        let mut members = self.item.clone();
        members.push((name, Value::from_u64(index)));
        members
    }

    /// The same members, and one more.
    fn with<'v>(&self, name: &'static str, value: Value<'v>) -> Vec<(&'static str, Value<'v>)> {
        let mut members: Vec<(&'static str, Value<'v>)> = self.members();
        members.push((name, value));
        members
    }
}

/// The types of the events of one kind of part.
struct PartEvents {
    /// The part begins.
    added: &'static str,
    /// A piece of its text.
    delta: &'static str,
    /// Its text is complete.
    text: &'static str,
    /// The part is complete.
    done: &'static str,
    /// The member of the part, and of the event, with the text.
    member: &'static str,
}

/// The events of a part of a message that is text.
const OUTPUT_TEXT: PartEvents = PartEvents {
    added: "response.content_part.added",
    delta: "response.output_text.delta",
    text: "response.output_text.done",
    done: "response.content_part.done",
    member: "text",
};
/// The events of a part of a message that declines.
const REFUSAL: PartEvents = PartEvents {
    added: "response.content_part.added",
    delta: "response.refusal.delta",
    text: "response.refusal.done",
    done: "response.content_part.done",
    member: "refusal",
};
/// The events of a part of a reasoning text.
const REASONING: PartEvents = PartEvents {
    added: "response.content_part.added",
    delta: "response.reasoning_text.delta",
    text: "response.reasoning_text.done",
    done: "response.content_part.done",
    member: "text",
};
/// The events of a part of a summary of reasoning.
const SUMMARY: PartEvents = PartEvents {
    added: "response.reasoning_summary_part.added",
    delta: "response.reasoning_summary_text.delta",
    text: "response.reasoning_summary_text.done",
    done: "response.reasoning_summary_part.done",
    member: "text",
};

/// The events with the content of `answer`. The last one repeats all of it.
pub(in crate::model::dialect) fn events(answer: Object<'_>) -> Result<Vec<Vec<u8>>, Unlike> {
    if answer.text("object") != Some("response") {
        return Err(Unlike::Odd("it is no response"));
    }
    let Some(Value::Array(output)) = answer.get("output") else {
        return Err(Unlike::Odd("it has no output"));
    };
    let last = match answer.text("status") {
        Some("completed") | None => "response.completed",
        Some("incomplete") => "response.incomplete",
        Some("failed" | "cancelled") => "response.failed",
        // Work that outlives its request cannot be a stream.
        Some(_) => return Err(Unlike::Odd("its status is not that of an end")),
    };
    let mut begun = answer.clone();
    for (name, value) in [
        ("status", text("in_progress")),
        ("output", Value::Array(Vec::new())),
        ("usage", Value::Null),
    ] {
        begun.set(name, value);
    }
    if event(None, &Value::Object(begun.clone())).len() > REPEATED_MAX {
        return Err(Unlike::Odd("its members outside of the output are too long for events"));
    }
    // Each text is in four events and in the last one. Names and indexes come with each of them.
    let length = event(None, &Value::Object(answer.clone())).len();
    let bytes_max = length.saturating_mul(EVENTS_EACH).saturating_add(REPEATED_MAX);
    let mut events = Events { bytes_max, ..Events::default() };
    for kind in ["response.created", "response.in_progress"] {
        events.push(kind, [("response", Value::Object(begun.clone()))]);
    }
    for (index, item) in output.iter().enumerate() {
        let Value::Object(item) = item else { return Err(Unlike::Odd("an item is no object")) };
        item_events(index as u64, item, &mut events)?;
    }
    if events.is_full() {
        return Err(Unlike::Odd("its events would be much longer than the answer"));
    }
    events.push(last, [("response", Value::Object(answer))]);
    Ok(events.all)
}

/// Appends the events of an item. It begins without its texts and arguments, which deltas add.
pub(super) fn item_events(
    index: u64,
    item: &Object<'_>,
    events: &mut Events,
) -> Result<(), Unlike> {
    let named = vec![
        ("item_id", Value::from_text(item.text("id").unwrap_or_default().to_owned())),
        ("output_index", Value::from_u64(index)),
    ];
    let mut begun = item.clone();
    if begun.get("status").is_some() {
        begun.set("status", text("in_progress"));
    }
    for (name, empty) in
        [("content", true), ("summary", true), ("arguments", false), ("input", false)]
    {
        match begun.get(name) {
            Some(Value::Array(_)) if empty => begun.set(name, Value::Array(Vec::new())),
            Some(Value::String(_)) => begun.set(name, text("")),
            Some(_) | None => {}
        }
    }
    events.push("response.output_item.added", whole_item(index, begun));
    let is_reasoning = item.text("type") == Some("reasoning");
    for (name, index_name) in [("summary", "summary_index"), ("content", "content_index")] {
        let Some(parts) = item.array(name) else { continue };
        for (place, part) in parts.iter().enumerate() {
            let Value::Object(part) = part else {
                return Err(Unlike::Odd("a part is no object"));
            };
            let place = Place { item: named.clone(), part: (index_name, place as u64) };
            let kinds = match (name, part.text("type")) {
                ("summary", _) => &SUMMARY,
                (_, Some("refusal")) => &REFUSAL,
                _ if is_reasoning => &REASONING,
                _ => &OUTPUT_TEXT,
            };
            part_events(kinds, &place, part, events);
            if events.is_full() {
                return Ok(());
            }
        }
    }
    for (name, delta, done) in [
        (
            "arguments",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
        ),
        ("input", "response.custom_tool_call_input.delta", "response.custom_tool_call_input.done"),
    ] {
        let Some(said) = item.text(name) else { continue };
        let said = || Value::from_text(said.to_owned());
        events.push(delta, named.iter().cloned().chain([("delta", said())]));
        events.push(done, named.iter().cloned().chain([(name, said())]));
    }
    events.push("response.output_item.done", whole_item(index, item.clone()));
    Ok(())
}

/// The members of an event with the whole item.
fn whole_item(index: u64, item: Object<'_>) -> [(&'static str, Value<'_>); 2] {
    [("output_index", Value::from_u64(index)), ("item", Value::Object(item))]
}

/// Appends the events of a part: it begins empty, gets its text as one delta, and ends.
fn part_events(kinds: &PartEvents, place: &Place, part: &Object<'_>, events: &mut Events) {
    let said = part.text(kinds.member).unwrap_or_default();
    let mut begun = part.clone();
    begun.set(kinds.member, text(""));
    if begun.array("annotations").is_some() {
        begun.set("annotations", Value::Array(Vec::new()));
    }
    events.push(kinds.added, place.with("part", Value::Object(begun)));
    let said = || Value::from_text(said.to_owned());
    // Clients of texts expect the member `logprobs`.
    let logprobs =
        (kinds.delta == OUTPUT_TEXT.delta).then(|| ("logprobs", Value::Array(Vec::new())));
    events.push(kinds.delta, place.with("delta", said()).into_iter().chain(logprobs.clone()));
    events.push(kinds.text, place.with(kinds.member, said()).into_iter().chain(logprobs));
    events.push(kinds.done, place.with("part", Value::Object(part.clone())));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Operation;
    use crate::model::convert::{events as converted, joined};

    const ANSWER: &str = concat!(
        r#"{"id":"resp_1","object":"response","created_at":1,"status":"completed","model":"m","#,
        r#""output":[{"id":"rs_1","type":"reasoning","summary":[{"type":"summary_text","#,
        r#""text":"so"}],"content":[{"type":"reasoning_text","text":"then"}]},{"id":"msg_1","#,
        r#""type":"message","role":"assistant","status":"completed","content":["#,
        r#"{"type":"output_text","text":"hi","annotations":[]},{"type":"refusal","#,
        r#""refusal":"no"}]},{"id":"fc_1","type":"function_call","call_id":"c1","name":"go","#,
        r#""arguments":"{\"a\":1}","status":"completed"},{"id":"ct_1","type":"custom_tool_call","#,
        r#""call_id":"c2","name":"patch","input":"*** Begin"}],"usage":{"input_tokens":1,"#,
        r#""output_tokens":2,"total_tokens":3}}"#
    );

    fn stream(answer: &str) -> Vec<serde_json::Value> {
        let mut all = Vec::new();
        for event in converted(Operation::Responses, answer.as_bytes()).expect("events") {
            let text = String::from_utf8(event).expect("UTF-8");
            let (name, data) = text.trim_end().split_once("\ndata: ").expect("two lines");
            let data: serde_json::Value = serde_json::from_str(data).expect("JSON");
            assert_eq!(name.strip_prefix("event: "), data["type"].as_str());
            assert_eq!(data["sequence_number"], all.len());
            all.push(data);
        }
        all
    }

    #[test]
    fn an_answer_survives_both_ways() {
        let events = converted(Operation::Responses, ANSWER.as_bytes()).expect("events").concat();
        let again = joined(Operation::Responses, &events).expect("joined");
        let (again, answer): (serde_json::Value, serde_json::Value) = (
            serde_json::from_slice(&again).expect("JSON"),
            serde_json::from_str(ANSWER).expect("JSON"),
        );
        assert_eq!(again, answer);
    }

    #[test]
    fn deltas_have_each_text_once() {
        let events = stream(ANSWER);
        let said = |kind: &str| {
            let mut said = String::new();
            for event in &events {
                if event["type"] == kind {
                    said.push_str(event["delta"].as_str().expect("a delta"));
                }
            }
            said
        };
        for (kind, expect) in [
            ("response.output_text.delta", "hi"),
            ("response.refusal.delta", "no"),
            ("response.reasoning_summary_text.delta", "so"),
            ("response.reasoning_text.delta", "then"),
            ("response.function_call_arguments.delta", r#"{"a":1}"#),
            ("response.custom_tool_call_input.delta", "*** Begin"),
        ] {
            assert_eq!(said(kind), expect, "{kind}");
        }
        let added = events.iter().find(|event| event["type"] == "response.output_item.added");
        assert_eq!(added.expect("an item")["item"]["summary"], serde_json::json!([]));
    }

    #[test]
    fn an_unfinished_or_foreign_answer_is_not_converted() {
        for answer in [
            r#"{"object":"response","status":"queued","output":[]}"#,
            r#"{"object":"response","status":"completed"}"#,
            r#"{"object":"response","output":[7]}"#,
            r#"{"object":"chat.completion","choices":[]}"#,
        ] {
            assert!(converted(Operation::Responses, answer.as_bytes()).is_err(), "{answer}");
        }
        let cut = "data: {\"type\":\"response.created\",\"response\":{}}\n\n";
        assert_eq!(joined(Operation::Responses, cut.as_bytes()), Err(Unlike::Cut));
        let failed = "data: {\"type\":\"response.failed\",\"response\":{}}\n\n";
        assert!(joined(Operation::Responses, failed.as_bytes()).is_err());
    }

    #[test]
    fn events_are_not_much_longer_than_the_answer() {
        let (id, parts) = ("i".repeat(1 << 20), vec!["{}"; 10_000].join(","));
        let answer =
            format!(r#"{{"object":"response","output":[{{"id":"{id}","content":[{parts}]}}]}}"#);
        assert!(converted(Operation::Responses, answer.as_bytes()).is_err());
        // A long text is in five events.
        let text = "t".repeat(4 << 20);
        let part = format!(r#"{{"type":"output_text","text":"{text}"}}"#);
        let answer = format!(r#"{{"object":"response","output":[{{"content":[{part}]}}]}}"#);
        assert!(converted(Operation::Responses, answer.as_bytes()).is_ok());
    }

    #[test]
    fn items_that_the_last_event_leaves_out_are_joined() {
        let events = concat!(
            "data: {\"type\":\"response.output_item.done\",\"output_index\":0,",
            "\"item\":{\"type\":\"message\"}}\n\n",
            "data: {\"type\":\"response.completed\",\"response\":{\"object\":\"response\"}}\n\n"
        );
        let whole = joined(Operation::Responses, events.as_bytes()).expect("joined");
        let whole: serde_json::Value = serde_json::from_slice(&whole).expect("JSON");
        assert_eq!(whole["output"], serde_json::json!([{"type": "message"}]));
    }
}
