//! The rules of the spoof guard: what is compared, in order, for every guarded port.
//!
//! `tests/namespace/kernel/nft.txt` shows them as `nft` lists them.

use super::table::{Act, Chain, Field, Hook, Reason, Rule, Set, Test};

const fn rule(tests: &'static [Test], act: Act) -> Rule {
    Rule { tests, act }
}

const fn chain(name: &'static str, rules: &'static [Rule]) -> Chain {
    Chain {
        name,
        hook: None,
        rules,
    }
}

const IPV4: Test = Test::Is(Field::EtherType, &[0x08, 0x00]);
const ARP: Test = Test::Is(Field::EtherType, &[0x08, 0x06]);
const VLAN: Test = Test::Is(Field::EtherType, &[0x81, 0x00]);
const RARP: Test = Test::Is(Field::EtherType, &[0x80, 0x35]);
const IPV6: Test = Test::Is(Field::EtherType, &[0x86, 0xdd]);
const UDP: Test = Test::Is(Field::L4Protocol, &[17]);
const ICMPV6: Test = Test::Is(Field::L4Protocol, &[58]);
const BOOTP_SERVER: &[u8] = &[0, 67];
const BOOTP_CLIENT: &[u8] = &[0, 68];
const DHCPV6_CLIENT: &[u8] = &[0x02, 0x22];
const DHCPV6_SERVER: &[u8] = &[0x02, 0x23];
const ANY4: &[u8] = &[0; 4];
const ANY6: &[u8] = &[0; 16];
const ROUTER_SOLICITATION: &[u8] = &[133];
const ROUTER_ADVERTISEMENT: &[u8] = &[134];
const NEIGHBOUR_SOLICITATION: &[u8] = &[135];
const NEIGHBOUR_ADVERTISEMENT: &[u8] = &[136];
const REDIRECT: &[u8] = &[137];
const MLD_REPORT: &[u8] = &[131];
const MLD2_REPORT: &[u8] = &[143];

