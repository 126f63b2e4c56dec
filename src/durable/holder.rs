//! Finds the process that holds a lock, for messages.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The process that holds a lock (flock) on `path`. It is a process that has the file open and
/// locked, as far as this process may see. Otherwise it is the one that took the lock, if it still
/// runs. `None` where it is not known. Linux only: proc(5).
#[must_use]
pub fn holder(path: &Path) -> Option<u32> {
    let locked = fs::metadata(path).ok()?;
    // A process that took the lock may have passed the open file to another one, so open files come
    // first.
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        if let Some(id) = process_id(&entry.file_name())
            && holds(id, &locked)
        {
            return Some(id);
        }
    }
    taker(locked.ino())
}

/// The id of the process whose folder in `/proc` has that name; `None` for another file.
fn process_id(name: &OsStr) -> Option<u32> {
    name.to_str()?.parse().ok()
}

/// Whether that process has the file open with a lock. A lock belongs to the open file, not to the
/// process that took it.
fn holds(id: u32, locked: &Metadata) -> bool {
    // Files of other users' processes cannot be read without privileges.
    let Ok(open) = fs::read_dir(format!("/proc/{id}/fd")) else { return false };
    open.flatten().any(|entry| {
        let same = fs::metadata(entry.path())
            .is_ok_and(|found| (found.dev(), found.ino()) == (locked.dev(), locked.ino()));
        same && has_lock(id, &entry.file_name())
    })
}

/// Whether the open file with that descriptor of a process has a lock (flock).
fn has_lock(id: u32, descriptor: &OsStr) -> bool {
    let path = format!("/proc/{id}/fdinfo/{}", descriptor.to_string_lossy());
    let Ok(about) = fs::read_to_string(path) else { return false };
    about.lines().any(|line| line.starts_with("lock:") && line.contains("FLOCK"))
}

/// The process that took the lock, from a row such as `1: FLOCK  ADVISORY  WRITE 4711 fd:01:5678 0
/// EOF`.
fn taker(inode: u64) -> Option<u32> {
    let rows = fs::read_to_string("/proc/locks").ok()?;
    let id = rows.lines().find_map(|row| taker_in(row, inode))?;
    // The row keeps the id of a process that has ended, while another one still holds the open
    // file.
    if Path::new(&format!("/proc/{id}")).exists() { Some(id) } else { None }
}

/// The process in a row about the file with that inode; `None` for another row.
fn taker_in(row: &str, inode: u64) -> Option<u32> {
    let words: Vec<&str> = row.split_whitespace().collect();
    let [_, "FLOCK", _, _, id, file, ..] = words.as_slice() else { return None };
    if file.rsplit(':').next()? == inode.to_string() { id.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::Lock;

    #[test]
    fn the_holder_of_a_lock_is_named_while_it_holds_it() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("lock");
        let lock = Lock::take(&path).expect("lock").expect("free");
        assert_eq!(
            (holder(&path), taker(fs::metadata(&path).expect("lock").ino())),
            (Some(std::process::id()), holder(&path))
        );
        drop(lock);
        assert_eq!(holder(&path), None);
        assert_eq!(holder(&folder.path().join("none")), None);
    }
}
