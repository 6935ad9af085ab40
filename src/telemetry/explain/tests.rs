use super::*;
use crate::model::LinkName;

fn last(steps: &[Step<'_>], standing: &Standing<'_>) -> String {
    story(steps, standing).pop().unwrap().text
}

fn refused(op: &'static str, errno: i32, text: &'static str) -> Step<'static> {
    Step::new(Kind::Op, 9, 1)
        .device(5, "tap0")
        .says(op, text)
        .took(70, u16::try_from(errno).unwrap())
}

/// What is wrong, and words without which the last line would not name it and its remedy.
#[test]
fn the_last_line_names_the_true_cause_of_every_prepared_failure() {
    let nic = Waiting::Interface {
        physical: "physnet1".into(),
        interface: LinkName::new("eth1").unwrap(),
    };
    let local = Waiting::LocalAddress("192.0.2.11".parse().unwrap());
    let failed = |error| Standing::Failed {
        network: "blue",
        bridge: "brqblue",
        error,
        retry_s: Some(4),
    };
    let cases: [(&str, Vec<Step<'_>>, Standing<'_>, &[&str]); 16] = [
        (
            "no mapping",
            vec![],
            Standing::NoMapping,
            &["no mapping", "port bind"],
        ),
        (
            "name does not match",
            vec![],
            Standing::NameNotMatched {
                patterns: "tap*, vnet*",
            },
            &["taps.match", "tap*, vnet*"],
        ),
        (
            "kind is not tap",
            vec![],
            Standing::KindNotMatched { kind: "veth" },
            &["veth", "other_kinds"],
        ),
        (
            "network unknown",
            vec![],
            Standing::UnknownNetwork { network: "blue" },
            &["network blue", "nobody has told of"],
        ),
        (
            "NIC missing",
            vec![],
            Standing::NetworkWaits {
                network: "blue",
                waiting: &nic,
            },
            &["waits for interface eth1", "physnet1", "appears"],
        ),
        (
            "local_ip absent",
            vec![],
            Standing::NetworkWaits {
                network: "blue",
                waiting: &local,
            },
            &["local_ip 192.0.2.11", "on a link"],
        ),
        (
            "no local_ip configured",
            vec![],
            Standing::NetworkWaits {
                network: "blue",
                waiting: &Waiting::NoLocalAddress,
            },
            &["no local_ip is configured", "vxlan.local_ip"],
        ),
        (
            "denied by plugin",
            vec![],
            Standing::Denied {
                plugin: "quota",
                reason: "tenant over quota",
            },
            &["plugin quota", "tenant over quota"],
        ),
        (
            "bridge full",
            vec![refused("attach", libc::EXFULL, "Exchange full (os error 54)")],
            failed("attach: Exchange full (os error 54)"),
            &["1,023 ports", "brqblue", "in 4 s"],
        ),
        (
            "foreign bridge",
            vec![],
            Standing::ForeignBridge { bridge: "virbr0" },
            &["virbr0", "not ours", "taps.adopt"],
        ),
        (
            "fight",
            vec![],
            Standing::Fight {
                reason: "somebody else keeps taking tap0 away: 25 repairs",
                retry_s: Some(60),
            },
            &["somebody else keeps taking tap0 away", "find out who", "in 60 s"],
        ),
        (
            "kernel lacks vlan",
            vec![refused(
                "create_vlan",
                libc::EOPNOTSUPP,
                "Operation not supported (os error 95)",
            )],
            Standing::NetworkFailed {
                network: "blue",
                error: "create_vlan eth1.100: Operation not supported (os error 95)",
            },
            &["network blue", "802.1Q", "8021q"],
        ),
        (
            "MTU refused",
            vec![refused(
                "set_link",
                libc::EINVAL,
                "mtu greater than device maximum",
            )],
            failed("set_link: mtu greater than device maximum"),
            &["mtu greater than device maximum", "the MTU asked for"],
        ),
        (
            "set down by somebody else",
            vec![],
            Standing::Attached {
                network: "blue",
                bridge: "brqblue",
                up: false,
                admin_state_up: true,
                remark: None,
            },
            &["somebody else set it down"],
        ),
        (
            "down as mapped",
            vec![],
            Standing::Attached {
                network: "blue",
                bridge: "brqblue",
                up: false,
                admin_state_up: false,
                remark: None,
            },
            &["admin_state_up = false"],
        ),
        (
            "no capability",
            vec![refused(
                "attach",
                libc::EPERM,
                "Operation not permitted (os error 1)",
            )],
            failed("attach: Operation not permitted (os error 1)"),
            &["CAP_NET_ADMIN"],
        ),
    ];
    for (case, steps, standing, words) in cases {
        let line = last(&steps, &standing);
        for word in words {
            assert!(line.contains(word), "{case}: {line:?} lacks {word:?}");
        }
    }
}

#[test]
fn a_story_tells_events_mapping_verdicts_and_answers_in_order() {
    let steps = [
        Step::new(Kind::Event, 1, 7).device(5, "tap0").says("new", ""),
        Step::new(Kind::Mapping, 2, 7)
            .device(5, "tap0")
            .says("port", "network blue"),
        Step::new(Kind::Policy, 3, 7)
            .device(5, "tap0")
            .says("mtu", "mtu 1400"),
        Step::new(Kind::Op, 4, 7)
            .device(5, "tap0")
            .says("attach", "")
            .took(71, 0),
        refused("up", libc::EPERM, "Operation not permitted"),
    ];
    let standing = Standing::Attached {
        network: "blue",
        bridge: "brqblue",
        up: true,
        admin_state_up: true,
        remark: None,
    };
    let told = story(&steps, &standing);
    let texts: Vec<_> = told.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "new",
            "mapped by port: network blue",
            "plugin mtu: mtu 1400",
            "attach done",
            "up refused: Operation not permitted",
            "attached to network blue on bridge brqblue and up; nothing is to be done",
        ]
    );
    assert_eq!(
        (told[3].ok, told[3].elapsed_us, told[4].ok),
        (Some(true), Some(71), Some(false))
    );
}

#[test]
fn an_old_refusal_that_is_not_the_present_error_explains_nothing() {
    let steps = [refused("attach", libc::EXFULL, "Exchange full")];
    let standing = Standing::Failed {
        network: "blue",
        bridge: "brqblue",
        error: "attach: Device or resource busy (os error 16)",
        retry_s: None,
    };
    assert!(!last(&steps, &standing).contains("1,023"));
}
