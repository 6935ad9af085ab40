//! Failure, suspension, abandonment, reload, rollback, state.

use crate::bench::*;
use serde_json::{Value as Json, json};
use std::time::Duration;
use tapwire::policy::Known;
use tapwire::policy::api::{Decision, Fallback, Hook, Outcome, Subject};
use tapwire::policy::status::Health;
use tapwire::policy::{Asked, Host, Refusal};

/// Raises for taps called `bad`, answers for all others.
fn fragile() -> String {
    port("if ctx.link.name == 'bad' then error('no') end\nreturn { mtu = 1400 }")
}

fn without_origin(mut decision: Json) -> Json {
    decision.as_object_mut().unwrap().remove("by");
    decision
}

#[test]
fn five_failures_suspend_a_hook_and_status_says_so() {
    let bench = Bench::new(&[("a.lua", &fragile())]);
    let mut host = bench.host();
    for _ in 0..5 {
        assert_eq!(
            ask_port(&mut host, "bad", "blue").steps[0].outcome,
            Outcome::Error
        );
    }
    let reply = ask_port(&mut host, "good", "blue");
    assert_eq!(reply.steps[0].outcome, Outcome::Tripped);
    let reason = decision(&reply)["deny"].as_str().unwrap().to_owned();
    assert!(
        reason.contains("not called, it failed too often; last: port: ") && reason.contains("a.lua:2: no"),
        "{reason}"
    );
    assert_eq!(reply.retry_after.unwrap().as_secs(), 30);
    let status = host.status();
    assert_eq!(status.plugins[0].health, Health::Suspended);
    assert_eq!((status.plugins[0].calls, status.plugins[0].failures), (5, 5));
}

#[test]
fn on_error_skip_leaves_the_port_as_if_the_plugin_were_not_there() {
    let bench = Bench::new(&[("a.lua", &fragile()), ("b.lua", &port("return { alias = 'b' }"))])
        .with(json!({"limits": {"a": {"on_error": "skip"}}}));
    let mut host = bench.host();
    let reply = ask_port(&mut host, "bad", "blue");
    assert_eq!(without_origin(decision(&reply)), json!({"alias": "b"}));
    assert_eq!(reply.steps[0].fallback, Fallback::Skip);
    assert!(reply.is_fallback());
}

#[test]
fn the_last_good_answer_of_another_network_does_not_stand_in() {
    let bench = Bench::new(&[(
        "a.lua",
        &port("if ctx.reason == 'resync' then error('no') end\nreturn { mtu = 1400 }"),
    )]);
    let mut host = bench.host();
    ask(&mut host, request(Hook::Port, 1, context("tap1", 1, "blue")));
    let mut resync = context("tap1", 1, "blue");
    resync.reason = tapwire::policy::api::context::Reason::Resync;
    let same = ask(&mut host, request(Hook::Port, 2, resync.clone()));
    assert_eq!(same.steps[0].fallback, Fallback::LastGood);
    resync.network = Some(network("green", tapwire::policy::api::context::NetworkType::Vlan));
    let moved = ask(&mut host, request(Hook::Port, 3, resync.clone()));
    assert_eq!(moved.steps[0].fallback, Fallback::Deny);
    host.forget(&Subject::Tap(1));
    resync.network = Some(network("blue", tapwire::policy::api::context::NetworkType::Vxlan));
    let forgotten = ask(&mut host, request(Hook::Port, 4, resync));
    assert_eq!(forgotten.steps[0].fallback, Fallback::Deny);
}

#[test]
fn no_opinion_is_a_good_answer_that_stands_in_too() {
    let bench = Bench::new(&[(
        "a.lua",
        &port("if ctx.reason == 'resync' then error('no') end\nreturn nil"),
    )]);
    let mut host = bench.host();
    ask(&mut host, request(Hook::Port, 1, context("tap1", 1, "blue")));
    let mut resync = context("tap1", 1, "blue");
    resync.reason = tapwire::policy::api::context::Reason::Resync;
    let failed = ask(&mut host, request(Hook::Port, 2, resync));
    assert_eq!(failed.steps[0].fallback, Fallback::LastGood);
    assert_eq!(decision(&failed), json!({}));
}

