//! What `echo` says in OpenAI's dialect.

use crate::json::Value;

use crate::model::ModelCall;
use crate::model::echo::{Echo, Said, event, first_words, pieces, quoted, words};

/// `chat/completions`.
pub(in crate::model) fn chat(call: &ModelCall<'_>, said: &Said, created: i64, id: &str) -> Echo {
    let model = quoted(call.model());
    let choices = call.choices();
    let finish = match (&said.tool, said.cut) {
        (Some(_), _) => "tool_calls",
        (None, true) => "length",
        (None, false) => "stop",
    };
    let usage = usage(said.input, said.output.saturating_mul(choices));
    let tool = said.tool.as_ref().map(|(name, arguments)| {
        let call_id = format!("call_{id}");
        format!(
            r#"{{"id":"{call_id}","type":"function","function":{{"name":{},"arguments":{}}}}}"#,
            quoted(name),
            quoted(arguments)
        )
    });
    if !call.stream() {
        let message = match &tool {
            Some(tool) => format!(
                r#"{{"role":"assistant","content":null,"refusal":null,"tool_calls":[{tool}]}}"#
            ),
            None => {
                format!(r#"{{"role":"assistant","content":{},"refusal":null}}"#, quoted(&said.text))
            }
        };
        let choice = |index| {
            format!(
                r#"{{"index":{index},"message":{message},"logprobs":null,"finish_reason":"{finish}"}}"#
            )
        };
        let choices = (0..choices).map(choice).collect::<Vec<_>>().join(",");
        let body = format!(
            r#"{{"id":"chatcmpl-{id}","object":"chat.completion","created":{created},"model":{model},"choices":[{choices}],"usage":{usage}}}"#
        );
        return Echo::Whole(body.into_bytes());
    }
    let chunk = |choices: &str, usage: &str| {
        event(&format!(
            r#"{{"id":"chatcmpl-{id}","object":"chat.completion.chunk","created":{created},"model":{model},"choices":[{choices}]{usage}}}"#
        ))
    };
    let delta = |index: u64, delta: &str, finish: &str| {
        chunk(
            &format!(
                r#"{{"index":{index},"delta":{delta},"logprobs":null,"finish_reason":{finish}}}"#
            ),
            "",
        )
    };
    let mut events = Vec::new();
    for index in 0..choices {
        match &tool {
            Some(tool) => {
                let tool = tool.replacen('{', r#"{"index":0,"#, 1);
                events.push(delta(
                    index,
                    &format!(r#"{{"role":"assistant","content":null,"tool_calls":[{tool}]}}"#),
                    "null",
                ));
            }
            None => {
                events.push(delta(index, r#"{"role":"assistant","content":""}"#, "null"));
                events.extend(pieces(&said.text).map(|piece| {
                    delta(index, &format!(r#"{{"content":{}}}"#, quoted(piece)), "null")
                }));
            }
        }
        events.push(delta(index, "{}", &quoted(finish)));
    }
    if call.usage_asked() {
        events.push(chunk("", &format!(r#","usage":{usage}"#)));
    }
    events.push(event("[DONE]"));
    Echo::Stream(events)
}

/// `completions`: each prompt comes back.
pub(in crate::model) fn completion(call: &ModelCall<'_>, cap: u64, created: i64, id: &str) -> Echo {
    let model = quoted(call.model());
    let prompts = prompts(call.object.get("prompt"));
    let each = call.object.get("n").and_then(Value::as_u64).unwrap_or(1);
    let mut told = Vec::new();
    let (mut input, mut output) = (0_u64, 0_u64);
    for prompt in &prompts {
        input = input.saturating_add(words(prompt));
        for _ in 0..each {
            let (text, cut) = first_words(prompt, cap);
            output = output.saturating_add(words(text));
            told.push((text, if cut { "length" } else { "stop" }));
        }
    }
    let usage = usage(input, output);
    let object = |choices: &str, usage: &str| {
        format!(
            r#"{{"id":"cmpl-{id}","object":"text_completion","created":{created},"model":{model},"choices":[{choices}]{usage}}}"#
        )
    };
    let choice = |index: usize, text: &str, finish: &str| {
        format!(
            r#"{{"index":{index},"text":{},"logprobs":null,"finish_reason":{finish}}}"#,
            quoted(text)
        )
    };
    let usage = format!(r#","usage":{usage}"#);
    if !call.stream() {
        let choices = told
            .iter()
            .enumerate()
            .map(|(index, (text, finish))| choice(index, text, &quoted(finish)));
        return Echo::Whole(object(&choices.collect::<Vec<_>>().join(","), &usage).into_bytes());
    }
    let mut events = Vec::new();
    for (index, (text, finish)) in told.iter().enumerate() {
        events.extend(pieces(text).map(|piece| event(&object(&choice(index, piece, "null"), ""))));
        events.push(event(&object(&choice(index, "", &quoted(finish)), "")));
    }
    if call.usage_asked() {
        events.push(event(&object("", &usage)));
    }
    events.push(event("[DONE]"));
    Echo::Stream(events)
}

/// `embeddings`: each text has its vector.
pub(in crate::model) fn embeddings(call: &ModelCall<'_>) -> Echo {
    Echo::Whole(super::embed::answer(call))
}

/// The prompts of a completion; tokens are told by their numbers.
pub(in crate::model) fn prompts(prompt: Option<&Value<'_>>) -> Vec<String> {
    let Some(prompt) = prompt else { return vec![String::new()] };
    let numbers = |items: &[Value<'_>]| items.iter().map(one).collect::<Vec<_>>().join(" ");
    match prompt {
        Value::Array(items) if items.iter().all(|item| matches!(item, Value::Number(_))) => {
            vec![numbers(items)]
        }
        Value::Array(items) => {
            items.iter().map(|item| item.as_array().map_or_else(|| one(item), numbers)).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            vec![one(prompt)]
        }
    }
}

fn one(value: &Value<'_>) -> String {
    match value {
        Value::String(text) | Value::Number(text) => text.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => String::new(),
    }
}

fn usage(input: u64, output: u64) -> String {
    let total = input.saturating_add(output);
    format!(r#"{{"prompt_tokens":{input},"completion_tokens":{output},"total_tokens":{total}}}"#)
}
