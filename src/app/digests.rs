//! Finds the digests of the weights that answer. It hashes and watches files, and queries model
//! servers.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::audit::format::request::ModelDigest;
use crate::config::Config;
use crate::guard::settings::Model;
use crate::proxy::forward::UpstreamClient;
use crate::proxy::settings::{ServerAddress, UpstreamSettings};
use crate::proxy::{DataPlaneConfig, Gateway};
use crate::weights::files::{SeenFile, look, measure};
use crate::weights::{Declared, DigestSource, MEASURED, ModelServer, Weights, servers, unknown};

/// How often files are checked for changes.
const LOOK: Duration = Duration::from_secs(2);
/// How often servers are queried.
const ASK: Duration = Duration::from_secs(10);
/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The models of a config, each with the source of its digest.
pub(super) fn declared(config: &Config) -> Vec<Declared> {
    let mut declared = Vec::new();
    for model in &config.guard.models {
        declared.push(declared_model(model, &config.proxy.upstreams));
    }
    declared
}

/// One model with the servers of its route. A name in the route without an upstream is left out.
fn declared_model(model: &Model, upstreams: &[UpstreamSettings]) -> Declared {
    let mut places = Vec::new();
    for name in &model.route {
        if let Some(upstream) = upstreams.iter().find(|upstream| upstream.name == *name) {
            places.push(model_server(upstream, !model.weights.is_empty()));
        }
    }
    let upstream_name = match &model.upstream_name {
        Some(name) => name.clone(),
        None => model.name.clone(),
    };
    Declared {
        name: model.name.as_str().into(),
        upstream_name,
        files: model.weights.clone(),
        pin: model.pin.clone(),
        places,
    }
}

/// A server of a model. `has_files`: the config names the files of the model's weights.
fn model_server(upstream: &UpstreamSettings, has_files: bool) -> ModelServer {
    let way = match (&upstream.target, upstream.profile.as_str()) {
        // It has no weights, even if files are configured for the model.
        (ServerAddress::Echo, _) => DigestSource::None,
        // Ollama has its own store and reports the digest itself.
        (_, "ollama") => DigestSource::Ollama,
        (_, _) if has_files => DigestSource::Files,
        (_, _) => DigestSource::Listed,
    };
    // Passed digests count only for the same address: a new one is another server (passed.rs).
    let address = format!("{:?} {}", upstream.target, upstream.base_path);
    ModelServer { upstream: upstream.name.as_str().into(), address, way }
}

/// Watches as long as the gateway runs.
pub(super) async fn watch(gateway: Arc<Gateway>) {
    let files = WeightsWatch {
        weights: Arc::clone(&gateway.weights),
        known: HashMap::new(),
        hashing: None,
    };
    tokio::join!(files.run(), ask(&gateway));
}

/// Stores a digest, and logs a change.
fn note(weights: &Weights, about: &Declared, place: &ModelServer, digest: &ModelDigest) {
    if weights.note(about, place, digest) {
        let (model, upstream, source) = (&*about.name, &*place.upstream, digest.source);
        tracing::info!(model, upstream, digest = digest.value, source, "the weights of a model");
    }
}

/// The state of one set of files.
struct WatchedFiles {
    /// The files at the last check, or the reason why they cannot be read.
    seen: Result<Vec<SeenFile>, String>,
    digest: Option<ModelDigest>,
}

/// A set of files that is being hashed. A drop stops it.
struct Hashing {
    files: Vec<PathBuf>,
    seen: Vec<SeenFile>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<String, String>>,
}

impl Drop for Hashing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The watch over files. Sets are hashed one after the other, because one disk is not faster with
/// several.
struct WeightsWatch {
    weights: Arc<Weights>,
    known: HashMap<Vec<PathBuf>, WatchedFiles>,
    hashing: Option<Hashing>,
}