#[test]
fn a_failing_resolver_maps_nothing_and_the_next_one_is_not_asked() {
    let bench = Bench::new(&[
        (
            "a.lua",
            "return { api = 1, resolve = function(ctx) if ctx.link.name == 'bad' then error('no') end end }",
        ),
        (
            "b.lua",
            "return { api = 1, resolve = function() return { network = 'blue' } end }",
        ),
    ]);
    let mut host = bench.host();
    let good = ask(&mut host, request(Hook::Resolve, 1, context("good", 1, "")));
    assert_eq!(without_origin(decision(&good)), json!({"network": "blue"}));
    let bad = ask(&mut host, request(Hook::Resolve, 2, context("bad", 2, "")));
    assert_eq!(decision(&bad), json!({}));
    assert_eq!(bad.retry_after.unwrap().as_secs(), 1);
    assert_eq!(bad.steps.len(), 1);
}

#[test]
fn a_failing_admit_hook_is_a_veto() {
    let bench = Bench::new(&[(
        "a.lua",
        "return { api = 1, on_error = 'skip', admit = function(ctx, plan) return { defer = #plan.changes } end }",
    )]);
    let mut host = bench.host();
    let reply = ask(&mut host, request(Hook::Admit, 1, context("tap1", 1, "blue")));
    assert!(
        decision(&reply)["deny"]
            .as_str()
            .unwrap()
            .starts_with("hook admit: ")
    );
}

#[test]
fn a_network_that_makes_a_plugin_loop_does_not_hold_up_another_network() {
    let bench = Bench::new(&[(
        "a.lua",
        &port("while ctx.network.id == 'black' do end\nreturn { mtu = 1400 }"),
    )]);
    let mut host = bench.host();
    for ifindex in 1..=50 {
        host.ask(request(
            Hook::Port,
            u64::from(ifindex),
            context(&format!("tap{ifindex}"), ifindex, "black"),
        ));
    }
    host.ask(request(Hook::Port, 99, context("good", 99, "green")));
    // Two of the fifty may cost their deadline; then the network is cut off.
    let mut order = Vec::new();
    let mut deadlines = 0;
    for _ in 0..51 {
        let reply = receive(&mut host);
        deadlines += usize::from(reply.steps[0].outcome == Outcome::Deadline);
        if reply.seq == 99 {
            assert_eq!(decision(&reply)["mtu"], 1400);
        }
        order.push(reply.seq);
    }
    assert_eq!(deadlines, 2);
    assert!(order.contains(&99));
    assert_eq!(
        host.status().plugins[0]
            .reason
            .as_deref()
            .unwrap()
            .split(':')
            .next(),
        Some("port of network black")
    );
}

/// A lost wake-up would leave a question unanswered.
#[test]
fn a_worker_called_early_answers_what_comes_and_sleeps_when_nothing_does() {
    let plugin = port("if ctx.link.name == 'slow' then for i = 1, 1e5 do end end\nreturn { mtu = 1400 }");
    let bench = Bench::new(&[("a.lua", &plugin), ("b.lua", &plugin), ("c.lua", &plugin)])
        .with(json!({"deadline_ms": 10000, "abandon_ms": 60000}));
    let mut host = bench.host();
    for round in 0..600_u32 {
        for _ in 0..round % 3 {
            host.stir();
        }
        if round % 50 == 0 {
            // Longer than a worker looks for what it was called for.
            std::thread::sleep(Duration::from_millis(2));
        }
        let asked = round % 4;
        for tap in 0..asked {
            let name = if tap == 0 && round % 20 == 1 {
                "slow"
            } else {
                "tap"
            };
            let context = context(name, round * 4 + tap + 1, "blue");
            assert!(matches!(
                host.ask(request(Hook::Port, u64::from(round), context)),
                Asked::Pending
            ));
        }
        for _ in 0..asked {
            assert_eq!(receive(&mut host).seq, u64::from(round));
        }
    }
    host.stir();
    eventually("the workers sleep", || host.pool().is_at_rest());
    assert!(host.try_recv().is_none());
}

