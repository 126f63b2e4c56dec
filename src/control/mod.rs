//! The steps of a command: it is checked against the state, recorded, then applied. The state
//! changes only here.

pub mod api;
pub mod bounded;
mod crypto_shred;
mod fault;
mod handles;
mod models;
mod protocol;
mod records;
mod status;
mod turns;
mod views;

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use tokio::sync::Mutex;

use crate::audit::format::event::Event;
use crate::audit::store::entry::AuditRecorder;
use crate::audit::store::log::{Appended, Log, LogFault};
use crate::clock::{Clock, Ratchet};
use crate::crypto::{Both, Verifier};
use crate::id::{AgentName, KeyId, Principal, TokenId};
use crate::keyring::{KeyRow, KeyState, Keyring, read_jwk};
use crate::metrics::Metrics;
use crate::refusal::{Code, Refusal};
use crate::registry::{DEFAULT_CLASS, Registry};
use crate::token::{Presented, Verified, handle, verify, verify_issued, verify_whenever};
use crate::weights::Weights;

pub use fault::{CODES, ControlFault};
pub use protocol::{Command, GatewayIdentity, Operator, Question, Reply, StatusVerb};
use records::exported;
pub use views::accepted_view;
use views::{agent_view, handle_view, holder_view, key_view, token_view};

/// Executes commands and answers questions.
pub struct Control {
    /// The log, which records every command.
    log: Arc<Log>,
    /// Agents, tokens, handles and statuses.
    registry: Arc<Registry>,
    /// The issuers' keys.
    keyring: Arc<Keyring>,
    /// The digests of models.
    weights: Arc<Weights>,
    /// The metrics; `None` if no gateway runs.
    metrics: Option<Arc<Metrics>>,
    /// Remembers recent refusals. Empty if no gateway runs.
    recorder: OnceLock<AuditRecorder>,
    /// The names of the config's classes.
    classes: std::sync::RwLock<BTreeSet<String>>,
    /// The clock for checks of tokens.
    clock: Arc<dyn Clock>,
    /// The highest time so far.
    ratchet: Arc<Ratchet>,
    /// Verifies signatures with both implementations.
    verifier: Box<dyn Verifier>,
    /// Held by the command that runs now.
    one_at_a_time: Arc<Mutex<()>>,
    /// The gateway that the state belongs to.
    about: OnceLock<GatewayIdentity>,
}

impl Control {
    /// A handler of commands for this state.
    #[must_use]
    pub fn new(
        log: Arc<Log>,
        (registry, keyring, weights): (Arc<Registry>, Arc<Keyring>, Arc<Weights>),
        metrics: Option<Arc<Metrics>>,
        classes: BTreeSet<String>,
        (clock, ratchet): (Arc<dyn Clock>, Arc<Ratchet>),
    ) -> Self {
        let (verifier, classes) = (Box::new(Both), std::sync::RwLock::new(classes));
        let (recorder, one_at_a_time, about) =
            (OnceLock::new(), Arc::new(Mutex::new(())), OnceLock::new());
        Self {
            log,
            registry,
            keyring,
            weights,
            metrics,
            recorder,
            classes,
            clock,
            ratchet,
            verifier,
            one_at_a_time,
            about,
        }
    }

    /// Sets the gateway's identity, which each reply contains.
    pub fn introduce(&self, about: GatewayIdentity) {
        let _ = self.about.set(about);
    }

    /// Replaces the classes of the config.
    pub fn set_classes(&self, classes: BTreeSet<String>) {
        *self.classes.write().unwrap_or_else(std::sync::PoisonError::into_inner) = classes;
    }

    /// Executes a command: checks it, records it, applies it.
    ///
    /// # Errors
    /// If it is refused or cannot be recorded. Then the state is unchanged, except for the records
    /// that [`ControlFault::Half`] lists.
    pub async fn apply(
        self: &Arc<Self>,
        operator: &Operator,
        command: Command,
    ) -> Result<Reply, ControlFault> {
        // A separate task, because a recorded command must be applied even if the caller
        // disconnects.
        let (own, operator) = (Arc::clone(self), operator.clone());
        let done = tokio::spawn(async move { own.execute(&operator, command).await });
        done.await.unwrap_or(Err(ControlFault::Log(LogFault::Stopped)))
    }

