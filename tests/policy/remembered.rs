//! Answers from memory: given only where the plugin itself would say the same.

use crate::bench::*;
use serde_json::{Value as Json, json};
use std::sync::Arc;
use tapwire::policy::api::context::{Link, NetworkType, Port, Reason};
use tapwire::policy::api::{Context, Hook, Outcome, Reply};

/// One plugin that declares to read all parts that can be compared.
fn declared(body: &str) -> Bench {
    Bench::new(&[("a.lua", &reading("'link', 'port', 'network', 'uplink'", body))])
}

fn reading(parts: &str, body: &str) -> String {
    format!("return {{ api = 1, reads = {{ {parts} }}, port = function(ctx)\n{body}\nend }}")
}

/// The first reply's step of the only plugin.
fn was_cached(bench: &Bench, questions: &[Context]) -> Vec<bool> {
    let mut host = bench.host();
    let ask = |context: &Context| {
        let reply = ask(&mut host, request(Hook::Port, 1, context.clone()));
        assert_eq!(reply.steps[0].error, None);
        reply.steps[0].cached
    };
    questions.iter().map(ask).collect()
}

fn error_of(source: &str, context: Context) -> String {
    let bench = Bench::new(&[("a.lua", source)]);
    let reply = ask(&mut bench.host(), request(Hook::Port, 1, context));
    assert_eq!(reply.steps[0].outcome, Outcome::Error);
    let error = reply.steps[0].error.clone().unwrap();
    error.replace(&format!("{}/", bench.dir.path().display()), "")
}

#[test]
fn an_answer_counts_for_all_taps_as_long_as_the_tap_was_not_looked_at() {
    let bench =
        declared("if ctx.network.id ~= 'guests' then return nil end\nreturn { alias = ctx.link.name }");
    let taps = [
        context("tap1", 1, "blue"),
        context("tap2", 2, "blue"),
        context("tap3", 3, "guests"),
        context("tap4", 4, "guests"),
        context("tap3", 3, "guests"),
        context("tap5", 5, "blue"),
        context("tap6", 6, "green"),
    ];
    let expected = vec![false, true, false, false, true, true, false];
    assert_eq!(was_cached(&bench, &taps), expected);
}

#[test]
fn a_part_that_is_absent_was_looked_at_all_the_same() {
    let bench = declared("if ctx.port then return { alias = ctx.port.id } end\nreturn nil");
    let mut with_port = context("tap1", 1, "blue");
    with_port.port = Some(Port {
        id: Some("p".into()),
        ..Port::default()
    });
    let questions = [context("tap1", 1, "blue"), with_port, context("tap1", 1, "blue")];
    assert_eq!(was_cached(&bench, &questions), vec![false, false, true]);
}

/// What is written, counted or kept besides must happen again, and what changes by itself is no input to compare.
#[test]
fn an_answer_with_anything_besides_is_not_remembered() {
    let twice = [context("tap1", 1, "blue"), context("tap1", 1, "blue")];
    for body in [
        "host.log.info('hello')",
        "print('hello')",
        "for i = 1, 30 do host.log.debug(i) end",
        "host.metric.inc('answers')",
        "host.state.set('n', 1)",
        "local n = host.state.get('n')",
        "local now = ctx.now",
        "local why = ctx.reason",
        "local tags = ctx.tags",
    ] {
        let body = format!("{body}\nreturn {{ mtu = 1400 }}");
        let source = reading("'now', 'reason', 'tags'", &body);
        let bench = Bench::new(&[("a.lua", &source)]);
        assert_eq!(was_cached(&bench, &twice), vec![false, false], "{body}");
    }
    // Declared but not looked at: that is no input.
    let bench = Bench::new(&[(
        "a.lua",
        &reading("'now', 'tags', 'network'", "return { mtu = 1400 }"),
    )]);
    assert_eq!(was_cached(&bench, &twice), vec![false, true]);
    // Without `reads` nothing is known of what it looks at.
    let bench = Bench::new(&[("a.lua", &port("return { mtu = 1400 }"))]);
    assert_eq!(was_cached(&bench, &twice), vec![false, false]);
}

