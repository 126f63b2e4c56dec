//! Finds the process that holds a lock, for messages.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The process that holds a lock (flock) on `path`. It is a process that has the file open and
/// locked, as far as this process may see. Otherwise it is the one that took the lock, if it still
/// runs. `None` where it is not known. Linux only: proc(5).
#[must_use]
pub fn holder(path: &Path) -> Option<u32> {
    let locked = fs::metadata(path).ok()?;
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    // A process that took the lock may have passed the open file to another one, so open files come
    // first.
    ids.find(|id| holds(*id, (locked.dev(), locked.ino()))).or_else(|| taker(locked.ino()))
}

/// Whether that process has the file open with a lock. A lock belongs to the open file, not to the
/// process that took it.
fn holds(id: u32, file: (u64, u64)) -> bool {
    // Files of other users' processes cannot be read without privileges.
    let Ok(open) = fs::read_dir(format!("/proc/{id}/fd")) else { return false };
    open.flatten().any(|entry| {
        let same = fs::metadata(entry.path()).is_ok_and(|found| (found.dev(), found.ino()) == file);
        let about = || {
            fs::read_to_string(format!("/proc/{id}/fdinfo/{}", entry.file_name().to_string_lossy()))
        };
        same && about().is_ok_and(|about| {
            about.lines().any(|line| line.starts_with("lock:") && line.contains("FLOCK"))
        })
    })
}

/// The process that took the lock, from a row such as `1: FLOCK  ADVISORY  WRITE 4711 fd:01:5678 0
/// EOF`.
fn taker(inode: u64) -> Option<u32> {
    let rows = fs::read_to_string("/proc/locks").ok()?;
    let id = rows.lines().find_map(|row| {
        let words: Vec<&str> = row.split_whitespace().collect();
        let [_, "FLOCK", _, _, id, file, ..] = words.as_slice() else { return None };
        (file.rsplit(':').next()? == inode.to_string()).then(|| id.parse::<u32>().ok())?
    })?;
    // The row keeps the id of a process that has ended, while another one still holds the open
    // file.
    Path::new(&format!("/proc/{id}")).exists().then_some(id)
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
