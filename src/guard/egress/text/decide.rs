//! The decision about an authority that has been read: it passes, is replaced by the mark, or ends
//! the text.

use super::authority::{self, Lead, is_inert};
use super::context::{Kind, Place};
use super::schemes::is_opaque;
use super::state::{Before, Reading, State};
use super::userinfo::Stretch;
use super::{Found, Judged, MARK, Scanner, Verdict};

impl Scanner {
    /// The authority has ended. The held text passes (true) or is replaced (false).
    pub(super) fn decide(
        &mut self,
        reading: Box<Reading>,
        odd: bool,
        out: &mut String,
        judge: &mut Judged<'_>,
    ) -> bool {
        let Reading { lead, kind, read, placed, before, .. } = *reading;
        let opaque = match &lead {
            Lead::Scheme(scheme) if is_opaque(scheme) => Some(scheme.as_str()),
            Lead::Scheme(_) | Lead::Slashes { .. } | Lead::Www => None,
        };
        let url = match opaque {
            Some("data") if is_inert(&read) => None,
            Some(scheme) => Some(Err(format!("{scheme}:{read}"))),
            None => authority::url(&lead, &read, odd, placed),
        };
        // A fence may have been opened since.
        let fenced = before.lines.fenced() && self.lines.fenced();
        let verdict = match &url {
            Some(url) => {
                let url = url.as_deref().map_err(String::as_str);
                judge(&Found { kind, url, fenced })
            }
            None => Verdict::Pass,
        };
        match verdict {
            Verdict::Pass => self.release(out),
            Verdict::Strip => self.strip(before, out, judge),
            Verdict::Block => {
                self.held.clear();
                self.state = State::Blocked;
            }
        }
        verdict == Verdict::Pass
    }

    /// An authority that begins here.
    pub(super) fn reading(&self, lead: Lead, kind: Kind, place: Place, read: &str) -> Box<Reading> {
        let before = Before {
            context: self.context.clone(),
            lines: self.lines.clone(),
            from: self.held.len(),
        };
        Box::new(Reading {
            lead,
            kind,
            read: read.to_owned(),
            bracket: false,
            backslash: false,
            cut: false,
            placed: false,
            place,
            before,
        })
    }

    /// The mark goes out instead of a URL. What follows is read as it will be there: after the
    /// mark.
    pub(super) fn strip(&mut self, before: Before, out: &mut String, judge: &mut Judged<'_>) {
        let Before { context, lines, from } = before;
        (self.context, self.tags, self.lines) =
            (context, std::mem::take(&mut self.kept_tags), lines);
        let rest = self.held.split_off(from);
        // Lines that ended before the authority still do.
        for end in std::mem::take(&mut self.held).chars().filter(|held| matches!(held, '\n' | '\r'))
        {
            self.tags.take(end);
            out.push(end);
        }
        out.push_str(MARK);
        MARK.chars().for_each(|next| self.context.take(next, true));
        self.written(MARK);
        self.stretch = self.kept.after(' ');
        self.state = State::Swallow;
        // Text beyond the credit is replaced as a whole. Otherwise a hostile text could be scanned
        // again and again.
        if let Some(left) = self.credit.checked_sub(rest.len()) {
            self.credit = left;
            rest.chars().for_each(|next| self.raw(next, out, judge));
            self.again = true;
        }
    }

    /// Whether a URL belongs at that place.
    pub(super) fn is_inside(&self, place: Place) -> bool {
        place.is_destination() || place.is_style() || self.tags.holds_value()
    }

    pub(super) fn release(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }

    /// A reference whose only use is to get past a reader.
    pub(super) fn absurd(&mut self, raw: &str, out: &mut String, judge: &mut Judged<'_>) {
        let lead = Lead::Scheme(String::new());
        let reading = match std::mem::take(&mut self.state) {
            State::Authority(reading) => reading,
            State::Slashes { lead, place, .. } => {
                let placed = self.is_inside(place) || self.stretch != Stretch::Closed;
                let lead = if matches!(lead, Lead::Slashes { .. }) {
                    Lead::Slashes { placed }
                } else {
                    lead
                };
                Box::new(Reading { placed, ..*self.reading(lead, Kind::Either, place, raw) })
            }
            over @ (State::Swallow | State::Blocked) => {
                self.state = over;
                return;
            }
            State::Idle => {
                self.kept_tags.clone_from(&self.tags);
                self.reading(lead, Kind::Either, self.context.here(), raw)
            }
            State::Backslash(_) => self.reading(lead, Kind::Either, self.context.here(), raw),
        };
        if self.decide(reading, true, out, judge) {
            out.push_str(raw);
            return;
        }
        match &self.state {
            State::Idle => self.state = State::Swallow,
            State::Swallow | State::Blocked => {}
            // The text after a replaced URL may begin another one.
            State::Backslash(_) | State::Slashes { .. } | State::Authority(_) => {
                self.absurd(raw, out, judge)
            }
        }
    }
}
