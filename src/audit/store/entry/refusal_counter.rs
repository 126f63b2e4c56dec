//! Refusals that have no record each. They are counted, so that no caller can fill the disk with
//! them. They are remembered for a while, so that an operator can look up the reason.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::audit::format::event::Event;
use crate::audit::format::request::{ROWS_MAX, RefusalCount, RefusalCounts as Counted};
use crate::audit::store::locked::locked;
use crate::clock::Timestamp;
use crate::id::{AgentName, Principal, RequestId};
use crate::refusal::{Code, Refusal};

/// The maximum of recorded refusals of one agent and code in a minute. The others are counted.
const RECORDED: u64 = 10;
/// The maximum of recorded refusals of one root agent and all its delegated agents in a minute, for
/// all codes together. An agent can delegate to any number of names for free, so a limit for each
/// name is not enough.
const RECORDED_ROOT: u64 = 60;
/// The maximum of rows of counts. All other refusals are counted in one number.
const ROWS: usize = 1024;
/// The maximum of remembered refusals.
const RING: usize = 4096;
/// The period of the limits and of the counts.
const MINUTE: Duration = Duration::from_secs(60);

/// An answered refusal, for an operator who looks up its reason.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RememberedRefusal {
    /// The request's id.
    pub request: String,
    /// The time.
    pub at: String,
    /// The step that refused the request.
    pub stage: &'static str,
    /// The refusal's code.
    pub code: &'static str,
    /// The message that the caller got.
    pub message: String,
    /// The detail for the operator only.
    pub detail: Option<String>,
    /// The field of the body.
    pub param: Option<String>,
    /// The agent, where the caller was authenticated.
    pub agent: Option<String>,
    /// The network of an unauthenticated caller.
    pub network: Option<String>,
}

impl RememberedRefusal {
    /// The refusal of `request`, in the form for an operator.
    pub(super) fn of(
        request: &RequestId,
        refusal: &Refusal,
        agent: Option<String>,
        network: Option<String>,
        at: Timestamp,
    ) -> Self {
        Self {
            request: request.to_string(),
            at: at.to_string(),
            stage: refusal.code.stage().as_str(),
            code: refusal.code.as_str(),
            message: refusal.message.clone(),
            detail: refusal.detail.clone(),
            param: refusal.param.clone(),
            agent,
            network,
        }
    }
}

/// The agent of a refused request, and the principal that it acts for.
#[derive(Clone, Copy)]
pub(super) struct RefusedCaller<'c> {
    pub(super) agent: &'c AgentName,
    pub(super) principal: &'c Principal,
}

/// Counts by code and by caller. A caller is a principal with an agent, or a network.
#[derive(Default)]
struct Counts {
    rows: HashMap<(Whose, Code), u64>,
    other: u64,
}

/// The counted caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Whose {
    principal: Option<Principal>,
    /// The agent or the network.
    name: String,
}

impl Whose {
    /// The row of an authenticated caller.
    fn of(caller: RefusedCaller<'_>) -> Self {
        Self { principal: Some(caller.principal.clone()), name: caller.agent.as_str().to_owned() }
    }
}

impl Counts {
    /// Adds `more` to a row. Without a free row, it adds to `other`.
    fn count(&mut self, whose: Whose, code: Code, more: u64) {
        let full = self.rows.len() >= ROWS;
        match self.rows.get_mut(&(whose.clone(), code)) {
            Some(count) => *count += more,
            None if full => self.other += more,
            None => {
                self.rows.insert((whose, code), more);
            }
        }
    }

    /// Adds the counts of an event that was not recorded.
    fn take_back(&mut self, counted: &Counted) {
        for row in &counted.rows {
            let whose = Whose { principal: counted.principal.clone(), name: row.whose.clone() };
            match Code::ALL.iter().find(|code| code.as_str() == row.code) {
                Some(code) => self.count(whose, *code, row.count),
                None => self.other += row.count,
            }
        }
        self.other += counted.other;
    }

    /// Takes out the counts, as one or more events for each principal. An event is encrypted under
    /// its principal's record key, so that it is forgotten with that key.
    fn events(
        &mut self,
        from: Timestamp,
        until: Timestamp,
        staged: bool,
        event: fn(Box<Counted>) -> Event,
    ) -> Vec<Event> {
        let mut by_principal: BTreeMap<Option<Principal>, Vec<RefusalCount>> = BTreeMap::new();
        for ((whose, code), count) in self.rows.drain() {
            let stage = staged.then(|| code.stage().as_str());
            let row = RefusalCount { whose: whose.name, stage, code: code.as_str(), count };
            by_principal.entry(whose.principal).or_default().push(row);
        }
        let other = std::mem::take(&mut self.other);
        // Refusals without a row have no principal, so they are in the event without one.
        if other > 0 {
            by_principal.entry(None).or_default();
        }
        let mut events = Vec::new();
        for (principal, mut rows) in by_principal {
            // Sorted rows give the same record for the same counts, whatever the order of the hash
            // map.
            rows.sort_by(|one, other| (&one.whose, one.code).cmp(&(&other.whose, other.code)));
            let mut other = if principal.is_none() { other } else { 0 };
            while !rows.is_empty() || other > 0 {
                let rest = rows.split_off(rows.len().min(ROWS_MAX));
                let rows = std::mem::replace(&mut rows, rest);
                let principal = principal.clone();
                events.push(event(Box::new(Counted {
                    principal,
                    from,
                    until,
                    rows,
                    other: std::mem::take(&mut other),
                })));
            }
        }
        events
    }
}

