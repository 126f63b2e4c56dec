//! Issuers' public keys while the gateway runs. Files are read again after a change, URLs are
//! fetched at intervals, and the gateway warns about keys without live tokens.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::header::{ACCEPT, HOST};
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::fault::text_of;
use super::tls;
use crate::audit::format::event::Event;
use crate::clock::Timestamp;
use crate::config::{Config, upstream_url};
use crate::guard::settings::{Issuer, Jwks};
use crate::id::KeyId;
use crate::keyring::{KeyState, Keyring};
use crate::proxy::Gateway;
use crate::proxy::connect::Dialler;
use crate::proxy::settings::ServerAddress;
use crate::token::jwk::{self, Jwk};

/// How often files are checked for changes.
const LOOK: Duration = Duration::from_secs(2);
/// How long a fetch may take.
const FETCH_MAX: Duration = Duration::from_secs(5);
/// The time until the next try after a failed fetch.
const AGAIN: Duration = Duration::from_secs(10);
/// The longest time between two searches for idle keys.
const IDLE: Duration = Duration::from_secs(3600);
/// The maximum of bytes of a JWK Set.
const SET_BYTES_MAX: usize = 1 << 20;

/// What a watch over keys works with.
pub(super) struct KeyWatchInputs {
    /// The issuers in force. A reload changes them.
    pub(super) issuers: watch::Receiver<Arc<Vec<Issuer>>>,
    pub(super) keyring: Arc<Keyring>,
    pub(super) gateway: Arc<Gateway>,
}

/// The watch over files and idle keys.
pub(super) struct FileWatch {
    issuers: watch::Receiver<Arc<Vec<Issuer>>>,
    keyring: Arc<Keyring>,
    gateway: Arc<Gateway>,
    /// The fault of a set at the last check, by `iss`. Each fault is logged once.
    faults: HashMap<String, String>,
    /// When this process saw each key first. A process that has just started knows no earlier use.
    first_seen: HashMap<KeyId, Timestamp>,
    /// The idle keys of the last search, so that each is logged once.
    idle: BTreeSet<KeyId>,
    /// When the next search is due.
    idle_due: Instant,
}

impl FileWatch {
    /// A watch that has seen no file yet.
    pub(super) fn new(inputs: KeyWatchInputs) -> Self {
        let KeyWatchInputs { issuers, keyring, gateway } = inputs;
        let (faults, first_seen, idle) = (HashMap::new(), HashMap::new(), BTreeSet::new());
        Self { issuers, keyring, gateway, faults, first_seen, idle, idle_due: Instant::now() }
    }

