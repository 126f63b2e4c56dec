//! Commands about handles.

use crate::audit::format::event::{Event, TOKEN_BYTES_MAX};
use crate::clock::Timestamp;
use crate::control::{Control, ControlFault};
use crate::id::{HandleId, TokenId};
use crate::refusal::{Code, Refusal};
use crate::registry::{Handle, Token};
use crate::token::{KeySource as _, Presented, Verified, handle, verify};

impl Control {
    /// The records of a new handle, its token, and its agent if the agent is new.
    pub(super) fn handle_set(
        &self,
        handle: &str,
        token: String,
        class: Option<String>,
        until: Option<Timestamp>,
    ) -> Result<Vec<Event>, ControlFault> {
        let handle: HandleId = handle.parse()?;
        // Only `handle_renewed` replaces the token of a handle.
        if let Some(known) = self.registry.handle(&handle) {
            return Err(ControlFault::HandleTaken(known.agent.to_string()));
        }
        let verified = self.carried(&token)?;
        let mut events = self.registration(&verified, class)?;
        events.push(self.handle_event(handle, token, &verified, until)?);
        Ok(events)
    }

    /// The records of a newer token of a handle.
    pub(super) fn handle_renewed(
        &self,
        handle: &str,
        token: String,
    ) -> Result<Vec<Event>, ControlFault> {
        let known = self.live_handle(handle)?;
        let verified = self.carried(&token)?;
        // A handle represents one agent. With another agent's token it would silently act for that
        // agent.
        if *verified.agent() != known.agent {
            return Err(ControlFault::Handle("the token belongs to another agent"));
        }
        let mut events = self.registration(&verified, None)?;
        events.push(self.handle_event(known.id, token, &verified, known.until)?);
        Ok(events)
    }

    /// A handle with its token. An operator who renews the handle signs the same claims again.
    pub(super) fn handle_view(&self, handle: &str) -> Option<serde_json::Value> {
        let known = self.handle_meant(handle)?;
        Some(serde_json::json!({
            "handle": known.id.to_string(),
            "agent": known.agent.as_str(),
            "token": &*known.text,
            "until": known.until.map(|until| until.to_string()),
            "revoked": known.revoked.as_ref().map(|(since, _)| since.to_string()),
        }))
    }

    /// The named handle, by its id or by the handle itself.
    pub(super) fn handle_meant(&self, text: &str) -> Option<std::sync::Arc<Handle>> {
        if let Ok(id) = text.parse::<HandleId>()
            && let Some(known) = self.registry.handle(&id)
        {
            return Some(known);
        }
        self.registry.handle(&handle::id(text)?)
    }

    /// The records that revoke a registered token. If it has or had a handle, the handle is revoked
    /// too. An operator who revokes the token wants to end the access that the handle gives.
    pub(super) fn row_revoked(
        &self,
        row: Token,
        reason: String,
    ) -> Result<Vec<Event>, ControlFault> {
        let mut events = Vec::new();
        if let Some(handle) = row.handle
            && let Some(held) = self.registry.handle(&handle)
            && held.revoked.is_none()
        {
            events = self.handle_revoked(&held, reason.clone())?;
            // The records of the handle already revoke its current token. An older token needs its
            // own record.
            if held.token == row.id {
                return Ok(events);
            }
        }
        events.push(Event::TokenRevoked { token: row.id, jti: row.jti, agent: row.agent, reason });
        Ok(events)
    }

    /// Whether the issuer of a token allows handles.
    pub(super) fn by_handle(&self, verified: &Verified) -> Result<(), Refusal> {
        match self.keyring.key(verified.kid()) {
            Some(key) if key.issuer.handles => Ok(()),
            Some(_) | None => Err(Code::HandlesOff.into()),
        }
    }

    /// The records that revoke a handle. Its token is revoked too, because only the handle uses it.
    pub(super) fn handle_revoked(
        &self,
        known: &Handle,
        reason: String,
    ) -> Result<Vec<Event>, ControlFault> {
        let revoked = self.token_revoked(known.token, reason.clone())?;
        // The handle comes first. After a crash between the two records, the handle is already
        // unusable.
        Ok(vec![
            Event::HandleRevoked { handle: known.id, agent: known.agent.clone(), reason },
            revoked,
        ])
    }

    /// The record that revokes a registered token.
    fn token_revoked(&self, token: TokenId, reason: String) -> Result<Event, ControlFault> {
        let Some(row) = self.registry.token(&token) else {
            return Err(ControlFault::UnknownToken);
        };
        Ok(Event::TokenRevoked { token, jti: row.jti, agent: row.agent, reason })
    }

    /// A handle that is not revoked, by its id or by the handle itself.
    fn live_handle(&self, text: &str) -> Result<std::sync::Arc<Handle>, ControlFault> {
        let Some(known) = self.handle_meant(text) else { return Err(ControlFault::UnknownToken) };
        let token_revoked = match self.registry.token(&known.token) {
            Some(row) => row.revoked.is_some(),
            None => false,
        };
        if known.revoked.is_some() || token_revoked {
            return Err(ControlFault::Handle("it is revoked for ever; issue a new handle"));
        }
        Ok(known)
    }

    /// The record of a handle's token. The token must not expire after the handle.
    fn handle_event(
        &self,
        handle: HandleId,
        token: String,
        verified: &Verified,
        until: Option<Timestamp>,
    ) -> Result<Event, ControlFault> {
        // The record contains the token, so its length is limited.
        if token.len() > TOKEN_BYTES_MAX {
            return Err(ControlFault::Handle(
                "the token has more than 10,000 bytes: it lists too many models",
            ));
        }
        self.by_handle(verified).map_err(|_| {
            ControlFault::Handle("the issuer does not allow handles (handles = \"off\")")
        })?;
        if until.is_some_and(|until| verified.expires() > until) {
            return Err(ControlFault::Handle("the token would outlive the handle (--until)"));
        }
        if let Some(row) = self.registry.token(verified.id())
            && let Some(other) = row.handle
            && other != handle
        {
            return Err(ControlFault::Handle("the token already has another handle"));
        }
        let (agent, principal) = (verified.agent().clone(), verified.principal().clone());
        Ok(Event::HandleSet { handle, token, id: *verified.id(), agent, principal, until })
    }

    /// Verifies a token, which must be valid now.
    fn carried(&self, text: &str) -> Result<Verified, ControlFault> {
        let presented = Presented::read(text)?;
        Ok(verify(&presented, &*self.keyring, &*self.verifier, self.clock.now())?)
    }
}
