//! The closed table of constraints: a pair of key and type that is not in it, or that this build does not hold, refuses the
//! token. docs/TOKEN.md shows the same table; a test keeps it so.

use crate::json::Value;
use crate::refusal::{Code, Refusal};
use crate::token::quoted;

/// One row: a pair of key and type, its unit, and where it is held.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The constraint's key.
    pub key: &'static str,
    /// The member that carries its value.
    pub kind: Kind,
    /// What the value counts or names.
    pub unit: &'static str,
    held: Held,
}

#[derive(Clone, Copy, Debug)]
enum Held {
    /// This build holds it at that place; the function reads its value.
    At(&'static str, fn(&Value<'_>) -> Option<Limit>),
    /// A later build will; the token is refused.
    Later,
}

impl Row {
    /// The step that holds the constraint; `None` where this build holds it nowhere and therefore refuses it.
    #[must_use]
    pub const fn enforced(&self) -> Option<&'static str> {
        match self.held {
            Held::At(place, _) => Some(place),
            Held::Later => None,
        }
    }
}

/// What a constraint that this build holds says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// Only these models.
    ModelOneOf(Vec<String>),
    /// Only models whose name begins so.
    ModelPrefix(String),
    /// Requests a second.
    RequestsPerSecond(u64),
    /// Requests a minute.
    RequestsPerMinute(u64),
    /// Requests at once.
    RequestsInFlight(u64),
    /// Tokens an answer.
    OutputTokens(u64),
}

/// The types of constraints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One of these texts.
    OneOf,
    /// None of these texts.
    NotOneOf,
    /// Texts that begin so.
    Prefix,
    /// At most so many a period.
    Rate,
    /// At most.
    Max,
    /// At most in a lifetime.
    MaxLifetime,
    /// At most for a token and everything below it.
    MaxSubtree,
    /// At least.
    Min,
    /// Not above a rank in an order.
    Rank,
}

impl Kind {
    /// Every type.
    pub const ALL: [Self; 9] = [
        Self::OneOf,
        Self::NotOneOf,
        Self::Prefix,
        Self::Rate,
        Self::Max,
        Self::MaxLifetime,
        Self::MaxSubtree,
        Self::Min,
        Self::Rank,
    ];

    /// The member's name in a constraint object.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OneOf => "one_of",
            Self::NotOneOf => "not_one_of",
            Self::Prefix => "prefix",
            Self::Rate => "rate",
            Self::Max => "max",
            Self::MaxLifetime => "max_lifetime",
            Self::MaxSubtree => "max_subtree",
            Self::Min => "min",
            Self::Rank => "rank",
        }
    }
}

const fn later(key: &'static str, kind: Kind, unit: &'static str) -> Row {
    Row { key, kind, unit, held: Held::Later }
}

