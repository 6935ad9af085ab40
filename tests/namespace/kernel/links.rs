//! Operations on links.

use super::{attach, block_on, failure, made, name, run, run_well, set, there};
use crate::support::feature::{Feature, require};
use crate::support::host::Host;
use crate::support::world::in_namespace;
use serde_json::{Value, json};
use tapwire::kernel::{Class, Error, LinkKey, Snapshot, Verdict};
use tapwire::model::{BridgeAttributes, LinkKind, Mac, Mtu, PortFlags, Vid, VlanAttributes, VxlanAttributes};
use tapwire::plan::op::{LinkChange, Master, Op};

fn mac(text: &str) -> Mac {
    text.parse().unwrap()
}

fn data(host: &Host, link: &str) -> Value {
    host.link(link).expect(link)["linkinfo"]["info_data"].clone()
}

fn bridge(text: &str) -> Op {
    Op::CreateBridge {
        name: name(text),
        mac: mac("02:00:00:00:00:01"),
        mtu: None,
        attributes: BridgeAttributes::default(),
    }
}

#[test]
fn a_bridge_is_made_with_all_its_attributes_in_one_request() {
    in_namespace(|| {
        let host = Host::here();
        let links = run_well(&[
            Op::CreateBridge {
                name: name("brqblue"),
                mac: mac("02:11:22:33:44:55"),
                mtu: Some(Mtu::new(1450).unwrap()),
                attributes: BridgeAttributes {
                    stp: Some(false),
                    forward_delay: Some(0),
                    ageing_time: Some(12_300),
                    multicast_snooping: Some(false),
                    link_local_learning: Some(false),
                    vlan_filtering: None,
                    vlan_default_pvid: None,
                },
            },
            Op::DisableIpv6 {
                link: made("brqblue"),
                disable: true,
            },
            Op::SetLink {
                link: made("brqblue"),
                change: LinkChange {
                    alias: Some("tapwire:blue".into()),
                    up: Some(true),
                    ..LinkChange::default()
                },
            },
        ]);
        let seen = host.link("brqblue").unwrap();
        assert_eq!(seen["address"], "02:11:22:33:44:55");
        assert_eq!(seen["mtu"], 1450);
        assert_eq!(seen["ifalias"], "tapwire:blue");
        let info = &seen["linkinfo"]["info_data"];
        assert_eq!(
            [
                &info["forward_delay"],
                &info["stp_state"],
                &info["ageing_time"],
                &info["mcast_snooping"],
                &info["no_linklocal_learn"]
            ],
            [&json!(0), &json!(0), &json!(12_300), &json!(0), &json!(1)]
        );
        assert!(host.is_up("brqblue"));
        assert_eq!(
            std::fs::read_to_string("/proc/sys/net/ipv6/conf/brqblue/disable_ipv6").unwrap(),
            "1\n"
        );

        // What the executor reads back is what it made.
        let [link] = &links[..] else { panic!("{links:?}") };
        assert_eq!(
            (link.name, link.mac, link.mtu, link.up),
            (name("brqblue"), Some(mac("02:11:22:33:44:55")), 1450, false)
        );
        let LinkKind::Bridge(attributes) = link.kind else {
            panic!("{link:?}")
        };
        assert_eq!(
            (
                attributes.stp,
                attributes.forward_delay,
                attributes.ageing_time,
                attributes.multicast_snooping,
                attributes.link_local_learning
            ),
            (Some(false), Some(0), Some(12_300), Some(false), Some(false))
        );
        assert_eq!(link.ipv6_disabled, Some(false));
    });
}

