//! The socket file: made, recognised as stale, given its rights, removed; and who is at the other end.
//!
//! The file's mode is the first gate: 0660, owner the daemon's user, group `socket_group`. It is created with mode
//! 0600 in the same call that makes it visible (Linux takes the mode of an unbound socket over to the file), so that
//! there is no moment in which somebody else can connect.

use super::Error;
use super::api::Peer;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// `sizeof(sun_path)` is 108 with the terminating zero.
const MAX_PATH: usize = 107;
/// Connections the kernel holds for us between two accepts.
const BACKLOG: libc::c_int = 1024;

/// A listening socket with its file, which goes when this is dropped (only if it is still ours).
#[derive(Debug)]
pub struct SocketFile {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file we made.
    identity: (u64, u64),
    gid: u32,
}

impl SocketFile {
    /// Makes the directory (0755) if missing, replaces a stale file, never one with a listener behind it.
    pub fn bind(path: &Path, group: Option<&str>) -> Result<Self, Error> {
        if path.as_os_str().as_bytes().len() > MAX_PATH {
            return Err(Error::PathTooLong {
                path: path.to_owned(),
            });
        }
        let gid = group.map(group_id).transpose()?;
        let fail = |what| {
            move |source| Error::Socket {
                what,
                path: path.to_owned(),
                source,
            }
        };
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(parent)
                .map_err(fail("create the directory of"))?;
        }
        remove_stale(path)?;
        let socket = tokio::net::UnixSocket::new_stream().map_err(fail("create a socket for"))?;
        let owned = socket
            .as_fd()
            .try_clone_to_owned()
            .map_err(fail("create a socket for"))?;
        let as_file = fs::File::from(owned);
        as_file
            .set_permissions(fs::Permissions::from_mode(0o600))
            .map_err(fail("restrict"))?;
        socket.bind(path).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => Error::InUse {
                path: path.to_owned(),
            },
            _ => fail("bind")(source),
        })?;
        let metadata = fs::symlink_metadata(path).map_err(fail("look at"))?;
        let listener = UnixListener::from(std::os::fd::OwnedFd::from(as_file));
        let made = Self {
            listener,
            path: path.to_owned(),
            identity: (metadata.dev(), metadata.ino()),
            gid: gid.unwrap_or_else(|| metadata.gid()),
        };
        // From here on an early return removes the file again.
        if gid.is_some() {
            std::os::unix::fs::chown(path, None, gid).map_err(fail("set the group of"))?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(fail("set the mode of"))?;
        made.listener.set_nonblocking(true).map_err(fail("prepare"))?;
        // SAFETY: listen(2) on a descriptor that `made` owns; no memory is passed.
        if unsafe { libc::listen(made.listener.as_raw_fd(), BACKLOG) } != 0 {
            return Err(fail("listen on")(io::Error::last_os_error()));
        }
        Ok(made)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
    /// The group whose members may command.
    pub const fn gid(&self) -> u32 {
        self.gid
    }
    /// A second descriptor of the listening socket, non-blocking.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(target: "control", path = %self.path.display(), %error, "cannot remove the control socket");
        }
    }
}

fn remove_stale(path: &Path) -> Result<(), Error> {
    let fail = |what| {
        move |source| Error::Socket {
            what,
            path: path.to_owned(),
            source,
        }
    };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(fail("look at")(source)),
    };
    if !metadata.file_type().is_socket() {
        return Err(Error::NotASocket {
            path: path.to_owned(),
        });
    }
    // Refused = nobody listens; anything else = leave it alone.
    match UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(fail("remove the stale"))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(Error::InUse {
            path: path.to_owned(),
        }),
        Err(source) => Err(fail("probe")(source)),
    }
}

/// `getgrnam_r`.
fn group_id(name: &str) -> Result<u32, Error> {
    let missing = || Error::NoSuchGroup {
        name: name.to_owned(),
    };
    let c_name = std::ffi::CString::new(name).map_err(|_| missing())?;
    let mut buffer = vec![0_u8; 1024];
    loop {
        // SAFETY: `group` is plain data that the call fills; zeroed is a valid value for it.
        let mut entry: libc::group = unsafe { std::mem::zeroed() };
        let mut found = std::ptr::null_mut();
        // SAFETY: every pointer is to memory that lives past the call; the length is the buffer's.
        let status = unsafe {
            libc::getgrnam_r(
                c_name.as_ptr(),
                &mut entry,
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                &mut found,
            )
        };
        match status {
            0 if found.is_null() => return Err(missing()),
            0 => return Ok(entry.gr_gid),
            libc::ERANGE if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 4, 0),
            _ => return Err(missing()),
        }
    }
}

/// Who connected, and whether they may change things: root, the daemon's own user, or a member of the socket's group.
///
/// The file's mode says the same; asking again here costs two system calls per connection and holds when somebody
/// widened the mode to let a monitoring agent read.
pub fn identify(stream: &tokio::net::UnixStream, gid: u32) -> io::Result<(Peer, bool)> {
    let cred = stream.peer_cred()?;
    let peer = Peer {
        uid: cred.uid(),
        gid: cred.gid(),
        pid: cred.pid(),
    };
    // SAFETY: geteuid has no arguments and cannot fail.
    let own = unsafe { libc::geteuid() };
    let may_change = peer.uid == 0
        || peer.uid == own
        || peer.gid == gid
        || supplementary_groups(stream.as_fd()).is_ok_and(|groups| groups.contains(&gid));
    Ok((peer, may_change))
}

/// `SO_PEERGROUPS` (Linux 4.13): what `SO_PEERCRED` leaves out.
fn supplementary_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<libc::gid_t>> {
    // NGROUPS_MAX is 65536; nearly everybody has fewer than 64.
    for capacity in [64_usize, 65_536] {
        let mut groups: Vec<libc::gid_t> = vec![0; capacity];
        let mut bytes = libc::socklen_t::try_from(capacity * size_of::<libc::gid_t>()).unwrap_or(0);
        // SAFETY: the kernel writes at most `bytes` bytes into `groups`, which has that size.
        let status = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &mut bytes,
            )
        };
        if status == 0 {
            groups.truncate(bytes as usize / size_of::<libc::gid_t>());
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) {
            return Err(error);
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_mode_0660_and_goes_when_the_server_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/tapwire.sock");
        let file = SocketFile::bind(&path, None).unwrap();
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_file_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "std leaves the file behind");
        let first = SocketFile::bind(&path, None).unwrap();
        assert!(matches!(SocketFile::bind(&path, None), Err(Error::InUse { .. })));
        UnixStream::connect(&path).unwrap();
        drop(first);
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        fs::write(&path, "data").unwrap();
        assert!(matches!(
            SocketFile::bind(&path, None),
            Err(Error::NotASocket { .. })
        ));
        assert_eq!(fs::read(&path).unwrap(), b"data");
    }

    #[test]
    fn a_file_that_somebody_put_in_our_place_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let file = SocketFile::bind(&path, None).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "somebody else's").unwrap();
        drop(file);
        assert!(path.exists());
    }

    #[test]
    fn an_unknown_group_and_a_long_path_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = SocketFile::bind(&dir.path().join("s"), Some("no-such-group-here")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "group \"no-such-group-here\" does not exist (socket_group)"
        );
        let long = dir.path().join("x".repeat(120));
        assert!(matches!(
            SocketFile::bind(&long, None),
            Err(Error::PathTooLong { .. })
        ));
        assert_eq!(group_id("root").unwrap(), 0);
    }
}
