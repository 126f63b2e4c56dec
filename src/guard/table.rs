//! The config in the form that the guard reads: classes, principals, models and their upstreams. A
//! request uses one snapshot of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::audit::format::request::Server;
use crate::guard::declared::OfferedRoutes;
use crate::guard::egress::call::Pattern;
use crate::guard::egress::policy::{EgressPolicy, SelfEndpoints};
use crate::guard::gcra::{Limit, Period};
use crate::guard::settings::{Caps, Class, FetchSettings, GuardSettings, Wait};
use crate::health::Health;
use crate::model::{Operation, Profile};
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
    /// upstreams that have the operation, and whose weights the model may have, are considered.
    #[must_use]
    pub fn upstream(
        &self,
        operation: Operation,
        health: &Health,
        weights: &Weights,
    ) -> Option<&Arc<Upstream>> {
        self.upstream_with(|profile| profile.has(operation), health, weights)
    }

    /// As [`Self::upstream`], of the upstreams whose profile `fits`.
    #[must_use]
    pub fn upstream_with(
        &self,
        fits: impl Fn(&Profile) -> bool + Copy,
        health: &Health,
        weights: &Weights,
    ) -> Option<&Arc<Upstream>> {
        let mut may = self.route.iter().filter(|upstream| {
            fits(&upstream.profile) && weights.passes(&self.name, &upstream.name)
        });
        // Without a healthy upstream the first one is used: the health check may be out of date,
        // and the attempt shows it.
        let first = may.clone().next();
        may.find(|upstream| health.is_up(&upstream.name)).or(first)
    }

    /// True if an upstream of the route has the operation.
    #[must_use]
    pub fn has(&self, operation: Operation) -> bool {
        self.route.iter().any(|upstream| upstream.profile.has(operation))
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
    /// The models with an alias for all names of one beginning, the longest beginning first.
    by_beginning: Vec<Beginning>,
    /// The routes that the operator declares.
    pub declared: OfferedRoutes,
    /// Largest body in bytes.
    pub body_max: u64,
    /// The egress policy.
    pub policy: EgressPolicy,
    /// How the gateway fetches content.
    pub fetch: FetchSettings,
    /// Tools by which agents reach out.
    pub fetch_tools: Vec<Pattern>,
}

/// An alias for all names with one beginning.
struct Beginning {
    front: String,
    model: Arc<ModelRoute>,
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
        let (mut by_name, mut by_beginning) = (BTreeMap::new(), Vec::new());
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
            by_name.insert(model.name.clone(), Arc::clone(&served));
            for alias in &model.aliases {
                let Some(front) = alias.strip_suffix('*') else {
                    by_name.insert(alias.clone(), Arc::clone(&served));
                    continue;
                };
                let model = Arc::clone(&served);
                by_beginning.push(Beginning { front: front.to_owned(), model });
            }
        }
        // The first match counts, so the most exact one comes first.
        by_beginning.sort_by_key(|beginning| std::cmp::Reverse(beginning.front.len()));
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
            by_beginning,
            declared: OfferedRoutes::new(settings.routes.clone()),
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

    /// The model with this name or alias. An exact name takes precedence over a beginning, and a
    /// longer beginning over a shorter one.
    #[must_use]
    pub fn model(&self, name: &str) -> Option<&Arc<ModelRoute>> {
        if let Some(model) = self.by_name.get(name) {
            return Some(model);
        }
        let known = self.by_beginning.iter().find(|known| name.starts_with(&known.front))?;
        Some(&known.model)
    }

    /// Every name and alias with its model, in order. Aliases for a beginning are left out.
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
