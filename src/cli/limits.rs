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
    let texts: Vec<Value<'static>> =
        texts.iter().map(|text| Value::from_text(text.clone())).collect();
    (!texts.is_empty()).then_some(Value::Array(texts))
}

impl Allowed {
    /// The constraints of these options.
    ///
    /// # Errors
    /// If a value is not valid for its constraint.
    pub(super) fn limits(&self) -> Result<Vec<Constraint>, Failure> {
        let numbers = [
            ("requests_per_minute", ConstraintType::Rate, self.rpm),
            ("requests_per_second", ConstraintType::Rate, self.rps),
            ("requests_in_flight", ConstraintType::Max, self.in_flight),
            ("output_tokens", ConstraintType::Max, self.output_tokens),
        ];
        // An option that was not given adds no constraint.
        let numbers = numbers.map(|(key, kind, number)| (key, kind, number.map(Value::from_u64)));
        let lists = [
            ("egress_host", ConstraintType::OneOf, list(&self.egress_hosts)),
            ("tool_type", ConstraintType::OneOf, list(&self.tool_types)),
        ];
        let egress = ("egress", ConstraintType::Rank, self.egress.clone().map(Value::from_text));
        let asked = [("model", ConstraintType::OneOf, list(&self.models))]
            .into_iter()
            .chain(numbers)
            .chain(lists)
            .chain([egress]);
        let limit = |(key, kind, value): (&str, ConstraintType, Option<Value<'static>>)| {
            let made = Constraint::new(key, kind, value?);
            Some(made.map_err(|refusal| format!("{key}: {}", refusal.message).into()))
        };
        asked.filter_map(limit).collect()
    }
}
