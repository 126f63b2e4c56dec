//! Reads declarations of routes from TOML. `config/routes/` has those that are built in.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use toml::{Table, Value};

use super::super::profile_table::{ProfileFault, as_table, fault, text_at, texts_at};
use super::pattern::PathPattern;
use super::route::{AnswerKind, CapPlace, DeclaredRoute, ModelPlace, RequestBody};

/// The largest body without `body_bytes`.
const BODY_MAX: u64 = 32 << 20;

/// A declaration that is built in.
pub struct Declaration {
    /// Its name in the config.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

impl Declaration {
    /// Every one that is built in.
    pub const ALL: [Self; 7] = [
        Self { name: "audio", text: include_str!("../../../config/routes/audio.toml") },
        Self { name: "images", text: include_str!("../../../config/routes/images.toml") },
        Self { name: "vllm", text: include_str!("../../../config/routes/vllm.toml") },
        Self { name: "llama.cpp", text: include_str!("../../../config/routes/llama.cpp.toml") },
        Self { name: "tgi", text: include_str!("../../../config/routes/tgi.toml") },
        Self { name: "kserve", text: include_str!("../../../config/routes/kserve.toml") },
        Self { name: "triton", text: include_str!("../../../config/routes/triton.toml") },
    ];

    /// The declaration of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static str> {
        Self::ALL.iter().find(|known| known.name == name).map(|known| known.text)
    }
}

/// Reads the routes of a declaration. `bytes` reads a size with its unit.
///
/// # Errors
/// The first key that is wrong.
pub fn declarations(
    text: &str,
    bytes: impl Fn(&str) -> Option<u64>,
) -> Result<Vec<Arc<DeclaredRoute>>, ProfileFault> {
    let table = text.parse::<Table>().map_err(|error| ProfileFault::Toml(error.to_string()))?;
    if let Some(key) = table.keys().find(|key| *key != "route") {
        return Err(fault(key, "not a key of a declaration; it has [[route]] alone"));
    }
    let Some(Value::Array(items)) = table.get("route") else {
        return Err(fault("route", "must be an array of tables, [[route]]"));
    };
    let mut routes = Vec::with_capacity(items.len());
    for item in items {
        routes.push(Arc::new(route(as_table(item, "route")?, &bytes)?));
    }
    Ok(routes)
}

/// Reads one route.
fn route(
    table: &Table,
    bytes: &impl Fn(&str) -> Option<u64>,
) -> Result<DeclaredRoute, ProfileFault> {
    const KEYS: [&str; 14] = [
        "name",
        "method",
        "path",
        "body",
        "types",
        "body_bytes",
        "model",
        "scope",
        "answers",
        "reader",
        "prompts",
        "schemas",
        "output_caps",
        "servers",
    ];
    let name = required(table, "route", "name")?;
    let at = |key: &str| format!("route {name}: {key}");
    if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(fault(at(key), format!("not a key of a route; those are {}", KEYS.join(", "))));
    }
    // The name becomes a label of metrics.
    let is_name =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    if name.is_empty() || name.len() > 64 || !name.bytes().all(is_name) {
        return Err(fault(at("name"), "must be 1 to 64 of a-z, 0-9, `.`, `_` and `-`"));
    }
    let path = PathPattern::read(&required(table, &name, "path")?, &at("path"))?;
    let reads = match text_at(table, "method")?.as_deref() {
        None | Some("POST") => false,
        Some("GET") => true,
        Some(_) => return Err(fault(at("method"), "must be \"GET\" or \"POST\"")),
    };
    let body = body(table, reads, &at)?;
    let place = required(table, &name, "model")?;
    let model = model_place(&place, &path, &body).map_err(|what| fault(at("model"), what))?;
    let body_max = match text_at(table, "body_bytes")? {
        None => BODY_MAX,
        Some(size) => bytes(&size)
            .ok_or_else(|| fault(at("body_bytes"), "must be a size such as \"32MiB\""))?,
    };
    let is_for_programs = match text_at(table, "reader")?.as_deref() {
        None | Some("class") => false,
        Some("program") => true,
        Some(_) => return Err(fault(at("reader"), "must be \"class\" or \"program\"")),
    };
    // The gateway writes the cap into a JSON object alone.
    let caps = caps(table)?;
    if !caps.is_empty() && body != RequestBody::Json {
        return Err(fault(at("output_caps"), "needs a JSON body"));
    }
    Ok(DeclaredRoute {
        name: kept(&name),
        reads,
        path,
        body,
        body_max,
        model,
        scope: required(table, &name, "scope")?,
        answers: answers(table, &at)?,
        is_for_programs,
        servers: optional_texts(table, "servers")?,
        prompts: optional_texts(table, "prompts")?,
        schemas: optional_texts(table, "schemas")?,
        caps,
    })
}

