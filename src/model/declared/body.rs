//! The body of a request at a declared route.

use std::borrow::Cow;
use std::sync::Arc;

use crate::json::{Object, Value};
use crate::refusal::{Code, Refusal};

use super::super::call::{BodyRules, ModelCall, model_field, object_of};
use super::super::fold::fold;
use super::super::markdown;
use super::super::path::Path;
use super::super::signature;
use super::content::{Content, DeclaredBody, cap_at};
use super::form::{self, FormPart};
use super::references::References;
use super::route::{CapPlace, DeclaredRoute, RequestBody};

/// The field with the model's name.
const MODEL: &str = "model";
/// The most bytes of a field of a form that is no file.
const FIELD_MAX: usize = 1 << 20;
/// A body that is parsed. Its strings are not judged yet.
pub struct ParsedDeclared<'b> {
    /// The route.
    route: Arc<DeclaredRoute>,
    /// The members of JSON, or the fields of a form that are no files.
    object: Object<'b>,
    /// What else is forwarded.
    content: Content<'b>,
    /// The body as it came.
    received: &'b [u8],
}

/// Parses a body by its route. `media_type` is the value of the header `Content-Type`.
///
/// # Errors
/// `json-invalid`, `form-invalid`, or a refusal of the field `model`.
pub fn parse<'b>(
    route: &Arc<DeclaredRoute>,
    body: &'b [u8],
    media_type: &str,
) -> Result<ParsedDeclared<'b>, Refusal> {
    let (object, content) = match &route.body {
        RequestBody::None => (Object::new(), Content::None),
        RequestBody::Json => (object_of(body)?, Content::Json),
        RequestBody::Form => {
            let Some(boundary) = form::boundary(media_type) else {
                return Err(Code::ContentType.into());
            };
            let parts = boundary
                .and_then(|boundary| form::parts(body, &boundary))
                .map_err(|fault| invalid_form(&fault.to_string()))?;
            (fields_of(&parts)?, Content::Form(parts))
        }
        RequestBody::Bytes(types) => {
            let essence = match media_type.split_once(';') {
                Some((essence, _)) => essence.trim(),
                None => media_type.trim(),
            };
            let Some(known) = types.iter().find(|known| known.eq_ignore_ascii_case(essence)) else {
                return Err(Code::ContentType.into());
            };
            (Object::new(), Content::Bytes { bytes: body, media_type: known.clone() })
        }
    };
    check_names(&object, &content)?;
    if object.get(MODEL).is_some() {
        model_field(&object)?;
    }
    Ok(ParsedDeclared { route: Arc::clone(route), object, content, received: body })
}

/// Checks that no other field could be read as `model`.
///
/// # Errors
/// `field-not-allowed` for another spelling of it; `form-invalid` for a file of that name.
fn check_names(object: &Object<'_>, content: &Content<'_>) -> Result<(), Refusal> {
    let mut names = Vec::new();
    for (key, _) in object.iter() {
        names.push(key);
    }
    if let Content::Form(parts) = content {
        for part in parts {
            if part.file.is_some() && part.name == MODEL {
                return Err(invalid_form("the field model is a file"));
            }
            names.push(part.name);
        }
    }
    for name in names {
        // Some servers compare names without regard to case, and would read another model.
        if name != MODEL && fold(name) == MODEL {
            let path = Path::Key(&Path::Root, name).to_string();
            let says = format!("The field {path} is not allowed: it is not \"model\".");
            return Err(Refusal::new(Code::FieldNotAllowed).saying(says).at(path));
        }
    }
    Ok(())
}

/// The refusal for a form.
fn invalid_form(what: &str) -> Refusal {
    let says = format!("The body is not one strict form (multipart/form-data): {what}.");
    Refusal::new(Code::FormInvalid).saying(says)
}

