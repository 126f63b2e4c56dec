//! Wakes requests by subject: those that depend on a changed subject, or all.

use std::sync::{Arc, Weak};

use dashmap::DashMap;
use foldhash::quality::RandomState;
use tokio::sync::watch;

use crate::id::{AgentName, KeyId, Principal, TokenId};

/// The subject of a change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ChangeSubject {
    /// An agent, and all agents that were delegated from it.
    Agent(Box<str>),
    /// All agents of a namespace.
    Namespace(Box<str>),
    /// All agents that act for a principal.
    Principal(Principal),
    /// A token, and all below it.
    Token(TokenId),
    /// A key that signs tokens, or the key of a token's holder.
    Key(KeyId),
}

impl ChangeSubject {
    /// The subjects of a chain: its agents, namespace and principal, its tokens and its keys.
    #[must_use]
    pub fn of(
        agent: &AgentName,
        principal: &Principal,
        tokens: &[TokenId],
        keys: &[KeyId],
    ) -> Vec<Self> {
        let mut subjects = Vec::new();
        for name in agent.lineage() {
            subjects.push(Self::Agent(name.into()));
        }
        subjects.push(Self::Namespace(agent.namespace().into()));
        subjects.push(Self::Principal(principal.clone()));
        for token in tokens {
            subjects.push(Self::Token(*token));
        }
        for key in keys {
            subjects.push(Self::Key(*key));
        }
        subjects
    }

    /// The subject of an agent, and of all agents that were delegated from it.
    pub(super) fn agent(agent: &AgentName) -> Self {
        Self::Agent(agent.as_str().into())
    }
}

/// The channel that wakes one subscription. It has no value: only the change counts.
type WakeupSender = watch::Sender<()>;

/// The subscriptions, by subject.
pub(super) struct Wakeups {
    /// Weak, so that a forgotten entry does not keep a subscription in memory.
    of: DashMap<ChangeSubject, Vec<Weak<WakeupSender>>, RandomState>,
    everyone: WakeupSender,
}

impl Default for Wakeups {
    fn default() -> Self {
        Self { of: DashMap::with_hasher(RandomState::default()), everyone: WakeupSender::new(()) }
    }
}

impl Wakeups {
    /// A subscription to `subjects`.
    pub(super) fn subscribe(self: &Arc<Self>, subjects: Vec<ChangeSubject>) -> Subscription {
        let own = Arc::new(WakeupSender::new(()));
        for subject in &subjects {
            self.of.entry(subject.clone()).or_default().push(Arc::downgrade(&own));
        }
        Subscription { own, subjects, all: Arc::clone(self) }
    }

    /// Wakes the subscriptions to `subjects`. Call it after the change, so that a woken request
    /// sees the new state.
    pub(super) fn wake(&self, subjects: &[ChangeSubject]) {
        for subject in subjects {
            let Some(calls) = self.of.get(subject) else { continue };
            for call in calls.iter() {
                // A subscription that is being dropped needs no wake-up.
                if let Some(call) = call.upgrade() {
                    call.send_replace(());
                }
            }
        }
    }

    /// Wakes all subscriptions.
    pub(super) fn wake_everyone(&self) {
        self.everyone.send_replace(());
    }
}

/// A subscription to changes of some subjects. Requests with the same token share one.
pub struct Subscription {
    own: Arc<WakeupSender>,
    subjects: Vec<ChangeSubject>,
    all: Arc<Wakeups>,
}

impl Subscription {
    /// The changes from now on. Call it before the status is checked, so that no change between the
    /// two is missed.
    #[must_use]
    pub fn changes(&self) -> Changes {
        Changes { own: self.own.subscribe(), everyone: self.all.everyone.subscribe() }
    }

    /// The memory of the subscription and of its entries in the map, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        /// A key, a pointer, and the overhead of the allocator.
        const EACH: usize = 128;
        size_of::<Self>() + self.subjects.len() * (size_of::<ChangeSubject>() + EACH)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        for subject in &self.subjects {
            // Removed under the lock of the map's shard. A new subscription cannot be lost in
            // between.
            self.all.of.remove_if_mut(subject, |_, calls| {
                calls.retain(|call| !std::ptr::eq(call.as_ptr(), Arc::as_ptr(&self.own)));
                calls.is_empty()
            });
        }
    }
}

/// Whether a channel has a change. A closed one counts as changed: it is safe to check the status
/// once more.
fn has_changed(channel: &watch::Receiver<()>) -> bool {
    !matches!(channel.has_changed(), Ok(false))
}

/// The changes since the last check.
pub struct Changes {
    own: watch::Receiver<()>,
    everyone: watch::Receiver<()>,
}

impl Changes {
    /// Whether a subject has changed since the last call. Each change is reported once.
    pub fn take(&mut self) -> bool {
        let changed = has_changed(&self.own) || has_changed(&self.everyone);
        if changed {
            // Both are marked before the status is checked: a later change is reported by the next
            // call.
            self.own.mark_unchanged();
            self.everyone.mark_unchanged();
        }
        changed
    }

    /// Makes the next call report a change.
    pub fn mark(&mut self) {
        self.own.mark_changed();
    }

    /// Waits for a change. Never returns after the registry was dropped.
    pub async fn changed(&mut self) {
        let ended = tokio::select! {
            own = self.own.changed() => own.is_err(),
            everyone = self.everyone.changed() => everyone.is_err(),
        };
        if ended {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(name: &str) -> [ChangeSubject; 1] {
        [ChangeSubject::agent(&name.parse().expect("name"))]
    }

    fn subjects(agent: &str) -> Vec<ChangeSubject> {
        let principal = "team:a".parse().expect("principal");
        ChangeSubject::of(
            &agent.parse().expect("name"),
            &principal,
            &[TokenId([1; 32])],
            &[KeyId([2; 32])],
        )
    }

    #[test]
    fn a_change_wakes_those_that_depend_on_its_subject() {
        let wakeups = Arc::new(Wakeups::default());
        let (child, other) =
            (wakeups.subscribe(subjects("a/b/c")), wakeups.subscribe(subjects("a/x")));
        let (mut of_child, mut of_other) = (child.changes(), other.changes());
        wakeups.wake(&agent("a/b"));
        assert!(of_child.take() && !of_child.take() && !of_other.take());
        for shared in [
            ChangeSubject::Namespace("a".into()),
            ChangeSubject::Key(KeyId([2; 32])),
            ChangeSubject::Token(TokenId([1; 32])),
        ] {
            wakeups.wake(&[shared]);
            assert!(of_child.take() && of_other.take());
        }
        wakeups.wake(&[]);
        assert!(!of_child.take() && !of_other.take());
        wakeups.wake_everyone();
        assert!(of_child.take() && of_other.take());
    }

    #[test]
    fn a_dropped_subscription_leaves_nothing() {
        let wakeups = Arc::new(Wakeups::default());
        let (first, second) =
            (wakeups.subscribe(subjects("a/b")), wakeups.subscribe(subjects("a/b")));
        let mut changes = second.changes();
        drop(first);
        wakeups.wake(&agent("a/b"));
        assert!(changes.take());
        drop(second);
        assert!(wakeups.of.is_empty());
    }
}
