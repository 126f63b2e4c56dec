//! Metrics of requests: their number, outcomes, durations and tokens.

use std::collections::HashMap;

use dashmap::DashMap;
use foldhash::quality::RandomState;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, Registry};

use super::{NONE, OTHER, RequestMeasures, counters, histogram, register};
use crate::refusal::Code;

/// The labels of a counter: the model's index in the list, the operation and the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Labels {
    model: usize,
    operation: &'static str,
    code: &'static str,
}

/// The token counters of a model, from the usage that upstreams report.
struct Tokens {
    input: IntCounter,
    output: IntCounter,
}

/// The histograms of all requests, in seconds.
struct Seconds {
    request: Histogram,
    overhead: Histogram,
    first_token: Histogram,
}

/// The metrics of requests.
pub(super) struct Requests {
    /// The index of each model's labels.
    models: HashMap<String, usize>,
    model_names: Vec<String>,
    pub(super) by_code: IntCounterVec,
    /// Counters that were already looked up. The lookup by label values is slower.
    known: DashMap<Labels, IntCounter, RandomState>,
    refusals: HashMap<&'static str, IntCounter>,
    seconds: Seconds,
    upstream_seconds: HashMap<String, Histogram>,
    tokens: Vec<Tokens>,
    in_flight: IntGauge,
    token_cache: HashMap<&'static str, IntCounter>,
}

impl Requests {
    /// Registers the metrics.
    ///
    /// # Errors
    /// If a name is already registered.
    pub(super) fn new(
        registry: &Registry,
        models: &[String],
        upstreams: &[String],
    ) -> prometheus::Result<Self> {
        let mut model_names: Vec<String> = models.to_vec();
        // Unknown model names share one label: a caller chooses the name, so it must not become a
        // label.
        model_names.extend([OTHER.to_owned(), NONE.to_owned()]);
        let mut places = HashMap::new();
        for (place, name) in model_names.iter().enumerate() {
            places.insert(name.clone(), place);
        }
        let in_flight = IntGauge::new("token_shield_in_flight", "Requests in flight");
        Ok(Self {
            by_code: counters(
                registry,
                "token_shield_requests_total",
                "Requests by outcome",
                &["model", "operation", "code"],
            )?,
            known: DashMap::default(),
            refusals: refusals(registry)?,
            seconds: seconds(registry)?,
            upstream_seconds: upstream_seconds(registry, upstreams)?,
            tokens: tokens(registry, &model_names)?,
            in_flight: register(registry, in_flight)?,
            token_cache: token_cache(registry)?,
            models: places,
            model_names,
        })
    }

    /// Counts a request that begins.
    pub(super) fn began(&self) {
        self.in_flight.inc();
    }

    /// Counts a refusal.
    pub(super) fn refused(&self, code: Code) {
        if let Some(counter) = self.refusals.get(code.as_str()) {
            counter.inc();
        }
    }

    /// Counts how a token was verified: `hit`, `miss` or `refused`.
    pub(super) fn token_cache(&self, result: &str) {
        if let Some(counter) = self.token_cache.get(result) {
            counter.inc();
        }
    }

    /// Records the measures of a request that has ended.
    pub(super) fn answered(&self, answered: &RequestMeasures<'_>) {
        self.in_flight.dec();
        let model = self.model(answered.model.unwrap_or(NONE));
        self.count(Labels { model, operation: answered.operation, code: answered.code });
        self.seconds.request.observe(answered.request_s);
        self.seconds.overhead.observe(answered.overhead_s);
        if let Some(seconds) = answered.first_token_s {
            self.seconds.first_token.observe(seconds);
        }
        if let Some(upstream) = answered.upstream
            && let Some(histogram) = self.upstream_seconds.get(upstream)
            && let Some(seconds) = answered.upstream_s
        {
            histogram.observe(seconds);
        }
        if let Some(tokens) = self.tokens.get(model) {
            tokens.input.inc_by(answered.tokens_in);
            tokens.output.inc_by(answered.tokens_out);
        }
    }

    /// The index of a model; that of `other` for an unknown one.
    fn model(&self, name: &str) -> usize {
        if let Some(place) = self.models.get(name) {
            return *place;
        }
        match self.models.get(OTHER) {
            Some(place) => *place,
            None => 0,
        }
    }

    /// Counts a request under its labels.
    fn count(&self, labels: Labels) {
        // The combinations are few: models, operations and codes are fixed sets.
        if let Some(counter) = self.known.get(&labels) {
            return counter.inc();
        }
        let model = match self.model_names.get(labels.model) {
            Some(name) => name.as_str(),
            None => OTHER,
        };
        let counter = self.by_code.with_label_values(&[model, labels.operation, labels.code]);
        counter.inc();
        self.known.insert(labels, counter);
    }
}

/// The counters of refusals. All are created now, so that each code has a series from the start.
fn refusals(registry: &Registry) -> prometheus::Result<HashMap<&'static str, IntCounter>> {
    let by = counters(
        registry,
        "token_shield_refusals_total",
        "Refusals by stage and code",
        &["stage", "code"],
    )?;
    let mut counters = HashMap::new();
    for code in Code::ALL {
        let counter = by.with_label_values(&[code.stage().as_str(), code.as_str()]);
        counters.insert(code.as_str(), counter);
    }
    Ok(counters)
}

/// Registers one histogram of seconds.
fn duration(registry: &Registry, name: &str, help: &str) -> prometheus::Result<Histogram> {
    register(registry, Histogram::with_opts(histogram(name, help)))
}

/// The histograms of durations.
fn seconds(registry: &Registry) -> prometheus::Result<Seconds> {
    Ok(Seconds {
        request: duration(registry, "token_shield_request_seconds", "Whole requests")?,
        overhead: duration(
            registry,
            "token_shield_overhead_seconds",
            "What the gateway adds before the upstream is asked",
        )?,
        first_token: duration(
            registry,
            "token_shield_time_to_first_token_seconds",
            "Until the first byte of an answer goes out",
        )?,
    })
}

/// The histograms of upstreams' response times.
fn upstream_seconds(
    registry: &Registry,
    upstreams: &[String],
) -> prometheus::Result<HashMap<String, Histogram>> {
    let options =
        histogram("token_shield_upstream_seconds", "Time from asking an upstream to its head");
    let by = register(registry, HistogramVec::new(options, &["upstream"]))?;
    let mut histograms = HashMap::new();
    for upstream in upstreams {
        // Looked up once here, because each lookup by label values hashes the strings.
        histograms.insert(upstream.clone(), by.with_label_values(&[upstream]));
    }
    Ok(histograms)
}

/// The token counters, in the order of `models`.
fn tokens(registry: &Registry, models: &[String]) -> prometheus::Result<Vec<Tokens>> {
    let by = counters(
        registry,
        "token_shield_tokens_total",
        "Tokens as reported by upstreams",
        &["model", "direction"],
    )?;
    let mut tokens = Vec::new();
    for model in models {
        tokens.push(Tokens {
            input: by.with_label_values(&[model, "in"]),
            output: by.with_label_values(&[model, "out"]),
        });
    }
    Ok(tokens)
}

/// The counters of the token cache, by result.
fn token_cache(registry: &Registry) -> prometheus::Result<HashMap<&'static str, IntCounter>> {
    let by = counters(
        registry,
        "token_shield_token_cache_total",
        "Tokens by how they were found good",
        &["result"],
    )?;
    let mut counters = HashMap::new();
    for result in ["hit", "miss", "refused"] {
        counters.insert(result, by.with_label_values(&[result]));
    }
    Ok(counters)
}
