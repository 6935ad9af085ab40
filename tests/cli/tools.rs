//! The plugin tools and `check`, as a plugin's author runs them: no daemon, no privileges.

use super::{assert_exit, tapwire, text};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Output};

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins").join(name)
}

/// A folder with a configuration that names the folder `plugins` in it.
struct Site(tempfile::TempDir);

impl Site {
    fn new(options: &str, plugins: &[(&str, &str)]) -> Self {
        let site = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(site.path("plugins")).unwrap();
        site.write(
            "tapwire.toml",
            &format!("[policy]\nplugins = [\"plugins\"]\n{options}"),
        );
        for (name, source) in plugins {
            site.write(&format!("plugins/{name}"), source);
        }
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn command(&self, args: &[&str]) -> Process {
        let mut command = tapwire(args);
        command
            .current_dir(self.0.path())
            .env("TAPWIRE_CONFIG", self.path("tapwire.toml"));
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What a command printed, without the folder's name.
    fn shown(&self, bytes: &[u8]) -> String {
        text(bytes).replace(&format!("{}/", self.0.path().display()), "")
    }
}

const MTU: &str = "return { api = 1, port = function(ctx)\n  return { mtu = host.config.bytes }\nend,\n\
                   schema = { bytes = { type = 'integer', default = 1400, min = 1280 } } }\n";
const ALIAS: &str = "return { api = 1, port = function(ctx)\n  return { alias = ctx.link.name }\nend }\n";

#[test]
fn the_shipped_plugins_pass_their_tests_and_a_broken_one_fails_with_place_and_difference() {
    let output = tapwire(&["policy", "test", "plugins"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert_exit(&output, 0);
    let report = text(&output.stdout);
    assert!(report.contains("ok   plugins/mtu_test.lua:"), "{report}");
    assert!(report.ends_with(" passed, 0 failed\n"), "{report}");

    let broken = std::fs::read_to_string(shipped("mtu.lua"))
        .unwrap()
        .replace("return ctx.uplink.mtu - (", "return ctx.uplink.mtu - 1 - (");
    let tests = std::fs::read_to_string(shipped("mtu_test.lua")).unwrap();
    let site = Site::new("", &[("mtu.lua", &broken), ("mtu_test.lua", &tests)]);
    let output = site.run(&["policy", "test"]);
    assert_exit(&output, 1);
    let report = site.shown(&output.stdout);
    assert!(
        report.contains(
            "FAIL plugins/mtu_test.lua:7 vxlan leaves room for the headers\n       mtu: want 8950, got 8949\n"
        ),
        "{report}"
    );
    let output = site.run(&["--json", "policy", "test", "plugins"]);
    assert_exit(&output, 1);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], false);
    assert!(report["lines"].as_array().unwrap().len() > 5, "{report}");
    let cases = report["cases"].as_array().unwrap();
    assert_eq!(cases[0]["name"], "vxlan leaves room for the headers");
    assert_eq!(cases[0]["problems"], json!(["mtu: want 8950, got 8949"]));
    assert!(cases.iter().any(|case| case["problems"] == json!([])), "{report}");
}

#[test]
fn a_check_tells_programs_each_plugin_and_each_problem() {
    let idle =
        "return {\n  api = 1, reads = { 'link' },\n  port = function(ctx) local name = ctx.link.name end }\n";
    let site = Site::new(
        "",
        &[("alias.lua", ALIAS), ("idle.lua", idle), ("idle_test.lua", "")],
    );
    let output = site.run(&["--json", "policy", "check"]);
    assert_exit(&output, 0);
    let report: Value = serde_json::from_str(&site.shown(&output.stdout)).unwrap();
    assert_eq!(report["ok"], true);
    assert_eq!(report["problems"], json!([]));
    assert_eq!(
        report["plugins"],
        json!([
            {
                "name": "alias", "file": "plugins/alias.lua", "hooks": ["port"], "reads": null,
                "warnings": [], "missing_test": "alias_test.lua",
            },
            {
                "name": "idle", "file": "plugins/idle.lua", "hooks": ["port"], "reads": ["link"],
                "warnings": ["plugins/idle.lua:3: hook port has no `return`, so it never decides anything"],
                "missing_test": null,
            },
        ])
    );

    site.write(
        "plugins/alias.lua",
        "return {\n  api = 1,\n  port = function(ctx)\n",
    );
    let output = site.run(&["--json", "policy", "check"]);
    assert_exit(&output, 2);
    let report: Value = serde_json::from_str(&site.shown(&output.stdout)).unwrap();
    assert_eq!((&report["ok"], &report["plugins"]), (&json!(false), &json!([])));
    let problems = report["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 1, "{report}");
    assert_eq!(problems[0]["plugin"], "alias");
    assert_eq!(problems[0]["place"], "plugins/alias.lua:4");
    assert!(
        problems[0]["message"]
            .as_str()
            .unwrap()
            .contains("Expected 'end'"),
        "{report}"
    );
}

#[test]
fn coverage_names_the_lines_that_no_test_ran() {
    let site = Site::new(
        "",
        &[
            (
                "a.lua",
                "return { api = 1, port = function(ctx)\n  if ctx.link.name == 'x' then\n    return { mtu = 1300 }\n  \
                 end\nend }\n",
            ),
            (
                "a_test.lua",
                "local t = require('policy.test')\nt.case{ plugin = 'a', hook = 'port', ctx = t.tap(), want = t.none }\n",
            ),
        ],
    );
    let output = site.run(&["policy", "test", "--coverage"]);
    assert_exit(&output, 0);
    let report = site.shown(&output.stdout);
    assert!(report.contains("not run: 3"), "{report}");
}

#[test]
fn check_lists_the_order_and_every_mistake() {
    let site = Site::new("", &[("20-mtu.lua", MTU), ("10-alias.lua", ALIAS)]);
    let output = site.run(&["policy", "check"]);
    assert_exit(&output, 0);
    let report = site.shown(&output.stdout);
    assert!(
        report.starts_with("1. alias (plugins/10-alias.lua): port\n"),
        "{report}"
    );
    assert!(report.contains("2. mtu (plugins/20-mtu.lua): port\n"), "{report}");
    site.write("plugins/20-mtu.lua", "return {");
    site.write("plugins/10-alias.lua", "return { api = 9 }");
    let output = site.run(&["policy", "check"]);
    assert_exit(&output, 2);
    assert!(output.stdout.is_empty());
    let stderr = site.shown(&output.stderr);
    assert!(
        stderr.contains("plugins/10-alias.lua") && stderr.contains("plugins/20-mtu.lua:"),
        "{stderr}"
    );
    // Files named on the command line need no configuration.
    let output = tapwire(&["policy", "check"])
        .arg(shipped("mtu.lua"))
        .output()
        .unwrap();
    assert_exit(&output, 0);
    let output = tapwire(&["policy", "check", "/nonexistent.lua"])
        .output()
        .unwrap();
    assert_exit(&output, 2);
    assert!(text(&output.stderr).contains("/nonexistent.lua"));
}

#[test]
fn tapwire_check_also_checks_the_plugins_and_their_options() {
    let site = Site::new("", &[("mtu.lua", MTU), ("alias.lua", ALIAS)]);
    let output = site.run(&["check"]);
    assert_exit(&output, 0);
    let report = text(&output.stdout);
    assert!(
        report.ends_with("ok (1 file, 0 networks, 0 ports, 2 plugins)\n"),
        "{report}"
    );
    site.write(
        "tapwire.toml",
        "[policy]\nplugins = [\"plugins\"]\n[policy.plugin.mtu]\nbytes = 9\nbites = 1\n[policy.plugin.alais]\n",
    );
    site.write("plugins/alias.lua", "return { api = 1, on_eror = 'skip' }");
    let output = site.run(&["check"]);
    assert_exit(&output, 2);
    let stderr = site.shown(&output.stderr);
    for part in [
        "[policy.plugin.mtu] unknown option `bites`, did you mean `bytes`?",
        "bytes: 9 is outside 1280..",
        "unknown field `on_eror`, did you mean `on_error`?",
        "[policy.plugin.alais]: no plugin of this name is loaded, did you mean `alias`?",
    ] {
        assert!(stderr.contains(part), "{part} is missing in:\n{stderr}");
    }
    assert_eq!(stderr.lines().filter(|l| l.starts_with("error: ")).count(), 3);
    let output = site.run(&["--json", "check"]);
    assert_exit(&output, 2);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], false);
    let plugins: Vec<_> = report["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["plugin"])
        .collect();
    assert_eq!(plugins, ["alias", "mtu", ""], "{report}");
}

#[test]
fn check_names_the_line_of_every_mistake_in_the_policy_tables() {
    let site = Site::new("", &[("mtu.lua", MTU)]);
    site.write(
        "tapwire.toml",
        "[policy]\nplugins = [\"plugins\"]\non_eror = \"deny\"\ndeadline_ms = 0\nmemory_mib = 0\n\
         [policy.limits.mtu]\nabandon_ms = 1\n[policy.maps]\nmacs = 5\n\
         [policy.plugin.mtu]\nbytes = 9\n[policy.plugin.mut]\n",
    );
    let output = site.run(&["check"]);
    assert_exit(&output, 2);
    let stderr = site.shown(&output.stderr);
    for line in [
        "tapwire.toml:3:1: [policy] unknown field `on_eror`, did you mean `on_error`?",
        "tapwire.toml:4:1: [policy] deadline_ms: 0 is outside 1..10000",
        "tapwire.toml:5:1: [policy] memory_mib: 0 is outside 2..1024",
        "tapwire.toml:7:1: [policy] limits.mtu.abandon_ms: 1 is outside 10..60000",
        "tapwire.toml:9:1: [policy] maps.macs: expected a string, found number 5",
        "tapwire.toml:11:1: [policy.plugin.mtu] bytes: 9 is outside 1280..",
        "[policy.plugin.mut]: no plugin of this name is loaded, did you mean `mtu`?",
    ] {
        assert!(stderr.contains(line), "{line} is missing in:\n{stderr}");
    }
    assert_eq!(stderr.lines().count(), 7, "{stderr}");
}

#[test]
fn check_says_which_plugins_the_daemon_would_start_without() {
    let site = Site::new(
        "required = false\n",
        &[("mtu.lua", MTU), ("alias.lua", "return {")],
    );
    let output = site.run(&["check"]);
    assert_exit(&output, 0);
    let report = site.shown(&output.stdout);
    assert!(
        report.starts_with("warning: left out (required = false): plugins/alias.lua:"),
        "{report}"
    );
    assert!(report.contains(", 1 plugin)"), "{report}");
}

#[test]
fn eval_takes_a_context_or_a_recorded_line_and_names_the_origin_of_every_field() {
    let site = Site::new("", &[("mtu.lua", MTU), ("alias.lua", ALIAS)]);
    site.write("context.json", r#"{"hook": "port", "link": {"name": "tap1"}}"#);
    site.write(
        "line.json",
        r#"{"v": 1, "subject": {"tap": 7}, "hook": "port", "context": {"link": {"name": "tap7"}}, "decision": {}}"#,
    );
    for (args, name) in [
        (&["policy", "eval", "--ctx", "context.json"][..], "tap1"),
        (&["policy", "eval", "--ctx", "line.json"], "tap7"),
        (&["policy", "eval", "--ctx", "line.json", "--tap", "tap9"], "tap9"),
    ] {
        let output = site.run(args);
        assert_exit(&output, 0);
        assert_eq!(
            site.shown(&output.stdout),
            format!(
                "alias = \"{name}\"  by alias plugins/alias.lua:2\nmtu = 1400  by mtu plugins/mtu.lua:2\n"
            )
        );
    }
    let output = site.run(&["--json", "policy", "eval", "--ctx", "context.json"]);
    assert_exit(&output, 0);
    let decision: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(decision["decision"]["mtu"], 1400);
    site.write("wrong.json", r#"{"lnk": {}}"#);
    let output = site.run(&["policy", "eval", "--ctx", "wrong.json"]);
    assert!(
        text(&output.stderr).contains("wrong.json: unknown field `lnk`, did you mean `link`?"),
        "{}",
        text(&output.stderr)
    );
    site.write("list.json", "[]");
    assert_exit(&site.run(&["policy", "eval", "--ctx", "list.json"]), 2);
    let usage = text(&site.run(&["policy", "eval"]).stderr);
    assert!(usage.contains("--tap") && usage.contains("--ctx"), "{usage}");
    for file in ["wrong.json", "none.json", "tapwire.toml"] {
        let output = site.run(&["policy", "eval", "--ctx", file]);
        assert_exit(&output, 2);
        assert!(text(&output.stderr).contains(file));
    }
}

#[test]
fn eval_shows_what_the_plugins_log() {
    let chatty = "return { api = 1, port = function(ctx)\n  print('hello', ctx.link.mtu)\n  host.log.debug('kept', { n = 1 })\n  print(ctx)\nend }\n";
    let site = Site::new("", &[("mtu.lua", chatty)]);
    site.write("context.json", r#"{"link": {"name": "tap1", "mtu": 1500}}"#);
    let output = site.run(&["policy", "eval", "--ctx", "context.json"]);
    assert_exit(&output, 0);
    let log = text(&output.stderr);
    // A `ctx` that is printed shows its parts.
    for part in [
        "mtu.lua:2",
        "hello 1500",
        "mtu.lua:3",
        "kept",
        "\"name\":\"tap1\"",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert_eq!(text(&output.stdout), "no opinion\n");
}

/// One line as the daemon streams it.
pub fn recorded(tap: u32, mtu: u32) -> String {
    json!({
        "v": 1, "subject": {"tap": tap}, "hook": "port",
        "context": {"hook": "port", "link": {"name": format!("tap{tap}"), "ifindex": tap}},
        "decision": {"mtu": mtu},
    })
    .to_string()
}

#[test]
fn what_the_daemon_streams_is_recorded_and_replayed_through_other_plugins() {
    let daemon = super::FakeDaemon::start();
    let site = Site::new("", &[("mtu.lua", MTU)]);
    let output = site
        .command(&[
            "policy",
            "record",
            "--output",
            "recording.jsonl",
            "--count",
            "3",
            "--socket",
        ])
        .arg(&daemon.socket)
        .output()
        .unwrap();
    assert_exit(&output, 0);
    let recording = std::fs::read_to_string(site.path("recording.jsonl")).unwrap();
    let lines: Vec<String> = (1..=3).map(|tap| recorded(tap, 1400)).collect();
    assert_eq!(recording, format!("{}\n", lines.join("\n")));

    let output = site.run(&["policy", "replay", "recording.jsonl"]);
    assert_exit(&output, 0);
    assert_eq!(text(&output.stdout), "3 questions, 0 answers differ\n");
    site.write(
        "other.lua",
        &MTU.replace("host.config.bytes", "ctx.link.ifindex + 1398"),
    );
    let output = site.run(&["policy", "replay", "recording.jsonl", "--plugins", "other.lua"]);
    assert_exit(&output, 1);
    assert_eq!(
        text(&output.stdout),
        "tap1 port (line 1)\n  mtu: want 1400, got 1399\ntap3 port (line 3)\n  mtu: want 1400, got 1401\n\
         3 questions, 2 answers differ\n"
    );
    site.write("recording.jsonl", "{\"v\": 1}\n");
    let output = site.run(&["policy", "replay", "recording.jsonl"]);
    assert_exit(&output, 2);
    assert!(text(&output.stderr).starts_with("error: line 1: "));
}

#[test]
fn types_are_written_as_they_are_committed() {
    let dir = tempfile::tempdir().unwrap();
    let output = tapwire(&["policy", "types"]).arg(dir.path()).output().unwrap();
    assert_exit(&output, 0);
    for name in ["tapwire.d.luau", "tapwire_meta.lua"] {
        let written = std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(
            written,
            std::fs::read_to_string(shipped("types").join(name)).unwrap()
        );
        assert!(text(&output.stdout).contains(name));
    }
}