/// The same script with and without `reads`, asked the same questions: what differs is only who answers.
#[test]
fn a_remembered_answer_is_what_the_plugin_would_say() {
    const BODIES: [&str; 6] = [
        "if ctx.network.mtu then return { mtu = ctx.network.mtu } end\nreturn { mtu = ctx.link.mtu }",
        "local ok, name = pcall(function() return ctx.link.name end)\nif ok and name == 'tap2' then return { deny = 'two' } end",
        "local part = ({ 'link', 'port', 'uplink' })[ctx.network.mtu % 3 + 1]\nlocal found = ctx[part]\nlocal value = found and (part == 'port' and found.id or part ~= 'port' and found.mtu)\nreturn { alias = value and part .. value or 'none' }",
        "local n = 0\nfor _ in pairs(ctx.network) do n = n + 1 end\nreturn { tx_queue_len = n + ctx.link.mtu }",
        "local get = coroutine.wrap(function() coroutine.yield(ctx.port and ctx.port.id) end)\nreturn { alias = get() or ctx.network.id }",
        "local sum = 0\nfor _, part in ipairs({ 'uplink', 'link', 'network' }) do\n if ctx[part] then sum = sum + (ctx[part].mtu or 0) end\n if sum > 3000 then return { tx_queue_len = sum } end\nend\nreturn { tx_queue_len = ctx.link.ifindex }",
    ];
    let mut random = 88_172_645_463_325_252_u64;
    let mut draw = |n: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % n
    };
    for body in BODIES {
        let with = declared(body);
        let without = Bench::new(&[("a.lua", &port(body))]);
        let (mut with, mut without) = (with.host(), without.host());
        let mut cached = 0;
        for seq in 1..400 {
            let tap = 1 + u32::try_from(draw(3)).unwrap();
            let mut question = context(&format!("tap{tap}"), tap, ["blue", "green"][draw(2) as usize]);
            question.reason = [Reason::New, Reason::Change][draw(2) as usize];
            question.now = seq as f64;
            question.link.as_mut().unwrap().mtu = [1400, 1500][draw(2) as usize];
            let mut network = (*network("blue", NetworkType::Vlan)).clone();
            network.mtu = [Some(1450), Some(1451), Some(1452)][draw(3) as usize];
            question.network = Some(network.into());
            if draw(2) == 0 {
                question.uplink = None;
            }
            if draw(2) == 0 {
                let id = Some(format!("p{tap}"));
                question.port = Some(Port {
                    id,
                    ..Port::default()
                });
            }
            let fresh = ask(&mut without, request(Hook::Port, seq, question.clone()));
            let reply = ask(&mut with, request(Hook::Port, seq, question.clone()));
            let plain = |reply| {
                let mut said = decision(reply);
                said.as_object_mut().unwrap().remove("by");
                (said, reply.steps[0].error.is_some())
            };
            assert_eq!(plain(&reply), plain(&fresh), "{body}\n{question:?}");
            cached += usize::from(reply.steps[0].cached);
        }
        assert!(cached > 150, "hardly ever remembered ({cached}): {body}");
    }
}

/// A walk over `ctx` shows what was named before, so what was not named can't be in the answer.
#[test]
fn a_walk_over_ctx_shows_only_parts_that_were_named() {
    let bench = declared(
        "local name = ctx.network.id\nlocal seen = {}\nfor part in pairs(ctx) do table.insert(seen, part) end\ntable.sort(seen)\nreturn { alias = table.concat(seen, ' ') }",
    );
    let mut host = bench.host();
    let said = decision(&ask_port(&mut host, "tap1", "blue"));
    assert_eq!(said["alias"], "api hook network");
}

/// Luau's own way to walk over a table finds what `pairs` finds.
#[test]
fn a_walk_without_pairs_shows_the_same_parts() {
    let walk = |over: &str| {
        format!(
            "local seen = {{}}\nfor part in {over} do table.insert(seen, part) end\ntable.sort(seen)\nreturn {{ alias = table.concat(seen, ' ') }}"
        )
    };
    let listed = |bench: Bench| {
        let said = decision(&ask_port(&mut bench.host(), "tap1", "blue"));
        said["alias"].as_str().unwrap().to_owned()
    };
    let plain = |over: &str| listed(Bench::new(&[("a.lua", &port(&walk(over)))]));
    let all = plain("pairs(ctx)");
    assert!(all.contains("link network"), "{all}");
    assert_eq!(plain("ctx"), all);
    let named = format!("local name = ctx.network.id\n{}", walk("ctx"));
    assert_eq!(listed(declared(&named)), "api hook network");
}

#[test]
fn the_link_has_all_its_fields() {
    let bench = Bench::new(&[(
        "a.lua",
        &port(
            "local said = {}\nfor name, value in ctx.link do table.insert(said, name .. '=' .. tostring(value)) end\ntable.sort(said)\nreturn { tags = { link = table.concat(said, ' ') } }",
        ),
    )]);
    let mut asked = context("tap1", 7, "blue");
    asked.link = Some(Link {
        ifindex: 7,
        name: "tap1".into(),
        mac: Some("fa:16:3e:00:00:07".into()),
        mtu: 1450,
        kind: "tap".into(),
        alias: Some("vm 7".into()),
        operstate: Some("down".into()),
        up: true,
        master: Some("br1".into()),
    });
    let said = decision(&ask(&mut bench.host(), request(Hook::Port, 1, asked)));
    assert_eq!(
        said["tags"]["link"],
        "alias=vm 7 ifindex=7 kind=tap mac=fa:16:3e:00:00:07 master=br1 mtu=1450 name=tap1 operstate=down up=true"
    );
}

#[test]
fn a_part_that_reads_does_not_list_is_an_error_with_the_remedy() {
    let source = reading("'network'", "return { mtu = ctx.link.mtu }");
    assert_eq!(
        error_of(&source, context("tap1", 1, "blue")),
        "a.lua:2: ctx.link: `reads` does not list it; write `reads = { ..., \"link\" }`"
    );
}

