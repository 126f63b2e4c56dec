//! Errors in the Responses dialect: a body as in OpenAI's other operations, and two events that end
//! a stream.

use crate::json::write_string;
use crate::model::dialect::openai;
use crate::refusal::Refusal;

/// Appends the events that end a stream early: `error`, and `response.failed`. Some clients read
/// only one of them. Their numbers continue those of the stream; `after` is its last one.
pub(in crate::model::dialect) fn events(
    refusal: &Refusal,
    request: &str,
    after: Option<u64>,
    out: &mut Vec<u8>,
) {
    let first = after.map_or(0, |last| last.saturating_add(1));
    out.extend_from_slice(b"event: error\ndata: {\"type\":\"error\",\"sequence_number\":");
    out.extend_from_slice(first.to_string().as_bytes());
    write_cause(refusal, out);
    out.extend_from_slice(b",\"param\":");
    match &refusal.param {
        Some(param) => write_string(param, out),
        None => out.extend_from_slice(b"null"),
    }
    // SDKs raise their error for a member `error`, as in the other operations.
    let mut body = Vec::new();
    openai::errors::body(refusal, request, &mut body);
    out.push(b',');
    out.extend_from_slice(body.get(1..).unwrap_or_default());
    out.extend_from_slice(b"\n\nevent: response.failed\ndata: ");
    out.extend_from_slice(b"{\"type\":\"response.failed\",\"sequence_number\":");
    out.extend_from_slice(first.saturating_add(1).to_string().as_bytes());
    out.extend_from_slice(b",\"response\":{\"id\":");
    write_string(&format!("resp_{request}"), out);
    out.extend_from_slice(
        b",\"object\":\"response\",\"created_at\":0,\"model\":\"\",\"status\":\"failed\",\
        \"output\":[],\"parallel_tool_calls\":true,\"tool_choice\":\"auto\",\"tools\":[],\
        \"incomplete_details\":null,\"usage\":null,\"error\":{",
    );
    let mut cause = Vec::new();
    write_cause(refusal, &mut cause);
    out.extend_from_slice(cause.get(1..).unwrap_or_default());
    out.extend_from_slice(b"}}}\n\n");
}

/// Writes code and message, each with a comma before it.
fn write_cause(refusal: &Refusal, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"code\":");
    write_string(refusal.code.as_str(), out);
    out.extend_from_slice(b",\"message\":");
    write_string(&refusal.message, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::Code;

    #[test]
    fn both_events_have_the_code_and_the_next_numbers() {
        let mut out = Vec::new();
        events(&Refusal::new(Code::Truncated).at("x"), "rq_1", Some(6), &mut out);
        let text = String::from_utf8(out).expect("UTF-8");
        let mut numbers = Vec::new();
        for event in text.trim_end().split("\n\n") {
            let (name, data) = event.split_once("\ndata: ").expect("two lines");
            let data: serde_json::Value = serde_json::from_str(data).expect("JSON");
            assert_eq!(name.strip_prefix("event: "), data["type"].as_str());
            let cause = match data["type"].as_str() {
                Some("error") => {
                    assert_eq!((&data["code"], &data["param"]), (&"truncated".into(), &"x".into()));
                    assert_eq!(data["error"]["request"], "rq_1");
                    &data["error"]
                }
                _ => &data["response"]["error"],
            };
            assert_eq!(cause["code"], "truncated");
            numbers.push(data["sequence_number"].as_u64());
        }
        assert_eq!(numbers, [Some(7), Some(8)]);
    }
}
