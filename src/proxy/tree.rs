//! The log's tree, read-only, in the paths of C2SP tlog-tiles. Auditors may read all of it. The
//! config may make its checkpoints public.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use zeroize::Zeroizing;

use crate::audit::read::tiles::epoch_number;
use crate::crypto::sha256;
use crate::merkle::tile::Tile;
use crate::proxy::answer::Answer;
use crate::proxy::descriptors::read_place;
use crate::proxy::refused::Refused;
use crate::proxy::{Gateway, respond};
use crate::refusal::{Code, Refusal};

/// The prefix of the tree: `/audit/NAME/EPOCH/checkpoint`, `/audit/NAME/EPOCH/tile/…`,
/// `/audit/log.vkeys`.
pub const PATH: &str = "/audit/";
/// The shortest accepted credential of auditors, in bytes.
pub const CREDENTIAL_BYTES_MIN: usize = 20;

/// The log's files, and the rules of access to them.
pub struct LogTree {
    /// The folder of the epochs.
    dir: PathBuf,
    /// The public keys.
    vkeys: PathBuf,
    /// The gateway's name. Every origin begins with it.
    name: String,
    /// The hash of the auditors' credential. The credential itself is not kept in memory.
    auditor: Option<[u8; 32]>,
    /// Whether checkpoints and public keys need no credential.
    public_checkpoints: bool,
}

/// A file of the tree.
pub struct TreeFile {
    path: PathBuf,
    content_type: &'static str,
    /// Whether the file shows only the size of the log: a checkpoint, or public keys.
    head: bool,
}

impl LogTree {
    /// The tree in `dir`, with the public keys in `vkeys`. `auditor` is the credential for reading
    /// all of it over the network.
    #[must_use]
    pub fn new(
        dir: &Path,
        vkeys: &Path,
        name: &str,
        auditor: Option<&Zeroizing<String>>,
        public_checkpoints: bool,
    ) -> Self {
        let auditor = auditor.map(|secret| sha256(secret.as_bytes()));
        Self {
            dir: dir.to_owned(),
            vkeys: vkeys.to_owned(),
            name: name.to_owned(),
            auditor,
            public_checkpoints,
        }
    }

    /// Whether any part of it is served over the network.
    #[must_use]
    pub const fn is_served(&self) -> bool {
        self.auditor.is_some() || self.public_checkpoints
    }

    /// The file that a path after [`PATH`] names. None for a path outside the layout.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<TreeFile> {
        if path == "log.vkeys" {
            return Some(TreeFile {
                path: self.vkeys.clone(),
                content_type: respond::TEXT,
                head: true,
            });
        }
        let (epoch, rest) = path.strip_prefix(&self.name)?.strip_prefix('/')?.split_once('/')?;
        // Only parsed names become paths, so that no `..` or other file can be named.
        epoch_number(epoch)?;
        let path = self.dir.join(epoch);
        if rest == "checkpoint" {
            return Some(TreeFile {
                path: path.join(rest),
                content_type: respond::TEXT,
                head: true,
            });
        }
        let tile = Tile::read(rest)?;
        Some(TreeFile {
            path: path.join(tile.path()),
            content_type: "application/octet-stream",
            head: false,
        })
    }

    /// Checks access to a file. True if the headers have the auditors' credential, false if the
    /// file is public.
    ///
    /// # Errors
    /// `auditor-unknown` in all other cases, also for a file that does not exist.
    pub(super) fn allows(
        &self,
        headers: &HeaderMap,
        file: Option<&TreeFile>,
    ) -> Result<bool, Code> {
        // Hashes of equal length, compared in constant time: timing reveals no part of the
        // credential.
        if let (Some(known), Some(shown)) = (&self.auditor, bearer(headers))
            && verify_slices_are_equal(known, &sha256(shown)).is_ok()
        {
            return Ok(true);
        }
        let public = self.public_checkpoints && file.is_some_and(|file| file.head);
        if public { Ok(false) } else { Err(Code::AuditorUnknown) }
    }
}

/// The bearer credential in the headers.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get(AUTHORIZATION)?.as_bytes().strip_prefix(b"Bearer ")
}

/// The refusal for a file that does not exist.
fn unknown(why: impl fmt::Display) -> Refusal {
    Refusal::new(Code::TreeUnknown).because(why)
}

