//! Log lines for standard error: a bounded queue, and one thread that writes.
//!
//! Serving threads only put lines into the queue. If the process at the other end of the pipe
//! stops, only the writing thread waits. Lines that do not fit into the queue are dropped and
//! counted. The next successful write reports their number.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use crate::lock::locked;

/// Bytes that are written without waiting for more lines.
const ENOUGH: usize = 32 << 10;
/// Bytes that may wait in the queue. The writing thread may hold the same amount again.
const QUEUE_BYTES_MAX: usize = 4 << 20;
/// How long a line may wait for other lines.
const WAIT: Duration = Duration::from_millis(50);
/// How long to wait if standard error is non-blocking and full.
const BLOCKED: Duration = Duration::from_millis(10);

/// Makes the line, with its line feed, that reports the number of dropped lines.
pub type SayDropped = fn(u64) -> String;

/// The queue of log lines. Its clones share it.
#[derive(Clone)]
pub struct LogLines(Arc<SharedLines>);

/// The shared part of [`LogLines`].
struct SharedLines {
    queue: Mutex<PendingLines>,
    /// Wakes the writer.
    wake: Condvar,
    /// Signals that all lines are written.
    idle: Condvar,
    say_dropped: SayDropped,
}

/// The state of the queue.
#[derive(Default)]
struct PendingLines {
    bytes: Vec<u8>,
    /// Whether a line must be written at once, or a caller waits for the end.
    at_once: bool,
    /// Whether the thread is writing lines that it has taken.
    writing: bool,
    /// Lines dropped since the start.
    dropped: u64,
    /// Dropped lines that are not reported yet.
    unsaid: u64,
}

impl PendingLines {
    /// Whether lines wait or are being written.
    const fn is_busy(&self) -> bool {
        self.writing || !self.bytes.is_empty()
    }

    /// Whether the writer may wait for more lines.
    const fn may_grow(&self) -> bool {
        !self.at_once && self.bytes.len() < ENOUGH
    }
}

/// The queue of standard error.
static OF_PROCESS: OnceLock<LogLines> = OnceLock::new();

/// The queue of standard error, after [`LogLines::start_for_process`] has created it.
#[must_use]
pub fn of_process() -> Option<&'static LogLines> {
    OF_PROCESS.get()
}

/// The number of lines that this process has dropped.
#[must_use]
pub fn dropped() -> u64 {
    of_process().map_or(0, LogLines::dropped)
}

impl LogLines {
    /// Creates a queue, with a thread that writes its lines to `out`.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(out: impl Write + Send + 'static, say_dropped: SayDropped) -> io::Result<Self> {
        let (queue, wake, idle) = (Mutex::default(), Condvar::new(), Condvar::new());
        let lines = Self(Arc::new(SharedLines { queue, wake, idle, say_dropped }));
        let writer = Arc::clone(&lines.0);
        thread::Builder::new().name("log-lines".to_owned()).spawn(move || writer.run(out))?;
        Ok(lines)
    }

    /// The queue of standard error. A second call returns the same queue.
    ///
    /// # Errors
    /// If standard error cannot be used, or the thread cannot be started.
    pub fn start_for_process(say_dropped: SayDropped) -> io::Result<&'static Self> {
        if let Some(lines) = of_process() {
            return Ok(lines);
        }
        // A separate descriptor: the lock of `io::stderr` would be held during a blocked write.
        let out = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        let lines = Self::start(out, say_dropped)?;
        Ok(OF_PROCESS.get_or_init(|| lines))
    }

    /// Puts one line, with its line feed, into the queue, or counts it as dropped. Never waits for
    /// standard error. A line that is `at_once` does not wait for further lines.
    pub fn push(&self, line: &[u8], at_once: bool) {
        let mut queue = self.0.lock();
        if queue.bytes.len() + line.len() > QUEUE_BYTES_MAX {
            queue.dropped += 1;
            queue.unsaid += 1;
            return;
        }
        let before = queue.bytes.len();
        queue.bytes.extend_from_slice(line);
        queue.at_once |= at_once;
        // The writer is woken only when it has work: each wake-up is a system call.
        let wake = at_once || before == 0 || (before < ENOUGH && queue.bytes.len() >= ENOUGH);
        drop(queue);
        if wake {
            self.0.wake.notify_one();
        }
    }

    /// Lines dropped since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.lock().dropped
    }

    /// Bytes in the queue.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.0.lock().bytes.len()
    }

    /// Waits until all lines are written, at most for `within`. True if they are.
    #[must_use]
    pub fn finish(&self, within: Duration) -> bool {
        let mut queue = self.0.lock();
        queue.at_once = true;
        self.0.wake.notify_one();
        let waited = self.0.idle.wait_timeout_while(queue, within, |queue| queue.is_busy());
        let (_queue, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        !waited.timed_out()
    }
}

