//! The wait for a durable outcome.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::{RecordedAnswer, name_of, refusal_of};
use crate::audit::store::log::{Appended, LogFault};
use crate::failpoint::{Failpoint, is_armed};
use crate::refusal::{Code, Refusal};

/// An outcome that is being written. Its result is the proof that it is durable.
pub struct Closing(pub(super) oneshot::Receiver<Result<Appended, LogFault>>);

impl Closing {
    /// An outcome that never becomes durable: its result is a refusal.
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
        let Poll::Ready(answer) = Pin::new(&mut self.0).poll(cx) else { return Poll::Pending };
        Poll::Ready(match answer {
            Ok(Ok(appended)) => Ok(RecordedAnswer(name_of(&appended))),
            Ok(Err(fault)) => Err(refusal_of(&fault)),
            // The sender was dropped without a result: the log's thread has ended.
            Err(_) => Err(Code::AuditUnavailable.into()),
        })
    }
}
