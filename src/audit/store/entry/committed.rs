//! The proof that an admission is durable.

use super::Entry;
use crate::audit::format::request::Forwards;

/// A value whose admission is durable. Only [`super::AuditRecorder::commit`] makes one.
///
/// The parts of the value come from the value alone: the functions that take it apart are plain
/// `fn`s, which have no captures. So no caller can attach the proof to another value.
pub struct Committed<T>(T);

impl<T> Committed<T> {
    /// Only [`super::AuditRecorder::commit`] calls this, after the admission is durable.
    pub(super) const fn new(value: T) -> Self {
        Self(value)
    }

    /// A shared reference to the value.
    #[must_use]
    pub const fn get(&self) -> &T {
        &self.0
    }

    /// Splits the value: the first part keeps the proof, the second does not need it.
    #[must_use]
    pub fn split<U, R>(self, part: fn(T) -> (U, R)) -> (Committed<U>, R) {
        let (kept, rest) = part(self.0);
        (Committed(kept), rest)
    }

    /// Takes one variant out of the value, with the proof.
    ///
    /// # Errors
    /// The result of `part` for every other variant, without the proof.
    pub fn try_map<U, E>(self, part: fn(T) -> Result<U, E>) -> Result<Committed<U>, E> {
        Ok(Committed(part(self.0)?))
    }
}

impl<T: Forwards> Committed<T> {
    /// Changes the value before it is sent. The outcome of `entry` records the changed body.
    pub fn amend(&mut self, entry: &mut Entry, change: impl FnOnce(&mut T)) {
        change(&mut self.0);
        if let Some(body) = self.0.forwarded() {
            entry.forwards(body);
        }
    }
}