#[test]
fn a_name_that_ctx_does_not_have_is_an_error_and_a_field_that_is_absent_is_nil() {
    let error = |body: &str| error_of(&port(body), context("tap1", 1, "blue"));
    assert_eq!(
        error("return { mtu = ctx.netwrok.mtu }"),
        "a.lua:2: ctx.netwrok: there is no such field, did you mean `network`?"
    );
    assert_eq!(
        error("return { mtu = ctx.network.mut }"),
        "a.lua:2: ctx.network.mut: there is no such field, did you mean `mtu`?"
    );
    let unknown = error("return { mtu = ctx.link.speed_of_light }");
    assert!(
        unknown.starts_with(
            "a.lua:2: ctx.link.speed_of_light: there is no such field, known are: ifindex, name, "
        ),
        "{unknown}"
    );
    let bench = Bench::new(&[(
        "a.lua",
        &port("return { alias = tostring(ctx.port) .. tostring(ctx.link.master) }"),
    )]);
    assert_eq!(
        decision(&ask_port(&mut bench.host(), "tap1", "blue"))["alias"],
        json!("nilnil")
    );
}

/// Who keeps a `ctx` would read another tap's parts from it.
#[test]
fn a_ctx_of_an_earlier_call_gives_nothing_any_more() {
    let body = "if kept then return { alias = kept.link.name } end\nkept = ctx.network and ctx";
    let source = format!("local kept\n{}", reading("'link', 'network'", body));
    let bench = Bench::new(&[("a.lua", &source)]);
    let mut host = bench.host();
    ask_port(&mut host, "tap1", "blue");
    let reply = ask_port(&mut host, "tap2", "green");
    let error = reply.steps[0].error.clone().unwrap_or_default();
    assert!(
        error.ends_with("this ctx is of an earlier call; don't keep it"),
        "{error}"
    );
}

/// Every tap another answer: what is remembered stays bounded, and stays right.
#[test]
fn memory_of_answers_is_bounded() {
    let bench = declared("return { alias = ctx.link.name }");
    let mut host = bench.host();
    let mut said = |n: u32| {
        let reply = ask(
            &mut host,
            request(Hook::Port, 1, context(&format!("tap{n}"), n, "blue")),
        );
        let alias: Json = decision(&reply)["alias"].clone();
        assert_eq!(alias, json!(format!("tap{n}")));
        reply.steps[0].cached
    };
    assert!((0..3000).all(|n| !said(n)));
    assert!(said(2999), "the last one is still known");
    assert!(!said(0), "the first one was forgotten");
}

/// Answers said again are neither converted nor merged again: it must not show. Seven kinds of taps are more than any memory
/// of late answers holds apart.
#[test]
fn an_answer_is_the_taps_own_whatever_was_said_before() {
    let bench = Bench::new(&[
        (
            "a.lua",
            &port(
                "if ctx.network.id == 'n0' then return { mtu = 1400, port = { learning = false } } end
                 if ctx.link.ifindex % 3 == 0 then return { mtu = 1400 + ctx.link.ifindex } end
                 if ctx.link.ifindex % 3 == 1 then return { port = { isolated = true } } end",
            ),
        ),
        (
            "b.lua",
            &port(
                "if ctx.link.ifindex % 2 == 0 then return nil end
                 return { mtu = 1300, fdb = { { mac = 'fa:16:3e:00:00:07' } }, alias = ctx.network.id }",
            ),
        ),
    ]);
    let question = |n: u32| context(&format!("tap{n}"), n % 7, &format!("n{}", n % 4));
    let told = |reply: &Reply| (decision(reply), reply.conflicts.to_vec());
    let mut host = bench.host();
    let mut kinds = std::collections::BTreeMap::new();
    for n in 0..140 {
        // Out of step, so that the seven kinds come in changing order.
        let n = n * n + n / 3;
        let reply = ask(&mut host, request(Hook::Port, 1, question(n)));
        let fresh = || told(&ask(&mut bench.host(), request(Hook::Port, 1, question(n))));
        let expected = kinds.entry((n % 7, n % 4)).or_insert_with(fresh);
        assert_eq!(told(&reply), *expected, "tap{n}");
    }
    assert!(kinds.len() > 7, "{}", kinds.len());
    assert!(kinds.values().any(|(_, conflicts)| !conflicts.is_empty()));
}

#[test]
fn taps_that_are_told_the_same_share_the_answer() {
    let bench = Bench::new(&[
        (
            "a.lua",
            &port("return { mtu = 1400, port = { learning = false } }"),
        ),
        (
            "b.lua",
            &port("return { fdb = { { mac = 'fa:16:3e:00:00:07' } } }"),
        ),
    ]);
    let mut host = bench.host();
    let first = ask_port(&mut host, "tap1", "blue");
    let second = ask_port(&mut host, "tap2", "green");
    assert!(!first.steps[0].cached && !second.steps[0].cached);
    assert!(Arc::ptr_eq(&first.decision, &second.decision));
}
