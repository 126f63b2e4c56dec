//! An upgrade: this process starts its successor, and waits for the take-over.

use super::ANSWER_MAX;
use super::give::Giver;
use super::wire::{TakeOverResult, Upgraded};

impl Giver {
    /// Starts the successor, and waits until it has taken over.
    pub(super) async fn upgrade(&self) -> Result<Upgraded, String> {
        let Ok(_upgrading) = self.upgrading.try_lock() else {
            return Err("another upgrade is under way".to_owned());
        };
        self.may()?;
        let Some(program) = self.program.clone() else {
            return Err("this process does not know how it was started".to_owned());
        };
        // Removes the result of a former try, so that the wait below sees only a new one.
        self.outcome.send_replace(None);
        let mut outcome = self.outcome.subscribe();
        let mut words = program.words;
        if !words.iter().any(|word| word == "--take-over") {
            words.push("--take-over".into());
        }
        let mut command = std::process::Command::new(&program.path);
        let child = command.args(&words).stdin(std::process::Stdio::null()).spawn();
        let mut child = child.map_err(|error| format!("{}: {error}", program.path.display()))?;
        let pid = child.id();
        // A separate thread waits for it. It may live longer than this process, or end before it
        // connects.
        let (ended, end) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || drop(ended.send(child.wait())));
        tokio::select! {
            // A take-over by any process ends the wait. The failure of another process does not.
            changed = outcome.wait_for(|known| is_decided(known.as_ref(), pid)) => {
                let known = match changed {
                    Ok(known) => known.clone(),
                    Err(_) => None,
                };
                let Some(known) = known else { return Err("this process is ending".to_owned()) };
                known.given.map(|version| Upgraded { pid: known.pid, version })
            }
            ended = end => {
                let how = match ended {
                    Ok(Ok(status)) => status.to_string(),
                    Ok(Err(error)) => error.to_string(),
                    Err(error) => error.to_string(),
                };
                Err(format!("process {pid} ended before it took over ({how}); its last log lines \
                    say why"))
            }
            // The protocol itself takes at most a few of these limits; the rest is the start of the
            // program.
            () = tokio::time::sleep(ANSWER_MAX * 4) => Err(format!("process {pid} has not taken \
                over in time")),
        }
    }
}

/// Whether process `pid` no longer needs to be waited for: any process has taken over, or this one
/// has failed to.
fn is_decided(known: Option<&TakeOverResult>, pid: u32) -> bool {
    match known {
        Some(known) => known.given.is_ok() || known.pid == pid,
        None => false,
    }
}
