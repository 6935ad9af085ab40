//! What a dnsmasq may do. It reads packets from guests, so it gets as little as it can work with:
//!
//! - of the capabilities those three that it needs: to bind ports below 1024, for ICMP, and for the ARP entries by which
//!   it answers clients that have no address yet;
//! - no new privileges by what it executes;
//! - of the file system (Landlock, kernel 5.13 and newer): programs and libraries to read and execute, the system's
//!   configuration to read, and only its own network's directory to write. It cannot read another network's;
//! - signals and abstract sockets of other processes: none (kernel 6.12);
//! - it does not outlive the thread that started it.
//!
//! An older kernel has less of this, and dnsmasq runs all the same.

use capctl::caps::{Cap, CapState, ambient};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

const CAPABILITIES: [Cap; 3] = [Cap::NET_BIND_SERVICE, Cap::NET_RAW, Cap::NET_ADMIN];

/// `linux/landlock.h`
const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: libc::c_int = 1;
const EXECUTE: u64 = 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const READ: u64 = READ_FILE | READ_DIR;
/// Write, truncate and ioctl on what is no directory: all that a rule for a device may say.
const DEVICE: u64 = (1 << 1) | READ_FILE | (1 << 14) | (1 << 15);
/// All rights on files of a version of the interface.
const FILE_RIGHTS: [(libc::c_long, u64); 4] = [(1, 1 << 13), (2, 1 << 14), (3, 1 << 15), (5, 1 << 16)];
/// Abstract unix sockets and signals outside of the domain, from version 6 on.
const SCOPED: u64 = 0b11;

/// `struct landlock_ruleset_attr`
#[repr(C)]
struct RulesetAttributes {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr`
#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: i32,
}

/// Everything that has to be made before `fork`.
#[derive(Debug)]
pub struct Confinement {
    ruleset: Option<OwnedFd>,
    parent: libc::pid_t,
}

impl Confinement {
    /// `own` may be written; `programs` may be executed besides the system's.
    pub fn prepare(own: &Path, programs: &[&Path]) -> Self {
        Self {
            ruleset: ruleset(own, programs),
            // SAFETY: cannot fail, takes nothing.
            parent: unsafe { libc::getpid() },
        }
    }

    /// Confines the calling process for good. Only system calls: no allocation, no lock, fit for `Command::pre_exec`.
    pub fn enter(&self) -> io::Result<()> {
        let refused = |error: capctl::Error| io::Error::from_raw_os_error(error.code());
        // Root gets its capabilities anew at exec, limited by what the daemon has; everybody else by the ambient set.
        let mut state = CapState::get_current().map_err(refused)?;
        for cap in CAPABILITIES.into_iter().filter(|cap| state.permitted.has(*cap)) {
            state.inheritable.add(cap);
        }
        let inheritable = state.inheritable;
        state.set_current().map_err(refused)?;
        for cap in CAPABILITIES.into_iter().filter(|cap| inheritable.has(*cap)) {
            ambient::raise(cap).map_err(refused)?;
        }
        capctl::prctl::set_no_new_privs().map_err(refused)?;
        if let Some(ruleset) = &self.ruleset {
            // SAFETY: takes a descriptor and flags.
            if unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // Last: a change of credentials takes the signal back. The parent may have ended before it was asked for.
        // SAFETY: prctl and getppid take no pointers here.
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            if libc::getppid() != self.parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
        }
        Ok(())
    }
}

/// `None` where the kernel has no Landlock, or it is switched off.
fn ruleset(own: &Path, programs: &[&Path]) -> Option<OwnedFd> {
    // SAFETY: with this flag no attributes are read.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<RulesetAttributes>(),
            0_usize,
            CREATE_RULESET_VERSION,
        )
    };
    let end = FILE_RIGHTS.iter().rfind(|(since, _)| version >= *since)?.1;
    let all = end - 1;
    let attributes = RulesetAttributes {
        handled_access_fs: all,
        handled_access_net: 0,
        scoped: SCOPED,
    };
    // Older kernels refuse fields that they do not know.
    let size = if version >= 6 {
        size_of::<RulesetAttributes>()
    } else {
        size_of::<u64>()
    };
    // SAFETY: the attributes live through the call, `size` is at most theirs.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const attributes,
            size,
            0_u32,
        )
    };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: just made (close-on-exec), and nobody else's.
    let ruleset = unsafe { OwnedFd::from_raw_fd(fd) };
    let system = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64"].map(Path::new);
    for path in system.iter().chain(programs) {
        allow(&ruleset, path, (EXECUTE | READ) & all);
    }
    // Where /etc/resolv.conf may lead; its own entries in /proc, and the kernel's settings of its interface.
    let settings = [
        "/etc",
        "/proc",
        "/run/systemd/resolve",
        "/run/resolvconf",
        "/run/NetworkManager",
    ];
    for path in settings {
        allow(&ruleset, Path::new(path), READ & all);
    }
    for path in ["/dev/null", "/dev/urandom", "/dev/random"] {
        allow(&ruleset, Path::new(path), DEVICE & all);
    }
    allow(&ruleset, own, all & !EXECUTE);
    Some(ruleset)
}

/// What is not there needs no rule.
fn allow(ruleset: &OwnedFd, path: &Path, allowed_access: u64) {
    let mut options = std::fs::OpenOptions::new();
    let Ok(file) = options.read(true).custom_flags(libc::O_PATH).open(path) else {
        return;
    };
    // A right to list is refused for what is no directory.
    let is_directory = file.metadata().is_ok_and(|metadata| metadata.is_dir());
    let rule = PathBeneath {
        allowed_access: if is_directory {
            allowed_access
        } else {
            allowed_access & !READ_DIR
        },
        parent_fd: file.as_raw_fd(),
    };
    // SAFETY: the rule and the descriptor in it live through the call. A refusal leaves the path closed.
    unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            RULE_PATH_BENEATH,
            &raw const rule,
            0_u32,
        )
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, Stdio};

    /// Landlock is a matter of the kernel; where it is, it must hold.
    fn has_landlock(own: &Path) -> bool {
        ruleset(own, &[]).is_some()
    }

    fn confined(own: &Path, script: &str) -> bool {
        let confinement = Confinement::prepare(own, &[]);
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stderr(Stdio::null());
        // SAFETY: `enter` makes system calls only.
        unsafe { command.pre_exec(move || confinement.enter()) };
        command.status().unwrap().success()
    }

    #[test]
    fn a_network_cannot_read_what_belongs_to_another() {
        let folder = tempfile::tempdir().unwrap();
        let [own, other] = ["own", "other"].map(|name| folder.path().join(name));
        for path in [&own, &other] {
            std::fs::create_dir(path).unwrap();
            std::fs::write(path.join("file"), "text").unwrap();
        }
        if !has_landlock(&own) {
            return;
        }
        let (own_file, other_file) = (own.join("file"), other.join("file"));
        let (own_file, other_file) = (own_file.display(), other_file.display());
        assert!(confined(
            &own,
            &format!("cat {own_file} > /dev/null && echo more >> {own_file}")
        ));
        assert!(confined(&own, "echo nothing > /dev/null && ls /usr > /dev/null"));
        assert!(!confined(&own, &format!("cat {other_file}")));
        assert!(!confined(&own, &format!("echo more >> {other_file}")));
        assert!(!confined(&own, &format!("ls {}", other.display())));
    }

    #[test]
    fn a_confined_process_gets_no_new_privileges() {
        let folder = tempfile::tempdir().unwrap();
        assert!(confined(
            folder.path(),
            "grep -q '^NoNewPrivs:.*1$' /proc/self/status"
        ));
    }
}
