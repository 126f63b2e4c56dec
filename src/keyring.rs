//! The keyring: the public keys that may sign tokens, by thumbprint, with the state of each. The
//! gateway has no minting key.
//!
//! Keys come from the JWK Sets of the issuers in the config, from files or URLs, and from control
//! records (`keys import`). Retirement and revocation are control records for all of them. An old
//! JWKS file therefore cannot make a revoked key valid again.

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

/// The state of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Its tokens are accepted.
    Active,
    /// Tokens that it signed until `since` are accepted until they expire. `since` may be in the
    /// future.
    Retiring {
        /// The time of the retirement.
        since: Timestamp,
    },
    /// No token that it signed is accepted.
    Revoked {
        /// The time of the revocation.
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
    /// Its state.
    pub state: KeyState,
    /// The time of the import, if it was imported.
    pub added: Option<Timestamp>,
    /// When this process last accepted a token of it, in seconds since 1970. 0: never since the
    /// start.
    used: Arc<AtomicI64>,
}

impl KeyRow {
    /// When this process last accepted a token of the key, since its start.
    #[must_use]
    pub fn used(&self) -> Option<Timestamp> {
        let seconds = self.used.load(Ordering::Relaxed);
        (seconds > 0).then(|| Timestamp(seconds.saturating_mul(1000)))
    }
}

/// An issuer and the keys of its JWKS file.
pub struct IssuerKeys {
    /// The rules for its tokens.
    pub policy: Arc<IssuerPolicy>,
    /// Its public keys.
    pub keys: Vec<jwk::Jwk>,
}

/// The keys and states, as the config, the fetches and the records give them. Each change makes a
/// new [`Snapshot`].
#[derive(Default)]
struct KeyringState {
    /// The issuers of the config, with the keys of their files.
    issuers: Vec<(Arc<IssuerPolicy>, Vec<jwk::Jwk>)>,
    /// The keys from the issuers' URLs, by `iss`.
    fetched: HashMap<String, Vec<jwk::Jwk>>,
    /// The imported keys, with their issuer and the time of the import.
    added: Vec<(String, jwk::Jwk, Timestamp)>,
    /// The states that control records set.
    states: HashMap<KeyId, KeyState>,
}

/// The keys as requests read them, without a lock.
#[derive(Default)]
struct Snapshot {
    rows: HashMap<KeyId, KeyRow>,
    /// Revoked keys, including those of holders, which belong to no issuer.
    revoked: HashMap<KeyId, (Timestamp, String)>,
}

/// All keys. Commands and reloads write; requests read a snapshot.
#[derive(Default)]
pub struct Keyring {
    book: std::sync::Mutex<KeyringState>,
    snapshot: ArcSwap<Snapshot>,
    generation: AtomicU64,
}