/// The state under the lock.
struct CounterState {
    since: Timestamp,
    /// The start of the minute of `recorded` and `recorded_root`.
    minute: Timestamp,
    recorded: HashMap<(String, Code), u64>,
    recorded_root: HashMap<String, u64>,
    agents: Counts,
    unauthenticated: Counts,
    ring: VecDeque<RememberedRefusal>,
}

/// The counted and remembered refusals.
pub(super) struct RefusalCounter(Mutex<CounterState>);

/// The network of an unauthenticated caller: the IPv4 address, or the /64 of the IPv6 address. One
/// host usually has a whole /64.
pub(super) fn network(peer: IpAddr) -> String {
    match peer.to_canonical() {
        IpAddr::V4(four) => four.to_string(),
        IpAddr::V6(six) => {
            // An IPv6 host can use any address of its /64, so single addresses would fill all rows.
            format!("{}/64", std::net::Ipv6Addr::from_bits(six.to_bits() >> 64 << 64))
        }
    }
}

/// The root of an agent: the agent that all its delegations come from.
fn root(agent: &AgentName) -> &str {
    agent.lineage().last().unwrap_or_default()
}

impl RefusalCounter {
    /// A counter without counts, whose first period begins at `now`.
    pub(super) fn new(now: Timestamp) -> Self {
        Self(Mutex::new(CounterState {
            since: now,
            minute: now,
            recorded: HashMap::new(),
            recorded_root: HashMap::new(),
            agents: Counts::default(),
            unauthenticated: Counts::default(),
            ring: VecDeque::new(),
        }))
    }

    /// Locks the state.
    fn lock(&self) -> MutexGuard<'_, CounterState> {
        locked(&self.0)
    }

    /// Whether this refusal gets its own record. If not, it is counted now.
    pub(super) fn agent(&self, caller: RefusedCaller<'_>, code: Code, now: Timestamp) -> bool {
        let inner = &mut *self.lock();
        // The minute begins with its first refusal, not with the clock's minute.
        if inner.minute.plus(MINUTE) <= now {
            inner.minute = now;
            inner.recorded.clear();
            inner.recorded_root.clear();
        }
        let root = root(caller.agent);
        let key = (caller.agent.as_str().to_owned(), code);
        let (own, all) =
            (inner.recorded.get(&key).copied(), inner.recorded_root.get(root).copied());
        // The map of the minute is bounded as well: many names must not fill the memory.
        let room = inner.recorded.len() < ROWS || own.is_some();
        if room && own.unwrap_or(0) < RECORDED && all.unwrap_or(0) < RECORDED_ROOT {
            inner.recorded.insert(key, own.unwrap_or(0) + 1);
            inner.recorded_root.insert(root.to_owned(), all.unwrap_or(0) + 1);
            return true;
        }
        inner.agents.count(Whose::of(caller), code, 1);
        false
    }

    /// Counts a refusal whose record could not be written.
    pub(super) fn count(&self, caller: RefusedCaller<'_>, code: Code) {
        self.lock().agents.count(Whose::of(caller), code, 1);
    }

    /// Counts a refusal of an unauthenticated caller.
    pub(super) fn count_unauthenticated(&self, network: String, code: Code) {
        self.lock().unauthenticated.count(Whose { principal: None, name: network }, code, 1);
    }

    /// Removes counts and remembered refusals of a principal, and of these agents.
    pub(super) fn remove_principal(&self, principal: &Principal, agents: &[AgentName]) {
        let inner = &mut *self.lock();
        inner.agents.rows.retain(|(whose, _), _| whose.principal.as_ref() != Some(principal));
        inner.ring.retain(|told| {
            !agents.iter().any(|agent| told.agent.as_deref() == Some(agent.as_str()))
        });
    }

    /// Adds the counts of an event from [`due`](Self::due) that could not be recorded.
    pub(super) fn take_back(&self, event: &Event) {
        let inner = &mut *self.lock();
        let (Event::Refusals(counted) | Event::UnauthenticatedRefusals(counted)) = event else {
            return;
        };
        let counts = if matches!(event, Event::Refusals(_)) {
            &mut inner.agents
        } else {
            &mut inner.unauthenticated
        };
        counts.take_back(counted);
        // The next event covers the failed period too.
        inner.since = inner.since.min(counted.from);
    }

    /// Remembers a refusal. The oldest is dropped above [`RING`].
    pub(super) fn tell(&self, told: RememberedRefusal) {
        let mut inner = self.lock();
        if inner.ring.len() >= RING {
            inner.ring.pop_front();
        }
        inner.ring.push_back(told);
    }

    /// The remembered refusal of a request, where it is still there.
    pub(super) fn told(&self, request: &RequestId) -> Option<RememberedRefusal> {
        let request = request.to_string();
        self.lock().ring.iter().rev().find(|told| told.request == request).cloned()
    }

    /// The events with the counts since the last time, if a minute has passed.
    pub(super) fn due(&self, now: Timestamp, at_once: bool) -> Vec<Event> {
        let inner = &mut *self.lock();
        if !at_once && inner.since.plus(MINUTE) > now {
            return Vec::new();
        }
        // The next period begins where this one ends, so each refusal is in one period only.
        let from = std::mem::replace(&mut inner.since, now);
        let mut events = inner.agents.events(from, now, false, Event::Refusals);
        events.extend(inner.unauthenticated.events(
            from,
            now,
            true,
            Event::UnauthenticatedRefusals,
        ));
        events
    }
}

