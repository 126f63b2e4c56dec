//! Refusals that name nobody, because they would bring back a name that was forgotten.

use std::sync::PoisonError;

use super::AuditRecorder;
use crate::audit::format::request::RequestContext;
use crate::refusal::Code;

impl AuditRecorder {
    /// True of a refusal of somebody who was stopped and whose principal has no record key. The registration of a token drew one,
    /// so it was destroyed: to record the refusal by name would draw another.
    pub(super) fn is_nameless(&self, code: Code, about: &RequestContext) -> bool {
        let stopped = matches!(
            code,
            Code::TokenRevoked
                | Code::HandleRevoked
                | Code::KeyRevoked
                | Code::AgentRevoked
                | Code::AgentSuspended
                | Code::AgentQuarantined
        );
        // Plain records keep every name, and draw no keys.
        let is_encrypted = self.0.log.is_encrypted();
        let vault = || self.0.log.vault().lock().unwrap_or_else(PoisonError::into_inner);
        stopped && is_encrypted && vault().id_of(about.caller.principal.as_str()).is_none()
    }
}
