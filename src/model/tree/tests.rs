//! The tree gives the same results as a walk in place for every document. [`JsonTree::strict`]
//! gives the same results as the strict parser.

use proptest::prelude::*;

use super::*;
use crate::model::unreadable::DEPTH_MAX;
use crate::model::values::InPlace;

const TOKENS: [&str; 34] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "{\"a\":",
    "\"b\":[",
    "\"\":{",
    "\"a\"",
    "\"b\\n\"",
    "\"\\u0061\"",
    "\"\\ud800\"",
    "\"\\x\"",
    "\"type\"",
    "1",
    "-0",
    "01",
    "1e400",
    "18446744073709551616",
    "null",
    "true",
    "NaN",
    "-Infinity",
    " ",
    "\n",
    "\u{c}",
    "\"",
    "\\",
    "\u{1}",
    "\"\u{1}\"",
    "é",
    "x",
    "\"é\"",
];
const EVENTS: [&str; 4] = [
    concat!(
        r#"{"id":"c","created":1,"choices":[{"index":0,"delta":{"content":"a \"b\"\n"},"#,
        r#""logprobs":{"content":[{"token":"é","logprob":-0.5,"bytes":[1,2]}]},"#,
        r#""finish_reason":null}],"usage":null}"#
    ),
    concat!(
        r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"name":"go","#,
        r#""arguments":"{\"a\":1}"}}]}}]}"#
    ),
    concat!(
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","#,
        r#""name":"go","input":{"a":[{},[],""]}}}"#
    ),
    r#" [ {"a" : [ 1 , 2 ] , "b" : { } } , "c" ] "#,
];

/// Checks that a value and all its parts are the same in the tree and in place.
fn same(tree: &JsonTree<'_>, at: ValueId, raw: &[u8], is_root: bool) {
    assert_eq!(tree.raw(at), raw);
    let place = InPlace(raw);
    let (mut own, mut other) = (Vec::new(), Vec::new());
    match raw.first() {
        Some(b'{') => {
            let own_end = tree.members(at, |name, value| own.push((name, value)));
            let other_end = place.members(raw, |name, value| other.push((name, value)));
            assert_eq!(own_end, other_end);
        }
        Some(b'[') => {
            let own_end = tree.items(at, |value| own.push((&b""[..], value)));
            let other_end = place.items(raw, |value| other.push((&b""[..], value)));
            assert_eq!(own_end, other_end);
        }
        Some(b'"') if !is_root && tree.is_utf8() => {
            assert_eq!(tree.text(at).ok(), place.text(raw).ok());
        }
        Some(_) | None => {}
    }
    assert_eq!(own.len(), other.len());
    for ((own_name, at), (name, value)) in own.into_iter().zip(other) {
        assert_eq!(own_name, name);
        same(tree, at, value, false);
    }
}

fn check(document: &[u8]) {
    let json = document.trim_ascii();
    let tree = JsonTree::read(json, TreeMemory::default());
    same(&tree, tree.root(), json, true);
    let limits = Limits { depth: DEPTH_MAX, values: usize::MAX };
    assert_eq!(
        tree.strict().is_ok(),
        json::parse(json, &limits).is_ok(),
        "{}",
        String::from_utf8_lossy(json)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_tokens_are_read_as_in_place(
        tokens in prop::collection::vec(prop::sample::select(&TOKENS[..]), 0..24),
    ) {
        check(tokens.concat().as_bytes());
        check(format!("{{\"a\":{}}}", tokens.concat()).as_bytes());
    }

    #[test]
    fn an_event_with_faults_is_read_as_in_place(
        event in prop::sample::select(&EVENTS[..]),
        faults in prop::collection::vec(
            (any::<prop::sample::Index>(), prop::sample::select(&TOKENS[..]), 0_usize..3),
            0..4,
        ),
    ) {
        let mut document = event.as_bytes().to_vec();
        for (place, token, dropped) in faults {
            let from = place.index(document.len() + 1);
            let to = (from + dropped).min(document.len());
            document.splice(from..to, token.bytes());
        }
        check(&document);
    }
}

#[test]
fn depth_and_broken_places_are_read_as_in_place() {
    for levels in [DEPTH_MAX - 1, DEPTH_MAX, DEPTH_MAX + 1] {
        check(format!("{}{}", "[".repeat(levels), "]".repeat(levels)).as_bytes());
        check(format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels)).as_bytes());
    }
    for document in [
        r#"{"a":{"b":1;},"c":"x"}"#,
        r#"{"a":[1},"c":"x"}"#,
        r#"{"a":{"b":"c" "d"},"e":[1 2]}"#,
        r#"{"a":1"b","c":2}"#,
        r#"{"a":1{"b":[}]},"c":2}"#,
        r#"{"a":{"b":[{"c"#,
        r#"{"a":1} {"#,
        r#""a" "b""#,
        r#""a"#,
        "",
    ] {
        check(document.as_bytes());
    }
    check(b"{\"a\":\"\xff\"}");
}

#[test]
fn the_memory_of_a_large_event_is_not_kept() {
    let memory = JsonTree::read(EVENTS[0].as_bytes(), TreeMemory::default()).into_memory();
    assert!(memory.nodes.capacity() > 0 && memory.decoded.capacity() > 0);
    let large = format!("[{}]", vec![r#""\n""#; 5_000].join(","));
    let memory = JsonTree::read(large.as_bytes(), memory).into_memory();
    assert_eq!((memory.nodes.capacity(), memory.decoded.capacity()), (0, 0));
}
