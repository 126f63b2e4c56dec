//! A process of the data folder's owner, started by root. The owner can read and control this
//! process, so it gets no resources of root's: only a few environment variables, no terminal, and
//! no descriptor except three pipes.

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Read, Write};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use clap::Args;

use super::Failure;
use crate::audit::store::log::FolderOwner;

/// The hidden command that becomes the owner.
pub(super) const AS_OWNER: &str = "as-owner";
/// The uid of the user who gave the command, for the owner's process.
const SUDO_UID: &str = "TOKEN_SHIELD_SUDO_UID";
/// The search path of the owner's process. Root's own path may contain folders of root.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The variables that the process gets besides `LC_*`: for output, for the gateway, and for `cred:`
/// the folder of credentials. The owner opens that folder with the owner's rights.
const KEPT: [&str; 7] = [
    "LANG",
    "LANGUAGE",
    "TERM",
    "TZ",
    "TOKEN_SHIELD_CONFIG",
    "TOKEN_SHIELD_DATA",
    "CREDENTIALS_DIRECTORY",
];
/// The group of a user without a known group: the group of `nobody`.
const NO_GROUP: u32 = 65_534;

/// This program. Its own path may lead through folders that the owner cannot read.
fn this_program() -> Result<PathBuf, Failure> {
    let own = Path::new("/proc/self/exe");
    Ok(if own.exists() { own.to_owned() } else { std::env::current_exe()? })
}

