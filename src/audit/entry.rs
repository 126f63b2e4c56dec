//! The seal of a request: what lets it be forwarded and answered.
//!
//! In this release the control records are journalled and requests are not yet; the types stand as the later ones need
//! them. What holds already: where the journal cannot be written any more, nothing is sealed, so nothing is forwarded and
//! nobody who is known is answered as if all were well.

use std::sync::Arc;

use crate::audit::log::Log;
use crate::refusal::{Code, Refusal};

/// Who may seal: a handle on the log.
#[derive(Clone)]
pub struct Pen {
    log: Arc<Log>,
}

/// Something that was sealed, and its open entry. Only [`Pen::seal`] makes one.
pub struct Sealed<T> {
    inner: T,
    entry: Entry,
}

impl<T> Sealed<T> {
    /// What was sealed, and the entry; it must live as long as the work does.
    pub fn into_parts(self) -> (T, Entry) {
        (self.inner, self.entry)
    }
}

/// An entry that is open while its request is at work.
pub struct Entry(());

/// A refusal of a caller who is known, as sealed. Only [`Pen::seal_refusal`] makes one.
pub struct SealedRefusal(Refusal);

impl SealedRefusal {
    /// What was refused.
    #[must_use]
    pub const fn refusal(&self) -> &Refusal {
        &self.0
    }
}

/// An answer that may be given: the proof that its entry was closed.
pub struct SealedAnswer(());

impl Entry {
    /// Closes the entry before the answer leaves.
    #[must_use]
    pub fn close(self) -> SealedAnswer {
        SealedAnswer(())
    }
}

impl Pen {
    /// A pen for `log`.
    #[must_use]
    pub const fn new(log: Arc<Log>) -> Self {
        Self { log }
    }

    /// Asks whether anything can be sealed.
    ///
    /// # Errors
    /// `audit-unavailable` when the log cannot be written any more.
    pub fn ready(&self) -> Result<(), Refusal> {
        if self.log.healthy() { Ok(()) } else { Err(Code::AuditUnavailable.into()) }
    }

    /// Seals what was admitted.
    ///
    /// # Errors
    /// `audit-unavailable` when the log cannot be written any more.
    pub fn seal<T>(&self, inner: T) -> Result<Sealed<T>, Refusal> {
        self.ready().map(|()| Sealed { inner, entry: Entry(()) })
    }

    /// Seals a refusal of somebody who is known. Where the log cannot be written the refusal becomes `audit-unavailable`.
    #[must_use]
    pub fn seal_refusal(&self, refusal: Refusal) -> SealedRefusal {
        if self.log.healthy() { SealedRefusal(refusal) } else { SealedRefusal(Code::AuditUnavailable.into()) }
    }
}