const fn now(
    key: &'static str,
    kind: Kind,
    unit: &'static str,
    place: &'static str,
    read: fn(&Value<'_>) -> Option<Limit>,
) -> Row {
    Row { key, kind, unit, held: Held::At(place, read) }
}

/// The table.
pub static TABLE: &[Row] = &[
    now("model", Kind::OneOf, "model names", "guard/understand", |value| texts(value).map(Limit::ModelOneOf)),
    now("model", Kind::Prefix, "beginning of a model name", "guard/understand", |value| text(value).map(Limit::ModelPrefix)),
    now("requests_per_second", Kind::Rate, "requests a second", "guard/pace", |value| {
        number(value).map(Limit::RequestsPerSecond)
    }),
    now("requests_per_minute", Kind::Rate, "requests a minute", "guard/pace", |value| {
        number(value).map(Limit::RequestsPerMinute)
    }),
    now("requests_in_flight", Kind::Max, "requests at once", "guard/admit", |value| number(value).map(Limit::RequestsInFlight)),
    now("output_tokens", Kind::Max, "tokens an answer, all its choices together", "guard/admit", |value| {
        number(value).map(Limit::OutputTokens)
    }),
    later("tokens_per_minute", Kind::Rate, "tokens a minute"),
    later("tokens_per_hour", Kind::Rate, "tokens an hour"),
    later("tokens_per_day", Kind::Rate, "tokens a day"),
    later("tokens", Kind::MaxLifetime, "tokens"),
    later("tokens", Kind::MaxSubtree, "tokens"),
    later("spend_micros", Kind::MaxLifetime, "millionths of the account's currency"),
    later("spend_micros", Kind::MaxSubtree, "millionths of the account's currency"),
    later("egress", Kind::Rank, "none, controlled, any"),
    later("egress_host", Kind::OneOf, "exact hosts"),
    later("tool_type", Kind::OneOf, "tool types"),
    later("mcp_tool", Kind::OneOf, "server/tool"),
    later("sovereignty", Kind::Min, "thousandths"),
    later("jurisdiction", Kind::OneOf, "jurisdictions"),
    later("holder", Kind::Rank, "bound, bearer"),
    later("account", Kind::OneOf, "account names"),
];

/// Largest number in a constraint: 2^53 − 1, which every JSON reader holds exactly (RFC 7493 section 2.2).
pub const NUMBER_MAX: u64 = (1 << 53) - 1;

/// Longest model name or prefix, in bytes.
pub const NAME_MAX: usize = 256;

fn number(value: &Value<'_>) -> Option<u64> {
    value.as_u64().filter(|number| *number <= NUMBER_MAX)
}

fn text(value: &Value<'_>) -> Option<String> {
    value.as_str().filter(|text| (1..=NAME_MAX).contains(&text.len())).map(str::to_owned)
}

fn texts(value: &Value<'_>) -> Option<Vec<String>> {
    let texts: Option<Vec<String>> = value.as_array()?.iter().map(text).collect();
    texts.filter(|texts| !texts.is_empty())
}

/// Reads one constraint object: exactly `key` and one type, a pair of the table that this build holds.
///
/// # Errors
/// `constraint-malformed` or `constraint-not-enforced`.
pub(super) fn read(constraint: &Value<'_>) -> Result<Limit, Refusal> {
    let malformed = |why: String| Refusal::new(Code::ConstraintMalformed).because(why);
    let object = constraint.as_object().ok_or_else(|| malformed("a constraint is not an object".to_owned()))?;
    let key = object.get("key").and_then(Value::as_str).ok_or_else(|| malformed("a constraint has no key".to_owned()))?;
    let mut types = object.iter().filter(|(name, _)| *name != "key");
    let (Some((kind, value)), None) = (types.next(), types.next()) else {
        return Err(malformed(format!("the constraint on {} has not exactly one type", quoted(key))));
    };
    let row = TABLE.iter().find(|row| row.key == key && row.kind.as_str() == kind);
    match row.map(|row| row.held) {
        Some(Held::At(_, read)) => read(value).ok_or_else(|| malformed(format!("the {kind} of {key} has a wrong value"))),
        Some(Held::Later) | None => {
            let pair = format!("{} with {}", quoted(key), quoted(kind));
            let says = format!(
                "This build cannot hold the token's constraint {pair}, so it refuses the token rather than drop the limit."
            );
            Err(Refusal::new(Code::ConstraintNotEnforced).saying(says))
        }
    }
}

/// The table as Markdown: docs/TOKEN.md contains this text.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from("| key | type | unit | enforced |\n| --- | --- | --- | --- |\n");
    for row in TABLE {
        let held = row.enforced().map_or_else(|| "not yet: the token is refused".to_owned(), |place| format!("`{place}`"));
        text.push_str(&format!("| `{}` | `{}` | {} | {held} |\n", row.key, row.kind.as_str(), row.unit));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[track_caller]
    fn check(constraint: &str, expect: Result<Limit, Code>) {
        let value = json::parse(constraint.as_bytes(), &json::Limits::deep(8)).expect("JSON");
        assert_eq!(read(&value).map_err(|refusal| refusal.code), expect);
    }

    #[test]
    fn pairs_of_the_table_are_read() {
        check(r#"{"key":"model","one_of":["a","b"]}"#, Ok(Limit::ModelOneOf(vec!["a".to_owned(), "b".to_owned()])));
        check(r#"{"prefix":"llama-","key":"model"}"#, Ok(Limit::ModelPrefix("llama-".to_owned())));
        check(r#"{"key":"requests_per_second","rate":0}"#, Ok(Limit::RequestsPerSecond(0)));
        check(r#"{"key":"requests_per_minute","rate":9007199254740991}"#, Ok(Limit::RequestsPerMinute(NUMBER_MAX)));
        check(r#"{"key":"requests_in_flight","max":8}"#, Ok(Limit::RequestsInFlight(8)));
        check(r#"{"key":"output_tokens","max":4096}"#, Ok(Limit::OutputTokens(4096)));
    }

    #[test]
    fn no_pair_stands_twice() {
        for (place, row) in TABLE.iter().enumerate() {
            let twice = TABLE.iter().skip(place + 1).any(|other| other.key == row.key && other.kind == row.kind);
            assert!(!twice, "{} {}", row.key, row.kind.as_str());
        }
    }

    #[test]
    fn every_pair_that_is_not_enforced_refuses() {
        for row in TABLE.iter().filter(|row| row.enforced().is_none()) {
            check(&format!(r#"{{"key":"{}","{}":1}}"#, row.key, row.kind.as_str()), Err(Code::ConstraintNotEnforced));
        }
    }
}
