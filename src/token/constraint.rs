//! The closed table of constraints: a pair of key and type that is not in it, or that this build does not hold, refuses the
//! token. docs/TOKEN.md shows the same table; a test keeps it so.

use crate::json::{Object, Value};
use crate::refusal::{Code, Refusal};

/// One row: a key, a type, its unit, and whether this build enforces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The constraint's key.
    pub key: &'static str,
    /// The member that carries its value.
    pub kind: Kind,
    /// What the value counts.
    pub unit: &'static str,
    /// Where it is held; empty where this build does not.
    pub enforced: &'static str,
}

/// The types of constraints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One of these texts.
    OneOf,
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
    pub const ALL: [Self; 8] = [Self::OneOf, Self::Prefix, Self::Rate, Self::Max, Self::MaxLifetime, Self::MaxSubtree, Self::Min, Self::Rank];

    /// The member's name in a constraint object.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OneOf => "one_of",
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

const fn row(key: &'static str, kind: Kind, unit: &'static str, enforced: &'static str) -> Row {
    Row { key, kind, unit, enforced }
}

/// The table.
pub const TABLE: &[Row] = &[
    row("model", Kind::OneOf, "model names", "guard/understand"),
    row("model", Kind::Prefix, "beginning of a model name", "guard/understand"),
    row("requests_per_second", Kind::Rate, "requests a second", "guard/pace"),
    row("requests_per_minute", Kind::Rate, "requests a minute", "guard/pace"),
    row("requests_in_flight", Kind::Max, "requests at once", "guard/admit"),
    row("output_tokens", Kind::Max, "tokens an answer", "guard/admit"),
    row("tokens_per_minute", Kind::Rate, "tokens a minute", ""),
    row("tokens_per_hour", Kind::Rate, "tokens an hour", ""),
    row("tokens_per_day", Kind::Rate, "tokens a day", ""),
    row("tokens", Kind::MaxLifetime, "tokens", ""),
    row("tokens", Kind::MaxSubtree, "tokens", ""),
    row("spend_micros", Kind::MaxLifetime, "millionths of the account's currency", ""),
    row("spend_micros", Kind::MaxSubtree, "millionths of the account's currency", ""),
    row("egress", Kind::Rank, "none, controlled, any", ""),
    row("egress_host", Kind::OneOf, "exact hosts", ""),
    row("tool_type", Kind::OneOf, "tool types", ""),
    row("mcp_tool", Kind::OneOf, "server/tool", ""),
    row("sovereignty", Kind::Min, "thousandths", ""),
    row("jurisdiction", Kind::OneOf, "jurisdictions", ""),
    row("holder", Kind::Rank, "bound, bearer", ""),
    row("account", Kind::OneOf, "account names", ""),
];

/// Largest number in a constraint: 2^53 − 1, which every JSON reader holds exactly (RFC 7493 section 2.2).
pub const NUMBER_MAX: u64 = (1 << 53) - 1;

/// A constraint's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Of `rate`, `max`.
    Number(u64),
    /// Of `one_of`.
    Texts(Vec<String>),
    /// Of `prefix`.
    Text(String),
}

/// Reads one constraint object that this build enforces.
///
/// # Errors
/// `constraint-malformed` or `constraint-not-enforced`.
pub fn read(constraint: &Value<'_>) -> Result<(Row, Amount), Refusal> {
    let malformed = |why: String| Refusal::new(Code::ConstraintMalformed).because(why);
    let object = constraint.as_object().ok_or_else(|| malformed("not an object".to_owned()))?;
    let key = object.get("key").and_then(Value::as_str).ok_or_else(|| malformed("no key".to_owned()))?;
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| object.get(kind.as_str()).is_some()).collect();
    let named: String = key.chars().take(80).collect();
    let not_enforced = || {
        let says = format!("The token's constraint on {named:?} is not one that this build can hold, so the token is refused.");
        Refusal::new(Code::ConstraintNotEnforced).saying(says)
    };
    let kind = match *kinds {
        [kind] => kind,
        [] => return Err(not_enforced()),
        _ => return Err(malformed(format!("{named:?} has two types"))),
    };
    let row = TABLE.iter().find(|row| row.key == key && row.kind == kind).filter(|row| !row.enforced.is_empty());
    let row = *row.ok_or_else(not_enforced)?;
    if object.len() != 2 {
        return Err(malformed(format!("{named:?} has a member too many")));
    }
    amount(object, kind).map(|amount| (row, amount)).ok_or_else(|| malformed(format!("the value of {named:?}")))
}

fn amount(object: &Object<'_>, kind: Kind) -> Option<Amount> {
    let value = object.get(kind.as_str())?;
    match kind {
        Kind::Rate | Kind::Max | Kind::MaxLifetime | Kind::MaxSubtree | Kind::Min => {
            value.as_u64().filter(|number| *number <= NUMBER_MAX).map(Amount::Number)
        }
        Kind::OneOf => {
            let texts: Option<Vec<String>> = value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect();
            texts.filter(|texts| !texts.is_empty()).map(Amount::Texts)
        }
        Kind::Prefix => value.as_str().filter(|text| !text.is_empty()).map(|text| Amount::Text(text.to_owned())),
        Kind::Rank => None,
    }
}
