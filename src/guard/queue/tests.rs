//! The order in which waiting requests get slots.

use super::*;
use proptest::prelude::*;

fn holder(class: &str, weight: u32, root: &str) -> Holder {
    Holder { class: class.into(), weight, root: root.into() }
}

/// All slots are held by `greedy`, which waits for more.
fn taken(queue: &mut Queue, slots: u64, greedy: &Holder, waiting: u64) {
    for _ in 0..slots {
        assert!(queue.take(greedy, slots));
    }
    for ticket in 0..waiting {
        assert_eq!(queue.join(ticket, greedy, 1024), Joined::Waits);
    }
}

#[test]
fn who_has_nothing_is_next() {
    let (mut queue, greedy, modest) =
        (Queue::default(), holder("c", 1, "a/greedy"), holder("c", 1, "a/modest"));
    taken(&mut queue, 64, &greedy, 64);
    assert_eq!(queue.join(100, &modest, 1024), Joined::Waits);
    queue.release(&greedy);
    assert_eq!((queue.next(64), queue.next(64)), (Some(100), None));
    queue.release(&modest);
    // It joined last, and is next all the same, because it holds no slot.
    queue.join(101, &modest, 1024);
    assert_eq!(queue.next(64), Some(101));
}

#[test]
fn equals_take_turns() {
    let mut queue = Queue::default();
    let (one, other) = (holder("c", 1, "a/one"), holder("c", 1, "a/other"));
    taken(&mut queue, 1, &one, 3);
    (10..13).for_each(|ticket| assert_eq!(queue.join(ticket, &other, 64), Joined::Waits));
    let mut held = one.clone();
    let mut order = Vec::new();
    for _ in 0..6 {
        queue.release(&held);
        let ticket = queue.next(1).expect("somebody waits");
        held = if ticket < 10 { one.clone() } else { other.clone() };
        order.push(ticket);
    }
    assert_eq!(order, [0, 10, 1, 11, 2, 12]);
}

#[test]
fn a_class_gets_no_credit_for_the_time_that_it_did_not_wait() {
    let mut queue = Queue::default();
    let (busy, late) = (holder("busy", 1, "a/one"), holder("late", 1, "a/other"));
    taken(&mut queue, 1, &busy, 20);
    for _ in 0..6 {
        queue.release(&busy);
        queue.next(1).expect("busy waits");
    }
    let mut held = busy.clone();
    let mut turns = Vec::new();
    for round in 0..6 {
        // The class has one request at a time, so it often does not wait.
        if turns.last() != Some(&false) {
            queue.join(100 + round, &late, 64);
        }
        queue.release(&held);
        let is_late = queue.next(1).expect("both wait") >= 100;
        held = if is_late { late.clone() } else { busy.clone() };
        turns.push(is_late);
    }
    assert_eq!(turns.iter().filter(|is_late| **is_late).count(), 3, "{turns:?}");
}

#[test]
fn weights_share_the_places() {
    let mut queue = Queue::default();
    let (light, heavy) = (holder("light", 1, "a/one"), holder("heavy", 3, "a/other"));
    for ticket in 0..64 {
        queue.join(ticket * 2, &light, 1024);
        queue.join(ticket * 2 + 1, &heavy, 1024);
    }
    let heavy = std::iter::from_fn(|| queue.next(40)).filter(|ticket| ticket % 2 == 1).count();
    assert_eq!(heavy, 30);
}

#[test]
fn a_full_list_is_shared() {
    let mut queue = Queue::default();
    let (greedy, modest) = (holder("c", 1, "a/greedy"), holder("c", 1, "a/modest"));
    taken(&mut queue, 1, &greedy, 4);
    assert_eq!(queue.join(9, &greedy, 4), Joined::Full);
    assert_eq!(queue.join(10, &modest, 4), Joined::Instead(3));
    assert_eq!(queue.join(11, &modest, 4), Joined::Instead(2));
    assert_eq!((queue.join(12, &modest, 4), queue.waiting()), (Joined::Full, 4));
    assert_eq!(Queue::default().join(1, &modest, 0), Joined::Full);
}

/// The same rules over one flat list, as a reference for the property test.
#[derive(Default)]
struct Naive {
    waiting: Vec<(Ticket, Holder)>,
    held: Vec<Holder>,
    turns: Vec<(Holder, u64)>,
    count: u64,
}

impl Naive {
    fn turn(&mut self, holder: &Holder) {
        self.turns.retain(|(known, _)| known != holder);
        self.turns.push((holder.clone(), self.count));
        self.count += 1;
    }