    /// Executes a command in its turn.
    async fn execute(&self, operator: &Operator, command: Command) -> Result<Reply, ControlFault> {
        // One command at a time: no other command can change the state between the check and the
        // record.
        let _turn = self.turn().await?;
        if let Command::EpochBegin { reason } = command {
            return self.epoch_begun(operator, reasoned(reason)?).await;
        }
        let note = self.note(&command);
        let events = self.check(command)?;
        let rows = events.iter().filter_map(status::status_view).collect();
        let mut sealed = Vec::with_capacity(events.len());
        for event in events {
            let done =
                // If the first record fails, the state is unchanged. A later failure is reported
                // with the records that were written.
                self.commit(event, operator).await.map_err(|fault| match sealed.as_slice() {
                    [] => ControlFault::Log(fault),
                    done => ControlFault::Half { sealed: done.to_vec(), fault },
                })?;
            self.apply_side_effects(&done.record.event)?;
            if let Some(metrics) = &self.metrics {
                metrics.audit_record(done.record.event.kind());
            }
            tracing::info!(
                by = operator.0,
                kind = done.record.event.kind(),
                record = done.index,
                "operator command"
            );
            sealed.push(done.index);
        }
        Ok(Reply { sealed, rows, note, gateway: self.about.get().cloned() })
    }

