//! Forwarding entries, neighbours, addresses and routes: told, listed, recognised.

use super::{block_on, failure, index, name, run, run_well, there};
use crate::support::feature::{Feature, require};
use crate::support::host::Host;
use crate::support::world::in_namespace;
use serde_json::Value;
use std::collections::BTreeSet;
use tapwire::kernel::{Class, Listing, Snapshot, Verdict};
use tapwire::model::record::{AddressRecord, RouteRecord};
use tapwire::model::{FdbEntry, FdbRow, Mac, NeighbourEntry, VxlanAttributes, owned};
use tapwire::plan::op::{LinkRef, ListAction, Op};

fn vxlan(host: &Host) {
    run_well(&[Op::CreateVxlan {
        name: name("vxlan-100"),
        mtu: None,
        attributes: VxlanAttributes {
            vni: 100,
            dstport: 4789,
            proxy: true,
            ..VxlanAttributes::default()
        },
    }]);
    host.ip("link set vxlan-100 up");
}

fn fdb(action: ListAction, mac: &str, dst: Option<&str>, link: &str) -> Op {
    Op::Fdb {
        action,
        link: there(link),
        entry: FdbEntry {
            mac: mac.parse().unwrap(),
            dst: dst.map(|ip| ip.parse().unwrap()),
        },
        vni: None,
    }
}

fn forwarding(link: &str) -> Vec<(String, String, bool)> {
    let listing: Listing<FdbRow> =
        block_on(async { Snapshot::open().unwrap().forwarding(index(link)).await }).unwrap();
    assert!(listing.complete);
    let mut rows: Vec<_> = listing
        .rows
        .iter()
        .map(|row| {
            assert!(row.fixed);
            let dst = row.entry.dst.map(|ip| ip.to_string()).unwrap_or_default();
            (row.entry.mac.to_string(), dst, row.ours)
        })
        .collect();
    rows.sort();
    rows
}

const ZERO: &str = "00:00:00:00:00:00";
const REMOTE: &str = "fa:16:3e:00:00:07";

fn row(mac: &str, dst: &str, ours: bool) -> (String, String, bool) {
    (mac.to_owned(), dst.to_owned(), ours)
}

#[test]
fn flood_and_unicast_entries_are_told_listed_and_recognised_as_ours() {
    in_namespace(|| {
        require!(Feature::Vxlan);
        let host = Host::here();
        vxlan(&host);
        run_well(&[
            fdb(ListAction::Append, ZERO, Some("192.0.2.11"), "vxlan-100"),
            fdb(ListAction::Append, ZERO, Some("192.0.2.12"), "vxlan-100"),
            fdb(ListAction::Replace, REMOTE, Some("192.0.2.12"), "vxlan-100"),
        ]);
        host.run("bridge fdb append fa:16:3e:00:00:99 dev vxlan-100 dst 192.0.2.99 self permanent");
        host.run("bridge fdb append fa:16:3e:00:00:98 dev vxlan-100 dst 192.0.2.98 self extern_learn");
        assert_eq!(
            forwarding("vxlan-100"),
            [
                row(ZERO, "192.0.2.11", true),
                row(ZERO, "192.0.2.12", true),
                row(REMOTE, "192.0.2.12", true),
                row("fa:16:3e:00:00:98", "192.0.2.98", false),
                row("fa:16:3e:00:00:99", "192.0.2.99", false),
            ]
        );
        // As iproute2 shows them.
        let shown = host.run("bridge fdb show dev vxlan-100");
        assert!(
            shown.contains("fa:16:3e:00:00:07 dst 192.0.2.12 self extern_learn permanent"),
            "{shown}"
        );

        run_well(&[
            fdb(ListAction::Replace, REMOTE, Some("192.0.2.13"), "vxlan-100"),
            fdb(ListAction::Delete, ZERO, Some("192.0.2.11"), "vxlan-100"),
        ]);
        assert_eq!(
            forwarding("vxlan-100")[..2],
            [row(ZERO, "192.0.2.12", true), row(REMOTE, "192.0.2.13", true)]
        );
        // Again: information.
        let verdicts = run(&[
            fdb(ListAction::Delete, ZERO, Some("192.0.2.11"), "vxlan-100"),
            fdb(ListAction::Append, ZERO, Some("192.0.2.12"), "vxlan-100"),
        ]);
        assert!(verdicts.iter().all(Verdict::goes_on), "{verdicts:?}");
    });
}

