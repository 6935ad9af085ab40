//! Plugin files as read from disk. Everything a generation needs is read once, before any of it runs: a hook never
//! touches a file, and a half-written file can't be mixed with an older one.

use super::manifest::name_from_stem;
use crate::policy::error::Error;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One plugin file with the modules it may `require`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Source {
    pub path: PathBuf,
    /// As shown in messages and used as chunk name.
    pub shown: Arc<str>,
    pub text: Arc<str>,
    /// The default name.
    pub stem: String,
    /// `lib/NAME.lua` beside the plugin, by NAME.
    pub library: Arc<BTreeMap<String, Module>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Module {
    pub shown: String,
    pub text: String,
}

/// A plugin is a page or two; a megabyte is a mistake.
const MAX_SOURCE: u64 = 1 << 20;

/// The plugin files of a list of files and directories, in the order they run. A directory stands for its `*.lua` in
/// name order, without `*_test.lua`.
pub fn expand(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            files.extend(lua_files(path)?.into_iter().filter(|file| !is_test(file)));
        } else if path.extension().is_some_and(|e| e == "lua") || !path.exists() {
            files.push(path.clone());
        } else {
            return Err(Error::NotLua { path: path.clone() });
        }
    }
    Ok(files)
}

/// `NAME_test.lua`.
pub fn is_test(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().ends_with("_test.lua"))
}

/// `*.lua` in a directory, in name order.
pub fn lua_files(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let unreadable = |cause| Error::Unreadable {
        path: directory.to_owned(),
        cause,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|e| e == "lua") && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_text(path: &Path) -> Result<String, Error> {
    use std::io::Read;
    let path_buf = || path.to_owned();
    let unreadable = |cause| Error::Unreadable {
        path: path_buf(),
        cause,
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_SOURCE + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAX_SOURCE {
        return Err(Error::TooLarge {
            path: path_buf(),
            limit_kib: MAX_SOURCE >> 10,
        });
    }
    String::from_utf8(bytes).map_err(|_| Error::NotText { path: path_buf() })
}

/// Paths below the working directory are shown relative to it, as people type them.
fn shown(path: &Path) -> String {
    let short = std::env::current_dir()
        .ok()
        .and_then(|cwd| path.strip_prefix(cwd).ok().map(Path::to_owned));
    short.as_deref().unwrap_or(path).to_string_lossy().into_owned()
}

impl Source {
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = read_text(path)?;
        let mut library = BTreeMap::new();
        let lib = path.parent().unwrap_or(Path::new(".")).join("lib");
        if lib.is_dir() {
            for file in lua_files(&lib)? {
                let name = file
                    .file_stem()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                let text = read_text(&file)?;
                library.insert(
                    name,
                    Module {
                        shown: shown(&file),
                        text,
                    },
                );
            }
        }
        Ok(Self {
            library: Arc::new(library),
            ..Self::inline(&shown(path), &text).at(path)
        })
    }

    /// A plugin that is not in a file (tests).
    pub fn inline(shown: &str, text: &str) -> Self {
        let stem = Path::new(shown)
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Self {
            path: PathBuf::from(shown),
            shown: shown.into(),
            text: text.into(),
            stem: name_from_stem(&stem).to_owned(),
            library: Arc::default(),
        }
    }

    /// The text at "plugins/mtu.lua:14", here or in a module.
    pub fn line(&self, place: &str) -> Option<&str> {
        let (file, number) = place.rsplit_once(':')?;
        let text: &str = if *file == *self.shown {
            &self.text
        } else {
            &self.library.values().find(|module| module.shown == file)?.text
        };
        text.lines().nth(number.parse::<usize>().ok()?.checked_sub(1)?)
    }

    fn at(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.path);
        self
    }
}