/// Chains stand before those that jump to them; base chains last.
pub const CHAINS: &[Chain] = &[
    // The frame's own source, the one an ARP message speaks of, and the one a DHCP request is for.
    chain(
        "mac",
        &[
            rule(
                &[Test::NotIn(Set::Macs, &[Field::EtherSource])],
                Act::Drop(Reason::SpoofedMac),
            ),
            rule(
                &[ARP, Test::NotIn(Set::Macs, &[Field::ArpSenderMac])],
                Act::Drop(Reason::SpoofedArp),
            ),
            rule(
                &[
                    IPV4,
                    UDP,
                    Test::Is(Field::DestinationPort, BOOTP_SERVER),
                    Test::In(Set::Macs, &[Field::DhcpClient]),
                ],
                Act::Return,
            ),
            rule(
                &[IPV4, UDP, Test::Is(Field::DestinationPort, BOOTP_SERVER)],
                Act::Drop(Reason::SpoofedMac),
            ),
        ],
    ),
    // A server answers from its port, or (RFC 2131 does not insist) from any port to a client's.
    chain(
        "server4",
        &[
            rule(
                &[IPV4, UDP, Test::Is(Field::SourcePort, BOOTP_SERVER)],
                Act::Drop(Reason::DhcpServer),
            ),
            rule(
                &[IPV4, UDP, Test::Is(Field::DestinationPort, BOOTP_CLIENT)],
                Act::Drop(Reason::DhcpServer),
            ),
        ],
    ),
    chain(
        "server6",
        &[
            rule(
                &[IPV6, ICMPV6, Test::Is(Field::IcmpType, ROUTER_ADVERTISEMENT)],
                Act::Drop(Reason::Router),
            ),
            rule(
                &[IPV6, ICMPV6, Test::Is(Field::IcmpType, REDIRECT)],
                Act::Drop(Reason::Router),
            ),
            rule(
                &[IPV6, UDP, Test::Is(Field::SourcePort, DHCPV6_SERVER)],
                Act::Drop(Reason::DhcpServer),
            ),
            rule(
                &[IPV6, UDP, Test::Is(Field::DestinationPort, DHCPV6_CLIENT)],
                Act::Drop(Reason::DhcpServer),
            ),
            // A later fragment is worth nothing without the first.
            rule(
                &[
                    IPV6,
                    Test::MaskedNot(Field::FragmentOffset, &[0xff, 0xf8], &[0, 0]),
                ],
                Act::Return,
            ),
            // Whoever hides from these rules what it is (RFC 7113).
            rule(
                &[IPV6, ICMPV6, Test::Between(Field::IcmpType, &[0], &[255])],
                Act::Return,
            ),
            rule(&[IPV6, ICMPV6], Act::Drop(Reason::Router)),
            rule(
                &[
                    IPV6,
                    UDP,
                    Test::Between(Field::DestinationPort, &[0, 0], &[255, 255]),
                ],
                Act::Return,
            ),
            rule(&[IPV6, UDP], Act::Drop(Reason::DhcpServer)),
            // Known at all: any protocol number but the reserved one.
            rule(&[IPV6, Test::IsNot(Field::L4Protocol, &[255])], Act::Return),
            rule(&[], Act::Drop(Reason::Router)),
        ],
    ),
    chain(
        "arp_sender",
        &[
            rule(
                &[
                    ARP,
                    Test::In(Set::Ipv4, &[Field::ArpSenderMac, Field::ArpSenderIp]),
                ],
                Act::Accept,
            ),
            rule(
                &[
                    ARP,
                    Test::In(Set::Ipv4Ranges, &[Field::ArpSenderMac, Field::ArpSenderIp]),
                ],
                Act::Accept,
            ),
            // A probe (RFC 5227) for an address of its own.
            rule(
                &[
                    ARP,
                    Test::Is(Field::ArpOperation, &[0, 1]),
                    Test::Is(Field::ArpSenderIp, ANY4),
                    Test::In(Set::Ipv4, &[Field::ArpSenderMac, Field::ArpTargetIp]),
                ],
                Act::Accept,
            ),
            rule(
                &[
                    ARP,
                    Test::Is(Field::ArpOperation, &[0, 1]),
                    Test::Is(Field::ArpSenderIp, ANY4),
                    Test::In(Set::Ipv4Ranges, &[Field::ArpSenderMac, Field::ArpTargetIp]),
                ],
                Act::Accept,
            ),
            rule(&[], Act::Drop(Reason::SpoofedArp)),
        ],
    ),
    chain(
        "arp_message",
        &[
            // Ethernet (1), IPv4 (0x0800), 6 and 4 bytes.
            rule(
                &[ARP, Test::Is(Field::ArpFormat, &[0, 1, 8, 0, 6, 4])],
                Act::Goto("arp_sender"),
            ),
            rule(&[], Act::Drop(Reason::SpoofedArp)),
        ],
    ),
    chain(
        "ipv4",
        &[
            rule(&[], Act::Jump("server4")),
            rule(
                &[
                    IPV4,
                    Test::In(Set::Ipv4, &[Field::EtherSource, Field::Ipv4Source]),
                ],
                Act::Accept,
            ),
            rule(
                &[
                    IPV4,
                    Test::In(Set::Ipv4Ranges, &[Field::EtherSource, Field::Ipv4Source]),
                ],
                Act::Accept,
            ),
            // A DHCP client that has no address yet.
            rule(
                &[
                    IPV4,
                    Test::Is(Field::Ipv4Source, ANY4),
                    UDP,
                    Test::Is(Field::SourcePort, BOOTP_CLIENT),
                    Test::Is(Field::DestinationPort, BOOTP_SERVER),
                ],
                Act::Accept,
            ),
            rule(&[], Act::Drop(Reason::SpoofedIpv4)),
        ],
    ),
    chain(
        "ipv6_source",
        &[
            rule(
                &[
                    IPV6,
                    Test::In(Set::Ipv6, &[Field::EtherSource, Field::Ipv6Source]),
                ],
                Act::Accept,
            ),
            rule(
                &[
                    IPV6,
                    Test::In(Set::Ipv6Ranges, &[Field::EtherSource, Field::Ipv6Source]),
                ],
                Act::Accept,
            ),
            rule(&[], Act::Drop(Reason::SpoofedIpv6)),
        ],
    ),
    // From `::`, before an address is known to be free (RFC 4862).
    chain(
        "ipv6_unspecified",
        &[
            rule(
                &[
                    IPV6,
                    ICMPV6,
                    Test::Is(Field::IcmpType, NEIGHBOUR_SOLICITATION),
                    Test::In(Set::Ipv6, &[Field::EtherSource, Field::NdTarget]),
                ],
                Act::Accept,
            ),
            rule(
                &[
                    IPV6,
                    ICMPV6,
                    Test::Is(Field::IcmpType, NEIGHBOUR_SOLICITATION),
                    Test::In(Set::Ipv6Ranges, &[Field::EtherSource, Field::NdTarget]),
                ],
                Act::Accept,
            ),
            // Multicast reports and router solicitations: 131 to 133, and 143.
            rule(
                &[
                    IPV6,
                    ICMPV6,
                    Test::Between(Field::IcmpType, MLD_REPORT, ROUTER_SOLICITATION),
                ],
                Act::Accept,
            ),
            rule(
                &[IPV6, ICMPV6, Test::Is(Field::IcmpType, MLD2_REPORT)],
                Act::Accept,
            ),
            rule(&[], Act::Drop(Reason::SpoofedIpv6)),
        ],
    ),
    chain(
        "ipv6",
        &[
            rule(&[], Act::Jump("server6")),
            rule(
                &[IPV6, Test::Is(Field::Ipv6Source, ANY6)],
                Act::Goto("ipv6_unspecified"),
            ),
            // An advertisement also speaks of its target.
            rule(
                &[
                    IPV6,
                    ICMPV6,
                    Test::Is(Field::IcmpType, NEIGHBOUR_ADVERTISEMENT),
                    Test::In(Set::Ipv6, &[Field::EtherSource, Field::NdTarget]),
                ],
                Act::Goto("ipv6_source"),
            ),
            rule(
                &[
                    IPV6,
                    ICMPV6,
                    Test::Is(Field::IcmpType, NEIGHBOUR_ADVERTISEMENT),
                    Test::In(Set::Ipv6Ranges, &[Field::EtherSource, Field::NdTarget]),
                ],
                Act::Goto("ipv6_source"),
            ),
            rule(
                &[IPV6, ICMPV6, Test::Is(Field::IcmpType, NEIGHBOUR_ADVERTISEMENT)],
                Act::Drop(Reason::SpoofedIpv6),
            ),
            rule(&[], Act::Goto("ipv6_source")),
        ],
    ),
    chain(
        "addresses",
        &[
            rule(&[IPV4], Act::Goto("ipv4")),
            rule(&[IPV6], Act::Goto("ipv6")),
            rule(&[ARP], Act::Goto("arp_message")),
            rule(&[RARP], Act::Accept),
            rule(&[], Act::Drop(Reason::OtherProtocol)),
        ],
    ),
    chain(
        "services",
        &[
            rule(&[IPV4], Act::Goto("server4")),
            rule(&[IPV6], Act::Goto("server6")),
            rule(&[ARP], Act::Accept),
            rule(&[RARP], Act::Accept),
            rule(&[], Act::Drop(Reason::OtherProtocol)),
        ],
    ),
    // What is not told is not compared. Sets and no map to chains: a map's every element is checked with each that is
    // added (`nft_table_validate`, 65 us at 1,000 ports on 6.18).
    chain(
        "guarded",
        &[
            rule(&[Test::NotIn(Set::FreeMacs, &[])], Act::Jump("mac")),
            // VID 0 is no VLAN: the bridge takes such a frame for an untagged one.
            rule(
                &[
                    VLAN,
                    Test::MaskedNot(Field::VlanTag, &[0x0f, 0xff], &[0, 0]),
                    Test::In(Set::Trunks, &[]),
                ],
                Act::Accept,
            ),
            rule(&[Test::In(Set::FreeAddresses, &[])], Act::Goto("services")),
            rule(&[], Act::Goto("addresses")),
        ],
    ),
    Chain {
        name: "prerouting",
        hook: Some(Hook::Prerouting),
        rules: &[rule(&[Test::In(Set::Ports, &[])], Act::Jump("guarded"))],
    },
    Chain {
        name: "input",
        hook: Some(Hook::Input),
        rules: &[rule(
            &[
                Test::Masked(
                    Field::EtherDestination,
                    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xf0],
                    &[0x01, 0x80, 0xc2, 0x00, 0x00, 0x00],
                ),
                Test::In(Set::Ports, &[]),
            ],
            Act::Jump("guarded"),
        )],
    },
];
