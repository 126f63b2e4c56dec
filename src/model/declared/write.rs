//! Writes a request for a declared route.

use std::borrow::Cow;
use std::sync::Arc;

use crate::json::{self, Object, Value};

use super::content::{Content, DeclaredBody, cap_at};
use super::form::{self, FormPart};
use super::route::DeclaredRoute;

/// Where a request for a declared route goes at its server, and how its body is labelled.
#[derive(Clone, Debug)]
pub struct DeclaredTarget {
    /// The route.
    pub route: Arc<DeclaredRoute>,
    /// The path at the server, with the server's name for the model.
    pub path: String,
    /// The value of the header `Content-Type`; `None` without a body.
    pub media_type: Option<String>,
}

/// A written request.
pub(in crate::model) struct WrittenDeclared {
    /// The body.
    pub(in crate::model) body: Vec<u8>,
    /// Where it goes.
    pub(in crate::model) target: DeclaredTarget,
}

/// Writes the body, with the server's name for the model. `cap` is a cap on output tokens that the
/// gateway sets.
pub(in crate::model) fn written(
    declared: &DeclaredBody<'_>,
    object: &Object<'_>,
    model: &str,
    cap: Option<u64>,
) -> WrittenDeclared {
    let (body, media_type) = match &declared.content {
        Content::None => (Vec::new(), None),
        Content::Bytes { bytes, media_type } => (bytes.to_vec(), Some(media_type.clone())),
        Content::Form(parts) => {
            // The caller's boundary and headers are not forwarded.
            let form = form::written(&with_model(parts, model), declared.received);
            (form.body, Some(form.media_type))
        }
        Content::Json => {
            let mut object = object.clone();
            // The caller's name may be an alias.
            if object.get("model").is_some() {
                object.set("model", Value::from_text(model));
            }
            if let Some(cap) = cap {
                set_cap(declared, &mut object, cap);
            }
            let mut body = Vec::with_capacity(declared.received.len().saturating_add(64));
            json::write(&Value::Object(object), &mut body);
            (body, Some("application/json".to_owned()))
        }
    };
    let path = declared.route.path.with(model);
    let route = Arc::clone(&declared.route);
    WrittenDeclared { body, target: DeclaredTarget { route, path, media_type } }
}

/// The parts of a form with the server's name for the model.
fn with_model<'p>(parts: &'p [FormPart<'_>], model: &'p str) -> Vec<FormPart<'p>> {
    let mut named = Vec::with_capacity(parts.len());
    for part in parts {
        let is_model = part.name == "model" && part.file.is_none();
        let content = if is_model { model.as_bytes() } else { part.content };
        named.push(FormPart { content, ..part.clone() });
    }
    named
}

/// Writes the cap at the first place, and removes it from all others.
fn set_cap(declared: &DeclaredBody<'_>, object: &mut Object<'_>, cap: u64) {
    for place in &declared.route.caps {
        // A second name would be a second cap, and servers differ in which one counts.
        if cap_at(object, place).is_none() {
            continue;
        }
        match &place.object {
            None => {
                object.remove(&place.name);
            }
            Some(name) => {
                if let Some(Value::Object(inner)) = object.get_mut(name) {
                    inner.remove(&place.name);
                }
            }
        }
    }
    let Some(first) = declared.route.caps.first() else { return };
    let cap = Value::from_u64(cap);
    match &first.object {
        None => object.set(Cow::Owned(first.name.clone()), cap),
        Some(name) => {
            let mut inner = match object.get(name) {
                Some(Value::Object(own)) => own.clone(),
                Some(_) | None => Object::new(),
            };
            inner.set(Cow::Owned(first.name.clone()), cap);
            object.set(Cow::Owned(name.clone()), Value::Object(inner));
        }
    }
}
