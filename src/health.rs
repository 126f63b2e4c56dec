//! Which upstreams answer: written by whoever dials, read by whoever chooses.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The book of upstreams; one that is not in it counts as up.
#[derive(Default)]
pub struct Health {
    up: HashMap<Arc<str>, AtomicBool>,
}

impl Health {
    /// A book in which all of `names` are up.
    pub fn new(names: impl IntoIterator<Item = Arc<str>>) -> Self {
        Self { up: names.into_iter().map(|name| (name, AtomicBool::new(true))).collect() }
    }

    /// True unless the upstream's last dial failed.
    #[must_use]
    pub fn is_up(&self, name: &str) -> bool {
        self.up.get(name).is_none_or(|up| up.load(Ordering::Relaxed))
    }

    /// Notes how a dial went; true where that is news.
    pub fn note(&self, name: &str, up: bool) -> bool {
        self.up.get(name).is_some_and(|known| known.swap(up, Ordering::Relaxed) != up)
    }
}