/// The place of the model's name.
fn model_place(
    place: &str,
    path: &PathPattern,
    body: &RequestBody,
) -> Result<ModelPlace, &'static str> {
    match place {
        "path" if path.has_model() => Ok(ModelPlace::Path),
        // Otherwise the name in the path would be the caller's, and not checked.
        _ if path.has_model() => Err("must be \"path\", because the path has {model}"),
        "field" if matches!(body, RequestBody::Json | RequestBody::Form) => Ok(ModelPlace::Field),
        "fixed" => Ok(ModelPlace::Fixed),
        _ => {
            Err("must be \"field\" (of a JSON or form body), \"path\" (with {model} in the path) \
            or \"fixed\"")
        }
    }
}

/// A string that must be present.
fn required(table: &Table, name: &str, key: &str) -> Result<String, ProfileFault> {
    text_at(table, key)?.ok_or_else(|| fault(format!("route {name}: {key}"), "is missing"))
}

/// An array of strings. A missing key reads as an empty array.
fn optional_texts(table: &Table, key: &str) -> Result<Vec<String>, ProfileFault> {
    if table.contains_key(key) { texts_at(table, key) } else { Ok(Vec::new()) }
}

/// The form of the body.
fn body(
    table: &Table,
    reads: bool,
    at: &impl Fn(&str) -> String,
) -> Result<RequestBody, ProfileFault> {
    let types = optional_texts(table, "types")?;
    let body = match text_at(table, "body")?.as_deref() {
        Some("none") if reads => RequestBody::None,
        None if reads => RequestBody::None,
        Some("json") if !reads => RequestBody::Json,
        Some("multipart") if !reads => RequestBody::Form,
        // Without a list, a caller could send JSON that no filter reads.
        Some("bytes") if !reads && !types.is_empty() => RequestBody::Bytes(types.clone()),
        Some(_) | None => {
            let what = "must be \"json\", \"multipart\", or \"bytes\" with the media types in \
                types; for GET it is \"none\"";
            return Err(fault(at("body"), what));
        }
    };
    for known in &types {
        let is_type = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"/.+-".contains(&byte)
        };
        // The gateway reads JSON and forms where they are declared as such.
        let is_read = matches!(known.as_str(), "application/json" | "multipart/form-data");
        if !matches!(body, RequestBody::Bytes(_)) || is_read || !known.bytes().all(is_type) {
            let what = "must be media types in lower case other than JSON and forms, for a body of \
                bytes";
            return Err(fault(at("types"), what));
        }
    }
    Ok(body)
}

/// The kinds of answers.
fn answers(table: &Table, at: &impl Fn(&str) -> String) -> Result<Vec<AnswerKind>, ProfileFault> {
    let mut kinds = Vec::new();
    for name in texts_at(table, "answers")? {
        let Some(kind) = AnswerKind::ALL.into_iter().find(|kind| kind.as_str() == name) else {
            let names = AnswerKind::ALL.map(AnswerKind::as_str).join(", ");
            return Err(fault(at("answers"), format!("{name:?} is not one of {names}")));
        };
        kinds.push(kind);
    }
    Ok(kinds)
}

/// The places of the cap: `NAME` or `OBJECT.NAME`.
fn caps(table: &Table) -> Result<Vec<CapPlace>, ProfileFault> {
    let mut caps = Vec::new();
    for text in optional_texts(table, "output_caps")? {
        caps.push(match text.split_once('.') {
            Some((object, name)) => {
                CapPlace { object: Some(object.to_owned()), name: name.to_owned() }
            }
            None => CapPlace { object: None, name: text },
        });
    }
    Ok(caps)
}

/// The name for the life of the process, as metrics and records need it. Each name is kept once, so
/// a reload of the config uses no further memory.
fn kept(name: &str) -> &'static str {
    static KEPT: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = kept.get(name) {
        return known;
    }
    let new: &'static str = Box::leak(name.to_owned().into_boxed_str());
    kept.insert(new);
    new
}
