//! The declared routes: `[[routes]]`.

use std::path::Path;
use std::sync::Arc;

use super::section::Section;
use super::units;
use crate::guard::declared::OfferedRoute;
use crate::guard::route::is_built_in;
use crate::guard::settings::Model;
use crate::model::Profile;
use crate::model::declared::{Declaration, DeclaredRoute, ModelPlace, declarations};
use crate::token::Scope;

/// Reads all `[[routes]]`. Each names a declaration that is built in, or the file of one.
pub(super) fn routes(root: &Section<'_>, models: &[Model], base: &Path) -> Vec<Arc<OfferedRoute>> {
    let mut offered: Vec<Arc<OfferedRoute>> = Vec::new();
    for section in root.tables("routes") {
        let model = section.text("model");
        if let Some(name) = &model
            && !models.iter().any(|known| known.is_named(name))
        {
            section.fault("model", format!("{name:?} is not the name of a [[model]]"));
        }
        if let Some(text) = declaration(&section, base) {
            match declarations(&text, units::bytes) {
                Ok(routes) => {
                    for route in routes {
                        offered.extend(offer(&section, route, model.as_ref(), &offered));
                    }
                }
                Err(fault) => section.fault("declaration", fault.to_string()),
            }
        }
        // Closed also after a fault, so that unknown keys are found too.
        section.close();
    }
    offered
}

/// The text of the declaration that a section names.
fn declaration(section: &Section<'_>, base: &Path) -> Option<String> {
    let name = section.required("declaration")?;
    if let Some(text) = Declaration::named(&name) {
        return Some(text.to_owned());
    }
    if !name.ends_with(".toml") {
        let known = Declaration::ALL.map(|known| known.name).join(", ");
        section.fault("declaration", format!("must be one of {known}, or a file NAME.toml"));
        return None;
    }
    match std::fs::read_to_string(base.join(&name)) {
        Ok(text) => Some(text),
        Err(error) => {
            section.fault("declaration", format!("{name}: {error}"));
            None
        }
    }
}

/// The route as the guard uses it; `None` after a fault.
fn offer(
    section: &Section<'_>,
    route: Arc<DeclaredRoute>,
    model: Option<&String>,
    others: &[Arc<OfferedRoute>],
) -> Option<Arc<OfferedRoute>> {
    let (name, path) = (route.name, route.path.as_str());
    let fault = |what: String| section.fault("declaration", format!("route {name}: {what}"));
    let Some(scope) = Scope::named(&route.scope) else {
        let known = Scope::ALL.map(Scope::as_str).join(", ");
        fault(format!("scope must be one of {known}"));
        return None;
    };
    if is_built_in(path) {
        fault(format!("{path} is a path of the gateway"));
    }
    for server in &route.servers {
        if Profile::named(server).is_none() {
            fault(format!("servers: {server:?} is not one of {}", Profile::NAMES.join(", ")));
        }
    }
    if route.model == ModelPlace::Fixed && model.is_none() {
        fault("its requests name no model: set model here".to_owned());
    }
    // The first of two would answer all requests, and the operator would not notice.
    for other in others {
        let other = &other.route;
        if other.name == name || other.reads == route.reads && other.path == route.path {
            fault(format!("its name or its path is also that of route {}", other.name));
        }
    }
    Some(Arc::new(OfferedRoute { route, scope, model: model.cloned() }))
}
