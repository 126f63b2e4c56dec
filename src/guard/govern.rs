//! Step "govern" of the guard: the place for the operator's rules as code. This release has no such
//! rules: the step passes every request unchanged.

use crate::guard::screen::Screened;
use crate::guard::understand::Understood;

/// A request after this step. Only [`govern`] makes one.
pub struct Governed<'b>(Screened<'b>);

impl<'b> Governed<'b> {
    /// The caller, the operation and the parsed request.
    #[must_use]
    pub const fn understood(&self) -> &Understood<'b> {
        self.0.understood()
    }

    /// Takes the value apart for the next step.
    pub(super) fn into_inner(self) -> Screened<'b> {
        self.0
    }
}

/// Passes the request on unchanged.
#[must_use]
pub const fn govern(screened: Screened<'_>) -> Governed<'_> {
    Governed(screened)
}
