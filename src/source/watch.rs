//! Tells when a file of the configuration changed, appeared or went away.
//!
//! Directories are watched, not files: editors and configuration management write a new file and rename it over the
//! old one, which a watch on the file would follow into nowhere. A path that is a symbolic link is followed link by
//! link, so that a swap of any of them is seen. A directory that does not exist yet is waited for in the nearest one
//! that does.
//!
//! Idle costs nothing: no timer runs until an event of interest arrived. Then a short quiet is waited for, so that
//! the twenty files of one deployment are one reload. Only finished writes count (`IN_CLOSE_WRITE`, renames,
//! removals), never a file that is being written.
//!
//! The lists are replaced with `set` after every load. Watches are placed anew before every report of a change, so
//! that what happens while the files are read again is not lost; `set` itself compares the files with the time the
//! load began, because for a file that is new in the list nobody watched in between.

use super::Error;
use futures_util::{FutureExt, StreamExt};
use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchDescriptor, WatchMask, Watches};
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// So much quiet makes a change complete.
const SETTLE: Duration = Duration::from_millis(100);
/// A change is reported after so much time even if there is no quiet.
const SETTLE_AT_MOST: Duration = Duration::from_secs(1);
/// File times come from the kernel's coarse clock, which may be a tick (10 ms at 100 Hz) behind the one we read.
const CLOCK_GRAIN: Duration = Duration::from_millis(20);
/// Paths looked at for one watched path; the kernel itself follows 40 links (`MAXSYMLINKS`).
const PATHS_FOLLOWED: usize = 100;

/// Watches the files of a configuration.
pub struct Watch {
    stream: EventStream<Vec<u8>>,
    watches: Watches,
    interests: HashMap<WatchDescriptor, Interest>,
    files: Vec<PathBuf>,
    directories: Vec<PathBuf>,
    /// Something of interest happened and was not reported yet.
    pending: bool,
    /// Until when quiet is waited for, and the latest time to report. Kept here, because `changed` is cancelled by
    /// everything else that happens on the loop: a busy host must not put a reload off for ever.
    settling: Option<(Instant, Instant)>,
}

/// What counts within one directory.
#[derive(Debug, Default)]
struct Interest {
    /// The directory, under one of its names.
    path: PathBuf,
    names: HashSet<OsString>,
    /// Every name, but for hidden files and backups.
    any: bool,
}

impl Watch {
    /// Must be called within a tokio runtime with I/O enabled. Nothing is watched before `set`.
    pub fn new() -> Result<Self, Error> {
        let failed = |cause| Error::Watch {
            what: "files".to_owned(),
            cause,
        };
        let inotify = Inotify::init().map_err(failed)?;
        let watches = inotify.watches();
        let stream = inotify.into_event_stream(vec![0; 4096]).map_err(failed)?;
        Ok(Self {
            stream,
            watches,
            interests: HashMap::new(),
            files: Vec::new(),
            directories: Vec::new(),
            pending: false,
            settling: None,
        })
    }

    /// Replaces what is watched: `files` (which may be directories, or absent), and `directories` in which any new
    /// file counts. `since` is the time just before the load that gave these lists; a file changed after that is
    /// reported at once.
    ///
    /// On an error the remaining paths are watched nevertheless.
    pub fn set(
        &mut self,
        files: Vec<PathBuf>,
        directories: Vec<PathBuf>,
        since: SystemTime,
    ) -> Result<(), Error> {
        self.files = files;
        self.directories = directories;
        let placed = self.place();
        let since = since.checked_sub(CLOCK_GRAIN).unwrap_or(since);
        self.pending |= self
            .files
            .iter()
            .chain(&self.directories)
            .any(|path| changed_since(path, since));
        placed
    }

    /// Waits until something changed and it is quiet again. Cancelling loses nothing.
    pub async fn changed(&mut self) -> Result<(), Error> {
        while !self.pending {
            let event = self.stream.next().await;
            self.note(event)?;
        }
        loop {
            let now = Instant::now();
            let (quiet, latest) = *self.settling.get_or_insert((now + SETTLE, now + SETTLE_AT_MOST));
            match tokio::time::timeout_at(quiet.min(latest), self.stream.next()).await {
                Ok(event) => {
                    self.note(event)?;
                    let now = Instant::now();
                    if now >= latest {
                        break;
                    }
                    self.settling = Some((now + SETTLE, latest));
                }
                Err(_) => break,
            }
        }
        self.settling = None;
        // What is queued already belongs to this change.
        while let Some(event) = self.stream.next().now_or_never() {
            self.note(event)?;
        }
        if let Err(error) = self.place() {
            // The change is what counts now; `set`, called after the load, reports the same again.
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot watch all files");
        }
        self.pending = false;
        Ok(())
    }

