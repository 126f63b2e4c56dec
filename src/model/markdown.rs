//! Images in Markdown, which some servers look for in the text itself, and fetch.

use crate::json::{Object, Value};

use super::path::Path;
use super::{Reach, ReachKind, Step};

/// What such a server looks for. It puts the parts of a message together first.
const MARK: &str = "![](";

/// All text in the order in which it stands, and where each piece begins.
#[derive(Default)]
struct Text {
    text: String,
    pieces: Vec<(usize, String, Vec<Step>)>,
}

impl Text {
    fn of(text: &str, path: &Path<'_>) -> Self {
        Self { text: text.to_owned(), pieces: vec![(0, path.to_string(), path.steps())] }
    }

    fn images(&self) -> Vec<Reach> {
        let found = self.text.match_indices(MARK).map(|(at, _)| {
            let place = self.pieces.partition_point(|(begin, ..)| *begin <= at).saturating_sub(1);
            let (path, steps) = self.pieces.get(place).map(|(_, path, steps)| (path.clone(), steps.clone())).unwrap_or_default();
            let target = self.text.get(at + MARK.len()..).and_then(|rest| rest.split(')').next()).unwrap_or_default();
            Reach { path, kind: ReachKind::Media, target: target.to_owned(), steps, inlet: None }
        });
        found.collect()
    }

    fn object(&mut self, object: &Object<'_>, path: &Path<'_>) {
        object.iter().for_each(|(key, value)| self.value(value, &Path::Key(path, key)));
    }

    fn value(&mut self, value: &Value<'_>, path: &Path<'_>) {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
            // What says of which kind a part is stands between the texts of two parts.
            Value::String(_) if matches!(path, Path::Key(_, "type" | "role")) => {}
            Value::String(text) => {
                self.pieces.push((self.text.len(), path.to_string(), path.steps()));
                self.text.push_str(text);
            }
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(place, item)| self.value(item, &Path::Item(path, place)));
            }
            Value::Object(object) => self.object(object, path),
        }
    }
}

/// Every place where an image begins: in all text, in the texts of an array's parts alone, and in names, which such a server reads too
/// (those of tools).
pub(super) fn reaches(object: &Object<'_>) -> Vec<Reach> {
    let mut all = Text::default();
    all.object(object, &Path::Root);
    let mut found = all.images();
    let mut others = Vec::new();
    within(object, &Path::Root, &mut others);
    for reach in others {
        if !found.iter().any(|known| known.path == reach.path && known.target == reach.target) {
            found.push(reach);
        }
    }
    found
}

/// What the parts of arrays and the names in an object hold.
fn within(object: &Object<'_>, path: &Path<'_>, found: &mut Vec<Reach>) {
    for (key, value) in object.iter() {
        let path = Path::Key(path, key);
        if key.contains(MARK) {
            found.extend(Text::of(key, &path).images());
        }
        inside(value, &path, found);
    }
}

fn inside(value: &Value<'_>, path: &Path<'_>, found: &mut Vec<Reach>) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        Value::Object(object) => within(object, path, found),
        Value::Array(items) => {
            let mut parts = Text::default();
            for (place, item) in items.iter().enumerate() {
                let path = Path::Item(path, place);
                if let Some(text) = item.as_object().and_then(|part| part.get("text")) {
                    parts.value(text, &Path::Key(&path, "text"));
                }
                inside(item, &path, found);
            }
            found.extend(parts.images());
        }
    }
}
