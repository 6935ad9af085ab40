//! The plugins that were in force, on disk: those of the running generation and of the one before it.
//!
//! One file, `plugins.json` in the daemon's state directory, replaced whole when a generation comes into force. Two uses:
//! a plugin whose file is broken when the daemon starts runs as it last was (`Inputs::repaired`), and `policy rollback`
//! has where to go back to after a restart. A file that cannot be read or written costs these two and nothing else.

use super::plugin::source::Source;
use crate::config::PolicySettings;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const FILE: &str = "plugins.json";
const VERSION: u32 = 1;

/// The plugins of one generation with their configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Edition {
    pub base: PathBuf,
    pub settings: Map<String, Json>,
    pub plugin: BTreeMap<String, Json>,
    /// In the order they run.
    pub sources: Vec<Source>,
}

impl Edition {
    pub fn new(config: &PolicySettings, sources: Vec<Source>) -> Self {
        Self {
            base: config.base.clone(),
            settings: config.settings.clone(),
            plugin: config.plugin.clone(),
            sources,
        }
    }

    /// As a configuration says it.
    pub fn config(&self) -> PolicySettings {
        PolicySettings {
            plugins: self.sources.iter().map(|source| source.path.clone()).collect(),
            plugin: self.plugin.clone(),
            settings: self.settings.clone(),
            base: self.base.clone(),
            ..PolicySettings::default()
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Archive {
    version: u32,
    pub running: Option<Edition>,
    pub previous: Option<Edition>,
    /// Where it is kept; none: nowhere.
    #[serde(skip)]
    directory: Option<PathBuf>,
}

impl Archive {
    /// What is kept in `directory`; empty if there is nothing, or nothing that can be used.
    pub fn read(directory: Option<&Path>) -> Self {
        let Some(directory) = directory else {
            return Self::default();
        };
        let path = directory.join(FILE);
        let read = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice::<Self>(&bytes).map_err(|error| error.to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error.to_string()),
        };
        let archive = match read {
            Ok(archive) if archive.version <= VERSION => archive,
            Ok(_) => Self::default(),
            Err(error) => {
                tracing::warn!(path = %path.display(), error, "the plugins that ran last are not known");
                Self::default()
            }
        };
        Self {
            directory: Some(directory.to_owned()),
            ..archive
        }
    }

    pub fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// The last good version of the plugin in this file.
    pub fn source(&self, file: &Path) -> Option<&Source> {
        let running = self.running.as_ref()?;
        running.sources.iter().find(|source| source.path == file)
    }

    /// `edition` is in force now. False: it already was.
    pub fn note(&mut self, edition: Edition) -> bool {
        if self.running.as_ref() == Some(&edition) {
            return false;
        }
        self.previous = self.running.replace(edition);
        true
    }

    /// The one before is in force again.
    pub fn swap(&mut self) {
        std::mem::swap(&mut self.running, &mut self.previous);
    }

    /// Writes it. Blocks.
    pub fn save(&self) {
        let Some(directory) = &self.directory else { return };
        let path = directory.join(FILE);
        let archive = Self {
            version: VERSION,
            ..self.clone()
        };
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(directory)?;
            let text = serde_json::to_vec(&archive)?;
            let fresh = path.with_extension("json.new");
            // Options of plugins may be nobody else's business.
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&fresh)?;
            file.write_all(&text)?;
            std::fs::rename(&fresh, &path)
        };
        if let Err(error) = write() {
            tracing::warn!(path = %path.display(), %error, "the plugins in force are not kept for the next start");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edition(text: &str) -> Edition {
        Edition {
            sources: vec![Source::inline("a.lua", text)],
            ..Edition::default()
        }
    }

    #[test]
    fn the_one_before_is_kept_and_a_restart_with_the_same_is_no_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut archive = Archive::read(Some(dir.path()));
        assert!(archive.note(edition("1")) && archive.note(edition("2")));
        archive.save();
        let mut again = Archive::read(Some(dir.path()));
        assert!(!again.note(edition("2")));
        assert_eq!(again.previous, Some(edition("1")));
        assert_eq!(again.source(Path::new("a.lua")).map(|s| &*s.text), Some("2"));
        again.swap();
        assert_eq!(again.running, Some(edition("1")));
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(Archive::read(Some(dir.path())).running, None);
        std::fs::write(
            dir.path().join(FILE),
            r#"{"version": 9, "running": null, "previous": null}"#,
        )
        .unwrap();
        assert_eq!(Archive::read(Some(dir.path())).running, None);
    }
}
