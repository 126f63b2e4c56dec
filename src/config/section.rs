//! One table of the config during reading. The typed look-ups collect all faults and continue after
//! each one.

use crate::suggest::nearest;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::units;

/// One fault of a config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFault {
    /// The line, from 1.
    pub line: usize,
    /// The full path of the key.
    pub key: String,
    /// The fault, and the allowed values.
    pub what: String,
}

/// All faults of a config, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<ConfigFault>);

impl fmt::Display for Faults {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, fault) in self.0.iter().enumerate() {
            let line_feed = if place > 0 { "\n" } else { "" };
            write!(out, "{line_feed}line {}: {}: {}", fault.line, fault.key, fault.what)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Collects faults.
pub(super) struct FaultCollector<'t> {
    /// The config's text, for the line numbers.
    text: &'t str,
    /// The faults, in the order of their discovery.
    faults: RefCell<Vec<ConfigFault>>,
}

impl<'t> FaultCollector<'t> {
    /// A collector without faults. `text` is the config, from which lines are counted.
    pub(super) const fn new(text: &'t str) -> Self {
        Self { text, faults: RefCell::new(Vec::new()) }
    }

    /// Adds a fault at the byte offset `at`.
    pub(super) fn fault(&self, at: usize, key: &str, what: impl Into<String>) {
        let line = self.text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
        self.faults.borrow_mut().push(ConfigFault { line, key: key.to_owned(), what: what.into() });
    }

    /// Returns the collected faults as an error, if there are any.
    pub(super) fn close(self) -> Result<(), Faults> {
        let mut faults = self.faults.into_inner();
        // The sort is stable, so faults on one line keep their order.
        faults.sort_by_key(|fault| fault.line);
        if faults.is_empty() { Ok(()) } else { Err(Faults(faults)) }
    }
}

/// The text of a value, if it is a non-empty string.
fn non_empty(value: &DeValue<'_>) -> Option<String> {
    let text = value.as_str()?;
    if text.is_empty() { None } else { Some(text.to_owned()) }
}

/// The number of a value, if it is a decimal one of 64 bits without a sign.
fn decimal(value: &DeValue<'_>) -> Option<u64> {
    let number = value.as_integer()?;
    // `as_str` has no prefix. A number of another radix would parse as a wrong value.
    if number.radix() != 10 {
        return None;
    }
    number.as_str().parse().ok()
}

/// A table, and the keys that the program has looked up.
pub(super) struct Section<'t> {
    /// The collector of the faults.
    book: &'t FaultCollector<'t>,
    /// The table itself.
    table: &'t DeTable<'t>,
    /// The path of the table, empty for the root.
    path: String,
    /// The range of the table in the text, in bytes.
    span: Range<usize>,
    /// The keys that the program has looked up.
    asked: RefCell<BTreeSet<&'static str>>,
}

impl<'t> Section<'t> {
    /// A section of `table`. `span` is the position for faults about missing keys.
    pub(super) fn new(
        book: &'t FaultCollector<'t>,
        table: &'t DeTable<'t>,
        path: String,
        span: Range<usize>,
    ) -> Self {
        Self { book, table, path, span, asked: RefCell::default() }
    }

    /// The full path of a key.
    fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value of a key. The key becomes a known one.
    fn value(&self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        // Also a missing key becomes known, so that `close` can suggest it for a misspelled one.
        self.asked.borrow_mut().insert(key);
        self.table.get(key)
    }

    /// Adds a fault about `key`.
    pub(super) fn fault(&self, key: &str, what: impl Into<String>) {
        // A missing key has no position, so the fault has the position of the table.
        let at = match self.table.get(key) {
            Some(value) => value.span().start,
            None => self.span.start,
        };
        self.book.fault(at, &self.key(key), what);
    }

    /// The value of a key, read by `read`. An invalid value is a fault that lists what is
    /// `allowed`.
    fn read<T>(
        &self,
        key: &'static str,
        allowed: &str,
        read: impl FnOnce(&'t DeValue<'t>) -> Option<T>,
    ) -> Option<T> {
        let value = self.value(key)?;
        let read = read(value.get_ref());
        if read.is_none() {
            self.fault(key, format!("must be {allowed}"));
        }
        read
    }

    /// A non-empty string.
    pub(super) fn text(&self, key: &'static str) -> Option<String> {
        self.read(key, "a non-empty string", non_empty)
    }

    /// A non-empty string that must be present.
    pub(super) fn required(&self, key: &'static str) -> Option<String> {
        if self.table.get(key).is_none() {
            self.fault(key, "is required");
        }
        self.text(key)
    }

    /// A string that `parse` accepts. Another value is a fault that describes what is `allowed`.
    pub(super) fn parsed<T>(
        &self,
        key: &'static str,
        allowed: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        self.read(key, allowed, |value| parse(value.as_str()?))
    }

    /// A path. A relative one starts at the folder `base`.
    pub(super) fn path(&self, key: &'static str, base: &Path) -> Option<PathBuf> {
        Some(base.join(self.text(key)?))
    }

    /// The path of a Unix socket, written as `unix:PATH`.
    pub(super) fn socket(&self, key: &'static str, base: &Path) -> Option<PathBuf> {
        self.parsed(key, "\"unix:PATH\"", |text| Some(base.join(text.strip_prefix("unix:")?)))
    }

    /// A decimal number, 0 or more.
    pub(super) fn number(&self, key: &'static str) -> Option<u64> {
        self.read(key, "a whole number, 0 or more", decimal)
    }

