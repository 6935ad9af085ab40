//! `host.state`: a small table per plugin that survives reload and, with a state directory, restart.
//!
//! Writes of a call are committed only when the call succeeded, and reach the disk (one JSON file per plugin, replaced
//! atomically) when the plugin has nothing else to do. State of another `state_version` is given to the plugin's
//! `migrate(old, from)`, or dropped.

use crate::policy::error::Error;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use std::path::{Path, PathBuf};

/// All of a plugin's state, as JSON text.
pub const MAX_BYTES: usize = 64 * 1024;

/// The file's contents.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    pub version: u32,
    pub values: Map<String, Json>,
}

#[derive(Debug, Default)]
pub struct Store {
    pub kept: Kept,
    path: Option<PathBuf>,
    unsaved: bool,
}

impl Store {
    /// Opens the state of a plugin; without a directory it lives in memory.
    pub fn open(directory: Option<&Path>, plugin: &str) -> Result<Self, Error> {
        let Some(directory) = directory else {
            return Ok(Self::default());
        };
        let path = directory.join(format!("{plugin}.json"));
        let kept = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|cause| Error::StateFormat {
                path: path.clone(),
                cause,
            })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Kept::default(),
            Err(cause) => {
                return Err(Error::State {
                    path,
                    verb: "read",
                    cause,
                });
            }
        };
        Ok(Self {
            kept,
            path: Some(path),
            unsaved: false,
        })
    }

    /// Applies a call's writes (`None` removes a key), all or none.
    pub fn commit(&mut self, writes: Vec<(String, Option<Json>)>) -> Result<(), Error> {
        let mut next = self.kept.values.clone();
        for (key, value) in writes {
            match value {
                Some(value) => next.insert(key, value),
                None => next.remove(&key),
            };
        }
        let size = serde_json::to_string(&next).map_or(0, |text| text.len());
        if size > MAX_BYTES {
            return Err(Error::StateTooLarge {
                size,
                limit: MAX_BYTES,
            });
        }
        self.unsaved |= next != self.kept.values;
        self.kept.values = next;
        Ok(())
    }

    /// Replaces everything (after `migrate`).
    pub fn replace(&mut self, kept: Kept) {
        self.unsaved |= kept != self.kept;
        self.kept = kept;
    }

    /// Writes what is not yet on disk. On failure it stays unsaved and the next call tries again.
    pub fn save(&mut self) -> Result<(), Error> {
        let (true, Some(path)) = (self.unsaved, &self.path) else {
            return Ok(());
        };
        let failed = |verb| {
            let path = path.clone();
            move |cause| Error::State { path, verb, cause }
        };
        let text = serde_json::to_vec(&self.kept).map_err(|cause| Error::StateFormat {
            path: path.clone(),
            cause,
        })?;
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed("created"))?;
        }
        let fresh = path.with_extension("json.new");
        std::fs::write(&fresh, text).map_err(failed("written"))?;
        std::fs::rename(&fresh, path).map_err(failed("replaced"))?;
        self.unsaved = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn committed_state_survives_and_a_commit_that_is_too_large_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(Some(dir.path()), "a").unwrap();
        store.commit(vec![("n".into(), Some(json!(1)))]).unwrap();
        let huge = "x".repeat(MAX_BYTES);
        assert!(
            store
                .commit(vec![("n".into(), None), ("m".into(), Some(json!(huge)))])
                .is_err()
        );
        store.save().unwrap();
        assert_eq!(Store::open(Some(dir.path()), "a").unwrap().kept.values["n"], 1);
        assert!(Store::open(Some(dir.path()), "b").unwrap().kept.values.is_empty());
    }
}
