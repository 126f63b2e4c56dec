//! Profiles: which fields a model server knows. A profile is read from a TOML file in
//! `config/profiles/`.
//!
//! A profile can have a base (`base = "generic"`). It then contains only the differences. Shapes
//! are closed objects with a rule for each field. Unions choose a shape by the value of a tag.

use std::sync::{Arc, OnceLock};

use toml::Table;

use super::Operation;
use super::gateway_fields::{GatewayFields, read_gateway};
use super::kind::{Medium, ObjectKind, Rule, ValueKind};
use super::profile_table::{
    ProfileFault, as_table, fault, rule_at, size_at, sub_table, text_at, texts_at,
};

/// The fields that a model server knows, with their rules.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The name of the profile.
    name: String,
    /// The shapes. Rules refer to them by index.
    pub(super) shapes: Vec<Shape>,
    /// The unions. Rules refer to them by index.
    pub(super) unions: Vec<Union>,
    /// The names of the operations that the server has.
    operations: Vec<String>,
    /// The patterns of values of the header `anthropic-beta` that the server gets.
    anthropic_beta: Vec<String>,
    /// The patterns of fields that no caller may send.
    never: Vec<String>,
    /// The patterns of fields that are not dropped where they are unknown.
    binding: Vec<String>,
    /// The allowed inline content.
    media: Media,
    /// The fields that the gateway writes.
    pub(super) gateway: Arc<GatewayFields>,
}

/// The sort order of a shape's fields. Most comparisons of a search end with the lengths, before
/// the text is compared.
const fn order(name: &str) -> (usize, &str) {
    (name.len(), name)
}

/// A closed object. Its fields are sorted by length and name.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// The name of the shape.
    pub(super) name: String,
    /// The fields with their rules.
    pub(super) fields: Vec<(String, Rule)>,
    /// The fields that must be present.
    pub(super) required: Vec<String>,
}

impl Shape {
    /// The rule for a field.
    pub(super) fn rule(&self, key: &str) -> Option<&Rule> {
        let place = self.fields.binary_search_by(|(name, _)| order(name).cmp(&order(key))).ok()?;
        let (_, rule) = self.fields.get(place)?;
        Some(rule)
    }
}

/// An object whose tag chooses its shape.
#[derive(Clone, Debug)]
pub(super) struct Union {
    /// The name of the tag's field.
    pub(super) tag: String,
    /// The rules by tag. A `*` at the end of a tag matches any suffix.
    members: Vec<(String, Rule)>,
    /// The rule if the tag is absent.
    pub(super) missing: Option<Rule>,
    /// The rule if no member has the tag.
    other: Option<Rule>,
}

impl Union {
    /// The rule for an object with that tag.
    pub(super) fn member(&self, tag: &str) -> Option<&Rule> {
        for (pattern, rule) in &self.members {
            if matches(pattern, tag) {
                return Some(rule);
            }
        }
        self.other.as_ref()
    }

