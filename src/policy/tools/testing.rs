//! `tapwire policy test`: the plugins' own tests, `NAME_test.lua` beside `NAME.lua`.
//!
//! Every case runs in the daemon's sandbox with the daemon's limits, twice: on a fresh state, and on one that was asked
//! the same before. A hook that answers the same question differently fails.

use super::coverage::Lines;
use super::diff::{MATCH, diff};
use super::suite::{Case, collect, without_empty};
use super::{Bench, CaseResult, Report};
use crate::policy::api::context::Link;
use crate::policy::api::decision::Verdict;
use crate::policy::api::{Context, Hook, Outcome, Reply, Request, Subject};
use crate::policy::generation::Member;
use crate::policy::guard::{self, load_plugin};
use crate::policy::plugin::load::Surroundings;
use crate::policy::plugin::sandbox::Coverage;
use crate::policy::plugin::source::{Source, is_test, lua_files};
use crate::policy::plugin::store::Store;
use crate::policy::without_nulls;
use serde_json::{Map, Value as Json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Runs the tests of files and directories. Code 1 if a case fails, 2 if a file can't be used or there are no tests.
pub fn run(paths: &[PathBuf], coverage: Coverage) -> Report {
    let mut report = Report::default();
    let files = match test_files(paths) {
        Ok(files) => files,
        Err(problem) => return Report::wrong(problem),
    };
    if files.is_empty() {
        return Report::wrong("no tests: there is no NAME_test.lua");
    }
    let (mut passed, mut failed) = (0, 0);
    let mut lines = Lines::default();
    for file in files {
        let cases = match Source::read(&file)
            .map_err(|e| e.to_string())
            .and_then(|source| collect(&source))
        {
            Ok(cases) => cases,
            Err(problem) => {
                report.line(problem);
                report.raise(2);
                continue;
            }
        };
        if cases.is_empty() {
            report.line(format!("{}: no cases", file.display()));
            report.raise(2);
        }
        let beside = file.parent().unwrap_or(Path::new(".")).to_owned();
        for case in cases {
            let name = case.spec.name.clone().unwrap_or_default();
            let problems = match run_case(&case, &beside, coverage, &mut lines) {
                Ok(()) => Vec::new(),
                Err(problems) => problems,
            };
            if problems.is_empty() {
                passed += 1;
                report.line(format!("ok   {} {name}", case.place));
            } else {
                failed += 1;
                report.raise(1);
                report.line(format!("FAIL {} {name}", case.place));
                report
                    .lines
                    .extend(problems.iter().map(|p| format!("       {p}")));
            }
            report.cases.push(CaseResult {
                place: case.place,
                name,
                problems,
            });
        }
    }
    if coverage == Coverage::Lines {
        report.lines.extend(lines.describe());
    }
    report.line(format!("{passed} passed, {failed} failed"));
    report
}

/// The same, but plugins without tests are fine.
pub fn run_where_present(paths: &[PathBuf]) -> Report {
    match test_files(paths) {
        Ok(files) if files.is_empty() => Report::default(),
        _ => run(paths, Coverage::Off),
    }
}

/// The test files meant: a directory's own, a test file itself, or the one beside a plugin.
fn test_files(paths: &[PathBuf]) -> Result<BTreeSet<PathBuf>, String> {
    let mut files = BTreeSet::new();
    for path in paths {
        if path.is_dir() {
            files.extend(
                lua_files(path)
                    .map_err(|e| e.to_string())?
                    .into_iter()
                    .filter(|f| is_test(f)),
            );
        } else if is_test(path) {
            files.insert(path.clone());
        } else {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            let test = path.with_file_name(format!("{stem}_test.lua"));
            if !path.exists() {
                return Err(format!("{} does not exist", path.display()));
            }
            if test.exists() {
                files.insert(test);
            }
        }
    }
    Ok(files)
}

fn one(problem: impl Into<String>) -> Vec<String> {
    vec![problem.into()]
}

fn run_case(case: &Case, beside: &Path, coverage: Coverage, lines: &mut Lines) -> Result<(), Vec<String>> {
    let spec = &case.spec;
    let (word, only) = match (&spec.plugin, &spec.hook, &spec.chain) {
        (Some(plugin), Some(hook), None) => (hook, Some(plugin.as_str())),
        (None, None, Some(hook)) => (hook, None),
        _ => return Err(one("a case names `plugin` and `hook`, or `chain`")),
    };
    let hook = Hook::from_word(word).ok_or_else(|| one(format!("there is no hook `{word}`")))?;
    let context = context(spec.ctx.clone(), hook)?;
    let around = Surroundings {
        maps: Arc::new(
            spec.maps
                .iter()
                .map(|(name, map)| (name.clone(), Arc::new(map.clone())))
                .collect(),
        ),
        coverage,
        options: spec.config.clone().filter(|_| only.is_some()),
        ..Surroundings::default()
    };
    let mut answers = Vec::new();
    for seq in 1..=2 {
        let mut members = match members(beside, only, &around) {
            Ok(members) => members,
            // A refused configuration can be what the case is about.
            Err(problems) if spec.want_error.is_some() => {
                return compare(case, hook, Err(problems.join("; ")));
            }
            Err(problems) => return Err(problems),
        };
        if !members.iter().any(|member| member.plugin.hooks.contains(&hook)) {
            return Err(one(without_hook(&members, hook)));
        }
        if seq == 2 {
            members = members
                .into_iter()
                .map(|member| asked_before(member, hook, &context))
                .collect::<Result<_, _>>()?;
        }
        let bench = Bench::start(members, around.clone());
        let key = Subject::Tap(context.link.as_ref().map_or(0, |l| l.ifindex));
        let request = Request {
            r#gen: 0,
            seq,
            key,
            hook,
            context: context.clone(),
        };
        answers.push(bench.ask(request).ok_or_else(|| one("no answer"))?);
        lines.absorb(bench.pool.coverage());
    }
    let [first, second] = answers.as_slice() else {
        return Err(one("no answer"));
    };
    let (first, second) = (answer(first), answer(second));
    if first != second {
        let mut problems = one("not deterministic: asked twice, it answered differently");
        if let (Ok(first), Ok(second)) = (&first, &second) {
            problems.extend(diff(first, second));
        }
        return Err(problems);
    }
    compare(case, hook, first)
}

fn without_hook(members: &[Member], hook: Hook) -> String {
    match members {
        [only] => {
            let hooks: Vec<_> = only.plugin.hooks.iter().map(|hook| hook.word()).collect();
            let has = if hooks.is_empty() {
                "none".to_owned()
            } else {
                hooks.join(", ")
            };
            format!("{} has no hook `{hook}`; it has {has}", only.plugin.name)
        }
        _ => format!("no plugin beside the test has a hook `{hook}`"),
    }
}

/// Asks the question once, for what the script keeps in its own variables; the answer and `host.state` are dropped.
fn asked_before(member: Member, hook: Hook, context: &Context) -> Result<Member, Vec<String>> {
    let Member {
        plugin,
        mut runtime,
        store,
        migrated,
    } = member;
    let concerned = plugin
        .manifest
        .when
        .as_ref()
        .is_none_or(|when| when.matches(context));
    if concerned {
        let (kill, deadline) = (runtime.kill_switch(), runtime.limits().deadline);
        let context = Arc::new(context.clone());
        runtime = guard::run(&kill, deadline, move || {
            runtime.ask(hook, &context, &context.tags, Map::new(), guard::LOAD_CALL);
            runtime
        })
        .map_err(|e| one(e.to_string()))?;
    }
    Ok(Member {
        plugin,
        runtime,
        store,
        migrated,
    })
}

fn compare(case: &Case, hook: Hook, got: Result<Json, String>) -> Result<(), Vec<String>> {
    let spec = &case.spec;
    match (got, &spec.want, &spec.want_error) {
        (_, None, None) => Err(one("the case has no `want`")),
        (_, Some(_), Some(_)) => Err(one("the case has both `want` and `want_error`")),
        (Err(error), _, Some(part)) if error.contains(part.as_str()) => Ok(()),
        (Err(error), _, Some(part)) => Err(one(format!("want an error with {part:?}, got: {error}"))),
        (Err(error), _, None) => Err(one(error)),
        (Ok(Json::Null), None, Some(part)) => {
            Err(one(format!("want an error with {part:?}, got no opinion")))
        }
        (Ok(got), None, Some(part)) => Err(one(format!("want an error with {part:?}, got {got}"))),
        (Ok(got), Some(want), None) => {
            let want = wanted(hook, want).map_err(one)?;
            let differences = diff(&want, &got);
            if differences.is_empty() {
                Ok(())
            } else {
                Err(differences)
            }
        }
    }
}

/// The wanted answer in the form in which answers are shown; a misspelt field in it is an error, not a difference.
fn wanted(hook: Hook, want: &Json) -> Result<Json, String> {
    if want.get("$none").is_some() {
        return Ok(Json::Null);
    }
    let plain = without_markers(want.clone());
    Verdict::decode(hook, plain).map_err(|e| format!("want: {e}"))?;
    Ok(nothing_is_null(with_unset(want.clone())))
}

/// `t.match(text)` stands for a text.
fn without_markers(value: Json) -> Json {
    match value {
        Json::Object(map) if map.contains_key(MATCH) => Json::from("text"),
        Json::Object(map) => Json::Object(map.into_iter().map(|(k, v)| (k, without_markers(v))).collect()),
        Json::Array(list) => Json::Array(list.into_iter().map(without_markers).collect()),
        other => other,
    }
}

/// `host.unset` is null in a lifted table and "unset" in an answer.
fn with_unset(value: Json) -> Json {
    match value {
        Json::Null => Json::from("unset"),
        Json::Object(map) => Json::Object(map.into_iter().map(|(k, v)| (k, with_unset(v))).collect()),
        Json::Array(list) => Json::Array(list.into_iter().map(with_unset).collect()),
        other => other,
    }
}

fn context(given: Option<Json>, hook: Hook) -> Result<Context, Vec<String>> {
    let mut context: Context = match given {
        None => Context::default(),
        Some(Json::Array(list)) if list.is_empty() => Context::default(),
        Some(given) => {
            Context::read(without_empty(given), Link::FIELDS).map_err(|e| one(format!("ctx: {e}")))?
        }
    };
    context.hook = hook;
    Ok(context)
}

fn members(beside: &Path, only: Option<&str>, around: &Surroundings) -> Result<Vec<Member>, Vec<String>> {
    let files = lua_files(beside).map_err(|e| one(e.to_string()))?;
    let mut members = Vec::new();
    let mut problems = Vec::new();
    for file in files.iter().filter(|file| !is_test(file)) {
        let source = Source::read(file).map_err(|e| one(e.to_string()))?;
        // A plugin is found by its file's name first, so that a broken neighbour does not matter.
        if only.is_some_and(|name| name != source.stem) {
            continue;
        }
        match load_plugin(&source, around) {
            Ok((plugin, runtime)) => members.push(Member {
                plugin,
                runtime,
                store: Store::default(),
                migrated: false,
            }),
            Err(problem) => problems.push(problem.to_string()),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    if members.is_empty() {
        return Err(one(format!(
            "there is no {}.lua beside the test",
            only.unwrap_or("plugin")
        )));
    }
    Ok(members)
}

/// The answer to compare: null for "no opinion", the error for a failure.
fn answer(reply: &Reply) -> Result<Json, String> {
    let failure = reply
        .steps
        .iter()
        .find_map(|step| Some(format!("{} failed: {}", step.plugin, step.error.as_ref()?)));
    if let Some(failure) = failure {
        return Err(failure);
    }
    if let Some(conflict) = reply.conflicts.first() {
        return Err(format!(
            "conflict in {}: {} against {}",
            conflict.field, conflict.kept, conflict.refused
        ));
    }
    if reply.steps.iter().all(|step| step.outcome == Outcome::Nil) {
        return Ok(Json::Null);
    }
    let mut value = without_nulls(serde_json::to_value(&reply.decision).unwrap_or_default());
    if let Some(map) = value.as_object_mut() {
        map.remove("by");
    }
    Ok(nothing_is_null(value))
}

/// An empty table says as much as nil.
fn nothing_is_null(value: Json) -> Json {
    let empty = value.as_object().is_some_and(serde_json::Map::is_empty)
        || value.as_array().is_some_and(Vec::is_empty);
    if empty { Json::Null } else { value }
}
