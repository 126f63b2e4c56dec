//! The upstreams that a request may reach. The set is fixed before the operator's rules are
//! checked, and the request never leaves it.

use std::sync::Arc;

use crate::guard::slots::Slot;
use crate::guard::table::{ModelRoute, Upstream};

/// The upstreams that a request may reach, the preferred one first. Never empty.
///
/// They are the upstreams of the model's route with the profile that the body was checked against.
pub struct Candidates {
    /// The model.
    model: Arc<ModelRoute>,
    /// The preferred upstream.
    first: Arc<Upstream>,
    /// The other upstreams, in the order of the route.
    others: Vec<Arc<Upstream>>,
}

impl Candidates {
    /// The set for a body that was checked against the profile of `first`.
    pub(super) fn new(model: Arc<ModelRoute>, first: Arc<Upstream>) -> Self {
        let mut others = Vec::new();
        for other in &model.route {
            // Another profile could forward fields that were not checked for its server.
            let is_same = Arc::ptr_eq(&other.profile, &first.profile);
            if other.name != first.name && is_same {
                others.push(Arc::clone(other));
            }
        }
        Self { model, first, others }
    }

    /// The model.
    #[must_use]
    pub const fn model(&self) -> &Arc<ModelRoute> {
        &self.model
    }

    /// The preferred upstream.
    #[must_use]
    pub const fn first(&self) -> &Arc<Upstream> {
        &self.first
    }

    /// All of them, the preferred one first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// All of them: `chosen` first, if it is in the set, then the others in the order of the route.
    #[must_use]
    pub fn from(&self, chosen: &Arc<Upstream>) -> Vec<&Arc<Upstream>> {
        let mut order = Vec::with_capacity(1 + self.others.len());
        order.extend(self.find(chosen));
        for upstream in &self.model.route {
            if !Arc::ptr_eq(upstream, chosen) {
                order.extend(self.find(upstream));
            }
        }
        order
    }

    /// The upstream, where it is in the set. Compared by pointer, because a reload may give the
    /// name to another upstream.
    fn find(&self, upstream: &Arc<Upstream>) -> Option<&Arc<Upstream>> {
        self.iter().find(|known| Arc::ptr_eq(known, upstream))
    }

    /// A slot at one of them; `None` where `upstream` is not in the set.
    #[must_use]
    pub fn turn(&self, upstream: &Arc<Upstream>, slot: Slot) -> Option<Turn> {
        Some(Turn { upstream: Arc::clone(self.find(upstream)?), slot })
    }
}

/// The upstream that is tried first, and a slot there. Only [`Candidates::turn`] makes one.
pub struct Turn {
    upstream: Arc<Upstream>,
    slot: Slot,
}

impl Turn {
    /// The upstream.
    #[must_use]
    pub const fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Both parts.
    pub(super) fn into_parts(self) -> (Arc<Upstream>, Slot) {
        (self.upstream, self.slot)
    }
}