#[test]
fn entries_of_an_ipv6_underlay_are_ours_too() {
    in_namespace(|| {
        require!(Feature::Vxlan, Feature::Ipv6);
        run_well(&[Op::CreateVxlan {
            name: name("vxlan-6"),
            mtu: None,
            attributes: VxlanAttributes {
                vni: 6,
                dstport: 4789,
                local: Some("2001:db8::1".parse().unwrap()),
                ..VxlanAttributes::default()
            },
        }]);
        run_well(&[
            fdb(ListAction::Append, ZERO, Some("2001:db8::11"), "vxlan-6"),
            fdb(ListAction::Replace, REMOTE, Some("2001:db8::12"), "vxlan-6"),
        ]);
        assert_eq!(
            forwarding("vxlan-6"),
            [row(ZERO, "2001:db8::11", true), row(REMOTE, "2001:db8::12", true)]
        );
    });
}

#[test]
fn a_flood_entry_that_somebody_shares_is_never_taken_for_ours_alone() {
    in_namespace(|| {
        require!(Feature::Vxlan);
        let host = Host::here();
        vxlan(&host);
        // Theirs first: ours beside it is listed as foreign, never the other way round.
        host.run("bridge fdb append 00:00:00:00:00:00 dev vxlan-100 dst 192.0.2.99 self permanent");
        run_well(&[fdb(ListAction::Append, ZERO, Some("192.0.2.11"), "vxlan-100")]);
        assert_eq!(
            forwarding("vxlan-100"),
            [row(ZERO, "192.0.2.11", false), row(ZERO, "192.0.2.99", false)]
        );
        // Theirs second.
        run_well(&[
            fdb(ListAction::Delete, ZERO, Some("192.0.2.11"), "vxlan-100"),
            fdb(ListAction::Delete, ZERO, Some("192.0.2.99"), "vxlan-100"),
            fdb(ListAction::Append, ZERO, Some("192.0.2.11"), "vxlan-100"),
        ]);
        assert_eq!(forwarding("vxlan-100"), [row(ZERO, "192.0.2.11", true)]);
        host.run("bridge fdb append 00:00:00:00:00:00 dev vxlan-100 dst 192.0.2.99 self permanent");
        run_well(&[fdb(ListAction::Append, ZERO, Some("192.0.2.12"), "vxlan-100")]);
        assert!(forwarding("vxlan-100").iter().all(|(_, _, ours)| !ours));
    });
}

#[test]
fn a_thousand_entries_go_in_batches_and_one_bad_one_fails_alone() {
    in_namespace(|| {
        require!(Feature::Vxlan);
        let host = Host::here();
        vxlan(&host);
        let entry = |i: u32| {
            let [_, _, a, b] = i.to_be_bytes();
            fdb(
                ListAction::Replace,
                &Mac::new([0xfa, 0x16, 0x3e, 1, a, b]).to_string(),
                Some("192.0.2.12"),
                "vxlan-100",
            )
        };
        let mut ops: Vec<Op> = (0..1000).map(entry).collect();
        run_well(&ops);
        assert_eq!(forwarding("vxlan-100").len(), 1000);

        // A flood entry cannot be replaced: that one is told, its neighbours in the batch are done, and it ends there.
        ops.insert(
            10,
            fdb(ListAction::Replace, ZERO, Some("192.0.2.11"), "vxlan-100"),
        );
        ops.insert(10, fdb(ListAction::Append, ZERO, Some("192.0.2.11"), "vxlan-100"));
        let verdicts = run(&ops);
        assert_eq!(verdicts.len(), 64, "the batch with the failure is the last");
        let failed: Vec<_> = (0..64).filter(|i| !verdicts[*i].goes_on()).collect();
        assert_eq!(failed, [11]);
        let Verdict::Failed(error) = &verdicts[11] else {
            panic!("{verdicts:?}")
        };
        assert_eq!(
            error.to_string(),
            "fdb: Operation not supported: Cannot replace non-unicast fdb entries"
        );
    });
}

