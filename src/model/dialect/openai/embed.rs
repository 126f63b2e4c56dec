//! Vectors of `echo`: the same text always has the same one, of length 1, and unlike texts lie apart.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::json::Value;

use super::echo::prompts;
use crate::model::ModelCall;
use crate::model::echo::{quoted, words};

/// Components of a vector where the caller does not say.
const DIMENSIONS: u64 = 64;
/// Components of a vector at the most.
const DIMENSIONS_MAX: u64 = 4096;

/// `embeddings`.
pub(super) fn answer(call: &ModelCall<'_>) -> Vec<u8> {
    let dimensions = call
        .object
        .get("dimensions")
        .and_then(Value::as_u64)
        .unwrap_or(DIMENSIONS)
        .clamp(1, DIMENSIONS_MAX);
    let packed = call.object.get("encoding_format").and_then(Value::as_str) == Some("base64");
    let texts = prompts(call.object.get("input"));
    let input: u64 = texts.iter().map(|text| words(text)).sum();
    let item = |(index, text): (usize, &String)| {
        let vector = vector(text, dimensions);
        let embedding = if packed {
            quoted(&STANDARD.encode(
                vector.iter().flat_map(|component| component.to_le_bytes()).collect::<Vec<u8>>(),
            ))
        } else {
            format!("[{}]", vector.iter().map(f32::to_string).collect::<Vec<_>>().join(","))
        };
        format!(r#"{{"object":"embedding","index":{index},"embedding":{embedding}}}"#)
    };
    let data = texts.iter().enumerate().map(item).collect::<Vec<_>>().join(",");
    let usage = format!(r#"{{"prompt_tokens":{input},"total_tokens":{input}}}"#);
    format!(
        r#"{{"object":"list","data":[{data}],"model":{},"usage":{usage}}}"#,
        quoted(call.model())
    )
    .into_bytes()
}

/// A unit vector drawn from the text: FNV-1a seeds a splitmix64 sequence.
fn vector(text: &str, dimensions: u64) -> Vec<f32> {
    let mut state = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut component = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let [high, low, ..] = (mixed ^ (mixed >> 31)).to_be_bytes();
        // Odd numbers only, so that no component, and no vector, is zero.
        f32::from(u16::from_be_bytes([high, low]) | 1) - 32768.0
    };
    let vector: Vec<f32> = (0..dimensions).map(|_| component()).collect();
    let length = vector.iter().map(|component| component * component).sum::<f32>().sqrt();
    vector.into_iter().map(|component| component / length).collect()
}
