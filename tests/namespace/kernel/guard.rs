//! An op never reaches a device that took over the index or the name; faults on command.

use super::{attach, index, name, run, run_well, set, there};
use crate::support::feature::{Feature, require};
use crate::support::host::Host;
use crate::support::world::in_namespace;
use tapwire::kernel::executor::Kernel;
use tapwire::kernel::fault::{Fault, Faulty, When};
use tapwire::kernel::{Class, Error, Executor, LinkKey, Verdict};
use tapwire::model::{BridgeAttributes, LinkName, Mac};
use tapwire::plan::op::{LinkChange, LinkRef, Op};

fn up(link: LinkRef) -> Op {
    Op::SetLink {
        link,
        change: LinkChange {
            up: Some(true),
            ..LinkChange::default()
        },
    }
}

#[track_caller]
fn replaced(ops: &[Op]) -> Option<LinkName> {
    let mut verdicts = run(ops);
    assert_eq!(verdicts.len(), 1, "{verdicts:?}");
    match verdicts.pop() {
        Some(Verdict::Failed(error @ Error::Replaced { now, .. })) => {
            assert_eq!(error.class(), Class::Gone);
            now
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_device_that_took_over_the_index_is_left_alone() {
    in_namespace(|| {
        let host = Host::here();
        host.ip("link add tap0 type bridge");
        let stale = there("tap0");
        host.ip("link del tap0");
        host.ip(&format!(
            "link add other index {} type bridge",
            stale.index.unwrap()
        ));
        assert_eq!(replaced(&[up(stale), up(stale)]), Some(name("other")));
        assert_eq!(replaced(&[Op::DeleteLink { link: stale }]), Some(name("other")));
        assert_eq!(
            replaced(&[Op::DisableIpv6 {
                link: stale,
                disable: true
            }]),
            Some(name("other"))
        );
        assert!(!host.is_up("other"));
        assert_eq!(disable_ipv6("other"), "0");
    });
}

#[test]
fn a_device_that_took_over_the_name_is_left_alone() {
    in_namespace(|| {
        let host = Host::here();
        host.ip("link add tap0 type bridge");
        let stale = there("tap0");
        host.ip("link set tap0 name renamed");
        host.ip("link add tap0 type bridge");
        assert_eq!(
            replaced(&[Op::DisableIpv6 {
                link: stale,
                disable: true
            }]),
            Some(name("renamed"))
        );
        assert_eq!(replaced(&[up(stale)]), Some(name("renamed")));
        assert_eq!([disable_ipv6("tap0"), disable_ipv6("renamed")], ["0", "0"]);
        host.ip("link del renamed");
        assert_eq!(replaced(&[up(stale)]), None);
        assert!(!host.is_up("tap0"));
    });
}

#[test]
fn a_master_that_is_gone_fails_the_attach_as_gone() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        let _tap = host.tap("port0");
        host.ip("link add br0 type bridge");
        let op = attach("port0", "br0");
        host.ip("link del br0");
        assert_eq!(replaced(&[op]), None);
    });
}

#[test]
fn ipv6_that_a_device_does_not_have_is_off_already() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        // Below 1,280 bytes the kernel has no IPv6 on a link, and no setting for it.
        let _tap = host.tap("small");
        host.ip("link set small mtu 1000");
        let verdicts = run(&[
            Op::DisableIpv6 {
                link: there("small"),
                disable: true,
            },
            up(there("small")),
        ]);
        assert!(
            matches!(&verdicts[..], [Verdict::AlreadySo(_), Verdict::Done]),
            "{verdicts:?}"
        );
    });
}

fn disable_ipv6(link: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6"))
        .unwrap()
        .trim()
        .to_owned()
}

