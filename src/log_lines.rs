//! Log lines on their way to standard error: a bounded queue, and one thread that writes.
//!
//! Whoever serves only puts lines into the queue. A pipe that nobody reads holds up the writing thread and nobody else; lines
//! that find the queue full are dropped and counted, and the next write that succeeds says how many.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

/// Bytes that are written without waiting for more.
const ENOUGH: usize = 32 << 10;
/// Bytes that may wait. Another such amount may be on its way to standard error.
const QUEUE_BYTES_MAX: usize = 4 << 20;
/// How long a line may wait for others.
const WAIT: Duration = Duration::from_millis(50);
/// How long to wait where standard error is not blocking, and full.
const BLOCKED: Duration = Duration::from_millis(10);

/// Says in one line, with its line feed, that so many lines were dropped.
pub type SayDropped = fn(u64) -> String;

/// The queue. Its handles share it.
#[derive(Clone)]
pub struct LogLines(Arc<SharedLines>);

struct SharedLines {
    queue: Mutex<PendingLines>,
    /// Wakes the writer.
    wake: Condvar,
    /// Tells that the writer has nothing left to write.
    idle: Condvar,
    say_dropped: SayDropped,
}

#[derive(Default)]
struct PendingLines {
    bytes: Vec<u8>,
    /// A line that is not to wait for others is in the queue, or somebody waits for the end.
    at_once: bool,
    writing: bool,
    /// Lines dropped since the start.
    dropped: u64,
    /// Those of which no line says so yet.
    unsaid: u64,
}

/// The queue of standard error.
static OF_PROCESS: OnceLock<LogLines> = OnceLock::new();

/// The queue of standard error, once [`LogLines::start_for_process`] has begun it.
#[must_use]
pub fn of_process() -> Option<&'static LogLines> {
    OF_PROCESS.get()
}

/// How many lines of this process were dropped.
#[must_use]
pub fn dropped() -> u64 {
    of_process().map_or(0, LogLines::dropped)
}

impl LogLines {
    /// A queue whose lines a thread of its own writes to `out`.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(out: impl Write + Send + 'static, say_dropped: SayDropped) -> io::Result<Self> {
        let (queue, wake, idle) = (Mutex::default(), Condvar::new(), Condvar::new());
        let lines = Self(Arc::new(SharedLines { queue, wake, idle, say_dropped }));
        let writer = Arc::clone(&lines.0);
        thread::Builder::new().name("log-lines".to_owned()).spawn(move || writer.run(out))?;
        Ok(lines)
    }

    /// The queue of standard error; a second call gives the first one's.
    ///
    /// # Errors
    /// When standard error cannot be had, or the thread not be started.
    pub fn start_for_process(say_dropped: SayDropped) -> io::Result<&'static Self> {
        if let Some(lines) = of_process() {
            return Ok(lines);
        }
        // A descriptor of our own: the lock of `io::stderr` would be held while a write is stuck.
        let out = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        let lines = Self::start(out, say_dropped)?;
        Ok(OF_PROCESS.get_or_init(|| lines))
    }

    /// Puts one line, with its line feed, into the queue, or counts it as dropped. Never waits for standard error. A line that
    /// is to be written `at_once` does not wait for others.
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

    /// Bytes that wait.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.0.lock().bytes.len()
    }

    /// Waits until everything is written, at most for `within`; true where it is.
    #[must_use]
    pub fn finish(&self, within: Duration) -> bool {
        let mut queue = self.0.lock();
        queue.at_once = true;
        self.0.wake.notify_one();
        let busy = |queue: &mut PendingLines| queue.writing || !queue.bytes.is_empty();
        let waited = self.0.idle.wait_timeout_while(queue, within, busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl SharedLines {
    fn lock(&self) -> MutexGuard<'_, PendingLines> {
        // Nothing that can panic runs under the lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writing thread.
    fn run(&self, mut out: impl Write) {
        loop {
            let lines = self.take();
            let lost = write(&mut out, &lines);
            let mut queue = self.lock();
            // Nobody can be told where standard error itself fails.
            queue.dropped += lost;
            queue.unsaid += lost;
            queue.writing = false;
            if queue.bytes.is_empty() {
                self.idle.notify_all();
            }
        }
    }

    /// Waits for lines, and takes them.
    fn take(&self) -> Vec<u8> {
        let none = |queue: &mut PendingLines| queue.bytes.is_empty();
        let queue = self.wake.wait_while(self.lock(), none).unwrap_or_else(PoisonError::into_inner);
        let few = |queue: &mut PendingLines| !queue.at_once && queue.bytes.len() < ENOUGH;
        let waited = self.wake.wait_timeout_while(queue, WAIT, few);
        let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let mut lines = std::mem::take(&mut queue.bytes);
        if queue.unsaid > 0 {
            lines.extend_from_slice((self.say_dropped)(queue.unsaid).as_bytes());
            queue.unsaid = 0;
        }
        queue.at_once = false;
        queue.writing = true;
        lines
    }
}

/// Writes all of `lines`; gives how many of them were lost because standard error cannot be written.
fn write(out: &mut impl Write, lines: &[u8]) -> u64 {
    let mut rest = lines;
    while !rest.is_empty() {
        match out.write(rest) {
            Ok(written) if written > 0 => rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Somebody who shares standard error with us has made it so.
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

    /// Takes what is written once it is let.
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
