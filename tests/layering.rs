//! The shape of `src/`, held (ARCHITECTURE.md says why): who may import whom, which crates belong where, how long a file
//! may be.
//!
//! Reads the sources as text, with comments and strings blanked and test modules cut out: a test may touch what its
//! subject may not.

// Clippy's own exemption knows only functions marked #[test], not what they call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

/// The pipeline: a folder imports only what stands to its left.
const PURE: [&str; 5] = ["model", "observed", "desired", "plan", "engine"];
/// They meet in `daemon`, never each other.
const IO: [&str; 5] = ["kernel", "source", "policy", "control", "service"];

/// What no pure folder may name: runtimes, sockets, files, clocks, processes, chance.
const IMPURE: [&str; 22] = [
    "tokio",
    "mlua",
    "libc",
    "rtnetlink",
    "netlink_sys",
    "netlink_packet_core",
    "netlink_packet_route",
    "std::fs",
    "std::io",
    "std::os",
    "std::env",
    "std::process",
    "std::thread",
    "rand",
    "Instant",
    "SystemTime",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
];

/// A crate and the folders that may name it; files directly in `src/` count by their own name.
const HOMES: [(&str, &[&str]); 6] = [
    ("rtnetlink", &["kernel"]),
    ("netlink_sys", &["kernel"]),
    ("netlink_packet_core", &["kernel"]),
    ("netlink_packet_route", &["kernel"]),
    ("mlua", &["policy"]),
    ("clap", &["cli", "main.rs"]),
];

const NO_NAMES: [&str; 9] = [
    "util", "utils", "common", "helper", "helpers", "types", "manager", "managers", "misc",
];

const LONG: usize = 400;
const TOO_LONG: usize = 600;

/// The folders of the crate that `folder` may import; absent: any.
fn may_import(folder: &str) -> Option<Vec<&'static str>> {
    if let Some(place) = PURE.iter().position(|name| *name == folder) {
        return Some(PURE[..=place].to_vec());
    }
    let with = |extra: &[&'static str]| Some([&PURE[..], extra].concat());
    match folder {
        "config" => with(&["config"]),
        // Shows what the kernel folder read; nothing decides by it, so nobody but the wiring imports it.
        "telemetry" => with(&["telemetry", "config", "kernel"]),
        "kernel" => with(&["kernel", "config"]),
        "source" => with(&["source", "config"]),
        "policy" => with(&["policy", "config"]),
        "control" => with(&["control", "config"]),
        "service" => with(&["service", "config"]),
        "daemon" => with(&[
            "daemon",
            "config",
            "telemetry",
            "kernel",
            "source",
            "policy",
            "control",
            "service",
        ]),
        _ => None,
    }
}