/// This program with `words`, as `owner`. By default, standard input is empty and the other two are
/// pipes. None of them may be a terminal or a file of root's.
pub(super) fn command(
    owner: FolderOwner,
    words: impl IntoIterator<Item = OsString>,
) -> Result<Command, Failure> {
    let mut command = Command::new(this_program()?);
    command
        .arg0("token-shield")
        .arg(AS_OWNER)
        .arg(owner.uid.to_string())
        .arg(group_of(owner).to_string())
        .arg("--")
        .args(words);
    // An empty environment first: root's variables may contain secrets.
    command.env_clear().env("PATH", SEARCH_PATH).env(SUDO_UID, asker().to_string());
    for (name, value) in std::env::vars_os() {
        if is_kept(&name) {
            command.env(name, value);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

/// Whether the owner's process gets a variable of this name.
fn is_kept(name: &OsStr) -> bool {
    match name.to_str() {
        Some(name) => KEPT.contains(&name) || name.starts_with("LC_"),
        None => false,
    }
}

/// The group of the owner's process: the user's own group. The folder's group may be root's after a
/// `chown` without a group, and the owner must not get that.
fn group_of(owner: FolderOwner) -> u32 {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let listed = users.lines().find_map(|line| listed_group(line, owner.uid));
    match (listed, owner.gid) {
        (Some(gid), _) => gid,
        (None, 0) => NO_GROUP,
        (None, gid) => gid,
    }
}

/// The group in a line of /etc/passwd, if the line is about the user `uid`.
fn listed_group(line: &str, uid: u32) -> Option<u32> {
    // The uid and the group are the third and the fourth field (passwd(5)).
    let mut fields = line.split(':').skip(2);
    let listed: u32 = fields.next()?.parse().ok()?;
    let gid: u32 = fields.next()?.parse().ok()?;
    if listed == uid { Some(gid) } else { None }
}

/// Copies the output of the owner's process. On a terminal it removes control characters, because
/// they could overwrite what root reads.
pub(super) fn copy(
    from: impl Read + Send + 'static,
    mut to: impl Write + IsTerminal + Send + 'static,
) -> JoinHandle<std::io::Result<()>> {
    std::thread::spawn(move || {
        let (mut from, is_terminal) = (from, to.is_terminal());
        let (mut buffer, mut last) = ([0; 8192], 0);
        loop {
            let count = from.read(&mut buffer)?;
            let bytes = match buffer.get_mut(..count) {
                Some(bytes) if !bytes.is_empty() => bytes,
                Some(_) | None => return Ok(()),
            };
            if is_terminal {
                hide_controls(bytes, &mut last);
            }
            to.write_all(bytes)?;
            to.flush()?;
        }
    })
}

/// Replaces control characters with question marks, except line feeds and tabs. `last` is the byte
/// before these. Escape sequences could also change the terminal's title or settings.
fn hide_controls(bytes: &mut [u8], last: &mut u8) {
    for byte in bytes {
        // U+0080 to U+009F in UTF-8, among them a second form of ESC.
        let is_second = *last == 0xc2 && matches!(*byte, 0x80..=0x9f);
        *last = *byte;
        if is_second || (byte.is_ascii_control() && !b"\n\t".contains(byte)) {
            *byte = b'?';
        }
    }
}

/// The hidden command. It leaves root's session and descriptors, and then changes its own uid to
/// `uid`. So only root could inspect the process before.
#[derive(Args)]
pub(super) struct AsOwner {
    uid: u32,
    gid: u32,
    #[arg(last = true)]
    words: Vec<OsString>,
}

impl AsOwner {
    /// Does not return if it succeeds. Must run before this process has threads or open files.
    pub(super) fn run(self) -> Result<(), Failure> {
        // A new session has no terminal. So the owner cannot type on root's terminal (TIOCSTI), and
        // /dev/tty cannot be opened.
        rustix::process::setsid().map_err(|error| format!("setsid: {error}"))?;
        close_inherited()?;
        let mut command = Command::new(this_program()?);
        // The change of the uid also drops root's other groups.
        Err(command.arg0("token-shield").args(self.words).uid(self.uid).gid(self.gid).exec().into())
    }
}

/// Closes every descriptor except standard input, output and error.
fn close_inherited() -> Result<(), Failure> {
    let listed = match std::fs::read_dir("/proc/self/fd") {
        Ok(listed) => listed,
        // /dev/fd is the fallback of systems without /proc.
        Err(_) => std::fs::read_dir("/dev/fd")
            .map_err(|_| "the open descriptors cannot be listed: mount /proc")?,
    };
    let mut descriptors = Vec::new();
    for entry in listed {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Ok(number) = name.parse::<i32>()
            && number > 2
        {
            descriptors.push(number);
        }
    }
    for descriptor in descriptors {
        // One of them was the folder's own descriptor, which is closed already.
        match nix::unistd::close(descriptor) {
            Ok(()) | Err(nix::errno::Errno::EBADF) => {}
            Err(error) => {
                return Err(format!("descriptor {descriptor} cannot be closed: {error}").into());
            }
        }
    }
    Ok(())
}

/// The uid in a variable of the environment.
fn uid_in(variable: &str) -> Option<u32> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The uid of the user who gave this command. Root's process names the user who became root with
/// `sudo`. The owner's process names the same user, if root started it. The owner has the log's
/// keys and could write any name anyway.
pub(super) fn asker() -> u32 {
    let own = rustix::process::getuid();
    // `sudo` sets the variable for the commands of root only. An ordinary user could set any value,
    // so it counts for root alone.
    if own.is_root() {
        return uid_in("SUDO_UID").unwrap_or(0);
    }
    let by_root =
        rustix::process::getppid().is_some_and(|parent| is_roots(parent.as_raw_nonzero().get()));
    if !by_root {
        return own.as_raw();
    }
    match uid_in(SUDO_UID) {
        Some(uid) => uid,
        None => uid_in("SUDO_UID").unwrap_or(own.as_raw()),
    }
}

/// The name of the operator who gave the command, if no gateway runs that could ask the kernel.
pub(super) fn own_name() -> String {
    format!("uid:{}", asker())
}

/// Whether a process belongs to root. A process that cannot be inspected (`hidepid`) counts as
/// root's, because the caller's own processes can always be inspected.
fn is_roots(process: i32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{process}/status")) else {
        return true;
    };
    status.lines().find_map(real_uid) == Some(0)
}

/// The real uid in a line of /proc/PID/status (proc_pid_status(5)).
fn real_uid(line: &str) -> Option<u32> {
    line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok()
}
