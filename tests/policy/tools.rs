//! The tools for plugin authors, and the shipped plugins through them.

use crate::bench::*;
use serde_json::json;
use std::path::{Path, PathBuf};
use tapwire::policy::api::{Hook, Subject};
use tapwire::policy::plugin::sandbox::Coverage;
use tapwire::policy::tools;

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins")
}

#[test]
fn the_shipped_plugins_pass_their_own_tests() {
    let report = tools::test(&[shipped()], Coverage::Lines);
    assert_eq!(report.code, 0, "{report}");
    println!("{report}");
}

#[test]
fn a_broken_plugin_fails_its_tests_with_the_place_and_the_difference() {
    let plugin = std::fs::read_to_string(shipped().join("mtu.lua"))
        .unwrap()
        .replace("return ctx.uplink.mtu - (", "return ctx.uplink.mtu - 1 - (");
    let test = std::fs::read_to_string(shipped().join("mtu_test.lua")).unwrap();
    let bench = Bench::new(&[("mtu.lua", &plugin), ("mtu_test.lua", &test)]);
    let report = tools::test(&[bench.dir.path().to_owned()], Coverage::Off);
    assert_eq!(report.code, 1);
    let text = report.to_string();
    assert!(
        text.contains("mtu_test.lua:7 vxlan leaves room for the headers\n       mtu: want 8950, got 8949"),
        "{text}"
    );
}

/// Runs one test file beside one plugin.
fn test_one(plugin: &str, test: &str) -> String {
    let bench = Bench::new(&[
        ("a.lua", plugin),
        ("a_test.lua", &format!("local t = require('policy.test')\n{test}")),
    ]);
    let report = tools::test(&[bench.path("a.lua")], Coverage::Off);
    format!("{} {report}", report.code).replace(&format!("{}/", bench.dir.path().display()), "")
}

#[test]
fn a_hook_that_answers_differently_when_asked_twice_fails() {
    let plugin = "local n = 0 return { api = 1, port = function() n = n + 1 return { mtu = 1400 + tonumber(tostring({}):sub(-2), 16) % 97 } end }";
    // The address of a table differs between two states; a plugin must not derive anything from it.
    let mut reports = (0..20).map(|_| {
        test_one(
            plugin,
            "t.case{ plugin='a', hook='port', ctx=t.tap(), want={ mtu = 1 } }",
        )
    });
    assert!(reports.any(|report| report.contains("not deterministic")));
}

#[test]
fn a_hook_that_counts_its_calls_fails() {
    let counts = "local n = 0 return { api = 1, port = function() n = n + 1 return { mtu = 1400 + n } end }";
    let case = "t.case{ plugin='a', hook='port', ctx=t.tap(), want={ mtu = 1401 } }";
    let report = test_one(counts, case);
    assert!(
        report.contains(
            "not deterministic: asked twice, it answered differently\n       mtu: want 1401, got 1402"
        ),
        "{report}"
    );
    let chain = case.replace("plugin='a', hook='port'", "chain='port'");
    assert!(test_one(counts, &chain).contains("not deterministic"));
    // What it keeps in `host.state` on purpose, and what it only works out once, is none of that.
    let keeps = "local n\nreturn { api = 1, port = function()\n\
                 n = n or 1401\nhost.state.set('n', (host.state.get('n') or n - 1) + 1)\n\
                 return { mtu = host.state.get('n') }\nend }";
    assert!(
        test_one(keeps, case).starts_with("0 "),
        "{}",
        test_one(keeps, case)
    );
}

#[test]
fn a_case_for_a_hook_that_is_not_there_fails() {
    let report = test_one(
        &port("return nil"),
        "t.case{ plugin='a', hook='drift', ctx=t.tap(), want=t.none }",
    );
    assert!(
        report.starts_with("1 ") && report.contains("a has no hook `drift`; it has port"),
        "{report}"
    );
    let report = test_one(
        &port("return nil"),
        "t.case{ chain='network', ctx=t.tap(), want=t.none }",
    );
    assert!(
        report.contains("no plugin beside the test has a hook `network`") || report.contains("a has no hook"),
        "{report}"
    );
}

