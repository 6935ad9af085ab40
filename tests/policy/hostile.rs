//! Hostile and clumsy plugins, `tests/hostile/*.lua`: each runs in a host next to an innocent plugin and an innocent
//! tap. The innocent tap is answered first, the process lives, the memory comes back, and the outcome is as the table
//! says.

use crate::bench::*;
use std::path::Path;
use std::time::Instant;
use tapwire::policy::api::{Fallback, Hook, Outcome, Reply};
use tapwire::policy::{Asked, Host};

/// What has to become of a plugin.
#[derive(Debug, Clone, Copy)]
enum Expect {
    /// It is not loaded, and the problem says this.
    Refused(&'static str),
    /// Its hook ends like this, or at its deadline.
    Ends(Outcome),
    /// It may fail in more than one way (or be harmless), depending on which limit it meets first.
    Contained,
}
use Expect::{Contained, Ends, Refused};

const CASES: &[(&str, Expect)] = &[
    ("c_sort_invalid", Contained),
    ("c_sort_loop", Ends(Outcome::Deadline)),
    ("c_string_byte", Ends(Outcome::Error)),
    ("c_string_reverse", Contained),
    ("c_table_insert_front", Ends(Outcome::Deadline)),
    ("c_table_move", Ends(Outcome::Error)),
    ("c_table_move_far", Ends(Outcome::Error)),
    ("c_utf8_loop", Ends(Outcome::Deadline)),
    ("coroutine_close_loop", Ends(Outcome::Deadline)),
    ("coroutine_loop", Ends(Outcome::Deadline)),
    ("coroutine_many", Ends(Outcome::Deadline)),
    ("coroutine_ping_pong", Ends(Outcome::Deadline)),
    ("coroutine_recursion", Contained),
    ("coroutine_resume_itself", Ends(Outcome::Error)),
    ("coroutine_wrap_nesting", Ends(Outcome::Error)),
    ("coroutine_yield_from_hook", Ends(Outcome::Error)),
    ("error_huge_message", Contained),
    ("error_in_a_loop", Ends(Outcome::Deadline)),
    ("error_misspelt_field", Ends(Outcome::Error)),
    ("error_nil", Ends(Outcome::Error)),
    ("error_table", Ends(Outcome::Error)),
    ("escape_collectgarbage", Ends(Outcome::Error)),
    ("escape_context", Ends(Outcome::Error)),
    ("escape_debug", Ends(Outcome::Error)),
    ("escape_g_table", Ends(Outcome::Error)),
    ("escape_globals", Ends(Outcome::Error)),
    ("escape_host_table", Ends(Outcome::Error)),
    ("escape_io", Ends(Outcome::Error)),
    ("escape_loadstring", Ends(Outcome::Error)),
    ("escape_newproxy", Ends(Outcome::Error)),
    ("escape_os", Ends(Outcome::Error)),
    ("escape_random", Ends(Outcome::Error)),
    ("escape_rawset_library", Ends(Outcome::Error)),
    ("escape_require", Ends(Outcome::Error)),
    ("escape_unknown_global_huge", Ends(Outcome::Error)),
    ("host_bad_cidr", Ends(Outcome::Error)),
    ("host_log_flood", Ends(Outcome::Deadline)),
    ("host_map_huge_name", Ends(Outcome::Error)),
    ("host_metric_label_flood", Ends(Outcome::Error)),
    ("host_metric_nan", Ends(Outcome::Error)),
    ("host_state_bytes_flood", Ends(Outcome::Error)),
    ("host_state_flood", Ends(Outcome::Error)),
    ("host_state_too_large", Ends(Outcome::Invalid)),
    ("host_unknown_map", Ends(Outcome::Error)),
    ("load_future_api", Refused("not served")),
    ("load_loop", Refused("CPU time")),
    ("load_memory", Refused("memory")),
    ("load_nested_expression", Refused("")),
    ("load_no_api", Refused("api")),
    ("load_no_table", Refused("must return a table")),
    ("load_reads_config", Refused("inside a hook")),
    ("load_recursion", Refused("")),
    ("load_syntax", Refused("load_syntax.lua:5")),
    ("load_trap_table", Refused("")),
    ("load_unknown_field", Refused("did you mean `when`")),
    ("load_unknown_hook", Refused("did you mean `port`")),
    ("loop_empty", Ends(Outcome::Deadline)),
    ("loop_generic_for", Ends(Outcome::Deadline)),
    ("loop_nested_functions", Ends(Outcome::Deadline)),
    ("loop_numeric_for", Ends(Outcome::Deadline)),
    ("loop_repeat", Ends(Outcome::Deadline)),
    ("loop_tail_recursion", Ends(Outcome::Deadline)),
    ("memory_concat", Contained),
    ("memory_coroutines_kept", Contained),
    ("memory_format", Contained),
    ("memory_keep_and_catch", Contained),
    ("memory_pcall_growth", Ends(Outcome::Deadline)),
    ("memory_split", Contained),
    ("memory_string_doubling", Ends(Outcome::Memory)),
    ("memory_string_rep", Ends(Outcome::Memory)),
    ("memory_table_create", Contained),
    ("memory_table_growth", Contained),
    ("memory_unpack", Ends(Outcome::Error)),
    ("memory_upvalue_leak", Contained),
    ("metamethod_call_chain", Contained),
    ("metamethod_eq_loop", Ends(Outcome::Deadline)),
    ("metamethod_index_loop", Ends(Outcome::Deadline)),
    ("metamethod_iter_trap", Ends(Outcome::Answered)),
    ("metamethod_len_insert", Contained),
    ("metamethod_tostring_error", Contained),
    ("metamethod_trap_in_result", Ends(Outcome::Answered)),
    ("metatable_of_environment", Ends(Outcome::Error)),
    ("metatable_of_strings", Ends(Outcome::Error)),
    ("pattern_backtracking", Ends(Outcome::Deadline)),
    ("pattern_balance", Ends(Outcome::Deadline)),
    ("pattern_csv", Ends(Outcome::Deadline)),
    ("pattern_gmatch", Ends(Outcome::Deadline)),
    ("pattern_gsub_in_pcall", Ends(Outcome::Deadline)),
    ("pattern_lazy", Ends(Outcome::Deadline)),
    ("pattern_malformed", Ends(Outcome::Error)),
    ("pcall_loop_inside", Ends(Outcome::Deadline)),
    ("pcall_nested", Ends(Outcome::Deadline)),
    ("pcall_retry", Ends(Outcome::Deadline)),
    ("pcall_string_building", Ends(Outcome::Deadline)),
    ("pcall_swallows_and_answers", Ends(Outcome::Deadline)),
    ("recursion_concat", Ends(Outcome::Error)),
    ("recursion_gsub", Ends(Outcome::Error)),
    ("recursion_metamethod", Ends(Outcome::Error)),
    ("recursion_pcall", Contained),
    ("recursion_plain", Ends(Outcome::Error)),
    ("recursion_sort", Ends(Outcome::Error)),
    ("recursion_tostring", Ends(Outcome::Error)),
    ("result_10000_fdb_entries", Ends(Outcome::Invalid)),
    ("result_bad_mac", Ends(Outcome::Invalid)),
    ("result_boolean_key", Ends(Outcome::Invalid)),
    ("result_coroutine", Ends(Outcome::Invalid)),
    ("result_cyclic", Ends(Outcome::Invalid)),
    ("result_deep", Ends(Outcome::Invalid)),
    ("result_fdb_without_braces", Ends(Outcome::Invalid)),
    ("result_flag_at_top", Ends(Outcome::Invalid)),
    ("result_function", Ends(Outcome::Invalid)),
    ("result_huge_field_name", Ends(Outcome::Invalid)),
    ("result_infinite", Ends(Outcome::Invalid)),
    ("result_large_string", Ends(Outcome::Invalid)),
    ("result_list_with_hole", Ends(Outcome::Invalid)),
    ("result_mixed_table", Ends(Outcome::Invalid)),
    ("result_mtu_1e9", Ends(Outcome::Invalid)),
    ("result_mtu_fraction", Ends(Outcome::Invalid)),
    ("result_mtu_string", Ends(Outcome::Invalid)),
    ("result_multicast_fdb", Ends(Outcome::Invalid)),
    ("result_nan", Ends(Outcome::Invalid)),
    ("result_not_a_table", Ends(Outcome::Invalid)),
    ("result_not_utf8", Ends(Outcome::Invalid)),
    ("result_unknown_field", Ends(Outcome::Invalid)),
    ("xpcall_handler_loops", Ends(Outcome::Deadline)),
    ("xpcall_handler_recursion", Ends(Outcome::Deadline)),
];

/// An innocent neighbour in the same chain.
const INNOCENT: &str =
    "return { api = 1, port = function(ctx) return { tags = { seen = ctx.link.name } } end }";
const EVIL_TAP: u32 = 666;
const GOOD_TAP: u32 = 7;

fn directory() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile")
}

