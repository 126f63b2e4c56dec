//! The weights digests of each model at each server. The hashing task and the queries of servers
//! write them; every request reads them.

pub mod files;
pub mod passed;
pub mod servers;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;

use crate::audit::format::event::Event;
use crate::audit::format::record::Record;
use crate::audit::format::request::ModelDigest;
use crate::lock::locked;

/// The gateway or Ollama hashed the weights.
pub const MEASURED: &str = "measured";
/// The server reports the digest.
pub const REPORTED: &str = "reported";
/// No digest is known.
pub const UNKNOWN: &str = "unknown";

/// The digest of unknown weights.
#[must_use]
pub fn unknown() -> ModelDigest {
    ModelDigest { value: String::new(), source: UNKNOWN }
}

/// How the digest of a model at a server is determined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestSource {
    /// It is not determined: the model is built in.
    None,
    /// From the files that the config names.
    Files,
    /// From `GET /api/tags` of Ollama.
    Ollama,
    /// From `GET /v1/models`.
    Listed,
}

/// A server of a model's route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelServer {
    /// Its name in the config.
    pub upstream: Arc<str>,
    /// Its address. A server with another address is another server, even with the same name.
    pub address: String,
    /// How its digest is determined.
    pub way: DigestSource,
}

/// A model as the config describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Its canonical name.
    pub name: Arc<str>,
    /// Its name at the server.
    pub upstream_name: String,
    /// Its files and folders of files.
    pub files: Vec<PathBuf>,
    /// The digest that it must have.
    pub pin: Option<String>,
    /// The servers that run it.
    pub places: Vec<ModelServer>,
}

impl Declared {
    /// Whether a digest found at `place` is valid for `other` too.
    fn same(&self, place: &ModelServer, other: &Self) -> bool {
        self.name == other.name
            && self.upstream_name == other.upstream_name
            && self.files == other.files
            && other.places.contains(place)
    }
}

/// A model at a server, as `model list` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelRow {
    /// The model.
    pub model: Arc<str>,
    /// The server.
    pub upstream: Arc<str>,
    /// Its digest now.
    pub digest: Arc<ModelDigest>,
    /// The digest that it must have.
    pub pin: Option<String>,
    /// The digests that operators have accepted for the model.
    pub accepted: BTreeSet<String>,
}

/// A model and its known digests, by server.
#[derive(Clone)]
struct ModelWeights {
    declared: Arc<Declared>,
    seen: HashMap<Arc<str>, Arc<ModelDigest>>,
    /// The context in tokens that each server reports, by server.
    contexts: HashMap<Arc<str>, u64>,
}

impl ModelWeights {
    /// The known digests that are valid for another declaration of the model too. Only its pin may
    /// differ. Another server or other files are checked again.
    fn valid_for(&self, declared: &Declared) -> HashMap<Arc<str>, Arc<ModelDigest>> {
        let mut valid = HashMap::new();
        for place in &self.declared.places {
            if self.declared.same(place, declared)
                && let Some(digest) = self.seen.get(&place.upstream)
            {
                valid.insert(Arc::clone(&place.upstream), Arc::clone(digest));
            }
        }
        valid
    }
}

/// All models, and the accepted digests by model.
#[derive(Clone, Default)]
struct WeightsState {
    models: BTreeMap<Arc<str>, ModelWeights>,
    accepted: BTreeMap<String, BTreeSet<String>>,
}

impl WeightsState {
    /// The known digest of a model at a server.
    fn seen(&self, model: &str, upstream: &str) -> Option<&Arc<ModelDigest>> {
        self.models.get(model)?.seen.get(upstream)
    }

    /// Whether the pin of a model permits a server.
    fn passes(&self, model: &str, upstream: &str) -> bool {
        let Some(pin) = self.pin(model) else { return true };
        // A pinned model needs a known digest: an unknown one is refused, not trusted.
        let Some(seen) = self.seen(model, upstream) else { return false };
        seen.source != UNKNOWN && (seen.value == *pin || self.is_accepted(model, &seen.value))
    }

    /// The digest that a model must have, if it has a pin.
    fn pin(&self, model: &str) -> Option<&String> {
        self.models.get(model)?.declared.pin.as_ref()
    }

    /// Whether operators have accepted a digest for a model.
    fn is_accepted(&self, model: &str, digest: &str) -> bool {
        match self.accepted.get(model) {
            Some(accepted) => accepted.contains(digest),
            None => false,
        }
    }
}

