//! The digest of weights in files, and the check that they are still the hashed files.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use crate::crypto::{Sha256Sum, hex};

/// The metadata that distinguishes a file from a replaced or overwritten one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStamp {
    /// The device of the file system.
    device: u64,
    /// The number of the file on the device.
    inode: u64,
    /// The length in bytes.
    length: u64,
    /// The time of modification: seconds and nanoseconds.
    modified: (i64, i64),
    /// Programs can set the time of modification, but not this time (`ctime`).
    changed: (i64, i64),
}

impl FileStamp {
    /// The stamp of a file.
    fn of(about: &Metadata) -> Self {
        let (modified, changed) =
            ((about.mtime(), about.mtime_nsec()), (about.ctime(), about.ctime_nsec()));
        Self { device: about.dev(), inode: about.ino(), length: about.len(), modified, changed }
    }
}

/// A file of weights with its stamp.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenFile {
    /// The name without the folder.
    name: String,
    /// The path.
    path: PathBuf,
    /// The stamp.
    mark: FileStamp,
}

/// Lists the files, and the `.safetensors` files of folders, in the order of their names. Reads no
/// content.
///
/// # Errors
/// A description of the path that cannot be read.
pub fn look(paths: &[PathBuf]) -> Result<Vec<SeenFile>, String> {
    let mut seen = Vec::new();
    for path in paths {
        let about = std::fs::metadata(path).map_err(|error| unread(path, &error))?;
        if !about.is_dir() {
            seen.push(seen_at(path.clone(), &about)?);
            continue;
        }
        let before = seen.len();
        for entry in std::fs::read_dir(path).map_err(|error| unread(path, &error))? {
            let file = entry.map_err(|error| unread(path, &error))?.path();
            // Other files of the folder, such as the tokenizer's, are not part of the digest.
            if file.extension() == Some(OsStr::new("safetensors")) {
                // Links are followed, because folders of weights often contain links into a store.
                let about = std::fs::metadata(&file).map_err(|error| unread(path, &error))?;
                seen.push(seen_at(file, &about)?);
            }
        }
        // A folder without weights would have the digest of no data.
        if seen.len() == before {
            return Err(format!("{}: no .safetensors file in it", path.display()));
        }
    }
    // The order must not depend on the config or the file system, because the digest depends on it.
    seen.sort_by(|one, other| (&one.name, &one.path).cmp(&(&other.name, &other.path)));
    Ok(seen)
}

/// The reason why a file or folder cannot be read.
fn unread(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

/// A file with its stamp. Its name must be non-empty UTF-8 without control characters.
fn seen_at(path: PathBuf, about: &Metadata) -> Result<SeenFile, String> {
    match plain_name(&path) {
        Some(name) if about.is_file() => {
            Ok(SeenFile { name: name.to_owned(), mark: FileStamp::of(about), path })
        }
        Some(_) | None => Err(format!("{}: not a file with a plain name", path.display())),
    }
}

/// The last part of a path, if it is UTF-8 without control characters.
fn plain_name(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    // A line break in a name could give two sets of files the same lines, and so the same digest.
    if name.is_empty() || name.contains(char::is_control) { None } else { Some(name) }
}

/// The digest of listed files. For one file, it is its SHA-256. For several, it is the SHA-256 of
/// the lines `NAME SHA256HEX`.
///
/// # Errors
/// When a file cannot be read, has changed, or `stop` turned true.
pub fn measure(seen: &[SeenFile], stop: &AtomicBool) -> Result<String, String> {
    let mut sums = Vec::with_capacity(seen.len());
    for file in seen {
        sums.push((&file.name, hash(&file.path, file.mark, stop)?));
    }
    let whole = match sums.as_slice() {
        [(_, only)] => only.clone(),
        several => {
            let lines: String =
                several.iter().map(|(name, sum)| format!("{name} {sum}\n")).collect();
            hex(&crate::crypto::sha256(lines.as_bytes()))
        }
    };
    Ok(format!("sha256:{whole}"))
}

/// The SHA-256 of a file with that stamp, in hexadecimal.
fn hash(path: &Path, mark: FileStamp, stop: &AtomicBool) -> Result<String, String> {
    let mut file = File::open(path).map_err(|error| unread(path, &error))?;
    let (mut sum, mut piece) = (Sha256Sum::default(), vec![0; 1 << 20]);
    // The stamp of the open file is compared before and after the reading. So a file that is
    // replaced or changed meanwhile is an error.
    unchanged(&file, path, mark)?;
    loop {
        let length = file.read(&mut piece).map_err(|error| unread(path, &error))?;
        if length == 0 {
            break;
        }
        // Large files take long to hash. A stop must not wait for them.
        if stop.load(Ordering::Relaxed) {
            return Err("stopped".to_owned());
        }
        sum.take(piece.get(..length).unwrap_or_default());
    }
    unchanged(&file, path, mark)?;
    Ok(hex(&sum.end()))
}

/// Checks that the open file at `path` still has that stamp.
fn unchanged(file: &File, path: &Path, mark: FileStamp) -> Result<(), String> {
    let about = file.metadata().map_err(|error| unread(path, &error))?;
    if FileStamp::of(&about) != mark {
        return Err(format!("{}: it changes while it is hashed", path.display()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::sha256;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir()
            .join(format!("token-shield-weights-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        folder
    }

    fn digest(paths: &[PathBuf]) -> String {
        measure(&look(paths).unwrap(), &AtomicBool::new(false)).unwrap()
    }

    #[test]
    fn one_file_is_its_sum_and_several_are_their_lines() {
        let folder = folder("several");
        let (a, b) = (folder.join("a.safetensors"), folder.join("b.safetensors"));
        std::fs::write(&b, "B").unwrap();
        std::fs::write(folder.join("config.json"), "{}").unwrap();
        assert_eq!(digest(std::slice::from_ref(&folder)), format!("sha256:{}", hex(&sha256(b"B"))));
        std::fs::write(&a, "A").unwrap();
        let lines =
            format!("a.safetensors {}\nb.safetensors {}\n", hex(&sha256(b"A")), hex(&sha256(b"B")));
        let several = format!("sha256:{}", hex(&sha256(lines.as_bytes())));
        assert_eq!(digest(std::slice::from_ref(&folder)), several);
        assert_eq!(digest(&[b, a]), several, "whatever the order they are named in");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn another_file_in_its_place_is_noticed() {
        let folder = folder("swapped");
        let path = folder.join("w.gguf");
        std::fs::write(&path, "one").unwrap();
        let paths = [path.clone()];
        let before = look(&paths).unwrap();
        assert_eq!(before, look(&paths).unwrap());
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        std::fs::write(folder.join("new"), "two").unwrap();
        File::options()
            .write(true)
            .open(folder.join("new"))
            .unwrap()
            .set_modified(modified)
            .unwrap();
        std::fs::rename(folder.join("new"), &path).unwrap();
        assert_ne!(before, look(&paths).unwrap());
        assert!(
            measure(&before, &AtomicBool::new(false)).is_err(),
            "it is not the file that was looked at"
        );
        assert!(measure(&look(&paths).unwrap(), &AtomicBool::new(true)).is_err(), "stopped");
        std::fs::remove_dir_all(folder).unwrap();
        assert!(look(&paths).is_err());
    }
}