    fn note(&mut self, event: Option<std::io::Result<EventOwned>>) -> Result<(), Error> {
        match event {
            Some(Ok(event)) => {
                self.pending |= self.counts(&event);
                Ok(())
            }
            Some(Err(cause)) => Err(Error::Watch {
                what: "files".to_owned(),
                cause,
            }),
            None => Err(Error::Watch {
                what: "files".to_owned(),
                cause: ErrorKind::UnexpectedEof.into(),
            }),
        }
    }

    fn counts(&mut self, event: &EventOwned) -> bool {
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            return true;
        }
        if event.mask.contains(EventMask::IGNORED) {
            // The kernel has removed the watch: its directory is gone, or `place` took it away.
            return self.interests.remove(&event.wd).is_some();
        }
        let Some(interest) = self.interests.get(&event.wd) else {
            return false;
        };
        let Some(name) = &event.name else {
            // The directory itself.
            return event
                .mask
                .intersects(EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::UNMOUNT);
        };
        if !interest.names.contains(name) && (!interest.any || hidden(name)) {
            return false;
        }
        // A regular file that was just made is empty and will be closed; links and directories are complete.
        !event.mask.contains(EventMask::CREATE) || !unfinished(&interest.path.join(name))
    }

    /// Puts watches where the lists ask for them now, and takes the others away.
    fn place(&mut self) -> Result<(), Error> {
        let mut wanted = Wanted::default();
        for path in self.files.iter().chain(&self.directories) {
            wanted.path(path, PATHS_FOLLOWED);
            // A directory among the files (of plugins) counts with everything in it.
            if path.is_dir() {
                wanted.interest(path).any = true;
            }
        }
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::MOVE
            | WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::ATTRIB
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        let mut interests: HashMap<WatchDescriptor, Interest> = HashMap::new();
        let mut failed = None;
        for (directory, interest) in wanted.interests {
            // The same directory under two names has one descriptor.
            match self.watches.add(&directory, mask) {
                Ok(descriptor) => {
                    let known = interests.entry(descriptor).or_default();
                    known.path = directory;
                    known.names.extend(interest.names);
                    known.any |= interest.any;
                }
                // Gone since it was looked at: its parent is watched too, so that is an event.
                Err(cause) if matches!(cause.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                Err(cause) => {
                    failed = Some(Error::Watch {
                        what: directory.display().to_string(),
                        cause,
                    });
                }
            }
        }
        let before = std::mem::replace(&mut self.interests, interests);
        for descriptor in before.into_keys().filter(|d| !self.interests.contains_key(d)) {
            // Fails only if the kernel removed it first.
            let _ = self.watches.remove(descriptor);
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Editors' swap files, backups, temporary files of package managers.
fn hidden(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.first() == Some(&b'.') || name.last() == Some(&b'~')
}

/// A file that is still being written by whoever created it.
fn unfinished(path: &Path) -> bool {
    // A second name means that it was linked into place, and nobody will close it.
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && meta.nlink() == 1)
}

/// Which names in which directories decide what some paths lead to.
#[derive(Debug, Default)]
struct Wanted {
    interests: HashMap<PathBuf, Interest>,
    seen: HashSet<PathBuf>,
}

impl Wanted {
    fn interest(&mut self, directory: &Path) -> &mut Interest {
        let directory = if directory.as_os_str().is_empty() {
            Path::new(".")
        } else {
            directory
        };
        self.interests.entry(directory.to_owned()).or_default()
    }

    /// The name of `path`, or of its first part that does not exist; and every symbolic link on the way to it.
    fn path(&mut self, path: &Path, paths_left: usize) {
        let Some(paths_left) = paths_left.checked_sub(1) else {
            return;
        };
        if !self.seen.insert(path.to_owned()) {
            return;
        }
        let mut placed = false;
        for part in path.ancestors() {
            let (Some(parent), Some(name)) = (part.parent(), part.file_name()) else {
                continue;
            };
            let target = std::fs::read_link(part).ok();
            let reachable = parent.as_os_str().is_empty() || parent.is_dir();
            if (!placed && reachable) || target.is_some() {
                self.interest(parent).names.insert(name.to_owned());
                placed |= reachable;
            }
            if let Some(target) = target {
                self.path(&parent.join(target), paths_left);
            }
        }
    }
}

/// Whether content, mode or name changed; the change time of a directory moves when an entry comes or goes.
fn changed_since(path: &Path, since: SystemTime) -> bool {
    let Ok(since) = since.duration_since(SystemTime::UNIX_EPOCH) else {
        return false;
    };
    std::fs::metadata(path).is_ok_and(|meta| {
        let changed = (
            u64::try_from(meta.ctime()).unwrap_or(0),
            u64::try_from(meta.ctime_nsec()).unwrap_or(0),
        );
        changed >= (since.as_secs(), u64::from(since.subsec_nanos()))
    })
}

#[cfg(test)]
mod tests;
