//! Judges every field of a body, at every depth, by a profile.

use std::collections::HashSet;

use crate::json::{self, Limits, Object, Value};
use crate::refusal::{Code, Refusal};
use crate::suggest::nearest;

use super::inline_slot::{InlineSlot, SlotForm};
use super::kind::{Medium, ObjectKind, Rule, StringKind, ValueKind};
use super::path::{Path, shown};
use super::profile::{Profile, Shape, Union};
use super::signature;
use super::{ExternalReference, ReferenceKind, UnknownFields};

/// Dropped fields that are named to the caller.
const DROPPED_MAX: usize = 16;
/// Depth of a schema that comes as text.
const SCHEMA_DEPTH: usize = 64;

/// What the judge has found so far.
pub(super) struct BodyValidator<'t> {
    profile: &'t Profile,
    unknown: UnknownFields,
    pub(super) external_references: Vec<ExternalReference>,
    pub(super) dropped: Vec<String>,
}

impl<'t> BodyValidator<'t> {
    pub(super) const fn new(profile: &'t Profile, unknown: UnknownFields) -> Self {
        Self { profile, unknown, external_references: Vec::new(), dropped: Vec::new() }
    }

    /// Judges the members of a closed object and takes out those that are dropped.
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
                None if self.unknown == UnknownFields::Drop && !self.profile.never(key) => {
                    out.insert(key.to_owned());
                }
                None => return Err(self.unknown(shape, key, value, &path)),
            }
        }
        if !out.is_empty() {
            object.retain(|key| {
                let goes = out.contains(key);
                if goes && self.dropped.len() < DROPPED_MAX {
                    self.dropped.push(Path::Key(path, key).to_string());
                }
                !goes
            });
        }
        for name in &shape.required {
            if matches!(object.get(name), None | Some(Value::Null)) {
                let missing = Path::Key(path, name).to_string();
                return Err(Refusal::new(Code::FieldMissing)
                    .saying(format!("The field {missing} is required."))
                    .at(missing));
            }
        }
        Ok(())
    }

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

    fn kind(
        &mut self,
        kind: &ValueKind,
        value: &mut Value<'_>,
        path: &Path<'_>,
    ) -> Result<(), Refusal> {
        let fits = match &mut *value {
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

    /// Plain names with strings, numbers and booleans behind them; a name that no caller may send is refused here too.
    fn scalars(&self, object: &Object<'_>, path: &Path<'_>) -> Result<(), Refusal> {
        for (key, value) in object.iter() {
            let path = Path::Key(path, key);
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

    /// A value whose mere presence reaches out; nothing, `false` and an empty array do not.
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
            Value::Bool(true) | Value::Number(_) => last_key(path),
        };
        self.external_references.push(reach(kind, target, path));
    }

    /// Inline content passes when its type and size do; anything else is a place to fetch from.
    fn media(&mut self, medium: Medium, text: &str, path: &Path<'_>) -> Result<(), Refusal> {
        let max = self.profile.media_chars_max();
        if text.len() > max {
            return Err(invalid(
                path,
                &format!("holds {} characters of inline content; the limit is {max}", text.len()),
            ));
        }
        let is_base64 = |text: &str| {
            text.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='))
        };
        if medium == Medium::Base64 {
            if !is_base64(text) {
                self.external_references.push(reach(ReferenceKind::Media, text.to_owned(), path));
            } else if !signature::is_content(text) {
                return Err(invalid(
                    path,
                    "begins as text, not as an image, sound or document: a decoder might fetch by it",
                ));
            }
            return Ok(());
        }
        // Only the exact spelling passes: what one reader takes for inline content another may take for a place.
        let types = self.profile.media_types(medium);
        let Some(rest) = text.strip_prefix("data:") else {
            let slot = InlineSlot::new(SlotForm::DataUrl, types, max);
            self.external_references.push(ExternalReference {
                slot,
                ..reach(ReferenceKind::Media, text.to_owned(), path)
            });
            return Ok(());
        };
        match rest.split_once(";base64,") {
            Some((media_type, content))
                if types.iter().any(|known| known == media_type) && is_base64(content) =>
            {
                let fits = signature::fits(media_type, content);
                if fits {
                    Ok(())
                } else {
                    Err(invalid(path, &format!("does not begin as {media_type} does")))
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

    /// The refusal of a field that the shape does not have.
    fn unknown(&self, shape: &Shape, key: &str, value: &Value<'_>, path: &Path<'_>) -> Refusal {
        let refusal = Refusal::new(Code::FieldNotAllowed).at(path.to_string());
        let server = self.profile.name();
        if self.profile.never(key) {
            return refusal.saying(format!(
                "The field {path} is not allowed: it is never taken from a caller."
            ));
        }
        let folded = fold(key);
        if let Some((known, _)) = shape.fields.iter().find(|(known, _)| fold(known) == folded) {
            let says = format!(
                "The field {path} is not allowed: {} is not {known:?}; keys are compared exactly.",
                shown(key)
            );
            return refusal.saying(says);
        }
        let near = nearest(shape.fields.iter().map(|(known, _)| known.as_str()), key);
        let rule = match value {
            Value::Null => "open",
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "[open]",
            Value::Object(_) => "object",
        };
        refusal.saying(format!(
            "The field {path} is not one that the profile {server} passes{}. An agent's class with unknown_fields = \"drop\" drops \
             it. The line that would let it pass, built into config/profiles/{server}.toml under [shape.{}]: {} = \"{rule}\".",
            near.map_or_else(String::new, |near| format!("; did you mean {near:?}")),
            shape.name,
            shown(key),
        ))
    }
}

fn reach(kind: ReferenceKind, target: String, path: &Path<'_>) -> ExternalReference {
    ExternalReference { path: path.to_string(), kind, target, steps: path.steps(), slot: None }
}

/// How content can replace a member of that union: as its member `base64`, whose shape names the
/// media types.
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

/// A JSON schema's references stay inside it: a reader that followed one would fetch.
fn schema(key: &str, value: &Value<'_>, path: &Path<'_>) -> Result<(), Refusal> {
    match value {
        Value::String(text) if matches!(key, "$ref" | "$dynamicRef" | "$recursiveRef") => {
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

/// A schema that comes as text is read as strictly as one that stands in the body.
fn schema_text(text: &str, path: &Path<'_>) -> Result<(), Refusal> {
    let value = json::parse(text.as_bytes(), &Limits::deep(SCHEMA_DEPTH))
        .map_err(|fault| invalid(path, &format!("must hold strict JSON: {fault}")))?;
    schema("", &value, path)
}

fn invalid(path: &Path<'_>, what: &str) -> Refusal {
    Refusal::new(Code::FieldInvalid)
        .saying(format!("The field {path} {what}."))
        .at(path.to_string())
}

/// A value in words that repeat nothing of a prompt: the kind, and a number's own digits.
fn described(value: &Value<'_>) -> String {
    match value {
        Value::Number(text) if text.len() <= 24 => text.to_string(),
        Value::String(_) => "this string".to_owned(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            format!("a JSON {}", value.kind())
        }
    }
}

/// What an object that reaches out names: its URL or id, else its type, else the field that it stands in.
fn target_of(object: &Object<'_>, path: &Path<'_>) -> String {
    let named = ["server_url", "url", "connector_id", "file_id", "id", "type", "name"];
    let text = named.iter().find_map(|key| object.get(key).and_then(Value::as_str));
    text.map_or_else(|| last_key(path), str::to_owned)
}

fn last_key(path: &Path<'_>) -> String {
    match path {
        Path::Root => String::new(),
        Path::Key(_, key) => (*key).to_owned(),
        Path::Item(parent, _) => last_key(parent),
    }
}

/// Whether [`fold`] leaves a key as it is, because that is in ASCII without capitals.
pub(super) fn is_folded(key: &str) -> bool {
    key.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase())
}

/// One form for all spellings that some reader takes for the same key: case, the look-alikes that case folding maps to ASCII
/// (long s, Kelvin sign), and full-width letters.
pub(super) fn fold(key: &str) -> String {
    let narrow = |character: char| match u32::from(character) {
        code @ 0xff01..=0xff5e => char::from_u32(code - 0xfee0).unwrap_or(character),
        _ => character,
    };
    key.chars().map(narrow).flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}
