//! One chain, asked and answered.

use crate::bench::*;
use serde_json::json;
use tapwire::policy::api::context::Port;
use tapwire::policy::api::{Context, Fallback, Hook, Outcome, Reply};
use tapwire::policy::{Asked, Host};

#[test]
fn a_port_hook_sees_its_context_and_decides() {
    let bench = Bench::new(&[(
        "mtu.lua",
        "return { api = 1, schema = { headroom = { type = 'integer', default = 50 } },\n port = function(ctx)\n  return {\n   mtu = ctx.uplink.mtu - host.config.headroom,\n   port = { learning = false } }\n end }",
    )]);
    let mut host = bench.host();
    assert!(host.has_hook(Hook::Port) && !host.has_hook(Hook::Admit));
    let reply = ask_port(&mut host, "tap1", "blue");
    let at = bench.path("mtu.lua").display().to_string();
    assert_eq!(
        decision(&reply),
        json!({"mtu": 8950, "port": {"learning": false},
               "by": {"mtu": format!("mtu {at}:4"), "port.learning": format!("mtu {at}:5")}})
    );
    assert_eq!((reply.r#gen, reply.seq), (7, 1));
}

#[test]
fn without_plugins_nobody_is_asked_and_no_thread_runs() {
    let host = Host::load(&Default::default()).unwrap();
    let Asked::Answered(reply) = host.ask(request(Hook::Port, 1, Context::default())) else {
        panic!("there is nobody to wait for")
    };
    assert!(reply.steps.is_empty());
    assert_eq!(host.pool().workers(), 0);
}

/// On one processor a worker that waits awake would be in the way of who asks.
#[test]
fn plugins_that_share_the_askers_processor_do_not_run_beside_it() {
    let on_one_processor = std::thread::spawn(|| {
        // SAFETY: a set of processors is plain bits; the kernel reads as many bytes as it is told.
        let pinned = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(usize::try_from(libc::sched_getcpu()).unwrap(), &mut set);
            libc::sched_setaffinity(0, size_of_val(&set), &set)
        };
        assert_eq!(pinned, 0, "{}", std::io::Error::last_os_error());
        // Its threads are pinned as this one is.
        let bench = Bench::new(&[("a.lua", &port("return { mtu = ctx.link.mtu }"))]);
        let mut host = bench.host();
        for _ in 0..3 {
            eventually("the worker sleeps", || host.pool().is_at_rest());
            host.stir();
            assert_eq!(decision(&ask_port(&mut host, "tap1", "blue"))["mtu"], 1500);
            assert!(!host.is_beside());
        }
    });
    on_one_processor.join().unwrap();
}

#[test]
fn a_chain_of_three_is_merged_and_each_sees_the_tags_before_it() {
    let bench = Bench::new(&[
        ("a.lua", &port("return { tags = { tier = 'gold' } }")),
        (
            "b.lua",
            &port("return { mtu = ctx.tags.tier == 'gold' and 9000 or 1500, tags = { b = 'x' } }"),
        ),
        (
            "c.lua",
            &port("return { alias = ctx.tags.tier .. ctx.tags.b, mtu = 1400 }"),
        ),
    ]);
    let mut host = bench.host();
    let reply = ask_port(&mut host, "tap1", "blue");
    let mut said = decision(&reply);
    said.as_object_mut().unwrap().remove("by");
    assert_eq!(
        said,
        json!({"mtu": 9000, "alias": "goldx", "tags": {"tier": "gold", "b": "x"}})
    );
    assert_eq!(reply.conflicts.len(), 1);
    assert_eq!(reply.conflicts[0].field, "mtu");
    assert_eq!(reply.steps.len(), 3);
}

#[test]
fn a_plugin_whose_when_does_not_match_costs_nothing() {
    let bench = Bench::new(&[(
        "a.lua",
        "return { api = 1, when = { network_type = 'vlan' }, port = function() return { mtu = 1 } end }",
    )]);
    let host = bench.host();
    assert!(matches!(
        host.ask(request(Hook::Port, 1, context("tap1", 1, "blue"))),
        Asked::Answered(_)
    ));
}

#[test]
fn an_answer_that_only_depends_on_declared_parts_is_remembered() {
    let bench = Bench::new(&[(
        "a.lua",
        "return { api = 1, reads = { 'network' }, port = function(ctx) return { mtu = ctx.network.mtu } end }",
    )]);
    let mut host = bench.host();
    assert!(!ask_port(&mut host, "tap1", "blue").steps[0].cached);
    let second = ask_port(&mut host, "tap2", "blue");
    assert!(second.steps[0].cached);
    assert_eq!(decision(&second)["mtu"], 1450);
    assert!(!ask_port(&mut host, "tap3", "green").steps[0].cached);
}

#[test]
fn an_error_denies_a_new_tap_with_the_place_and_keeps_the_last_answer_of_a_known_one() {
    let bench = Bench::new(&[(
        "a.lua",
        &port("if ctx.link.mtu == 9 then\n local x = nil + 1\nend\nreturn { mtu = 1400 }"),
    )]);
    let mut host = bench.host();
    let mut broken = context("tap1", 1, "blue");
    broken.link.as_mut().unwrap().mtu = 9;
    let reply = ask(&mut host, request(Hook::Port, 1, broken.clone()));
    let reason = decision(&reply)["deny"].as_str().unwrap().to_owned();
    assert!(
        reason.starts_with("hook port: ") && reason.contains("a.lua:3: attempt to perform"),
        "{reason}"
    );
    assert_eq!(reply.steps[0].outcome, Outcome::Error);
    assert_eq!(reply.retry_after, Some(std::time::Duration::from_secs(1)));
    ask(&mut host, request(Hook::Port, 2, context("tap1", 1, "blue")));
    let reply = ask(&mut host, request(Hook::Port, 3, broken));
    assert_eq!(decision(&reply)["mtu"], 1400);
    assert_eq!(reply.steps[0].fallback, Fallback::LastGood);
}

/// Asked all at once, so that there is no quiet moment to collect garbage in.
fn answers_in_a_row(source: &str, taps: &[&str]) -> Vec<String> {
    let bench = Bench::new(&[("a.lua", source)]).with(json!({ "memory_mib": 2, "deadline_ms": 5000 }));
    let mut host = bench.host();
    for (number, tap) in (1..).zip(taps) {
        let mut asked = context(tap, number, "blue");
        asked.port = Some(Port::default());
        let asked = host.ask(request(Hook::Port, number.into(), asked));
        assert!(matches!(asked, Asked::Pending));
    }
    let said = |reply: Reply| match &reply.steps[0].error {
        Some(error) => error.clone(),
        None => decision(&reply)["alias"].as_str().unwrap_or_default().to_owned(),
    };
    taps.iter().map(|_| said(receive(&mut host))).collect()
}

/// A script that catches its own lack of memory leaves a state without room, in which Luau collects nothing.
#[test]
fn what_one_question_wasted_is_not_missing_to_the_next() {
    let wasteful = port(
        "if ctx.link.name == 'big' then\n  pcall(function() local t = {} while true do t[#t + 1] = { #t } end end)\n  return nil\nend\nlocal list = {}\nfor n = 1, 500 do list[n] = { n } end\nreturn { alias = 'ok' }",
    );
    for _ in 0..3 {
        let said = answers_in_a_row(&wasteful, &["a", "big", "b", "big", "c", "big", "d", "big", "e"]);
        assert_eq!(said, ["ok", "", "ok", "", "ok", "", "ok", "", "ok"]);
    }
}

/// Else its state would be built anew, and forget.
#[test]
fn what_a_question_hung_onto_ctx_goes_with_it() {
    let counts = "local n = 0\nreturn { api = 1, port = function(ctx)\n  n += 1\n  if ctx.link.name == 'big' then\n    local keep = ctx.port.addresses\n    while true do keep[#keep + 1] = { #keep } end\n  end\n  return { alias = 'call ' .. n }\nend }\n";
    let said = answers_in_a_row(counts, &["a", "b", "big", "c", "d"]);
    assert_eq!(said[..2], ["call 1", "call 2"]);
    assert!(said[2].contains("out of memory, the limit is 2 MiB"), "{said:?}");
    assert_eq!(said[3..], ["call 4", "call 5"]);
}

#[test]
fn next_goes_on_after_a_part() {
    let bench = Bench::new(&[(
        "a.lua",
        &port("return { alias = tostring(next(ctx, 'link') ~= nil) }"),
    )]);
    let said = decision(&ask_port(&mut bench.host(), "tap1", "blue"));
    assert_eq!(said["alias"], "true", "{said}");
}
