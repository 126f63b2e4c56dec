//! The lists of a token as sorted sets of names. They are sorted when they are parsed. So a
//! membership or inclusion check takes no more steps than it has names to read.

use std::sync::Arc;

/// The most entries in a list of a token, where the issuer's config has no other number
/// (`token_list`).
pub const LIST_MAX: usize = 64;

/// Why a list is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListFault {
    /// More entries than allowed.
    TooLong,
    /// An entry occurs twice.
    Twice,
}

/// A set of names in ascending order. All of them are in one allocation, so that a list of very
/// short names takes little more memory than its text. The signer of a token chooses the names, so
/// this bounds the memory that it can cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// All names, one after the other.
    text: Arc<str>,
    /// Where each name ends in `text`.
    ends: Arc<[u32]>,
}

impl Names {
    /// A set of `names`, at most `max` of them.
    ///
    /// # Errors
    /// When there are more, or one occurs twice.
    pub fn read(names: &[&str], max: usize) -> Result<Self, ListFault> {
        if names.len() > max {
            return Err(ListFault::TooLong);
        }
        let mut sorted = names.to_vec();
        sorted.sort_unstable();
        // Refused, because a duplicate in a signed list is a mistake of the signer.
        if sorted.windows(2).any(|pair| matches!(pair, [one, next] if one == next)) {
            return Err(ListFault::Twice);
        }
        let ends = sorted.iter().scan(0_usize, |end, name| {
            *end += name.len();
            Some(u32::try_from(*end).unwrap_or(u32::MAX))
        });
        Ok(Self { ends: ends.collect(), text: sorted.concat().into() })
    }

    /// The number of names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True for the empty set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The name at an index; empty for an index without a name.
    fn at(&self, place: usize) -> &str {
        let start = if place == 0 { 0 } else { self.end(place - 1) };
        self.text.get(start..self.end(place)).unwrap_or_default()
    }

    /// Where the name at an index ends in the text; 0 for an index without a name.
    fn end(&self, place: usize) -> usize {
        match self.ends.get(place) {
            Some(end) => *end as usize,
            None => 0,
        }
    }

    /// The names, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|place| self.at(place))
    }

    /// True where `name` is one of them.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        // Binary search, because a list may have thousands of names and is read on every request.
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.at(middle).cmp(name) {
                std::cmp::Ordering::Equal => return true,
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        false
    }

    /// True where `other` has all of these names.
    #[must_use]
    pub fn within(&self, other: &Self) -> bool {
        subset(self.iter(), other.iter())
    }

    /// The additional memory of the set, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        heap(self.text.len()) + heap(size_of_val(&*self.ends))
    }
}

/// The memory of an allocation of `bytes` in an `Arc`: the two counts, and the allocator's overhead
/// and rounding.
pub(super) const fn heap(bytes: usize) -> usize {
    bytes + 2 * size_of::<usize>() + 16
}

/// True where the ascending `theirs` has every item of the ascending `own`. Each item of both is
/// read at most once.
fn subset<T: Ord>(own: impl Iterator<Item = T>, mut theirs: impl Iterator<Item = T>) -> bool {
    for name in own {
        loop {
            let Some(other) = theirs.next() else { return false };
            match other.cmp(&name) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => break,
                std::cmp::Ordering::Greater => return false,
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;
    use std::cmp::Ordering;
    use std::collections::BTreeSet;

    fn names(list: &[&str]) -> Names {
        Names::read(list, usize::MAX).expect("a list")
    }

    #[test]
    fn a_list_is_a_set() {
        let set = names(&["b", "", "a", "ab"]);
        assert_eq!(set.iter().collect::<Vec<_>>(), ["", "a", "ab", "b"]);
        assert!(
            ["", "a", "ab", "b"].iter().all(|name| set.contains(name))
                && !set.contains("aa")
                && !set.contains("c")
        );
        assert_eq!(Names::read(&["a", "b", "a"], 3), Err(ListFault::Twice));
        assert_eq!(Names::read(&["a", "b", "c"], 2), Err(ListFault::TooLong));
        assert_eq!((names(&[]).len(), names(&[]).is_empty()), (0, true));
    }

    /// A number whose comparisons are counted.
    #[derive(PartialEq, Eq)]
    struct Counted<'c>(u32, &'c Cell<usize>);

    impl PartialOrd for Counted<'_> {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    impl Ord for Counted<'_> {
        fn cmp(&self, other: &Self) -> Ordering {
            self.1.set(self.1.get() + 1);
            self.0.cmp(&other.0)
        }
    }

    #[test]
    fn inclusion_takes_as_many_steps_as_there_are_names() {
        for size in [64_u32, 3_500] {
            let steps = Cell::new(0);
            let list = || (0..size).map(|number| Counted(number, &steps));
            assert!(subset(list(), list()));
            assert!(steps.get() <= size as usize, "{} comparisons for {size} names", steps.get());
            steps.set(0);
            // The worst case: the last name is missing.
            assert!(!subset((0..=size).map(|number| Counted(number, &steps)), list()));
            assert!(
                steps.get() <= size as usize + 1,
                "{} comparisons for {size} names",
                steps.get()
            );
        }
    }

    proptest! {
        #[test]
        fn inclusion_is_that_of_sets(own in "[ab]{0,3}( \
            [ab]{0,3}){0,5}", theirs in "[ab]{0,3}( [ab]{0,3}){0,5}") {
            let set = |text: &str| text.split(' ').map(str::to_owned).collect::<BTreeSet<String>>();
            let (own, theirs) = (set(&own), set(&theirs));
            let read =
                |set: &BTreeSet<String>| names(&set.iter().map(String::as_str).collect::<Vec<_>>());
            prop_assert_eq!(read(&own).within(&read(&theirs)), own.is_subset(&theirs));
            prop_assert!(own.iter().all(|name| read(&own).contains(name)));
            prop_assert!(theirs.iter().all(|name| read(&own).contains(name) == own.contains(name)));
        }
    }
}
