//! Validates every field of a body, at every depth, by a profile.

use std::borrow::Cow;
use std::collections::HashSet;

use crate::json::{self, Limits, Object, Value};
use crate::refusal::{Code, Refusal};

use super::inline_slot::{InlineSlot, SlotForm};
use super::kind::{Medium, ObjectKind, Rule, StringKind, ValueKind};
use super::label::Label;
use super::path::Path;
use super::profile::{Profile, Shape, Union};
use super::signature;
use super::unknown_field::{may_drop, refusal};
use super::{ExternalReference, ReferenceKind, UnknownFields};

/// The maximum number of dropped fields that are listed for the caller.
const DROPPED_MAX: usize = 16;
/// The maximum depth of a schema that comes as text.
const SCHEMA_DEPTH: usize = 64;

/// Validates a body and collects its external references and dropped fields.
pub(super) struct BodyValidator<'t> {
    /// The profile of the server.
    profile: &'t Profile,
    /// The action for unknown fields.
    unknown: UnknownFields,
    /// The external references so far.
    pub(super) external_references: Vec<ExternalReference>,
    /// The paths of dropped fields so far.
    pub(super) dropped: Vec<String>,
}

impl<'t> BodyValidator<'t> {
    /// A validator without results.
    pub(super) const fn new(profile: &'t Profile, unknown: UnknownFields) -> Self {
        Self { profile, unknown, external_references: Vec::new(), dropped: Vec::new() }
    }

    /// Validates the members of a closed object and removes those that are dropped.
    pub(super) fn shape(
        &mut self,
        shape: &Shape,
        object: &mut Object<'_>,
        path: &Path<'_>,
    ) -> Result<(), Refusal> {
        let mut out = HashSet::new();
        for (key, value) in object.iter_mut() {
            let path = Path::Key(path, key);
            match shape.rule(key) {
                Some(Rule::Drop) => {
                    out.insert(key.to_owned());
                }
                Some(rule) => self.rule(rule, value, &path)?,
                None if self.unknown == UnknownFields::Drop
                    && may_drop(self.profile, shape, key) =>
                {
                    out.insert(key.to_owned());
                }
                None => return Err(refusal(self.profile, shape, key, value, &path)),
            }
        }
        if !out.is_empty() {
            object.retain(|key| {
                let goes = out.contains(key);
                // The caller may send many fields, so only the first ones are listed.
                if goes && self.dropped.len() < DROPPED_MAX {
                    self.dropped.push(Path::Key(path, key).to_string());
                }
                !goes
            });
        }
        // The check comes after the removal: a dropped field does not count as present.
        for name in &shape.required {
            if matches!(object.get(name), None | Some(Value::Null)) {
                let missing = Path::Key(path, name).to_string();
                return Err(Refusal::new(Code::FieldMissing)
                    .saying(format!("The field {missing} is required."))
                    .at(missing));
            }
        }
        match Label::of_source(shape, object) {
            Label::Fits => {}
            Label::Other(actual) => object.set("media_type", Value::from_text(actual)),
            Label::Wrong(label) => {
                let path = Path::Key(path, "data");
                return Err(invalid(&path, &format!("does not begin as {label} does")));
            }
        }
        Ok(())
    }

    /// Applies the rule of a field to its value.
    fn rule(&mut self, rule: &Rule, value: &mut Value<'_>, path: &Path<'_>) -> Result<(), Refusal> {
        match rule {
            Rule::Pass(kind) => self.kind(kind, value, path),
            Rule::Reach(kind) => {
                self.reach(*kind, value, path);
                Ok(())
            }
            Rule::Set | Rule::Refuse | Rule::Drop => {
                let who = if *rule == Rule::Set {
                    "the gateway alone sets it"
                } else {
                    "it is never taken from a caller"
                };
                Err(Refusal::new(Code::FieldNotAllowed)
                    .saying(format!("The field {path} is not allowed: {who}."))
                    .at(path.to_string()))
            }
        }
    }

