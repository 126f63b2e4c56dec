//! The config in the form that the guard reads: classes, principals, models and their upstreams. A
//! request uses one snapshot of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::audit::format::request::Server;
use crate::guard::egress::call::Pattern;
use crate::guard::egress::policy::{EgressPolicy, SelfEndpoints};
use crate::guard::gcra::{Limit, Period};
use crate::guard::settings::{Caps, Class, FetchSettings, GuardSettings, Wait};
use crate::health::Health;
use crate::model::Profile;
use crate::weights::Weights;

/// An upstream, as far as the guard needs it.
pub struct Upstream {
    /// Its name in the config.
    pub name: Arc<str>,
    /// The fields that its server understands.
    pub profile: Arc<Profile>,
    /// Its own caps.
    pub caps: Caps,
    /// How requests wait where all its slots are in use.
    pub wait: Wait,
    /// The upstream as records describe it.
    pub server: Server,
}

/// A model that agents may use.
pub struct ModelRoute {
    /// Its canonical name.
    pub name: Arc<str>,
    /// The model's name at its server.
    pub upstream_name: String,
    /// Namespaces whose agents may see it; empty means all.
    pub namespaces: Vec<String>,
    /// Its upstreams, in the order of preference; never empty.
    pub route: Vec<Arc<Upstream>>,
    /// Its own caps.
    pub caps: Caps,
}

impl ModelRoute {
    /// The first upstream of the route that is not known to be down; else the first one. Only
    /// upstreams whose weights the model may have are considered.
    #[must_use]
    pub fn upstream(&self, health: &Health, weights: &Weights) -> Option<&Arc<Upstream>> {
        let mut may =
            self.route.iter().filter(|upstream| weights.passes(&self.name, &upstream.name));
        // Without a healthy upstream the first one is used: the health check may be out of date,
        // and the attempt shows it.
        let first = may.clone().next();
        may.find(|upstream| health.is_up(&upstream.name)).or(first)
    }
}

/// The config's tables. A reload makes new ones.
pub struct Tables {
    /// By name.
    classes: HashMap<String, Arc<Class>>,
    /// By issuer and name.
    principals: BTreeMap<String, BTreeMap<String, Caps>>,
    /// By canonical name and alias.
    by_name: BTreeMap<String, Arc<ModelRoute>>,
    /// Largest body in bytes.
    pub body_max: u64,
    /// The egress policy.
    pub policy: EgressPolicy,
    /// How the gateway fetches content.
    pub fetch: FetchSettings,
    /// Tools by which agents reach out.
    pub fetch_tools: Vec<Pattern>,
}

/// A model's route names an upstream that is not declared.
#[derive(Debug, thiserror::Error)]
#[error("model {model}: upstream {upstream} is not declared")]
pub struct RouteFault {
    model: String,
    upstream: String,
}

impl Tables {
    /// Builds the tables. The gateway's `own` endpoints are never a destination.
    ///
    /// # Errors
    /// When a model's route names an upstream that `upstreams` does not have.
    pub fn build(
        settings: &GuardSettings,
        upstreams: Vec<Upstream>,
        own: SelfEndpoints,
    ) -> Result<Self, RouteFault> {
        let mut by_upstream: HashMap<Arc<str>, Arc<Upstream>> = HashMap::new();
        for upstream in upstreams {
            by_upstream.insert(Arc::clone(&upstream.name), Arc::new(upstream));
        }
        let mut by_name = BTreeMap::new();
        for model in &settings.models {
            let mut route = Vec::with_capacity(model.route.len());
            for name in &model.route {
                let Some(upstream) = by_upstream.get(name.as_str()) else {
                    let (model, upstream) = (model.name.clone(), name.clone());
                    return Err(RouteFault { model, upstream });
                };
                route.push(Arc::clone(upstream));
            }
            let upstream_name = match &model.upstream_name {
                Some(name) => name.clone(),
                None => model.name.clone(),
            };
            let served = Arc::new(ModelRoute {
                name: model.name.as_str().into(),
                upstream_name,
                namespaces: model.namespaces.clone(),
                route,
                caps: model.caps.clone(),
            });
            // Aliases share the value, so that all names of a model share its rates.
            for name in std::iter::once(&model.name).chain(&model.aliases) {
                by_name.insert(name.clone(), Arc::clone(&served));
            }
        }
        let mut classes = HashMap::with_capacity(settings.classes.len());
        for (name, class) in &settings.classes {
            classes.insert(name.clone(), Arc::new(class.clone()));
        }
        let policy = EgressPolicy::new(settings.egress.clone(), own);
        let (principals, fetch, fetch_tools) =
            (settings.principals.clone(), settings.fetch.clone(), settings.fetch_tools.clone());
        Ok(Self {
            classes,
            principals,
            by_name,
            body_max: settings.body_max,
            policy,
            fetch,
            fetch_tools,
        })
    }

    /// The class of that name.
    #[must_use]
    pub fn class(&self, name: &str) -> Option<Arc<Class>> {
        self.classes.get(name).cloned()
    }

    /// The caps of that issuer's principal.
    #[must_use]
    pub fn principal(&self, issuer: &str, name: &str) -> Option<&Caps> {
        self.principals.get(issuer)?.get(name)
    }

    /// The model with this name or alias.
    #[must_use]
    pub fn model(&self, name: &str) -> Option<&Arc<ModelRoute>> {
        self.by_name.get(name)
    }

    /// Every name and alias with its model, in order.
    pub fn models(&self) -> impl Iterator<Item = (&str, &Arc<ModelRoute>)> {
        self.by_name.iter().map(|(name, served)| (name.as_str(), served))
    }
}

/// The request rates in `caps`.
#[must_use]
pub fn rates(caps: &Caps) -> Vec<Limit> {
    let second = caps.rps.map(|rate| Limit::new(Period::Second, rate, caps.burst));
    let minute = caps.rpm.map(|rate| Limit::new(Period::Minute, rate, caps.burst));
    second.into_iter().chain(minute).collect()
}
