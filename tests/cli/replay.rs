//! `tapwire replay` of files that are no good recordings; good ones come from a kernel (`tests/namespace/replay.rs`).

use super::{assert_exit, tapwire, text};
use std::path::Path;
use std::process::Output;
use tapwire::desired::Desired;
use tapwire::engine::Engine;
use tapwire::model::{NamePattern, TapMatch, Time};
use tapwire::telemetry::record::{Direction, Recorder};

fn replay(folder: &Path, recording: &[u8]) -> Output {
    let file = folder.join("recording.pcapng");
    std::fs::write(&file, recording).unwrap();
    std::fs::write(folder.join("tapwire.toml"), "").unwrap();
    tapwire(&["replay", "recording.pcapng", "--config", "tapwire.toml"])
        .current_dir(folder)
        .output()
        .unwrap()
}

/// RTM_NEWLINK of an `ifinfomsg` alone: a message without the name that every link has.
fn nameless_link() -> Vec<u8> {
    let mut message = Vec::new();
    message.extend(32_u32.to_ne_bytes());
    message.extend(libc::RTM_NEWLINK.to_ne_bytes());
    message.extend([0; 10]);
    message.extend([0, 0, 1, 0]);
    message.extend(7_u32.to_ne_bytes());
    message.extend([0; 8]);
    message
}

fn recording(messages: &[&[u8]]) -> Vec<u8> {
    let mut recorder = Recorder::start(Vec::new(), 1_700_000_000_000_000, 0).unwrap();
    for (message, ts_us) in messages.iter().zip((0..).step_by(1_000)) {
        recorder.message(ts_us, Direction::FromKernel, message).unwrap();
    }
    recorder.finish().unwrap().1
}

#[test]
fn what_is_no_recording_is_refused_with_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let of_another_link_type = {
        let mut bytes = recording(&[]);
        // The interface block follows the section's: block type, length, then the link type.
        let interface = bytes.len() - 12 - bytes[bytes.len() - 4] as usize + 12;
        bytes[interface + 8] = 1;
        bytes
    };
    for (bytes, problem) in [
        (&b""[..], "byte 0: not a pcapng file"),
        (
            b"a text, long enough to hold a block's head",
            "byte 0: not a pcapng file",
        ),
        (&of_another_link_type, "link type 1, not netlink (253)"),
    ] {
        let output = replay(dir.path(), bytes);
        assert_exit(&output, 1);
        let stderr = text(&output.stderr);
        assert!(
            stderr.starts_with("error: recording.pcapng: recording is not readable at byte "),
            "{stderr}"
        );
        assert!(stderr.contains(problem), "{stderr}");
    }
    let output = tapwire(&["replay", "/nonexistent.pcapng"]).output().unwrap();
    assert_exit(&output, 1);
    assert!(text(&output.stderr).contains("cannot read /nonexistent.pcapng"));
}

#[test]
fn a_recording_that_was_cut_short_is_played_up_to_the_cut() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (
        recording(&[&nameless_link()]),
        recording(&[&nameless_link(), &nameless_link()]),
    );
    let output = replay(dir.path(), &two[..two.len() - 5]);
    assert_exit(&output, 1);
    assert_eq!(
        text(&output.stderr),
        format!(
            "error: recording.pcapng: recording is not readable at byte {}: the file is cut short\n",
            one.len()
        )
    );
    let stdout = text(&output.stdout);
    assert!(stdout.starts_with("0.000000 1 "), "{stdout}");
}

#[test]
fn a_message_that_makes_no_sense_is_counted_and_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let output = replay(
        dir.path(),
        &recording(&[&nameless_link(), &nameless_link()[..20]]),
    );
    assert_exit(&output, 0);
    assert_eq!(
        text(&output.stderr),
        "note: the recording does not begin with a listing: links that were there before are not known\n"
    );
    let stdout = text(&output.stdout);
    assert!(
        stdout.ends_with("2 messages of 0.001 s: 0 operations; at the end no taps\n"),
        "{stdout}"
    );
}

/// A daemon that has just started, and what it did next.
fn account(then: &str) -> Vec<u8> {
    let taps = TapMatch {
        patterns: vec![NamePattern::new("tap*").unwrap()],
        other_kinds: Vec::new(),
        adopt: false,
    };
    let engine = Engine::new(Desired::new(taps, "host"), None, Time::ZERO);
    let engine = serde_json::to_string(&engine).unwrap();
    let begin = format!(r#"[{{"Begin":{{"version":"0","clock_base_us":0,"plans":0,"engine":{engine}}}}}]"#);
    let mut recorder = Recorder::start(Vec::new(), 1_700_000_000_000_000, 0).unwrap();
    recorder
        .message(0, Direction::FromKernel, &nameless_link())
        .unwrap();
    recorder.account(&begin).unwrap();
    recorder.account(then).unwrap();
    recorder.finish().unwrap().1
}

#[test]
fn a_daemon_that_did_the_same_is_said_to_have_done_so() {
    let dir = tempfile::tempdir().unwrap();
    let list = r#"{"Heard":[2,{"Snapshot":{"links":[],"addresses":[],"vlans":[],"vnis":[]}}]}"#;
    let output = replay(
        dir.path(),
        &account(&format!(r#"[{{"Asked":[1,"Snapshot"]}},{list}]"#)),
    );
    assert_exit(&output, 0);
    let stdout = text(&output.stdout);
    assert!(
        stdout.ends_with(
            "0 plans and 1 question from 0 messages: each decided as the daemon did, nothing missing; at the end no taps\n"
        ),
        "{stdout}"
    );
}

#[test]
fn a_daemon_that_did_something_else_ends_the_replay() {
    let dir = tempfile::tempdir().unwrap();
    let output = replay(dir.path(), &account(r#"[{"Asked":[1,null]}]"#));
    assert_exit(&output, 1);
    let stdout = text(&output.stdout);
    assert!(
        stdout.ends_with("0.000001 - recorded: nothing\n0.000001 - replayed: Snapshot\n"),
        "{stdout}"
    );
    assert_eq!(
        text(&output.stderr),
        "error: recording.pcapng: at 0.000001 s the replay decides otherwise than the recorded daemon did\n"
    );
}

#[test]
fn what_is_missing_in_a_recording_is_said_and_not_guessed() {
    let dir = tempfile::tempdir().unwrap();
    for (then, gap) in [
        (
            r#"[{"Read":[[7,1],[8,2]]},{"Asked":[9,null]}]"#,
            "a message that the daemon read at 0.000007 s is not in the recording",
        ),
        (
            r#"{"event":"loss","lost":3,"resync_ms":null}"#,
            "3 lines of the daemon's account are missing",
        ),
    ] {
        let output = replay(dir.path(), &account(then));
        assert_exit(&output, 0);
        let stdout = text(&output.stdout);
        assert!(
            stdout.contains(&format!(
                "gap: {gap}; what the daemon decided from here on is not known\n"
            )),
            "{stdout}"
        );
        assert!(stdout.contains("1 gap in between"), "{stdout}");
    }
    let output = replay(dir.path(), &account("[{"));
    assert_exit(&output, 1);
    assert!(text(&output.stderr).contains("the daemon's account cannot be read"));
}
