//! The public keys that may sign tokens, by thumbprint, and the standing of each. The gateway holds no minting key.
//!
//! Keys come from two places: the JWKS file of each issuer in the config, and the control records (`keys import`). Retiring
//! and revoking are control records whatever the source, so that an old JWKS file cannot bring a revoked key back.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use arc_swap::ArcSwap;

use crate::audit::format::event::Event;
use crate::audit::format::record::Record;
use crate::clock::Timestamp;
use crate::id::KeyId;
use crate::json;
use crate::refusal::{Code, Refusal};
use crate::token::jwk;
use crate::token::{IssuerPolicy, KeySource, KnownKey};

/// What a key is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Its tokens are read.
    Active,
    /// Tokens that it signed until `since`, which may be still to come, are read until they expire.
    Retiring {
        /// Since when.
        since: Timestamp,
    },
    /// Nothing that it signed is read.
    Revoked {
        /// Since when.
        since: Timestamp,
        /// The operator's reason.
        why: String,
    },
}

impl KeyState {
    /// The state's name.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Retiring { .. } => "retiring",
            Self::Revoked { .. } => "revoked",
        }
    }
}

/// A key as `keys list` shows it.
#[derive(Clone, Debug)]
pub struct KeyRow {
    /// The key and its issuer.
    pub known: Arc<KnownKey>,
    /// What it is good for.
    pub state: KeyState,
    /// When it was imported, where it was.
    pub added: Option<Timestamp>,
    /// The second in which a token of it was last taken here; 0: not since the start.
    used: Arc<AtomicI64>,
}

impl KeyRow {
    /// When a token of the key was last taken here, since the start.
    #[must_use]
    pub fn used(&self) -> Option<Timestamp> {
        let seconds = self.used.load(Ordering::Relaxed);
        (seconds > 0).then(|| Timestamp(seconds.saturating_mul(1000)))
    }
}

/// An issuer and the keys of its JWKS file.
pub struct IssuerKeys {
    /// What its tokens must say.
    pub policy: Arc<IssuerPolicy>,
    /// Its public keys.
    pub keys: Vec<jwk::Jwk>,
}

#[derive(Default)]
struct KeyringState {
    issuers: Vec<(Arc<IssuerPolicy>, Vec<jwk::Jwk>)>,
    fetched: HashMap<String, Vec<jwk::Jwk>>,
    added: Vec<(String, jwk::Jwk, Timestamp)>,
    states: HashMap<KeyId, KeyState>,
}

#[derive(Default)]
struct Snapshot {
    rows: HashMap<KeyId, KeyRow>,
    /// Keys that are revoked, of holders too: these are in no issuer's ring.
    revoked: HashMap<KeyId, (Timestamp, String)>,
}

/// The keys.
#[derive(Default)]
pub struct Keyring {
    book: std::sync::Mutex<KeyringState>,
    snapshot: ArcSwap<Snapshot>,
    generation: AtomicU64,
}

