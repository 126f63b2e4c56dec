//! Where in a text its filter is.

use super::authority::Lead;
use super::context::{Context, Kind, Place};
use super::lines::Lines;

#[derive(Clone, Debug, Default)]
pub(super) enum State {
    /// No text is held.
    #[default]
    Idle,
    /// A backslash, and what is before it.
    Backslash(Box<Context>),
    /// A scheme and its colon, or the first of two slashes: slashes and backslashes since.
    Slashes { lead: Lead, place: Place, slashes: usize, backslashes: usize },
    /// An authority.
    Authority(Box<Reading>),
    /// The rest of a URL that was replaced.
    Swallow,
    /// No text comes out any more.
    Blocked,
}

/// What is before an authority.
pub(super) struct Opening {
    pub(super) lead: Lead,
    pub(super) place: Place,
    /// The number of slashes.
    pub(super) slashes: usize,
    /// The number of backslashes.
    pub(super) backslashes: usize,
}

/// An authority while it is read.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) lead: Lead,
    pub(super) kind: Kind,
    pub(super) read: String,
    /// Inside brackets.
    pub(super) bracket: bool,
    /// After a backslash.
    pub(super) backslash: bool,
    /// Something was left out of it, at which some readers cut it (HTML section 4.8.4, `srcset`).
    pub(super) cut: bool,
    /// Where a URL belongs, and not out in the text.
    pub(super) placed: bool,
    pub(super) place: Place,
    pub(super) before: Before,
}

/// What was before an authority, and where in what is held it begins.
#[derive(Clone, Debug)]
pub(super) struct Before {
    pub(super) context: Context,
    pub(super) lines: Lines,
    pub(super) from: usize,
}

/// A colon after a scheme.
pub(super) fn scheme(before: &Context) -> State {
    let scheme = before.scheme().unwrap_or_default();
    let lead = Lead::Scheme(before.second().unwrap_or(scheme).to_owned());
    State::Slashes { lead, place: before.before_word(), slashes: 0, backslashes: 0 }
}
