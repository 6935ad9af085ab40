//! A private world to make taps in: own network, mount and host-name namespaces, and a user namespace where root's
//! rights are missing.
//!
//! `tapwire demo`, the tests and the benches run in one, so that nothing they do reaches the host's network. Inside,
//! the process is root over its network; `/sys` shows the new network namespace, `/run` is empty and writable, `lo` is
//! up. The world ends with its last process.
//!
//! Two ways in: `enter_private` for a process that is still single-threaded (the kernel refuses a user namespace to
//! a multi-threaded one with EINVAL), and `Entry::enter` between `fork` and `exec` for everybody else.
//!
//! Failure half-way: the calling process may already be in some of the namespaces; it is of no use and must end.

use std::ffi::CStr;
use std::io;

/// Set to anything: makes a user namespace also as root, so that root can test what others get.
pub const FORCE_USER_NAMESPACE: &str = "TAPWIRE_TEST_USERNS";

/// A private namespace was refused. Text and hint are for the person who typed the command.
#[derive(Debug, thiserror::Error)]
#[error("cannot enter a private user and network namespace ({step}): run as root, or {hint}")]
pub struct NamespaceError {
    pub step: &'static str,
    hint: String,
    #[source]
    cause: io::Error,
}

/// The step that failed and its errno; small enough to be made between `fork` and `exec`.
#[derive(Debug, Clone, Copy)]
pub struct Refusal {
    step: &'static str,
    errno: i32,
}

impl Refusal {
    fn last(step: &'static str) -> Self {
        Self {
            step,
            errno: io::Error::last_os_error().raw_os_error().unwrap_or(0),
        }
    }
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        io::Error::from_raw_os_error(refusal.errno)
    }
}

impl From<Refusal> for NamespaceError {
    fn from(refusal: Refusal) -> Self {
        Self {
            step: refusal.step,
            hint: hint(),
            cause: refusal.into(),
        }
    }
}

/// What `Command::spawn` answers when a `pre_exec` that called `Entry::enter` failed; only the errno comes across.
pub fn explain(cause: io::Error) -> NamespaceError {
    NamespaceError {
        step: "in the child process",
        hint: hint(),
        cause,
    }
}

/// Everything that has to be allocated before `fork`.
#[derive(Debug)]
pub struct Entry {
    user: User,
    uid_map: Vec<u8>,
    gid_map: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum User {
    /// Not root, or told so: a user namespace first.
    Needed,
    /// Root: without one, unless the kernel refuses (a container's root without CAP_SYS_ADMIN).
    Spared,
}

impl Entry {
    pub fn prepare() -> Self {
        // SAFETY: both calls only read the process's own ids and cannot fail.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        let forced = std::env::var_os(FORCE_USER_NAMESPACE).is_some();
        Self {
            user: if uid != 0 || forced {
                User::Needed
            } else {
                User::Spared
            },
            uid_map: format!("0 {uid} 1").into_bytes(),
            gid_map: format!("0 {gid} 1").into_bytes(),
        }
    }

    /// Enters. Only system calls: no allocation, no lock, fit for `Command::pre_exec`.
    pub fn enter(&self) -> Result<(), Refusal> {
        const WORLD: libc::c_int = libc::CLONE_NEWNET | libc::CLONE_NEWNS | libc::CLONE_NEWUTS;
        match self.user {
            User::Needed => {
                self.enter_user_namespace()?;
                unshare(WORLD, "unshare network")?;
            }
            User::Spared => match unshare(WORLD, "unshare network") {
                Err(refusal) if refusal.errno == libc::EPERM => {
                    self.enter_user_namespace()?;
                    unshare(WORLD, "unshare network")?;
                }
                other => other?,
            },
        }
        // Private first, or every mount below would show on the host.
        mount(
            c"none",
            c"/",
            None,
            libc::MS_REC | libc::MS_PRIVATE,
            "private mounts",
        )?;
        // A container with a masked /sys refuses a fresh one: then an empty one, which at least does not show the
        // host's devices as if they were here.
        if let Err(refusal) = mount(c"sysfs", c"/sys", Some(c"sysfs"), 0, "fresh /sys") {
            match refusal.errno {
                libc::EPERM | libc::EBUSY => mount(c"tmpfs", c"/sys", Some(c"tmpfs"), 0, "empty /sys")?,
                _ => return Err(refusal),
            }
        }
        mount(c"tmpfs", c"/run", Some(c"tmpfs"), 0, "empty /run")?;
        loopback_up()
    }

