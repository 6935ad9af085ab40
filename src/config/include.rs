//! Which files there are: reading them, and the `include` patterns of the main one.
//!
//! Included files are not looked into for further includes (an `include` there is refused): the whole list can be
//! read off the main file. `*` and `?` work in the last part of a pattern; hidden files (editors' own) only match a
//! pattern that begins with a dot. A pattern with a wildcard may match nothing; a plain name must exist.

use super::place::{At, FileId, Place, Sources};
use super::report::{Finding, Findings};
use crate::model::name::matches_bytes;
use std::collections::HashMap;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where a file was asked for: by a caller (the main file) or by an `include`.
#[derive(Clone, Copy)]
enum Asked<'a> {
    Directly { default: bool },
    By(&'a At<String>),
}

/// The main file. `default` is set when nobody named it.
pub(super) fn read_main(
    path: &Path,
    default: bool,
    sources: &mut Sources,
    findings: &mut Findings,
) -> Option<FileId> {
    read(path, Asked::Directly { default }, sources, findings)
}

/// Every included file, read, in the order of the patterns and sorted by name within one; and the directories in
/// which a new file would match.
pub(super) fn read_included(
    main: FileId,
    patterns: &[At<String>],
    sources: &mut Sources,
    findings: &mut Findings,
) -> (Vec<FileId>, Vec<PathBuf>) {
    let main_path = sources.path(main).to_owned();
    let base = main_path.parent().unwrap_or(Path::new("")).to_owned();
    let mut seen: HashMap<PathBuf, Option<Place>> = HashMap::new();
    seen.insert(canonical(&main_path), None);
    let (mut files, mut directories) = (Vec::new(), Vec::new());
    for pattern in patterns {
        let full = base.join(&pattern.value);
        let (paths, directory) = expand(&full, pattern, findings);
        directories.extend(directory);
        for path in paths {
            match seen.get(&canonical(&path)) {
                None => {
                    seen.insert(canonical(&path), Some(pattern.place));
                    files.extend(read(&path, Asked::By(pattern), sources, findings));
                }
                Some(first) => {
                    let error =
                        findings.error(pattern.place, format!("{} is included twice", path.display()));
                    match first {
                        Some(first) => error
                            .hint("let one pattern match it")
                            .related(*first, "it is first included here"),
                        None => {
                            error.hint("that is this file itself: choose a pattern that does not match it")
                        }
                    };
                }
            }
        }
    }
    (files, directories)
}

/// The files a pattern names, sorted, and the directory it looks into if it has a wildcard.
fn expand(full: &Path, pattern: &At<String>, findings: &mut Findings) -> (Vec<PathBuf>, Option<PathBuf>) {
    let nothing = (Vec::new(), None);
    let text = &pattern.value;
    if text.is_empty() || text.contains('\0') {
        findings
            .error(pattern.place, format!("{text:?} is not a path"))
            .hint("for example include = [\"networks.d/*.toml\"]");
        return nothing;
    }
    if text.contains(['[', ']', '{', '}']) {
        findings
            .error(
                pattern.place,
                format!("{text:?} has brackets or braces, which mean nothing here"),
            )
            .hint("only * and ? are special; write one pattern for each alternative");
        return nothing;
    }
    let wild = |part: &[u8]| part.iter().any(|b| matches!(b, b'*' | b'?'));
    let (Some(directory), Some(last)) = (full.parent(), full.file_name()) else {
        findings
            .error(pattern.place, format!("{text:?} names no file"))
            .hint("for example include = [\"networks.d/*.toml\"]");
        return nothing;
    };
    if wild(directory.as_os_str().as_bytes()) {
        findings
            .error(
                pattern.place,
                format!("{text:?} has a wildcard in a directory's name"),
            )
            .hint("* and ? work in the last part only, as in \"networks.d/*.toml\"");
        return nothing;
    }
    let last = last.as_bytes();
    if !wild(last) {
        return (vec![full.to_owned()], None);
    }
    let directory = if directory.as_os_str().is_empty() {
        Path::new(".")
    } else {
        directory
    };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        // A pattern may match nothing, also because nobody has made the directory yet.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return (Vec::new(), Some(directory.to_owned()));
        }
        Err(error) => {
            findings
                .error(
                    pattern.place,
                    format!("cannot list {}: {error}", directory.display()),
                )
                .hint("the daemon's user must be able to list the directory");
            return nothing;
        }
    };
    let mut paths = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => {
                let name = entry.file_name();
                let name = name.as_bytes();
                let hidden = name.first() == Some(&b'.') && last.first() != Some(&b'.');
                if !hidden && matches_bytes(last, name) {
                    paths.push(full.with_file_name(entry.file_name()));
                }
            }
            Err(error) => {
                findings
                    .error(
                        pattern.place,
                        format!("cannot list {}: {error}", directory.display()),
                    )
                    .hint("look at the file system: reading the directory failed half-way");
                break;
            }
        }
    }
    paths.sort();
    (paths, Some(directory.to_owned()))
}