#[test]
fn a_newer_question_replaces_an_older_one_that_waits() {
    let bench = Bench::new(&[(
        "a.lua",
        &port("for i = 1, 2e5 do end\nreturn { alias = 's' .. ctx.seq }"),
    )])
    .with(json!({"deadline_ms": 10000, "abandon_ms": 60000}));
    let mut host = bench.host();
    for seq in 1..=20 {
        let mut asked = request(Hook::Port, seq, context("tap1", 1, "blue"));
        asked.context.seq = seq;
        assert!(matches!(host.ask(asked), Asked::Pending));
    }
    let mut replies = 1;
    while receive(&mut host).seq != 20 {
        replies += 1;
    }
    assert!(replies < 20, "{replies}");
    assert!(host.try_recv().is_none());
}

#[test]
fn a_call_that_does_not_come_back_loses_its_thread_and_the_third_one_disables_the_plugin() {
    let bench = Bench::new(&[
        (
            "a.lua",
            &port("while ctx.link.name == 'bad' do end\nreturn { mtu = 1400 }"),
        ),
        ("b.lua", &port("return { alias = 'b' }")),
    ])
    .with(json!({"deadline_ms": 10000, "abandon_ms": 20}));
    let mut host = bench.host();
    for (round, network) in [(1, "one"), (2, "two"), (3, "three")] {
        let reply = ask_port(&mut host, "bad", network);
        assert_eq!(reply.steps[0].outcome, Outcome::Wedged, "{round}");
        assert_eq!(decision(&reply)["alias"], "b", "the rest of the chain answers");
        assert_eq!(host.status().plugins[0].abandoned, round);
        if round < 3 {
            // The state is built anew, and the plugin goes on.
            assert_eq!(decision(&ask_port(&mut host, "good", network))["mtu"], 1400);
        }
    }
    let status = host.status();
    assert_eq!(status.plugins[0].health, Health::Disabled);
    let reply = ask_port(&mut host, "good", "one");
    assert_eq!(reply.steps[0].outcome, Outcome::Tripped);
    assert!(status.threads <= 2);
    // The lost threads meet their stop at the next instruction and end.
    eventually("abandoned threads end", || {
        let workers = std::fs::read_dir("/proc/self/task")
            .unwrap()
            .flatten()
            .filter(|task| {
                let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
                name.starts_with("policy-rebuild")
            });
        workers.count() == 0
    });
}

#[test]
fn an_idle_host_does_not_wake_up() {
    let bench = Bench::new(&[("a.lua", &fragile())]);
    let mut host = bench.host();
    ask_port(&mut host, "good", "blue");
    eventually("the watchdog sleeps", || host.pool().is_asleep());
    ask_port(&mut host, "tap7", "blue");
    assert!(!host.pool().is_asleep(), "a call wakes it");
}

fn reload(bench: &Bench, host: &mut Host) {
    let candidate = host.prepare().load(&bench.config).unwrap();
    host.commit(candidate);
}

#[test]
fn a_reload_swaps_all_plugins_and_rollback_brings_the_old_ones_back() {
    let bench = Bench::new(&[("a.lua", &port("return { mtu = 1400 }"))]);
    let mut host = bench.host();
    let before = host.status();
    assert_eq!(decision(&ask_port(&mut host, "tap1", "blue"))["mtu"], 1400);
    std::fs::write(bench.path("a.lua"), port("return { mtu = 1500 }")).unwrap();
    reload(&bench, &mut host);
    assert_eq!(decision(&ask_port(&mut host, "tap1", "blue"))["mtu"], 1500);
    let after = host.status();
    assert!(after.generation > before.generation && after.hash != before.hash && after.rollback);
    assert!(host.rollback());
    assert_eq!(decision(&ask_port(&mut host, "tap1", "blue"))["mtu"], 1400);
    assert_eq!(host.status().hash, before.hash);
    assert!(host.status().generation > after.generation);
}

