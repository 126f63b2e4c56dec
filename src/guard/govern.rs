//! Do the operator's rules allow it? A pass-through: rules as code come with a later release, and this step is where they
//! will stand. It forbids nothing and says so.

use crate::guard::screen::Screened;
use crate::guard::understand::Understood;

/// A request that the rules allow. Only [`govern`] makes one.
pub struct Governed<'b>(Screened<'b>);

impl<'b> Governed<'b> {
    /// The caller, the operation, and what is asked for.
    #[must_use]
    pub const fn understood(&self) -> &Understood<'b> {
        self.0.understood()
    }

    pub(super) fn into_inner(self) -> Screened<'b> {
        self.0
    }
}

/// Passes the request on unchanged.
#[must_use]
pub const fn govern(screened: Screened<'_>) -> Governed<'_> {
    Governed(screened)
}