/// The digests of all models. A digest without an entry is unknown.
pub struct Weights {
    book: ArcSwap<WeightsState>,
    unknown: Arc<ModelDigest>,
    /// Held by a writer, because each new snapshot is made from the one before.
    writing: Mutex<()>,
    /// The sets of files that were hashed.
    hashed: Mutex<Vec<passed::Hashed>>,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            book: ArcSwap::default(),
            unknown: Arc::new(unknown()),
            writing: Mutex::default(),
            hashed: Mutex::default(),
        }
    }
}

impl Weights {
    /// Makes a changed copy of the state, and publishes it.
    fn change(&self, change: impl FnOnce(&mut WeightsState)) {
        let _turn = locked(&self.writing);
        // Readers continue with the old snapshot. The copy is cheap, because changes are rare.
        let mut book = WeightsState::clone(&self.book.load());
        change(&mut book);
        self.book.store(Arc::new(book));
    }

    /// Replaces the models of the config. A known digest stays if the model and its server are the
    /// same.
    pub fn declare(&self, models: Vec<Declared>) {
        self.change(|book| {
            let former = std::mem::take(&mut book.models);
            for declared in models {
                let seen = match former.get(&declared.name) {
                    Some(before) => before.valid_for(&declared),
                    None => HashMap::new(),
                };
                book.models.insert(
                    Arc::clone(&declared.name),
                    ModelWeights { declared: Arc::new(declared), seen, contexts: HashMap::new() },
                );
            }
        });
    }

    /// The models of the config.
    #[must_use]
    pub fn declared(&self) -> Vec<Arc<Declared>> {
        self.book.load().models.values().map(|entry| Arc::clone(&entry.declared)).collect()
    }

    /// Records the digest of a model at a server. True if it has changed. A digest for a config
    /// that is no longer active is dropped.
    pub fn note(&self, about: &Declared, place: &ModelServer, digest: &ModelDigest) -> bool {
        // Most checks find the same digest. They make no new snapshot.
        if *self.digest(&about.name, &place.upstream) == *digest {
            return false;
        }
        let mut news = false;
        self.change(|book| {
            // Hashing takes long. In the meantime a reload may have changed the files or the
            // server.
            let Some(entry) = book.models.get_mut(&about.name) else { return };
            if !about.same(place, &entry.declared) {
                return;
            }
            news = true;
            // An unknown digest removes the known one: a server that stopped reporting must not
            // keep its pass.
            if digest.source == UNKNOWN {
                entry.seen.remove(&place.upstream);
            } else {
                entry.seen.insert(Arc::clone(&place.upstream), Arc::new(digest.clone()));
            }
        });
        news
    }

    /// The digest of a model at a server.
    #[must_use]
    pub fn digest(&self, model: &str, upstream: &str) -> Arc<ModelDigest> {
        self.digest_in(&self.book.load(), model, upstream)
    }

    /// Records the context of a model at a server, in tokens. `None` if the server reports none.
    pub fn note_context(&self, about: &Declared, place: &ModelServer, context: Option<u64>) {
        if self.context(&about.name, &place.upstream) == context {
            return;
        }
        self.change(|book| {
            let Some(entry) = book.models.get_mut(&about.name) else { return };
            // The answer belongs to an older config.
            if !about.same(place, &entry.declared) {
                return;
            }
            match context {
                Some(tokens) => entry.contexts.insert(Arc::clone(&place.upstream), tokens),
                None => entry.contexts.remove(&place.upstream),
            };
        });
    }

    /// The context of a model at a server, in tokens; `None` if the server has not reported it.
    #[must_use]
    pub fn context(&self, model: &str, upstream: &str) -> Option<u64> {
        self.book.load().models.get(model)?.contexts.get(upstream).copied()
    }

    /// The digest of a model at a server in one snapshot.
    fn digest_in(&self, book: &WeightsState, model: &str, upstream: &str) -> Arc<ModelDigest> {
        match book.seen(model, upstream) {
            Some(seen) => Arc::clone(seen),
            None => Arc::clone(&self.unknown),
        }
    }

    /// The digest of a model at a server, if requests for it may go there now.
    #[must_use]
    pub fn passing(&self, model: &str, upstream: &str) -> Option<Arc<ModelDigest>> {
        let book = self.book.load();
        if !book.passes(model, upstream) {
            return None;
        }
        Some(self.digest_in(&book, model, upstream))
    }

