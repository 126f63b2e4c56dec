//! Benchmark of the strict parser, the field checks and the serializer of chat bodies with 2 KB and
//! 200 KB.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

use token_shield::model::{self, BodyChanges, BodyRules, Operation, Profile, UnknownFields};

/// A conversation with a tool and its result, as about `length` bytes of compact JSON.
fn chat(length: usize) -> Vec<u8> {
    let mut body = String::from(concat!(
        r#"{"model":"llama-3.1-8b","temperature":0.7,"top_p":0.95,"max_tokens":512,"#,
        r#""stream":true,"stop":["\n\n"],"tools":[{"type":"function","#,
        r#""function":{"name":"weather","description":"The weather of a place.","#,
        r#""parameters":{"type":"object","properties":{"city":{"type":"string"},"#,
        r#""days":{"type":"integer","minimum":1,"maximum":7}},"required":["city"]}}}],"#,
        r#""messages":[{"role":"system","content":"You are brief."}"#
    ));
    let mut turn = 0;
    while body.len() + 400 < length {
        body.push_str(&match turn % 4 {
            0 => format!(
                concat!(
                    r#",{{"role":"user","content":"Question {turn}: what does \"{turn}\" "#,
                    r#"mean?\nAnd how does it look in Łódź tomorrow?"}}"#
                ),
                turn = turn
            ),
            1 => format!(
                concat!(
                    r#",{{"role":"assistant","content":null,"tool_calls":[{{"id":"call_{turn}","#,
                    r#""type":"function","function":{{"name":"weather","#,
                    r#""arguments":"{{\"city\":\"Łódź\",\"days\":2}}"}}}}]}}"#
                ),
                turn = turn
            ),
            2 => format!(
                concat!(
                    r#",{{"role":"tool","tool_call_id":"call_{}","#,
                    r#""content":"{{\"sky\":\"clear\",\"celsius\":[7,9]}}"}}"#
                ),
                turn - 1
            ),
            _ => format!(
                r#",{{"role":"assistant","content":"{}"}}"#,
                "It will be clear, with \
                seven to nine degrees. "
                    .repeat(8)
            ),
        });
        turn += 1;
    }
    body.push_str("]}");
    body.into_bytes()
}

fn rewrite(bench: &mut Criterion) {
    let Some(profile) = Profile::named("vllm") else { panic!("the profile of vLLM is built in") };
    let terms = BodyRules {
        profile: &profile,
        unknown_fields: UnknownFields::Refuse,
        model_upstream: "meta-llama/Llama-3.1-8B-Instruct",
    };
    let changes = BodyChanges { output_tokens: Some(4096), request_id: None, cache_salt: None };
    let mut group = bench.benchmark_group("rewrite");
    for (name, length) in [("2 KB", 2 << 10), ("200 KB", 200 << 10)] {
        let body = chat(length);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(BenchmarkId::new("read", name), |run| {
            run.iter(|| model::read(Operation::ChatCompletions, black_box(&body)).is_ok());
        });
        group.bench_function(BenchmarkId::new("read, understand, write", name), |run| {
            run.iter(|| {
                let call = model::read(Operation::ChatCompletions, black_box(&body))
                    .and_then(|reading| reading.understand(&terms));
                call.map(|call| call.write(&changes))
                    .map_err(|refusal| panic!("the body must pass: {refusal}"))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, rewrite);
criterion_main!(benches);
