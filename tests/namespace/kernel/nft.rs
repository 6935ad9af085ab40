//! The spoof guard's table: as the kernel has it and as `nft` reads it.

use super::{index, run, run_well, there};
use crate::support::feature::{Feature, require};
use crate::support::host::Host;
use crate::support::world::in_namespace;
use std::collections::BTreeMap;
use tapwire::desired::guard::Entry;
use tapwire::kernel::{Class, Executor, Verdict};
use tapwire::model::{Ifindex, Mac};
use tapwire::plan::guard::{GuardHave, GuardedPort, TableHave};
use tapwire::plan::op::{GuardTable, Op};

const MAC: Mac = Mac::new([0xfa, 0x16, 0x3e, 0, 0, 5]);

fn make(ports: Vec<GuardedPort>) -> Op {
    Op::GuardTable(GuardTable::Make(ports.into()))
}

fn entries() -> Vec<Entry> {
    let mut entries = vec![
        Entry::Port,
        Entry::Mac(MAC),
        Entry::Address(MAC, "10.0.0.5".parse().unwrap()),
        Entry::Address(MAC, "2001:db8::5".parse().unwrap()),
        Entry::Range(Some(MAC), "10.1.0.0/16".parse().unwrap()),
        Entry::Range(None, "10.2.0.7/32".parse().unwrap()),
        Entry::Range(None, "fe80::/10".parse().unwrap()),
        Entry::Range(Some(MAC), "2001:db8:1::/64".parse().unwrap()),
    ];
    entries.sort_unstable();
    entries
}

fn port(name: &str) -> GuardedPort {
    GuardedPort {
        index: index(name),
        entries: entries(),
    }
}

fn have() -> GuardHave {
    Executor::open().unwrap().read_guard().unwrap()
}

fn only(name: &str, entries: Vec<Entry>) -> BTreeMap<Ifindex, Vec<Entry>> {
    BTreeMap::from([(index(name), entries)])
}

#[test]
fn nft_lists_the_table_as_it_is_meant() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::BridgeFilter, Feature::Program("nft"));
        let host = Host::here();
        let _tap = host.tap("tap0");
        run_well(&[make(vec![port("tap0")])]);
        let listed = host.run("nft list ruleset");
        let expected = include_str!("nft.txt");
        assert!(
            listed == expected,
            "nft lists another table (tests/namespace/kernel/nft.txt):\n{listed}"
        );
    });
}

#[test]
fn what_was_written_is_read_back() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::BridgeFilter);
        let host = Host::here();
        let _tap = host.tap("tap0");
        assert_eq!(have(), GuardHave::default());
        run_well(&[make(Vec::new())]);
        assert_eq!((have().table, have().ports.len()), (TableHave::Right, 0));
        run_well(&[make(vec![port("tap0")])]);
        assert_eq!(have().ports, only("tap0", entries()));
        // The other way round: each entry alone, then without the port's MAC.
        let guard = |gone: &[Entry], new: &[Entry]| Op::Guard {
            link: there("tap0"),
            gone: gone.into(),
            new: new.into(),
        };
        run_well(&[guard(&entries(), &[Entry::Port, Entry::Mac(MAC)])]);
        assert_eq!(have().ports, only("tap0", vec![Entry::Port, Entry::Mac(MAC)]));
        // What goes may come again in the same step; wider and narrower ranges at the same place.
        let wide = |length| Entry::Range(Some(MAC), format!("10.0.0.0/{length}").parse().unwrap());
        run_well(&[guard(
            &[Entry::Port],
            &[Entry::Port, Entry::FreeAddresses, wide(24)],
        )]);
        run_well(&[guard(&[Entry::FreeAddresses], &[])]);
        run_well(&[guard(&[wide(24)], &[wide(16)]), guard(&[wide(16)], &[wide(25)])]);
        let left = vec![Entry::Port, Entry::Mac(MAC), wide(25)];
        assert_eq!(have().ports, only("tap0", left.clone()));
        let sweep = GuardTable::Sweep(
            [GuardedPort {
                index: index("tap0"),
                entries: left,
            }]
            .into(),
        );
        run_well(&[Op::GuardTable(sweep)]);
        assert!(have().ports.is_empty());
        run_well(&[Op::GuardTable(GuardTable::Remove)]);
        assert_eq!(have(), GuardHave::default());
        let again = run(&[Op::GuardTable(GuardTable::Remove)]);
        assert!(matches!(again[..], [Verdict::AlreadySo(_)]), "{again:?}");
    });
}

#[test]
fn a_transaction_that_fails_in_the_middle_changes_nothing() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::BridgeFilter);
        let host = Host::here();
        let _tap = host.tap("tap0");
        run_well(&[make(vec![port("tap0")])]);
        let wrong = Op::Guard {
            link: there("tap0"),
            gone: [Entry::Mac(MAC), Entry::Address(MAC, "192.0.2.1".parse().unwrap())].into(),
            new: [Entry::Mac(Mac::new([2; 6]))].into(),
        };
        match &run(&[wrong])[..] {
            [Verdict::Failed(error)] => assert_eq!(error.class(), Class::Gone, "{error}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(have().ports, only("tap0", entries()));
    });
}

#[test]
fn a_table_that_somebody_changed_is_not_right() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::BridgeFilter, Feature::Program("nft"));
        let host = Host::here();
        let changes = [
            "flush chain bridge tapwire ipv4",
            "insert rule bridge tapwire prerouting accept",
            "add rule bridge tapwire addresses accept",
            "add chain bridge tapwire mine",
            "add set bridge tapwire mine { type ether_addr; }",
            "add table bridge tapwire { flags dormant; }",
            "add element bridge tapwire ipv4_ranges { 7 . 00:00:00:00:00:01-00:00:00:00:00:05 . 10.0.0.1 }",
        ];
        for change in changes {
            run_well(&[make(Vec::new())]);
            assert_eq!(have().table, TableHave::Right);
            host.run(&format!("nft {change}"));
            assert_eq!(have().table, TableHave::Other, "{change}");
        }
        host.run("nft flush ruleset");
        assert_eq!(have().table, TableHave::Absent);
    });
}

#[test]
fn thousands_of_ports_fit_one_transaction() {
    in_namespace(|| {
        require!(Feature::BridgeFilter);
        let ports: Vec<GuardedPort> = (10_001..12_001)
            .map(|index| GuardedPort {
                index: Ifindex::new(index).unwrap(),
                entries: {
                    let b = index.to_be_bytes();
                    let mac = Mac::new([2, 0, b[0], b[1], b[2], b[3]]);
                    vec![
                        Entry::Port,
                        Entry::Mac(mac),
                        Entry::Address(mac, [10, 0, b[2], b[3]].into()),
                        Entry::Address(mac, "fe80::1".parse().unwrap()),
                    ]
                },
            })
            .collect();
        run_well(&[make(ports.clone())]);
        let have = have();
        assert_eq!((have.table, have.ports.len()), (TableHave::Right, 2000));
        assert!(ports.iter().all(|port| have.ports[&port.index] == port.entries));
    });
}
