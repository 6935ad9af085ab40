//! What authors of plugins get wrong, and what they are told: the place, and what to write instead.

use crate::bench::*;
use serde_json::{Value as Json, json};
use tapwire::policy::api::{Context, Hook};
use tapwire::policy::tools;

/// Which tool tells it.
enum Told {
    /// Every command that loads the file, `policy check` first of all.
    Load(&'static str),
    /// `policy check`, as a warning.
    Check(&'static str),
    /// `policy eval`, `policy test` and the daemon: the hook fails.
    Call(&'static str),
    /// `policy eval`: nothing fails, but nothing happens either.
    Eval(&'static str),
}
use Told::{Call, Check, Eval, Load};

/// A `port` hook from line 3 on.
fn hook(body: &str) -> String {
    format!("return {{\n  api = 1,\n  port = function(ctx)\n{body}\n  end,\n}}\n")
}

fn mistakes() -> Vec<(&'static str, String, Told)> {
    let file = str::to_owned;
    vec![
        (
            "a misspelt field of the verdict",
            hook("    return { mut = 1400 }"),
            Call("a.lua:4: unknown field `mut`, did you mean `mtu`?"),
        ),
        (
            "a number as text",
            hook("    return {\n      mtu = \"1400\",\n    }"),
            Call("a.lua:5: mtu: expected a whole number 68..65535, found string \"1400\""),
        ),
        (
            "a number out of range",
            hook("    return { mtu = 90000 }"),
            Call("a.lua:4: mtu: 90000 is outside 68..65535"),
        ),
        (
            "a colon instead of a dot",
            hook("    host.log:info(\"hello\")"),
            Call("a.lua:4: write host.log.info(...) with a dot, not host.log:info(...)"),
        ),
        (
            "a wrong argument",
            hook("    host.metric.inc(\"taps\", \"one\")"),
            Call("a.lua:4: host.metric.inc: argument 2 must be a number, it is string"),
        ),
        (
            "a misspelt function of host",
            hook("    host.log.warning(\"hello\")"),
            Call(
                "a.lua:4: host.log.warning: there is no such thing, known are: debug, error, info, trace, warn",
            ),
        ),
        (
            "a part that is not there",
            hook("    return { mtu = ctx.uplink.mtu - 50 }"),
            Call(
                "a.lua:4: `ctx.uplink` is nil, it has no `mtu`; parts that do not apply are nil, so test it first",
            ),
        ),
        (
            "a field that ctx does not have",
            hook("    if ctx.network.type == \"vxlan\" then return { mtu = 1450 } end"),
            Call(
                "a.lua:4: ctx.network.type: there is no such field, known are: id, name, network_type, segmentation_id, physical_network, mtu, tags",
            ),
        ),
        (
            "listing what is nil",
            hook("    for _ in pairs(ctx.uplink) do end"),
            Call("a.lua:4: invalid argument #1 to 'pairs' (table expected, got nil)"),
        ),
        (
            "a misspelt part of ctx",
            hook("    return { mtu = ctx.netwrok.mtu }"),
            Call("a.lua:4: ctx.netwrok: there is no such field, did you mean `network`?"),
        ),
        (
            "a part that `reads` leaves out",
            hook("    return { alias = ctx.link.name }")
                .replace("api = 1", "api = 1, reads = { \"network\" }"),
            Call("a.lua:4: ctx.link: `reads` does not list it; write `reads = { ..., \"link\" }`"),
        ),
        (
            "a global instead of a local",
            hook("    mtu = 1400\n    return { mtu = mtu }"),
            Call("a.lua:4: assignment to global `mtu`; write `local mtu = ...`"),
        ),
        (
            "a misspelt library",
            hook("    return { alias = strng.upper(ctx.link.name) }"),
            Call("a.lua:4: unknown global `strng`, did you mean `string`?"),
        ),
        (
            "a local function used above its place",
            hook("    return { mtu = pick(ctx) }"),
            Call("a.lua:4: unknown global `pick`; a local is known below its `local` only"),
        ),
        (
            "a file opened",
            hook("    local macs = io.open(\"/etc/macs\")"),
            Call("a.lua:4: unknown global `io`; tables from files come with host.map(name)"),
        ),
        (
            "acting instead of returning",
            hook("    ctx.link.mtu = 1400"),
            Call(
                "a.lua:4: attempt to modify a readonly table; ctx, host and the libraries can't be written, a hook says what it wants by what it returns",
            ),
        ),
        (
            "a text returned",
            hook("    return \"1400\""),
            Call("a.lua:3: the hook returned a string; it must return a table of what it wants, or nil"),
        ),
        (
            "nothing returned",
            hook("    local verdict = { mtu = 1400 }"),
            Check("   warning: a.lua:3: hook port has no `return`, so it never decides anything"),
        ),
        (
            "one forwarding entry without its own braces",
            hook("    return { fdb = { mac = \"fa:16:3e:00:00:05\" } }"),
            Call(
                "a.lua:4: fdb: expected a list (one entry is written { { ... } }), found table with keys {\"mac\":\"fa:16:3e:00:00:05\"}",
            ),
        ),
        (
            "half an address",
            hook("    return { fdb = { { mac = \"fa:16:3e:00:00\" } } }"),
            Call(
                "a.lua:4: fdb[1].mac: mac address \"fa:16:3e:00:00\" is not six hexadecimal pairs aa:bb:cc:dd:ee:ff",
            ),
        ),
        (
            "a flag of the port beside `port`",
            hook("    return { learning = false }"),
            Call("a.lua:4: unknown field `learning`; port flags are written port = { learning = ... }"),
        ),
        (
            "a bridge's option for a tap",
            hook("    return { bridge = { mtu = 9000 } }"),
            Call("a.lua:4: unknown field `bridge`; it is decided by the hook `network`"),
        ),
        (
            "a veto without a reason",
            hook("    return { deny = true }"),
            Call("a.lua:4: deny: expected a string, found boolean true"),
        ),
        (
            "a misspelt option of its own",
            hook("    return { mtu = 1500 - host.config.headrom }").replace(
                "api = 1",
                "api = 1, schema = { headroom = { type = \"integer\", default = 50 } }",
            ),
            Call("a.lua:4: host.config.headrom: the schema has no such option, did you mean `headroom`?"),
        ),
        (
            "a copy of ctx",
            hook("    local copy = table.clone(ctx)\n    return { mtu = copy.link.mtu }"),
            Call(
                "a.lua:4: ctx and its parts can't be cloned; take what you need of them, `local link = ctx.link`",
            ),
        ),
        (
            "a copy of a part of ctx",
            hook("    return { mtu = table.clone(ctx.link).mtu }"),
            Call(
                "a.lua:4: ctx and its parts can't be cloned; take what you need of them, `local link = ctx.link`",
            ),
        ),
        (
            "a misspelt name beside the parts",
            hook("    if ctx.hok == \"port\" then return nil end"),
            Call("a.lua:4: ctx.hok: there is no such field, did you mean `hook`?"),
        ),
        (
            "a table raised",
            hook("    error({ code = 5 })"),
            Call("a.lua:4: it raised a table, which says nothing; raise a text, error(\"...\")"),
        ),
        (
            "an error blamed on the caller",
            hook("    error(\"not for me\", 2)"),
            Call("a.lua:4: not for me"),
        ),
        (
            "nothing raised",
            hook("    error()"),
            Call("a.lua:4: it raised nil, which says nothing; raise a text, error(\"...\")"),
        ),
        (
            "an endless loop",
            hook("    local n = 0\n    while n < 1 do end"),
            Call("a.lua:5: stopped after 20 ms of CPU time"),
        ),
        (
            "an endless loop in a function of a library",
            hook("    local text = (\"a\"):rep(40)\n    return text:find((\"a*\"):rep(30) .. \"b\")"),
            Call("a.lua:5: stopped after 20 ms of CPU time"),
        ),
        (
            "a number returned",
            hook("    return 1400"),
            Call("a.lua:3: the hook returned a number; it must return a table of what it wants, or nil"),
        ),
        (
            "an endless loop in the file",
            file("local n = 0\nwhile n < 1 do end\nreturn { api = 1 }"),
            Load("a.lua:2: stopped while loading: its CPU time is used up"),
        ),
        (
            "a misspelt field in `overrides`",
            hook("    return nil").replace("api = 1", "api = 1, overrides = { \"port.lerning\" }"),
            Load(
                "a.lua:2: overrides[1]: no hook returns a field `port.lerning`, did you mean `port.learning`?",
            ),
        ),
        (
            "a misspelt field of the file's table",
            hook("    return nil").replace("  api = 1", "  api = 1, oneror = \"skip\""),
            Load("a.lua:2: unknown field `oneror`, did you mean `on_error`?"),
        ),
        (
            "a local left out where no test comes",
            hook("    if ctx.link.mtu == 9 then seen = true end\n    return nil"),
            Check("   warning: a.lua:4: assignment to global `seen`; write `local seen = ...`"),
        ),
        (
            "a misspelt library where no test comes",
            hook("    if ctx.link.mtu == 9 then return { alias = strng.upper(\"a\") } end"),
            Check("   warning: a.lua:4: unknown global `strng`, did you mean `string`?"),
        ),
        (
            "a veto that does not say why",
            hook("    return { deny = \"\" }"),
            Call("a.lua:4: deny: say why, for who asks why the tap is not attached"),
        ),
        (
            "a misspelt hook",
            hook("    return nil").replace("port =", "prot ="),
            Load("a.lua:3: there is no hook `prot`, did you mean `port`?"),
        ),
        (
            "a hook that is no function",
            file("return {\n  api = 1,\n  port = { mtu = 1400 },\n}"),
            Load("a.lua:3: `port` is a hook, so a function: port = function(ctx) return ... end"),
        ),
        (
            "no version",
            hook("    return nil").replace("  api = 1,\n", ""),
            Load("a.lua: api: missing; write `api = 1`"),
        ),
        (
            "a file that does not return its table",
            file("local plugin = { api = 1, port = function(ctx) return nil end }"),
            Load(
                "a.lua: the file must return a table, it returned nil; does it end with `return { api = 1, ... }`?",
            ),
        ),
        (
            "a missing end",
            hook("    if ctx.network then\n      return { mtu = 1400 }"),
            Load(
                "a.lua:6: Expected identifier when parsing expression, got ','; is an `end`, `}` or `)` missing before it?",
            ),
        ),
        (
            "another language's operator",
            hook("    if ctx.network.mtu != 1500 then return { mtu = 1400 } end"),
            Load("a.lua:4: Unexpected '!='; did you mean '~='?"),
        ),
        (
            "an unknown type in the schema",
            hook("    return nil").replace(
                "  api = 1,",
                "  api = 1,\n  schema = { headroom = { type = \"int\" } },",
            ),
            Load(
                "a.lua:3: schema.headroom.type: `int` is not one of boolean, integer, number, string, list, table",
            ),
        ),
        (
            "a misspelt network in `when`",
            hook("    return { mtu = 9000 }").replace("api = 1", "api = 1, when = { network = \"sotrage\" }"),
            Check("   warning: when.network: no network `sotrage` is configured, did you mean `storage`?"),
        ),
        (
            "a `when` that does not match",
            hook("    return { mtu = 9000 }").replace("api = 1", "api = 1, when = { network = \"sotrage\" }"),
            Eval("a was not asked: its `when` does not match"),
        ),
    ]
}

/// A local network's tap, of which little is known.
fn question() -> Context {
    let value: Json = json!({
        "hook": "port",
        "link": { "ifindex": 7, "name": "tap1", "mtu": 1500, "kind": "tap" },
        "port": { "admin_state_up": true },
        "network": { "id": "storage", "network_type": "local" },
    });
    serde_json::from_value(value).unwrap()
}

#[test]
fn every_mistake_is_told_with_its_place_and_what_to_write() {
    let mut wrong = Vec::new();
    for (what, source, told) in mistakes() {
        let bench = Bench::new(&[("a.lua", &source)]);
        let shown = |lines: &[String]| -> Vec<String> {
            let directory = format!("{}/", bench.dir.path().display());
            lines.iter().map(|line| line.replace(&directory, "")).collect()
        };
        let networks = ["storage".to_owned()];
        let check = tools::check(&[], &bench.config, &networks);
        let (expected, lines) = match told {
            Load(text) => (text.to_owned(), shown(&check.lines)),
            Check(text) => (text.to_owned(), shown(&check.lines)),
            Call(text) => {
                assert_eq!(check.code, 0, "{what}: {check}");
                let evaluation = tools::eval(&bench.config, Hook::Port, question());
                assert_eq!(evaluation.report.code, 1, "{what}: {}", evaluation.report);
                let failed = shown(&evaluation.report.lines).into_iter().filter_map(|line| {
                    line.split_once(", fallback deny: ")
                        .map(|(_, error)| error.to_owned())
                });
                (text.to_owned(), failed.collect())
            }
            Eval(text) => {
                let evaluation = tools::eval(&bench.config, Hook::Port, question());
                (text.to_owned(), shown(&evaluation.report.lines))
            }
        };
        if !lines.contains(&expected) {
            wrong.push(format!(
                "{what}:\n  want {expected}\n  got  {}",
                lines.join("\n       ")
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_plugin_without_mistakes_has_no_warning() {
    let bench = Bench::new(&[("a.lua", &hook("    return { mtu = 1400 }"))]);
    let check = tools::check(&[], &bench.config, &["storage".to_owned()]);
    assert!(!check.to_string().contains("warning"), "{check}");
    let shipped = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins");
    let check = tools::check(&[shipped], &tapwire::config::PolicySettings::default(), &[]);
    assert!(
        check.code == 0 && !check.to_string().contains("warning"),
        "{check}"
    );
}