/// For finding the same file under two names; a file that is not there is its own name.
fn canonical(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn read(path: &Path, asked: Asked<'_>, sources: &mut Sources, findings: &mut Findings) -> Option<FileId> {
    match contents(path) {
        Ok(text) => Some(sources.add(path, text)),
        Err(problem) => {
            let shown = path.display();
            let (message, hint) = match (problem, asked) {
                (Problem::Missing, Asked::Directly { default: true }) => (
                    format!("there is no configuration at {shown}"),
                    "make one: an empty file is a valid beginning, config/tapwire.toml of the source documents every key; or name another place with --config or TAPWIRE_CONFIG; `tapwire demo` needs none".to_owned(),
                ),
                (Problem::Missing, Asked::Directly { default: false }) => {
                    (format!("there is no file {shown}"), "check the path given with --config or TAPWIRE_CONFIG".to_owned())
                }
                (Problem::Missing, Asked::By(_)) => (
                    format!("there is no file {shown}"),
                    "paths are relative to the file that names them; a pattern with * may match nothing".to_owned(),
                ),
                (Problem::Directory, Asked::By(pattern)) => (
                    format!("{shown} is a directory"),
                    format!("include the files in it: \"{}/*.toml\"", pattern.value.trim_end_matches('/')),
                ),
                (Problem::Directory, Asked::Directly { .. }) => {
                    (format!("{shown} is a directory"), "name the file in it, usually tapwire.toml".to_owned())
                }
                (Problem::Special, _) => (
                    format!("{shown} is not a regular file"),
                    "a configuration is read again at every reload, so it must be a file".to_owned(),
                ),
                (Problem::TooLarge(size), _) => (
                    format!("{shown} has {size} bytes"),
                    format!("the largest configuration file taken has {} bytes", Sources::LARGEST),
                ),
                (Problem::NotText(at), _) => (
                    format!("{shown} is not UTF-8 text (byte {at})"),
                    "save it as UTF-8; TOML knows no other encoding".to_owned(),
                ),
                (Problem::Unreadable(error), _) => {
                    (format!("cannot read {shown}: {error}"), "the daemon's user must be able to read it".to_owned())
                }
            };
            let finding: &mut Finding = match asked {
                Asked::Directly { .. } => findings.file_error(path, message),
                Asked::By(pattern) => findings.error(pattern.place, message),
            };
            finding.hint(hint);
            None
        }
    }
}

enum Problem {
    Missing,
    Directory,
    Special,
    TooLarge(u64),
    /// Byte offset of the first wrong byte.
    NotText(usize),
    Unreadable(std::io::Error),
}

impl From<std::io::Error> for Problem {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::NotFound => Problem::Missing,
            _ => Problem::Unreadable(error),
        }
    }
}

fn contents(path: &Path) -> Result<String, Problem> {
    // Before opening: opening a pipe would wait for a writer.
    let meta = std::fs::metadata(path)?;
    if meta.is_dir() {
        return Err(Problem::Directory);
    }
    if !meta.is_file() {
        return Err(Problem::Special);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len().min(Sources::LARGEST)).unwrap_or(0));
    std::fs::File::open(path)?
        .take(Sources::LARGEST + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > Sources::LARGEST {
        return Err(Problem::TooLarge(meta.len()));
    }
    String::from_utf8(bytes).map_err(|error| Problem::NotText(error.utf8_error().valid_up_to()))
}
