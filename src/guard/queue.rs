//! The queue of one upstream: decides which waiting request gets the next slot. It is pure: it uses
//! no clock and no tasks.
//!
//! A free slot goes to the class that holds the smallest share of the slots by its weight. Within
//! the class it goes to the root agent that holds the fewest slots. Among equals it goes to the one
//! whose turn was longest ago. So no agent holds all slots while others wait, whatever it sends.
//! The names of delegated agents have no effect, because the holders of their parents choose them.
//!
//! The waiting list is bounded and shared by the same rule. When it is full, an agent that waits
//! less often can still join. It replaces the newest request of the agent that waits most often.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// The number of one request that waits for a slot or holds one.
pub type Ticket = u64;

/// The party for which a slot is taken.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    /// The class.
    pub class: Arc<str>,
    /// The weight of the class. 0 counts as 1.
    pub weight: u32,
    /// The agent of the first token of the chain (the root token).
    pub root: Arc<str>,
}

/// The result of joining the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// The request waits.
    Waits,
    /// The request waits, and this other one was removed from the list.
    Instead(Ticket),
    /// The list is full.
    Full,
}

/// The slots and waiting requests of one root agent.
#[derive(Debug, Default)]
struct QueuedAgent {
    /// Slots in use.
    held: u64,
    /// Its waiting requests, the oldest first.
    waiting: VecDeque<Ticket>,
    /// The number of its last turn; the lowest number is served first.
    turn: u64,
}

/// The slots and waiting requests of one class.
#[derive(Debug, Default)]
struct QueuedClass {
    /// The weight of its last request.
    weight: u64,
    /// Slots in use by all its agents.
    held: u64,
    /// Waiting requests of all its agents.
    waiting: usize,
    /// Increases with each slot granted, by the reciprocal of the weight.
    passed: u64,
    agents: BTreeMap<Arc<str>, QueuedAgent>,
}

impl QueuedClass {
    /// Which of two classes gets the next slot: the one with the smaller share, then the one with
    /// fewer turns.
    fn by_turn(&self, other: &Self) -> Ordering {
        // The shares held/weight are compared as cross products, which are exact.
        let own_share = u128::from(self.held) * u128::from(other.weight);
        let other_share = u128::from(other.held) * u128::from(self.weight);
        own_share.cmp(&other_share).then(self.passed.cmp(&other.passed))
    }
}

/// The increase of `passed` for a class of weight 1.
const TURN: u64 = 1 << 20;

/// The slots and the waiting list of one upstream.
#[derive(Debug, Default)]
pub struct Queue {
    /// Classes that hold a slot or wait for one.
    classes: BTreeMap<Arc<str>, QueuedClass>,
    /// Slots in use.
    held: u64,
    /// Waiting requests.
    waiting: usize,
    /// The number of the next turn.
    turns: u64,
    /// The largest `passed` of a class at the time when it was served.
    passed: u64,
}

impl Queue {
    /// Slots in use.
    #[must_use]
    pub const fn held(&self) -> u64 {
        self.held
    }

    /// Requests that wait.
    #[must_use]
    pub const fn waiting(&self) -> usize {
        self.waiting
    }

    /// Takes one of `slots` at once, where one is free and no request waits.
    pub fn take(&mut self, holder: &Holder, slots: u64) -> bool {
        // Waiting requests have priority: a new request must not take a slot before them.
        let free = self.waiting == 0 && self.held < slots;
        if free {
            self.grant(holder);
        }
        free
    }

    /// Takes a slot that was granted elsewhere, even where all are in use.
    pub fn hold(&mut self, holder: &Holder) {
        self.grant(holder);
    }

    /// How many slots each holder has.
    #[must_use]
    pub fn holders(&self) -> Vec<(Holder, u64)> {
        let mut holders = Vec::new();
        for (name, class) in &self.classes {
            let weight = u32::try_from(class.weight).unwrap_or(u32::MAX);
            for (root, agent) in &class.agents {
                if agent.held > 0 {
                    let (class, root) = (Arc::clone(name), Arc::clone(root));
                    holders.push((Holder { class, weight, root }, agent.held));
                }
            }
        }
        holders
    }

    /// The agent of a holder, where it holds a slot or waits for one.
    fn agent(&self, holder: &Holder) -> Option<&QueuedAgent> {
        self.classes.get(&holder.class)?.agents.get(&holder.root)
    }

