//! Does the body carry what must stay private? A pass-through: the detectors come with a later release, and this step is
//! where they will stand. It holds nothing back and says so.

use crate::guard::egress::request::Cleared;
use crate::guard::understand::Understood;

/// A request whose content was screened. Only [`screen`] makes one.
pub struct Screened<'b>(Cleared<'b>);

impl<'b> Screened<'b> {
    pub(super) const fn understood(&self) -> &Understood<'b> {
        self.0.understood()
    }

    pub(super) fn into_inner(self) -> Cleared<'b> {
        self.0
    }
}

/// Passes the request on unchanged.
#[must_use]
pub const fn screen(cleared: Cleared<'_>) -> Screened<'_> {
    Screened(cleared)
}