#[test]
fn a_broken_file_keeps_the_old_plugins_running() {
    let bench = Bench::new(&[("a.lua", &port("return { mtu = 1400 }"))]);
    let mut host = bench.host();
    std::fs::write(bench.path("a.lua"), "return {").unwrap();
    assert!(host.prepare().load(&bench.config).is_err());
    assert_eq!(decision(&ask_port(&mut host, "tap1", "blue"))["mtu"], 1400);
    assert_eq!(host.generation(), 1);
}

#[test]
fn whether_there_is_anything_new_is_told_by_what_the_files_say() {
    let mut bench = Bench::new(&[("a.lua", &port("return { mtu = 1400 }"))]);
    std::fs::create_dir(bench.path("lib")).unwrap();
    std::fs::write(bench.path("lib/b.lua"), "return 1").unwrap();
    std::fs::write(bench.path("t.json"), "[1]").unwrap();
    let maps = json!({"t": bench.path("t.json")});
    bench.config.settings.insert("maps".into(), maps);
    let host = bench.host();
    let unchanged = |bench: &Bench| host.prepare().is_unchanged(&bench.config);
    assert!(unchanged(&bench));
    for (file, text) in [
        ("a.lua", port("return { mtu = 1400 } --")),
        ("lib/b.lua", "return 2".to_owned()),
        ("t.json", "[2]".to_owned()),
        ("a.lua", "return {".to_owned()),
    ] {
        let old = std::fs::read_to_string(bench.path(file)).unwrap();
        std::fs::write(bench.path(file), text).unwrap();
        assert!(!unchanged(&bench), "{file} changed");
        std::fs::write(bench.path(file), old).unwrap();
        assert!(unchanged(&bench), "{file} says again what it said");
    }
    bench.config.settings.insert("deadline_ms".into(), json!(10));
    assert!(!unchanged(&bench), "a limit changed");
    bench.config.settings.remove("deadline_ms");
    std::fs::remove_file(bench.path("a.lua")).unwrap();
    assert!(!unchanged(&bench), "a file is gone");
}

#[test]
fn a_plugin_that_fails_its_own_test_is_not_put_into_force() {
    let test = "local t = require('policy.test')\nt.case{ name='mtu', plugin='a', hook='port', ctx=t.tap(), want={ mtu = 1400 } }";
    let bench = Bench::new(&[("a.lua", &port("return { mtu = 1400 }"))]);
    let host = bench.host();
    std::fs::write(bench.path("a_test.lua"), test).unwrap();
    assert!(host.prepare().load_tested(&bench.config).is_ok());
    std::fs::write(bench.path("a.lua"), port("return { mtu = 1500 }")).unwrap();
    let report = host
        .prepare()
        .load_tested(&bench.config)
        .err()
        .expect("the test fails")
        .to_string();
    assert!(report.contains("mtu: want 1400, got 1500"), "{report}");
}

#[test]
fn a_reply_of_the_old_generation_is_dropped_and_its_last_good_answers_stay() {
    let bench = Bench::new(&[("a.lua", &port("for i = 1, 1e5 do end\nreturn { mtu = 1400 }"))])
        .with(json!({"deadline_ms": 10000, "abandon_ms": 60000}));
    let mut host = bench.host();
    ask(&mut host, request(Hook::Port, 1, context("tap1", 1, "blue")));
    host.ask(request(Hook::Port, 2, context("tap2", 2, "blue")));
    std::fs::write(bench.path("a.lua"), port("error('new')")).unwrap();
    reload(&bench, &mut host);
    let reply = ask(&mut host, request(Hook::Port, 3, context("tap1", 1, "blue")));
    assert_eq!((reply.seq, reply.generation), (3, host.generation()));
    assert_eq!(reply.steps[0].fallback, Fallback::LastGood);
    assert_eq!(decision(&reply)["mtu"], 1400);
}

fn known(host: &mut Host, taps: u32) -> Vec<Known> {
    (1..=taps)
        .map(|ifindex| {
            let context = context(&format!("tap{ifindex}"), ifindex, "blue");
            let before = ask(host, request(Hook::Port, 1, context.clone())).decision;
            Known {
                key: Subject::Tap(ifindex),
                hook: Hook::Port,
                context,
                before,
                failing: std::collections::BTreeSet::new(),
            }
        })
        .collect()
}

