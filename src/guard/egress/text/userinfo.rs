//! Where a URL continues for its readers after what ends its authority here: all that is before
//! an `@` is no host to them (URL Standard section 4.4, authority state).

use super::authority::Lead;
use super::context::Place;
use super::tags::Tags;

/// A stretch in which an `@` would make a host of what follows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stretch {
    /// None is open.
    #[default]
    Closed,
    /// Out in the text: up to a blank.
    Bare,
    /// The same without a scheme, where brackets end it as well.
    Schemeless,
    /// A destination of Markdown, up to a blank.
    Destination,
    /// After a `<`: blanks belong to it for some, and what is after its `>` for others.
    Either,
    /// Between `<` and `>`: blanks belong to it.
    Angle,
    /// A style sheet: a string of it continues to the end of the line.
    Style,
    /// A tag: up to the end of a value.
    Tag,
}

impl Stretch {
    /// What is open after the slashes, or the authority, of a URL at `place`.
    pub(super) fn behind(place: Place, lead: &Lead, tags: &Tags) -> Self {
        if place.is_angle() || place.is_autolink() {
            Self::Either
        } else if tags.styles() || place.is_style() {
            Self::Style
        } else if tags.holds_value() {
            Self::Tag
        } else if place.is_destination() {
            Self::Destination
        } else if matches!(lead, Lead::Slashes { .. }) {
            Self::Schemeless
        } else {
            Self::Bare
        }
    }

    /// What is open of two, as long as either is.
    pub(super) fn or(self, other: Self) -> Self {
        let all = [
            Self::Style,
            Self::Either,
            Self::Angle,
            Self::Tag,
            Self::Destination,
            Self::Bare,
            Self::Schemeless,
        ];
        all.into_iter().find(|one| *one == self || *one == other).unwrap_or_default()
    }

    /// What is open where the next character comes. After a value it is what it would be out in
    /// the text: to some the tag is none.
    pub(super) fn until(self, tags: &Tags) -> Self {
        if self == Self::Tag && tags.value_over() { Self::Bare } else { self }
    }

    /// What is open after `seen`.
    pub(super) const fn after(self, seen: char) -> Self {
        let line = matches!(seen, '\n' | '\r');
        let blank = line || matches!(seen, ' ' | '\t');
        let ends = match self {
            Self::Either if seen == '>' => return Self::Bare,
            Self::Either if blank => return Self::Angle,
            Self::Either => false,
            Self::Closed => true,
            Self::Bare | Self::Destination => blank,
            Self::Schemeless => blank || matches!(seen, '[' | ']' | '(' | ')'),
            Self::Angle => line || seen == '>',
            Self::Style => line || seen == '\u{c}',
            Self::Tag => false,
        };
        if ends || matches!(seen, '/' | '?' | '#') { Self::Closed } else { self }
    }
}
