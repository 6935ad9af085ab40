//! `tapwire policy eval`: one decision, with the origin of every field.

use super::{Bench, Report};
use crate::config::PolicySettings;
use crate::policy::api::{Context, Hook, Reply, Request, Subject};
use crate::policy::generation::load;
use crate::policy::without_nulls;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;

/// An answer, for people and as JSON.
#[derive(Debug, Clone)]
pub struct Evaluation {
    pub report: Report,
    pub json: Json,
}

/// Asks `hook` of the configured plugins with the given context.
pub fn eval(config: &PolicySettings, hook: Hook, context: Context) -> Evaluation {
    let config = super::check::with_paths(&[], config);
    let wrong = |report: Report| Evaluation {
        json: json!({"error": report.lines}),
        report,
    };
    let loaded = match load(&config, &BTreeMap::new()) {
        Ok(loaded) => loaded,
        Err(report) => return wrong(Report::wrong(report)),
    };
    // Who has a say by its hooks, but not here.
    let left_aside: Vec<String> = loaded
        .members
        .iter()
        .filter(|member| member.plugin.hooks.contains(&hook))
        .filter(|member| {
            member
                .plugin
                .manifest
                .when
                .as_ref()
                .is_some_and(|when| !when.matches(&context))
        })
        .map(|member| format!("{} was not asked: its `when` does not match", member.plugin.name))
        .collect();
    let bench = Bench::start(loaded.members, loaded.around);
    let request = Request {
        r#gen: 0,
        seq: 1,
        key: Subject::Tap(context.link.as_ref().map_or(0, |link| link.ifindex)),
        hook,
        context,
    };
    let reply = bench.ask(request);
    bench.settle();
    match reply {
        Some(reply) => Evaluation {
            report: {
                let mut report = describe(&reply);
                report.lines.extend(left_aside);
                report
            },
            json: as_json(&reply),
        },
        None => wrong(Report::wrong("no answer")),
    }
}

/// A reply as `explain`, `eval --json` and recordings show it.
pub fn as_json(reply: &Reply) -> Json {
    without_nulls(json!({
        "hook": reply.hook,
        "decision": reply.decision,
        "conflicts": reply.conflicts,
        "steps": reply.steps,
    }))
}

/// A reply in lines: "mtu = 8950  by mtu plugins/mtu.lua:14".
pub fn describe(reply: &Reply) -> Report {
    describe_json(&as_json(reply))
}

/// The same of what [`as_json`] made of a reply, which is how the daemon tells it.
pub fn describe_json(reply: &Json) -> Report {
    let mut report = Report::default();
    if let Some(wrong) = reply.get("error").and_then(Json::as_array) {
        return Report::wrong(
            wrong
                .iter()
                .filter_map(Json::as_str)
                .collect::<Vec<_>>()
                .join("\n"),
        );
    }
    let list = |key: &str| {
        reply
            .get(key)
            .and_then(Json::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let text = |row: &Json, key: &str| row.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
    let mut decision = reply.get("decision").cloned().unwrap_or_default();
    let by = decision
        .as_object_mut()
        .and_then(|map| map.remove("by"))
        .unwrap_or_default();
    let mut fields = Vec::new();
    if !decision.is_null() {
        flatten("", &decision, &mut fields);
    }
    if fields.is_empty() {
        report.line("no opinion");
    }
    for (path, value) in fields {
        let origin = by.get(&path).and_then(Json::as_str).unwrap_or_default();
        let plain = if origin.is_empty() {
            String::new()
        } else {
            format!("  by {origin}")
        };
        report.line(format!("{path} = {value}{plain}"));
    }
    for conflict in list("conflicts") {
        let [field, kept, refused] = ["field", "kept", "refused"].map(|key| text(&conflict, key));
        report.line(format!("conflict in {field}: {kept} stands, {refused} does not"));
        report.raise(1);
    }
    for step in list("steps").iter().filter(|step| step.get("error").is_some()) {
        let [plugin, outcome, fallback, error] =
            ["plugin", "outcome", "fallback", "error"].map(|key| text(step, key));
        report.line(format!(
            "{plugin} failed ({outcome}), fallback {fallback}: {error}"
        ));
        report.raise(1);
    }
    report
}

/// Leaves with the paths under which `by` names them.
pub(crate) fn flatten(path: &str, value: &Json, out: &mut Vec<(String, Json)>) {
    match value {
        Json::Object(map) => {
            for (key, value) in map {
                flatten(&crate::policy::merge::join(path, key), value, out);
            }
        }
        Json::Array(list) => {
            for entry in list {
                let text = |key: &str| {
                    entry
                        .get(key)
                        .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
                };
                let mut name = text("ip")
                    .or_else(|| text("mac"))
                    .unwrap_or_else(|| "00:00:00:00:00:00".into());
                for key in ["vlan", "dst"] {
                    if let Some(value) = text(key) {
                        name.push_str(&format!(" {key} {value}"));
                    }
                }
                if let Some(word) = entry.as_str() {
                    word.clone_into(&mut name);
                }
                out.push((format!("{path}[{name}]"), entry.clone()));
            }
        }
        value => out.push((path.to_owned(), value.clone())),
    }
}