#[test]
fn a_rehearsal_counts_what_would_change_and_too_much_is_refused() {
    let bench = Bench::new(&[("a.lua", &port("host.state.set('seen', 1) return { mtu = 1400 }"))]);
    let mut host = bench.host();
    let known = known(&mut host, 30);
    let rehearse = |host: &Host, text: &str| {
        std::fs::write(bench.path("a.lua"), text).unwrap();
        host.prepare()
            .load(&bench.config)
            .unwrap()
            .compare(&known)
            .unwrap()
    };
    let same = rehearse(&host, &format!("-- moved\n{}", port("return { mtu = 1400 }")));
    assert_eq!((same.asked, same.changed.len()), (30, 0));
    let some = rehearse(
        &host,
        &port("return { mtu = ctx.link.ifindex <= 10 and 1500 or 1400 }"),
    );
    assert_eq!(some.changed.len(), 10);
    assert_eq!(some.changed[0].before["mtu"], 1400);
    assert_eq!(some.check(10), Ok(()), "ten are always allowed");
    let all = rehearse(&host, &port("return { mtu = 1500 }"));
    assert_eq!(
        all.check(10),
        Err(Refusal::TooManyChanges {
            changed: 30,
            asked: 30,
            allowed: 10
        })
    );
    let broken = rehearse(&host, &port("return { mtu = ctx.nothing.mtu }"));
    assert!(matches!(broken.check(100), Err(Refusal::Errors(_))));
    assert_eq!(all.check_at_most(30), Ok(()));
    let line = &all.changed[0].lines()[0];
    assert!(
        line.starts_with("tap1 mtu 1400 -> 1500 (a ") && line.ends_with("a.lua:2)"),
        "{line}"
    );
    assert!(matches!(*known[0].before, Decision::Port(_)));
}

#[test]
fn state_is_committed_with_the_answer_and_survives_reload_and_restart() {
    let count = "local n = (host.state.get('n') or 0) + 1\nhost.state.set('n', n)\nif ctx.link.name == 'bad' then error('no') end\nreturn { alias = 'n' .. n }";
    let bench = Bench::new(&[("a.lua", &port(count))]).with(json!({"state": "state"}));
    let mut host = bench.host();
    assert_eq!(decision(&ask_port(&mut host, "tap1", "blue"))["alias"], "n1");
    assert_eq!(
        ask_port(&mut host, "bad", "blue").steps[0].outcome,
        Outcome::Error
    );
    assert_eq!(
        decision(&ask_port(&mut host, "tap1", "blue"))["alias"],
        "n2",
        "a failed call leaves no trace"
    );
    reload(&bench, &mut host);
    assert_eq!(decision(&ask_port(&mut host, "tap1", "blue"))["alias"], "n3");
    let file = bench.path("state/a.json");
    eventually("state is saved", || {
        std::fs::read_to_string(&file).is_ok_and(|text| text.contains("\"n\":3"))
    });
    drop(host);
    assert_eq!(
        decision(&ask_port(&mut bench.host(), "tap1", "blue"))["alias"],
        "n4"
    );
}

#[test]
fn state_of_another_version_goes_through_migrate_or_is_dropped() {
    let version = |n: u32, more: &str| {
        format!(
            "return {{ api = 1, state_version = {n}, {more} port = function() local n = host.state.get('n') or 0 host.state.set('n', n + 1) return {{ alias = 'n' .. n }} end }}"
        )
    };
    let bench = Bench::new(&[("a.lua", &version(1, ""))]);
    let mut host = bench.host();
    ask_port(&mut host, "tap1", "blue");
    std::fs::write(
        bench.path("a.lua"),
        version(
            2,
            "migrate = function(old, from) return { n = old.n * 100 + from } end,",
        ),
    )
    .unwrap();
    reload(&bench, &mut host);
    assert_eq!(decision(&ask_port(&mut host, "tap1", "blue"))["alias"], "n101");
    std::fs::write(bench.path("a.lua"), version(3, "")).unwrap();
    reload(&bench, &mut host);
    assert_eq!(decision(&ask_port(&mut host, "tap1", "blue"))["alias"], "n0");
}