    fn allowed(&self, ticket: Ticket) -> bool {
        let Some((_, own)) = self.waiting.iter().find(|(waiting, _)| *waiting == ticket) else {
            return false;
        };
        let class = |holder: &Holder| {
            self.held.iter().filter(|held| held.class == holder.class).count() as u64
        };
        let agent = |holder: &Holder| self.held.iter().filter(|held| *held == holder).count();
        let turn = |holder: &Holder| {
            self.turns.iter().find(|(known, _)| known == holder).map(|(_, turn)| *turn)
        };
        let first = |holder: &Holder| {
            self.waiting.iter().find(|(_, waiting)| waiting == holder).map(|(ticket, _)| *ticket)
        };
        self.waiting.iter().all(|(_, other)| {
            class(own) * u64::from(other.weight) <= class(other) * u64::from(own.weight)
                && (own.class != other.class
                    || (agent(own), turn(own)) <= (agent(other), turn(other)))
        }) && first(own) == Some(ticket)
    }
}

proptest! {
    #[test]
    fn whoever_is_served_was_next_by_the_naive_rules(
        steps in proptest::collection::vec((0..4_u8, 0..3_usize, 0..4_usize), 1..300),
        slots in 1..6_u64,
    ) {
        let (mut queue, mut naive) = (Queue::default(), Naive::default());
        let (classes, roots) = (["a", "b", "c"], ["w", "x", "y", "z"]);
        let of = |class: usize, root: usize| {
            holder(classes[class], [1, 2, 5][class], roots[root])
        };
        let mut ticket = 0;
        for (what, class, root) in steps {
            let one = of(class, root);
            match what {
                0 | 1 => {
                    ticket += 1;
                    if queue.take(&one, slots) {
                        let held = naive.held.len() as u64;
                        prop_assert!(naive.waiting.is_empty() && held < slots);
                        naive.held.push(one);
                    } else {
                        prop_assert_eq!(queue.join(ticket, &one, 1000), Joined::Waits);
                        if naive.waiting.iter().all(|(_, waiting)| *waiting != one) {
                            naive.turn(&one);
                        } else {
                            naive.count += 1;
                        }
                        naive.waiting.push((ticket, one));
                    }
                }
                2 if !naive.held.is_empty() => {
                    let gone = naive.held.remove(root % naive.held.len());
                    queue.release(&gone);
                }
                3 if !naive.waiting.is_empty() => {
                    let (gone, _) = naive.waiting.remove(root % naive.waiting.len());
                    queue.leave(gone);
                }
                _ => {}
            }
            while let Some(next) = queue.next(slots) {
                prop_assert!(naive.allowed(next), "{next} was not next");
                let mut tickets = naive.waiting.iter().map(|(waiting, _)| *waiting);
                let at = tickets.position(|waiting| waiting == next).expect("waits");
                let (_, holder) = naive.waiting.remove(at);
                naive.turn(&holder);
                naive.held.push(holder);
            }
            prop_assert_eq!(queue.held(), naive.held.len() as u64);
            prop_assert_eq!(queue.waiting(), naive.waiting.len());
            prop_assert!(naive.waiting.is_empty() || naive.held.len() as u64 == slots, "a \
                place is free while some wait");
        }
    }

    #[test]
    fn nobody_without_a_place_waits_for_more_grants_than_there_are_agents(
        greedy in 1..5_usize,
        slots in 1..8_u64,
        order in proptest::collection::vec(0..8_usize, 200),
    ) {
        // Greedy agents send requests without end; one agent with single requests is served
        // within a round.
        let mut queue = Queue::default();
        let agents: Vec<Holder> =
            (0..greedy).map(|number| holder("c", 1, &format!("a/{number}"))).collect();
        let modest = holder("c", 1, "a/modest");
        let mut held = Vec::new();
        let mut owner = std::collections::HashMap::new();
        for ticket in 0..1000 {
            let one = &agents[ticket as usize % greedy];
            queue.join(ticket, one, 10_000);
            owner.insert(ticket, one.clone());
        }
        while let Some(ticket) = queue.next(slots) {
            held.push(owner[&ticket].clone());
        }
        let (mut ticket, mut waits) = (10_000, 0);
        queue.join(ticket, &modest, 10_000);
        owner.insert(ticket, modest.clone());
        for pick in order {
            let gone = held.remove(pick % held.len());
            queue.release(&gone);
            let next = queue.next(slots).expect("somebody waits");
            held.push(owner[&next].clone());
            waits += 1;
            if next == ticket {
                waits = 0;
                held.retain(|holder| *holder != modest);
                queue.release(&modest);
                // Its slot goes to another request before it joins again.
                let next = queue.next(slots).expect("somebody waits");
                held.push(owner[&next].clone());
                ticket += 1;
                queue.join(ticket, &modest, 10_000);
                owner.insert(ticket, modest.clone());
            }
            prop_assert!(waits <= greedy, "passed over {waits} times");
        }
    }
}
