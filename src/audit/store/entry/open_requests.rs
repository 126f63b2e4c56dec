//! Open requests: those whose outcome is not recorded yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use dashmap::DashMap;
use foldhash::fast::RandomState;
use tokio::sync::Notify;

use crate::audit::format::event::{Event, Written};
use crate::audit::format::request::{BodyDigest, Outcome, RequestContext};
use crate::crypto::encryption::KeyedDigest;
use crate::id::RequestId;

/// Open admissions: from the write of the admission to the write of the outcome.
#[derive(Default)]
pub(super) struct Admissions {
    pub(super) count: AtomicUsize,
    pub(super) none: Notify,
    /// Whether new admissions are refused.
    pub(super) ending: AtomicBool,
    /// Whether an outcome could not be recorded.
    pub(super) lost: AtomicBool,
    /// Whether all open requests must end now.
    pub(super) cut: AtomicBool,
    /// The admissions without an outcome, with their index. The key is the request, because an
    /// index is unique only within an epoch.
    pub(super) admissions: DashMap<RequestId, (u64, RequestContext), RandomState>,
}

/// Counts one open admission of [`Admissions`] until it is dropped.
pub(super) struct AdmissionGuard(pub(super) Arc<Admissions>);

impl AdmissionGuard {
    /// Counts one more open admission.
    pub(super) fn new(open: &Arc<Admissions>) -> Self {
        open.count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(open))
    }
}

impl Drop for AdmissionGuard {
    fn drop(&mut self) {
        // The last guard wakes the call of `finish` that waits for all outcomes.
        if self.0.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.none.notify_waiters();
        }
    }
}

/// The outcome of a request whose end is not known.
pub(super) fn unknown(
    about: RequestContext,
    admission: u64,
    digest_key: [u8; 16],
) -> Option<Written> {
    let delivered = BodyDigest { bytes: 0, digest: KeyedDigest::of(&digest_key, &[]) };
    Written::of(&Event::Outcome(Box::new(Outcome {
        about,
        admission,
        upstream: None,
        model_digest: None,
        code: "unknown",
        detail: None,
        status: 0,
        ms: 0,
        usage: None,
        outbound: (Vec::new(), 0),
        fetched: Vec::new(),
        forwarded: None,
        digest_key,
        delivered,
    })))
}