#[test]
fn a_static_entry_of_a_bridge_port_is_the_bridges() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        host.ip("link add br0 type bridge");
        let _tap = host.tap("tap0");
        host.ip("link set tap0 master br0");
        run_well(&[fdb(ListAction::Replace, REMOTE, None, "tap0")]);
        let listing =
            block_on(async { Snapshot::open().unwrap().port_forwarding(index("tap0")).await }).unwrap();
        assert!(
            listing.rows.iter().any(|row| row.entry.mac.to_string() == REMOTE
                && row.entry.dst.is_none()
                && row.fixed
                && !row.ours),
            "{listing:?}"
        );
        assert!(
            host.run("bridge fdb show dev tap0")
                .contains("fa:16:3e:00:00:07 master br0 static")
        );
        run_well(&[fdb(ListAction::Delete, REMOTE, None, "tap0")]);
        assert_eq!(
            failure(&[fdb(ListAction::Delete, REMOTE, None, "tap0")]).class(),
            Class::AlreadySo
        );
    });
}

#[test]
fn permanent_neighbours_of_both_families_carry_our_protocol() {
    in_namespace(|| {
        require!(Feature::Vxlan);
        let host = Host::here();
        vxlan(&host);
        let neighbour = |action, ip: &str| Op::Neighbour {
            action,
            link: there("vxlan-100"),
            entry: NeighbourEntry {
                ip: ip.parse().unwrap(),
                mac: REMOTE.parse().unwrap(),
            },
        };
        run_well(&[
            neighbour(ListAction::Replace, "10.0.0.7"),
            neighbour(ListAction::Replace, "2001:db8::7"),
        ]);
        host.ip("neigh add 10.0.0.8 lladdr fa:16:3e:00:00:08 dev vxlan-100 nud permanent");
        let list = || {
            block_on(async { Snapshot::open().unwrap().neighbours(index("vxlan-100")).await })
                .unwrap()
                .rows
        };
        let rows = list();
        let ours: BTreeSet<String> = rows
            .iter()
            .filter(|row| row.protocol == Some(owned::PROTOCOL))
            .filter_map(|row| Some(row.neighbour()?.ip.to_string()))
            .collect();
        assert_eq!(
            ours,
            BTreeSet::from(["10.0.0.7".to_owned(), "2001:db8::7".to_owned()])
        );
        assert!(
            rows.iter()
                .any(|row| row.neighbour().is_some_and(|n| n.ip.to_string() == "10.0.0.8"))
        );
        run_well(&[
            neighbour(ListAction::Delete, "10.0.0.7"),
            neighbour(ListAction::Delete, "2001:db8::7"),
        ]);
        assert!(list().iter().all(|row| row.protocol != Some(owned::PROTOCOL)));
    });
}

/// `RTNH_F_ONLINK`.
const ONLINK: u32 = 4;

fn addresses(link: &str) -> Vec<AddressRecord> {
    block_on(async { Snapshot::open().unwrap().addresses(index(link)).await })
        .unwrap()
        .rows
}

fn routes(link: &str) -> Vec<RouteRecord> {
    block_on(async { Snapshot::open().unwrap().routes(index(link)).await })
        .unwrap()
        .rows
}

/// What `ip` shows, without what time changes.
fn shown(host: &Host, arguments: &str) -> Value {
    let mut value = host.ip_json(arguments);
    strip(&mut value);
    value
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for key in ["valid_life_time", "preferred_life_time", "expires"] {
                map.remove(key);
            }
            map.values_mut().for_each(strip);
        }
        Value::Array(list) => list.iter_mut().for_each(strip),
        _ => {}
    }
}