/// The book's lock, poisoned or not: a panic elsewhere must not open or close the door.
fn lock(book: &std::sync::Mutex<KeyringState>) -> std::sync::MutexGuard<'_, KeyringState> {
    book.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Keyring {
    /// An empty ring: every token is refused.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts the config's issuers in the place of the former ones; states and imported keys stay.
    pub fn set_issuers(&self, issuers: Vec<IssuerKeys>) {
        let mut book = lock(&self.book);
        book.issuers = issuers.into_iter().map(|issuer| (issuer.policy, issuer.keys)).collect();
        self.publish(&book);
    }

    /// Lets the issuers stay for which `stays` is true; the keys of all others are unknown from now on.
    pub fn retain_issuers(&self, stays: impl Fn(&str) -> bool) {
        let mut book = lock(&self.book);
        book.issuers.retain(|(policy, _)| stays(&policy.iss));
        self.publish(&book);
    }

    /// Puts the keys of an issuer's file in the place of the former ones; false where they are the same, or nobody's.
    pub fn set_keys(&self, iss: &str, keys: &[jwk::Jwk]) -> bool {
        let mut book = lock(&self.book);
        let Some((_, former)) = book.issuers.iter_mut().find(|(policy, _)| policy.iss == iss)
        else {
            return false;
        };
        if former.iter().map(jwk::Jwk::id).eq(keys.iter().map(jwk::Jwk::id)) {
            return false;
        }
        *former = keys.to_vec();
        self.publish(&book);
        true
    }

    /// The keys that were fetched last, by `iss`.
    #[must_use]
    pub fn fetched(&self) -> HashMap<String, Vec<jwk::Jwk>> {
        lock(&self.book).fetched.clone()
    }

    /// Puts the keys that were fetched, by `iss`, in the place of the former ones.
    pub fn set_fetched(&self, fetched: HashMap<String, Vec<jwk::Jwk>>) {
        let mut book = lock(&self.book);
        book.fetched = fetched;
        self.publish(&book);
    }

    /// Folds one record in. Records of other books change nothing here.
    pub fn apply(&self, record: &Record) {
        let mut book = lock(&self.book);
        match &record.event {
            Event::KeyAdded { issuer, jwk, .. } => {
                // A record was checked before it was sealed; one that no longer reads adds no key, which refuses its tokens.
                if let Ok(key) = read_jwk(jwk) {
                    book.added.push((issuer.clone(), key, record.at));
                }
            }
            Event::KeyRetired { kid, from, .. } => {
                let since = from.unwrap_or(record.at);
                let state = book.states.entry(*kid).or_insert(KeyState::Retiring { since });
                // A later command may bring the end nearer, not farther away.
                if let KeyState::Retiring { since: known } = state {
                    *known = since.min(*known);
                }
            }
            Event::KeyRevoked { kid, reason } => {
                book.states
                    .insert(*kid, KeyState::Revoked { since: record.at, why: reason.clone() });
            }
            Event::Start { .. }
            | Event::Stop
            | Event::AgentRegistered { .. }
            | Event::AgentStatus { .. }
            | Event::NamespaceStatus { .. }
            | Event::PrincipalStatus { .. }
            | Event::TokenRegistered { .. }
            | Event::TokenRevoked { .. }
            | Event::HandleSet { .. }
            | Event::HandleRevoked { .. }
            | Event::Reload { .. }
            | Event::Handover { .. }
            | Event::Epoch { .. }
            | Event::Pruned { .. }
            | Event::Clock { .. }
            | Event::Forgotten { .. }
            | Event::Restored { .. }
            | Event::Backup { .. }
            | Event::Exported { .. }
            | Event::Disclosed { .. }
            | Event::TokenSigned { .. }
            | Event::ReloadRefused { .. }
            | Event::KeysChanged { .. }
            | Event::ModelAccepted { .. }
            | Event::Admission(_)
            | Event::Outcome(_)
            | Event::Refusal(_)
            | Event::Refusals(_)
            | Event::UnauthenticatedRefusals(_)
            | Event::Written(_) => return,
        }
        self.publish(&book);
    }

    fn publish(&self, book: &KeyringState) {
        let (mut rows, former) = (HashMap::new(), self.snapshot.load());
        let from_files = book
            .issuers
            .iter()
            .flat_map(|(policy, keys)| keys.iter().map(move |key| (policy, key)));
        let from_urls = book.issuers.iter().flat_map(|(policy, _)| {
            book.fetched.get(&policy.iss).into_iter().flatten().map(move |key| (policy, key))
        });
        let from_records = book.added.iter().filter_map(|(iss, key, _)| {
            let policy =
                book.issuers.iter().map(|(policy, _)| policy).find(|policy| policy.iss == *iss)?;
            Some((policy, key))
        });
        for (policy, key) in from_files.chain(from_records).chain(from_urls) {
            let id = key.id();
            let state = book.states.get(&id).cloned().unwrap_or(KeyState::Active);
            let known = KnownKey { id, key: key.key().clone(), issuer: Arc::clone(policy) };
            // The first issuer that lists a key owns it: a second listing cannot move it to other namespaces. What an operator
            // put here comes before what somebody publishes.
            let added = book.added.iter().find(|(_, key, _)| key.id() == id).map(|(_, _, at)| *at);
            let used = former.rows.get(&id).map(|row| Arc::clone(&row.used)).unwrap_or_default();
            rows.entry(id).or_insert_with(|| KeyRow { known: Arc::new(known), state, added, used });
        }
        let revoked = book.states.iter().filter_map(|(kid, state)| match state {
            KeyState::Revoked { since, why } => Some((*kid, (*since, why.clone()))),
            KeyState::Active | KeyState::Retiring { .. } => None,
        });
        self.snapshot.store(Arc::new(Snapshot { rows, revoked: revoked.collect() }));
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Moves on with every change of keys, issuers or states; what was verified under another number is verified anew.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The key's row.
    #[must_use]
    pub fn row(&self, kid: &KeyId) -> Option<KeyRow> {
        self.snapshot.load().rows.get(kid).cloned()
    }

    /// Notes that a token of that key was taken, to the second.
    pub fn note_use(&self, kid: &KeyId, now: Timestamp) {
        if let Some(row) = self.snapshot.load().rows.get(kid)
            && row.used.load(Ordering::Relaxed) < now.seconds()
        {
            row.used.store(now.seconds(), Ordering::Relaxed);
        }
    }

    /// All rows, sorted by key id.
    #[must_use]
    pub fn rows(&self) -> Vec<KeyRow> {
        let mut rows: Vec<KeyRow> = self.snapshot.load().rows.values().cloned().collect();
        rows.sort_by_key(|row| row.known.id);
        rows
    }

    /// The keys whose tokens are read, as a JWK Set (RFC 7517 section 5).
    #[must_use]
    pub fn published(&self) -> String {
        let rows =
            self.rows().into_iter().filter(|row| !matches!(row.state, KeyState::Revoked { .. }));
        jwk::write_set(&rows.map(|row| jwk::Jwk::of(row.known.key.clone())).collect::<Vec<_>>())
    }

    /// The issuers of the config.
    #[must_use]
    pub fn issuers(&self) -> Vec<Arc<IssuerPolicy>> {
        lock(&self.book).issuers.iter().map(|(policy, _)| Arc::clone(policy)).collect()
    }

    /// Asks whether a token that `kid` signed at `issued` is still read.
    ///
    /// # Errors
    /// `token-key-unknown` or `key-revoked`.
    pub fn may_sign(&self, kid: &KeyId, issued: Timestamp) -> Result<(), Refusal> {
        match self.snapshot.load().rows.get(kid).map(|row| &row.state) {
            None => Err(Refusal::new(Code::TokenKeyUnknown)),
            Some(KeyState::Active) => Ok(()),
            Some(KeyState::Retiring { since }) if issued.seconds() <= since.seconds() => Ok(()),
            Some(KeyState::Retiring { since }) => Err(Refusal::new(Code::KeyRevoked)
                .saying("The key that signed the token was retired before the token was issued.")
                .because(since)),
            Some(KeyState::Revoked { since, why }) => {
                Err(Refusal::new(Code::KeyRevoked).because(format_args!("since {since}: {why}")))
            }
        }
    }
}

impl Keyring {
    /// That a key is not revoked, whether the ring has it or not: of holders' keys nothing else is known.
    ///
    /// # Errors
    /// `key-revoked`.
    pub fn not_revoked(&self, kid: &KeyId) -> Result<(), Refusal> {
        match self.snapshot.load().revoked.get(kid) {
            Some((since, why)) => {
                Err(Refusal::new(Code::KeyRevoked).because(format_args!("since {since}: {why}")))
            }
            None => Ok(()),
        }
    }

    /// Revoked keys that are in no issuer's ring, by thumbprint, with since when and why: keys of holders.
    #[must_use]
    pub fn revoked_holders(&self) -> Vec<(KeyId, Timestamp, String)> {
        let snapshot = self.snapshot.load();
        let strange = snapshot.revoked.iter().filter(|(kid, _)| !snapshot.rows.contains_key(kid));
        let mut keys: Vec<_> =
            strange.map(|(kid, (since, why))| (*kid, *since, why.clone())).collect();
        keys.sort_by_key(|(kid, ..)| *kid);
        keys
    }
}

impl KeySource for Keyring {
    fn key(&self, kid: &KeyId) -> Option<Arc<KnownKey>> {
        self.snapshot.load().rows.get(kid).map(|row| Arc::clone(&row.known))
    }
}

/// Reads one public JWK from its text.
///
/// # Errors
/// What is wrong with it, in words.
pub fn read_jwk(text: &str) -> Result<jwk::Jwk, String> {
    let value =
        json::parse(text.as_bytes(), &json::Limits::deep(8)).map_err(|fault| fault.to_string())?;
    jwk::Jwk::read(&value).map_err(|fault| fault.to_string())
}
