//! Detects that a caller with an open request may no longer act.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use crate::audit::store::entry::AuditRecorder;
use crate::clock::Clock;
use crate::guard::authenticate::{Authenticator, CachedToken, Renewed};
use crate::refusal::Refusal;
use crate::registry::Changes;

/// The longest sleep. A token that lives longer is checked again in between.
const DOZE: Duration = Duration::from_secs(24 * 3600);

/// The proof that the caller may act now. The action that it permits consumes it.
///
/// It cannot be kept across an await: it is not `Send`, and a future that serves a request must be
/// `Send`.
pub struct Fresh(PhantomData<*const ()>);

impl Fresh {
    /// Consumes the proof.
    pub(super) const fn spend(self) {
        let Self(PhantomData) = self;
    }
}

/// The watcher of one request. It must begin before the caller is authenticated, so that no change
/// falls between the two.
pub struct RevocationWatcher {
    authenticator: Arc<Authenticator>,
    recorder: AuditRecorder,
    clock: Arc<dyn Clock>,
    token: Arc<CachedToken>,
    changes: Changes,
}

impl RevocationWatcher {
    /// Watches the caller of `token`. `changes` must have been subscribed before its status was
    /// checked.
    #[must_use]
    pub fn new(
        authenticator: Arc<Authenticator>,
        recorder: AuditRecorder,
        clock: Arc<dyn Clock>,
        token: Arc<CachedToken>,
        changes: Changes,
    ) -> Self {
        Self { authenticator, recorder, clock, token, changes }
    }

    /// Checks whether the caller may still act. The status is read again only if the registry has
    /// changed.
    ///
    /// # Errors
    /// The refusal that a new request would get.
    pub fn check(&mut self) -> Result<Fresh, Refusal> {
        if self.changes.take() {
            self.check_status()?;
        } else {
            // No change in the registry, so only the passing of time can end the permission.
            self.token.verified.still_valid(self.clock.now())?;
        }
        Ok(Fresh(PhantomData))
    }

    /// Checks that the log works and that the caller's status permits the request.
    fn check_status(&mut self) -> Result<(), Refusal> {
        // Without a working log no outcome can be recorded, so a running request ends too.
        self.recorder.ready()?;
        if let Some(Renewed { token, changes }) = self.authenticator.may_still_act(&self.token)? {
            // The same token may be verified again under new keys or a new config. The new proof
            // counts.
            (self.token, self.changes) = (token, changes);
        }
        Ok(())
    }

    /// Waits until the caller may no longer act, or its token has expired.
    pub async fn lost(&mut self) -> Refusal {
        loop {
            let left = self.token.verified.expires().0.saturating_sub(self.clock.now().0);
            // Limited to `DOZE`. After it the loop computes the remaining time again.
            let left = Duration::from_millis(u64::try_from(left).unwrap_or(0)).min(DOZE);
            let waited = tokio::time::timeout(left, self.revoked()).await;
            if let Err(refusal) = waited.map_or_else(|_| self.check_status(), Err) {
                return refusal;
            }
        }
    }

    /// Waits until the caller may no longer act. The expiry of the token does not end this wait.
    pub async fn revoked(&mut self) -> Refusal {
        loop {
            self.changes.changed().await;
            if let Err(refusal) = self.check_status() {
                return refusal;
            }
        }
    }
}