#[test]
fn a_bridges_attributes_are_changed_in_place() {
    in_namespace(|| {
        let host = Host::here();
        run_well(&[bridge("br0")]);
        run_well(&[Op::SetBridge {
            link: there("br0"),
            attributes: BridgeAttributes {
                forward_delay: Some(0),
                multicast_snooping: Some(false),
                link_local_learning: Some(false),
                ..BridgeAttributes::default()
            },
        }]);
        let info = data(&host, "br0");
        assert_eq!(
            [
                &info["forward_delay"],
                &info["mcast_snooping"],
                &info["no_linklocal_learn"]
            ],
            [&json!(0), &json!(0), &json!(1)]
        );
        assert_eq!(info["ageing_time"], 30_000, "what is not said stays");
    });
}

#[test]
fn a_tap_is_attached_flagged_and_brought_up() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        run_well(&[bridge("br0")]);
        let tap = host.tap("tap0");
        let flags = PortFlags {
            learning: Some(false),
            isolated: Some(true),
            hairpin: Some(true),
            guard: Some(true),
            neigh_suppress: Some(true),
            flood: Some(false),
            mcast_flood: Some(false),
            bcast_flood: Some(false),
            vlan_tunnel: Some(false),
        };
        run_well(&[
            Op::DisableIpv6 {
                link: there("tap0"),
                disable: true,
            },
            set(
                "tap0",
                LinkChange {
                    mtu: Some(Mtu::new(1400).unwrap()),
                    mac: Some(mac("02:aa:00:00:00:01")),
                    tx_queue_len: Some(77),
                    ..LinkChange::default()
                },
            ),
            attach("tap0", "br0"),
            Op::SetPort {
                link: there("tap0"),
                flags,
            },
            set(
                "tap0",
                LinkChange {
                    up: Some(true),
                    ..LinkChange::default()
                },
            ),
        ]);
        assert!(host.is_attached("tap0", "br0"));
        let seen = host.link("tap0").unwrap();
        assert_eq!(
            [&seen["mtu"], &seen["address"], &seen["txqlen"]],
            [&json!(1400), &json!("02:aa:00:00:00:01"), &json!(77)]
        );
        let port = &host.bridge_json("link show dev tap0")[0];
        for (word, on) in [
            ("learning", false),
            ("isolated", true),
            ("hairpin", true),
            ("guard", true),
            ("neigh_suppress", true),
            ("flood", false),
            ("mcast_flood", false),
            ("bcast_flood", false),
        ] {
            assert_eq!(port[word], on, "{word}");
        }
        // And decodes to the same.
        let link = tapwire::kernel::Executor::open()
            .unwrap()
            .link(LinkKey::Index(tap.index()))
            .unwrap();
        assert_eq!(link.port, Some(flags));
        assert_eq!(link.kind, LinkKind::Tap);
        assert_eq!(link.master, there("br0").index);
        assert_eq!(
            (link.up, link.mtu, link.tx_queue_len, link.ipv6_disabled),
            (true, 1400, 77, Some(true))
        );

        // Attaching again changes nothing and is no event.
        let observer = host.observer();
        run_well(&[attach("tap0", "br0")]);
        assert_eq!(observer.take().len(), 0);

        run_well(&[set(
            "tap0",
            LinkChange {
                master: Some(Master::Clear),
                up: Some(false),
                ..LinkChange::default()
            },
        )]);
        assert_eq!(host.master("tap0"), None);
        assert!(!host.is_up("tap0"));
        let link = tapwire::kernel::Executor::open()
            .unwrap()
            .link(LinkKey::Name(name("tap0")))
            .unwrap();
        assert_eq!((link.port, link.master), (None, None));
    });
}

fn vxlan(vni: u32, local: &str) -> VxlanAttributes {
    VxlanAttributes {
        vni,
        local: Some(local.parse().unwrap()),
        dstport: 4789,
        ttl: 33,
        tos: 8,
        learning: false,
        proxy: true,
        srcport: (40_000, 50_000),
        ..VxlanAttributes::default()
    }
}

