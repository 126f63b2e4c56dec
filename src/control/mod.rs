//! The steps of a command: it is checked against the state, recorded, then applied. The state
//! changes only here.

pub mod api;
pub mod bounded;
mod crypto_shred;
mod fault;
mod handles;
mod keys;
mod models;
mod protocol;
mod records;
pub mod socket;
mod status;
mod turns;
mod views;

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use tokio::sync::Mutex;

use crate::audit::format::event::Event;
use crate::audit::store::entry::AuditRecorder;
use crate::audit::store::log::{Appended, Log, LogFault};
use crate::clock::{Clock, Ratchet};
use crate::crypto::{Both, Verifier};
use crate::id::{AgentName, Principal, TokenId};
use crate::keyring::Keyring;
use crate::lock::locked;
use crate::metrics::Metrics;
use crate::refusal::{Code, Refusal};
use crate::registry::{DEFAULT_CLASS, Registry, Token};
use crate::token::{Presented, Verified, handle, verify, verify_issued, verify_whenever};
use crate::weights::Weights;

pub use fault::{CODES, ControlFault};
pub use protocol::{Command, GatewayIdentity, Operator, Question, Reply, StatusVerb};
use records::exported;
pub use views::accepted_view;
use views::{agent_view, handle_view, token_view};

/// What a handler of commands works with.
pub struct ControlParts {
    /// The log, which records every command.
    pub log: Arc<Log>,
    /// Agents, tokens, handles and statuses.
    pub registry: Arc<Registry>,
    /// The issuers' keys.
    pub keyring: Arc<Keyring>,
    /// The digests of models.
    pub weights: Arc<Weights>,
    /// The metrics; `None` if no gateway runs.
    pub metrics: Option<Arc<Metrics>>,
    /// The names of the config's classes.
    pub classes: BTreeSet<String>,
    /// The clock for checks of tokens.
    pub clock: Arc<dyn Clock>,
    /// The same clock, for `clock accept`.
    pub ratchet: Arc<Ratchet>,
}

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
    classes: std::sync::Mutex<BTreeSet<String>>,
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
    pub fn new(parts: ControlParts) -> Self {
        let ControlParts { log, registry, keyring, weights, metrics, classes, clock, ratchet } =
            parts;
        Self {
            log,
            registry,
            keyring,
            weights,
            metrics,
            recorder: OnceLock::new(),
            classes: std::sync::Mutex::new(classes),
            clock,
            ratchet,
            verifier: Box::new(Both),
            one_at_a_time: Arc::new(Mutex::new(())),
            about: OnceLock::new(),
        }
    }

    /// Sets the gateway's identity, which each reply contains.
    pub fn introduce(&self, about: GatewayIdentity) {
        let _ = self.about.set(about);
    }

    /// Replaces the classes of the config.
    pub fn set_classes(&self, classes: BTreeSet<String>) {
        *locked(&self.classes) = classes;
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
            sealed.push(done.index);
            if let Some(metrics) = &self.metrics {
                metrics.audit_record(done.record.event.kind());
            }
            tracing::info!(
                by = operator.0,
                kind = done.record.event.kind(),
                record = done.index,
                "operator command"
            );
            // Last, because the record is written also if this fails.
            if let Err(fault) = self.apply_side_effects(&done.record.event) {
                return Err(ControlFault::KeyOnDisk { sealed, fault });
            }
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
                let Some(row) = self.registry.agent(name.as_str()) else {
                    return Err(self.unknown(agent, ""));
                };
                let mut shown = vec![agent_view(&row)];
                for token in self.registry.tokens_of(&name) {
                    shown.push(token_view(&token));
                }
                for handle in self.registry.handles_of(&name) {
                    shown.push(handle_view(&handle));
                }
                shown
            }
            Question::Keys => self.keys(),
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
        // A text that is no handle is read as a token.
        let held = handle::id(text).and_then(|id| self.registry.handle(&id));
        let presented = Presented::read(match &held {
            Some(held) => &held.text,
            None => text,
        })?;
        let verified = verify(&presented, &*self.keyring, &*self.verifier, self.clock.now())?;
        self.not_revoked(&verified)?;
        let handle =
            self.registry.may_act(verified.agent(), verified.principal(), verified.ids())?;
        // The token of a handle is refused on its own, because only the handle may use it.
        match (handle, held) {
            (Some(_), None) => return Err(Refusal::new(Code::HandleRequired).into()),
            (_, Some(_)) => self.by_handle(&verified)?,
            (None, None) => {}
        }
        Ok(accepted_view(&verified))
    }

    /// Checks the keys of a token: the one that signed it, and those of its holders.
    fn not_revoked(&self, verified: &Verified) -> Result<(), Refusal> {
        self.keyring.may_sign(verified.kid(), verified.issued())?;
        for kid in verified.holders() {
            self.keyring.not_revoked(&kid)?;
        }
        Ok(())
    }

    /// Verifies a token for its registration. It may belong to any agent, and its times are
    /// checked.
    fn verified(&self, text: &str) -> Result<Verified, ControlFault> {
        let presented = Presented::read(text)?;
        Ok(verify_issued(&presented, &*self.keyring, &*self.verifier, self.clock.now())?)
    }

    /// The records of a command.
    fn check(&self, command: Command) -> Result<Vec<Event>, ControlFault> {
        match command {
            Command::AgentRegister { agent, principal, class } => {
                let principal = parsed(principal)?;
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
                self.handle_set(&handle, token, class, parsed(until)?)
            }
            Command::ClockAccept => {
                let behind_ms =
                    u64::try_from(self.ratchet.behind().as_millis()).unwrap_or(u64::MAX);
                Ok(vec![Event::Clock { behind_ms, accepted: true }])
            }
            // The log itself writes the first record of a new epoch.
            Command::EpochBegin { .. } => Ok(Vec::new()),
            Command::PrincipalForget { principal, revoke, reason } => {
                let (principal, reason) = (principal.parse()?, reasoned_if_given(reason)?);
                self.crypto_shred_records(&principal, revoke, reason)
            }
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
                let (kid, from) = (self.known_key(&kid)?, parsed(from)?);
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
        if !locked(&self.classes).contains(&class) {
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
        self.not_revoked(verified)?;
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
            let presented = Presented::read(token)?;
            let verified = verify_whenever(&presented, &*self.keyring, &*self.verifier)?;
            verified.not_over(self.clock.now())?;
            if let Some(row) = self.registry.token(verified.id()) {
                return self.row_revoked(row, reason);
            }
            let (jti, agent) = (verified.jti().to_owned(), verified.agent().clone());
            return Ok(vec![Event::TokenRevoked { token: *verified.id(), jti, agent, reason }]);
        }
        self.row_revoked(self.token_meant(token)?, reason)
    }

    /// The registered token with that id or `jti`.
    fn token_meant(&self, text: &str) -> Result<Token, ControlFault> {
        if let Ok(id) = text.parse::<TokenId>()
            && let Some(row) = self.registry.token(&id)
        {
            return Ok(row);
        }
        // A `jti` is not unique, so an ambiguous one is refused. The operator must name the id.
        let mut rows = self.registry.tokens_labelled(text);
        match (rows.pop(), rows.is_empty()) {
            (Some(row), true) => Ok(row),
            (Some(_), false) => Err(ControlFault::AmbiguousToken(text.to_owned())),
            (None, _) => Err(ControlFault::UnknownToken),
        }
    }
}

/// Parses an optional value.
fn parsed<T: FromStr>(text: Option<String>) -> Result<Option<T>, T::Err> {
    match text {
        Some(text) => Ok(Some(text.parse()?)),
        None => Ok(None),
    }
}

/// Checks a reason that may be left out.
fn reasoned_if_given(reason: Option<String>) -> Result<Option<String>, ControlFault> {
    match reason {
        Some(reason) => Ok(Some(reasoned(reason)?)),
        None => Ok(None),
    }
}

/// Checks the length of a reason: 1 to 256 bytes.
fn reasoned(reason: String) -> Result<String, ControlFault> {
    if (1..=256).contains(&reason.len()) { Ok(reason) } else { Err(ControlFault::Reason) }
}
