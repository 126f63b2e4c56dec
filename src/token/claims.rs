//! The claims of a token's payload, with every type checked.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::clock::Timestamp;
use crate::id::{AgentName, KeyId, Principal};
use crate::json::{self, Object, Value};
use crate::refusal::{Code, Refusal};
use crate::token::constraint::{self, Bound, Constraint, ConstraintType, wrong_list};
use crate::token::jwk::Jwk;
use crate::token::names::{Names, heap};
use crate::token::{DETAIL_TYPE, Scopes, quoted};

/// The models that a token may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelGrant {
    /// Only these names.
    one_of: Option<Names>,
    /// Only names with this beginning. With both, a name must fulfil both.
    prefix: Option<String>,
}

impl ModelGrant {
    /// True where the model named `name` may be used.
    #[must_use]
    pub fn allows(&self, name: &str) -> bool {
        if let Some(models) = &self.one_of
            && !models.contains(name)
        {
            return false;
        }
        match &self.prefix {
            Some(prefix) => name.starts_with(prefix.as_str()),
            None => true,
        }
    }
}

impl Grants {
    /// The additional memory of the limits, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let mut bytes = 0;
        let lists = [&self.models.one_of, &self.egress_hosts, &self.tool_types];
        for names in lists.into_iter().flatten() {
            bytes += names.bytes();
        }
        if let Some(prefix) = &self.models.prefix {
            bytes += heap(prefix.capacity());
        }
        bytes
    }
}

/// The limits that a token sets. `None` means that the token does not set it (the agent's class
/// still does).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// Models.
    pub models: ModelGrant,
    /// Requests a second.
    pub rps: Option<u64>,
    /// Requests a minute.
    pub rpm: Option<u64>,
    /// Requests in flight.
    pub in_flight: Option<u64>,
    /// Output tokens of an answer.
    pub output_tokens: Option<u64>,
    /// No destination (`egress` with rank `none`). The other ranks leave the operator's lists
    /// unchanged, because a token widens no list.
    pub no_egress: bool,
    /// Only these hosts, in canonical form.
    pub egress_hosts: Option<Names>,
    /// Only tools of these types.
    pub tool_types: Option<Names>,
    /// Children may have no key.
    pub bearer_children: bool,
}

/// The claims of one token.
pub(super) struct Claims {
    /// `iss`.
    pub(super) iss: String,
    /// `aud`, as a set.
    pub(super) aud: Names,
    /// `sub`.
    pub(super) principal: Principal,
    /// `client_id`.
    pub(super) agent: AgentName,
    /// `iat`, in seconds since 1970.
    pub(super) issued: i64,
    /// `exp`, in seconds since 1970.
    pub(super) expires: i64,
    /// `nbf`, in seconds since 1970.
    pub(super) not_before: Option<i64>,
    /// `jti`, a label.
    pub(super) jti: String,
    /// The number of tokens before this one in its chain.
    pub(super) depth: u64,
    /// The most tokens in its chain.
    pub(super) depth_max: u64,
    /// SHA-256 of the parent's ASCII `header.payload`; only in children.
    pub(super) parent: Option<[u8; 32]>,
    /// The key that may sign children (`cnf.jwk`, RFC 7800 section 3.2).
    pub(super) holder: Option<Jwk>,
    /// The scopes.
    pub(super) scopes: Scopes,
    /// The constraints, to compare a child with its parent.
    pub(super) constraints: Vec<Constraint>,
    /// The same constraints in the form that the guard uses.
    pub(super) grants: Grants,
}

/// A `token-claims` refusal.
fn fault(why: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::TokenClaims).because(why)
}

/// A claim that must be a string.
fn text<'v>(claims: &'v Object<'_>, name: &str) -> Result<&'v str, Refusal> {
    match claims.text(name) {
        Some(text) => Ok(text),
        None => Err(fault(format_args!("{name} is missing or not a string"))),
    }
}

