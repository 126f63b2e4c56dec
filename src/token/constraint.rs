//! The closed table of constraints. A pair of key and type outside the table refuses the token, and
//! so does a pair that this build does not enforce. docs/TOKEN.md shows the same table. A test
//! compares the two.

use crate::json::{Object, Value};
use crate::refusal::{Code, Refusal};
use crate::token::names::{ListFault, Names};
use crate::token::quoted;

/// One row: a pair of key and type, its unit, and the step that enforces it.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The constraint's key.
    pub key: &'static str,
    /// The member that carries its value.
    pub kind: ConstraintType,
    /// The unit of the value, or what it names. For ranks: the order, lowest first.
    pub unit: &'static str,
    /// The step that enforces it.
    place: Option<&'static str>,
}

impl Row {
    /// The step that enforces the constraint; `None` where this build does not enforce it and
    /// therefore refuses it.
    #[must_use]
    pub const fn enforced(&self) -> Option<&'static str> {
        self.place
    }

    /// The ranks of the row's order, lowest first.
    fn order(&self) -> impl Iterator<Item = &'static str> {
        self.unit.split(", ")
    }
}

/// The value of a constraint, by its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// `one_of`, `not_one_of`.
    Texts(Names),
    /// `prefix`.
    Text(String),
    /// `rate`, `max`, `max_lifetime`, `max_subtree`, `min`.
    Number(u64),
    /// `rank`: the index in the row's order.
    Rank(usize),
}

/// A constraint of a token: a row of the table and a value.
#[derive(Clone, Debug)]
pub struct Constraint {
    pub(super) row: &'static Row,
    pub(super) bound: Bound,
}

impl Constraint {
    /// A constraint on `key` of the type `kind`, as a token has it. A rank has the row's order.
    ///
    /// # Errors
    /// `constraint-malformed`, or `constraint-not-enforced` where the table does not have the pair.
    pub fn new(key: &str, kind: ConstraintType, value: Value<'static>) -> Result<Self, Refusal> {
        let Some(row) = TABLE.iter().find(|row| row.key == key && row.kind == kind) else {
            return Err(not_enforced(key, kind.as_str()));
        };
        // The longest list is the issuer's setting. It is checked when the token is signed.
        let bound = Bound::read(row, &value, usize::MAX)?;
        Ok(Self { row, bound })
    }

    /// The constraint that lets children have no key: `holder` with rank `bearer`.
    ///
    /// # Errors
    /// `constraint-not-enforced`, if the table had no such row.
    pub fn bearer_children() -> Result<Self, Refusal> {
        Self::new("holder", ConstraintType::Rank, Value::from_text("bearer"))
    }

    /// True where both are on one row. Only then can one be narrower than the other.
    #[must_use]
    pub fn same_row(&self, other: &Self) -> bool {
        self.row.key == other.row.key && self.row.kind == other.row.kind
    }

    /// True where `parent` allows everything that this constraint allows.
    #[must_use]
    pub fn narrows(&self, parent: &Self) -> bool {
        self.same_row(parent)
            && match (&self.bound, &parent.bound) {
                (Bound::Texts(own), Bound::Texts(theirs))
                    // An exclusion list is narrower when it excludes more.
                    if self.row.kind == ConstraintType::NotOneOf =>
                {
                    theirs.within(own)
                }
                (Bound::Texts(own), Bound::Texts(theirs)) => own.within(theirs),
                (Bound::Text(own), Bound::Text(theirs)) => own.starts_with(theirs.as_str()),
                (Bound::Number(own), Bound::Number(theirs))
                    // A minimum is narrower when it is higher.
                    if self.row.kind == ConstraintType::Min =>
                {
                    own >= theirs
                }
                (Bound::Number(own), Bound::Number(theirs)) => own <= theirs,
                (Bound::Rank(own), Bound::Rank(theirs)) => own <= theirs,
                // Values of different forms cannot be compared, so the child counts as wider.
                (Bound::Texts(_) | Bound::Text(_) | Bound::Number(_) | Bound::Rank(_), _) => false,
            }
    }

    /// The constraint as a token carries it.
    #[must_use]
    pub fn write(&self) -> Value<'static> {
        let mut object = Object::new();
        object.set("key", Value::from_text(self.row.key));
        let value = match &self.bound {
            Bound::Texts(texts) => {
                Value::Array(texts.iter().map(|text| Value::from_text(text.to_owned())).collect())
            }
            Bound::Text(text) => Value::from_text(text.clone()),
            Bound::Number(number) => Value::from_u64(*number),
            Bound::Rank(rank) => Value::from_text(self.row.order().nth(*rank).unwrap_or_default()),
        };
        object.set(self.row.kind.as_str(), value);
        if self.row.kind == ConstraintType::Rank {
            object.set("order", Value::Array(self.row.order().map(Value::from_text).collect()));
        }
        Value::Object(object)
    }
}