/// The locked state. A poisoned lock is used too: a panic in another thread must not stop the
/// verification of tokens.
fn lock(book: &std::sync::Mutex<KeyringState>) -> std::sync::MutexGuard<'_, KeyringState> {
    book.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Keyring {
    /// A keyring without keys: it refuses every token.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the issuers of the config. States and imported keys stay.
    pub fn set_issuers(&self, issuers: Vec<IssuerKeys>) {
        let mut book = lock(&self.book);
        book.issuers = issuers.into_iter().map(|issuer| (issuer.policy, issuer.keys)).collect();
        self.publish(&book);
    }

    /// Keeps the issuers for which `stays` is true. The keys of all others are unknown from now on.
    pub fn retain_issuers(&self, stays: impl Fn(&str) -> bool) {
        let mut book = lock(&self.book);
        book.issuers.retain(|(policy, _)| stays(&policy.iss));
        self.publish(&book);
    }

    /// Replaces the keys of an issuer's file. False if the keys are the same, or the issuer is
    /// unknown.
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

    /// The keys from the last fetch, by `iss`.
    #[must_use]
    pub fn fetched(&self) -> HashMap<String, Vec<jwk::Jwk>> {
        lock(&self.book).fetched.clone()
    }

    /// Replaces the fetched keys, by `iss`.
    pub fn set_fetched(&self, fetched: HashMap<String, Vec<jwk::Jwk>>) {
        let mut book = lock(&self.book);
        book.fetched = fetched;
        self.publish(&book);
    }

    /// Applies one record. Records about other state have no effect here.
    pub fn apply(&self, record: &Record) {
        let mut book = lock(&self.book);
        match &record.event {
            Event::KeyAdded { issuer, jwk, .. } => {
                // The key was valid when it was recorded. If this version cannot parse it, the key
                // is absent and its tokens are refused.
                if let Ok(key) = read_jwk(jwk) {
                    book.added.push((issuer.clone(), key, record.at));
                }
            }
            Event::KeyRetired { kid, from, .. } => {
                let since = from.unwrap_or(record.at);
                let state = book.states.entry(*kid).or_insert(KeyState::Retiring { since });
                // A later command may set an earlier end, but no later one: retirement is
                // irreversible.
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

    /// Publishes a new snapshot of `book`, and increments the generation.
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
            // The first issuer that lists a key owns it: a second listing cannot move it to other
            // namespaces. Files and imports of the operator come before fetched keys.
            let added = book.added.iter().find(|(_, key, _)| key.id() == id).map(|(_, _, at)| *at);
            // The counter of uses is shared with the former snapshot, so that no use is lost.
            let used = former.rows.get(&id).map(|row| Arc::clone(&row.used)).unwrap_or_default();
            rows.entry(id).or_insert_with(|| KeyRow { known: Arc::new(known), state, added, used });
        }
        let revoked = book.states.iter().filter_map(|(kid, state)| match state {
            KeyState::Revoked { since, why } => Some((*kid, (*since, why.clone()))),
            KeyState::Active | KeyState::Retiring { .. } => None,
        });
        self.snapshot.store(Arc::new(Snapshot { rows, revoked: revoked.collect() }));
        // After the store: a reader that sees the new number also sees the new snapshot.
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Increases with every change of keys, issuers or states. A token that was verified under
    /// another number is verified again.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The entry of a key.
    #[must_use]
    pub fn row(&self, kid: &KeyId) -> Option<KeyRow> {
        self.snapshot.load().rows.get(kid).cloned()
    }

    /// Records that a token of the key was accepted, with a resolution of one second.
    pub fn note_use(&self, kid: &KeyId, now: Timestamp) {
        if let Some(row) = self.snapshot.load().rows.get(kid)
            && row.used.load(Ordering::Relaxed) < now.seconds()
        {
            row.used.store(now.seconds(), Ordering::Relaxed);
        }
    }

    /// All entries, by key id.
    #[must_use]
    pub fn rows(&self) -> Vec<KeyRow> {
        let mut rows: Vec<KeyRow> = self.snapshot.load().rows.values().cloned().collect();
        rows.sort_by_key(|row| row.known.id);
        rows
    }

    /// The keys whose tokens are accepted, as a JWK Set (RFC 7517 section 5).
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

    /// Checks whether a token that `kid` signed at `issued` is still accepted.
    ///
    /// # Errors
    /// `token-key-unknown` or `key-revoked`.
    pub fn may_sign(&self, kid: &KeyId, issued: Timestamp) -> Result<(), Refusal> {
        match self.snapshot.load().rows.get(kid).map(|row| &row.state) {
            None => Err(Refusal::new(Code::TokenKeyUnknown)),
            Some(KeyState::Active) => Ok(()),
            // Whole seconds, because `iat` has that resolution (RFC 7519 section 2).
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
    /// Checks that a key is not revoked, also if no issuer has it. For keys of holders only the
    /// revocation is known.
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

    /// Revoked keys that belong to no issuer, by thumbprint, with time and reason: keys of holders.
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

/// Parses one public JWK.
///
/// # Errors
/// The fault of the JWK, as text.
pub fn read_jwk(text: &str) -> Result<jwk::Jwk, String> {
    let value =
        json::parse(text.as_bytes(), &json::Limits::deep(8)).map_err(|fault| fault.to_string())?;
    jwk::Jwk::read(&value).map_err(|fault| fault.to_string())
}