    /// Records an event and applies it to the state, in the order of the log. So the caller of a
    /// later record sees the changed state.
    async fn commit(&self, event: Event, operator: &Operator) -> Result<Appended, LogFault> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let (weights, keyring, registry) =
            (Arc::clone(&self.weights), Arc::clone(&self.keyring), Arc::clone(&self.registry));
        self.log.append_with(event, Some(operator.0.clone()), move |sealed| {
            if let Ok(done) = &sealed {
                weights.apply(&done.record);
                // The registry comes last, because it wakes tasks that read the keyring and the
                // registry.
                keyring.apply(&done.record);
                registry.apply(&done.record);
            }
            drop(answer.send(sealed));
        });
        answered.await.unwrap_or(Err(LogFault::Stopped))
    }

    /// Answers a question about the state.
    ///
    /// # Errors
    /// If an agent is not registered, or a name or token is invalid.
    pub fn ask(&self, question: &Question) -> Result<Reply, ControlFault> {
        let rows = match question {
            Question::Agents => self.agents(),
            Question::Principals => self.stopped_principals(),
            Question::Agent { agent } => {
                let name: AgentName = agent.parse()?;
                let row =
                    self.registry.agent(name.as_str()).ok_or_else(|| self.unknown(agent, ""))?;
                let mut shown = vec![agent_view(&row)];
                shown.extend(self.registry.tokens_of(&name).iter().map(token_view));
                shown.extend(
                    self.registry.handles_of(&name).iter().map(|handle| handle_view(handle)),
                );
                shown
            }
            Question::Keys => {
                let signed = self.registry.signed(self.clock.now());
                let row = |row: &KeyRow| key_view(row, signed.get(&row.known.id));
                let mut rows: Vec<_> = self.keyring.rows().iter().map(row).collect();
                rows.extend(self.keyring.revoked_holders().iter().map(holder_view));
                rows
            }
            Question::Models => self.models(),
            Question::Why { request } => self.why(request)?.into_iter().collect(),
            Question::Checkpoint => {
                // The reply does not wait for the checkpoint.
                self.log.want_checkpoint();
                Vec::new()
            }
            Question::Token { token } => vec![self.would_take(token)?],
            Question::Handle { handle } => self.handle_view(handle).into_iter().collect(),
        };
        Ok(Reply { sealed: Vec::new(), rows, note: None, gateway: self.about.get().cloned() })
    }

    /// An effect of a command that the operator may not expect.
    fn note(&self, command: &Command) -> Option<String> {
        if let Command::PrincipalForget { principal, .. } = command {
            return Some(self.what_stays(principal));
        }
        if let Command::ModelAccept { model, .. } = command {
            return self.without_pin(model);
        }
        self.by_name_alone(command)
    }

    /// Whether the gateway would accept a token now. The result or error is the same as for a
    /// request with the token.
    fn would_take(&self, text: &str) -> Result<serde_json::Value, ControlFault> {
        let fault = |refusal: Refusal| ControlFault::refused(&refusal);
        // A text that is no handle is read as a token.
        let held = handle::id(text).and_then(|id| self.registry.handle(&id));
        let presented =
            Presented::read(held.as_ref().map_or(text, |held| &held.text)).map_err(fault)?;
        let verified =
            verify(&presented, &*self.keyring, &*self.verifier, self.clock.now()).map_err(fault)?;
        let status = self
            .keyring
            .may_sign(verified.kid(), verified.issued())
            .and_then(|()| verified.holders().try_for_each(|kid| self.keyring.not_revoked(&kid)))
            .and_then(|()| {
                self.registry.may_act(verified.agent(), verified.principal(), verified.ids())
            });
        // The token of a handle is refused on its own, because only the handle may use it.
        match (status.map_err(fault)?, held) {
            (Some(_), None) => return Err(fault(Code::HandleRequired.into())),
            (_, Some(_)) => self.by_handle(&verified).map_err(fault)?,
            (None, None) => {}
        }
        Ok(accepted_view(&verified))
    }

    /// Verifies a token for its registration. It may belong to any agent, and its times are
    /// checked.
    fn verified(&self, text: &str) -> Result<Verified, ControlFault> {
        let fault = |refusal: Refusal| ControlFault::refused(&refusal);
        let presented = Presented::read(text).map_err(fault)?;
        verify_issued(&presented, &*self.keyring, &*self.verifier, self.clock.now()).map_err(fault)
    }

    /// The records of a command.
    fn check(&self, command: Command) -> Result<Vec<Event>, ControlFault> {
        match command {
            Command::AgentRegister { agent, principal, class } => {
                let principal = principal.map(|principal| principal.parse()).transpose()?;
                Ok(vec![self.registered(agent.parse()?, principal, class)?])
            }
            Command::AgentStatus { agent, verb, reason, unregistered } => {
                Ok(vec![self.agent_status(&agent, verb, reasoned(reason)?, unregistered)?])
            }
            Command::NamespaceStatus { namespace, verb, reason, unregistered } => {
                Ok(vec![self.namespace_status(
                    &namespace,
                    verb,
                    reasoned(reason)?,
                    unregistered,
                )?])
            }
            Command::PrincipalStatus { principal, verb, reason, unregistered } => {
                Ok(vec![self.principal_status(
                    principal.parse()?,
                    verb,
                    reasoned(reason)?,
                    unregistered,
                )?])
            }
            Command::TokenRegister { token, class } => self.token(&token, class),
            Command::TokenRevoke { token, reason } => self.revoked(&token, reasoned(reason)?),
            Command::HandleSet { handle, token, class, until } => {
                let until = until.map(|until| until.parse()).transpose()?;
                self.handle_set(&handle, token, class, until)
            }
            Command::ClockAccept => {
                let behind_ms =
                    u64::try_from(self.ratchet.behind().as_millis()).unwrap_or(u64::MAX);
                Ok(vec![Event::Clock { behind_ms, accepted: true }])
            }
            // The log itself writes the first record of a new epoch.
            Command::EpochBegin { .. } => Ok(Vec::new()),
            Command::PrincipalForget { principal, revoke, reason } => self.crypto_shred_records(
                &principal.parse()?,
                revoke,
                reason.map(reasoned).transpose()?,
            ),
            Command::BackupMade { keys, operator_keys } => {
                Ok(vec![Event::Backup { keys, operator_keys }])
            }
            Command::EpochsExported { epochs, principal, keys } => {
                Ok(vec![exported(&epochs, principal, keys)?])
            }
            Command::RecordsDisclosed { records } => {
                Ok(vec![Event::Disclosed { records: records.join(" ") }])
            }
            Command::TokenSigned { token } => Ok(vec![self.token_signed(&token)?]),
            Command::HandleRenew { handle, token } => self.handle_renewed(&handle, token),
            Command::ModelAccept { model, reason } => {
                self.model_accepted(&model, &reasoned(reason)?)
            }
            Command::KeyAdd { issuer, jwk } => Ok(vec![self.key_added(issuer, &jwk)?]),
            Command::KeyRetire { kid, from, reason } => {
                let (kid, from) =
                    (self.known_key(&kid)?, from.map(|from| from.parse()).transpose()?);
                Ok(vec![Event::KeyRetired { kid, from, reason: reasoned(reason)? }])
            }
            Command::HolderRevoke { kid, reason } => {
                let kid = self.holder_key(&kid)?;
                Ok(vec![Event::KeyRevoked { kid, reason: reasoned(reason)? }])
            }
            Command::KeyRevoke { kid, reason } => {
                let kid = self.known_key(&kid)?;
                Ok(vec![Event::KeyRevoked { kid, reason: reasoned(reason)? }])
            }
        }
    }

    /// The record of a registered agent. The class must exist.
    fn registered(
        &self,
        agent: AgentName,
        principal: Option<Principal>,
        class: Option<String>,
    ) -> Result<Event, ControlFault> {
        let class = class.unwrap_or_else(|| DEFAULT_CLASS.to_owned());
        if !self.classes.read().unwrap_or_else(std::sync::PoisonError::into_inner).contains(&class)
        {
            return Err(ControlFault::Class(class));
        }
        Ok(Event::AgentRegistered { agent, principal, class })
    }

    /// The records of a registered token.
    fn token(&self, text: &str, class: Option<String>) -> Result<Vec<Event>, ControlFault> {
        self.registration(&self.verified(text)?, class)
    }

    /// The records of a verified token, and of its agent if the agent is new.
    fn registration(
        &self,
        verified: &Verified,
        class: Option<String>,
    ) -> Result<Vec<Event>, ControlFault> {
        // A token that the gateway would refuse is not registered.
        let signed = self.keyring.may_sign(verified.kid(), verified.issued());
        let held = signed
            .and_then(|()| verified.holders().try_for_each(|kid| self.keyring.not_revoked(&kid)));
        held.map_err(|refusal| ControlFault::refused(&refusal))?;
        if verified.length() > 1 {
            return Err(ControlFault::Token(
                "only a token that an operator signed can be registered: the first token of the \
                    chain"
                    .to_owned(),
            ));
        }
        let mut events = Vec::new();
        let known = self.registry.agent(verified.agent().as_str());
        // A known agent is registered again only to change its class.
        if known.is_none() || class.is_some() {
            events.push(self.registered(
                verified.agent().clone(),
                Some(verified.principal().clone()),
                class,
            )?);
        }
        events.push(Event::TokenRegistered {
            token: *verified.id(),
            jti: verified.jti().to_owned(),
            issuer: verified.issuer().to_owned(),
            kid: *verified.kid(),
            agent: verified.agent().clone(),
            principal: verified.principal().clone(),
            expires: verified.expires(),
        });
        Ok(events)
    }

    /// The records that revoke a token. `token` is a handle, a whole token, an id or a `jti`.
    fn revoked(&self, token: &str, reason: String) -> Result<Vec<Event>, ControlFault> {
        if let Some(known) = self.handle_meant(token) {
            return self.handle_revoked(&known, reason);
        }
        // A whole token needs no look-up. It may be unregistered, or not valid yet.
        if token.contains('.') {
            let fault = |refusal: Refusal| ControlFault::refused(&refusal);
            let presented = Presented::read(token).map_err(fault)?;
            let verified =
                verify_whenever(&presented, &*self.keyring, &*self.verifier).map_err(fault)?;
            verified.not_over(self.clock.now()).map_err(fault)?;
            if let Some(row) = self.registry.token(verified.id()) {
                return self.row_revoked(row, reason);
            }
            let (jti, agent) = (verified.jti().to_owned(), verified.agent().clone());
            return Ok(vec![Event::TokenRevoked { token: *verified.id(), jti, agent, reason }]);
        }
        // A `jti` is not unique, so an ambiguous one is refused. The operator must name the id.
        let by_id = token.parse::<TokenId>().ok().and_then(|id| self.registry.token(&id));
        let row = match by_id {
            Some(row) => row,
            None => {
                let mut rows = self.registry.tokens_labelled(token);
                match (rows.pop(), rows.is_empty()) {
                    (Some(row), true) => row,
                    (Some(_), false) => return Err(ControlFault::AmbiguousToken(token.to_owned())),
                    (None, _) => return Err(ControlFault::UnknownToken),
                }
            }
        };
        self.row_revoked(row, reason)
    }

    /// The record of an added key.
    fn key_added(&self, issuer: Option<String>, jwk: &str) -> Result<Event, ControlFault> {
        let key = read_jwk(jwk).map_err(ControlFault::Key)?;
        let issuers = self.keyring.issuers();
        let issuer = match (issuer, issuers.as_slice()) {
            (Some(named), _) if issuers.iter().any(|known| known.iss == named) => named,
            (Some(named), _) => {
                return Err(ControlFault::Key(format!(
                    "{named:?} is not an [[issuer]] of the config"
                )));
            }
            (None, [only]) => only.iss.clone(),
            (None, _) => return Err(ControlFault::Key("name the issuer with --issuer".to_owned())),
        };
        // A revocation is permanent. Otherwise adding the key again would make old tokens valid.
        if self.keyring.not_revoked(&key.id()).is_err() {
            return Err(ControlFault::Key(format!(
                "{} is revoked for ever; make another key",
                key.id()
            )));
        }
        // The thumbprint is computed from the key, and not taken from the command.
        Ok(Event::KeyAdded { issuer, jwk: key.write(), kid: key.id() })
    }

    /// The thumbprint of a holder's key to revoke. The gateway has no list of holders' keys,
    /// because only tokens contain them.
    fn holder_key(&self, kid: &str) -> Result<KeyId, ControlFault> {
        let id: KeyId = kid.parse()?;
        if self.keyring.not_revoked(&id).is_err() {
            return Err(ControlFault::Key(format!("{kid} is revoked")));
        }
        match self.keyring.row(&id) {
            Some(_) => Err(ControlFault::Key(format!(
                "{kid} is an issuer's key, not a holder's; use token-shield keys revoke {kid}"
            ))),
            // Any other thumbprint is accepted, because the gateway cannot know all holders' keys.
            None => Ok(id),
        }
    }

    /// The thumbprint of an issuer's key that is not revoked.
    fn known_key(&self, kid: &str) -> Result<KeyId, ControlFault> {
        let id: KeyId = kid.parse()?;
        match self.keyring.row(&id).map(|row| row.state) {
            None => {
                let hint = "token-shield keys list shows these; for a holder's key, use keys \
                    revoke --holder KID";
                Err(ControlFault::Key(format!("{kid} is not an issuer's key; {hint}")))
            }
            Some(KeyState::Revoked { .. }) => Err(ControlFault::Key(format!("{kid} is revoked"))),
            Some(KeyState::Active | KeyState::Retiring { .. }) => Ok(id),
        }
    }
}

/// Checks the length of a reason: 1 to 256 bytes.
fn reasoned(reason: String) -> Result<String, ControlFault> {
    if (1..=256).contains(&reason.len()) { Ok(reason) } else { Err(ControlFault::Reason) }
}