#[test]
fn a_misspelt_context_or_helper_is_told_what_was_meant() {
    let told = |case: &str| test_one(&port("return nil"), case);
    let report = told("t.case{ plugin='a', hook='port', ctx=t.tap{ nmae = 'x' }, want=t.none }");
    assert!(
        report.contains("ctx: unknown field `nmae`, did you mean `name`?"),
        "{report}"
    );
    let report = told(
        "t.case{ plugin='a', hook='port', ctx=t.tap{ network = t.vxlan{ segmentation = 5 } }, want=t.none }",
    );
    assert!(
        report.contains("ctx: unknown field `segmentation`, did you mean `segmentation_id`?"),
        "{report}"
    );
    let report = told("t.case{ plugin='a', hook='port', ctx=t.tap{ network = t.vxln() }, want=t.none }");
    assert!(
        report.contains("a_test.lua:2: t.vxln: there is no such thing, did you mean `vxlan`?"),
        "{report}"
    );
}

#[test]
fn a_test_file_with_a_mistake_is_named_with_its_line() {
    let report = test_one(&port("return { mtu = 1400 }"), "t.case{ plugin='a', hok='port' }");
    assert!(
        report.starts_with("2 a_test.lua:2: t.case: unknown field `hok`, did you mean `hook`?"),
        "{report}"
    );
    let report = test_one(&port("return { mtu = 1400 }"), "while true do end");
    assert!(
        report.starts_with("2 ") && report.contains("a_test.lua"),
        "{report}"
    );
    let report = test_one(
        &port("return { mtu = 1400 }"),
        "t.case{ plugin='a', hook='port', ctx=t.tap(), want={ mut = 1 } }",
    );
    assert!(report.contains("want: unknown field `mut`"), "{report}");
    let report = test_one(
        &port("return { mtu = 1400 }"),
        "t.case{ plugin='a', hook='port', ctx={ lnk = { name = 'x' } }, want=t.none }",
    );
    assert!(report.contains("ctx: unknown field `lnk`"), "{report}");
}

#[test]
fn a_chain_is_tested_merged_and_a_conflict_fails() {
    let bench = Bench::new(&[
        ("a.lua", &port("return { mtu = 1400, deny = 'bad mac' }")),
        ("b.lua", &port("return { alias = 'x' }")),
        (
            "a_test.lua",
            "local t = require('policy.test')\nt.case{ name='chain', chain='port', ctx=t.tap(), want={ mtu=1400, alias='x', deny=t.match('mac') } }",
        ),
    ]);
    let dir = [bench.dir.path().to_owned()];
    assert_eq!(tools::test(&dir, Coverage::Off).code, 0);
    std::fs::write(bench.path("b.lua"), port("return { mtu = 1500 }")).unwrap();
    assert!(
        tools::test(&dir, Coverage::Off)
            .to_string()
            .contains("conflict in mtu")
    );
}

#[test]
fn check_lists_the_effective_order_or_every_problem() {
    let bench = Bench::new(&[("20-b.lua", &port("")), ("10-a.lua", &port(""))]);
    let mut config = bench.config.clone();
    config.plugins = vec![bench.dir.path().to_owned()];
    let report = tools::check(&[], &config, &[]);
    assert_eq!(report.code, 0);
    assert!(
        report.lines[0].starts_with("1. a (") && report.lines[2].starts_with("2. b ("),
        "{report}"
    );
    std::fs::write(bench.path("10-a.lua"), "return { api = 2 }").unwrap();
    std::fs::write(bench.path("20-b.lua"), "return {").unwrap();
    let report = tools::check(&[], &config, &[]);
    assert_eq!((report.code, report.lines.len()), (2, 2), "{report}");
}

#[test]
fn eval_names_the_origin_of_every_field() {
    let bench = Bench::new(&[(
        "a.lua",
        &port("return {\n mtu = 1400,\n fdb = { { mac = '02:00:00:00:00:01' } } }"),
    )]);
    let evaluation = tools::eval(&bench.config, Hook::Port, context("tap1", 1, "blue"));
    let text = evaluation
        .report
        .to_string()
        .replace(&format!("{}/", bench.dir.path().display()), "");
    assert!(text.contains("mtu = 1400  by a a.lua:3"), "{text}");
    assert!(
        text.contains("fdb[02:00:00:00:00:01] = {\"mac\":\"02:00:00:00:00:01\"}  by a a.lua:4"),
        "{text}"
    );
    assert_eq!(evaluation.json["decision"]["mtu"], 1400);
}

