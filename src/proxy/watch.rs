//! Notices when a caller whose request is in flight may no longer act.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::audit::store::entry::Pen;
use crate::clock::Clock;
use crate::guard::authenticate::{Authenticator, Remembered};
use crate::refusal::Refusal;

/// Longest sleep: a token that lives longer is looked at again in between.
const DOZE: Duration = Duration::from_secs(24 * 3600);

/// The proof that the caller may act now. What it allows uses it up.
///
/// It cannot be kept over a wait: it is not `Send`, and a future that serves a request must be.
pub struct Fresh(PhantomData<*const ()>);

impl Fresh {
    /// Uses the proof up.
    pub(super) const fn spend(self) {
        let Self(PhantomData) = self;
    }
}

/// The watch over one request. It must begin before the caller is authenticated, so that no change falls in between.
pub struct Watch {
    authenticator: Arc<Authenticator>,
    pen: Pen,
    clock: Arc<dyn Clock>,
    token: Arc<Remembered>,
    changes: watch::Receiver<u64>,
}

impl Watch {
    /// Watches the caller of `token`; `changes` counts changes of the books since before it was authenticated.
    #[must_use]
    pub fn new(
        (authenticator, pen, clock): (Arc<Authenticator>, Pen, Arc<dyn Clock>),
        token: Arc<Remembered>,
        changes: watch::Receiver<u64>,
    ) -> Self {
        Self { authenticator, pen, clock, token, changes }
    }

    /// Asks again whether the caller may act, where anything has changed or time has passed.
    ///
    /// # Errors
    /// The refusal that a new request would get.
    pub fn check(&mut self) -> Result<Fresh, Refusal> {
        if self.changes.has_changed().unwrap_or(true) {
            self.changes.mark_unchanged();
            self.standing()?;
        } else {
            self.token.verified.still_valid(self.clock.now())?;
        }
        Ok(Fresh(PhantomData))
    }

    fn standing(&mut self) -> Result<(), Refusal> {
        self.pen.ready()?;
        if let Some(anew) = self.authenticator.may_still_act(&self.token)? {
            self.token = anew;
        }
        Ok(())
    }

    /// Waits until the caller may no longer act, or its token has run out.
    pub async fn lost(&mut self) -> Refusal {
        loop {
            let left = self.token.verified.expires().0.saturating_sub(self.clock.now().0);
            let left = Duration::from_millis(u64::try_from(left).unwrap_or(0)).min(DOZE);
            let waited = tokio::time::timeout(left, self.revoked()).await;
            if let Err(refusal) = waited.map_or_else(|_| self.standing(), Err) {
                return refusal;
            }
        }
    }

    /// Waits until the caller may no longer act, whatever its token's time.
    pub async fn revoked(&mut self) -> Refusal {
        loop {
            if self.changes.changed().await.is_err() {
                // The books are gone: the gateway is ending, and the drain's time limit rules.
                std::future::pending::<()>().await;
            }
            if let Err(refusal) = self.standing() {
                return refusal;
            }
        }
    }
}
