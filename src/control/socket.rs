//! The sockets of one machine: how they are bound, and how to connect to one without a wait.

use std::fs::Permissions;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixListener;

/// Binds the admin socket. A stale socket is removed first.
///
/// # Errors
/// If the path cannot be bound, or a process listens there.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    bind_for(path, 0o600)
}

/// [`bind`] with another mode of the socket's file.
///
/// # Errors
/// If the path cannot be bound, or a process listens there.
pub fn bind_for(path: &Path, mode: u32) -> io::Result<UnixListener> {
    // `symlink_metadata` does not follow links, and only a socket is removed. So another file at
    // this path is never deleted.
    let left_over =
        std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    // Only a refused connection shows that no process listens there. After success or any other
    // error, such as a full backlog, the socket stays, and `bind` below fails.
    if left_over
        && let Err(error) = connect_at_once(path)
        && error.kind() == ErrorKind::ConnectionRefused
    {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    // Until this call, the umask determines the mode. The API checks the peer's uid in any case.
    std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok(listener)
}

/// Connects to the socket at `path`, and never waits: a blocking connect waits without limit while
/// the backlog of the other process is full (unix(7)).
///
/// # Errors
/// `WouldBlock` if the backlog is full, `ConnectionRefused` if no process listens there.
pub fn connect_at_once(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_stale_socket_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        drop(bind(&path).expect("a stale socket is replaced"));
        std::fs::remove_file(&path).expect("removed");
        // A stream cannot connect to a datagram socket, but the error is not a refusal.
        let used = std::os::unix::net::UnixDatagram::bind(&path).expect("bound");
        assert!(bind(&path).is_err());
        assert!(path.exists(), "the socket is in use");
        drop(used);
    }

    #[test]
    fn a_full_backlog_is_an_error_and_not_a_wait() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
        let listener = rustix::net::socket(family, kind, None).expect("a socket");
        let address = SocketAddrUnix::new(&path).expect("an address");
        rustix::net::bind(&listener, &address).expect("bound");
        rustix::net::listen(&listener, 0).expect("listens");
        let mut waiting = Vec::new();
        let full = loop {
            match connect_at_once(&path) {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        assert!(!waiting.is_empty() && path.exists());
    }
}
