//! Loading a whole generation aside: every plugin, every problem, before anything is replaced.

use super::archive::{Archive, Edition};
use super::guard::{self, load_plugin};
use super::plugin::load::{Plugin, Problem, Surroundings};
use super::plugin::runtime::Runtime;
use super::plugin::sandbox::Coverage;
use super::plugin::source::{Source, expand};
use super::plugin::store::{Kept, Store};
use super::settings::Settings;
use super::tables;
use crate::config::{KeyPlaces, PolicySettings};
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Everything that is wrong with a set of plugins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    pub problems: Vec<Problem>,
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for LoadReport {}

/// Everything that a generation is made of, as read from disk, before any of it runs.
#[derive(Debug, Clone)]
pub struct Inputs {
    settings: Arc<Settings>,
    maps: Arc<BTreeMap<String, Arc<Json>>>,
    sources: Vec<Source>,
    problems: Vec<Problem>,
    /// Of all of the above: equal inputs make equal generations.
    pub digest: u64,
    /// The plugins and their configuration, for the archive.
    config: PolicySettings,
}

/// A loaded generation that does not run yet.
pub struct Loaded {
    pub members: Vec<Member>,
    /// What it was made of.
    pub inputs: Inputs,
    pub around: Surroundings,
    /// Problems of plugins with `required = false`, which were left out.
    pub left_out: Vec<Problem>,
    /// Plugins by name that run their last good version, and why.
    pub last_good: BTreeMap<String, Problem>,
    /// Of all sources, options and the order.
    pub hash: u64,
}

/// One plugin of a loaded generation.
pub struct Member {
    pub plugin: Plugin,
    pub runtime: Runtime,
    pub store: Store,
    /// The kept state was of another `state_version`.
    pub migrated: bool,
}

fn general(place: &str, message: impl Into<String>) -> Problem {
    Problem {
        plugin: String::new(),
        place: place.to_owned(),
        message: message.into(),
    }
}

/// At the line of the configuration that says so, if that is known.
fn placed(places: &KeyPlaces, key: &str, table: &str, message: String) -> Problem {
    match places.of(key) {
        Some(place) => general(place, format!("{table} {message}")),
        None => general(table, message),
    }
}

fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

impl Inputs {
    /// Reads every file. What is wrong with them is part of it, and an error only when they are loaded.
    pub fn read(config: &PolicySettings) -> Result<Self, LoadReport> {
        let mut problems = Vec::new();
        let (settings, mistakes) = Settings::read(config);
        let settings = Arc::new(settings);
        problems.extend(mistakes.iter().map(|mistake| {
            let key = match mistake.path.is_empty() {
                true => mistake.field().to_owned(),
                false => format!("{}.{}", mistake.path, mistake.field()),
            };
            placed(&config.places, &key, "[policy]", mistake.to_string())
        }));
        let maps = match tables::read_all(&settings.maps) {
            Ok(maps) => Arc::new(maps),
            Err(errors) => {
                problems.extend(errors.iter().map(|e| general("[policy.maps]", with_cause(e))));
                Arc::default()
            }
        };
        let files = match expand(&config.plugins) {
            Ok(files) => files,
            Err(error) => {
                problems.push(general("[policy] plugins", with_cause(&error)));
                Vec::new()
            }
        };
        let mut sources = Vec::new();
        for file in files {
            match Source::read(&file) {
                Ok(source) => sources.push(source),
                Err(error) => problems.push(general(
                    &file.to_string_lossy(),
                    error
                        .source()
                        .map_or_else(|| error.to_string(), ToString::to_string),
                )),
            }
        }
        let digest = digest(config, &maps, &sources, &problems);
        Ok(Self {
            settings,
            maps,
            sources,
            problems,
            digest,
            config: config.clone(),
        })
    }

    /// What an archive kept. Tables are read as they are now.
    pub fn archived(edition: &Edition) -> Result<Self, LoadReport> {
        let config = edition.config();
        let mut inputs = Self::read(&PolicySettings {
            plugins: Vec::new(),
            ..config.clone()
        })?;
        inputs.sources.clone_from(&edition.sources);
        inputs.digest = digest(&config, &inputs.maps, &inputs.sources, &inputs.problems);
        inputs.config = config;
        Ok(inputs)
    }