impl SharedLines {
    /// Locks the queue.
    fn lock(&self) -> MutexGuard<'_, PendingLines> {
        // The code under the lock cannot panic.
        locked(&self.queue)
    }

    /// The loop of the writing thread.
    fn run(&self, mut out: impl Write) {
        loop {
            let lines = self.take();
            let lost = write(&mut out, &lines);
            let mut queue = self.lock();
            // If standard error itself fails, no report is possible. The metric still counts the
            // lines.
            queue.dropped += lost;
            queue.unsaid += lost;
            queue.writing = false;
            if queue.bytes.is_empty() {
                self.idle.notify_all();
            }
        }
    }

    /// Waits for lines and takes all of them.
    fn take(&self) -> Vec<u8> {
        let woken = self.wake.wait_while(self.lock(), |queue| queue.bytes.is_empty());
        let queue = woken.unwrap_or_else(PoisonError::into_inner);
        let waited = self.wake.wait_timeout_while(queue, WAIT, |queue| queue.may_grow());
        let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let mut lines = std::mem::take(&mut queue.bytes);
        if queue.unsaid > 0 {
            // The report goes after the lines that were queued before the drop.
            lines.extend_from_slice((self.say_dropped)(queue.unsaid).as_bytes());
            queue.unsaid = 0;
        }
        queue.at_once = false;
        queue.writing = true;
        lines
    }
}

/// Writes `lines`. Returns the number of lines that were lost because standard error failed.
fn write(out: &mut impl Write, lines: &[u8]) -> u64 {
    let mut rest = lines;
    while !rest.is_empty() {
        match out.write(rest) {
            Ok(written) if written > 0 => rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Another process with the same open file description has made it non-blocking.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::park_timeout(BLOCKED)
            }
            Ok(_) | Err(_) => break,
        }
    }
    rest.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Blocks writes until the test opens it, and keeps the written bytes.
    struct Gate {
        open: mpsc::Receiver<()>,
        is_open: bool,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.is_open = self.is_open || self.open.recv().is_ok();
            self.taken.lock().expect("taken").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_reader_holds_nobody_up_and_what_is_dropped_is_counted() {
        let (let_go, open) = mpsc::channel();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let gate = Gate { open, is_open: false, taken: Arc::clone(&taken) };
        let lines =
            LogLines::start(gate, |dropped| format!("{dropped} were dropped\n")).expect("started");
        let line = [vec![b'x'; 1023], vec![b'\n']].concat();
        lines.push(&line, true);
        assert!(!lines.finish(Duration::from_millis(20)), "the writer is stuck");
        for _ in 0..QUEUE_BYTES_MAX / 1024 + 7 {
            lines.push(&line, true);
        }
        assert_eq!((lines.dropped(), lines.waiting_bytes()), (7, QUEUE_BYTES_MAX));
        let_go.send(()).expect("let go");
        assert!(lines.finish(Duration::from_secs(10)), "all is written");
        let text = String::from_utf8(taken.lock().expect("taken").clone()).expect("text");
        assert_eq!(text.lines().count(), 1 + QUEUE_BYTES_MAX / 1024 + 1);
        assert!(text.ends_with("7 were dropped\n"));
        assert_eq!(lines.dropped(), 7);
    }

    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_for_a_closed_pipe_are_dropped_and_counted() {
        let lines = LogLines::start(Broken, |_| String::new()).expect("started");
        lines.push(b"one\ntwo\n", true);
        assert!(lines.finish(Duration::from_secs(10)));
        assert_eq!(lines.dropped(), 2);
    }
}
