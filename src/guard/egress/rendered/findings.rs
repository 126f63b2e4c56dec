//! The judgement of the addresses in a text, and the changes that follow from it.

use std::collections::BTreeMap;
use std::ops::Range;

use super::links::normalized;
use super::unit::{Item, Unit};
use crate::guard::egress::authority::{HostUrl, Mention};

/// What is inserted before an address or a label. An address with it is a fragment of the page, so
/// that it loads nothing. Nothing else is removed than the scheme of a link: for another renderer,
/// a part of the address could be the end of code.
pub const MARK: &str = "#link-removed:";
/// What is inserted before the name of an attribute.
const ATTRIBUTE_MARK: &str = "data-removed-";
/// The most labels of images and of definitions that are kept.
const LABELS_MAX: usize = 8_192;

/// The use of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadUse {
    /// A renderer loads it.
    Loaded,
    /// A definition has it. A renderer loads it if an image has the label.
    Defined,
    /// A click opens it.
    Linked,
}

/// The action for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays.
    Pass,
    /// It is changed, so that it leads nowhere.
    Strip,
    /// The text ends before it.
    Block,
}

/// Judges the host of an address. With [`LoadUse::Defined`], [`Verdict::Pass`] means that the host
/// is controlled; any other verdict has no effect yet.
pub type Judge<'j> = dyn FnMut(LoadUse, Result<&str, &str>) -> Verdict + 'j;

/// A change of a range of the text.
#[derive(Clone, Debug)]
pub(super) struct Edit {
    /// The position after the address.
    pub(super) end: usize,
    /// The position after the part that is removed; the start if none is.
    pub(super) removed: usize,
    /// What is inserted.
    pub(super) text: &'static str,
}

/// A range that was judged. An attribute may have several hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct JudgedRange {
    end: usize,
    load_use: LoadUse,
    host: HostUrl,
}

/// A change that depends on a verdict.
struct PlannedEdit {
    range: Range<usize>,
    /// Whether the range is removed.
    removes: bool,
    /// What is inserted before the range.
    text: &'static str,
}

/// The uses of a label.
#[derive(Clone, Debug, Default)]
struct LabelUses {
    /// The position of the first image with the label.
    first_image: Option<usize>,
    /// The labels of images that were not sent yet.
    images: Vec<Range<usize>>,
    /// The position of the first definition whose host is not controlled, and the host.
    first_definition: Option<Definition>,
    /// The destinations of such definitions that were not sent yet.
    definitions: Vec<Definition>,
}

/// A definition whose host is not controlled.
#[derive(Clone, Debug)]
struct Definition {
    range: Range<usize>,
    host: HostUrl,
}

/// The findings in a text.
#[derive(Clone, Debug, Default)]
pub(super) struct TextFindings {
    /// The changes, by the start of their range.
    pub(super) edits: BTreeMap<usize, Edit>,
    /// The start of the last address that was changed.
    pub(super) changed: Option<usize>,
    /// Whether the text must end.
    pub(super) is_blocked: bool,
    /// Whether an image has a label.
    pub(super) has_labels: bool,
    /// Whether a label or a definition was not sent yet.
    has_unsent: bool,
    /// The ranges that were judged, by their start.
    judged: BTreeMap<usize, Vec<JudgedRange>>,
    /// The labels of images, and of definitions whose hosts are not controlled.
    labels: BTreeMap<String, LabelUses>,
}

impl TextFindings {
    /// Removes what is not needed for the text from `position` on.
    pub(super) fn forget(&mut self, position: usize) {
        if !self.judged.is_empty() {
            self.judged = self.judged.split_off(&position);
        }
        // Most pieces of a text have no label.
        if !std::mem::take(&mut self.has_unsent) {
            return;
        }
        for uses in self.labels.values_mut() {
            uses.images.retain(|range| range.start >= position);
            uses.definitions.retain(|definition| definition.range.start >= position);
            self.has_unsent |= !(uses.images.is_empty() && uses.definitions.is_empty());
        }
    }

    /// Judges the items of a unit.
    pub(super) fn accept(&mut self, unit: &Unit, items: Vec<Item>, judge: &mut Judge<'_>) {
        for item in items {
            match item {
                Item::Address(range, host) => {
                    self.loaded(unit.place(&range), MARK, &host, judge);
                }
                Item::Replaced(range, host) => {
                    let range = unit.place(&range);
                    let edit = PlannedEdit { range, removes: true, text: MARK };
                    self.judge(edit, LoadUse::Loaded, &host, judge);
                }
                Item::Attribute(at, host) => {
                    self.loaded(unit.place(&(at..at)), ATTRIBUTE_MARK, &host, judge);
                }
                Item::Link(range, host) => {
                    let range = unit.place(&range);
                    let edit = PlannedEdit { range, removes: true, text: MARK };
                    self.judge(edit, LoadUse::Linked, &host, judge);
                }
                Item::Tag(at, text, host) => {
                    let range = unit.place(&(at..at + 1));
                    let edit = PlannedEdit { range, removes: true, text };
                    self.judge(edit, LoadUse::Loaded, &host, judge);
                }
                Item::Label(range, label) => self.label(unit.place(&range), label, judge),
                Item::Definition(range, label, host) => {
                    let definition = Definition { range: unit.place(&range), host };
                    self.definition(definition, label, judge);
                }
            }
        }
    }