impl TreeFile {
    /// The bytes of the file and their media type.
    ///
    /// # Errors
    /// If the file does not exist. A partial tile is removed after a later checkpoint.
    pub async fn read(self) -> std::io::Result<(Bytes, &'static str)> {
        let _place = read_place().await?;
        Ok((tokio::fs::read(self.path).await?.into(), self.content_type))
    }
}

impl Gateway {
    /// Answers a request for a file of the log's tree.
    pub(super) async fn tree(
        &self,
        tree: &LogTree,
        path: &str,
        headers: &HeaderMap,
        peer: IpAddr,
    ) -> Result<Answer, Refused> {
        // Parsed before the access check, but reported after it: an unauthenticated caller learns
        // no names.
        let file = tree.file(path);
        // Public files count against the peer's network, as the published keys do.
        let auditor = tree
            .allows(headers, file.as_ref())
            .map_err(|code| self.count_unauthenticated(code.into(), peer))?;
        if !auditor {
            self.authenticator.limit_unauthenticated(peer)?;
        }
        let Some(file) = file else { return Err(unknown("no path of the layout").into()) };
        let (bytes, content_type) = file.read().await.map_err(unknown)?;
        Ok(Answer::Public(bytes, content_type))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn tree(auditor: Option<&str>, public: bool) -> LogTree {
        let auditor = auditor.map(|secret| Zeroizing::new(secret.to_owned()));
        let (dir, vkeys) = (Path::new("/log"), Path::new("/log.vkeys"));
        LogTree::new(dir, vkeys, "gw.example", auditor.as_ref(), public)
    }

    #[test]
    fn only_files_of_the_layout_are_named() {
        let tree = tree(None, false);
        for (path, expect) in [
            ("log.vkeys", "/log.vkeys"),
            ("gw.example/e000001/checkpoint", "/log/e000001/checkpoint"),
            ("gw.example/e000012/tile/0/x001/234", "/log/e000012/tile/0/x001/234"),
            ("gw.example/e000001/tile/entries/000.p/7", "/log/e000001/tile/entries/000.p/7"),
        ] {
            assert_eq!(
                tree.file(path).map(|file| file.path),
                Some(PathBuf::from(expect)),
                "{path}"
            );
        }
        for path in [
            "",
            "log.vkeys/",
            "gw.example",
            "gw.example/e000001",
            "gw.example/e1/checkpoint",
            "other/e000001/checkpoint",
            "gw.example/e000001/journal/00000000000000000000",
            "gw.example/e000001/lock",
            "gw.example/e000001/../checkpoint",
            "gw.example/../secret/head",
            "gw.example/e000001/tile/0/../../checkpoint",
            "gw.example/e000001/tile/0/000.p/256",
            "gw.example/e000001/tile/0/000.p/0",
            "gw.example/e000001/tile/0/0",
            "gw.example/e000001/tile/00/000",
            "gw.example/e000001/tile//000",
        ] {
            assert!(tree.file(path).is_none(), "{path}");
        }
    }

    #[test]
    fn auditors_get_all_and_others_what_is_public() {
        let headers = |text: &'static str| {
            HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(text))])
        };
        let (head, tile) = ("gw.example/e000001/checkpoint", "gw.example/e000001/tile/0/000");
        let may = |tree: &LogTree, headers: &HeaderMap, path: &str| {
            tree.allows(headers, tree.file(path).as_ref()).is_ok()
        };
        let (good, bad, none) = (
            headers("Bearer 0123456789abcdefghij"),
            headers("Bearer 0123456789abcdefghi"),
            HeaderMap::new(),
        );
        let closed = tree(Some("0123456789abcdefghij"), false);
        for path in [head, tile, "nonsense"] {
            assert!(
                may(&closed, &good, path)
                    && !may(&closed, &bad, path)
                    && !may(&closed, &none, path),
                "{path}"
            );
        }
        let open = tree(None, true);
        assert!(
            may(&open, &none, head)
                && may(&open, &none, "log.vkeys")
                && !may(&open, &none, tile)
                && !may(&open, &good, tile)
        );
        assert!(open.allows(&good, None).is_err() && !tree(None, false).is_served());
    }
}