impl WeightsWatch {
    /// Checks the sets at intervals, and takes the result of a hash as soon as it is ready.
    async fn run(mut self) {
        let mut ticks = tokio::time::interval(LOOK);
        // A check of large sets may take longer than the interval. Missed checks are not repeated.
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Without a hash in progress this branch never ends, and only the timer counts.
            let hashed = async {
                match &mut self.hashing {
                    Some(hashing) => (&mut hashing.task).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = ticks.tick() => self.look().await,
                done = hashed => self.take(done.unwrap_or_else(|error| Err(error.to_string()))),
            }
            self.publish();
            self.begin();
        }
    }

    /// Checks every set of the config. A changed set loses its digest.
    async fn look(&mut self) {
        let mut sets: HashSet<Vec<PathBuf>> = HashSet::new();
        for model in self.weights.declared() {
            if !model.files.is_empty() {
                sets.insert(model.files.clone());
            }
        }
        // A reload may have removed a model.
        self.known.retain(|files, _| sets.contains(files));
        for files in sets {
            let paths = files.clone();
            // Files of weights may be on a slow network disk.
            let looked = tokio::task::spawn_blocking(move || look(&paths)).await;
            let seen = looked.unwrap_or_else(|error| Err(error.to_string()));
            if let Some(known) = self.known.get(&files)
                && known.seen == seen
            {
                continue;
            }
            if let Err(fault) = &seen {
                tracing::warn!(fault, "the files of weights cannot be read");
            }
            // The files changed during the hash, so its result would mix two versions.
            if let Some(hashing) = &self.hashing
                && hashing.files == files
            {
                self.hashing = None;
            }
            let digest = match &seen {
                Ok(seen) => self.weights.hashed(&files, seen),
                Err(_) => None,
            };
            self.known.insert(files, WatchedFiles { seen, digest });
        }
    }

    /// Hashes the next set that has no digest yet.
    fn begin(&mut self) {
        if self.hashing.is_some() {
            return;
        }
        let Some((files, seen)) = self.next_open() else { return };
        let stop = Arc::new(AtomicBool::new(false));
        let (sets, stopped) = (seen.clone(), Arc::clone(&stop));
        let task = tokio::task::spawn_blocking(move || measure(&sets, &stopped));
        self.hashing = Some(Hashing { files, seen, stop, task });
    }

    /// A set that has no digest yet, with its files at the last check.
    fn next_open(&self) -> Option<(Vec<PathBuf>, Vec<SeenFile>)> {
        for (files, known) in &self.known {
            if let (None, Ok(seen)) = (&known.digest, &known.seen) {
                return Some((files.clone(), seen.clone()));
            }
        }
        None
    }

    /// The digest of a set of files. It is unknown until the set is hashed.
    fn digest(&self, files: &[PathBuf]) -> ModelDigest {
        match self.known.get(files) {
            Some(WatchedFiles { digest: Some(digest), .. }) => digest.clone(),
            Some(_) | None => unknown(),
        }
    }

    /// Takes the result of a hash. After a failure, the set is checked and hashed again.
    fn take(&mut self, outcome: Result<String, String>) {
        let Some(hashing) = self.hashing.take() else { return };
        let Some(known) = self.known.get_mut(&hashing.files) else { return };
        // The files have changed since the hash began.
        if known.seen.as_ref() != Ok(&hashing.seen) {
            return;
        }
        match outcome {
            Ok(value) => {
                self.weights.remember(&hashing.files, &hashing.seen, &value);
                known.digest = Some(ModelDigest { value, source: MEASURED });
            }
            Err(fault) => {
                tracing::warn!(fault, "weights were not hashed");
                // The next check finds a difference, and hashes the set again.
                known.seen = Err(fault);
            }
        }
    }

    /// Stores the digests for every server that answers with these files.
    fn publish(&self) {
        for model in self.weights.declared() {
            let digest = self.digest(&model.files);
            for place in &model.places {
                if place.way == DigestSource::Files {
                    note(&self.weights, &model, place, &digest);
                }
            }
        }
    }
}

