//! Work on a data folder as its owner. For root, a process of the owner does the work, so that root
//! leaves no files that the gateway's user cannot read. Other users get the matching `sudo`
//! command.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use super::fault::{CliFault, FAILED};
use super::target::GatewayTarget;
use super::{Failure, as_owner};
use crate::audit::store::log::{FolderOwner, LogSettings};
use crate::control::api::{AdminAnswer, AdminRequest};
use crate::lock::locked;

/// The hidden command that the owner's process runs.
pub(super) const PROCESS: &str = "owner-process";

/// A process of the folder's owner. It has the log open.
pub(super) struct Owner {
    child: Mutex<(Child, Pipes)>,
}

/// The pipes of the process.
struct Pipes {
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// The thread that copies its standard error.
    said: Option<JoinHandle<std::io::Result<()>>>,
}

impl Owner {
    /// Starts the process.
    pub(super) fn start(target: &GatewayTarget, owner: FolderOwner) -> Result<Self, Failure> {
        let mut words: Vec<OsString> =
            vec![PROCESS.into(), "--config".into(), std::path::absolute(&target.config)?.into()];
        if let Some(data) = &target.data {
            words.extend(["--data".into(), std::path::absolute(data)?.into()]);
        }
        let mut command = as_owner::command(owner, words)?;
        // The owner may not be able to read root's current folder.
        command.current_dir("/").stdin(Stdio::piped());
        let mut child = command.spawn().map_err(|error| not_run(owner, &error))?;
        let (Some(requests), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("a process without pipes".into());
        };
        let said = copied_errors(&mut child);
        let pipes = Pipes { requests: Some(requests), answers: BufReader::new(answers), said };
        Ok(Self { child: Mutex::new((child, pipes)) })
    }

    /// Sends one request and returns the answer.
    pub(super) fn send(&self, request: &AdminRequest) -> Result<AdminAnswer, Failure> {
        let mut child = locked(&self.child);
        let pipes = &mut child.1;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        // If the log cannot be opened, the process has ended and printed the reason.
        let sent = match &mut pipes.requests {
            Some(requests) => requests.write_all(&line).is_ok(),
            None => false,
        };
        let mut answer = String::new();
        if !sent || pipes.answers.read_line(&mut answer)? == 0 {
            // Its error output must be complete before this command ends.
            if let Some(said) = pipes.said.take() {
                let _ = said.join();
            }
            return Err(CliFault { exit: FAILED, code: "failed", message: String::new() }.into());
        }
        Ok(serde_json::from_str(&answer)?)
    }

    /// Ends the process. It closes the log first.
    pub(super) fn close(self) -> Result<(), Failure> {
        let (mut child, mut pipes) =
            self.child.into_inner().unwrap_or_else(PoisonError::into_inner);
        let said = pipes.said.take();
        drop(pipes);
        // Its last output must come before this command ends.
        let _ = said.map(JoinHandle::join);
        // The process has printed its own error.
        let silent = CliFault { exit: FAILED, code: "failed", message: String::new() };
        if child.wait()?.success() { Ok(()) } else { Err(silent.into()) }
    }
}

/// The owner of `path`, or of the nearest folder above it that can be read.
pub(super) fn shown_owner(path: &Path) -> u32 {
    for path in path.ancestors() {
        if let Ok(found) = fs::symlink_metadata(path) {
            return found.uid();
        }
    }
    0
}

/// Copies the standard error of a process in another thread. `None` if it has no pipe.
fn copied_errors(child: &mut Child) -> Option<JoinHandle<std::io::Result<()>>> {
    Some(as_owner::copy(child.stderr.take()?, std::io::stderr()))
}

/// [`copied_errors`] for the standard output.
fn copied_output(child: &mut Child) -> Option<JoinHandle<std::io::Result<()>>> {
    Some(as_owner::copy(child.stdout.take()?, std::io::stdout()))
}

/// The message about a process of the owner that could not be started or waited for.
fn not_run(owner: FolderOwner, error: &std::io::Error) -> String {
    format!("a process of {}: {error}", name_of(owner.uid))
}

/// The error for a caller that is not the owner.
pub(super) fn refused_to(path: &Path, owner: u32) -> CliFault {
    let owner = name_of(owner);
    let message = format!("{} belongs to {owner}: {}", path.display(), sudo(&owner));
    CliFault::failed("not-owner", message)
}

/// The command line for the same command as the owner. It repeats only the command's own words,
/// because the rest may contain a secret.
fn sudo(owner: &str) -> String {
    let words: Vec<String> =
        std::env::args().skip(1).take(2).take_while(|word| is_word(word)).collect();
    format!("sudo -u {owner} token-shield {} …", words.join(" "))
}

/// Whether an argument is a command's own word, and not an option or a value.
fn is_word(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') && !word.starts_with('-')
}

/// A user's name, or `#UID`, which sudo accepts too.
fn name_of(uid: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let number = uid.to_string();
    for line in users.lines() {
        // The first field is the name, the third one the uid (passwd(5)).
        let mut fields = line.split(':');
        if let (Some(name), Some(listed)) = (fields.next(), fields.nth(1))
            && listed == number
        {
            return name.to_owned();
        }
    }
    format!("'#{uid}'")
}

/// If the caller is root and not the owner: runs this command again as the owner of the data folder
/// of `log`, with the arguments `more` added. Returns `false` if the caller is the owner, or
/// there is no log yet. The other process does not ask for confirmation.
///
/// # Errors
/// If the caller is neither, or the owner is not clear. If the command failed there, without a
/// message.
pub(super) fn done_by_owner(log: &LogSettings, more: &[&str]) -> Result<bool, Failure> {
    let Some(owner) = log.owner()? else { return Ok(false) };
    let own = rustix::process::geteuid();
    if owner.uid == own.as_raw() {
        return Ok(false);
    }
    if !own.is_root() {
        return Err(refused_to(&log.dir, owner.uid).into());
    }
    let mut words: Vec<OsString> = std::env::args_os().skip(1).collect();
    for word in more {
        words.push(word.into());
    }
    let mut command = as_owner::command(owner, words)?;
    let mut child = command.spawn().map_err(|error| not_run(owner, &error))?;
    let printed = copied_output(&mut child);
    let said = copied_errors(&mut child);
    let ended = child.wait().map_err(|error| not_run(owner, &error))?;
    for copied in [printed, said].into_iter().flatten() {
        // A failed copy of the output does not change the result of the command.
        let _ = copied.join();
    }
    let exit = match ended.code() {
        Some(code) => u8::try_from(code).unwrap_or(FAILED),
        None => FAILED,
    };
    if ended.success() {
        Ok(true)
    } else {
        Err(CliFault { exit, code: "failed", message: String::new() }.into())
    }
}
