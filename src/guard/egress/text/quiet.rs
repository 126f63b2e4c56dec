//! Text without an open construct: runs in which no character speaks, and what speaks elsewhere but
//! leads nowhere at its place.

use super::Scanner;
use super::letters::joins;
use super::plain::plain;
use super::state::State;
use super::userinfo::Stretch;

impl Scanner {
    /// Whether a run in which no character speaks is seen as it is by every part here.
    pub(super) fn is_quiet(&self) -> bool {
        let open = self.reference.is_open() || self.joint || self.stretch != Stretch::Closed;
        // What is after a bracket may be a destination, in which some leave out more.
        let place = self.context.is_cut()
            || self.context.is_behind_bracket()
            || self.context.in_destination();
        matches!(self.state, State::Idle) && !open && !place && self.tags.is_idle()
    }

    /// Passes on what leads nowhere at the front of `text`, and says how many bytes that were.
    pub(super) fn quiet(&mut self, text: &str, out: &mut String) -> usize {
        self.kept = Stretch::Closed;
        let mut at = 0;
        while let Some(rest) = text.get(at..) {
            let (run, rest) = rest.split_at(plain(rest));
            if !run.is_empty() {
                self.lines.ran(run);
                self.context.ran(run);
                self.tags.ran(run);
                at += run.len();
            }
            let Some(next) =
                rest.bytes().next().filter(|next| self.leads_nowhere(*next)).map(char::from)
            else {
                break;
            };
            self.context.take(next, true);
            self.written(next.encode_utf8(&mut [0; 4]));
            at += 1;
        }
        out.push_str(text.get(..at).unwrap_or_default());
        at
    }

    /// Whether what speaks has no effect here except as what is before the next character.
    fn leads_nowhere(&self, next: u8) -> bool {
        match next {
            b'[' | b'`' | b'$' | b'\n' | b'\r' => true,
            b'>' => !self.lines.only_containers(),
            b':' => !self.context.speaks(),
            b'.' => !self.context.is_www(),
            b'/' => joins(self.context.last),
            _ => false,
        }
    }
}
