//! The response filter: from the bytes of a stream to the bytes that the caller gets.

use std::collections::BTreeMap;

use token_shield::guard::egress::policy::EgressPolicy;
use token_shield::guard::egress::rendered::{LoadUse, RenderedText, Scope, Verdict};
use token_shield::model::Operation;
use token_shield::model::answer::StreamFilter;
use token_shield::model::response_text::{self, Channel, ChannelId, TextFilter};
use token_shield::model::tools::{Arguments, Tools};

/// Allows `good.example`, and `links.example` as a link. Evaluates calls of the tool `fetch`.
#[derive(Default)]
struct OneHost {
    texts: BTreeMap<(u64, String), RenderedText>,
    ended: bool,
    blocks: bool,
    changed: u64,
}

/// A verdict, and whether it ends the answer.
fn verdict(load_use: LoadUse, url: Result<&str, &str>, blocks: bool, ended: &mut bool) -> Verdict {
    let host = url.ok().and_then(EgressPolicy::host).unwrap_or_default();
    if host == "good.example" || (host == "links.example" && load_use == LoadUse::Linked) {
        return Verdict::Pass;
    }
    if load_use == LoadUse::Defined {
        return Verdict::Strip;
    }
    *ended |= blocks;
    if blocks { Verdict::Block } else { Verdict::Strip }
}

impl TextFilter for OneHost {
    fn push(&mut self, channel: Channel<'_>, text: &str, out: &mut String) {
        let Self { texts, ended, blocks, changed } = self;
        let known = texts
            .entry((channel.choice, channel.key.to_owned()))
            .or_insert_with(|| RenderedText::new(Scope::Links));
        known.push(text, out, &mut |load_use, url| {
            let verdict = verdict(load_use, url, *blocks, ended);
            *changed += u64::from(verdict == Verdict::Strip);
            verdict
        });
    }

    fn flush(&mut self, channel: Channel<'_>, out: &mut String) {
        let Self { texts, ended, blocks, changed } = self;
        if let Some(text) = texts.get_mut(&(channel.choice, channel.key.to_owned())) {
            text.pause(out, &mut |load_use, url| {
                let verdict = verdict(load_use, url, *blocks, ended);
                *changed += u64::from(verdict == Verdict::Strip);
                verdict
            });
        }
    }

    fn boundary(&mut self) {}

    fn changes(&self) -> u64 {
        self.changed
    }

    fn holding(&self, choice: Option<u64>) -> Vec<ChannelId> {
        let held = self
            .texts
            .iter()
            .filter(|(_, text)| text.is_holding())
            .map(|((choice, key), _)| ChannelId { choice: *choice, key: key.clone() });
        held.filter(|id| choice.is_none_or(|choice| choice == id.choice)).collect()
    }
}

impl Tools for OneHost {
    fn any(&self) -> bool {
        true
    }

    fn judges(&self, tool: &str) -> bool {
        tool == "fetch"
    }

    fn call(&mut self, _: &str, arguments: Arguments<'_>) -> bool {
        let passes = !format!("{arguments:?}").contains(&format!("{:?}", b'~'))
            && !matches!(arguments, Arguments::Text(_));
        self.ended |= !passes;
        passes
    }

    fn ended(&self) -> bool {
        self.ended
    }
}

fn event(delta: &str, more: &str) -> Vec<u8> {
    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{delta}{more}}}]}}\n\n").into_bytes()
}

fn delta(key: &str, text: &str) -> String {
    format!("{{\"{key}\":{}}}", serde_json::to_string(text).expect("a string"))
}

/// The output for a stream of these events.
fn streamed(door: OneHost, events: &[Vec<u8>]) -> String {
    let (mut filter, mut out) =
        (StreamFilter::new(Operation::ChatCompletions, true, door), Vec::new());
    for event in events {
        filter.push(event, &mut out).expect("events that can be read");
    }
    filter.finish(&mut out).expect("events that can be read");
    String::from_utf8(out).expect("UTF-8")
}

/// The texts of `key` in the stream, joined.
fn said(stream: &str, key: &str) -> String {
    let events = stream
        .lines()
        .filter_map(|line| line.strip_prefix("data: {"))
        .map(|line| format!("{{{line}"));
    let parsed =
        events.map(|event| serde_json::from_str::<serde_json::Value>(&event).expect("JSON"));
    parsed
        .filter_map(|event| event["choices"][0]["delta"][key].as_str().map(str::to_owned))
        .collect()
}