#[test]
fn configuration_for_a_plugin_that_does_not_exist_is_refused() {
    let bench = Bench::new(&[("mtu.lua", &port(""))]).configured("mut", json!({"x": 1}));
    assert_eq!(
        bench.problem(),
        "[policy.plugin.mut]: no plugin of this name is loaded, did you mean `mtu`?"
    );
    let bench = Bench::new(&[("mtu.lua", &port(""))]).configured("mtu", json!({"x": 1}));
    assert_eq!(bench.problem(), "mtu.lua: [policy.plugin.mtu] unknown option `x`");
}

#[test]
fn a_plugin_that_is_not_required_is_left_out_and_shown() {
    let bench = Bench::new(&[("a.lua", "return {"), ("b.lua", &port("return { mtu = 1400 }"))])
        .with(json!({"limits": {"a": {"required": false}}}));
    let mut host = bench.host();
    assert_eq!(decision(&ask_port(&mut host, "tap1", "blue"))["mtu"], 1400);
    let status = host.status();
    assert_eq!((status.plugins.len(), status.left_out.len()), (1, 1));
}

#[test]
fn maps_and_modules_are_there_when_hooks_run() {
    let bench = Bench::new(&[
        ("a.lua", "local glob = require('glob')\nreturn { api = 1, port = function(ctx) return { mtu = glob.twice(host.map('mtus').blue) } end }"),
    ])
    .with(json!({"maps": {"mtus": "mtus.toml"}}));
    std::fs::create_dir(bench.path("lib")).unwrap();
    std::fs::write(
        bench.path("lib/glob.lua"),
        "return { twice = function(n) return n * 2 end }",
    )
    .unwrap();
    std::fs::write(bench.path("mtus.toml"), "blue = 700").unwrap();
    assert_eq!(
        decision(&ask_port(&mut bench.host(), "tap1", "blue"))["mtu"],
        1400
    );
}

#[test]
fn metrics_and_timers_are_the_hosts_to_serve() {
    let bench = Bench::new(&[(
        "a.lua",
        "return { api = 1, every = '30s', tick = function() host.metric.inc('ticks', nil, { kind = 'x' }) return { invalidate = { taps = 'tap*', networks = { 'blue' } } } end }",
    )]);
    let mut host = bench.host();
    assert_eq!(
        host.timers(),
        [("a".to_owned(), std::time::Duration::from_secs(30))]
    );
    let mut tick = request(Hook::Tick, 1, Default::default());
    tick.key = Subject::Plugin("a".into());
    let reply = ask(&mut host, tick.clone());
    assert_eq!(
        without_origin(decision(&reply)),
        json!({"invalidate": {"taps": ["tap*"], "networks": ["blue"]}})
    );
    ask(&mut host, tick);
    eventually("both are counted", || {
        let metrics = host.status().plugins[0].metrics.clone();
        metrics.len() == 1
            && metrics[0].name == "ticks"
            && metrics[0].labels["kind"] == "x"
            && metrics[0].value == 2.0
    });
}

#[test]
fn a_burst_of_two_thousand_taps_is_answered_completely() {
    let bench = Bench::new(&[
        ("a.lua", &port("return { mtu = 1400 }")),
        ("b.lua", &port("return { alias = ctx.link.name }")),
        ("c.lua", &port("return { port = { learning = false } }")),
    ]);
    let mut host = bench.host();
    for ifindex in 1..=2000 {
        host.ask(request(
            Hook::Port,
            u64::from(ifindex),
            context(&format!("tap{ifindex}"), ifindex, "blue"),
        ));
    }
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 2000 {
        let reply = receive(&mut host);
        assert_eq!(decision(&reply)["alias"], format!("tap{}", reply.seq));
        seen.insert(reply.seq);
    }
}
