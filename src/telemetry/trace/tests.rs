use super::text::{Style, line};
use super::*;
use crate::kernel::watch::{
    Body, Head, LinkFacts, NeighbourFacts, NextHop, Notice, PortFacts, RouteFacts, Verb,
};
use crate::model::{LinkName, Mac};

fn notice(flags: i32, body: Body) -> Notice {
    Notice {
        head: Head {
            flags: flags as u16,
            ..Head::default()
        },
        body,
    }
}

fn facts(index: u32, name: &str, kind: &str) -> LinkFacts {
    LinkFacts {
        index,
        name: LinkName::new(name).ok(),
        kind: Some(kind.into()),
        mac: Some(Mac::new([2, 0, 0, 0, 0, index as u8])),
        mtu: Some(1500),
        ..LinkFacts::default()
    }
}

fn link(facts: LinkFacts) -> Notice {
    notice(0, Body::Link(Verb::Present, Box::new(facts)))
}

fn port(verb: Verb, index: u32, master: Option<u32>) -> Notice {
    let facts = PortFacts {
        index,
        master,
        state: Some(3),
        ..PortFacts::default()
    };
    notice(0, Body::Port(verb, Box::new(facts)))
}

/// A tracer that knows bridges br0 (1), br1 (2) with a network's mark, and tap0 (5) in br0.
fn known() -> Tracer {
    let mut tracer = Tracer::new();
    tracer.apply(&link(facts(1, "br0", "bridge")), 0);
    let marked = LinkFacts {
        alias: Some("tapwire:blue".into()),
        ..facts(2, "br1", "bridge")
    };
    tracer.apply(&link(marked), 0);
    let enslaved = LinkFacts {
        master: Some(1),
        ..facts(5, "tap0", "tap")
    };
    tracer.apply(&link(enslaved), 0);
    tracer.apply(&port(Verb::Present, 5, Some(1)), 0);
    tracer
}

/// Without stamp and sequence number.
fn shown(event: &TraceEvent) -> String {
    let text = line(&Line::Event(Box::new(event.clone())), Style::default());
    text.splitn(3, ' ').nth(2).unwrap().to_owned()
}

#[test]
fn a_json_object_has_the_promised_keys() {
    let mut tracer = known();
    let moved = LinkFacts {
        master: Some(2),
        mtu: Some(1400),
        ..facts(5, "tap0", "tap")
    };
    let mut event = tracer.apply(&link(moved), 12_345);
    event.cause.own = true;
    event.cause.op = Some("attach".into());
    event.decided = Some(Decided {
        decision: "attach".into(),
        outcome: Some("ok".into()),
        elapsed_us: Some(412),
    });
    assert_eq!(
        Line::Event(Box::new(event)).to_json().unwrap(),
        "{\"ts_us\":12345,\"seq\":5,\"event\":\"enslaved\",\"object\":\"link\",\"family\":\"unspec\",\"ifindex\":5,\
         \"ifname\":\"tap0\",\"kind\":\"tap\",\"network\":\"blue\",\"diff\":{\"master\":[\"br0\",\"br1\"],\
         \"mtu\":[1500,1400]},\"cause\":{\"by\":\"own\",\"op\":\"attach\"},\"decision\":\"attach\",\"outcome\":\"ok\",\
         \"elapsed_us\":412}"
    );
    let loss = Line::Loss(Loss {
        ts_us: 1,
        seq: 2,
        lost: None,
        resync_ms: 18,
    });
    let loss: serde_json::Value = serde_json::from_str(&loss.to_json().unwrap()).unwrap();
    assert_eq!(
        loss,
        serde_json::json!({"ts_us": 1, "seq": 2, "event": "loss", "lost": null, "resync_ms": 18})
    );
}

#[test]
fn a_bridge_family_removal_is_a_release_and_the_device_lives_on() {
    let mut tracer = known();
    let released = tracer.apply(&port(Verb::Removed, 5, Some(1)), 0);
    assert_eq!(
        shown(&released),
        "released port tap0#5 tap master br0 -> none, port_state forwarding -> none (foreign)"
    );
    let after = tracer.apply(&link(facts(5, "tap0", "tap")), 0);
    assert_eq!(shown(&after), "change link tap0#5 tap no difference (foreign)");
}