    /// The known tags.
    pub(super) fn tags(&self) -> String {
        self.members.iter().map(|(tag, _)| tag.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// True if `pattern` is equal to `text`, or ends with `*` and its rest is a prefix of `text`.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(front) => text.starts_with(front),
        None => pattern == text,
    }
}

/// The allowed inline content: the media types and the maximum length.
#[derive(Clone, Debug, Default)]
struct Media {
    /// The media types of images.
    image: Vec<String>,
    /// The media types of sounds.
    audio: Vec<String>,
    /// The media types of videos.
    video: Vec<String>,
    /// The media types of documents.
    file: Vec<String>,
    /// The maximum number of characters of one field.
    chars_max: usize,
}

/// The built-in profiles: names and texts.
const BUILT_IN: [(&str, &str); 6] = [
    ("generic", include_str!("../../config/profiles/generic.toml")),
    ("vllm", include_str!("../../config/profiles/vllm.toml")),
    ("llama.cpp", include_str!("../../config/profiles/llama.cpp.toml")),
    ("ollama", include_str!("../../config/profiles/ollama.toml")),
    ("tgi", include_str!("../../config/profiles/tgi.toml")),
    ("sglang", include_str!("../../config/profiles/sglang.toml")),
];

impl Profile {
    /// The names of the built-in profiles.
    pub const NAMES: [&'static str; 6] =
        ["generic", "vllm", "llama.cpp", "ollama", "tgi", "sglang"];

    /// The built-in profile of that name. It is compiled once.
    #[must_use]
    pub fn named(name: &str) -> Option<Arc<Self>> {
        // Each built-in profile is compiled at its first use, and then shared.
        static READ: [OnceLock<Option<Arc<Profile>>>; 6] = [const { OnceLock::new() }; 6];
        let place = BUILT_IN.iter().position(|(known, _)| *known == name)?;
        let (cell, (_, text)) = (READ.get(place)?, BUILT_IN.get(place)?);
        cell.get_or_init(|| Some(Arc::new(Self::read(text).ok()?))).clone()
    }

    /// Reads a profile.
    ///
    /// # Errors
    /// The first key that is wrong.
    pub fn read(text: &str) -> Result<Self, ProfileFault> {
        compile(&layered(text)?)
    }

    /// The profile's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// True if the server has the operation.
    #[must_use]
    pub fn has(&self, operation: Operation) -> bool {
        self.operations.iter().any(|name| *name == operation.as_str())
    }

    /// True if the server gets that value of the header `anthropic-beta`.
    #[must_use]
    pub fn takes_beta(&self, value: &str) -> bool {
        self.anthropic_beta.iter().any(|pattern| matches(pattern, value))
    }

    /// True if the server forwards the prompts for a model of that name to a service outside.
    #[must_use]
    pub fn forwards_model(&self, name: &str) -> bool {
        // Ollama compares names without regard to case. A digest may follow the name.
        let name = match name.split_once('@') {
            Some((name, _)) => name.to_ascii_lowercase(),
            None => name.to_ascii_lowercase(),
        };
        self.gateway.cloud_models.iter().any(|end| name.ends_with(end.as_str()))
    }

    /// True if the server has a field for the request's id.
    #[must_use]
    pub fn takes_request_id(&self) -> bool {
        self.gateway.request_id.is_some()
    }

    /// True if the server has a field for the prompt cache's salt.
    #[must_use]
    pub fn takes_cache_salt(&self) -> bool {
        self.gateway.cache_salt.is_some()
    }

    /// The shape of that name.
    pub(super) fn shape(&self, name: &str) -> Option<&Shape> {
        self.shapes.iter().find(|shape| shape.name == name)
    }

    /// True for a field that no caller may send, at any depth.
    pub(super) fn never(&self, key: &str) -> bool {
        self.never.iter().any(|pattern| matches(pattern, key))
    }

    /// True for a field that bounds, stops, shapes or protects an answer.
    pub(super) fn is_binding(&self, key: &str) -> bool {
        self.binding.iter().any(|pattern| matches(pattern, key))
    }

    /// The media types that may be inline for `medium`.
    pub(super) fn media_types(&self, medium: Medium) -> &[String] {
        match medium {
            Medium::Image => &self.media.image,
            Medium::Audio => &self.media.audio,
            Medium::Video => &self.media.video,
            Medium::File => &self.media.file,
            // Bare base64 has no media type.
            Medium::Base64 => &[],
        }
    }

    /// The maximum number of characters of inline content in one field.
    pub(super) const fn media_chars_max(&self) -> usize {
        self.media.chars_max
    }
}

/// A profile's table, merged over the table of its base.
fn layered(text: &str) -> Result<Table, ProfileFault> {
    let own = text.parse::<Table>().map_err(|error| ProfileFault::Toml(error.to_string()))?;
    let Some(base) = text_at(&own, "base")? else { return Ok(own) };
    // A built-in profile that names itself as its base would recurse without end.
    let built_in = BUILT_IN.iter().find(|(known, below)| *known == base && *below != text);
    let Some((_, below)) = built_in else { return Err(ProfileFault::Base(base)) };
    let mut table = layered(below)?;
    lay_over(&mut table, own);
    Ok(table)
}

/// Merges `upper` into `lower`: tables are merged, all other values are replaced.
fn lay_over(lower: &mut Table, upper: Table) {
    for (key, value) in upper {
        match (lower.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => lay_over(below, above),
            (_, value) => {
                lower.insert(key, value);
            }
        }
    }
}

/// Compiles a merged table to a profile and links the names in its rules.
fn compile(table: &Table) -> Result<Profile, ProfileFault> {
    // An unknown key is an error: a misspelled one could disable a rule.
    const KEYS: [&str; 11] = [
        "name",
        "base",
        "operations",
        "anthropic_beta",
        "never",
        "binding",
        "media",
        "gateway",
        "include",
        "shape",
        "union",
    ];
    if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(fault(key, format!("not a key of a profile; those are {}", KEYS.join(", "))));
    }
    let mut shapes = read_shapes(table)?;
    let mut unions = Vec::new();
    let mut union_names = Vec::new();
    for (name, value) in sub_table(table, "union")? {
        unions.push(read_union(name, as_table(value, &format!("union.{name}"))?)?);
        union_names.push(name.clone());
    }
    let names = RuleNames {
        shapes: shapes.iter().map(|shape| shape.name.clone()).collect(),
        unions: union_names,
    };
    for shape in &mut shapes {
        for (field, rule) in &mut shape.fields {
            names.link_rule(rule, &format!("shape.{}.{field}", shape.name))?;
        }
    }
    for (union, name) in unions.iter_mut().zip(&names.unions) {
        let key = format!("union.{name}");
        for (_, rule) in &mut union.members {
            names.link_rule(rule, &key)?;
        }
        for rule in union.missing.iter_mut().chain(&mut union.other) {
            names.link_rule(rule, &key)?;
        }
    }
    let gateway = read_gateway(sub_table(table, "gateway")?)?;
    let profile = Profile {
        name: text_at(table, "name")?.ok_or_else(|| fault("name", "is missing"))?,
        shapes,
        unions,
        operations: texts_at(table, "operations")?,
        anthropic_beta: texts_at(table, "anthropic_beta")?,
        never: texts_at(table, "never")?,
        binding: texts_at(table, "binding")?,
        media: read_media(sub_table(table, "media")?)?,
        gateway: Arc::new(gateway),
    };
    check_operations(&profile)?;
    Ok(profile)
}

/// Checks that each operation of the profile exists and has the shape of its body. So a missing one
/// is found at the start.
fn check_operations(profile: &Profile) -> Result<(), ProfileFault> {
    for name in &profile.operations {
        let known = Operation::ALL.iter().find(|known| known.as_str() == name);
        let Some(shape) = known.and_then(|operation| operation.shape()) else {
            return Err(fault("operations", format!("{name:?} is no operation with a body")));
        };
        if profile.shape(shape).is_none() {
            return Err(fault(format!("shape.{shape}"), "is missing"));
        }
    }
    Ok(())
}

/// Reads the shapes, each with the fields of the shapes that it includes. The rules of the shape
/// itself take precedence, then the rules of the last included shape.
fn read_shapes(table: &Table) -> Result<Vec<Shape>, ProfileFault> {
    let (tables, includes) = (sub_table(table, "shape")?, sub_table(table, "include")?);
    // A misspelled name would silently include no fields.
    if let Some(name) = includes.keys().find(|name| !tables.contains_key(name.as_str())) {
        return Err(fault(format!("include.{name}"), "there is no such shape"));
    }
    let never = texts_at(table, "never")?;
    let mut shapes = Vec::with_capacity(tables.len());
    for (name, own) in tables {
        let mut fields: Vec<(String, Rule)> = Vec::new();
        let included =
            if includes.contains_key(name) { texts_at(includes, name)? } else { Vec::new() };
        let mut sources = vec![(name, Some(own))];
        for other in included.iter().rev() {
            sources.push((other, tables.get(other)));
        }
        for (from, fields_of) in sources {
            let key = format!("shape.{from}");
            let Some(fields_of) = fields_of else { return Err(fault(key, "must be a table")) };
            for (field, value) in as_table(fields_of, &key)? {
                let rule = rule_at(&format!("{key}.{field}"), value)?;
                // A rule must not pass a field that `never` forbids.
                if matches!(rule, Rule::Pass(_))
                    && never.iter().any(|pattern| matches(pattern, field))
                {
                    return Err(fault(
                        format!("{key}.{field}"),
                        "is listed under never, so it cannot pass",
                    ));
                }
                // The first rule for a field wins, because the shapes come in the order of
                // precedence.
                if fields.iter().all(|(known, _)| known != field) {
                    fields.push((field.clone(), rule));
                }
            }
        }
        // Sorted for the binary search in `Shape::rule`.
        fields.sort_by(|one, other| order(&one.0).cmp(&order(&other.0)));
        let mut required = Vec::new();
        for (field, rule) in &fields {
            if matches!(rule, Rule::Pass(kind) if kind.required) {
                required.push(field.clone());
            }
        }
        shapes.push(Shape { name: name.clone(), fields, required });
    }
    Ok(shapes)
}

/// Reads a union.
fn read_union(name: &str, table: &Table) -> Result<Union, ProfileFault> {
    const KEYS: [&str; 4] = ["tag", "members", "missing", "other"];
    if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(fault(
            format!("union.{name}.{key}"),
            format!("not a key of a union; those are {}", KEYS.join(", ")),
        ));
    }
    let mut members = Vec::new();
    for (tag, value) in sub_table(table, "members")? {
        members.push((tag.clone(), rule_at(&format!("union.{name}.members.{tag}"), value)?));
    }
    // An exact tag takes precedence over a pattern, and a longer pattern over a shorter one.
    members.sort_by_key(|(tag, _)| (tag.ends_with('*'), usize::MAX - tag.len()));
    let tag =
        text_at(table, "tag")?.ok_or_else(|| fault(format!("union.{name}.tag"), "is missing"))?;
    let missing = fallback(name, table, "missing")?;
    Ok(Union { tag, members, missing, other: fallback(name, table, "other")? })
}