/// A claim that must be present.
fn required<'v>(claims: &'v Object<'v>, name: &str) -> Result<&'v Value<'v>, Refusal> {
    match claims.get(name) {
        Some(value) => Ok(value),
        None => Err(fault(format_args!("{name} is missing"))),
    }
}

/// The latest accepted date, in seconds since 1970: 9999-12-30T22:00:00Z. RFC 3339 can write it in
/// every time zone. Records print these dates.
const DATE_MAX: u64 = 253_402_207_200;

/// A NumericDate (RFC 7519 section 2) as a whole number of seconds.
fn date(value: &Value<'_>, name: &str) -> Result<i64, Refusal> {
    // Fractions are refused: parsers would round them in different directions.
    if let Some(seconds) = value.as_u64()
        && seconds <= DATE_MAX
        && let Ok(seconds) = i64::try_from(seconds)
    {
        return Ok(seconds);
    }
    Err(fault(format_args!("{name} is not a whole number of seconds up to {DATE_MAX}")))
}

/// A whole number.
fn count(value: &Value<'_>, name: &str) -> Result<u64, Refusal> {
    match value.as_u64() {
        Some(number) => Ok(number),
        None => Err(fault(format_args!("{name} is not a whole number"))),
    }
}

impl Claims {
    /// Parses a payload whose lists have at most `list_max` entries each.
    pub(super) fn read(payload: &[u8], list_max: usize) -> Result<Self, Refusal> {
        let value = json::parse(payload, &json::Limits::deep(16)).map_err(fault)?;
        let Some(claims) = value.as_object() else { return Err(fault("not an object")) };
        let holder = match claims.get("cnf") {
            Some(value) => Some(confirmation(value)?),
            None => None,
        };
        let depth = count(required(claims, "del_depth")?, "del_depth")?;
        let depth_max = count(required(claims, "del_max_depth")?, "del_max_depth")?;
        let parent = match claims.get("par_hash") {
            Some(value) => Some(hash(value)?),
            None => None,
        };
        // A root token has no parent, and a child must be bound to its parent.
        if parent.is_some() != (depth > 0) {
            return Err(fault(
                "par_hash is required in children (del_depth above 0), and allowed only there",
            ));
        }
        if depth >= depth_max {
            return Err(
                Refusal::new(Code::ChainDepth).because("del_depth is not below del_max_depth")
            );
        }
        // A token without a holder's key can have no child.
        if depth == 0 && depth_max != 1 && holder.is_none() {
            return Err(fault("del_max_depth must be 1 without cnf.jwk"));
        }
        let agent: AgentName = text(claims, "client_id")?.parse().map_err(fault)?;
        // Further segments name delegated agents, which only a chain can have.
        if depth == 0 && agent.lineage().count() != 1 {
            return Err(fault("client_id of a root token is namespace/name"));
        }
        let jti = text(claims, "jti")?;
        // Bounded and visible, because records, log lines and terminals print it.
        if jti.is_empty() || jti.len() > 128 || !jti.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(fault("jti is not 1 to 128 visible ASCII characters"));
        }
        let (scopes, constraints) =
            read_details(required(claims, "authorization_details")?, list_max)?;
        let grants = granted(&constraints)?;
        Ok(Self {
            iss: text(claims, "iss")?.to_owned(),
            aud: audience(required(claims, "aud")?, list_max)?,
            principal: text(claims, "sub")?.parse().map_err(fault)?,
            agent,
            issued: date(required(claims, "iat")?, "iat")?,
            expires: date(required(claims, "exp")?, "exp")?,
            not_before: match claims.get("nbf") {
                Some(value) => Some(date(value, "nbf")?),
                None => None,
            },
            jti: jti.to_owned(),
            depth,
            depth_max,
            parent,
            holder,
            scopes,
            constraints,
            grants,
        })
    }

    /// `iat` as a time.
    pub(super) const fn issued_at(&self) -> Timestamp {
        Timestamp(self.issued.saturating_mul(1000))
    }

    /// When it becomes valid, in seconds since 1970: the later of `iat` and `nbf`.
    pub(super) fn begins(&self) -> i64 {
        match self.not_before {
            Some(not_before) => self.issued.max(not_before),
            // Without `nbf`, a token is valid from `iat` on.
            None => self.issued,
        }
    }

    /// The thumbprint of the key that may sign children.
    pub(super) fn holder_id(&self) -> Option<KeyId> {
        Some(self.holder.as_ref()?.id())
    }

    /// The number of entries in its longest list.
    pub(super) fn longest_list(&self) -> usize {
        let mut longest = self.aud.len();
        for constraint in &self.constraints {
            if let Bound::Texts(texts) = &constraint.bound {
                longest = longest.max(texts.len());
            }
        }
        longest
    }
}