    /// Validates a value by its kind.
    fn kind(
        &mut self,
        kind: &ValueKind,
        value: &mut Value<'_>,
        path: &Path<'_>,
    ) -> Result<(), Refusal> {
        let fits = match &mut *value {
            // `null` is the same as an absent field. `shape` checks that required fields are
            // present.
            Value::Null => true,
            Value::Bool(_) => kind.boolean || kind.open,
            Value::Number(text) => kind.open || kind.number.is_some_and(|number| number.fits(text)),
            Value::String(text) => match &kind.string {
                Some(StringKind::Any) => true,
                Some(StringKind::OneOf(literals)) => literals.iter().any(|literal| literal == text),
                Some(StringKind::Media(medium)) => return self.media(*medium, text, path),
                Some(StringKind::Schema) => return schema_text(text, path),
                None => kind.open,
            },
            Value::Array(items) => match &kind.array {
                Some(each) => {
                    for (place, item) in items.iter_mut().enumerate() {
                        let path = Path::Item(path, place);
                        // In an array, `null` is a value and not an absent field.
                        if matches!(item, Value::Null) && !each.open {
                            return Err(invalid(&path, &format!("must be {}", each.words())));
                        }
                        self.kind(each, item, &path)?;
                    }
                    true
                }
                None => kind.open,
            },
            Value::Object(object) => match &kind.object {
                Some(form) => return self.form(form, object, path),
                None => kind.open,
            },
        };
        if fits {
            Ok(())
        } else {
            Err(invalid(path, &format!("must be {}, not {}", kind.words(), described(value))))
        }
    }

    /// Validates an object by its form.
    fn form(
        &mut self,
        form: &ObjectKind,
        object: &mut Object<'_>,
        path: &Path<'_>,
    ) -> Result<(), Refusal> {
        let profile = self.profile;
        match form {
            ObjectKind::Open => Ok(()),
            ObjectKind::Schema => {
                object.iter().try_for_each(|(key, value)| schema(key, value, &Path::Key(path, key)))
            }
            ObjectKind::Numbers => object.iter().try_for_each(|(key, value)| match value {
                Value::Number(_) | Value::Bool(_) => Ok(()),
                Value::Null | Value::String(_) | Value::Array(_) | Value::Object(_) => {
                    Err(invalid(&Path::Key(path, key), "must be a number"))
                }
            }),
            ObjectKind::Scalars => self.scalars(object, path),
            ObjectKind::Shape(place) => match profile.shapes.get(*place) {
                Some(shape) => self.shape(shape, object, path),
                None => Err(Refusal::new(Code::Internal)
                    .because("a profile names a shape that it does not have")),
            },
            ObjectKind::Union(place) => match profile.unions.get(*place) {
                Some(union) => self.union(union, object, path),
                None => Err(Refusal::new(Code::Internal)
                    .because("a profile names a union that it does not have")),
            },
            ObjectKind::Named(name) => Err(Refusal::new(Code::Internal)
                .because(format_args!("the profile's {name} is not linked"))),
        }
    }