    /// The uses of a label; `None` if there are too many labels.
    fn uses(&mut self, label: String) -> Option<&mut LabelUses> {
        if self.labels.len() >= LABELS_MAX && !self.labels.contains_key(&label) {
            return None;
        }
        self.has_unsent = true;
        Some(self.labels.entry(label).or_default())
    }

    /// The label of an image. A definition before the image changes the image, and a definition
    /// after it is changed.
    fn label(&mut self, range: Range<usize>, label: String, judge: &mut Judge<'_>) {
        self.has_labels = true;
        // Beyond the limit, no label is known, so that images and definitions are both changed.
        let Some(uses) = self.uses(label) else {
            return self.loaded(range, MARK, &Err("too many labels".to_owned()), judge);
        };
        let at = range.start;
        uses.first_image = Some(uses.first_image.map_or(at, |first| first.min(at)));
        uses.images.push(range.clone());
        let before = uses.first_definition.clone().filter(|first| first.range.start < at);
        let mut after = uses.definitions.clone();
        after.retain(|definition| definition.range.start > at);
        if let Some(definition) = before {
            self.loaded(range, MARK, &definition.host, judge);
        }
        for definition in after {
            self.loaded(definition.range, MARK, &definition.host, judge);
        }
    }

    /// A definition.
    fn definition(&mut self, definition: Definition, label: String, judge: &mut Judge<'_>) {
        let host = definition.host.as_deref().map_err(String::as_str);
        if judge(LoadUse::Defined, host) == Verdict::Pass {
            return;
        }
        let at = definition.range.start;
        // A definition of the mark would give a changed image a destination again.
        let is_mark = label.contains(&normalized(MARK));
        let Some(uses) = self.uses(label) else {
            return self.loaded(definition.range, MARK, &definition.host, judge);
        };
        if uses.first_definition.as_ref().is_none_or(|first| first.range.start > at) {
            uses.first_definition = Some(definition.clone());
        }
        uses.definitions.push(definition.clone());
        let is_used = is_mark || uses.first_image.is_some_and(|first| first < at);
        let mut after = uses.images.clone();
        after.retain(|range| range.start > at);
        if is_used {
            self.loaded(definition.range, MARK, &definition.host, judge);
        }
        for range in after {
            self.loaded(range, MARK, &definition.host, judge);
        }
    }

    /// Judges a range that a renderer loads. A mark is inserted before it.
    fn loaded(
        &mut self,
        range: Range<usize>,
        text: &'static str,
        host: &HostUrl,
        judge: &mut Judge<'_>,
    ) {
        let edit = PlannedEdit { range, removes: false, text };
        self.judge(edit, LoadUse::Loaded, host, judge);
    }

    /// Judges a URL that is only reported. `base` is the position of its line.
    pub(super) fn mentioned(&mut self, mention: &Mention, base: usize, judge: &mut Judge<'_>) {
        let Range { start, end } = mention.range;
        if self.is_new(base + start..base + end, LoadUse::Linked, &mention.url) {
            judge(LoadUse::Linked, mention.url.as_deref().map_err(String::as_str));
        }
    }

    /// Whether a host in a range was not judged before for that use.
    fn is_new(&mut self, range: Range<usize>, load_use: LoadUse, host: &HostUrl) -> bool {
        let ranges = self.judged.entry(range.start).or_default();
        let range = JudgedRange { end: range.end, load_use, host: host.clone() };
        let is_new = !ranges.contains(&range);
        if is_new {
            ranges.push(range);
        }
        is_new
    }

    /// Judges a range once, and changes it if the verdict says so.
    fn judge(
        &mut self,
        edit: PlannedEdit,
        load_use: LoadUse,
        host: &HostUrl,
        judge: &mut Judge<'_>,
    ) {
        let PlannedEdit { range: Range { start, end }, removes, text } = edit;
        if !self.is_new(start..end, load_use, host) {
            return;
        }
        match judge(load_use, host.as_deref().map_err(String::as_str)) {
            Verdict::Pass => {}
            Verdict::Strip => {
                let removed = if removes { end } else { start };
                // Renderers may end an address at different places. The longest is changed.
                let known = self.edits.get(&start);
                if known.is_none_or(|known| (known.removed, known.end) < (removed, end)) {
                    self.edits.insert(start, Edit { end, removed, text });
                }
            }
            Verdict::Block => self.is_blocked = true,
        }
    }
}
