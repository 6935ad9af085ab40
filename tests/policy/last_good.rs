//! A start with a broken file, and going back after a restart: what was in force is on disk.

use crate::bench::*;
use serde_json::json;
use tapwire::policy::Host;
use tapwire::policy::api::{Fallback, Hook, Subject};
use tapwire::policy::status::Health;

/// A daemon's bench: with a place for what was in force.
fn kept(plugins: &[(&str, &str)]) -> Bench {
    let mut bench = Bench::new(plugins);
    bench.config.archive = Some(bench.path("state/policy"));
    bench
}

fn start(bench: &Bench) -> Host {
    Host::load_or_last_good(&bench.config).unwrap()
}

fn write(bench: &Bench, name: &str, text: &str) {
    std::fs::write(bench.path(name), text).unwrap();
}

#[test]
fn a_file_that_is_broken_at_the_start_runs_as_it_last_was() {
    let mut bench = kept(&[
        ("a.lua", &port("return { mtu = require('numbers').mtu }")),
        ("b.lua", &port("return { alias = 'b' }")),
        ("lib/numbers.lua", "return { mtu = 1400 }"),
    ]);
    bench.config.plugins.truncate(2);
    drop(start(&bench));
    write(&bench, "a.lua", "return {");
    write(&bench, "lib/numbers.lua", "return { mtu = 9000 }");
    write(&bench, "b.lua", &port("return { alias = 'new' }"));
    let mut host = start(&bench);
    // The broken one with its module as it was; the other one as it is.
    let answer = decision(&ask_port(&mut host, "tap1", "blue"));
    assert_eq!((&answer["mtu"], &answer["alias"]), (&json!(1400), &json!("new")));
    let status = host.status();
    assert_eq!(status.plugins[0].health, Health::LastGood);
    let reason = status.plugins[0].reason.clone().unwrap();
    assert!(
        reason.starts_with("runs its last good version: ") && reason.contains("a.lua:1: "),
        "{reason}"
    );
    assert_eq!(status.plugins[1].health, Health::Ok);
    // It is no less broken for a reload, and repaired by one.
    assert!(host.prepare().load(&bench.config).is_err());
    write(&bench, "a.lua", &port("return { mtu = 1300 }"));
    let candidate = host.prepare().load(&bench.config).unwrap();
    host.commit(candidate);
    assert_eq!(host.status().plugins[0].health, Health::Ok);
    assert_eq!(host.last_good(), None);
}

#[test]
fn a_file_that_is_no_text_any_more_runs_as_it_last_was() {
    let bench = kept(&[("a.lua", &port("return { mtu = 1400 }"))]);
    drop(start(&bench));
    std::fs::write(bench.path("a.lua"), b"\x06\x03garbage\xff").unwrap();
    let mut host = start(&bench);
    assert_eq!(decision(&ask_port(&mut host, "tap1", "blue"))["mtu"], 1400);
    // Once more: the good version is not forgotten because it was used.
    drop(host);
    let mut host = start(&bench);
    assert_eq!(decision(&ask_port(&mut host, "tap1", "blue"))["mtu"], 1400);
}

#[test]
fn without_a_good_version_a_broken_file_is_refused() {
    let bench = kept(&[("a.lua", "return {")]);
    let report = Host::load_or_last_good(&bench.config).err().unwrap();
    assert!(report.to_string().contains("a.lua:1: "), "{report}");
    // A version of another file is none.
    let bench = kept(&[("a.lua", &port("return nil"))]);
    drop(start(&bench));
    let mut renamed = bench.config.clone();
    renamed.plugins = vec![bench.path("b.lua")];
    write(&bench, "b.lua", "return {");
    assert!(Host::load_or_last_good(&renamed).is_err());
}

#[test]
fn options_that_the_plugin_refuses_are_not_papered_over() {
    let mut bench = kept(&[(
        "a.lua",
        "return { api = 1, schema = { mtu = { type = 'integer', max = 9000 } } }",
    )]);
    drop(start(&bench));
    bench.config.plugin.insert("a".into(), json!({"mtu": 10000}));
    let report = Host::load_or_last_good(&bench.config).err().unwrap();
    assert!(report.to_string().contains("10000"), "{report}");
}