#[test]
fn a_recording_replayed_through_changed_plugins_shows_what_differs() {
    let bench = Bench::new(&[(
        "a.lua",
        &port("return { mtu = ctx.network.id == 'blue' and 1400 or 1500 }"),
    )]);
    let mut host = bench.host();
    let mut recorder = tools::Recorder::new(Vec::new());
    for (ifindex, network) in [(1, "blue"), (2, "green")] {
        let context = context(&format!("tap{ifindex}"), ifindex, network);
        let reply = ask(&mut host, request(Hook::Port, 1, context.clone()));
        recorder
            .write(&Subject::Tap(ifindex), Hook::Port, &context, &reply.decision)
            .unwrap();
    }
    let recording = recorder.into_inner();
    let same = tools::replay(recording.as_slice(), &[], &bench.config);
    assert_eq!(
        (same.code, same.lines),
        (0, vec!["2 questions, 0 answers differ".to_owned()])
    );
    let changed = Bench::new(&[("a.lua", &port("return { mtu = 1500 }"))]);
    let report = tools::replay(recording.as_slice(), &[changed.path("a.lua")], &bench.config);
    assert_eq!(report.code, 1);
    assert_eq!(
        report.lines,
        [
            "tap1 port (line 1)",
            "  mtu: want 1400, got 1500",
            "2 questions, 1 answers differ"
        ]
    );
    assert_eq!(tools::replay(&b"{\"v\": 9}"[..], &[], &bench.config).code, 2);
}

#[test]
fn the_committed_type_files_are_what_the_records_say() {
    let directory = shipped().join("types");
    if std::env::var_os("TAPWIRE_WRITE_TYPES").is_some() {
        tools::typegen::write(&directory).unwrap();
    }
    for (name, text) in tools::typegen::files() {
        let committed = std::fs::read_to_string(directory.join(name)).unwrap_or_default();
        assert!(
            committed == text,
            "plugins/types/{name} is stale: run this test with TAPWIRE_WRITE_TYPES=1"
        );
    }
}

#[test]
fn the_readmes_example_is_short_and_does_what_it_says() {
    let readme = std::fs::read_to_string(shipped().join("README.md")).unwrap();
    let example = readme
        .split("<!-- example: storage -->\n```lua\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    assert!(example.lines().count() <= 15, "{example}");
    let bench = Bench::new(&[("storage.lua", example)]);
    let mut host = bench.host();
    let mut context = context("tap1", 1, "storage");
    context.port = Some(tapwire::policy::api::context::Port {
        mac: Some("fa:16:3e:00:00:05".into()),
        ..Default::default()
    });
    let mut said = decision(&ask(&mut host, request(Hook::Port, 1, context)));
    said.as_object_mut().unwrap().remove("by");
    assert_eq!(
        said,
        json!({"mtu": 9000, "port": {"learning": false}, "fdb": [{"mac": "fa:16:3e:00:00:05"}]})
    );
    assert_eq!(decision(&ask_port(&mut host, "tap2", "blue")), json!({}));
}

/// Whatever came after the first release of API 1 has a word, so that a plugin can ask for it.
#[test]
fn host_features_has_a_word_for_every_addition() {
    let words = tapwire::policy::plugin::hostlib::FEATURES;
    for word in [
        "fdb.kind", "lease", "map", "metric", "neigh", "reads", "state", "tags", "tick", "vlans",
    ] {
        assert!(words.contains(&word), "{word}");
    }
    let body = "for _, word in { 'metric', 'lease', 'vlans' } do assert(host.features[word], word) end\n\
                return { mtu = host.features.teleport == nil and 1400 or 1 }";
    let bench = Bench::new(&[("a.lua", &port(body))]);
    let mut host = bench.host();
    let reply = ask(&mut host, request(Hook::Port, 1, context("tap1", 1, "blue")));
    assert_eq!(decision(&reply)["mtu"], 1400, "{reply:?}");
    let readme = std::fs::read_to_string(shipped().join("README.md")).unwrap();
    for word in words {
        assert!(readme.contains(&format!("`{word}`")), "{word}");
    }
}

#[test]
fn every_field_and_hook_is_in_the_readme() {
    let readme = std::fs::read_to_string(shipped().join("README.md")).unwrap();
    let types = tools::typegen::files().remove(1).1;
    let missing: Vec<_> = types
        .lines()
        .filter_map(|line| line.strip_prefix("---@field ")?.split([' ', '?']).next())
        .filter(|field| {
            !readme.contains(&format!("`{field}"))
                && !readme.contains(&format!(" {field}"))
                && !readme.contains(&format!(".{field}"))
        })
        .collect();
    assert!(missing.is_empty(), "not in plugins/README.md: {missing:?}");
}
