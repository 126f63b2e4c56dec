//! What readers leave out of a URL: in values of tags and in destinations of Markdown, and what
//! goes before the text of a line there.

use super::Scanner;
use super::letters::is_reference;
use super::state::State;

impl Scanner {
    /// Whether some readers read what is here as if `seen` did not: tabs and the ends of lines
    /// (URL Standard section 4.4), controls that Python-Markdown drops, the ends of lines that a
    /// style sheet escapes (CSS Syntax section 3.3), and marks of block quotes and blanks before a
    /// line that continues.
    pub(super) fn is_left_out(&self, seen: char, raw: &str) -> bool {
        match seen {
            '\0' | '\u{2}' | '\u{3}' => true,
            '\t' | '\n' | '\r' if is_reference(raw) => true,
            '\t' | '\n' | '\r' => self.is_in_value(seen),
            '\u{c}' => self.tags.styles(),
            ' ' | '>' => {
                self.lines.only_containers() && !is_reference(raw) && self.is_in_value(seen)
            }
            // Some write names with them as names.
            _ => !seen.is_ascii() && seen.is_whitespace() && self.is_in_value(seen),
        }
    }

    /// The same, if `before` was determined before replaced text was scanned again.
    pub(super) fn is_left_out_now(&self, before: bool, seen: char, raw: &str) -> bool {
        if self.again { self.is_left_out(seen, raw) } else { before }
    }

    fn is_in_value(&self, seen: char) -> bool {
        self.tags.holds_value() || (!self.lines.ends_blank(seen) && self.in_destination())
    }

    /// Whether what is here is in a destination of Markdown.
    fn in_destination(&self) -> bool {
        match &self.state {
            State::Slashes { place, .. } => place.is_inline(),
            State::Authority(reading) => reading.place.is_inline() && !reading.read.contains(')'),
            State::Idle => self.context.in_destination(),
            State::Backslash(before) => before.in_destination(),
            State::Swallow | State::Blocked => false,
        }
    }
}
