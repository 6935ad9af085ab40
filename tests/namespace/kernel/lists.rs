//! Dumps of links.

use super::{block_on, index, name, run_well, there};
use crate::support::feature::{Feature, require};
use crate::support::host::Host;
use crate::support::world::in_namespace;
use std::sync::atomic::{AtomicBool, Ordering};
use tapwire::kernel::{Class, Executor, LinkKey, Snapshot, Step};
use tapwire::model::LinkKind;
use tapwire::plan::op::{LinkChange, Op};

#[test]
fn a_dump_says_of_every_link_what_a_single_question_says() {
    in_namespace(|| {
        require!(Feature::Tap, Feature::Veth, Feature::Vxlan);
        let host = Host::here();
        host.ip("link add br0 type bridge");
        host.ip("link add vx type vxlan id 7 dstport 4789");
        host.ip("link add v0 type veth peer name v1");
        let _tap = host.tap("tap0");
        host.ip("link set tap0 master br0");
        host.ip("link property add dev tap0 altname a-name-that-is-much-longer-than-fifteen-bytes");
        run_well(&[Op::SetLink {
            link: there("tap0"),
            change: LinkChange {
                alias: Some("a tap with an alias".into()),
                ..LinkChange::default()
            },
        }]);
        let listing = block_on(async { Snapshot::open().unwrap().links().await }).unwrap();
        assert!(listing.complete);
        let mut executor = Executor::open().unwrap();
        for link in &listing.rows {
            assert_eq!(&executor.link(LinkKey::Index(link.index)).unwrap(), link);
            assert_eq!(&executor.link(LinkKey::Name(link.name)).unwrap(), link);
        }
        let find = |text| listing.rows.iter().find(|link| link.name == name(text)).unwrap();
        assert_eq!(find("lo").kind, LinkKind::Physical);
        assert_eq!(find("v0").parent, Some(index("v1")));
        assert_eq!(find("tap0").alias.as_deref(), Some("a tap with an alias"));
        assert_eq!(find("tap0").master, Some(index("br0")));
        assert!(find("tap0").port.is_some());
        assert!(find("br0").port.is_none());
    });
}

#[test]
fn a_veth_whose_peer_is_elsewhere_has_no_parent_here() {
    in_namespace(|| {
        require!(Feature::Veth);
        let (host, other) = (Host::here(), Host::new());
        host.join("v0", &other, "v1");
        let link = Executor::open().unwrap().link(LinkKey::Name(name("v0"))).unwrap();
        assert_eq!(link.parent, None);
    });
}

#[test]
fn a_question_about_a_link_that_is_not_there_is_answered_gone() {
    in_namespace(|| {
        let error = Executor::open()
            .unwrap()
            .link(LinkKey::Name(name("nowhere")))
            .unwrap_err();
        assert_eq!(error.class(), Class::Gone);
        assert_eq!(error.to_string(), "get_link: No such device");
    });
}

#[test]
fn a_dump_abandoned_half_way_disturbs_neither_the_next_one_nor_a_question() {
    in_namespace(|| {
        let host = Host::here();
        for i in 0..60 {
            host.ip(&format!("link add b{i} type bridge"));
        }
        let mut snapshot = Snapshot::open().unwrap();
        snapshot.begin_links().unwrap();
        assert_eq!(snapshot.step_links(&mut |_| {}).unwrap(), Step::More);
        snapshot.begin_links().unwrap_or_else(|e| panic!("{e}"));
        let mut rows = Vec::new();
        while snapshot.step_links(&mut |row| rows.push(row.unwrap())).unwrap() == Step::More {}
        assert!(rows.len() > 60, "{}", rows.len());
    });
}

#[test]
fn a_dump_that_the_list_changes_under_says_so() {
    in_namespace(|| {
        let host = Host::here();
        for i in 0..120 {
            host.ip(&format!("link add b{i} type bridge"));
        }
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    host.ip("link add churn type bridge");
                    host.ip("link del churn");
                }
            });
            let mut snapshot = Snapshot::open().unwrap();
            let mut interrupted = false;
            while !interrupted {
                snapshot.begin_links().unwrap();
                loop {
                    match snapshot.step_links(&mut |row| assert!(row.is_ok())).unwrap() {
                        Step::More => {}
                        Step::Done => break,
                        Step::Interrupted => {
                            interrupted = true;
                            break;
                        }
                    }
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        // In quiet, complete again.
        let listing = block_on(async { Snapshot::open().unwrap().links().await }).unwrap();
        assert!(listing.complete);
    });
}
