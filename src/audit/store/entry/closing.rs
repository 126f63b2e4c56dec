//! Waiting for an outcome to become durable.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::{RecordedAnswer, name_of, refusal_of};
use crate::audit::store::log::{Appended, LogFault};
use crate::failpoint::{Failpoint, is_armed};
use crate::refusal::{Code, Refusal};

/// An outcome on its way to the disk. Becomes the proof that it got there.
pub struct Closing(pub(super) oneshot::Receiver<Result<Appended, LogFault>>);

impl Closing {
    /// An outcome that does not become durable.
    #[must_use]
    pub fn never() -> Self {
        Self(oneshot::channel().1)
    }
}

impl Future for Closing {
    type Output = Result<RecordedAnswer, Refusal>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if is_armed(Failpoint::OutcomeNotAwaited) {
            return Poll::Ready(Ok(RecordedAnswer(String::new())));
        }
        Pin::new(&mut self.0).poll(cx).map(|answer| match answer {
            Ok(Ok(appended)) => Ok(RecordedAnswer(name_of(&appended))),
            Ok(Err(fault)) => Err(refusal_of(&fault)),
            Err(_) => Err(Code::AuditUnavailable.into()),
        })
    }
}
