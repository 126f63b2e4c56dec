//! A filter that consists of two filters.

use std::collections::BTreeMap;

use super::channel::{Channel, ChannelId};
use super::filter::TextFilter;
use crate::model::tools::{Arguments, Tools};

/// Two filters in sequence. The output of the first is the input of the second.
///
/// A chain is itself a filter, so a chain of three is a chain inside a chain. A chain of one filter
/// has `()` as its second, which adds no cost.
#[derive(Debug, Default)]
pub struct FilterChain<First, Second = ()> {
    /// The filter that gets the text.
    first: First,
    /// The filter that gets the output of the first.
    second: Second,
    /// By choice and member, the path of the last part. The held bytes of the first filter had this
    /// path.
    paths: BTreeMap<u64, BTreeMap<String, String>>,
    /// The output of the first filter, for one call.
    passed: String,
}

impl<First, Second> FilterChain<First, Second> {
    /// A chain of two filters.
    #[must_use]
    pub const fn new(first: First, second: Second) -> Self {
        Self { first, second, paths: BTreeMap::new(), passed: String::new() }
    }

    /// The first filter.
    #[must_use]
    pub const fn first(&self) -> &First {
        &self.first
    }

    /// The second filter.
    #[must_use]
    pub const fn second(&self) -> &Second {
        &self.second
    }

    /// Both filters: the first and the second.
    #[must_use]
    pub fn into_parts(self) -> (First, Second) {
        (self.first, self.second)
    }

    /// Stores the path of a text.
    fn remember(&mut self, channel: Channel<'_>) {
        let of_choice = self.paths.entry(channel.choice).or_default();
        match of_choice.get_mut(channel.key) {
            Some(path) if *path == channel.path => {}
            Some(path) => {
                path.clear();
                path.push_str(channel.path);
            }
            None => {
                of_choice.insert(channel.key.to_owned(), channel.path.to_owned());
            }
        }
    }
}

/// The path of the last part of a text.
fn known_path<'p>(
    paths: &'p BTreeMap<u64, BTreeMap<String, String>>,
    channel: Channel<'_>,
) -> Option<&'p str> {
    Some(paths.get(&channel.choice)?.get(channel.key)?)
}

impl<First: TextFilter, Second: TextFilter> TextFilter for FilterChain<First, Second> {
    fn push(&mut self, channel: Channel<'_>, text: &str, out: &mut String) {
        // A chain of one filter needs no copy of the text.
        if self.second.passes_all() {
            return self.first.push(channel, text, out);
        }
        self.remember(channel);
        self.passed.clear();
        self.first.push(channel, text, &mut self.passed);
        self.second.push(channel, &self.passed, out);
    }

    fn flush(&mut self, channel: Channel<'_>, out: &mut String) {
        if self.second.passes_all() {
            return self.first.flush(channel, out);
        }
        self.passed.clear();
        self.first.flush(channel, &mut self.passed);
        // The path of `channel` is empty at the end of a text. The second filter needs the path
        // that the held bytes had.
        if !self.passed.is_empty() {
            let path = known_path(&self.paths, channel).unwrap_or(channel.path);
            self.second.push(Channel { path, ..channel }, &self.passed, out);
        }
        self.second.flush(channel, out);
    }

    fn boundary(&mut self) {
        self.first.boundary();
        self.second.boundary();
    }

    fn holding(&self, choice: Option<u64>) -> Vec<ChannelId> {
        let mut holding = self.first.holding(choice);
        for id in self.second.holding(choice) {
            if !holding.contains(&id) {
                holding.push(id);
            }
        }
        holding
    }

    fn is_holding(&self) -> bool {
        self.first.is_holding() || self.second.is_holding()
    }

    fn changes(&self) -> u64 {
        self.first.changes() + self.second.changes()
    }

    fn passes_all(&self) -> bool {
        self.first.passes_all() && self.second.passes_all()
    }
}

/// A tool call passes if both filters allow it.
impl<First: Tools, Second: Tools> Tools for FilterChain<First, Second> {
    fn any(&self) -> bool {
        self.first.any() || self.second.any()
    }

    fn ended(&self) -> bool {
        self.first.ended() || self.second.ended()
    }

    fn judges(&self, tool: &str) -> bool {
        self.first.judges(tool) || self.second.judges(tool)
    }

    fn call(&mut self, tool: &str, arguments: Arguments<'_>) -> bool {
        if self.first.judges(tool) && !self.first.call(tool, arguments) {
            return false;
        }
        !self.second.judges(tool) || self.second.call(tool, arguments)
    }
}

#[cfg(test)]
mod tests;
