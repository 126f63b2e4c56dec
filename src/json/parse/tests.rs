//! Tests of `parse`.

use super::super::write;
use super::*;

#[track_caller]
fn refuses(document: &[u8], kind: FaultKind) {
    assert_eq!(parse(document, &Limits::deep(64)).map_err(|fault| fault.kind), Err(kind));
}

#[track_caller]
fn prints(document: &str, expect: &str) {
    let value = parse(document.as_bytes(), &Limits::deep(64)).expect("document");
    let mut out = Vec::new();
    write(&value, &mut out);
    assert_eq!(String::from_utf8(out).expect("UTF-8"), expect);
}

#[test]
fn memory_is_bounded_whatever_the_shape() {
    let limits = Limits { depth: 64, values: 80 };
    let read = |text: &str| parse(text.as_bytes(), &limits).map(drop).map_err(|fault| fault.kind);
    let list = |item: &str, count: usize| format!("[{}]", vec![item; count].join(","));
    assert_eq!(read(&list("1", 72)), Ok(()));
    assert_eq!(read(&list("1", 73)), Err(FaultKind::Values));
    assert_eq!(read(&list("[]", 9)), Ok(()));
    assert_eq!(read(&list("[]", 10)), Err(FaultKind::Values));
    let object = |members: usize| {
        format!(
            "{{{}}}",
            (0..members).map(|at| format!("\"{at}\":0")).collect::<Vec<_>>().join(",")
        )
    };
    assert_eq!(read(&object(18)), Ok(()));
    assert_eq!(read(&object(19)), Err(FaultKind::Values));
}

#[test]
fn keeps_order_and_number_text() {
    prints(
        r#" {"b":1.0,"a":[1e2,-0,18446744073709551615] } "#,
        r#"{"b":1.0,"a":[1e2,-0,18446744073709551615]}"#,
    );
}

#[test]
fn escapes_are_made_canonical() {
    prints(r#""\u0041\/\ud83d\ude00\u001f""#, "\"A/😀\\u001f\"");
}

#[test]
fn refuses_what_readers_disagree_about() {
    refuses(b"\xEF\xBB\xBF{}", FaultKind::ByteOrderMark);
    refuses(b"{\0}\0", FaultKind::Unexpected);
    refuses(b"\xff\xfe{\0", FaultKind::NotUtf8);
    refuses(br#"{"a":1,"\u0061":2}"#, FaultKind::DuplicateKey);
    refuses(b"NaN", FaultKind::Unexpected);
    refuses(b"[Infinity]", FaultKind::Unexpected);
    refuses(b"1e999", FaultKind::NumberRange);
    refuses(b"18446744073709551616", FaultKind::NumberRange);
    refuses(b"01", FaultKind::NumberForm);
    refuses(b"1.", FaultKind::NumberForm);
    refuses(b"{} {}", FaultKind::Trailing);
    refuses(b"[1,]", FaultKind::Unexpected);
    refuses(b"{\"a\":1,}", FaultKind::Unexpected);
    refuses(b"// x\n1", FaultKind::Unexpected);
    refuses(br#""\ud800""#, FaultKind::Escape);
    refuses(br#""\udc00""#, FaultKind::Escape);
    refuses(b"\"\n\"", FaultKind::ControlCharacter);
    refuses(b"\"abc", FaultKind::Truncated);
    refuses("[".repeat(65).as_bytes(), FaultKind::Depth);
}

#[test]
fn finds_a_duplicate_among_many_members() {
    let mut members: Vec<String> =
        (0..100).map(|number| format!("\"k{number}\":{number}")).collect();
    prints(&format!("{{{}}}", members.join(",")), &format!("{{{}}}", members.join(",")));
    members.push("\"k3\":0".to_owned());
    refuses(format!("{{{}}}", members.join(",")).as_bytes(), FaultKind::DuplicateKey);
}
