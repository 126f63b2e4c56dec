//! Benchmark of one event of a stream. It is parsed once, its usage, texts and tool calls are
//! checked, and it is passed on.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use token_shield::model::Operation;
use token_shield::model::answer::StreamFilter;
use token_shield::model::response_text::{Channel, ChannelId, TextFilter};
use token_shield::model::tools::Tools;

const CHUNK: &str = "data: \
    {\"id\":\"chatcmpl-7f0c9d\",\"object\":\"chat.completion.chunk\",\"created\":1790000000,\
    \"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" mountains\"},\
    \"logprobs\":null,\"finish_reason\":null}]}\n\n";
const ESCAPED: &str = "data: \
    {\"id\":\"chatcmpl-7f0c9d\",\"object\":\"chat.completion.chunk\",\"created\":1790000000,\
    \"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" \\\"mountains\\\"\\n\\n\
    \"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
const CALL: &str = "data: \
    {\"id\":\"chatcmpl-7f0c9d\",\"object\":\"chat.completion.chunk\",\"created\":1790000000,\
    \"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\
    \"function\":{\"arguments\":\"{\\\"city\\\": \\\"Paris\\\"\"}}]},\"logprobs\":null,\
    \"finish_reason\":null}]}\n\n";
const CALL_BEGINS: &str = "data: \
    {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"call_1\",\
    \"type\":\"function\",\"function\":{\"name\":\"weather\",\"arguments\":\"\"}}]},\
    \"finish_reason\":null}]}\n\n";
const DELTA: &str = "event: content_block_delta\ndata: \
    {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\
    \"text\":\" mountains\"}}\n\n";
const MESSAGE_BEGINS: &str = "event: message_start\ndata: \
    {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\
    \"role\":\"assistant\",\"model\":\"m\",\"content\":[],\"stop_reason\":null,\
    \"stop_sequence\":null,\"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\nevent: \
    content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\
    \"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n";

/// Lets every text pass. It checks tools, which these answers do not have.
struct Texts {
    judges_tools: bool,
}

impl Tools for Texts {
    fn any(&self) -> bool {
        self.judges_tools
    }
}

impl TextFilter for Texts {
    fn push(&mut self, _: Channel<'_>, text: &str, out: &mut String) {
        out.push_str(text);
    }

    fn flush(&mut self, _: Channel<'_>, _: &mut String) {}

    fn boundary(&mut self) {}

    fn holding(&self, _: Option<u64>) -> Vec<ChannelId> {
        Vec::new()
    }
}

/// A delta of the Responses dialect. Its number is the same each time, so that it is rewritten.
const TEXT_DELTA: &str = concat!(
    "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",",
    "\"sequence_number\":7,\"item_id\":\"msg_0123456789abcdef\",\"output_index\":0,",
    "\"content_index\":0,\"delta\":\" mountains\",\"logprobs\":[]}\n\n"
);

/// A chunk with the log probabilities of a token and of the `count` most probable alternatives.
fn with_logprobs(count: usize) -> String {
    let one = concat!(
        r#"{"token":" mountains","logprob":-0.123456789,"bytes":[32,109,111,117,110,116,97,"#,
        r#"105,110,115]}"#
    );
    let top = vec![one; count].join(",");
    let entry = format!(
        concat!(
            r#"{{"token":" mountains","logprob":-0.123456789,"bytes":[32,109,111],"#,
            r#""top_logprobs":[{top}]}}"#
        ),
        top = top
    );
    CHUNK.replace(r#""logprobs":null"#, &format!(r#""logprobs":{{"content":[{entry}]}}"#))
}

fn events(bench: &mut Criterion) {
    let mut group = bench.benchmark_group("events");
    group.throughput(Throughput::Elements(1));
    let (chat, messages) = (Operation::ChatCompletions, Operation::Messages);
    let (few, many) = (with_logprobs(1), with_logprobs(20));
    for (name, operation, first, event) in [
        ("chat", chat, "", CHUNK),
        ("chat, escapes", chat, "", ESCAPED),
        ("chat, call", chat, CALL_BEGINS, CALL),
        ("chat, logprobs of 1", chat, "", few.as_str()),
        ("chat, logprobs of 20", chat, "", many.as_str()),
        ("messages", messages, MESSAGE_BEGINS, DELTA),
        ("responses", Operation::Responses, "", TEXT_DELTA),
    ] {
        for judges_tools in [false, true] {
            let mut filter = StreamFilter::new(operation, true, Texts { judges_tools });
            let mut out = Vec::new();
            filter.push(first.as_bytes(), &mut out).unwrap_or_else(|why| panic!("{why}"));
            let name = format!("{name}{}", if judges_tools { ", tools judged" } else { "" });
            group.bench_function(name, |run| {
                run.iter(|| {
                    out.clear();
                    filter
                        .push(black_box(event.as_bytes()), &mut out)
                        .unwrap_or_else(|why| panic!("{why}"))
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, events);
criterion_main!(benches);