/// The fields of a form that are no files, as members.
fn fields_of<'b>(parts: &[FormPart<'b>]) -> Result<Object<'b>, Refusal> {
    let mut object = Object::new();
    for part in parts {
        if part.file.is_some() {
            continue;
        }
        let plain = part.media_type.as_deref().is_none_or(|known| known == "text/plain");
        let text = match std::str::from_utf8(part.content) {
            Ok(text) if plain && text.len() <= FIELD_MAX => text,
            Ok(_) | Err(_) => {
                return Err(invalid_form("a field is not plain text of at most 1 MiB"));
            }
        };
        let value = Value::String(Cow::Borrowed(text));
        match object.get_mut(part.name) {
            None => object.set(part.name, value),
            // A list is sent as several fields with this end (`timestamp_granularities[]`). For
            // other names, servers differ in which one counts.
            Some(Value::Array(items)) => items.push(value),
            Some(first) if part.name.ends_with("[]") => {
                *first = Value::Array(vec![first.clone(), value]);
            }
            Some(_) => return Err(invalid_form("a field occurs twice")),
        }
    }
    Ok(object)
}

impl<'b> ParsedDeclared<'b> {
    /// The model's name in the body, if the body has one.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        self.object.text(MODEL)
    }

    /// Judges every string of the body, and makes the call. `model` is the model's name as the
    /// request has it, or as the config names it.
    ///
    /// # Errors
    /// `field-not-allowed` or `field-invalid`, with the path.
    pub fn understand(
        self,
        terms: &BodyRules<'_>,
        model: String,
    ) -> Result<ModelCall<'b>, Refusal> {
        let Self { route, object, content, received } = self;
        let mut references = References {
            profile: terms.profile,
            prompts: &route.prompts,
            schemas: &route.schemas,
            found: Vec::new(),
        };
        for (key, value) in object.iter() {
            references.member(key, value, &Path::Key(&Path::Root, key))?;
        }
        if let Content::Form(parts) = &content {
            for part in parts {
                references.key(part.name, &Path::Key(&Path::Root, part.name))?;
                check_file(part)?;
            }
        }
        let mut found = references.found;
        // This server also fetches the images that a text refers to in Markdown.
        if terms.profile.gateway.markdown_images {
            found.extend(markdown::external_references(&object)?);
        }
        let asked = asked(&route.caps, &object)?;
        let declared = DeclaredBody { route, model, content, received };
        Ok(ModelCall::declared(declared, object, asked, found, terms))
    }
}

/// Checks the content of a file.
///
/// # Errors
/// `field-invalid` for text: a playlist or a document of markup makes a decoder fetch.
fn check_file(part: &FormPart<'_>) -> Result<(), Refusal> {
    if part.file.is_none() || part.content.is_empty() || signature::is_binary(part.content) {
        return Ok(());
    }
    let path = Path::Key(&Path::Root, part.name).to_string();
    let says = format!("The file {path} begins as text, not as an image, a sound or a document.");
    Err(Refusal::new(Code::FieldInvalid).saying(says).at(path))
}

/// The cap on output tokens that the caller requests. A negative one is no cap.
fn asked(caps: &[CapPlace], object: &Object<'_>) -> Result<Option<u64>, Refusal> {
    let mut found = None;
    for place in caps {
        let Some(value) = cap_at(object, place) else { continue };
        let name = place.name.as_str();
        let is_whole = |text: &str| {
            let digits = text.strip_prefix('-').unwrap_or(text);
            digits.bytes().all(|byte| byte.is_ascii_digit())
        };
        let says = if !matches!(value, Value::Number(text) if is_whole(text)) {
            format!("The field {name} must be a whole number.")
        } else if found.is_some() {
            format!("The field {name} is a second cap on output tokens; send one of them.")
        } else {
            // A negative number is no cap for these servers.
            found = Some(value.as_u64());
            continue;
        };
        return Err(Refusal::new(Code::FieldInvalid).saying(says).at(name));
    }
    Ok(found.flatten())
}