#[test]
fn vxlan_devices_of_both_families_carry_what_was_asked() {
    in_namespace(|| {
        require!(Feature::Vxlan, Feature::Veth);
        let host = Host::here();
        host.ip("link add under type veth peer name below");
        host.ip("link set under up");
        let with_group = VxlanAttributes {
            group: Some("239.1.1.1".parse().unwrap()),
            link: there("under").index,
            learning: true,
            proxy: false,
            ..vxlan(101, "192.0.2.1")
        };
        let six = VxlanAttributes {
            group: Some("ff05::100".parse().unwrap()),
            link: there("under").index,
            ..vxlan(102, "2001:db8::1")
        };
        let links = run_well(&[
            Op::CreateVxlan {
                name: name("vxlan-100"),
                mtu: Some(Mtu::new(1450).unwrap()),
                attributes: vxlan(100, "192.0.2.1"),
            },
            Op::CreateVxlan {
                name: name("vxlan-101"),
                mtu: None,
                attributes: with_group.clone(),
            },
            Op::CreateVxlan {
                name: name("vxlan-102"),
                mtu: None,
                attributes: six.clone(),
            },
        ]);
        for (link, asked) in links
            .iter()
            .zip([vxlan(100, "192.0.2.1"), with_group.clone(), six])
        {
            assert_eq!(link.kind, LinkKind::Vxlan(Box::new(asked)));
        }
        let info = data(&host, "vxlan-100");
        assert_eq!(
            [
                &info["id"],
                &info["local"],
                &info["port"],
                &info["ttl"],
                &info["learning"],
                &info["proxy"]
            ],
            [
                &json!(100),
                &json!("192.0.2.1"),
                &json!(4789),
                &json!(33),
                &json!(false),
                &json!(true)
            ]
        );
        assert_eq!(info["port_range"], json!({"low": 40_000, "high": 50_000}));
        assert_eq!(host.link("vxlan-100").unwrap()["mtu"], 1450);
        assert_eq!(data(&host, "vxlan-102")["group6"], "ff05::100");

        // Group, TTL, TOS and learning can change, also to "no group".
        run_well(&[Op::SetVxlan {
            link: there("vxlan-101"),
            attributes: VxlanAttributes {
                group: None,
                ttl: 9,
                tos: 16,
                learning: false,
                ..with_group
            },
        }]);
        let info = data(&host, "vxlan-101");
        assert_eq!(
            [&info["group"], &info["ttl"], &info["learning"]],
            [&Value::Null, &json!(9), &json!(false)]
        );
        assert_eq!(info["tos"], "0x10");
    });
}

#[test]
fn a_vni_in_use_fails_with_the_kernels_own_words() {
    in_namespace(|| {
        require!(Feature::Vxlan);
        let create = |text| Op::CreateVxlan {
            name: name(text),
            mtu: None,
            attributes: vxlan(100, "192.0.2.1"),
        };
        run_well(&[create("vxlan-100")]);
        let error = failure(&[create("other"), bridge("never")]);
        assert_eq!(
            error.to_string(),
            "create_vxlan: File exists: A VXLAN device with the specified VNI already exists"
        );
        assert_eq!(error.class(), Class::Refused);
        assert!(Host::here().link("never").is_none(), "a failure ends the run");
    });
}

#[test]
fn a_mtu_the_device_does_not_take_fails_with_the_kernels_own_words() {
    in_namespace(|| {
        require!(Feature::Tap);
        let _tap = Host::here().tap("tap0");
        let error = failure(&[set(
            "tap0",
            LinkChange {
                mtu: Some(Mtu::new(65_535).unwrap()),
                ..LinkChange::default()
            },
        )]);
        assert_eq!(
            error.to_string(),
            "set_link: Invalid argument: mtu greater than device maximum"
        );
    });
}

