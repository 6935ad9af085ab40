//! The store over restarts, damage and kills.

use super::*;
use std::io::{BufRead, BufReader, Write};

fn binding(tap: &str, network: &str) -> BindingRecord {
    BindingRecord {
        network: network.to_owned(),
        tap: Some(tap.to_owned()),
        port: None,
        mac: None,
        addresses: vec![],
        hostname: None,
        port_security: None,
        allowed_address_pairs: vec![],
        admin_state_up: true,
    }
}

fn network(id: &str) -> NetworkRecord {
    serde_json::from_value(serde_json::json!({ "id": id, "network_type": "local" })).unwrap()
}

fn open(directory: &Path) -> Store {
    let opened = Store::open(directory).unwrap();
    assert!(opened.damaged.is_none(), "{:?}", opened.damaged);
    opened.store
}

#[test]
fn what_was_put_is_there_after_a_restart_and_what_was_deleted_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.put_network(&network("blue")).unwrap();
    store.put_network(&network("green")).unwrap();
    store.put_binding(&binding("vnet1", "blue")).unwrap();
    store.put_binding(&binding("vnet1", "green")).unwrap();
    store.put_binding(&binding("vnet2", "blue")).unwrap();
    assert!(store.delete_network("blue").unwrap());
    assert!(!store.delete_network("blue").unwrap());
    assert!(store.delete_binding("tap:vnet2").unwrap());
    drop(store);
    let contents = open(dir.path()).list().unwrap();
    assert_eq!(contents.networks, [network("green")]);
    assert_eq!(contents.bindings, [binding("vnet1", "green")]);
    assert!(contents.unusable.is_empty());
}

#[test]
fn several_changes_are_made_together_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let nowhere = BindingRecord {
        tap: None,
        ..binding("", "blue")
    };
    let failing = [Change::PutNetwork(network("blue")), Change::PutBinding(nowhere)];
    assert!(matches!(store.apply(&failing), Err(Error::Record { .. })));
    assert!(store.list().unwrap().networks.is_empty());
    store
        .apply(&[
            Change::PutNetwork(network("blue")),
            Change::PutBinding(binding("vnet1", "blue")),
        ])
        .unwrap();
    let removal = [
        Change::DeleteNetwork { id: "blue".into() },
        Change::DeleteBinding {
            key: "tap:vnet1".into(),
        },
    ];
    assert_eq!(store.apply(&removal).unwrap(), 2);
    assert!(store.list().unwrap().bindings.is_empty());
}

#[test]
fn a_record_that_is_none_does_not_hide_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.put_binding(&binding("vnet1", "blue")).unwrap();
    let transaction = store.database.begin_write().unwrap();
    transaction
        .open_table(BINDINGS)
        .unwrap()
        .insert("tap:vnet0", "{\"tap\":7}")
        .unwrap();
    transaction.commit().unwrap();
    let contents = store.list().unwrap();
    assert_eq!(contents.bindings.len(), 1);
    assert_eq!(contents.unusable.len(), 1);
    assert_eq!(
        contents.unusable[0].to_string(),
        "tap:vnet0 is not a usable record"
    );
}

#[test]
fn a_second_opener_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _first = open(dir.path());
    assert!(matches!(Store::open(dir.path()), Err(Error::InUse { .. })));
}

#[test]
fn a_store_of_a_later_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let transaction = store.database.begin_write().unwrap();
    transaction
        .open_table(META)
        .unwrap()
        .insert("schema", SCHEMA + 1)
        .unwrap();
    transaction.commit().unwrap();
    drop(store);
    for _ in 0..2 {
        assert!(matches!(
            Store::open(dir.path()),
            Err(Error::Newer {
                found: 2,
                known: 1,
                ..
            })
        ));
    }
}

#[test]
fn a_damaged_file_is_moved_aside_and_the_store_begins_empty() {
    let dir = tempfile::tempdir().unwrap();
    for (number, content) in [&b""[..], b"not a database", &[0; 8192]].into_iter().enumerate() {
        std::fs::write(dir.path().join(FILE), content).unwrap();
        let opened = Store::open(dir.path()).unwrap();
        let damaged = opened.damaged.expect("damage unnoticed");
        assert_eq!(
            damaged.moved_to,
            dir.path().join(format!("bindings.redb.damaged-{}", number + 1))
        );
        assert_eq!(std::fs::read(&damaged.moved_to).unwrap(), content);
        opened.store.put_network(&network("blue")).unwrap();
        drop(opened.store);
        assert_eq!(open(dir.path()).list().unwrap().networks.len(), 1);
    }
}