    /// Validates an object by the shape that its tag chooses.
    fn union(
        &mut self,
        union: &Union,
        object: &mut Object<'_>,
        path: &Path<'_>,
    ) -> Result<(), Refusal> {
        let tag_path = Path::Key(path, &union.tag);
        let rule = match object.get(&union.tag) {
            None | Some(Value::Null) => match &union.missing {
                Some(rule) => rule,
                None => {
                    let says =
                        format!("The field {tag_path} is required: one of {}.", union.tags());
                    return Err(Refusal::new(Code::FieldMissing)
                        .saying(says)
                        .at(tag_path.to_string()));
                }
            },
            Some(Value::String(tag)) => match union.member(tag) {
                Some(rule) => rule,
                None => {
                    return Err(invalid(&tag_path, &format!("must be one of {}", union.tags())));
                }
            },
            Some(other) => {
                return Err(invalid(
                    &tag_path,
                    &format!("must be a string, not {}", described(other)),
                ));
            }
        };
        match rule {
            Rule::Pass(ValueKind { object: Some(form), .. }) => self.form(form, object, path),
            Rule::Reach(kind) => {
                let slot = match kind {
                    ReferenceKind::Media => slot(self.profile, union),
                    ReferenceKind::HostedTool
                    | ReferenceKind::Mcp
                    | ReferenceKind::Background
                    | ReferenceKind::ForeignState => None,
                };
                self.external_references.push(ExternalReference {
                    slot,
                    ..reach(*kind, target_of(object, path), path)
                });
                Ok(())
            }
            Rule::Pass(_) | Rule::Set | Rule::Drop | Rule::Refuse => {
                Err(Refusal::new(Code::FieldNotAllowed)
                    .saying(format!("{path} is not allowed: it is never taken from a caller."))
                    .at(path.to_string()))
            }
        }
    }

    /// Validates an object with plain names. Its values are strings, numbers and booleans. A name
    /// that no caller may send is refused here too.
    fn scalars(&self, object: &Object<'_>, path: &Path<'_>) -> Result<(), Refusal> {
        for (key, value) in object.iter() {
            let path = Path::Key(path, key);
            // Only plain names pass. llama.cpp gives these members to the chat template as
            // variables.
            let plain = key
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
            if !plain || key.is_empty() || key.starts_with('_') || self.profile.never(key) {
                let says =
                    format!("The field {path} is not allowed: it is never taken from a caller.");
                return Err(Refusal::new(Code::FieldNotAllowed).saying(says).at(path.to_string()));
            }
            match value {
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
                Value::Array(_) | Value::Object(_) => {
                    return Err(invalid(&path, "must be a string, a number or a boolean"));
                }
            }
        }
        Ok(())
    }

    /// Records a value that is an external reference by its presence. `null`, `false` and an empty
    /// array are none.
    fn reach(&mut self, kind: ReferenceKind, value: &Value<'_>, path: &Path<'_>) {
        let target = match value {
            Value::Null | Value::Bool(false) => return,
            Value::Array(items) if items.is_empty() => return,
            Value::String(text) => text.to_string(),
            Value::Object(object) => target_of(object, path),
            Value::Array(items) => match items.first() {
                Some(Value::Object(object)) => target_of(object, path),
                Some(_) | None => last_key(path),
            },
            // The value has no target, so the name of the field describes it.
            Value::Bool(true) | Value::Number(_) => last_key(path),
        };
        // The egress policy decides later. The validator only collects the references.
        self.external_references.push(reach(kind, target, path));
    }

    /// Checks inline content by its type and size. Any other value is an external reference.
    fn media(
        &mut self,
        medium: Medium,
        text: &mut Cow<'_, str>,
        path: &Path<'_>,
    ) -> Result<(), Refusal> {
        let max = self.profile.media_chars_max();
        if text.len() > max {
            return Err(invalid(
                path,
                &format!("holds {} characters of inline content; the limit is {max}", text.len()),
            ));
        }
        // Bare base64 has no label. Its bytes show whether it is content.
        if medium == Medium::Base64 {
            if !signature::is_base64(text) {
                self.external_references.push(reach(ReferenceKind::Media, text.to_string(), path));
            } else if !signature::is_content(text) {
                return Err(invalid(
                    path,
                    "begins as text, not as an image, sound or document: a decoder might fetch by \
                        it",
                ));
            }
            return Ok(());
        }
        // Only the exact form passes. One parser could read another form as inline content, and
        // another parser as a URL.
        let types = self.profile.media_types(medium);
        let Some(rest) = text.strip_prefix("data:") else {
            let slot = InlineSlot::new(SlotForm::DataUrl, types, max);
            self.external_references.push(ExternalReference {
                slot,
                ..reach(ReferenceKind::Media, text.to_string(), path)
            });
            return Ok(());
        };
        match rest.split_once(";base64,") {
            Some((media_type, content))
                if types.iter().any(|known| known == media_type)
                    && signature::is_base64(content) =>
            {
                match Label::of(media_type, types, content) {
                    Label::Fits => Ok(()),
                    Label::Other(actual) => {
                        *text = Cow::Owned(format!("data:{actual};base64,{content}"));
                        Ok(())
                    }
                    Label::Wrong(label) => {
                        Err(invalid(path, &format!("does not begin as {label} does")))
                    }
                }
            }
            Some(_) | None => Err(invalid(
                path,
                &format!(
                    "must be data:TYPE;base64,… in plain base64, with TYPE one of {}",
                    types.join(", ")
                ),
            )),
        }
    }
}