#[test]
fn a_taken_name_ends_the_run_and_shows_what_is_there() {
    in_namespace(|| {
        require!(Feature::Veth);
        let host = Host::here();
        host.ip("link add br0 type veth peer name br1");
        let verdicts = run(&[
            bridge("br0"),
            Op::SetLink {
                link: made("br0"),
                change: LinkChange {
                    alias: Some("tapwire:blue".into()),
                    ..LinkChange::default()
                },
            },
        ]);
        let [Verdict::AlreadyThere(link)] = &verdicts[..] else {
            panic!("{verdicts:?}")
        };
        assert_eq!(link.kind, LinkKind::Other("veth".into()));
        assert_eq!(
            host.link("br0").unwrap()["ifalias"],
            Value::Null,
            "a foreign device is left alone"
        );
    });
}

#[test]
fn deleting_what_is_gone_is_information() {
    in_namespace(|| {
        run_well(&[bridge("br0"), bridge("br1")]);
        let gone = Op::DeleteLink { link: there("br0") };
        // In the same plan the kernel says so, in the next one already the check before the request.
        assert_eq!(failure(&[gone.clone(), gone.clone()]).class(), Class::AlreadySo);
        assert_eq!(failure(&[gone]).class(), Class::AlreadySo);
        assert!(Host::here().link("br0").is_none());
        assert!(Host::here().link("br1").is_some());
    });
}

#[test]
fn a_vlan_on_a_kernel_without_802_1q_says_so() {
    in_namespace(|| {
        if Feature::probe(Feature::Vlan).is_ok() {
            return;
        }
        run_well(&[bridge("br0")]);
        let error = failure(&[Op::CreateVlan {
            name: name("br0.7"),
            parent: there("br0"),
            vid: Vid::new(7).unwrap(),
            mtu: None,
        }]);
        assert_eq!(error.class(), Class::Unsupported);
        assert_eq!(
            error.to_string(),
            "create_vlan: Operation not supported: Unknown device type"
        );
    });
}

#[test]
fn a_vlan_device_is_made_on_its_parent() {
    in_namespace(|| {
        require!(Feature::Vlan);
        run_well(&[bridge("br0")]);
        let links = run_well(&[Op::CreateVlan {
            name: name("br0.7"),
            parent: there("br0"),
            vid: Vid::new(7).unwrap(),
            mtu: Some(Mtu::new(1400).unwrap()),
        }]);
        assert_eq!(
            links[0].kind,
            LinkKind::Vlan(VlanAttributes {
                vid: Some(Vid::new(7).unwrap()),
                protocol: 0x8100
            })
        );
        assert_eq!((links[0].parent, links[0].mtu), (there("br0").index, 1400));
    });
}

#[test]
fn the_port_that_is_one_too_many_fails_as_full() {
    in_namespace(|| {
        require!(Feature::Tap);
        let host = Host::here();
        run_well(&[bridge("br0")]);
        // Persistent and closed: closing a tap for good costs 20 ms each; these go with the namespace, all at once.
        for i in 0..1024 {
            host.tap(&format!("tap{i}")).set_persistent(true).unwrap();
        }
        let mut executor = tapwire::kernel::Executor::open().unwrap();
        let ops: Vec<Op> = (0..1024).map(|i| attach(&format!("tap{i}"), "br0")).collect();
        let mut last = None;
        let told = executor.run(&ops, |_, outcome| last = Some(outcome.verdict));
        assert_eq!(told, 1024);
        let Some(Verdict::Failed(error)) = last else {
            panic!("{last:?}")
        };
        assert_eq!(error.class(), Class::Full);
        assert!(matches!(&error, Error::Refused { refusal, .. } if refusal.errno == libc::EXFULL));

        // And a dump of them all lists every one.
        let listing = block_on(Snapshot::open().unwrap().links()).unwrap();
        assert!(listing.complete);
        assert_eq!(listing.undecodable, 0);
        let bridge = there("br0").index;
        assert_eq!(
            listing
                .rows
                .iter()
                .filter(|link| link.kind == LinkKind::Tap)
                .count(),
            1024
        );
        assert_eq!(
            listing.rows.iter().filter(|link| link.master == bridge).count(),
            1023
        );
    });
}