/// Asks the servers at intervals, and at once after a reload.
async fn ask(gateway: &Gateway) {
    let mut asked: Option<(Arc<DataPlaneConfig>, Instant)> = None;
    loop {
        let wiring = gateway.config.load_full();
        let due = match &asked {
            Some((known, at)) => !Arc::ptr_eq(known, &wiring) || at.elapsed() >= ASK,
            None => true,
        };
        if due {
            asked = Some((Arc::clone(&wiring), Instant::now()));
            ask_once(gateway, &wiring).await;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Asks all servers at once, so that a slow one does not delay the others.
async fn ask_once(gateway: &Gateway, wiring: &Arc<DataPlaneConfig>) {
    let models = gateway.weights.declared();
    let mut asked: HashSet<(Arc<str>, &str)> = HashSet::new();
    for model in &models {
        for place in &model.places {
            if let Some(path) = path(place.way) {
                asked.insert((Arc::clone(&place.upstream), path));
            }
        }
    }
    let mut answers = JoinSet::new();
    for (upstream, path) in asked {
        let Some(remote) = wiring.upstreams.get(&upstream).cloned() else { continue };
        answers.spawn(async move { (answer(&remote, path).await, upstream, path) });
    }
    while let Some(Ok((answer, upstream, path))) = answers.join_next().await {
        // A server may repeat the credential here too, and records and commands show its answer.
        let answer = answer.map(|told| wiring.redactor.whole(&told, false).unwrap_or(told));
        // An answer to the former config must not count for the servers of this one.
        if !Arc::ptr_eq(wiring, &gateway.config.load()) {
            return;
        }
        for model in &models {
            for place in &model.places {
                if place.upstream == upstream && self::path(place.way) == Some(path) {
                    let digest = read(place.way, answer.as_deref(), &model.upstream_name);
                    note(&gateway.weights, model, place, &digest);
                    let context = context(place.way, answer.as_deref(), &model.upstream_name);
                    gateway.weights.note_context(model, place, context);
                }
            }
        }
    }
}

/// The context of a model in an answer, in tokens.
fn context(way: DigestSource, answer: Option<&[u8]>, model: &str) -> Option<u64> {
    match way {
        DigestSource::Listed => servers::context(answer?, model),
        DigestSource::None | DigestSource::Files | DigestSource::Ollama => None,
    }
}

/// The path to ask for.
const fn path(way: DigestSource) -> Option<&'static str> {
    match way {
        DigestSource::None | DigestSource::Files => None,
        DigestSource::Ollama => Some("/api/tags"),
        DigestSource::Listed => Some("/v1/models"),
    }
}

/// The digest in an answer. Without an answer it is unknown: the server may return with other
/// weights.
fn read(way: DigestSource, answer: Option<&[u8]>, model: &str) -> ModelDigest {
    match (way, answer) {
        (DigestSource::Ollama, Some(answer)) => servers::ollama(answer, model),
        (DigestSource::Listed, Some(answer)) => servers::listed(answer, model),
        (DigestSource::None | DigestSource::Files, _)
        | (DigestSource::Ollama | DigestSource::Listed, None) => unknown(),
    }
}

/// The body at `path` of a server. `None` if the server does not answer in time. Many servers do
/// not report their weights, so the log line has the level debug.
async fn answer(remote: &UpstreamClient, path: &str) -> Option<Vec<u8>> {
    let answered = tokio::time::timeout(ANSWER_MAX, remote.read(path)).await;
    match answered
        .unwrap_or_else(|_| Err(format!("{path}: no answer in {} s", ANSWER_MAX.as_secs())))
    {
        Ok(body) => Some(body),
        Err(fault) => {
            tracing::debug!(
                upstream = &*remote.name,
                fault,
                "a server does not report its weights"
            );
            None
        }
    }
}
