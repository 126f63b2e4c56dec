//! What follows the slashes of a URL: its authority.

use super::authority::{AUTHORITY_MAX, Lead, ends};
use super::context::Place;
use super::letters::{ends_url, is_reference};
use super::schemes::{OPAQUE_ANYWHERE, SPECIAL, is_opaque};
use super::state::{Opening, Reading, State};
use super::userinfo::Stretch;
use super::{Judged, Kind, Scanner};

impl Scanner {
    /// Something else than a slash after a scheme's colon, or after slashes.
    pub(super) fn behind_slashes(
        &mut self,
        opening: Opening,
        seen: char,
        raw: &str,
        out: &mut String,
        judge: &mut Judged<'_>,
    ) -> bool {
        let Opening { lead, place, slashes, backslashes } = opening;
        let any = slashes + backslashes;
        let inside =
            self.is_inside(place) || (place.is_autolink() && matches!(lead, Lead::Scheme(_)));
        let mut opens_anything = false;
        let (lead, begins) = match lead {
            Lead::Scheme(scheme) => {
                let name = scheme.as_str();
                let none = (inside && name != "file") || matches!(name, "http" | "https");
                let hierarchical =
                    slashes >= 2 || (SPECIAL.contains(&name) && (any >= 1 || none && seen != ':'));
                opens_anything = inside && is_opaque(name);
                let opaque = is_opaque(name)
                    && (inside || (OPAQUE_ANYWHERE.contains(&name) && !ends_url(seen)));
                (Lead::Scheme(scheme), hierarchical || opaque)
            }
            Lead::Slashes { .. } => {
                (Lead::Slashes { placed: inside }, if inside { any >= 2 } else { slashes >= 2 })
            }
            Lead::Www => (Lead::Www, false),
        };
        let kind = self.kind(place);
        if begins && (!ends(seen) || seen == '[' || is_reference(raw) || opens_anything) {
            let mut reading = self.reading(lead, kind, place, "");
            reading.placed = inside;
            return self.authority(reading, false, seen, raw, out, judge);
        }
        if begins {
            let open = Stretch::behind(place, &lead, &self.tags).until(&self.tags);
            self.stretch = if is_reference(raw) { open } else { open.after(seen) };
        }
        self.release(out);
        self.idle(seen, raw, out);
        true
    }

    /// What is open after what is held, and what it is in where no slash in it ends that.
    pub(super) fn stretch_behind(&self, place: Place, lead: &Lead) -> Stretch {
        let outer = if self.held.contains(['/', '?', '#']) { Stretch::Closed } else { self.kept };
        outer.or(Stretch::behind(place, lead, &self.tags))
    }

    pub(super) fn kind(&self, place: Place) -> Kind {
        if self.tags.raw() {
            Kind::Either
        } else if self.tags.holds_value() && !place.is_autolink() && !place.is_destination() {
            if self.tags.is_link() && !place.is_style() { Kind::Clicked } else { Kind::Either }
        } else {
            self.context.kind(place)
        }
    }

    pub(super) fn authority(
        &mut self,
        mut reading: Box<Reading>,
        left_out: bool,
        seen: char,
        raw: &str,
        out: &mut String,
        judge: &mut Judged<'_>,
    ) -> bool {
        let opens = seen == '[' && reading.read.is_empty();
        let closes = seen == ']' && reading.bracket;
        let data = matches!(&reading.lead, Lead::Scheme(scheme) if scheme == "data");
        // Some read what a reference means, and others what it is made of.
        if is_reference(raw) && !left_out {
            let stretch = self.stretch_behind(reading.place, &reading.lead);
            if self.decide(reading, true, out, judge) {
                self.stretch = stretch;
            }
            let left_out = self.is_left_out_now(left_out, seen, raw);
            return self.step(seen, raw, left_out, out, judge);
        }
        let goes_on = opens || closes || left_out || (data && seen == '/');
        let over = !goes_on && ends(seen);
        if reading.backslash || over || (data && matches!(seen, ';' | ',')) {
            // What Markdown drops, others take for a slash, and style sheets for something else.
            let styles = self.tags.styles() || reading.place.is_style();
            let odd = reading.backslash && (styles || (seen.is_ascii_punctuation() && seen != '/'));
            let stretch = self.stretch_behind(reading.place, &reading.lead);
            if self.decide(reading, odd, out, judge) && !data {
                self.stretch = stretch;
            }
            let left_out = self.is_left_out_now(left_out, seen, raw);
            return self.step(seen, raw, left_out, out, judge);
        }
        let cut = (reading.cut || reading.place.is_cut())
            && (seen.is_alphanumeric() || matches!(seen, '.' | '-' | '_' | ':' | '%' | '@' | '['));
        self.held.push_str(raw);
        reading.bracket = (reading.bracket || opens) && !closes;
        reading.backslash = seen == '\\';
        if !left_out && !reading.backslash {
            reading.read.push(seen);
        }
        reading.cut |= left_out && !reading.read.is_empty();
        if cut || reading.read.len() > AUTHORITY_MAX || self.held.len() > 8 * AUTHORITY_MAX {
            return self.decide(reading, true, out, judge);
        }
        self.state = State::Authority(reading);
        true
    }
}