/// Runs one plugin; the error says what was not as expected.
fn run(name: &str, expect: Expect) -> Result<(), String> {
    let text = std::fs::read_to_string(directory().join(format!("{name}.lua"))).map_err(|e| e.to_string())?;
    // Twice the default: on a loaded machine the innocent tap still gets the processor before that is used up.
    let bench = Bench::new(&[(&format!("{name}.lua"), &text), ("innocent.lua", INNOCENT)])
        .with(serde_json::json!({"deadline_ms": 40}));
    let mut host = match (bench.try_host(), expect) {
        (Err(report), Refused(part)) => {
            let report = report.to_string();
            return if report.contains(part) {
                Ok(())
            } else {
                Err(format!("refused, but because of: {report}"))
            };
        }
        (Err(report), _) => return Err(format!("not loaded: {report}")),
        (Ok(_), Refused(_)) => return Err("was loaded".into()),
        (Ok(host), _) => host,
    };
    let Asked::Pending = host.ask(request(Hook::Port, 1, context("evil0", EVIL_TAP, "black"))) else {
        return Err("nobody was asked".into());
    };
    let asked_at = Instant::now();
    let Asked::Pending = host.ask(request(Hook::Port, 2, context("good0", GOOD_TAP, "green"))) else {
        return Err("the innocent tap was not asked about".into());
    };
    let first = receive(&mut host);
    let second_at = asked_at.elapsed();
    let second = receive(&mut host);
    let (evil, good) = if first.seq == 1 {
        (&first, &second)
    } else {
        (&second, &first)
    };
    if decision(good)["tags"]["seen"] != "good0" {
        return Err(format!("the innocent tap got {:?}", good.decision));
    }
    check(evil, good, expect)?;
    if evil.steps[0].outcome == Outcome::Deadline && first.seq == 1 {
        return Err(format!(
            "the innocent tap waited {second_at:?} behind the hostile one"
        ));
    }
    level(&mut host)
}

