//! A network's directory: what dnsmasq reads, and what it keeps.
//!
//! Files are written beside their place and renamed in, so that whoever watches sees a whole file or none. The two
//! folders of ports' files also are the memory of what the last dnsmasq was told: what is there and no longer wanted
//! at a start has been freed.

use super::{Error, render};
use crate::desired::service::ServiceWant;
use crate::model::NetworkId;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

const CONFIGURATION: &str = "dnsmasq.conf";
const HOSTS: &str = "hosts";
const NAMES: &str = "names";
const LEASES: &str = "leases";
const SCRIPT: &str = super::report::PROGRAM;
/// A file on its way into its place.
const DRAFT: &str = ".draft";
/// Before a network's id: an id may be "..".
const PREFIX: &str = "net-";

/// Where the files of one network are.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }
    pub fn of(directory: &Path, network: &NetworkId) -> Self {
        Self {
            root: directory.join(format!("{PREFIX}{network}")),
        }
    }
    pub fn root(&self) -> &Path {
        &self.root
    }
    /// Closed to others; there already is fine.
    pub fn make_root(&self) -> Result<(), Error> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.root)
            .map_err(Error::file("make", &self.root))
    }
    pub fn configuration(&self) -> PathBuf {
        self.root.join(CONFIGURATION)
    }
    /// One file a port, for `dhcp-hostsdir`.
    pub fn hosts(&self) -> PathBuf {
        self.root.join(HOSTS)
    }
    /// One file a port, for `hostsdir`.
    pub fn names(&self) -> PathBuf {
        self.root.join(NAMES)
    }
    pub fn leases(&self) -> PathBuf {
        self.root.join(LEASES)
    }
    pub fn pid(&self) -> PathBuf {
        self.root.join("pid")
    }
    /// What dnsmasq runs for every lease event: a link to this program.
    pub fn script(&self) -> PathBuf {
        self.root.join(SCRIPT)
    }
    /// Where that program reports to.
    pub fn socket(&self) -> PathBuf {
        self.root.join("lease.sock")
    }
}

/// The directories of networks below `directory`, with their ids.
pub fn networks(directory: &Path) -> Result<Vec<(NetworkId, Layout)>, Error> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::file("list", directory)(error)),
    };
    let found = entries.flatten().filter_map(|entry| {
        let name = entry.file_name();
        let id = NetworkId::new(name.to_str()?.strip_prefix(PREFIX)?).ok()?;
        Some((id, Layout::new(&entry.path())))
    });
    Ok(found.collect())
}

/// The text of every file that is ours to write.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Files {
    pub configuration: String,
    /// By file name.
    pub hosts: BTreeMap<String, String>,
    pub names: BTreeMap<String, String>,
}

/// What it takes to bring a running dnsmasq from some files to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Nothing,
    /// New files only: dnsmasq reads them by itself.
    Additions,
    /// dnsmasq does not forget what it has read, so whatever is changed or gone wants a new one.
    Restart,
}

impl Files {
    pub fn of(want: &ServiceWant, layout: &Layout) -> Self {
        let mut files = Self {
            configuration: render::configuration(want, layout),
            ..Self::default()
        };
        for (port, reservation) in &want.reservations {
            let name = file_name(port);
            if let Some(line) = render::reservation(reservation) {
                files.hosts.insert(name.clone(), line);
            }
            if let Some(lines) = render::names(reservation) {
                files.names.insert(name, lines);
            }
        }
        files
    }

    pub fn step_to(&self, other: &Files) -> Step {
        if self == other {
            return Step::Nothing;
        }
        let grows = |from: &BTreeMap<String, String>, to: &BTreeMap<String, String>| {
            from.iter().all(|(name, text)| to.get(name) == Some(text))
        };
        if self.configuration == other.configuration
            && grows(&self.hosts, &other.hosts)
            && grows(&self.names, &other.names)
        {
            Step::Additions
        } else {
            Step::Restart
        }
    }

