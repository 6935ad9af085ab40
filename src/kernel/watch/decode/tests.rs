use super::*;

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut out = u16::try_from(4 + value.len()).unwrap().to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(align(out.len()), 0);
    out
}

fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(HEADER + body.len()).unwrap().to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend([0; 10]);
    out.extend(body);
    out
}

fn link_message(family: u8, attributes: &[u8]) -> Vec<u8> {
    let mut body = vec![family, 0, 1, 0];
    body.extend(7u32.to_ne_bytes());
    body.extend(0x1002u32.to_ne_bytes());
    body.extend(u32::MAX.to_ne_bytes());
    body.extend(attributes);
    message(libc::RTM_NEWLINK, &body)
}

#[test]
fn a_tap_is_told_from_a_tun_by_its_data_and_not_by_its_name() {
    let info = |mode: u8| {
        let kind = [attribute(1, b"tun\0"), attribute(2, &attribute(3, &[mode]))].concat();
        attribute(18, &kind)
    };
    let kind = |mode| match decode(&link_message(0, &info(mode))).unwrap().body {
        Body::Link(Verb::Present, facts) => facts.kind.unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(&*kind(2), "tap");
    assert_eq!(&*kind(1), "tun");
}

#[test]
fn an_attribute_of_the_wrong_size_or_an_unknown_one_costs_nothing_else() {
    let attributes = [
        attribute(4, &[1, 2]),
        attribute(9999, &[0; 40]),
        attribute(0x8000 | 3, b"tap0\0"),
    ]
    .concat();
    match decode(&link_message(0, &attributes)).unwrap().body {
        Body::Link(_, facts) => {
            assert_eq!(facts.mtu, None);
            assert_eq!(facts.name, LinkName::new("tap0").ok());
            assert_eq!(facts.index, 7);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bridge_port_message_is_not_a_link_message() {
    let protinfo = attribute(0x8000 | 12, &[attribute(1, &[3]), attribute(8, &[0])].concat());
    match decode(&link_message(7, &protinfo)).unwrap().body {
        Body::Port(Verb::Present, facts) => {
            assert_eq!(
                (facts.state, facts.learning, facts.isolated),
                (Some(3), Some(false), None)
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_message_type_from_the_future_is_other_and_a_broken_frame_says_where() {
    assert_eq!(decode(&message(4242, &[1, 2, 3])).unwrap().body, Body::Other);
    let mut broken = link_message(0, &attribute(3, b"tap0\0"));
    let at = broken.len() - 12;
    broken[at..at + 2].copy_from_slice(&200u16.to_ne_bytes());
    assert_eq!(
        decode(&broken).unwrap_err().to_string(),
        "netlink message of type 16: an attribute's length does not fit at byte 32"
    );
}

#[test]
fn a_datagram_with_a_lying_length_ends_there_with_one_error() {
    let mut datagram = message(16, &[0; 16]);
    datagram.extend(500u32.to_ne_bytes());
    datagram.extend([0; 12]);
    let split: Vec<_> = messages(&datagram).collect();
    assert_eq!(split.len(), 2);
    assert!(split[0].is_ok() && split[1].is_err());
}

#[test]
fn no_prefix_of_any_message_panics() {
    let whole = link_message(0, &attribute(18, &attribute(1, b"tun\0")));
    for kind in [16u16, 17, 20, 21, 24, 25, 28, 29] {
        for len in 0..whole.len() {
            let mut cut = whole[..len].to_vec();
            if let Some(field) = cut.get_mut(4..6) {
                field.copy_from_slice(&kind.to_ne_bytes());
            }
            // Whether it decodes does not matter here, only that it returns.
            drop(decode(&cut));
        }
    }
}