    /// A decimal number. A missing or faulty one reads as `fallback`.
    pub(super) fn number_or(&self, key: &'static str, fallback: u64) -> u64 {
        self.number(key).unwrap_or(fallback)
    }

    /// A count of things in memory. A missing or faulty one reads as `fallback`.
    pub(super) fn count_or(&self, key: &'static str, fallback: usize) -> usize {
        let allowed = "a whole number, 0 or more";
        self.read(key, allowed, |value| usize::try_from(decimal(value)?).ok()).unwrap_or(fallback)
    }

    /// A number of 32 bits. A missing or faulty one reads as `fallback`.
    pub(super) fn u32_or(&self, key: &'static str, fallback: u32) -> u32 {
        let allowed = "a whole number from 0 to 4294967295";
        self.read(key, allowed, |value| u32::try_from(decimal(value)?).ok()).unwrap_or(fallback)
    }

    /// A boolean.
    pub(super) fn truth(&self, key: &'static str) -> Option<bool> {
        self.read(key, "true or false", DeValue::as_bool)
    }

    /// Whether a boolean is true. A missing or faulty one is not.
    pub(super) fn is_true(&self, key: &'static str) -> bool {
        self.truth(key) == Some(true)
    }

    /// A duration with its unit.
    pub(super) fn duration(&self, key: &'static str) -> Option<Duration> {
        self.parsed(key, "a time with its unit, such as \"10s\" (ms, s, m, h, d)", units::duration)
    }

    /// A duration. A missing or faulty one reads as that many seconds.
    pub(super) fn seconds_or(&self, key: &'static str, seconds: u64) -> Duration {
        self.duration(key).unwrap_or(Duration::from_secs(seconds))
    }

    /// A size with its unit, in bytes.
    pub(super) fn bytes(&self, key: &'static str) -> Option<u64> {
        self.parsed(key, "a size with its unit, such as \"32MiB\" (B, KiB, MiB, GiB)", units::bytes)
    }

    /// A size in bytes. A missing or faulty one reads as `fallback`.
    pub(super) fn bytes_or(&self, key: &'static str, fallback: u64) -> u64 {
        self.bytes(key).unwrap_or(fallback)
    }

    /// An array of non-empty strings. A missing key reads as an empty array.
    pub(super) fn texts(&self, key: &'static str) -> Vec<String> {
        let read = self.read(key, "a list of non-empty strings", |value| {
            let mut texts = Vec::new();
            for item in value.as_array()? {
                texts.push(non_empty(item.get_ref())?);
            }
            Some(texts)
        });
        read.unwrap_or_default()
    }

    /// The table under `key`. A missing table reads as empty.
    pub(super) fn table(&self, key: &'static str, empty: &'t DeTable<'t>) -> Self {
        let found = self.value(key);
        let table = found.and_then(|value| value.get_ref().as_table());
        if found.is_some() && table.is_none() {
            self.fault(key, "must be a table");
        }
        // A missing table has no position, so faults in it have the position of its parent.
        let span = found.map_or_else(|| self.span.clone(), Spanned::span);
        Self::new(self.book, table.unwrap_or(empty), self.key(key), span)
    }

    /// The table under `key`, if it exists.
    pub(super) fn optional_table(&self, key: &'static str, empty: &'t DeTable<'t>) -> Option<Self> {
        // A missing table becomes a known key too.
        self.value(key)?;
        Some(self.table(key, empty))
    }

    /// The tables `[[key]]`.
    pub(super) fn tables(&self, key: &'static str) -> Vec<Self> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(list) = value.get_ref().as_array() else {
            self.fault(key, format!("must be written as [[{key}]]"));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (place, item) in list.iter().enumerate() {
            match item.get_ref().as_table() {
                Some(table) => sections.push(Self::new(
                    self.book,
                    table,
                    format!("{}[{place}]", self.key(key)),
                    item.span(),
                )),
                None => self.fault(key, format!("must be written as [[{key}]]")),
            }
        }
        sections
    }

    /// The tables `[key.NAME]`, by name.
    pub(super) fn named(&self, key: &'static str) -> Vec<(String, Self)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(tables) = value.get_ref().as_table() else {
            self.fault(key, format!("must be written as [{key}.NAME]"));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (name, item) in tables {
            let name = name.get_ref().to_string();
            match item.get_ref().as_table() {
                Some(table) => {
                    let path = format!("{}.{name}", self.key(key));
                    sections.push((name, Self::new(self.book, table, path, item.span())));
                }
                None => self.fault(key, format!("must be written as [{key}.NAME]")),
            }
        }
        sections
    }

    /// Refuses keys that only a later version enforces.
    pub(super) fn not_enforced(&self, keys: &[&'static str]) {
        for key in keys {
            if self.value(key).is_some() {
                self.fault(key, "has no effect in this version; a rule without effect is refused");
            }
        }
    }

    /// Ends the reading of the table. Each key that was not looked up is a fault.
    pub(super) fn close(self) {
        // An unknown key is never ignored: a misspelled limit would not be enforced.
        let asked = self.asked.borrow();
        for (key, _) in self.table {
            let name = key.get_ref().as_ref();
            if asked.contains(name) {
                continue;
            }
            let what = match nearest(asked.iter().copied(), name) {
                Some(near) => format!("is not a key here; did you mean {near}?"),
                None => format!(
                    "is not a key here; the keys are {}",
                    asked.iter().copied().collect::<Vec<_>>().join(", ")
                ),
            };
            self.book.fault(key.span().start, &self.key(name), what);
        }
    }
}
