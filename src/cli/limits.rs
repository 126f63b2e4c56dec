//! The options for a token's limits. `token issue` and `token delegate` use the same ones.

use clap::Args;

use super::Failure;
use crate::guard::egress::destination::{Destination, Scheme, UrlFault};
use crate::json::Value;
use crate::token::constraint::{Constraint, ConstraintType};

#[derive(Args, Default)]
pub(super) struct Allowed {
    /// A model that it may use. Repeatable. Default: the parent's, or all models of the namespace.
    #[arg(long = "model")]
    pub(super) models: Vec<String>,
    /// A scope (docs/TOKEN.md). Repeatable. Default: the parent's, or inference.* and models.read.
    #[arg(long = "scope")]
    pub(super) scopes: Vec<String>,
    /// Requests a minute.
    #[arg(long)]
    pub(super) rpm: Option<u64>,
    /// Requests a second.
    #[arg(long)]
    pub(super) rps: Option<u64>,
    /// Requests in flight at once.
    #[arg(long)]
    pub(super) in_flight: Option<u64>,
    /// Output tokens of an answer.
    #[arg(long)]
    pub(super) output_tokens: Option<u64>,
    /// Which of the operator's endpoints it may reach: none ("none") or all ("controlled", "any").
    /// It cannot add endpoints.
    #[arg(long, value_name = "RANK", value_parser = ["none", "controlled", "any"])]
    pub(super) egress: Option<String>,
    /// A host of the operator's lists that it may reach. Repeatable.
    #[arg(long = "egress-host", value_name = "HOST", value_parser = host)]
    pub(super) egress_hosts: Vec<String>,
    /// A type of tools that its requests may have, such as function or custom. Repeatable.
    #[arg(long = "tool-type", value_name = "TYPE")]
    pub(super) tool_types: Vec<String>,
}

/// Reads a host in the form in which it is compared with destinations.
fn host(text: &str) -> Result<String, UrlFault> {
    let read = Destination::read_authority(Scheme::Https, text)?;
    // A constraint names a host without a port, so a text with a port is refused.
    if read.port == Scheme::Https.port() && !text.ends_with(":443") {
        Ok(read.host.to_string())
    } else {
        Err(UrlFault::Host)
    }
}

/// A JSON list of texts. `None` if there are none.
fn list(texts: &[String]) -> Option<Value<'static>> {
    if texts.is_empty() {
        return None;
    }
    Some(Value::Array(texts.iter().map(|text| Value::from_text(text.clone())).collect()))
}

/// Adds a constraint. Without a value, none is added: the option was not given.
///
/// # Errors
/// If the value is not valid for the constraint.
fn add(
    limits: &mut Vec<Constraint>,
    key: &str,
    kind: ConstraintType,
    value: Option<Value<'static>>,
) -> Result<(), Failure> {
    if let Some(value) = value {
        let made = Constraint::new(key, kind, value);
        limits.push(made.map_err(|refusal| format!("{key}: {}", refusal.message))?);
    }
    Ok(())
}

impl Allowed {
    /// The constraints of these options.
    ///
    /// # Errors
    /// If a value is not valid for its constraint.
    pub(super) fn limits(&self) -> Result<Vec<Constraint>, Failure> {
        use ConstraintType::{Max, OneOf, Rank, Rate};
        let mut limits = Vec::new();
        add(&mut limits, "model", OneOf, list(&self.models))?;
        add(&mut limits, "requests_per_minute", Rate, self.rpm.map(Value::from_u64))?;
        add(&mut limits, "requests_per_second", Rate, self.rps.map(Value::from_u64))?;
        add(&mut limits, "requests_in_flight", Max, self.in_flight.map(Value::from_u64))?;
        add(&mut limits, "output_tokens", Max, self.output_tokens.map(Value::from_u64))?;
        add(&mut limits, "egress_host", OneOf, list(&self.egress_hosts))?;
        add(&mut limits, "tool_type", OneOf, list(&self.tool_types))?;
        add(&mut limits, "egress", Rank, self.egress.clone().map(Value::from_text))?;
        Ok(limits)
    }
}
