//! Commands and questions about keys.

use super::views::{holder_view, key_view};
use super::{Control, ControlFault};
use crate::audit::format::event::Event;
use crate::id::KeyId;
use crate::keyring::{KeyRow, KeyState, read_jwk};

impl Control {
    /// The rows of all keys: those of issuers, and the revoked ones of holders.
    pub(super) fn keys(&self) -> Vec<serde_json::Value> {
        let signed = self.registry.signed(self.clock.now());
        let mut rows = Vec::new();
        for row in self.keyring.rows() {
            rows.push(key_view(&row, signed.get(&row.known.id)));
        }
        for holder in self.keyring.revoked_holders() {
            rows.push(holder_view(&holder));
        }
        rows
    }

    /// The record of an added key.
    pub(super) fn key_added(
        &self,
        issuer: Option<String>,
        jwk: &str,
    ) -> Result<Event, ControlFault> {
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
    pub(super) fn holder_key(&self, kid: &str) -> Result<KeyId, ControlFault> {
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
    pub(super) fn known_key(&self, kid: &str) -> Result<KeyId, ControlFault> {
        let id: KeyId = kid.parse()?;
        match self.keyring.row(&id) {
            None => {
                let hint = "token-shield keys list shows these; for a holder's key, use keys \
                    revoke --holder KID";
                Err(ControlFault::Key(format!("{kid} is not an issuer's key; {hint}")))
            }
            Some(KeyRow { state: KeyState::Revoked { .. }, .. }) => {
                Err(ControlFault::Key(format!("{kid} is revoked")))
            }
            Some(KeyRow { state: KeyState::Active | KeyState::Retiring { .. }, .. }) => Ok(id),
        }
    }
}
