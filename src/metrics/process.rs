//! Metrics of the process, from procfs(5).

use std::str::FromStr;

use prometheus::{Gauge, IntGauge, Registry};

use super::register;

/// Ticks per second in `/proc/self/stat` (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// Memory, CPU time and descriptors of the process.
pub(super) struct ProcessMetrics {
    cpu_seconds: Gauge,
    resident_bytes: IntGauge,
    open_fds: IntGauge,
    descriptors_open: IntGauge,
    descriptors_limit: IntGauge,
    start_seconds: Gauge,
}

impl ProcessMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// If a name is already registered.
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            cpu_seconds: register(
                registry,
                Gauge::new("process_cpu_seconds_total", "CPU time, user and system"),
            )?,
            resident_bytes: register(
                registry,
                IntGauge::new("process_resident_memory_bytes", "Resident memory"),
            )?,
            open_fds: register(
                registry,
                IntGauge::new("process_open_fds", "Open file descriptors"),
            )?,
            descriptors_open: register(
                registry,
                IntGauge::new("token_shield_descriptors_open", "Open file descriptors"),
            )?,
            descriptors_limit: register(
                registry,
                IntGauge::new(
                    "token_shield_descriptors_limit",
                    "File descriptors that may be open (RLIMIT_NOFILE)",
                ),
            )?,
            start_seconds: register(
                registry,
                Gauge::new(
                    "process_start_time_seconds",
                    "Start of the process, in seconds since the Unix epoch",
                ),
            )?,
        })
    }

    /// Reads `/proc/self/stat` (proc(5)): fields 14, 15 and 22 in ticks of 10 ms, field 24 in
    /// pages. Without procfs the metrics keep their values.
    pub(super) fn read(&self) {
        let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return };
        // Field 2 is the name of the command in parentheses. It may contain spaces and parentheses
        // itself.
        let Some((_, rest)) = stat.rsplit_once(')') else { return };
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let (user, system): (f64, f64) = (field(&fields, 14), field(&fields, 15));
        self.cpu_seconds.set((user + system) / TICKS_PER_SECOND);
        // Field 22 counts from the boot of the machine.
        if let Some(boot) = boot_seconds() {
            self.start_seconds.set(boot + field::<f64>(&fields, 22) / TICKS_PER_SECOND);
        }
        let pages: i64 = field(&fields, 24);
        let page = i64::try_from(rustix::param::page_size()).unwrap_or_default();
        self.resident_bytes.set(pages.saturating_mul(page));
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        self.descriptors_limit
            .set(limit.map_or(i64::MAX, |limit| i64::try_from(limit).unwrap_or(i64::MAX)));
        // The open folder itself is one of the descriptors. The error of one does not matter.
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            let open = i64::try_from(open.count()).unwrap_or_default();
            self.open_fds.set(open);
            self.descriptors_open.set(open);
        }
    }
}

/// A field of `/proc/self/stat` by its number in proc(5). `fields` begins with field 3. A missing
/// or invalid field is 0.
fn field<T: FromStr + Default>(fields: &[&str], number: usize) -> T {
    let Some(text) = fields.get(number - 3) else { return T::default() };
    text.parse().unwrap_or_default()
}

/// The boot time of the machine, in seconds since the Unix epoch: `btime` of `/proc/stat`.
fn boot_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    for line in stat.lines() {
        if let Some(time) = line.strip_prefix("btime ") {
            return time.trim().parse().ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_in_unix_time() {
        let process = ProcessMetrics::new(&Registry::new()).expect("metrics");
        process.read();
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("time").as_secs_f64();
        let start = process.start_seconds.get();
        // The test process is younger than an hour.
        assert!(start <= now + 1.0 && start > now - 3600.0, "{start} at {now}");
    }
}