#[cfg(test)]
#[allow(clippy::wildcard_enum_match_arm, reason = "a test knows which events it asks for")]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_790_000_000_000);

    fn agent(name: &str) -> AgentName {
        name.parse().expect("name")
    }

    #[test]
    fn the_first_ten_of_a_code_in_a_minute_are_recorded() {
        let refusal_counter = RefusalCounter::new(NOW);
        let principal: Principal = "team:tests".parse().expect("principal");
        let recorded = |name: &str, code, at| {
            let agent = agent(name);
            let caller = RefusedCaller { agent: &agent, principal: &principal };
            (0..100).filter(|_| refusal_counter.agent(caller, code, at)).count()
        };
        assert_eq!(recorded("a/b", Code::RateExceeded, NOW), 10);
        assert_eq!(recorded("a/b", Code::ModelNotFound, NOW), 10);
        let later = NOW.plus(MINUTE);
        assert_eq!(recorded("a/b", Code::RateExceeded, later), 10);
        // Names below an agent are free, so they share its limit.
        let all: usize = (0..30)
            .map(|number| recorded(&format!("a/b/c{number}"), Code::RateExceeded, later))
            .sum();
        assert_eq!(all, 50);
        let counted: u64 = refusal_counter
            .due(later, false)
            .into_iter()
            .map(|event| match event {
                Event::Refusals(refusal_counter) => {
                    refusal_counter.rows.iter().map(|row| row.count).sum::<u64>()
                        + refusal_counter.other
                }
                _ => 0,
            })
            .sum();
        assert_eq!(counted, 90 + 90 + 90 + 3000 - 50);
    }

    #[test]
    fn a_flood_has_a_bounded_number_of_rows() {
        let refusal_counter = RefusalCounter::new(NOW);
        for number in 0..100_000_u32 {
            refusal_counter.count_unauthenticated(
                network(IpAddr::from(number.to_be_bytes())),
                Code::TokenMissing,
            );
        }
        assert!(refusal_counter.due(NOW, false).is_empty(), "not before a minute has passed");
        let events = refusal_counter.due(NOW.plus(MINUTE), false);
        assert_eq!(events.len(), ROWS / ROWS_MAX);
        let of = |event: &Event| match event {
            Event::UnauthenticatedRefusals(refusal_counter) => (
                refusal_counter.rows.len(),
                refusal_counter.rows.iter().map(|row| row.count).sum::<u64>()
                    + refusal_counter.other,
            ),
            _ => (0, 0),
        };
        assert_eq!(events.iter().map(|event| of(event).0).sum::<usize>(), ROWS);
        assert_eq!(events.iter().map(|event| of(event).1).sum::<u64>(), 100_000);
        assert!(
            refusal_counter.due(NOW.plus(MINUTE * 2), false).is_empty(),
            "nothing is counted twice"
        );
        events.iter().for_each(|event| refusal_counter.take_back(event));
        let again = refusal_counter.due(NOW.plus(MINUTE * 2), false);
        assert_eq!(
            again.iter().map(|event| of(event).1).sum::<u64>(),
            100_000,
            "what was not recorded is counted on"
        );
    }

    #[test]
    fn what_was_told_is_remembered_for_a_while() {
        let refusal_counter = RefusalCounter::new(NOW);
        let id = |number: u128| RequestId::new(NOW.0, number);
        for number in 0..5000 {
            refusal_counter.tell(RememberedRefusal::of(
                &id(number),
                &Code::TokenMissing.into(),
                None,
                None,
                NOW,
            ));
        }
        assert_eq!(refusal_counter.told(&id(4999)).map(|told| told.code), Some("token-missing"));
        assert!(refusal_counter.told(&id(1)).is_none());
    }
}