#[test]
fn a_fault_before_or_after_the_effect_ends_the_run_there() {
    in_namespace(|| {
        let host = Host::here();
        let plan = [
            Op::CreateBridge {
                name: name("br0"),
                mac: Mac::new([2, 0, 0, 0, 0, 1]),
                mtu: None,
                attributes: BridgeAttributes::default(),
            },
            up(LinkRef {
                name: name("br0"),
                index: None,
            }),
        ];
        let fault = |nth, when, errno| Fault { nth, when, errno };
        let faults = vec![
            fault(0, When::Before, Some(libc::ENOMEM)),
            fault(2, When::After, Some(libc::EBUSY)),
            fault(4, When::After, None),
        ];
        let mut executor = Executor::new(Faulty::new(Kernel::open().unwrap(), faults));
        let mut run = |ops: &[Op]| {
            let mut verdicts = Vec::new();
            executor.run(ops, |_, outcome| verdicts.push(outcome.verdict));
            verdicts
        };
        // Refused before it happened: nothing is there.
        let verdicts = run(&plan);
        assert!(
            matches!(&verdicts[..], [Verdict::Failed(e)] if e.class() == Class::Transient),
            "{verdicts:?}"
        );
        assert!(host.link("br0").is_none());
        // The second request of this run is refused after it happened.
        let verdicts = run(&plan);
        assert!(
            matches!(&verdicts[..], [Verdict::Created(_), Verdict::Failed(e)] if e.errno() == Some(libc::EBUSY)),
            "{verdicts:?}"
        );
        assert!(host.is_up("br0"));
        // A retry finds the name taken; a lost answer is an error too.
        assert!(matches!(&run(&plan)[..], [Verdict::AlreadyThere(_)]));
        let verdicts = run(&[up(there("br0"))]);
        assert!(
            matches!(&verdicts[..], [Verdict::Failed(Error::NoAnswer { .. })]),
            "{verdicts:?}"
        );
        assert!(executor.link(LinkKey::Index(index("br0"))).is_ok());
    });
}

#[test]
fn a_create_whose_answer_was_lost_is_ours_when_the_newborn_is_there() {
    in_namespace(|| {
        let host = Host::here();
        let bridge = |last| Op::CreateBridge {
            name: name("br0"),
            mac: Mac::new([2, 0, 0, 0, 0, last]),
            mtu: None,
            attributes: BridgeAttributes::default(),
        };
        let lost = |when| {
            let fault = Fault {
                nth: 0,
                when,
                errno: None,
            };
            Executor::new(Faulty::new(Kernel::open().unwrap(), vec![fault]))
        };
        let run = |when, op: Op| {
            let mut verdicts = Vec::new();
            lost(when).run(&[op], |_, outcome| verdicts.push(outcome.verdict));
            verdicts.remove(0)
        };
        let verdict = run(When::Before, bridge(1));
        assert!(
            matches!(verdict, Verdict::Failed(Error::NoAnswer { .. })),
            "nothing is there: {verdict:?}"
        );
        let verdict = run(When::After, bridge(1));
        let Verdict::Created(link) = &verdict else {
            panic!("it is there: {verdict:?}")
        };
        assert_eq!(link.index, index("br0"));
        // What differs, or was used since, may be somebody else's.
        let verdict = run(When::Before, bridge(2));
        assert!(
            matches!(verdict, Verdict::Failed(Error::NoAnswer { .. })),
            "another address: {verdict:?}"
        );
        host.ip("link set br0 up");
        let verdict = run(When::Before, bridge(1));
        assert!(
            matches!(verdict, Verdict::Failed(Error::NoAnswer { .. })),
            "in use: {verdict:?}"
        );
    });
}

#[test]
fn an_op_on_a_link_that_the_plan_does_not_make_is_refused_unsent() {
    in_namespace(|| {
        let verdicts = run(&[up(LinkRef {
            name: name("lo"),
            index: None,
        })]);
        assert!(
            matches!(&verdicts[..], [Verdict::Failed(e @ Error::Unresolved { .. })] if e.class() == Class::Bug),
            "{verdicts:?}"
        );
        run_well(&[set(
            "lo",
            LinkChange {
                alias: Some("named".into()),
                ..LinkChange::default()
            },
        )]);
        run_well(&[set(
            "lo",
            LinkChange {
                alias: Some("".into()),
                ..LinkChange::default()
            },
        )]);
        let lo = Executor::open().unwrap().link(LinkKey::Name(name("lo"))).unwrap();
        assert_eq!(lo.alias, None, "an empty alias is none");
    });
}