#[test]
fn a_device_of_another_kind_under_a_known_index_is_new_and_inherits_nothing() {
    let mut tracer = known();
    let reborn = LinkFacts {
        change: u32::MAX,
        ..facts(5, "vx0", "vxlan")
    };
    let event = tracer.apply(&link(reborn), 0);
    assert_eq!(
        (event.word, &*event.ifname, &*event.kind),
        (Word::New, "vx0", "vxlan")
    );
    assert!(
        event.diff.iter().all(|change| change.old == Value::Absent),
        "{:?}",
        event.diff
    );
}

#[test]
fn own_requests_are_known_by_their_port_id() {
    let mut tracer = known();
    tracer.set_own_portids([4711]);
    let mut own = link(facts(5, "tap0", "tap"));
    own.head.portid = 4711;
    assert!(tracer.apply(&own, 0).cause.own);
    own.head.portid = 815;
    let foreign = tracer.apply(&own, 0).cause;
    assert_eq!((foreign.own, foreign.portid), (false, Some(815)));
}

fn route(flags: i32, verb: Verb, hops: &[(u32, [u8; 4])]) -> Notice {
    let hops = hops.iter().map(|(index, gateway)| NextHop {
        index: Some(*index),
        gateway: Some((*gateway).into()),
        weight: 1,
    });
    let facts = RouteFacts {
        family: libc::AF_INET as u8,
        table: 254,
        destination: Some([10, 10, 0, 0].into()),
        prefix_len: 16,
        tos: 0,
        priority: 100,
        kind: 1,
        protocol: 4,
        scope: 0,
        source: None,
        hops: hops.collect(),
        nexthop_id: None,
    };
    notice(flags, Body::Route(verb, Box::new(facts)))
}

#[test]
fn a_route_that_moves_to_another_device_is_one_route_changed() {
    let mut tracer = known();
    let new = tracer.apply(
        &route(libc::NLM_F_CREATE, Verb::Present, &[(1, [10, 0, 0, 1])]),
        0,
    );
    assert_eq!(
        shown(&new),
        "new route br0#1 bridge 10.10.0.0/16 metric 100 via 10.0.0.1 dev br0, proto static (foreign)"
    );
    let several = [(1, [10, 0, 0, 1]), (2, [10, 0, 1, 1])];
    let moved = tracer.apply(&route(libc::NLM_F_REPLACE, Verb::Present, &several), 0);
    assert_eq!(
        shown(&moved),
        "change route - - 10.10.0.0/16 metric 100 via 10.0.0.1 dev br0 -> \
         10.0.0.1 dev br0 + 10.0.1.1 dev br1 (foreign)"
    );
    assert_eq!(
        tracer.apply(&route(0, Verb::Removed, &several), 0).word,
        Word::Gone
    );
    let again = tracer.apply(&route(libc::NLM_F_CREATE, Verb::Present, &several), 0);
    assert_eq!(again.word, Word::New);
}

/// A raw link row, as a listing has it.
fn row(index: u32, name: &str) -> Vec<u8> {
    let mut attribute = u16::try_from(4 + name.len() + 1).unwrap().to_ne_bytes().to_vec();
    attribute.extend(3u16.to_ne_bytes());
    attribute.extend(name.as_bytes());
    attribute.push(0);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    let mut row = u32::try_from(32 + attribute.len())
        .unwrap()
        .to_ne_bytes()
        .to_vec();
    row.extend(libc::RTM_NEWLINK.to_ne_bytes());
    row.extend([0; 10]);
    row.extend([0, 0, 1, 0]);
    row.extend(index.to_ne_bytes());
    row.extend([0; 8]);
    row.extend(attribute);
    row
}