    /// Waits for a slot. At most `length` requests may wait at the same time.
    pub fn join(&mut self, ticket: Ticket, holder: &Holder, length: usize) -> Joined {
        let mut joined = Joined::Waits;
        if self.waiting >= length {
            // The agent's own waiting requests count with the new one, so that an agent never
            // replaces its own.
            let own = match self.agent(holder) {
                Some(agent) => agent.waiting.len(),
                None => 0,
            };
            let Some(last) = self.most_waiting(own + 1) else { return Joined::Full };
            self.leave(last);
            joined = Joined::Instead(last);
        }
        let (turns, passed) = (self.turns, self.passed);
        self.turns += 1;
        let class = self.class(holder);
        // A class that did not wait gets no credit for that time. Otherwise it could take many
        // turns in a row later.
        if class.waiting == 0 {
            class.passed = class.passed.max(passed);
        }
        class.waiting += 1;
        let agent = class.agents.entry(Arc::clone(&holder.root)).or_default();
        // An agent without a waiting request takes its turn from now.
        if agent.waiting.is_empty() {
            agent.turn = turns;
        }
        agent.waiting.push_back(ticket);
        self.waiting += 1;
        joined
    }

    /// The newest request of the agent that waits most often, where it has more than `than` waiting
    /// requests.
    fn most_waiting(&self, than: usize) -> Option<Ticket> {
        let agents = self.classes.values().flat_map(|class| class.agents.values());
        // Among equals, the agent with the newest request loses it.
        let most = agents.max_by_key(|agent| (agent.waiting.len(), agent.waiting.back()))?;
        if most.waiting.len() > than { most.waiting.back().copied() } else { None }
    }

    /// Removes a waiting request from the list.
    pub fn leave(&mut self, ticket: Ticket) {
        for class in self.classes.values_mut() {
            for agent in class.agents.values_mut() {
                let Some(place) = agent.waiting.iter().position(|waiting| *waiting == ticket)
                else {
                    continue;
                };
                agent.waiting.remove(place);
                class.waiting -= 1;
                self.waiting -= 1;
                self.tidy();
                return;
            }
        }
    }

    /// Grants one of `slots` to the next request, if one is free.
    pub fn next(&mut self, slots: u64) -> Option<Ticket> {
        if self.held >= slots {
            return None;
        }
        let waiting = self.classes.iter().filter(|(_, class)| class.waiting > 0);
        let (name, class) = waiting.min_by(|(_, one), (_, other)| one.by_turn(other))?;
        let agents = class.agents.iter().filter(|(_, agent)| !agent.waiting.is_empty());
        // Fewest slots first; then the longest time since the last turn.
        let (root, _) = agents.min_by_key(|(_, agent)| (agent.held, agent.turn))?;
        let weight = u32::try_from(class.weight).unwrap_or(u32::MAX);
        let holder = Holder { class: Arc::clone(name), weight, root: Arc::clone(root) };
        let turns = self.turns;
        self.turns += 1;
        let class = self.class(&holder);
        let agent = class.agents.get_mut(&holder.root)?;
        let ticket = agent.waiting.pop_front()?;
        agent.turn = turns;
        class.waiting -= 1;
        let passed = class.passed;
        class.passed += TURN / class.weight;
        self.passed = self.passed.max(passed);
        self.waiting -= 1;
        self.grant(&holder);
        Some(ticket)
    }

    /// The class of a holder; made if it does not exist. The last weight counts, because a reload
    /// may change it.
    fn class(&mut self, holder: &Holder) -> &mut QueuedClass {
        let class = self.classes.entry(Arc::clone(&holder.class)).or_default();
        class.weight = u64::from(holder.weight.max(1));
        class
    }

    /// Counts one more slot for a holder.
    fn grant(&mut self, holder: &Holder) {
        let class = self.class(holder);
        class.held += 1;
        class.agents.entry(Arc::clone(&holder.root)).or_default().held += 1;
        self.held += 1;
    }

    /// Returns a slot.
    pub fn release(&mut self, holder: &Holder) {
        // A slot that was never granted changes no count.
        let Some(class) = self.classes.get_mut(&holder.class) else { return };
        let Some(agent) = class.agents.get_mut(&holder.root) else { return };
        if agent.held == 0 {
            return;
        }
        agent.held -= 1;
        class.held -= 1;
        self.held -= 1;
        self.tidy();
    }

    /// Removes agents and classes that hold no slot and wait for none, so that memory stays bounded
    /// by the requests.
    fn tidy(&mut self) {
        self.classes.retain(|_, class| {
            class.agents.retain(|_, agent| agent.held > 0 || !agent.waiting.is_empty());
            !class.agents.is_empty()
        });
    }
}

#[cfg(test)]
mod tests;