    /// Watches until the sender of the issuers is dropped.
    pub(super) async fn run(mut self) {
        loop {
            let issuers = Arc::clone(&self.issuers.borrow_and_update());
            // A file is a few kilobytes, so a read here delays the runtime only for a moment.
            self.files(&issuers);
            self.idle(&issuers);
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                changed = self.issuers.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Keeps the keyring equal to the files. They are small and are read whole, because a change
    /// may not show in a file's time or length. A fault of one issuer does not affect the others.
    fn files(&mut self, issuers: &[Issuer]) {
        for issuer in issuers {
            let Some(Jwks::File(path)) = &issuer.jwks else { continue };
            match read_file(path) {
                Ok(keys) => {
                    self.faults.remove(&issuer.iss);
                    if self.keyring.set_keys(&issuer.iss, &keys) {
                        self.gateway.metrics.jwks_read("ok");
                        self.gateway.recorder.note(changed(issuer, &keys));
                        // Open streams are checked again: their key may be gone.
                        self.gateway.registry.announce();
                        tracing::info!(issuer = issuer.iss, "JWK Set read again");
                    }
                }
                // The same fault is logged once, and not every two seconds.
                Err(fault) if self.faults.get(&issuer.iss) == Some(&fault) => {}
                Err(fault) => {
                    self.gateway.metrics.jwks_read("refused");
                    let path = path.display();
                    tracing::warn!(issuer = issuer.iss, %path, fault, "a JWK Set was not read \
                        again; its former keys stay in force");
                    self.faults.insert(issuer.iss.clone(), fault);
                }
            }
        }
    }

    /// Warns about keys without live tokens. If such a key is retired, no thief can use it.
    fn idle(&mut self, issuers: &[Issuer]) {
        if self.idle_due > Instant::now() {
            return;
        }
        // A quarter of the shortest limit finds an idle key early enough. The bounds prevent a busy
        // loop.
        let mut soonest = IDLE;
        for issuer in issuers {
            soonest = soonest.min(issuer.idle_key / 4);
        }
        self.idle_due = Instant::now() + soonest.max(LOOK);
        let now = self.gateway.clock.now();
        let mut idle = BTreeSet::new();
        let mut signed = None;
        for row in self.keyring.rows() {
            if matches!(row.state, KeyState::Revoked { .. }) {
                continue;
            }
            let kid = row.known.id;
            // The issuer may have been removed by a reload.
            let Some(issuer) = issuers.iter().find(|issuer| issuer.iss == row.known.issuer.iss)
            else {
                continue;
            };
            let first = *self.first_seen.entry(kid).or_insert(now);
            // A key that was imported or used within the limit is not idle.
            let mut last = row.added.map_or(first, |added| added.max(first));
            if let Some(used) = row.used() {
                last = last.max(used);
            }
            if last.plus(issuer.idle_key) > now {
                continue;
            }
            // The count of registered tokens is slow, so it comes last.
            let signed = signed.get_or_insert_with(|| self.gateway.registry.signed(now));
            let is_idle = match signed.get(&kid) {
                Some(signed) => signed.live == 0 && signed.last_end.plus(issuer.idle_key) <= now,
                None => true,
            };
            if is_idle {
                idle.insert(kid);
            }
        }
        for kid in idle.difference(&self.idle) {
            tracing::warn!(%kid, "no live token of this key for long: retire it (token-shield keys \
                retire)");
        }
        self.gateway.metrics.idle_keys(idle.len());
        self.idle = idle;
    }
}

/// The watch over sets at URLs. Each is fetched separately, so that a slow server does not delay
/// the others.
pub(super) struct UrlWatch {
    issuers: watch::Receiver<Arc<Vec<Issuer>>>,
    keyring: Arc<Keyring>,
    gateway: Arc<Gateway>,
    fetched: HashMap<String, FetchedKeys>,
}

/// The keys of one issuer, and when the next fetch is due.
struct FetchedKeys {
    from: Jwks,
    keys: Vec<Jwk>,
    due: Instant,
}

impl UrlWatch {
    /// A watch without fetched sets. [`UrlWatch::once`] fetches them.
    pub(super) fn new(inputs: KeyWatchInputs) -> Self {
        let KeyWatchInputs { issuers, keyring, gateway } = inputs;
        Self { issuers, keyring, gateway, fetched: HashMap::new() }
    }

    /// Starts with the key sets that a successor fetched before it took over. A set that cannot be
    /// fetched again keeps its keys.
    pub(super) fn resume(&mut self) {
        let mut keys = self.keyring.fetched();
        for issuer in self.issuers.borrow().iter() {
            let (Some(from), Some(keys)) = (issuer.jwks.clone(), keys.remove(&issuer.iss)) else {
                continue;
            };
            // These may be the former process's keys, because no fetch has succeeded here.
            let due = Instant::now() + issuer.jwks_refresh.min(AGAIN);
            self.fetched.insert(issuer.iss.clone(), FetchedKeys { from, keys, due });
        }
    }

    /// Watches until the sender of the issuers is dropped.
    pub(super) async fn run(mut self) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                changed = self.issuers.changed() => if changed.is_err() { return },
            }
            self.once().await;
        }
    }

    /// Fetches all due sets at once, in at most the time of one fetch.
    pub(super) async fn once(&mut self) {
        let issuers = Arc::clone(&self.issuers.borrow_and_update());
        let mut published: Vec<(&Issuer, &Jwks)> = Vec::new();
        for issuer in issuers.iter() {
            if let Some(jwks @ Jwks::Url { .. }) = &issuer.jwks {
                published.push((issuer, jwks));
            }
        }
        let before = self.fetched.len();
        // A removed issuer, or one with a new URL, loses its keys before the fetch. A fetch may
        // take seconds.
        self.fetched.retain(|iss, known| {
            published.iter().any(|(issuer, jwks)| issuer.iss == *iss && **jwks == known.from)
        });
        if self.fetched.len() != before {
            self.publish();
        }
        let mut fetches = JoinSet::new();
        for (issuer, jwks) in published {
            if self.is_due(&issuer.iss) {
                let (issuer, jwks) = (issuer.clone(), jwks.clone());
                fetches.spawn(async move { (fetch(&jwks).await, issuer, jwks) });
            }
        }
        while let Some(done) = fetches.join_next().await {
            if let Ok((outcome, issuer, jwks)) = done {
                self.take(outcome, &issuer, jwks);
            }
        }
    }

    /// Whether the set of an issuer has to be fetched now.
    fn is_due(&self, iss: &str) -> bool {
        match self.fetched.get(iss) {
            Some(known) => known.due <= Instant::now(),
            None => true,
        }
    }

    /// Takes the result of one fetch. After a failure the former keys stay, because an outage of
    /// the key server must not lock out all callers.
    fn take(&mut self, outcome: Result<Vec<Jwk>, String>, issuer: &Issuer, from: Jwks) {
        let former = self.fetched.remove(&issuer.iss);
        let (keys, next) = match outcome {
            Ok(keys) => {
                self.gateway.metrics.jwks_read("ok");
                (keys, issuer.jwks_refresh)
            }
            Err(fault) => {
                self.gateway.metrics.jwks_read("refused");
                tracing::warn!(
                    issuer = issuer.iss,
                    fault,
                    "a JWK Set was not fetched; its former keys stay in force"
                );
                let keys = match &former {
                    Some(former) => former.keys.clone(),
                    None => Vec::new(),
                };
                // The next try comes sooner than a usual refresh.
                (keys, issuer.jwks_refresh.min(AGAIN))
            }
        };
        // Only a change of the set is recorded. A server may list the same keys in another order.
        let changed = match former {
            Some(former) => ids(&former.keys) != ids(&keys),
            None => true,
        };
        let event = self::changed(issuer, &keys);
        self.fetched
            .insert(issuer.iss.clone(), FetchedKeys { from, keys, due: Instant::now() + next });
        if changed {
            self.gateway.recorder.note(event);
            self.publish();
        }
    }

    /// Puts all fetched keys into force. Open streams are checked again.
    fn publish(&self) {
        let mut fetched = HashMap::new();
        for (iss, known) in &self.fetched {
            fetched.insert(iss.clone(), known.keys.clone());
        }
        self.keyring.set_fetched(fetched);
        self.gateway.registry.announce();
    }
}