/// The types of constraints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConstraintType {
    /// One of these texts.
    OneOf,
    /// None of these texts.
    NotOneOf,
    /// Texts with this beginning.
    Prefix,
    /// At most this number in a period.
    Rate,
    /// At most.
    Max,
    /// At most this number in the token's lifetime.
    MaxLifetime,
    /// At most this number for a token and all tokens below it.
    MaxSubtree,
    /// At least.
    Min,
    /// At most this rank in an order.
    Rank,
}

impl ConstraintType {
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

/// A row that this build does not enforce yet.
const fn later(key: &'static str, kind: ConstraintType, unit: &'static str) -> Row {
    Row { key, kind, unit, place: None }
}

/// A row that the step `place` enforces.
const fn now(
    key: &'static str,
    kind: ConstraintType,
    unit: &'static str,
    place: &'static str,
) -> Row {
    Row { key, kind, unit, place: Some(place) }
}

/// The table of all constraints.
pub static TABLE: &[Row] = &[
    now("model", ConstraintType::OneOf, "model names", "guard/understand"),
    now("model", ConstraintType::Prefix, "beginning of a model name", "guard/understand"),
    now("requests_per_second", ConstraintType::Rate, "requests a second", "guard/pace"),
    now("requests_per_minute", ConstraintType::Rate, "requests a minute", "guard/pace"),
    now("requests_in_flight", ConstraintType::Max, "requests at once", "guard/pace"),
    now(
        "output_tokens",
        ConstraintType::Max,
        "tokens an answer, all its choices together",
        "guard/cap",
    ),
    later("tokens_per_minute", ConstraintType::Rate, "tokens a minute"),
    later("tokens_per_hour", ConstraintType::Rate, "tokens an hour"),
    later("tokens_per_day", ConstraintType::Rate, "tokens a day"),
    later("tokens", ConstraintType::MaxLifetime, "tokens"),
    later("tokens", ConstraintType::MaxSubtree, "tokens"),
    later("spend_micros", ConstraintType::MaxLifetime, "millionths of the account's currency"),
    later("spend_micros", ConstraintType::MaxSubtree, "millionths of the account's currency"),
    now("egress", ConstraintType::Rank, "none, controlled, any", "guard/egress"),
    now("egress_host", ConstraintType::OneOf, "exact hosts", "guard/egress"),
    now("tool_type", ConstraintType::OneOf, "tool types", "guard/egress"),
    later("mcp_tool", ConstraintType::OneOf, "server/tool"),
    later("sovereignty", ConstraintType::Min, "thousandths"),
    later("jurisdiction", ConstraintType::OneOf, "jurisdictions"),
    now("holder", ConstraintType::Rank, "bound, bearer", "token/chain"),
    later("account", ConstraintType::OneOf, "account names"),
];

/// The largest number in a constraint: 2^53 − 1, which every JSON parser holds exactly (RFC 7493
/// section 2.2).
pub const NUMBER_MAX: u64 = (1 << 53) - 1;

/// The longest model name or prefix, in bytes.
pub const NAME_MAX: usize = 256;

/// A number up to [`NUMBER_MAX`].
fn number(value: &Value<'_>) -> Option<u64> {
    let number = value.as_u64()?;
    if number <= NUMBER_MAX { Some(number) } else { None }
}

/// A text of 1 to [`NAME_MAX`] bytes.
fn text<'v>(value: &'v Value<'_>) -> Option<&'v str> {
    let text = value.as_str()?;
    if (1..=NAME_MAX).contains(&text.len()) { Some(text) } else { None }
}

/// A list of such texts with at least one entry.
fn texts<'v>(value: &'v Value<'_>) -> Option<Vec<&'v str>> {
    let items = value.as_array()?;
    if items.is_empty() {
        return None;
    }
    items.iter().map(text).collect()
}

impl Bound {
    /// Parses the value of a constraint. A list has at most `list_max` entries.
    fn read(row: &Row, value: &Value<'_>, list_max: usize) -> Result<Self, Refusal> {
        let bound = match row.kind {
            ConstraintType::OneOf | ConstraintType::NotOneOf => {
                let Some(texts) = texts(value) else { return Err(wrong_value(row)) };
                let names = Names::read(&texts, list_max).map_err(|fault| {
                    let what = format!("the {} of {}", row.kind.as_str(), row.key);
                    wrong_list(&what, fault, list_max)
                })?;
                Some(Self::Texts(names))
            }
            ConstraintType::Prefix => text(value).map(|text| Self::Text(text.to_owned())),
            ConstraintType::Rate
            | ConstraintType::Max
            | ConstraintType::MaxLifetime
            | ConstraintType::MaxSubtree
            | ConstraintType::Min => number(value).map(Self::Number),
            ConstraintType::Rank => rank(row, value).map(Self::Rank),
        };
        bound.ok_or_else(|| wrong_value(row))
    }
}

/// The index of a rank in the row's order.
fn rank(row: &Row, value: &Value<'_>) -> Option<usize> {
    let name = value.as_str()?;
    row.order().position(|known| known == name)
}

/// A `constraint-malformed` refusal.
fn malformed(why: String) -> Refusal {
    Refusal::new(Code::ConstraintMalformed).because(why)
}

/// The refusal of a list of a token. The list is named `what`; it is too long or has an entry
/// twice.
pub(super) fn wrong_list(what: &str, fault: ListFault, list_max: usize) -> Refusal {
    let says = match fault {
        ListFault::TooLong => {
            format!("A list of the token, {what}, has more than {list_max} entries; name fewer.")
        }
        ListFault::Twice => {
            format!("A list of the token, {what}, has an entry twice; name each once.")
        }
    };
    Refusal::new(Code::TokenList).saying(says)
}

/// Parses one constraint object: exactly `key` and one type, and for a rank the row's `order`. A
/// list has at most `list_max` entries.
///
/// # Errors
/// `constraint-malformed`, `token-list`, or `constraint-not-enforced` where the table does not have
/// the pair.
pub fn parse(constraint: &Value<'_>, list_max: usize) -> Result<Constraint, Refusal> {
    let Some(object) = constraint.as_object() else {
        return Err(malformed("a constraint is not an object".to_owned()));
    };
    let Some(key) = object.text("key") else {
        return Err(malformed("a constraint has no key".to_owned()));
    };
    // Only a rank has a third member, its order.
    let ranked = object.get(ConstraintType::Rank.as_str()).is_some();
    let mut types =
        object.iter().filter(|(name, _)| *name != "key" && !(ranked && *name == "order"));
    let (Some((kind, value)), None) = (types.next(), types.next()) else {
        return Err(malformed(format!(
            "the constraint on {} has not exactly one type",
            quoted(key)
        )));
    };
    // An unknown pair refuses the token. To ignore it would remove a limit that the signer wanted.
    let Some(row) = TABLE.iter().find(|row| row.key == key && row.kind.as_str() == kind) else {
        return Err(not_enforced(key, kind));
    };
    // The order is part of the signed statement. A token with another order would mean other ranks.
    if ranked && order_of(object) != row.unit {
        return Err(malformed(format!("the order of {key} is not [{}]", row.unit)));
    }
    let bound = Bound::read(row, value, list_max)?;
    Ok(Constraint { row, bound })
}

/// The `order` of a constraint, as the table writes it; empty if it is no array.
fn order_of(constraint: &Object<'_>) -> String {
    let Some(items) = constraint.array("order") else { return String::new() };
    let names: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
    names.join(", ")
}

/// Parses one constraint that this build enforces.
///
/// # Errors
/// `constraint-malformed`, `token-list` or `constraint-not-enforced`.
pub(super) fn read(constraint: &Value<'_>, list_max: usize) -> Result<Constraint, Refusal> {
    // Checked before the value, so that a token for a later version gets `constraint-not-enforced`
    // and not `constraint-malformed`.
    if let Some(object) = constraint.as_object()
        && let Some(key) = object.text("key")
    {
        for row in TABLE {
            let kind = row.kind.as_str();
            if row.place.is_none() && row.key == key && object.get(kind).is_some() {
                return Err(not_enforced(row.key, kind));
            }
        }
    }
    parse(constraint, list_max)
}

/// The refusal of a value that its row does not allow.
fn wrong_value(row: &Row) -> Refusal {
    malformed(format!("the {} of {} has a wrong value", row.kind.as_str(), row.key))
}

/// The refusal of a pair that this build does not enforce.
pub(super) fn not_enforced(key: &str, kind: &str) -> Refusal {
    let pair = format!("{} with {}", quoted(key), quoted(kind));
    let says = format!(
        "This build cannot hold the token's constraint {pair}, so it refuses the token rather than \
            drop the limit."
    );
    Refusal::new(Code::ConstraintNotEnforced).saying(says)
}

/// The table as Markdown. docs/TOKEN.md contains this text.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from("| key | type | unit | enforced |\n| --- | --- | --- | --- |\n");
    for row in TABLE {
        let held = match row.enforced() {
            Some(place) => format!("`{place}`"),
            None => "not yet: the token is refused".to_owned(),
        };
        text.push_str(&format!(
            "| `{}` | `{}` | {} | {held} |\n",
            row.key,
            row.kind.as_str(),
            row.unit
        ));
    }
    text
}

#[cfg(test)]
mod tests;