#[test]
fn damage_anywhere_in_the_file_never_ends_the_daemon_nor_gives_wrong_records() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..50 {
        store.put_binding(&binding(&format!("vnet{n}"), "blue")).unwrap();
    }
    drop(store);
    let path = dir.path().join(FILE);
    let whole = std::fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(whole.len() / 97) {
        let mut torn = whole.clone();
        torn[at..].iter_mut().take(64).for_each(|byte| *byte ^= 0xa5);
        std::fs::write(&path, &torn).unwrap();
        let opened = Store::open(dir.path()).unwrap();
        let contents = opened.store.list().unwrap();
        assert!(contents.unusable.is_empty(), "at {at}");
        // Damage in a free page is none; anywhere else the whole file is given up.
        let expected = if opened.damaged.is_some() { 0 } else { 50 };
        assert_eq!(contents.bindings.len(), expected, "at {at}");
    }
    for length in (0..whole.len()).step_by(whole.len() / 29) {
        std::fs::write(&path, &whole[..length]).unwrap();
        let opened = Store::open(dir.path()).unwrap();
        assert!(
            opened.damaged.is_some() || opened.store.list().unwrap().bindings.len() == 50,
            "{length}"
        );
    }
}

#[test]
fn a_kill_while_the_store_is_made_leaves_no_half_made_one() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("bindings.redb.new"), b"half").unwrap();
    assert!(open(dir.path()).list().unwrap().networks.is_empty());
    assert!(!dir.path().join("bindings.redb.new").exists());
}

#[test]
fn a_directory_that_is_not_there_is_said_to_be_unusable() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(
        Store::open(&dir.path().join("nowhere")),
        Err(Error::Directory { .. })
    ));
}

const WRITER: &str = "TAPWIRE_TEST_STORE_WRITER";

/// The process that is killed: puts networks 0, 1, 2 ... and says the number of each as soon as it is stored;
/// every second one goes away again before the next.
fn write_until_killed(directory: &Path) {
    let store = open(directory);
    let first = store.list().unwrap().networks.len() as u64 * 1_000_000;
    for n in first.. {
        store
            .put_binding(&binding(&format!("passing{n}"), "blue"))
            .unwrap();
        store.put_network(&network(&format!("n{n:012}"))).unwrap();
        store.delete_binding(&format!("tap:passing{n}")).unwrap();
        println!("stored n{n:012}");
        std::io::stdout().flush().unwrap();
    }
}

#[test]
fn nothing_acknowledged_is_lost_when_the_writer_is_killed_at_any_moment() {
    if let Some(directory) = std::env::var_os(WRITER) {
        return write_until_killed(Path::new(&directory));
    }
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..25 {
        let name = "nothing_acknowledged_is_lost_when_the_writer_is_killed_at_any_moment";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([&format!("source::store::tests::{name}"), "--exact", "--nocapture"])
            .env(WRITER, dir.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map(Result::unwrap);
        // A different number of records each time; the kill meets whatever the writer is doing just then.
        let seen: Vec<String> = lines
            .by_ref()
            .filter_map(|l| stored(&l))
            .take(round % 7)
            .collect();
        child.kill().unwrap();
        acknowledged.extend(seen);
        acknowledged.extend(lines.filter_map(|l| stored(&l)));
        child.wait().unwrap();

        let contents = open(dir.path()).list().unwrap();
        let ids: std::collections::HashSet<&str> = contents.networks.iter().map(|n| n.id.as_str()).collect();
        for id in &acknowledged {
            assert!(
                ids.contains(id.as_str()),
                "{id} was acknowledged in round {round} or before and is lost"
            );
        }
        assert!(
            contents.bindings.len() <= round + 1,
            "deleted bindings are back: {:?}",
            contents.bindings
        );
        assert!(contents.unusable.is_empty());
    }
    assert!(
        acknowledged.len() >= 60,
        "only {} records were written",
        acknowledged.len()
    );
}

fn stored(line: &str) -> Option<String> {
    line.split_once("stored ").map(|(_, id)| id.to_owned())
}