/// An external reference without a slot.
fn reach(kind: ReferenceKind, target: String, path: &Path<'_>) -> ExternalReference {
    ExternalReference { path: path.to_string(), kind, target, steps: path.steps(), slot: None }
}

/// The slot for content in a union. The union needs a member `base64`, whose shape lists the media
/// types.
fn slot(profile: &Profile, union: &Union) -> Option<InlineSlot> {
    let Some(Rule::Pass(ValueKind { object: Some(ObjectKind::Shape(place)), .. })) =
        union.member("base64")
    else {
        return None;
    };
    match profile.shapes.get(*place)?.rule("media_type") {
        Some(Rule::Pass(ValueKind { string: Some(StringKind::OneOf(types)), .. })) => {
            InlineSlot::new(SlotForm::Source, types, profile.media_chars_max())
        }
        _ => None,
    }
}

/// Checks that the references of a JSON schema stay inside it. A parser that followed another
/// reference would fetch it.
pub(super) fn schema(key: &str, value: &Value<'_>, path: &Path<'_>) -> Result<(), Refusal> {
    match value {
        Value::String(text) if matches!(key, "$ref" | "$dynamicRef" | "$recursiveRef") => {
            // A fragment points into the schema itself (RFC 3986, section 3.5).
            if text.starts_with('#') {
                Ok(())
            } else {
                Err(invalid(path, "must point into the schema itself (#/…)"))
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(place, item)| schema("", item, &Path::Item(path, place))),
        Value::Object(object) => {
            object.iter().try_for_each(|(key, value)| schema(key, value, &Path::Key(path, key)))
        }
    }
}

/// Parses a schema that comes as text as strictly as one in the body.
fn schema_text(text: &str, path: &Path<'_>) -> Result<(), Refusal> {
    let value = json::parse(text.as_bytes(), &Limits::deep(SCHEMA_DEPTH))
        .map_err(|fault| invalid(path, &format!("must hold strict JSON: {fault}")))?;
    schema("", &value, path)
}

/// A refusal with `field-invalid`.
fn invalid(path: &Path<'_>, what: &str) -> Refusal {
    Refusal::new(Code::FieldInvalid)
        .saying(format!("The field {path} {what}."))
        .at(path.to_string())
}

/// A description of a value without the text of a prompt: its type, or the digits of a number.
fn described(value: &Value<'_>) -> String {
    match value {
        // A long number could repeat data of the prompt.
        Value::Number(text) if text.len() <= 24 => text.to_string(),
        Value::String(_) => "this string".to_owned(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            format!("a JSON {}", value.kind())
        }
    }
}

/// The target of an object that is an external reference: its URL or id, else its type, else the
/// name of its field.
fn target_of(object: &Object<'_>, path: &Path<'_>) -> String {
    for key in ["server_url", "url", "connector_id", "file_id", "id", "type", "name"] {
        if let Some(text) = object.text(key) {
            return text.to_owned();
        }
    }
    last_key(path)
}

/// The last key of a path.
fn last_key(path: &Path<'_>) -> String {
    match path {
        Path::Root => String::new(),
        Path::Key(_, key) => (*key).to_owned(),
        Path::Item(parent, _) => last_key(parent),
    }
}