    /// Reservations of `other` that use a MAC address or an address of those of ours that it no longer has.
    pub fn reuses_freed(&self, other: &Files) -> bool {
        let freed: BTreeSet<&str> = self
            .hosts
            .iter()
            .filter(|(name, text)| other.hosts.get(*name) != Some(*text))
            .flat_map(|(_, text)| facts(text))
            .collect();
        let added = other
            .hosts
            .iter()
            .filter(|(name, text)| self.hosts.get(*name) != Some(*text));
        added
            .flat_map(|(_, text)| facts(text))
            .any(|fact| freed.contains(fact))
    }

    /// The ports' files that are in a network's directory.
    pub fn read_hosts(layout: &Layout) -> BTreeMap<String, String> {
        let entries = fs::read_dir(layout.hosts()).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| {
                let text = fs::read_to_string(entry.path()).ok()?;
                Some((entry.file_name().into_string().ok()?, text))
            })
            .collect()
    }

    /// Writes everything, and removes what is not ours from the two folders.
    pub fn write_all(&self, layout: &Layout, program: &Path) -> Result<(), Error> {
        for folder in [layout.hosts(), layout.names()] {
            fs::create_dir_all(&folder).map_err(Error::file("make", &folder))?;
        }
        link(layout, program)?;
        write(layout, &layout.configuration(), &self.configuration)?;
        for (folder, files) in [(layout.hosts(), &self.hosts), (layout.names(), &self.names)] {
            for entry in fs::read_dir(&folder)
                .map_err(Error::file("list", &folder))?
                .flatten()
            {
                let name = entry.file_name();
                if name.to_str().is_none_or(|name| !files.contains_key(name)) {
                    remove(&entry.path())?;
                }
            }
            for (name, text) in files {
                write(layout, &folder.join(name), text)?;
            }
        }
        Ok(())
    }

    /// Writes what `self` has and `before` has not.
    pub fn write_additions(&self, before: &Files, layout: &Layout) -> Result<(), Error> {
        // DNS first: a lease is told to it with the name.
        for (folder, files, known) in [
            (layout.names(), &self.names, &before.names),
            (layout.hosts(), &self.hosts, &before.hosts),
        ] {
            for (name, text) in files.iter().filter(|(name, _)| !known.contains_key(*name)) {
                write(layout, &folder.join(name), text)?;
            }
        }
        Ok(())
    }

    /// Is the file at `path`, in the network's directory or one of its two folders, as it should be? True for files
    /// that are none of ours.
    pub fn is_right(&self, layout: &Layout, path: &Path) -> bool {
        if path == layout.root() {
            return path.exists();
        }
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let wanted = match path.parent() {
            Some(parent) if parent == layout.hosts() => self.hosts.get(name),
            Some(parent) if parent == layout.names() => self.names.get(name),
            Some(parent) if parent == layout.root() => match name {
                CONFIGURATION => Some(&self.configuration),
                HOSTS | NAMES | LEASES | SCRIPT => return path.exists(),
                _ => return true,
            },
            _ => return true,
        };
        match (wanted, fs::read_to_string(path)) {
            (Some(text), Ok(found)) => *text == found,
            (None, Err(error)) => error.kind() == io::ErrorKind::NotFound,
            (Some(_), Err(_)) | (None, Ok(_)) => false,
        }
    }
}

/// MAC address and addresses of a line of `dhcp-hostsdir`.
pub fn facts(line: &str) -> impl Iterator<Item = &str> {
    line.trim_end()
        .split(',')
        .map(|word| word.trim_matches(['[', ']']))
        .filter(|word| word.contains(['.', ':']))
}

/// dnsmasq passes over names that begin with a dot or end with a tilde, so neither is left to chance.
fn file_name(port: &str) -> String {
    let mut name = String::from("port-");
    for byte in port.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-') {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02x}"));
        }
    }
    name
}

