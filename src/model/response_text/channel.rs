//! The identity of a text: which parts of an answer belong together.

/// The position of a part of a text in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel<'k> {
    /// The choice (`n` > 1).
    pub choice: u64,
    /// The member with the text, such as `content`.
    pub key: &'k str,
    /// The names and types from the root to the member. Some clients join members of one name, and
    /// others do not.
    pub path: &'k str,
}

impl Channel<'_> {
    /// The text that the part belongs to.
    #[must_use]
    pub fn id(self) -> ChannelId {
        ChannelId { choice: self.choice, key: self.key.to_owned() }
    }
}

/// One text of an answer: all parts of one choice and member name, for any path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChannelId {
    /// The choice.
    pub choice: u64,
    /// The member.
    pub key: String,
}

impl ChannelId {
    /// Whether it is the text of that choice and member.
    pub(super) fn is_of(&self, choice: u64, key: &str) -> bool {
        self.choice == choice && self.key == key
    }

    /// The channel of the text, without a path.
    pub(super) fn channel(&self) -> Channel<'_> {
        Channel { choice: self.choice, key: &self.key, path: "" }
    }
}