#[test]
fn the_vtep_of_an_entry_is_said_once_and_a_move_to_another_is_told() {
    let mut tracer = known();
    let mut entry = |mac: [u8; 6], vtep: u8| {
        let facts = NeighbourFacts {
            family: libc::AF_BRIDGE as u8,
            index: 5,
            address: Some([192, 0, 2, vtep].into()),
            mac: Some(Mac::new(mac)),
            state: libc::NUD_PERMANENT,
            flags: 0,
            master: None,
            vlan: None,
            vni: None,
            protocol: None,
        };
        let told = tracer.apply(&notice(0, Body::Neighbour(Verb::Present, facts)), 0);
        shown(&told)
    };
    let flood = entry([0; 6], 1);
    assert_eq!(flood.matches("dst").count(), 1, "{flood}");
    assert!(
        flood.contains("00:00:00:00:00:00 dst 192.0.2.1 state permanent"),
        "{flood}"
    );
    // One of a guest has one VTEP at a time, so it is no part of its name.
    let unicast = entry([2, 0, 0, 0, 0, 9], 1);
    assert!(
        unicast.contains("02:00:00:00:00:09 dst 192.0.2.1, state permanent"),
        "{unicast}"
    );
    let moved = entry([2, 0, 0, 0, 0, 9], 2);
    assert!(
        moved.contains("02:00:00:00:00:09 dst 192.0.2.1 -> 192.0.2.2"),
        "{moved}"
    );
}

#[test]
fn a_resync_tells_the_loss_first_and_then_what_it_hid() {
    let mut tracer = Tracer::new();
    let (eth0, tap0, tap1) = (row(1, "eth0"), row(5, "tap0"), row(6, "tap1"));
    tracer.seed([&*eth0, &*tap0]);
    let lines = tracer.resync([&*eth0, &*tap1], Some(41), 18, 7);
    let told: Vec<_> = lines
        .iter()
        .map(|l| {
            line(l, Style::default())
                .splitn(3, ' ')
                .nth(2)
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(
        told,
        [
            "loss 41 messages lost, listed again in 18 ms",
            "new link tap1#6 - flags  (found by the resync)",
            "gone link tap0#5 - (found by the resync)",
        ]
    );
}

#[test]
fn filters_match_names_and_terms_and_never_hide_a_loss() {
    let mut tracer = known();
    let renamed = tracer.apply(
        &link(LinkFacts {
            master: Some(2),
            ..facts(5, "foo", "tap")
        }),
        0,
    );
    let event = Line::Event(Box::new(renamed));
    for (filter, passes) in [
        ("tap*", true),
        ("foo", true),
        ("bar*", false),
        ("event=enslaved,network=blue", true),
        ("event=enslaved,network=red", false),
        ("master=br0", true),
        ("master=br?,kind=tap,field=name,cause=foreign", true),
        ("object=fdb", false),
    ] {
        assert_eq!(Filter::parse(filter).unwrap().passes(&event), passes, "{filter}");
    }
    let loss = Line::Loss(Loss {
        ts_us: 0,
        seq: 1,
        lost: None,
        resync_ms: 1,
    });
    assert!(Filter::parse("nothing").unwrap().passes(&loss));
}

#[test]
fn a_filter_that_makes_no_sense_says_what_would() {
    let message = |text| Filter::parse(text).unwrap_err().to_string();
    assert!(message("evnt=new").contains("did you mean \"event\""));
    assert!(message("event=delete").contains("new change enslaved released gone loss"));
    assert!(message("tap*,").contains("empty term"));
}

#[test]
fn names_and_aliases_never_reach_a_terminal_as_control_characters() {
    let mut tracer = known();
    let nasty = LinkFacts {
        alias: Some("\u{1b}]0;owned\u{7}".into()),
        ..facts(5, "tap0", "tap")
    };
    let event = Line::Event(Box::new(tracer.apply(&link(nasty), 0)));
    let style = Style {
        colours: false,
        columns: true,
    };
    assert!(!line(&event, style).contains('\u{1b}'));
    assert!(line(&event, style).contains("\\u{1b}]0;owned\\u{7}"));
}