/// The rule of a union for tags that are absent or unknown, if it has one under `key`.
fn fallback(name: &str, table: &Table, key: &str) -> Result<Option<Rule>, ProfileFault> {
    match table.get(key) {
        Some(value) => Ok(Some(rule_at(&format!("union.{name}.{key}"), value)?)),
        None => Ok(None),
    }
}

/// Reads the table `media`.
fn read_media(table: &Table) -> Result<Media, ProfileFault> {
    Ok(Media {
        image: texts_at(table, "image")?,
        audio: texts_at(table, "audio")?,
        video: texts_at(table, "video")?,
        file: texts_at(table, "file")?,
        chars_max: size_at(table, "chars_max")
            .ok_or_else(|| fault("media.chars_max", "must be a number of characters"))?,
    })
}

/// The index of a name.
fn place_of(names: &[String], name: &str) -> Option<usize> {
    names.iter().position(|known| known == name)
}

/// The names that rules may refer to.
struct RuleNames {
    /// The names of the shapes, by index.
    shapes: Vec<String>,
    /// The names of the unions, by index.
    unions: Vec<String>,
}

impl RuleNames {
    /// Replaces the names in a rule by indexes.
    fn link_rule(&self, rule: &mut Rule, key: &str) -> Result<(), ProfileFault> {
        match rule {
            Rule::Pass(kind) => self.link(kind, key),
            Rule::Set | Rule::Drop | Rule::Refuse | Rule::Reach(_) => Ok(()),
        }
    }

    /// Replaces the names in a kind by indexes. Unknown and ambiguous names are errors.
    fn link(&self, kind: &mut ValueKind, key: &str) -> Result<(), ProfileFault> {
        if let Some(item) = &mut kind.array {
            self.link(item, key)?;
        }
        if let Some(ObjectKind::Named(name)) = &kind.object {
            kind.object = match (place_of(&self.shapes, name), place_of(&self.unions, name)) {
                (Some(place), None) => Some(ObjectKind::Shape(place)),
                (None, Some(place)) => Some(ObjectKind::Union(place)),
                (None, None) => {
                    return Err(fault(key, format!("there is no shape or union {name:?}")));
                }
                (Some(_), Some(_)) => {
                    return Err(fault(key, format!("{name:?} is both a shape and a union")));
                }
            };
        }
        Ok(())
    }
}