/// A whole file or none, and nothing at all when it is right already.
pub fn write(layout: &Layout, path: &Path, text: &str) -> Result<(), Error> {
    if fs::read(path).is_ok_and(|found| found == text.as_bytes()) {
        return Ok(());
    }
    let draft = layout.root().join(DRAFT);
    fs::write(&draft, text).map_err(Error::file("write", &draft))?;
    fs::rename(&draft, path).map_err(Error::file("write", path))
}

fn link(layout: &Layout, program: &Path) -> Result<(), Error> {
    let place = layout.script();
    if fs::read_link(&place).is_ok_and(|target| target == program) {
        return Ok(());
    }
    remove(&place)?;
    std::os::unix::fs::symlink(program, &place).map_err(Error::file("link", place))
}

/// Gone already is fine.
pub fn remove(path: &Path) -> Result<(), Error> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(hosts: &[(&str, &str)]) -> Files {
        Files {
            configuration: "x\n".to_owned(),
            hosts: hosts
                .iter()
                .map(|(n, t)| ((*n).to_owned(), (*t).to_owned()))
                .collect(),
            names: BTreeMap::new(),
        }
    }

    #[test]
    fn only_growth_is_told_to_a_running_server() {
        let one = files(&[("a", "m1,10.0.0.5\n")]);
        let two = files(&[("a", "m1,10.0.0.5\n"), ("b", "m2,10.0.0.6\n")]);
        let other = files(&[("a", "m1,10.0.0.7\n")]);
        assert_eq!(one.step_to(&one), Step::Nothing);
        assert_eq!(one.step_to(&two), Step::Additions);
        assert_eq!(two.step_to(&one), Step::Restart);
        assert_eq!(one.step_to(&other), Step::Restart);
        let configured = Files {
            configuration: "y\n".to_owned(),
            ..one.clone()
        };
        assert_eq!(one.step_to(&configured), Step::Restart);
    }

    #[test]
    fn an_address_that_goes_to_another_machine_is_seen() {
        let before = files(&[("a", "52:54:00:00:00:01,10.0.0.5,[fd00::5],vm1\n")]);
        let moved = files(&[("b", "52:54:00:00:00:02,[fd00::5],vm2\n")]);
        let apart = files(&[("b", "52:54:00:00:00:02,10.0.0.6,vm1\n")]);
        assert!(before.reuses_freed(&moved));
        assert!(!before.reuses_freed(&apart));
    }

    #[test]
    fn a_port_of_any_name_gets_a_file_that_dnsmasq_reads() {
        assert_eq!(file_name("tap0-*"), "port-tap0-%2a");
        assert_eq!(file_name(".hidden~"), "port-.hidden%7e");
        assert_eq!(file_name("../x"), "port-..%2fx");
    }

    #[test]
    fn writing_leaves_exactly_what_is_wanted_and_knows_when_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::of(folder.path(), &NetworkId::new("blue").unwrap());
        let program = Path::new("/bin/true");
        let first = files(&[("a", "1\n"), ("b", "2\n")]);
        first.write_all(&layout, program).unwrap();
        assert_eq!(Files::read_hosts(&layout), first.hosts);
        let second = files(&[("b", "3\n")]);
        second.write_all(&layout, program).unwrap();
        assert_eq!(Files::read_hosts(&layout), second.hosts);
        assert_eq!(networks(folder.path()).unwrap()[0].0.as_str(), "blue");
        let file = layout.hosts().join("b");
        assert!(second.is_right(&layout, &file) && second.is_right(&layout, &layout.configuration()));
        fs::remove_file(&file).unwrap();
        assert!(!second.is_right(&layout, &file));
        fs::write(layout.hosts().join("c"), "foreign").unwrap();
        assert!(!second.is_right(&layout, &layout.hosts().join("c")));
        assert!(second.is_right(&layout, &layout.root().join("anything")));
    }
}
