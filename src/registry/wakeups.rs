//! Wakes requests by subject: those that depend on what has changed, or everyone.

use std::sync::{Arc, Weak};

use dashmap::DashMap;
use foldhash::quality::RandomState;
use tokio::sync::watch;

use crate::id::{AgentName, KeyId, Principal, TokenId};

/// What a change can be about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ChangeSubject {
    /// An agent, and all that were delegated from it.
    Agent(Box<str>),
    /// All agents of a namespace.
    Namespace(Box<str>),
    /// All that acts for a principal.
    Principal(Principal),
    /// A token, and all below it.
    Token(TokenId),
    /// A key that signs tokens, or that holds one.
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
        let mut subjects: Vec<Self> =
            agent.lineage().map(|name| Self::Agent(name.into())).collect();
        subjects.push(Self::Namespace(agent.namespace().into()));
        subjects.push(Self::Principal(principal.clone()));
        subjects.extend(tokens.iter().copied().map(Self::Token));
        subjects.extend(keys.iter().copied().map(Self::Key));
        subjects
    }

    /// An agent, and all that were delegated from it.
    pub(super) fn agent(agent: &AgentName) -> Self {
        Self::Agent(agent.as_str().into())
    }
}

/// A wake-up call of one subscription.
type WakeupSender = watch::Sender<()>;

/// The subscriptions, by subject.
pub(super) struct Wakeups {
    of: DashMap<ChangeSubject, Vec<Weak<WakeupSender>>, RandomState>,
    everyone: WakeupSender,
}

impl Default for Wakeups {
    fn default() -> Self {
        Self { of: DashMap::with_hasher(RandomState::default()), everyone: WakeupSender::new(()) }
    }
}

impl Wakeups {
    pub(super) fn subscribe(self: &Arc<Self>, subjects: Vec<ChangeSubject>) -> Subscription {
        let own = Arc::new(WakeupSender::new(()));
        for subject in &subjects {
            self.of.entry(subject.clone()).or_default().push(Arc::downgrade(&own));
        }
        Subscription { own, subjects, all: Arc::clone(self) }
    }

    /// Wakes those that depend on `subjects`. Call it after the change.
    pub(super) fn wake(&self, subjects: &[ChangeSubject]) {
        for subject in subjects {
            let Some(calls) = self.of.get(subject) else { continue };
            for call in calls.iter().filter_map(Weak::upgrade) {
                call.send_replace(());
            }
        }
    }

    pub(super) fn wake_everyone(&self) {
        self.everyone.send_replace(());
    }
}

/// Hears of changes of some subjects. Requests with the same token share one.
pub struct Subscription {
    own: Arc<WakeupSender>,
    subjects: Vec<ChangeSubject>,
    all: Arc<Wakeups>,
}

impl Subscription {
    /// Changes from now on. Take it before the status is checked, so that no change is missed in between.
    #[must_use]
    pub fn changes(&self) -> Changes {
        Changes { own: self.own.subscribe(), everyone: self.all.everyone.subscribe() }
    }

    /// Memory that it takes, with its places among the others, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        /// A key, a pointer, and what the allocator adds.
        const EACH: usize = 128;
        size_of::<Self>() + self.subjects.len() * (size_of::<ChangeSubject>() + EACH)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        for subject in &self.subjects {
            self.all.of.remove_if_mut(subject, |_, calls| {
                calls.retain(|call| !std::ptr::eq(call.as_ptr(), Arc::as_ptr(&self.own)));
                calls.is_empty()
            });
        }
    }
}

/// What has changed since it was last looked at.
pub struct Changes {
    own: watch::Receiver<()>,
    everyone: watch::Receiver<()>,
}

impl Changes {
    /// Whether anything has changed since the last call; a change is told once.
    pub fn take(&mut self) -> bool {
        let changed =
            self.own.has_changed().unwrap_or(true) || self.everyone.has_changed().unwrap_or(true);
        if changed {
            self.own.mark_unchanged();
            self.everyone.mark_unchanged();
        }
        changed
    }

    /// Has the next call tell of a change.
    pub fn mark(&mut self) {
        self.own.mark_changed();
    }

    /// Waits for a change. Never returns once the registry is gone.
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
