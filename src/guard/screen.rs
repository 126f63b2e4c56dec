//! Step "screen" of the guard: the place for a check whether the body has private content. This
//! release has no detectors: the step passes every request unchanged.

use crate::guard::egress::request::Cleared;
use crate::guard::understand::Understood;

/// A request after this step. Only [`screen`] makes one.
pub struct Screened<'b>(Cleared<'b>);

impl<'b> Screened<'b> {
    /// The parsed request.
    pub(super) const fn understood(&self) -> &Understood<'b> {
        self.0.understood()
    }

    /// Takes the value apart for the next step.
    pub(super) fn into_inner(self) -> Cleared<'b> {
        self.0
    }
}

/// Passes the request on unchanged.
#[must_use]
pub const fn screen(cleared: Cleared<'_>) -> Screened<'_> {
    Screened(cleared)
}