#[track_caller]
fn text(key: &str, pieces: &[&str], expect: &str) {
    let events: Vec<Vec<u8>> = pieces.iter().map(|piece| event(&delta(key, piece), "")).collect();
    assert_eq!(said(&streamed(OneHost::default(), &events), key), expect, "{pieces:?}");
}

#[test]
fn addresses_that_are_not_allowed_are_changed() {
    text(
        "content",
        // A URL in several events. The filter must hold the text until the URL ends.
        &["see https://", "a-very-long-name-", "that-outgrows-windows.", "evil.example", "/x ok"],
        "see #link-removed:a-very-long-name-that-outgrows-windows.evil.example/x ok",
    );
    text(
        "reasoning_content",
        &["see https://evil.example/ ok"],
        "see #link-removed:evil.example/ ok",
    );
    // An image uses the definition, so the rule for links is not enough.
    text(
        "content",
        &["![a]\n\n[a]: https://links", ".example/ 'b'"],
        "![a]\n\n[a]: #link-removed:https://links.example/ 'b'",
    );
    text(
        "content",
        &["![a](https://^", "&#64;evil.example/x) ok"],
        "![a](#link-removed:https://^&#64;evil.example/x) ok",
    );
    text("content", &["it is about https:"], "it is about https:");
}

#[test]
fn a_changed_stream_says_so_before_its_last_event() {
    let end = b"data: [DONE]\n\n".to_vec();
    let stop = event("{}", r#","finish_reason":"stop""#);
    let ends = |text: &str| {
        let events = [event(&delta("content", text), ""), stop.clone(), end.clone()];
        let out = streamed(OneHost::default(), &events);
        let parts: Vec<String> = out.split("\n\n").map(str::to_owned).collect();
        // The last part is empty, and the one before it is the last event.
        parts.into_iter().rev().nth(2)
    };
    assert_eq!(ends("![a](//x.example)").as_deref(), Some(": token-shield-removed: 1"));
    assert!(ends("![a](https://good.example/)").is_some_and(|line| line.starts_with("data: {")));
}

#[test]
fn tokens_of_a_changed_text_are_left_out() {
    // The log probabilities repeat the text token by token, and would show the removed URL.
    let tokens = r#","logprobs":{"content":[{"token":"https://evil.example/"}]}"#;
    let out = streamed(
        OneHost::default(),
        &[event(&delta("content", "https://evil.example/ ok"), tokens)],
    );
    assert!(!out.contains("https://evil.example"), "{out}");
    let whole = format!(
        r#"{{"choices":[{{"index":0,"message":{}{tokens}}}]}}"#,
        delta("content", "https://evil.example/ ok")
    );
    let out = response_text::whole(whole.as_bytes(), &mut OneHost::default())
        .expect("JSON")
        .expect("changed");
    assert!(!String::from_utf8_lossy(&out).contains("https://evil.example"));
}

fn call(index: u64, name: &str, arguments: &str) -> Vec<u8> {
    let arguments = serde_json::to_string(arguments).expect("a string");
    event(
        &format!(
            concat!(
                r#"{{"tool_calls":[{{"index":{index},"function":{{"name":"{name}","#,
                r#""arguments":{arguments}}}}}]}}"#
            ),
            index = index,
            name = name,
            arguments = arguments
        ),
        "",
    )
}

#[test]
fn a_tool_call_passes_unchanged_or_not_at_all() {
    let over = event("{}", r#","finish_reason":"tool_calls""#);
    let events = [
        call(0, "write", r#"{"a":"https://evil.example/ "}"#),
        call(1, "fetch", r#"{"u":"fine"}"#),
        over.clone(),
    ];
    assert_eq!(streamed(OneHost::default(), &events).into_bytes(), events.concat());
    // The call contains a refused argument, so no part of it may pass.
    let events = [call(0, "fetch", r#"{"u":"~"}"#), over];
    assert_eq!(streamed(OneHost::default(), &events), "");
}

#[test]
fn nothing_follows_a_blocked_url() {
    // The first text is judged at the end of its line, and the second one at the end of the stream.
    for text in ["a https://evil.example/ b\n", "a https://evil.example/ "] {
        let blocks = OneHost { blocks: true, ..OneHost::default() };
        let events = [event(&delta("content", text), ""), event(&delta("content", "behind"), "")];
        let all = [events.concat(), b"data: [DONE]\n\n".to_vec()].concat();
        let out = streamed(blocks, &[all]);
        assert!(!out.contains("behind") && !out.contains("DONE"), "{out}");
    }
}