#[test]
fn addresses_and_routes_are_told_back_as_they_were_read() {
    in_namespace(|| {
        require!(Feature::Veth);
        let host = Host::here();
        // Duplicate address detection would add routes of its own while we compare.
        std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap();
        host.ip("link add n0 type veth peer name n1");
        host.ip("link add c0 type veth peer name c1");
        for link in ["n0", "n1", "c0", "c1"] {
            host.ip(&format!("link set {link} up"));
        }
        host.ip("addr add 172.31.0.1/24 dev c0");
        for address in [
            "10.0.0.1/24",
            "10.0.0.2/24 label n0:x",
            "10.9.0.1 peer 10.9.0.2/32",
            "10.5.0.1/16 brd + valid_lft 5000 preferred_lft 4000 metric 77",
            "10.6.0.1/16 noprefixroute scope link",
            "2001:db8::1/64 nodad",
            "2001:db8:1::1/64 nodad valid_lft 5000 preferred_lft 4000 noprefixroute",
            "2001:db8:3::1 peer 2001:db8:3::2/128 nodad metric 99",
        ] {
            host.ip(&format!("addr add {address} dev n0"));
        }
        for route in [
            "default via 10.0.0.254 dev n0 proto dhcp src 10.0.0.1 metric 100 mtu 1400 advmss 1300 initcwnd 20",
            "10.77.0.0/16 via 10.0.0.253 dev n0 tos 0x10 table 1234 proto 201 realm 5",
            "10.78.0.0/16 nexthop via 172.31.0.9 dev c0 weight 2 nexthop via 10.0.0.253 dev n0 weight 3",
            "192.168.200.0/24 dev n0 scope link proto static",
            "10.79.0.0/16 via 203.0.113.9 dev n0 onlink",
            "10.80.0.0/16 via inet6 fe80::77 dev n0",
            "-6 2001:db8:78::/48 via 2001:db8::5 dev n0 src 2001:db8::1 metric 300 table 77",
            "-6 2001:db8:77::/48 nexthop via fe80::2 dev n0 weight 2 nexthop via fe80::3 dev c0",
        ] {
            match route.strip_prefix("-6 ") {
                Some(six) => host.ip(&format!("-6 route add {six}")),
                None => host.ip(&format!("route add {route}")),
            };
        }
        let addresses_shown = shown(&host, "addr show dev n0");
        let routes_shown = || {
            [
                shown(&host, "-4 route show table all"),
                shown(&host, "-6 route show table all"),
            ]
        };
        let before = routes_shown();
        let (all_addresses, all_routes) = (addresses("n0"), routes("n0"));
        assert_eq!(all_addresses.len(), 9, "with the link-local one");
        assert!(
            addresses("c0")
                .iter()
                .all(|record| record.ifindex == index("c0").get()),
            "only the link's own"
        );
        let multipath = |routes: &[RouteRecord]| {
            routes
                .iter()
                .filter(|r| r.attributes.iter().any(|a| a.kind == libc::RTA_MULTIPATH))
                .count()
        };
        assert_eq!(multipath(&all_routes), 2);
        assert_eq!(multipath(&routes("c0")), 2, "whichever next hop it is");

        // Routes that are nobody's automatic ones, off and on again.
        let told: Vec<&RouteRecord> = all_routes
            .iter()
            .filter(|r| r.protocol != libc::RTPROT_KERNEL && r.table != libc::RT_TABLE_LOCAL)
            .collect();
        assert_eq!(told.len(), 8);
        let route = |action| {
            move |record: &&RouteRecord| {
                let mut record = (*record).clone();
                // Dead, linkdown, offload: told by the kernel, not to it.
                record.flags &= ONLINK;
                Op::Route {
                    action,
                    record: Box::new(record),
                }
            }
        };
        run_well(&told.iter().map(route(ListAction::Delete)).collect::<Vec<_>>());
        assert_eq!(routes("n0").len(), all_routes.len() - 8);
        run_well(&told.iter().map(route(ListAction::Add)).collect::<Vec<_>>());
        assert_eq!(routes_shown(), before);
        let again = failure(
            &told
                .iter()
                .map(route(ListAction::Add))
                .take(1)
                .collect::<Vec<_>>(),
        );
        assert_eq!(again.class(), Class::AlreadySo);

        // One address, off and on again, to a link that the op names.
        let address = |action, record: &AddressRecord, link: LinkRef| Op::Address {
            action,
            link,
            record: Box::new(record.clone()),
        };
        let six = all_addresses
            .iter()
            .find(|a| a.family == libc::AF_INET6 as u8 && a.prefix_len == 128)
            .unwrap();
        run_well(&[address(ListAction::Delete, six, there("n0"))]);
        assert_ne!(shown(&host, "addr show dev n0"), addresses_shown);
        run_well(&[address(ListAction::Replace, six, there("n0"))]);
        assert_eq!(addresses("n0").len(), 9);
        run_well(&[
            address(ListAction::Delete, six, there("n0")),
            address(ListAction::Add, six, there("c0")),
        ]);
        assert!(
            host.ip("addr show dev c0")
                .contains("2001:db8:3::1 peer 2001:db8:3::2/128")
        );
        assert_eq!(
            failure(&[address(ListAction::Delete, six, there("n0"))]).class(),
            Class::AlreadySo
        );
    });
}