#[test]
fn every_folder_imports_only_what_its_place_allows() {
    let mut broken = Vec::new();
    for source in sources() {
        let Some(allowed) = may_import(&source.folder) else {
            continue;
        };
        for (line, target) in source.imports() {
            let known = PURE.contains(&target.as_str())
                || IO.contains(&target.as_str())
                || ["config", "telemetry", "daemon", "cli"].contains(&target.as_str());
            if known && !allowed.contains(&target.as_str()) {
                broken.push(format!(
                    "{}:{line}: {} must not import {target}",
                    source.path.display(),
                    source.folder
                ));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_daemons_engine_is_told_and_asked_by_its_account_alone() {
    // Past it, a recording would miss something that was decided by.
    const DOORS: [&str; 3] = ["engine.handle(", "engine.poll_action(", "engine.set_prune_after("];
    let broken: Vec<String> = sources()
        .iter()
        .filter(|source| source.folder == "daemon")
        .filter(|source| {
            let path = source.path.to_string_lossy();
            !path.contains("daemon/replay/") && !path.ends_with("daemon/account.rs")
        })
        .filter(|source| {
            // A call may be spread over lines.
            let code: String = source.code.split_whitespace().collect();
            DOORS.iter().any(|door| code.contains(door))
        })
        .map(|source| source.path.display().to_string())
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_pure_folders_name_no_runtime_socket_file_clock_or_chance() {
    let broken: Vec<String> = sources()
        .iter()
        .filter(|source| PURE.contains(&source.folder.as_str()))
        .flat_map(|source| {
            IMPURE.iter().flat_map(move |word| {
                source
                    .mentions(word)
                    .into_iter()
                    .map(move |line| format!("{}:{line}: {word} in pure code", source.path.display()))
            })
        })
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn a_crate_with_a_home_is_named_nowhere_else() {
    let mut broken = Vec::new();
    for source in sources() {
        for (name, homes) in HOMES {
            if homes.contains(&source.folder.as_str()) {
                continue;
            }
            for line in source.mentions(name) {
                broken.push(format!(
                    "{}:{line}: {name} belongs to {}",
                    source.path.display(),
                    homes.join(", ")
                ));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn no_module_has_a_name_that_says_nothing() {
    let broken: Vec<String> = sources()
        .iter()
        .flat_map(|source| source.path.iter().map(|part| part.to_string_lossy().into_owned()))
        .filter(|part| NO_NAMES.contains(&part.trim_end_matches(".rs")))
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn a_long_file_says_why_and_a_longer_one_is_split() {
    let broken: Vec<String> = sources()
        .iter()
        .filter_map(|source| {
            let lines = source.text.lines().count();
            let reason = source
                .text
                .lines()
                .take_while(|line| line.starts_with("//!"))
                .any(|line| line.contains("Length:"));
            let path = source.path.display();
            match lines {
                n if n > TOO_LONG => Some(format!("{path}: {n} lines; split it")),
                n if n > LONG && !reason => Some(format!(
                    "{path}: {n} lines; split it, or give a reason (`//! Length: ...`)"
                )),
                _ => None,
            }
        })
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_module_says_what_it_is() {
    let broken: Vec<String> = sources()
        .iter()
        .filter(|source| !source.path.ends_with("tests.rs") && !source.text.starts_with("//!"))
        .map(|source| source.path.display().to_string())
        .collect();
    assert!(broken.is_empty(), "no module comment:\n{}", broken.join("\n"));
}

/// One file of `src/`.
struct Source {
    /// Relative to `src/`.
    path: PathBuf,
    /// The first folder, or the file's own name when it is directly in `src/`.
    folder: String,
    text: String,
    /// Without comments, strings and test modules; same lines.
    code: String,
}

impl Source {
    /// Folders of the crate that the code reaches for, as (line, folder).
    fn imports(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for (at, _) in self.code.match_indices("crate::") {
            let after = &self.code[at + "crate::".len()..];
            let line = self.line(at);
            match after.strip_prefix('{') {
                Some(group) => found.extend(first_words(group).into_iter().map(|word| (line, word))),
                None => found.push((line, word(after))),
            }
        }
        // `super::super::...` up to the root of the crate.
        let depth = self.path.iter().count() - usize::from(self.path.ends_with("mod.rs"));
        let to_root = "super::".repeat(depth);
        for (at, _) in self.code.match_indices(&to_root) {
            found.push((self.line(at), word(&self.code[at + to_root.len()..])));
        }
        found
    }

    /// Lines that name a word or a path (`std::fs`, also as `std::{fs, ...}`).
    fn mentions(&self, path: &str) -> Vec<usize> {
        let whole = |code: &str, at: usize, length: usize| {
            let edge = |c: Option<char>| !c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            edge(code[..at].chars().next_back()) && edge(code[at + length..].chars().next())
        };
        let mut lines: Vec<usize> = self
            .code
            .match_indices(path)
            .filter(|(at, _)| whole(&self.code, *at, path.len()))
            .map(|(at, _)| self.line(at))
            .collect();
        if let Some(module) = path.strip_prefix("std::") {
            for (at, _) in self.code.match_indices("std::{") {
                if first_words(&self.code[at + "std::{".len()..])
                    .iter()
                    .any(|w| w == module)
                {
                    lines.push(self.line(at));
                }
            }
        }
        lines
    }

    fn line(&self, at: usize) -> usize {
        self.code[..at].matches('\n').count() + 1
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    assert!(!files.is_empty());
    files
        .into_iter()
        .map(|file| {
            let text = fs::read_to_string(&file).expect("a readable source");
            let path = file.strip_prefix(&root).expect("under src").to_owned();
            let folder = path.iter().next().expect("a name").to_string_lossy().into_owned();
            let code = if path.ends_with("tests.rs") {
                String::new()
            } else {
                without_tests(&blanked(&text))
            };
            Source {
                path,
                folder,
                text,
                code,
            }
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn word(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

/// The first word of each branch of a `{a::b, c::{d, e}}` group, given the text after its opening brace.
fn first_words(group: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut depth, mut at_start) = (0_usize, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            c if at_start && !c.is_whitespace() => {
                words.push(word(&group[at..]));
                at_start = false;
            }
            _ => {}
        }
    }
    words
}

/// Comments, strings and characters replaced by spaces, line breaks kept.
fn blanked(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = token_length(rest);
        if length == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            code.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
    }
    code
}

/// Bytes of the comment, string or character that `text` starts with; 0 for anything else.
fn token_length(text: &str) -> usize {
    let until = |end: Option<usize>, plus: usize| end.map_or(text.len(), |at| at + plus);
    if text.starts_with("//") {
        return until(text.find('\n'), 0);
    }
    if text.starts_with("/*") {
        return until(text.find("*/"), 2);
    }
    if let Some(raw) = text.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let body = 1 + hashes + 1;
            return until(text[body..].find(&end).map(|at| at + body), end.len());
        }
    }
    if text.starts_with('"') {
        let mut escaped = false;
        let end = text.char_indices().skip(1).find(|(_, c)| {
            let ends = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        return until(end.map(|(at, _)| at), 1);
    }
    // A character, not a lifetime: 'x' or '\...'.
    if let Some(quoted) = text.strip_prefix('\'') {
        let mut chars = quoted.chars();
        match (chars.next(), chars.next()) {
            (Some('\\'), _) => {
                return until(
                    quoted
                        .char_indices()
                        .skip(2)
                        .find(|(_, c)| *c == '\'')
                        .map(|(at, _)| at),
                    2,
                );
            }
            (Some(c), Some('\'')) => return 2 + c.len_utf8(),
            _ => {}
        }
    }
    0
}

/// `#[cfg(test)] mod ... { ... }` replaced by its line breaks.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        let (before, from) = rest.split_at(at);
        kept.push_str(before);
        let item = from[MARK.len()..].trim_start();
        let is_module = item.starts_with("mod ") || item.starts_with("pub mod ");
        let open = from.find(['{', ';']).unwrap_or(from.len());
        let end = if is_module && from[open..].starts_with('{') {
            open + block_length(&from[open..])
        } else {
            MARK.len()
        };
        kept.extend(from[..end].chars().filter(|c| *c == '\n'));
        rest = &from[end..];
    }
    kept + rest
}

/// Bytes of the block that `text` starts with, braces included.
fn block_length(text: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    text.len()
}

#[test]
fn the_reader_of_sources_is_not_fooled() {
    let text = "use crate::{model::A, plan::{B, C}}; // crate::kernel\nlet x: &'static str = \"tokio::\"; '\\'' r#\"mlua\"#\n\
                #[cfg(test)]\nmod tests {\n    use std::fs;\n}\nuse std::{io, net::IpAddr};\n";
    let source = Source {
        path: "desired/x.rs".into(),
        folder: "desired".to_owned(),
        text: text.to_owned(),
        code: without_tests(&blanked(text)),
    };
    assert_eq!(
        source.imports(),
        [(1, "model".to_owned()), (1, "plan".to_owned())]
    );
    assert_eq!(source.mentions("tokio"), []);
    assert_eq!(source.mentions("mlua"), []);
    assert_eq!(source.mentions("std::fs"), []);
    assert_eq!(source.mentions("std::io"), [7]);
}
