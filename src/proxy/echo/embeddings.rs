//! The embeddings of `echo`, in OpenAI's dialect. Equal texts have equal vectors of length 1. The
//! vectors of different texts are far apart.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::openai::prompts;
use super::reply::Reply;
use super::request::EchoRequest;
use super::words::{self, quoted};

/// Components of a vector if the request sets no number.
const DIMENSIONS: u64 = 64;
/// The largest number of components of a vector.
const DIMENSIONS_MAX: u64 = 4096;

/// Answers `embeddings`.
pub(super) fn answer(request: &EchoRequest<'_>) -> Reply {
    let dimensions = request.number("dimensions").unwrap_or(DIMENSIONS).clamp(1, DIMENSIONS_MAX);
    let format = request.member("encoding_format");
    let is_packed = format.is_some_and(|format| format.as_str() == Some("base64"));
    let (mut items, mut input) = (Vec::new(), 0_u64);
    for (index, text) in prompts(request.member("input")).iter().enumerate() {
        input = input.saturating_add(words::count(text));
        let vector = vector(text, dimensions);
        let embedding = if is_packed { packed(&vector) } else { listed(&vector) };
        items.push(format!(r#"{{"object":"embedding","index":{index},"embedding":{embedding}}}"#));
    }
    let (data, model) = (items.join(","), quoted(request.model()));
    let body = format!(
        concat!(
            r#"{{"object":"list","data":[{data}],"model":{model},"#,
            r#""usage":{{"prompt_tokens":{input},"total_tokens":{input}}}}}"#
        ),
        data = data,
        model = model,
        input = input
    );
    Reply::Whole(body.into_bytes())
}

/// A vector as base64 of its little-endian components.
fn packed(vector: &[f32]) -> String {
    let mut bytes = Vec::with_capacity(size_of_val(vector));
    for component in vector {
        bytes.extend_from_slice(&component.to_le_bytes());
    }
    quoted(&STANDARD.encode(bytes))
}

/// A vector as a JSON array.
fn listed(vector: &[f32]) -> String {
    let mut numbers = Vec::with_capacity(vector.len());
    for component in vector {
        numbers.push(component.to_string());
    }
    format!("[{}]", numbers.join(","))
}

/// A unit vector computed from the text: FNV-1a seeds a splitmix64 sequence.
fn vector(text: &str, dimensions: u64) -> Vec<f32> {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    for byte in text.bytes() {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let mut vector = Vec::new();
    for _ in 0..dimensions {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let [high, low, ..] = (mixed ^ (mixed >> 31)).to_be_bytes();
        // Only odd numbers: no component is zero, so no vector has length zero.
        vector.push(f32::from(u16::from_be_bytes([high, low]) | 1) - 32768.0);
    }
    let mut squares = 0.0_f32;
    for component in &vector {
        squares += component * component;
    }
    let length = squares.sqrt();
    for component in &mut vector {
        *component /= length;
    }
    vector
}