    fn enter_user_namespace(&self) -> Result<(), Refusal> {
        unshare(libc::CLONE_NEWUSER, "unshare user")?;
        // Without `setgroups deny` an unprivileged process may not write its gid map (user_namespaces(7)).
        write(c"/proc/self/setgroups", b"deny", "deny setgroups")?;
        write(c"/proc/self/uid_map", &self.uid_map, "map user id")?;
        write(c"/proc/self/gid_map", &self.gid_map, "map group id")
    }
}

/// Enters a private namespace with the calling process, which must still be single-threaded.
pub fn enter_private() -> Result<(), NamespaceError> {
    Entry::prepare().enter().map_err(NamespaceError::from)
}

fn unshare(flags: libc::c_int, step: &'static str) -> Result<(), Refusal> {
    // SAFETY: takes no pointers.
    match unsafe { libc::unshare(flags) } {
        0 => Ok(()),
        _ => Err(Refusal::last(step)),
    }
}

fn mount(
    source: &CStr,
    target: &CStr,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
    step: &'static str,
) -> Result<(), Refusal> {
    let kind = kind.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: the strings are terminated and live through the call; mount takes no data here.
    match unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind, flags, std::ptr::null()) } {
        0 => Ok(()),
        _ => Err(Refusal::last(step)),
    }
}

fn write(path: &CStr, data: &[u8], step: &'static str) -> Result<(), Refusal> {
    // SAFETY: the path is terminated, the buffer is `data`, and the descriptor is closed on every way out.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return Err(Refusal::last(step));
        }
        let outcome = match libc::write(fd, data.as_ptr().cast(), data.len()) {
            0.. => Ok(()),
            _ => Err(Refusal::last(step)),
        };
        libc::close(fd);
        outcome
    }
}

fn loopback_up() -> Result<(), Refusal> {
    const STEP: &str = "set lo up";
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: libc::IFF_UP as libc::c_short,
        },
    };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, alive through the call; the socket is closed on every way out.
    unsafe {
        let fd = libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(Refusal::last(STEP));
        }
        let outcome = match libc::ioctl(fd, libc::SIOCSIFFLAGS as libc::Ioctl, &raw const request) {
            0.. => Ok(()),
            _ => Err(Refusal::last(STEP)),
        };
        libc::close(fd);
        outcome
    }
}

/// What would let this user in: the switches that distributions close, as found on this machine.
fn hint() -> String {
    hint_from(|path| {
        std::fs::read_to_string(path)
            .ok()
            .map(|text| text.trim().to_owned())
    })
}

fn hint_from(read: impl Fn(&str) -> Option<String>) -> String {
    // Debian's patch, the kernel's own limit, Ubuntu 24.04's AppArmor restriction: (file, closed value, remedy).
    const SWITCHES: [(&str, &str, &str); 3] = [
        (
            "/proc/sys/kernel/unprivileged_userns_clone",
            "0",
            "sysctl kernel.unprivileged_userns_clone=1",
        ),
        (
            "/proc/sys/user/max_user_namespaces",
            "0",
            "sysctl user.max_user_namespaces=10000",
        ),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ];
    let remedies: Vec<&str> = SWITCHES
        .iter()
        .filter(|(path, closed, _)| read(path).as_deref() == Some(closed))
        .map(|(_, _, remedy)| *remedy)
        .collect();
    if remedies.is_empty() {
        "allow unprivileged user namespaces (in a container: --security-opt seccomp=unconfined)".to_owned()
    } else {
        remedies.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_switch_is_named_with_its_remedy() {
        let ubuntu = |path: &str| path.contains("apparmor").then(|| "1".to_owned());
        assert_eq!(
            hint_from(ubuntu),
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0"
        );
        let two = |path: &str| (!path.contains("apparmor")).then(|| "0".to_owned());
        assert_eq!(
            hint_from(two),
            "sysctl kernel.unprivileged_userns_clone=1; sysctl user.max_user_namespaces=10000"
        );
    }

    #[test]
    fn without_a_closed_switch_the_container_is_suspected() {
        assert!(hint_from(|_| None).contains("seccomp=unconfined"));
    }

    #[test]
    fn the_error_says_what_failed_and_what_to_do() {
        let error = NamespaceError {
            step: "unshare user",
            hint: "sysctl user.max_user_namespaces=10000".to_owned(),
            cause: io::Error::from_raw_os_error(libc::ENOSPC),
        };
        assert_eq!(
            error.to_string(),
            "cannot enter a private user and network namespace (unshare user): run as root, or sysctl \
             user.max_user_namespaces=10000"
        );
    }
}