fn check(evil: &Reply, good: &Reply, expect: Expect) -> Result<(), String> {
    let step = &evil.steps[0];
    match expect {
        // On a slow machine the deadline may come before the mistake.
        Ends(outcome) if outcome.is_failure() && step.outcome == Outcome::Deadline => {}
        Ends(outcome) if step.outcome != outcome => return Err(format!("ended as {step:?}")),
        Contained if step.outcome == Outcome::Wedged => return Err(format!("ended as {step:?}")),
        _ => {}
    }
    if step.outcome.is_failure() {
        let reason = decision(evil)["deny"].as_str().unwrap_or_default().to_owned();
        if step.fallback != Fallback::Deny || !reason.contains("hook port") {
            return Err(format!("failed, but the tap was told {:?}", evil.decision));
        }
    }
    // The neighbour in the chain answers for the hostile tap too.
    if evil.steps.get(1).is_none_or(|s| s.outcome != Outcome::Answered) || good.steps.len() != 1 {
        return Err(format!("the innocent plugin: {:?} {:?}", evil.steps, good.steps));
    }
    Ok(())
}

/// Asked again it may fail again, but it answers; and its state does not keep what it ate.
fn level(host: &mut Host) -> Result<(), String> {
    for seq in 3..6 {
        ask(
            host,
            request(Hook::Port, seq, context("evil0", EVIL_TAP, "black")),
        );
    }
    let reply = ask(host, request(Hook::Port, 9, context("good0", GOOD_TAP, "green")));
    if decision(&reply)["tags"]["seen"] != "good0" {
        return Err(format!("afterwards the innocent tap got {:?}", reply.decision));
    }
    let memory = host.status().plugins[0].memory_bytes;
    if memory > 17 << 20 {
        Err(format!("holds {memory} bytes"))
    } else {
        Ok(())
    }
}

/// Resident memory of this process in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Set for the process that runs the corpus: alone, so that its memory can be measured.
const ALONE: &str = "TAPWIRE_HOSTILE_ALONE";
/// Growth that counts as level: threads' stacks, arenas, the test's own tables (KiB).
const LEVEL: u64 = 16 << 10;

#[test]
fn every_hostile_plugin_is_contained_and_harms_nobody_else() {
    if std::env::var_os(ALONE).is_some() {
        return run_all();
    }
    let this = "hostile::every_hostile_plugin_is_contained_and_harms_nobody_else";
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", this, "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&child.stdout),
        String::from_utf8_lossy(&child.stderr)
    );
    assert!(
        child.status.success() && said.contains("1 passed"),
        "{}: {said}",
        child.status
    );
}

fn run_all() {
    assert!(CASES.len() >= 60);
    let before = resident();
    let failures: Vec<String> = CASES
        .iter()
        .filter_map(|(name, expect)| Some(format!("{name} ({expect:?}): {}", run(name, *expect).err()?)))
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {}:\n{}",
        failures.len(),
        CASES.len(),
        failures.join("\n")
    );
    eventually("the memory is back at its level", || resident() < before + LEVEL);
}

#[test]
fn the_table_and_the_directory_name_the_same_plugins() {
    let mut files: Vec<String> = std::fs::read_dir(directory())
        .unwrap()
        .map(|entry| {
            entry
                .unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    files.sort();
    let mut named: Vec<_> = CASES.iter().map(|(name, _)| (*name).to_owned()).collect();
    named.sort();
    assert_eq!(files, named);
}

#[test]
fn bytecode_is_refused_before_the_machine_sees_it() {
    let bench = Bench::new(&[("a.lua", "return { api = 1 }")]);
    std::fs::write(bench.path("a.lua"), b"\x06\x03garbage").unwrap();
    let problem = bench.problem();
    assert!(problem.starts_with("a.lua"), "{problem}");
    std::fs::write(bench.path("a.lua"), b"\xff\xfe\x00").unwrap();
    assert!(bench.problem().ends_with("is not text"));
}