    /// For the archive.
    pub fn edition(&self) -> Edition {
        Edition::new(&self.config, self.sources.clone())
    }

    /// With the last good version in place of each plugin that can't be loaded, and what is wrong with those; none if there
    /// is no such version of any. What else is wrong stays so. The digest is still that of what is on disk.
    fn repaired(&self, archive: &Archive) -> Option<(Self, Vec<(Source, Problem)>)> {
        let around = self.surroundings();
        let mut repaired = self.clone();
        let mut replaced = Vec::new();
        repaired.sources.clear();
        for file in expand(&self.config.plugins).ok()? {
            let shown = file.to_string_lossy();
            let unreadable = self.problems.iter().find(|problem| problem.place == shown);
            let source = self.sources.iter().find(|source| source.path == file);
            let problem = match (source, unreadable) {
                (Some(source), _) => load_plugin(source, &around).err(),
                (None, problem) => problem.cloned(),
            };
            match (problem, archive.source(&file)) {
                (Some(problem), Some(good)) => {
                    repaired.problems.retain(|other| *other != problem);
                    repaired.sources.push(good.clone());
                    replaced.push((good.clone(), problem));
                }
                _ => repaired.sources.extend(source.cloned()),
            }
        }
        (!replaced.is_empty()).then_some((repaired, replaced))
    }

    fn surroundings(&self) -> Surroundings {
        Surroundings {
            settings: Arc::clone(&self.settings),
            maps: Arc::clone(&self.maps),
            coverage: Coverage::Off,
            options: None,
        }
    }

    /// The same with `host.state` in memory only, for a rehearsal.
    #[must_use]
    pub fn without_state_directory(&self) -> Self {
        let mut settings = Settings::clone(&self.settings);
        settings.state_directory = None;
        Self {
            settings: Arc::new(settings),
            ..self.clone()
        }
    }
}

fn digest(
    config: &PolicySettings,
    maps: &BTreeMap<String, Arc<Json>>,
    sources: &[Source],
    problems: &[Problem],
) -> u64 {
    let mut hasher = DefaultHasher::new();
    config.base.hash(&mut hasher);
    for (name, options) in config.settings.iter().chain(&config.plugin) {
        (name, options.to_string()).hash(&mut hasher);
    }
    for (name, table) in maps {
        (name, table.to_string()).hash(&mut hasher);
    }
    for source in sources {
        (&source.path, &source.text).hash(&mut hasher);
        for (name, module) in source.library.iter() {
            (name, &module.text).hash(&mut hasher);
        }
    }
    for problem in problems {
        problem.to_string().hash(&mut hasher);
    }
    hasher.finish()
}

/// Reads and loads everything; blocks for as long as files and plugins take (bounded by their deadlines). `kept` is the
/// state that plugins of the running generation hold in memory.
pub fn load(config: &PolicySettings, kept: &BTreeMap<String, Kept>) -> Result<Loaded, LoadReport> {
    load_inputs(Inputs::read(config)?, kept)
}

/// Reads and loads everything, for a start: a plugin that can't be loaded runs as it was when it last was in force.
/// Without such a version the problem stands.
pub fn load_or_last_good(config: &PolicySettings, archive: &Archive) -> Result<Loaded, LoadReport> {
    let inputs = Inputs::read(config)?;
    let report = match load_inputs(inputs.clone(), &BTreeMap::new()) {
        Ok(loaded) => return Ok(loaded),
        Err(report) => report,
    };
    let Some((repaired, replaced)) = inputs.repaired(archive) else {
        return Err(report);
    };
    let mut loaded = load_inputs(repaired, &BTreeMap::new()).map_err(|_| report)?;
    let name_of = |source: &Source| {
        let member = loaded.members.iter().find(|m| m.plugin.source == *source)?;
        Some(member.plugin.name.clone())
    };
    loaded.last_good = replaced
        .iter()
        .filter_map(|(source, problem)| Some((name_of(source)?, problem.clone())))
        .collect();
    Ok(loaded)
}

