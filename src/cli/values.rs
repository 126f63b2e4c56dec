//! Values of options, in the form in which the command line has them.

use std::time::Duration;

use crate::id::{AgentName, NameFault};

/// An agent's name. Without a slash, its namespace is `default`.
pub(super) fn agent_name(text: &str) -> Result<AgentName, NameFault> {
    if text.contains('/') { text.parse() } else { format!("default/{text}").parse() }
}

/// A duration with its unit, such as `30m`.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    crate::config::duration(text)
        .ok_or_else(|| "write a time with its unit, such as 30m, 1h or 7d".to_owned())
}

/// A duration in its largest whole unit.
pub(super) fn in_words(time: Duration) -> String {
    let seconds = time.as_secs();
    let units = [(86_400, 'd'), (3_600, 'h'), (60, 'm')];
    let unit = units.into_iter().find(|(size, _)| seconds > 0 && seconds.is_multiple_of(*size));
    unit.map_or_else(|| format!("{seconds}s"), |(size, name)| format!("{}{name}", seconds / size))
}
