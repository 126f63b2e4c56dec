//! The keyring: the public keys that may sign tokens, by thumbprint, with the state of each. The
//! gateway has no minting key.
//!
//! Keys come from the JWK Sets of the issuers in the config, from files or URLs, and from control
//! records (`keys import`). Retirement and revocation are control records for all of them. An old
//! JWKS file therefore cannot make a revoked key valid again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use arc_swap::ArcSwap;

use crate::audit::format::event::Event;
use crate::audit::format::record::Record;
use crate::clock::Timestamp;
use crate::id::KeyId;
use crate::json;
use crate::lock::locked;
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
    issuers: Vec<IssuerKeys>,
    /// The keys from the issuers' URLs, by `iss`.
    fetched: HashMap<String, Vec<jwk::Jwk>>,
    /// The imported keys, in the order of their records.
    added: Vec<ImportedKey>,
    /// The states that control records set.
    states: HashMap<KeyId, KeyState>,
}

/// A key that an operator imported.
struct ImportedKey {
    /// The issuer that it belongs to.
    iss: String,
    key: jwk::Jwk,
    /// The time of the import.
    at: Timestamp,
}

impl KeyringState {
    /// The state that records give a key.
    fn state(&self, id: &KeyId) -> KeyState {
        match self.states.get(id) {
            Some(state) => state.clone(),
            None => KeyState::Active,
        }
    }

    /// The time of a key's first import, if it was imported.
    fn added_at(&self, id: KeyId) -> Option<Timestamp> {
        Some(self.added.iter().find(|imported| imported.key.id() == id)?.at)
    }

    /// Every listing of a key with the rules of its issuer. Files and imports of the operator come
    /// before fetched keys.
    fn listed(&self) -> Vec<ListedKey<'_>> {
        let mut listed = Vec::new();
        for IssuerKeys { policy, keys } in &self.issuers {
            for key in keys {
                listed.push(ListedKey { policy, key });
            }
        }
        for ImportedKey { iss, key, .. } in &self.added {
            // The keys of an issuer that the config no longer has are unknown.
            if let Some(issuer) = self.issuers.iter().find(|issuer| issuer.policy.iss == *iss) {
                listed.push(ListedKey { policy: &issuer.policy, key });
            }
        }
        for IssuerKeys { policy, .. } in &self.issuers {
            for key in self.fetched.get(&policy.iss).into_iter().flatten() {
                listed.push(ListedKey { policy, key });
            }
        }
        listed
    }

    /// The revoked keys, with the time and the reason.
    fn revoked(&self) -> HashMap<KeyId, (Timestamp, String)> {
        let mut revoked = HashMap::new();
        for (kid, state) in &self.states {
            if let KeyState::Revoked { since, why } = state {
                revoked.insert(*kid, (*since, why.clone()));
            }
        }
        revoked
    }
}

/// One listing of a key.
struct ListedKey<'k> {
    /// The rules of the issuer that lists it.
    policy: &'k Arc<IssuerPolicy>,
    key: &'k jwk::Jwk,
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

/// A revoked key that belongs to no issuer: the key of a token's holder.
#[derive(Clone, Debug)]
pub struct RevokedHolder {
    /// Its thumbprint.
    pub kid: KeyId,
    /// The time of the revocation.
    pub since: Timestamp,
    /// The operator's reason.
    pub why: String,
}

impl Keyring {
    /// A keyring without keys: it refuses every token.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the issuers of the config. States and imported keys stay.
    pub fn set_issuers(&self, issuers: Vec<IssuerKeys>) {
        let mut book = locked(&self.book);
        book.issuers = issuers;
        self.publish(&book);
    }

    /// Keeps the issuers for which `stays` is true. The keys of all others are unknown from now on.
    pub fn retain_issuers(&self, stays: impl Fn(&str) -> bool) {
        let mut book = locked(&self.book);
        book.issuers.retain(|issuer| stays(&issuer.policy.iss));
        self.publish(&book);
    }

    /// Replaces the keys of an issuer's file. False if the keys are the same, or the issuer is
    /// unknown.
    pub fn set_keys(&self, iss: &str, keys: &[jwk::Jwk]) -> bool {
        let mut book = locked(&self.book);
        let Some(issuer) = book.issuers.iter_mut().find(|issuer| issuer.policy.iss == iss) else {
            return false;
        };
        if same_ids(&issuer.keys, keys) {
            return false;
        }
        issuer.keys = keys.to_vec();
        self.publish(&book);
        true
    }

