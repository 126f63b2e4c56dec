//! The flags that say what a token allows, the same for `token issue` and `token delegate`.

use clap::Args;

use super::Failure;
use crate::json::Value;
use crate::token::constraint::{Constraint, Kind};

#[derive(Args)]
pub(super) struct Allowed {
    /// A model that it may use; repeatable. Without any: the parent's, or every model that the namespace sees.
    #[arg(long = "model")]
    pub(super) models: Vec<String>,
    /// A scope (docs/TOKEN.md); repeatable. Without any: the parent's, or inference.* and models.read.
    #[arg(long = "scope")]
    pub(super) scopes: Vec<String>,
    /// Requests a minute.
    #[arg(long)]
    pub(super) rpm: Option<u64>,
    /// Requests a second.
    #[arg(long)]
    pub(super) rps: Option<u64>,
    /// Requests at once.
    #[arg(long)]
    pub(super) in_flight: Option<u64>,
    /// Tokens an answer.
    #[arg(long)]
    pub(super) output_tokens: Option<u64>,
}

impl Allowed {
    pub(super) fn limits(&self) -> Result<Vec<Constraint>, Failure> {
        let models: Vec<Value<'static>> = self.models.iter().map(|model| Value::from_text(model.clone())).collect();
        let models = (!models.is_empty()).then_some(Value::Array(models));
        let numbers = [
            ("requests_per_minute", Kind::Rate, self.rpm),
            ("requests_per_second", Kind::Rate, self.rps),
            ("requests_in_flight", Kind::Max, self.in_flight),
            ("output_tokens", Kind::Max, self.output_tokens),
        ];
        let numbers = numbers.map(|(key, kind, number)| (key, kind, number.map(Value::from_u64)));
        let asked = std::iter::once(("model", Kind::OneOf, models)).chain(numbers);
        let limit = |(key, kind, value): (&str, Kind, Option<Value<'static>>)| {
            let made = Constraint::new(key, kind, value?);
            Some(made.map_err(|refusal| format!("{key}: {}", refusal.message).into()))
        };
        asked.filter_map(limit).collect()
    }
}
