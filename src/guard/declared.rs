//! The routes that the operator declares, by method and path.

use std::sync::Arc;

use crate::model::declared::DeclaredRoute;
use crate::token::Scope;

/// A declared route as the guard uses it.
#[derive(Debug)]
pub struct OfferedRoute {
    /// The route.
    pub route: Arc<DeclaredRoute>,
    /// The scope that a token needs.
    pub scope: Scope,
    /// The name of the model of requests that name none.
    pub model: Option<String>,
}

/// The declared route of a request.
#[derive(Clone)]
pub struct RequestedRoute {
    /// The route.
    pub offered: Arc<OfferedRoute>,
    /// The model's name in the path.
    pub model: Option<String>,
}

/// What the declared routes say of a method and a path.
pub enum Found {
    /// A route has both.
    Route(RequestedRoute),
    /// Routes have the path with another method. True if it is GET.
    OtherMethod(bool),
    /// No route has the path.
    Nowhere,
}

/// All declared routes, in the order of the config.
#[derive(Default)]
pub struct OfferedRoutes(Vec<Arc<OfferedRoute>>);

impl OfferedRoutes {
    /// The routes in that order.
    #[must_use]
    pub const fn new(routes: Vec<Arc<OfferedRoute>>) -> Self {
        Self(routes)
    }

    /// Finds the route of a request. `reads` is true for GET and HEAD.
    #[must_use]
    pub fn find(&self, reads: bool, path: &str) -> Found {
        let mut other = None;
        for offered in &self.0 {
            let Some(matched) = offered.route.path.matches(path) else { continue };
            if offered.route.reads == reads {
                let (offered, model) = (Arc::clone(offered), matched.model.map(str::to_owned));
                return Found::Route(RequestedRoute { offered, model });
            }
            // A later declaration may have the path with the wanted method.
            other = Some(offered.route.reads);
        }
        match other {
            Some(reads) => Found::OtherMethod(reads),
            None => Found::Nowhere,
        }
    }
}