    /// The keys from the last fetch, by `iss`.
    #[must_use]
    pub fn fetched(&self) -> HashMap<String, Vec<jwk::Jwk>> {
        locked(&self.book).fetched.clone()
    }

    /// Replaces the fetched keys, by `iss`.
    pub fn set_fetched(&self, fetched: HashMap<String, Vec<jwk::Jwk>>) {
        let mut book = locked(&self.book);
        book.fetched = fetched;
        self.publish(&book);
    }

    /// Applies one record. Records about other state have no effect here.
    pub fn apply(&self, record: &Record) {
        let mut book = locked(&self.book);
        match &record.event {
            Event::KeyAdded { issuer, jwk, .. } => {
                // The key was valid when it was recorded. If this version cannot parse it, the key
                // is absent and its tokens are refused.
                if let Ok(key) = read_jwk(jwk) {
                    book.added.push(ImportedKey { iss: issuer.clone(), key, at: record.at });
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
        for ListedKey { policy, key } in book.listed() {
            let id = key.id();
            // The first issuer that lists a key owns it: a second listing cannot move it to other
            // namespaces.
            let Entry::Vacant(place) = rows.entry(id) else { continue };
            let known = KnownKey { id, key: key.key().clone(), issuer: Arc::clone(policy) };
            // The counter of uses is shared with the former snapshot, so that no use is lost.
            let used = match former.rows.get(&id) {
                Some(row) => Arc::clone(&row.used),
                None => Arc::default(),
            };
            let (state, added) = (book.state(&id), book.added_at(id));
            place.insert(KeyRow { known: Arc::new(known), state, added, used });
        }
        self.snapshot.store(Arc::new(Snapshot { rows, revoked: book.revoked() }));
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
        let mut keys = Vec::new();
        for row in self.rows() {
            if !matches!(row.state, KeyState::Revoked { .. }) {
                keys.push(jwk::Jwk::of(row.known.key.clone()));
            }
        }
        jwk::write_set(&keys)
    }

    /// The issuers of the config.
    #[must_use]
    pub fn issuers(&self) -> Vec<Arc<IssuerPolicy>> {
        locked(&self.book).issuers.iter().map(|issuer| Arc::clone(&issuer.policy)).collect()
    }

    /// Checks whether a token that `kid` signed at `issued` is still accepted.
    ///
    /// # Errors
    /// `token-key-unknown` or `key-revoked`.
    pub fn may_sign(&self, kid: &KeyId, issued: Timestamp) -> Result<(), Refusal> {
        let snapshot = self.snapshot.load();
        let Some(row) = snapshot.rows.get(kid) else {
            return Err(Refusal::new(Code::TokenKeyUnknown));
        };
        match &row.state {
            KeyState::Active => Ok(()),
            // Whole seconds, because `iat` has that resolution (RFC 7519 section 2).
            KeyState::Retiring { since } if issued.seconds() <= since.seconds() => Ok(()),
            KeyState::Retiring { since } => Err(Refusal::new(Code::KeyRevoked)
                .saying("The key that signed the token was retired before the token was issued.")
                .because(since)),
            KeyState::Revoked { since, why } => {
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

    /// Revoked keys that belong to no issuer, by thumbprint.
    #[must_use]
    pub fn revoked_holders(&self) -> Vec<RevokedHolder> {
        let snapshot = self.snapshot.load();
        let mut keys = Vec::new();
        for (kid, (since, why)) in &snapshot.revoked {
            if !snapshot.rows.contains_key(kid) {
                keys.push(RevokedHolder { kid: *kid, since: *since, why: why.clone() });
            }
        }
        keys.sort_by_key(|key| key.kid);
        keys
    }
}

impl KeySource for Keyring {
    fn key(&self, kid: &KeyId) -> Option<Arc<KnownKey>> {
        let snapshot = self.snapshot.load();
        Some(Arc::clone(&snapshot.rows.get(kid)?.known))
    }
}

/// Whether two lists have the same keys in the same order.
fn same_ids(one: &[jwk::Jwk], other: &[jwk::Jwk]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.id() == other.id())
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
