//! Refusals without a name, because the name was forgotten.

use super::AuditRecorder;
use crate::audit::format::request::RequestContext;
use crate::audit::store::locked::locked;
use crate::refusal::Code;

impl AuditRecorder {
    /// Whether a refusal must not be recorded by name. That is so for a stopped caller whose
    /// principal has no record key. The registration of its token generated a key, so the key was
    /// destroyed since. A record by name would generate another.
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
        // In a plain log every record keeps its name, and no key is needed.
        if !stopped || !self.0.log.is_encrypted() {
            return false;
        }
        let vault = locked(self.0.log.vault());
        vault.id_of(about.caller.principal.as_str()).is_none()
    }
}