/// The key in `cnf`, whose only member must be `jwk`. Other proofs are not supported yet.
fn confirmation(value: &Value<'_>) -> Result<Jwk, Refusal> {
    let Some(object) = value.as_object() else { return Err(fault("cnf is not an object")) };
    let mut members = object.iter();
    match (members.next(), members.next()) {
        (Some(("jwk", key)), None) => {
            Jwk::read(key).map_err(|why| fault(format_args!("cnf.jwk: {why}")))
        }
        // DPoP (RFC 9449) and mutual TLS (RFC 8705). To ignore them would turn a bound token into a
        // bearer token.
        (Some(("jkt" | "x5t#S256", _)), None) => Err(Code::ProofNotSupported.into()),
        _ => Err(fault("cnf has not exactly one member, jwk")),
    }
}

/// SHA-256 in base64url, without padding.
fn hash(value: &Value<'_>) -> Result<[u8; 32], Refusal> {
    if let Some(text) = value.as_str()
        && let Ok(bytes) = URL_SAFE_NO_PAD.decode(text)
        && let Ok(hash) = bytes.try_into()
    {
        return Ok(hash);
    }
    Err(fault("par_hash is not the base64url of 32 bytes"))
}

/// A string, or a non-empty array of strings (RFC 7519 section 4.1.3).
fn audience(value: &Value<'_>, list_max: usize) -> Result<Names, Refusal> {
    let names: Option<Vec<&str>> = match (value.as_str(), value.as_array()) {
        (Some(one), _) => Some(vec![one]),
        (None, Some(many)) if !many.is_empty() => many.iter().map(Value::as_str).collect(),
        (None, _) => None,
    };
    let names =
        names.ok_or_else(|| fault("aud is not a string or a non-empty array of strings"))?;
    Names::read(&names, list_max).map_err(|fault| wrong_list("aud", fault, list_max))
}

/// The set of scopes; every name must be in the table.
fn read_scopes(value: Option<&Value<'_>>, list_max: usize) -> Result<Scopes, Refusal> {
    let Some(Value::Array(names)) = value else { return Err(fault("scopes is not an array")) };
    let mut scopes = Scopes::default();
    let mut listed = Vec::with_capacity(names.len().min(list_max));
    for name in names {
        let Some(name) = name.as_str() else { return Err(fault("a scope is not a string")) };
        if !scopes.add(name) {
            return Err(Refusal::new(Code::ScopeUnknown).because(quoted(name)));
        }
        listed.push(name);
    }
    // Checked after the loop, so that an unknown scope is reported first.
    Names::read(&listed, list_max).map_err(|fault| wrong_list("scopes", fault, list_max))?;
    Ok(scopes)
}

/// Scopes and constraints from `authorization_details` (RFC 9396), which must have exactly one
/// entry.
fn read_details(
    details: &Value<'_>,
    list_max: usize,
) -> Result<(Scopes, Vec<Constraint>), Refusal> {
    let Some([detail]) = details.as_array() else {
        return Err(fault("authorization_details is not an array of one entry"));
    };
    let Some(detail) = detail.as_object() else {
        return Err(fault("authorization_details[0] is not an object"));
    };
    // An unknown member could be a limit that this build would not enforce.
    if let Some((name, _)) =
        detail.iter().find(|(name, _)| !matches!(*name, "type" | "scopes" | "constraints"))
    {
        return Err(fault(format_args!(
            "authorization_details[0] has the member {}",
            quoted(name)
        )));
    }
    if text(detail, "type")? != DETAIL_TYPE {
        return Err(fault("authorization_details[0].type is not agent_delegation"));
    }
    let scopes = read_scopes(detail.get("scopes"), list_max)?;
    let Some(constraints) = detail.array("constraints") else {
        return Err(fault("constraints is not an array"));
    };
    Ok((scopes, read_constraints(constraints, list_max)?))
}