#[test]
fn after_a_restart_the_generation_before_can_be_had_back() {
    let mut bench = kept(&[("a.lua", "")]);
    let with_schema = |mtu: i64| {
        format!(
            "return {{ api = 1, schema = {{ mtu = {{ type = 'integer', default = {mtu} }} }},\n\
             port = function() return {{ mtu = host.config.mtu }} end }}"
        )
    };
    write(&bench, "a.lua", &with_schema(1300));
    bench.config.plugin.insert("a".into(), json!({"mtu": 1400}));
    let mut host = start(&bench);
    // A reload with other options and another file.
    bench.config.plugin.clear();
    write(&bench, "a.lua", &with_schema(1500));
    let candidate = host.prepare().load(&bench.config).unwrap();
    host.commit(candidate);
    host.keep()();
    drop(host);

    let mut host = start(&bench);
    assert_eq!(decision(&ask_port(&mut host, "tap1", "blue"))["mtu"], 1500);
    assert!(host.status().rollback && !host.rollback());
    let edition = host.archived().unwrap();
    let candidate = host.prepare().load_archived(&edition).unwrap();
    host.commit(candidate);
    host.keep()();
    assert_eq!(decision(&ask_port(&mut host, "tap1", "blue"))["mtu"], 1400);
    // And forth again, in the same run.
    assert!(host.rollback());
    assert_eq!(decision(&ask_port(&mut host, "tap1", "blue"))["mtu"], 1500);
}

/// A plugin that answers well until `broken` is configured.
const FICKLE: &str = "return { api = 1, schema = { broken = { type = 'boolean', default = false } },\n\
    resolve = function() assert(not host.config.broken, 'broken') return { network = 'blue' } end,\n\
    port = function() assert(not host.config.broken, 'broken') return { mtu = 1400, alias = host.unset } end }";

#[test]
fn last_good_answers_outlive_the_daemon_for_the_same_tap_and_network() {
    let mut bench = kept(&[("a.lua", FICKLE)]);
    let mut host = start(&bench);
    for (tap, ifindex) in [("tap1", 1), ("tap2", 2)] {
        ask(
            &mut host,
            request(Hook::Resolve, 1, context(tap, ifindex, "blue")),
        );
        let reply = ask(&mut host, request(Hook::Port, 2, context(tap, ifindex, "blue")));
        assert_eq!(decision(&reply)["mtu"], 1400);
    }
    let name = |subject: &Subject| match subject {
        Subject::Tap(index) => Some(format!("tap{index}").into_boxed_str()),
        _ => Some(Box::default()),
    };
    host.keep_answers(&name).unwrap()();
    drop(host);

    bench = bench.configured("a", json!({ "broken": true }));
    let mut host = start(&bench);
    let asked = |host: &mut Host, hook, tap: &str, ifindex, network| {
        let reply = ask(host, request(hook, 1, context(tap, ifindex, network)));
        (reply.steps[0].fallback, decision(&reply))
    };
    let (fallback, said) = asked(&mut host, Hook::Port, "tap1", 1, "blue");
    assert_eq!(
        (fallback, &said["mtu"], &said["alias"]),
        (Fallback::LastGood, &json!(1400), &json!("unset"))
    );
    let (fallback, said) = asked(&mut host, Hook::Resolve, "tap1", 1, "blue");
    assert_eq!((fallback, &said["network"]), (Fallback::LastGood, &json!("blue")));
    // Another tap under the same index, and the tap in another network.
    let (fallback, said) = asked(&mut host, Hook::Port, "tap9", 2, "blue");
    assert_eq!(fallback, Fallback::Deny, "{said}");
    let (fallback, said) = asked(&mut host, Hook::Port, "tap1", 1, "green");
    assert_eq!(fallback, Fallback::Deny, "{said}");
    // What nobody asked about stays kept, and what went does not.
    let only_first = |subject: &Subject| name(subject).filter(|name| &**name == "tap1");
    host.keep_answers(&only_first).unwrap()();
    drop(host);
    let mut host = start(&bench);
    assert_eq!(
        asked(&mut host, Hook::Port, "tap1", 1, "blue").0,
        Fallback::LastGood
    );
    assert_eq!(asked(&mut host, Hook::Port, "tap2", 2, "blue").0, Fallback::Deny);
}
