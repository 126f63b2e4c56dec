//! What is open: requests of which it is still to be recorded what became of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use dashmap::DashMap;
use foldhash::fast::RandomState;
use tokio::sync::Notify;

use crate::audit::format::event::{Event, Written};
use crate::audit::format::request::{BodyDigest, Outcome, RequestContext};
use crate::crypto::encryption::KeyedDigest;
use crate::id::RequestId;

/// What is open: admissions on their way to the disk, entries, and outcomes on their way.
#[derive(Default)]
pub(super) struct Admissions {
    pub(super) count: AtomicUsize,
    pub(super) none: Notify,
    /// Nothing is admitted any more.
    pub(super) ending: AtomicBool,
    /// An outcome could not be recorded.
    pub(super) lost: AtomicBool,
    /// What is still going on is to end now.
    pub(super) cut: AtomicBool,
    /// The admissions without an outcome, with their index. By request: an index is one of an epoch.
    pub(super) admissions: DashMap<RequestId, (u64, RequestContext), RandomState>,
}

/// One of [`Admissions`], until it is dropped.
pub(super) struct AdmissionGuard(pub(super) Arc<Admissions>);

impl AdmissionGuard {
    pub(super) fn new(open: &Arc<Admissions>) -> Self {
        open.count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(open))
    }
}

impl Drop for AdmissionGuard {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.none.notify_waiters();
        }
    }
}

/// The outcome of a request of which nobody says what became of it.
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