/// The constraints; no pair of key and type may occur twice.
fn read_constraints(values: &[Value<'_>], list_max: usize) -> Result<Vec<Constraint>, Refusal> {
    let mut constraints: Vec<Constraint> =
        Vec::with_capacity(values.len().min(constraint::TABLE.len()));
    for value in values {
        let constraint = constraint::read(value, list_max)?;
        // With two values for one limit, parsers could differ in which one applies.
        if constraints.iter().any(|other| other.same_row(&constraint)) {
            return Err(Refusal::new(Code::ConstraintMalformed)
                .because("two constraints of one key and type"));
        }
        constraints.push(constraint);
    }
    Ok(constraints)
}

/// The constraints in the form that the steps of the guard need.
///
/// `constraint-not-enforced` for a row without an arm here: the gateway would ignore the limit.
fn granted(constraints: &[Constraint]) -> Result<Grants, Refusal> {
    use ConstraintType as Type;
    let mut grants = Grants::default();
    for Constraint { row, bound } in constraints {
        match (row.key, row.kind, bound) {
            ("model", Type::OneOf, Bound::Texts(models)) => {
                grants.models.one_of = Some(models.clone());
            }
            ("model", Type::Prefix, Bound::Text(prefix)) => {
                grants.models.prefix = Some(prefix.clone());
            }
            ("requests_per_second", Type::Rate, Bound::Number(rate)) => grants.rps = Some(*rate),
            ("requests_per_minute", Type::Rate, Bound::Number(rate)) => grants.rpm = Some(*rate),
            ("requests_in_flight", Type::Max, Bound::Number(max)) => grants.in_flight = Some(*max),
            ("output_tokens", Type::Max, Bound::Number(max)) => grants.output_tokens = Some(*max),
            // Only rank `none` changes anything: a token cannot allow more than the operator's
            // lists.
            ("egress", Type::Rank, Bound::Rank(rank)) => grants.no_egress = *rank == 0,
            ("egress_host", Type::OneOf, Bound::Texts(hosts)) => {
                grants.egress_hosts = Some(hosts.clone());
            }
            ("tool_type", Type::OneOf, Bound::Texts(types)) => {
                grants.tool_types = Some(types.clone());
            }
            ("holder", Type::Rank, Bound::Rank(rank)) => grants.bearer_children = *rank > 0,
            _ => return Err(constraint::not_enforced(row.key, row.kind.as_str())),
        }
    }
    Ok(grants)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the guard gets of one row, with a value of the row's form.
    fn of_row(row: &'static constraint::Row) -> Result<Grants, Refusal> {
        let bound = match row.kind {
            ConstraintType::OneOf | ConstraintType::NotOneOf => {
                Bound::Texts(Names::read(&["m"], 1).expect("one name"))
            }
            ConstraintType::Prefix => Bound::Text("m".to_owned()),
            ConstraintType::Rank => Bound::Rank(0),
            ConstraintType::Rate
            | ConstraintType::Max
            | ConstraintType::MaxLifetime
            | ConstraintType::MaxSubtree
            | ConstraintType::Min => Bound::Number(1),
        };
        granted(&[Constraint { row, bound }])
    }

    #[test]
    fn exactly_the_enforced_rows_reach_the_guard() {
        for row in constraint::TABLE {
            let code = of_row(row).err().map(|refusal| refusal.code);
            let expected = match row.enforced() {
                Some(_) => None,
                None => Some(Code::ConstraintNotEnforced),
            };
            assert_eq!(code, expected, "{} {}", row.key, row.kind.as_str());
        }
    }
}