/// Loads what was read.
pub fn load_inputs(inputs: Inputs, kept: &BTreeMap<String, Kept>) -> Result<Loaded, LoadReport> {
    let mut report = LoadReport {
        problems: inputs.problems.clone(),
    };
    let settings = Arc::clone(&inputs.settings);
    let around = inputs.surroundings();
    let mut left_out = Vec::new();
    let mut members: Vec<Member> = Vec::new();
    for source in &inputs.sources {
        match member(source, &around, kept) {
            Ok(member) => {
                let name = &member.plugin.name;
                match members.iter().find(|other| other.plugin.name == *name) {
                    Some(other) => {
                        let first = &other.plugin.source.shown;
                        report.problems.push(Problem::of(
                            source,
                            format!("the name `{name}` is taken by {first}"),
                        ));
                    }
                    None => members.push(member),
                }
            }
            Err(problem) if settings.limits(&problem.plugin).required => report.problems.push(problem),
            Err(problem) => left_out.push(problem),
        }
    }
    report
        .problems
        .extend(strays(&settings, &members, &left_out, &report.problems));
    if !report.problems.is_empty() {
        return Err(report);
    }
    let hash = members.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, m| {
        (hash ^ m.plugin.hash).wrapping_mul(0x0000_0100_0000_01b3)
    });
    Ok(Loaded {
        members,
        inputs,
        around,
        left_out,
        last_good: BTreeMap::new(),
        hash,
    })
}

/// Configuration for plugins that do not exist: a misspelt table would silently configure nothing.
fn strays(settings: &Settings, members: &[Member], left_out: &[Problem], failed: &[Problem]) -> Vec<Problem> {
    let names: BTreeSet<&str> = members
        .iter()
        .map(|m| m.plugin.name.as_str())
        .chain(left_out.iter().chain(failed).map(|p| p.plugin.as_str()))
        .collect();
    let configured = settings.options.keys().map(|name| ("plugin", name));
    let limited = settings.limited().map(|name| ("limits", name));
    configured
        .chain(limited)
        .filter(|(_, name)| !names.contains(name.as_str()))
        .map(|(table, name)| {
            let hint = super::shape::did_you_mean(name, names.iter().copied().filter(|n| !n.is_empty()));
            let message = format!("no plugin of this name is loaded{hint}");
            let key = format!("{table}.{name}");
            match settings.places.of(&key) {
                Some(place) => general(place, format!("[policy.{key}]: {message}")),
                None => general(&format!("[policy.{key}]"), message),
            }
        })
        .collect()
}

fn member(source: &Source, around: &Surroundings, kept: &BTreeMap<String, Kept>) -> Result<Member, Problem> {
    super::memory::keep_thresholds();
    let (plugin, mut runtime) = load_plugin(source, around)?;
    let problem = |message: String| Problem {
        plugin: plugin.name.clone(),
        ..Problem::of(source, message)
    };
    let mut store = Store::open(around.settings.state_directory.as_deref(), &plugin.name)
        .map_err(|e| problem(with_cause(&e)))?;
    if let Some(kept) = kept.get(&plugin.name) {
        store.kept.clone_from(kept);
    }
    let version = plugin
        .manifest
        .state_version
        .map_or(0, super::shape::Whole::get_u32);
    let migrated = store.kept.version != version;
    if migrated && !store.kept.values.is_empty() {
        let (old, kill) = (store.kept.clone(), runtime.kill_switch());
        let deadline = runtime.limits().deadline;
        let (returned, next) = guard::run(&kill, deadline, move || {
            let next = runtime.migrate(&old, version, guard::LOAD_CALL);
            (runtime, next)
        })
        .map_err(|e| problem(format!("migrate: {e}")))?;
        runtime = returned;
        store.replace(next.map_err(|fault| problem(format!("migrate: {fault}")))?);
    } else {
        store.kept.version = version;
    }
    Ok(Member {
        plugin,
        runtime,
        store,
        migrated,
    })
}
