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
        let latest = Instant::now() + SETTLE_AT_MOST;
        loop {
            let quiet = (Instant::now() + SETTLE).min(latest);
            match tokio::time::timeout_at(quiet, self.stream.next()).await {
                Ok(event) if Instant::now() < latest => self.note(event)?,
                Ok(event) => {
                    self.note(event)?;
                    break;
                }
                Err(_) => break,
            }
        }
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
mod tests {
    use super::*;
    use std::fs;

    /// Far more than any change takes; only a bug waits so long.
    const PATIENCE: Duration = Duration::from_secs(10);

    struct Files {
        root: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir(root.path().join("networks.d")).unwrap();
            fs::write(root.path().join("tapwire.toml"), "x").unwrap();
            Self { root }
        }
        fn path(&self, name: &str) -> PathBuf {
            self.root.path().join(name)
        }
        fn watch(&self, files: &[&str], directories: &[&str]) -> Watch {
            let paths = |names: &[&str]| names.iter().map(|name| self.path(name)).collect();
            let mut watch = Watch::new().unwrap();
            // The files were made just now: what counts as a change is what comes after.
            let since = SystemTime::now() + Duration::from_secs(3600);
            watch.set(paths(files), paths(directories), since).unwrap();
            watch
        }
    }

    async fn changes(watch: &mut Watch) {
        tokio::time::timeout(PATIENCE, watch.changed())
            .await
            .expect("no change seen")
            .unwrap();
    }

    #[tokio::test]
    async fn a_file_renamed_over_another_is_a_change_again_and_again() {
        let files = Files::new();
        let mut watch = files.watch(&["tapwire.toml"], &[]);
        for _ in 0..3 {
            fs::write(files.path("new"), "y").unwrap();
            fs::rename(files.path("new"), files.path("tapwire.toml")).unwrap();
            changes(&mut watch).await;
        }
    }

    #[tokio::test]
    async fn writing_in_place_removing_and_making_anew_are_changes() {
        let files = Files::new();
        let mut watch = files.watch(&["tapwire.toml"], &[]);
        fs::write(files.path("tapwire.toml"), "y").unwrap();
        changes(&mut watch).await;
        fs::remove_file(files.path("tapwire.toml")).unwrap();
        changes(&mut watch).await;
        fs::write(files.path("tapwire.toml"), "z").unwrap();
        changes(&mut watch).await;
    }

    #[tokio::test]
    async fn a_new_file_in_a_directory_is_a_change_also_if_the_directory_is_made_later() {
        let files = Files::new();
        let mut watch = files.watch(&["tapwire.toml"], &["networks.d", "later/parts"]);
        fs::write(files.path("networks.d/a.toml"), "").unwrap();
        changes(&mut watch).await;
        fs::create_dir(files.path("later")).unwrap();
        changes(&mut watch).await;
        fs::create_dir(files.path("later/parts")).unwrap();
        changes(&mut watch).await;
        fs::write(files.path("later/parts/a.toml"), "").unwrap();
        changes(&mut watch).await;
        fs::remove_dir_all(files.path("later")).unwrap();
        changes(&mut watch).await;
    }

    #[tokio::test]
    async fn a_link_swapped_anywhere_on_the_way_is_a_change() {
        let files = Files::new();
        // As Kubernetes mounts a ConfigMap.
        for (directory, text) in [("v1", "a"), ("v2", "b")] {
            fs::create_dir(files.path(directory)).unwrap();
            fs::write(files.path(directory).join("linked.toml"), text).unwrap();
        }
        std::os::unix::fs::symlink("v1", files.path("..data")).unwrap();
        std::os::unix::fs::symlink("..data/linked.toml", files.path("linked.toml")).unwrap();
        let mut watch = files.watch(&["linked.toml"], &[]);
        std::os::unix::fs::symlink("v2", files.path("..data_tmp")).unwrap();
        fs::rename(files.path("..data_tmp"), files.path("..data")).unwrap();
        changes(&mut watch).await;
        fs::write(files.path("v2/linked.toml"), "c").unwrap();
        changes(&mut watch).await;
    }

    #[tokio::test]
    async fn links_in_a_circle_end() {
        let files = Files::new();
        std::os::unix::fs::symlink("b", files.path("a")).unwrap();
        std::os::unix::fs::symlink("a", files.path("b")).unwrap();
        std::os::unix::fs::symlink("c/c", files.path("c")).unwrap();
        let mut watch = files.watch(&["a", "c", "c/d"], &[]);
        fs::remove_file(files.path("b")).unwrap();
        changes(&mut watch).await;
    }

    #[tokio::test]
    async fn many_files_at_once_are_one_change() {
        let files = Files::new();
        let mut watch = files.watch(&["tapwire.toml"], &["networks.d"]);
        for n in 0..500 {
            fs::write(files.path(&format!("networks.d/{n}.toml")), "").unwrap();
        }
        changes(&mut watch).await;
        let again = tokio::time::timeout(SETTLE * 3, watch.changed()).await;
        assert!(again.is_err(), "a second change for the same files");
    }

    #[tokio::test]
    async fn other_files_swap_files_and_unfinished_files_are_no_change() {
        let files = Files::new();
        let mut watch = files.watch(&["tapwire.toml"], &["networks.d"]);
        fs::write(files.path("other.toml"), "").unwrap();
        fs::write(files.path("networks.d/.a.toml.swp"), "").unwrap();
        fs::write(files.path("networks.d/a.toml~"), "").unwrap();
        let unfinished = fs::File::create(files.path("networks.d/a.toml")).unwrap();
        fs::read(files.path("tapwire.toml")).unwrap();
        let seen = tokio::time::timeout(SETTLE * 3, watch.changed()).await;
        assert!(seen.is_err());
        drop(unfinished);
        changes(&mut watch).await;
    }

    #[tokio::test]
    async fn what_changed_while_it_was_read_is_reported_at_once() {
        let files = Files::new();
        let mut watch = Watch::new().unwrap();
        let before = SystemTime::now();
        fs::write(files.path("tapwire.toml"), "y").unwrap();
        watch
            .set(vec![files.path("tapwire.toml")], vec![], before)
            .unwrap();
        changes(&mut watch).await;
        watch
            .set(
                vec![files.path("tapwire.toml")],
                vec![],
                before + Duration::from_secs(3600),
            )
            .unwrap();
        let again = tokio::time::timeout(SETTLE * 3, watch.changed()).await;
        assert!(again.is_err());
    }
}
