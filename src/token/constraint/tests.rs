//! Tests of the constraints.

use super::*;
use crate::json;

fn value(text: &str) -> Value<'_> {
    json::parse(text.as_bytes(), &json::Limits::deep(8)).expect("JSON")
}

fn names(list: &[&str]) -> Names {
    Names::read(list, 64).expect("a list")
}

#[track_caller]
fn check(constraint: &str, expect: Result<Bound, Code>) {
    let bound = read(&value(constraint), 64).map(|read| read.bound).map_err(|refusal| refusal.code);
    assert_eq!(bound, expect, "{constraint}");
}

#[test]
fn pairs_of_the_table_are_read() {
    check(r#"{"key":"model","one_of":["a","b"]}"#, Ok(Bound::Texts(names(&["a", "b"]))));
    check(r#"{"prefix":"llama-","key":"model"}"#, Ok(Bound::Text("llama-".to_owned())));
    check(r#"{"key":"requests_per_second","rate":0}"#, Ok(Bound::Number(0)));
    // A number that every JSON parser holds exactly.
    check(
        r#"{"key":"requests_per_minute","rate":9007199254740991}"#,
        Ok(Bound::Number(NUMBER_MAX)),
    );
    check(r#"{"key":"requests_in_flight","max":8}"#, Ok(Bound::Number(8)));
    check(r#"{"key":"output_tokens","max":4096}"#, Ok(Bound::Number(4096)));
    check(r#"{"key":"holder","rank":"bearer","order":["bound","bearer"]}"#, Ok(Bound::Rank(1)));
    for wrong in [
        r#"{"key":"holder","rank":"bearer"}"#,
        r#"{"key":"holder","rank":"bearer","order":["bearer","bound"]}"#,
        r#"{"key":"holder","rank":"free","order":["bound","bearer"]}"#,
        r#"{"key":"output_tokens","max":1,"order":[]}"#,
    ] {
        check(wrong, Err(Code::ConstraintMalformed));
    }
}

#[test]
fn lists_have_at_most_so_many_entries_and_none_twice() {
    let list = |count: usize| {
        (0..count).map(|number| format!("\"m{number}\"")).collect::<Vec<_>>().join(",")
    };
    let read = |key: &str, list: &str| {
        read(&value(&format!(r#"{{"key":"{key}","one_of":[{list}]}}"#)), 64)
            .map(drop)
            .map_err(|refusal| refusal.code)
    };
    for key in ["model", "egress_host", "tool_type"] {
        assert_eq!(read(key, &list(64)), Ok(()));
        assert_eq!(read(key, &list(65)), Err(Code::TokenList));
        assert_eq!(read(key, r#""a","b","a""#), Err(Code::TokenList));
    }
}

#[test]
fn what_is_written_is_read_again() {
    for row in TABLE {
        let bound = match row.kind {
            ConstraintType::OneOf | ConstraintType::NotOneOf => Bound::Texts(names(&["a"])),
            ConstraintType::Prefix => Bound::Text("a".to_owned()),
            ConstraintType::Rate
            | ConstraintType::Max
            | ConstraintType::MaxLifetime
            | ConstraintType::MaxSubtree
            | ConstraintType::Min => Bound::Number(3),
            ConstraintType::Rank => Bound::Rank(1),
        };
        let written = Constraint { row, bound }.write();
        let read = parse(&written, 64).expect("a constraint");
        assert_eq!((read.row.key, read.row.kind, &read.write()), (row.key, row.kind, &written));
    }
}

#[test]
fn wrong_values_make_no_constraint() {
    let number = |key, number| {
        Constraint::new(key, ConstraintType::Rate, Value::from_u64(number))
            .map_err(|refusal| refusal.code)
    };
    assert!(number("requests_per_minute", NUMBER_MAX).is_ok());
    assert_eq!(number("requests_per_minute", 1 << 53).err(), Some(Code::ConstraintMalformed));
    assert_eq!(number("requests", 1).err(), Some(Code::ConstraintNotEnforced));
    for (kind, value) in [
        (ConstraintType::OneOf, Value::Array(vec![Value::from_text("")])),
        (ConstraintType::Prefix, Value::from_text("")),
    ] {
        assert_eq!(
            Constraint::new("model", kind, value).err().map(|refusal| refusal.code),
            Some(Code::ConstraintMalformed)
        );
    }
}

#[track_caller]
fn narrower(child: &str, parent: &str, expect: bool) {
    let (child, parent) =
        (parse(&value(child), 64).expect("child"), parse(&value(parent), 64).expect("parent"));
    assert_eq!(child.narrows(&parent), expect);
}

#[test]
fn narrower_is_by_type() {
    let list = |names: &str| format!(r#"{{"key":"model","one_of":[{names}]}}"#);
    narrower(&list(r#""a""#), &list(r#""a","b""#), true);
    narrower(&list(r#""a","c""#), &list(r#""a","b""#), false);
    let prefix = |text: &str| format!(r#"{{"key":"model","prefix":"{text}"}}"#);
    narrower(&prefix("llama-3"), &prefix("llama"), true);
    narrower(&prefix("llama"), &prefix("llama-3"), false);
    narrower(&list(r#""llama-3""#), &prefix("llama"), false);
    let number =
        |key: &str, kind: &str, number: u64| format!(r#"{{"key":"{key}","{kind}":{number}}}"#);
    for (key, kind) in [
        ("tokens_per_day", "rate"),
        ("output_tokens", "max"),
        ("tokens", "max_lifetime"),
        ("tokens", "max_subtree"),
    ] {
        narrower(&number(key, kind, 3), &number(key, kind, 3), true);
        narrower(&number(key, kind, 4), &number(key, kind, 3), false);
    }
    // The same key with another type is another row, so neither narrows the other.
    narrower(&number("tokens", "max_lifetime", 1), &number("tokens", "max_subtree", 2), false);
    narrower(&number("sovereignty", "min", 900), &number("sovereignty", "min", 800), true);
    narrower(&number("sovereignty", "min", 700), &number("sovereignty", "min", 800), false);
    let rank = |rank: &str| {
        format!(r#"{{"key":"egress","rank":"{rank}","order":["none","controlled","any"]}}"#)
    };
    narrower(&rank("none"), &rank("any"), true);
    narrower(&rank("any"), &rank("controlled"), false);
}

#[test]
fn no_pair_stands_twice() {
    for (place, row) in TABLE.iter().enumerate() {
        let twice = TABLE
            .iter()
            .skip(place + 1)
            .any(|other| other.key == row.key && other.kind == row.kind);
        assert!(!twice, "{} {}", row.key, row.kind.as_str());
    }
}

#[test]
fn every_pair_that_is_not_enforced_refuses() {
    for row in TABLE.iter().filter(|row| row.enforced().is_none()) {
        check(
            &format!(r#"{{"key":"{}","{}":1}}"#, row.key, row.kind.as_str()),
            Err(Code::ConstraintNotEnforced),
        );
    }
}
