//! A chain of two filters that hold text.

use proptest::prelude::*;

use super::*;
use crate::model::response_text::drain::{TextEnd, drain};

/// Replaces each pair of a letter by another letter. Holds a letter that may be the first of a
/// pair.
struct Pairs {
    from: char,
    to: char,
    held: Vec<ChannelId>,
    boundaries: usize,
    /// The path and text of each push.
    seen: Vec<(String, String)>,
}

impl Pairs {
    const fn new(from: char, to: char) -> Self {
        Self { from, to, held: Vec::new(), boundaries: 0, seen: Vec::new() }
    }

    /// Removes the held letter of a text. Returns whether there was one.
    fn take(&mut self, channel: Channel<'_>) -> bool {
        let before = self.held.len();
        self.held.retain(|id| *id != channel.id());
        self.held.len() < before
    }
}

impl TextFilter for Pairs {
    fn push(&mut self, channel: Channel<'_>, text: &str, out: &mut String) {
        self.seen.push((channel.path.to_owned(), text.to_owned()));
        let mut is_held = self.take(channel);
        for letter in text.chars() {
            match (is_held, letter == self.from) {
                (true, true) => out.push(self.to),
                (true, false) => out.extend([self.from, letter]),
                (false, true) => {}
                (false, false) => out.push(letter),
            }
            is_held = !is_held && letter == self.from;
        }
        if is_held {
            self.held.push(channel.id());
        }
    }

    fn flush(&mut self, channel: Channel<'_>, out: &mut String) {
        if self.take(channel) {
            out.push(self.from);
        }
    }

    fn boundary(&mut self) {
        self.boundaries += 1;
    }

    fn holding(&self, choice: Option<u64>) -> Vec<ChannelId> {
        let mut holding = self.held.clone();
        holding.retain(|id| choice.is_none_or(|choice| choice == id.choice));
        holding
    }
}

/// `aa` becomes `b`, then `bb` becomes `c`.
fn chain() -> FilterChain<Pairs, Pairs> {
    FilterChain::new(Pairs::new('a', 'b'), Pairs::new('b', 'c'))
}

const CONTENT: Channel<'_> = Channel { choice: 0, key: "content", path: "/content" };
const OTHER: Channel<'_> = Channel { choice: 1, key: "content", path: "/content" };

fn pushed(filter: &mut dyn TextFilter, channel: Channel<'_>, text: &str) -> String {
    let mut out = String::new();
    filter.push(channel, text, &mut out);
    out
}

/// The output at the end of the text, or of all texts.
fn drained(filter: &mut dyn TextFilter, end: TextEnd<'_>) -> Vec<(ChannelId, String)> {
    let mut out = Vec::new();
    drain(filter, end, &mut |channel, text| out.push((channel.id(), text)));
    out
}

#[test]
fn what_the_first_releases_passes_the_second() {
    let mut chain = chain();
    assert_eq!(pushed(&mut chain, CONTENT, "xaaa"), "x");
    assert!(chain.is_holding());
    assert_eq!(chain.holding(Some(0)), [CONTENT.id()], "once, though both hold");
    assert_eq!(drained(&mut chain, TextEnd::Text(CONTENT)), [(CONTENT.id(), "ba".to_owned())]);
    assert!(!chain.is_holding());
    assert_eq!(drained(&mut chain, TextEnd::Text(CONTENT)), [(CONTENT.id(), String::new())]);
}

#[test]
fn a_chain_holds_if_one_filter_holds() {
    let mut chain = chain();
    assert_eq!(pushed(&mut chain, CONTENT, "a"), "");
    assert!(chain.first().is_holding() && !chain.second().is_holding() && chain.is_holding());
    assert_eq!(pushed(&mut chain, CONTENT, "a"), "");
    assert!(!chain.first().is_holding() && chain.second().is_holding() && chain.is_holding());
    assert_eq!(pushed(&mut chain, CONTENT, "x"), "bx");
    assert!(!chain.is_holding());
}

#[test]
fn the_texts_of_one_choice_end_alone() {
    let mut chain = chain();
    assert_eq!(pushed(&mut chain, CONTENT, "aa"), "");
    assert_eq!(pushed(&mut chain, OTHER, "a"), "");
    assert_eq!(drained(&mut chain, TextEnd::Choice(1)), [(OTHER.id(), "a".to_owned())]);
    assert_eq!(drained(&mut chain, TextEnd::All), [(CONTENT.id(), "b".to_owned())]);
    assert_eq!(drained(&mut chain, TextEnd::All), []);
}

#[test]
fn what_is_released_stays_at_its_path() {
    let mut chain = chain();
    pushed(&mut chain, CONTENT, "a");
    // The end of all texts has no paths.
    drained(&mut chain, TextEnd::All);
    let (_, second) = chain.into_parts();
    assert_eq!(second.seen.last(), Some(&("/content".to_owned(), "a".to_owned())));
}

#[test]
fn a_boundary_reaches_all_filters() {
    let mut chain = FilterChain::new(chain(), Pairs::new('c', 'd'));
    chain.boundary();
    let (first, third) = chain.into_parts();
    let (first, second) = first.into_parts();
    assert_eq!([first.boundaries, second.boundaries, third.boundaries], [1, 1, 1]);
}

/// A text in one part, as the filters change it one after the other.
fn whole(text: &str) -> String {
    text.replace("aa", "b").replace("bb", "c")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Two texts in alternating parts have the same output as in one part, also with a chain inside
    /// a chain.
    #[test]
    fn pieces_come_out_as_the_whole(
        pieces in proptest::collection::vec(("[abx]{0,4}", any::<bool>()), 0..12),
    ) {
        let first = FilterChain::new(Pairs::new('a', 'b'), ());
        let mut nested = FilterChain::new(first, Pairs::new('b', 'c'));
        let mut chain = chain();
        for filter in [&mut chain as &mut dyn TextFilter, &mut nested] {
            let mut sent = [String::new(), String::new()];
            let mut came = [String::new(), String::new()];
            for (piece, is_other) in &pieces {
                let channel = if *is_other { OTHER } else { CONTENT };
                sent[usize::from(*is_other)].push_str(piece);
                came[usize::from(*is_other)].push_str(&pushed(filter, channel, piece));
            }
            for (id, text) in drained(filter, TextEnd::All) {
                came[usize::from(id == OTHER.id())].push_str(&text);
            }
            prop_assert!(!filter.is_holding());
            prop_assert_eq!(came, sent.map(|text| whole(&text)));
        }
    }
}
