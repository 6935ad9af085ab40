//! The plugin tools that need no daemon: each is one call into `policy`.

use super::Failure;
use serde::Serialize;
use serde_json::Value;
use std::path::{Path, PathBuf};

#[derive(Debug, Serialize)]
pub struct CheckReport {
    /// In the order they run.
    pub order: Vec<PluginLine>,
    /// "file:line: what", all of them.
    pub errors: Vec<String>,
    pub warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct PluginLine {
    pub name: String,
    pub path: PathBuf,
    pub hooks: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct TestReport {
    pub passed: u64,
    pub failed: u64,
    pub cases: Vec<TestCase>,
    /// "file:line" of lines that no test reached; empty unless asked for.
    pub uncovered: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct TestCase {
    pub plugin: String,
    pub name: String,
    /// Why it failed.
    pub problem: Option<String>,
}

/// A recorded decision that the other plugins would not take.
#[derive(Debug, Serialize)]
pub struct Difference {
    /// In the recording.
    pub line: u64,
    pub tap: String,
    pub hook: String,
    pub before: Value,
    pub after: Value,
}

fn missing(what: &str) -> Failure {
    Failure::failed(format!("policy {what} is not built yet"))
}

/// `plugins` empty: those of the configuration.
pub fn check(config: &Path, plugins: &[PathBuf]) -> Result<CheckReport, Failure> {
    let _ = (config, plugins);
    Err(missing("check"))
}

pub fn test(config: &Path, plugins: &[PathBuf], coverage: bool) -> Result<TestReport, Failure> {
    let _ = (config, plugins, coverage);
    Err(missing("test"))
}

/// The merged decision for one context, with provenance per field.
pub fn eval(config: &Path, tap: Option<&str>, context: &Path) -> Result<Value, Failure> {
    let _ = (config, tap, context);
    Err(missing("eval"))
}

pub fn replay(config: &Path, recording: &Path, plugins: &[PathBuf]) -> Result<Vec<Difference>, Failure> {
    let _ = (config, recording, plugins);
    Err(missing("replay"))
}

/// The files written.
pub fn types(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let _ = directory;
    Err(missing("types"))
}