    /// Whether requests for the model may go to that server: it has no pin, or its digest is the
    /// pinned or an accepted one.
    #[must_use]
    pub fn passes(&self, model: &str, upstream: &str) -> bool {
        self.book.load().passes(model, upstream)
    }

    /// Applies a record: digests that operators accepted.
    pub fn apply(&self, record: &Record) {
        if let Event::ModelAccepted { model, digest, .. } = &record.event {
            self.change(|book| {
                book.accepted.entry(model.clone()).or_default().insert(digest.clone());
            });
        }
    }

    /// Every model at every server, in order of the names.
    #[must_use]
    pub fn rows(&self) -> Vec<ModelRow> {
        let book = self.book.load();
        let mut rows = Vec::new();
        for (model, entry) in &book.models {
            for place in &entry.declared.places {
                rows.push(ModelRow {
                    model: Arc::clone(model),
                    upstream: Arc::clone(&place.upstream),
                    digest: self.digest_in(&book, model, &place.upstream),
                    pin: entry.declared.pin.clone(),
                    accepted: book.accepted.get(&**model).cloned().unwrap_or_default(),
                });
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn place(upstream: &str, way: DigestSource) -> ModelServer {
        ModelServer { upstream: upstream.into(), address: "there".to_owned(), way }
    }

    fn model(pin: Option<&str>) -> Declared {
        Declared {
            name: "m".into(),
            upstream_name: "m".to_owned(),
            files: Vec::new(),
            pin: pin.map(str::to_owned),
            places: vec![place("a", DigestSource::Ollama), place("b", DigestSource::Listed)],
        }
    }

    fn measured(value: &str) -> ModelDigest {
        ModelDigest { value: value.to_owned(), source: MEASURED }
    }

    #[test]
    fn what_nobody_noted_is_unknown() {
        let weights = Weights::default();
        assert_eq!(*weights.digest("m", "a"), unknown());
        assert!(weights.passes("m", "a"), "a model without a pin passes");
        weights.declare(vec![model(None)]);
        assert!(weights.note(
            &model(None),
            &place("a", DigestSource::Ollama),
            &measured("sha256:1")
        ));
        assert!(
            !weights.note(&model(None), &place("a", DigestSource::Ollama), &measured("sha256:1")),
            "no news"
        );
        assert_eq!(*weights.digest("m", "a"), measured("sha256:1"));
        assert_eq!(*weights.digest("m", "b"), unknown());
    }

    #[test]
    fn a_pin_holds_until_another_digest_is_accepted() {
        let (weights, declared) = (Weights::default(), model(Some("sha256:1")));
        weights.declare(vec![declared.clone()]);
        let at = place("a", DigestSource::Ollama);
        assert!(!weights.passes("m", "a"), "unknown");
        weights.note(&declared, &at, &measured("sha256:1"));
        assert!(weights.passes("m", "a") && !weights.passes("m", "b"));
        weights.note(&declared, &at, &measured("sha256:2"));
        assert!(!weights.passes("m", "a"));
        let event = Event::ModelAccepted {
            model: "m".to_owned(),
            digest: "sha256:2".to_owned(),
            reason: "new".to_owned(),
        };
        weights.apply(&Record { at: Timestamp(0), by: None, event });
        assert!(weights.passes("m", "a"));
        weights.note(&declared, &at, &unknown());
        assert!(!weights.passes("m", "a"));
    }

    #[test]
    fn a_reload_keeps_what_still_holds() {
        let (weights, former) = (Weights::default(), model(None));
        weights.declare(vec![former.clone()]);
        weights.note(&former, &place("a", DigestSource::Ollama), &measured("sha256:1"));
        weights.note(&former, &place("b", DigestSource::Listed), &measured("sha256:2"));
        let mut moved = model(Some("sha256:1"));
        moved.places[1].address = "elsewhere".to_owned();
        weights.declare(vec![moved]);
        assert_eq!(*weights.digest("m", "a"), measured("sha256:1"));
        assert_eq!(*weights.digest("m", "b"), unknown(), "another server");
        assert!(
            !weights.note(&former, &place("b", DigestSource::Listed), &measured("sha256:2")),
            "an answer of the former server"
        );
    }
}