/// The ids of keys, without their order.
fn ids(keys: &[Jwk]) -> BTreeSet<KeyId> {
    keys.iter().map(Jwk::id).collect()
}

/// The keys of the JWK Set in a file.
///
/// # Errors
/// The reason why the file or the set cannot be read, without the path.
pub(super) fn read_file(path: &Path) -> Result<Vec<Jwk>, String> {
    let text = std::fs::read_to_string(path).map_err(text_of)?;
    jwk::read_set(&text).map_err(text_of)
}

/// The record of a change of an issuer's keys.
fn changed(issuer: &Issuer, keys: &[Jwk]) -> Event {
    let kids: Vec<String> = keys.iter().map(|key| key.id().to_string()).collect();
    Event::KeysChanged { issuer: issuer.iss.clone(), kids: kids.join(" ") }
}

/// Fetches the published keys of every issuer, for a command without a running gateway. Returns the
/// faults.
pub(crate) async fn fetch_all(config: &Config, keyring: &Keyring) -> Vec<String> {
    let (mut fetched, mut faults) = (HashMap::new(), Vec::new());
    for issuer in &config.guard.issuers {
        let Some(jwks @ Jwks::Url { .. }) = &issuer.jwks else { continue };
        match fetch(jwks).await {
            Ok(keys) => drop(fetched.insert(issuer.iss.clone(), keys)),
            Err(fault) => faults.push(format!("issuer {}: {fault}", issuer.iss)),
        }
    }
    keyring.set_fetched(fetched);
    faults
}

/// Fetches one JWK Set, within [`FETCH_MAX`].
async fn fetch(jwks: &Jwks) -> Result<Vec<Jwk>, String> {
    let Jwks::Url { url, ca } = jwks else { return Ok(Vec::new()) };
    let fetched = tokio::time::timeout(FETCH_MAX, get(url, ca.as_deref())).await;
    let text = fetched.map_err(|_| format!("{url}: no answer in {} s", FETCH_MAX.as_secs()))?;
    let text = text.map_err(|fault| format!("{url}: {fault}"))?;
    jwk::read_published(&text).map_err(|fault| format!("{url}: {fault}"))
}

/// Gets the text at an `https` URL. Redirects are not followed.
async fn get(url: &str, ca: Option<&Path>) -> Result<String, String> {
    let (target, path) = upstream_url(url).ok_or("not a URL")?;
    // Keys over plain HTTP could be replaced on the network. The attacker could then sign tokens.
    let ServerAddress::Tls { host, .. } = &target else { return Err("not https".to_owned()) };
    let client = tls::client(host, ca)?;
    let (authority, dialler) = (target.authority(), Dialler::new(target, Some(client), FETCH_MAX));
    let stream = dialler.dial().await.map_err(text_of)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(text_of)?;
    let driver = tokio::spawn(connection);
    let request = hyper::Request::get(if path.is_empty() { "/" } else { &path })
        .header(HOST, authority)
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .body(Empty::<Bytes>::new())
        .map_err(text_of)?;
    let answer = sender.send_request(request).await.map_err(text_of)?;
    if answer.status() != hyper::StatusCode::OK {
        return Err(format!("the answer is {}", answer.status()));
    }
    // A hostile or faulty key server must not fill the memory.
    let body = Limited::new(answer.into_body(), SET_BYTES_MAX).collect().await.map_err(text_of)?;
    driver.abort();
    String::from_utf8(body.to_bytes().to_vec()).map_err(|_| "not UTF-8".to_owned())
}
