//! Forwarded ports and metadata: what leads from one address and port to another.

use super::*;

/// Forwarded ports of the host's own address, to the machine at 10.0.0.5.
const FORWARDS: &str = r#"
[[port_forward]]
protocol = "tcp"
address = "198.51.100.7"
port = 8080
fixed_address = "10.0.0.5"
fixed_port = 80
[[port_forward]]
protocol = "udp"
address = "198.51.100.7"
port = 1194
fixed_address = "10.0.0.5"
"#;
const PORT: &str = "[[port]]\ntap = \"tap0-1\"\nnetwork = \"blue\"\naddresses = [\"10.0.0.5\"]\n";

/// Whether a datagram there and back arrives.
fn asks_by_udp(host: &Host, server: &Host, at: &str, to: &str) -> bool {
    let server = server.within(|| UdpSocket::bind(at).expect("a socket"));
    let client = host.within(|| UdpSocket::bind("0.0.0.0:0").expect("a socket"));
    for socket in [&client, &server] {
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    }
    client.send_to(b"x", to).expect("a datagram");
    let mut byte = [0];
    let Ok((_, from)) = server.recv_from(&mut byte) else {
        return false;
    };
    server.send_to(b"y", from).expect("a datagram");
    client
        .recv_from(&mut byte)
        .is_ok_and(|(_, from)| from == to.parse().unwrap())
}

#[test]
fn a_forwarded_port_leads_in_from_everywhere_until_it_goes() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Nat, Feature::Program("conntrack"));
        let (host, internet) = host_and_internet();
        let snat = "snat = { interface = \"nic0\" }\nforward = []";
        let red = RED.replace("GATEWAY", "");
        let with = blue("", snat, &format!("{FORWARDS}{PORT}{red}"));
        let daemon = Daemon::spawn(&host, &with);
        let guest = machine(&host, "tap0-1", "10.0.0.5");
        let neighbour = machine(&host, "tap0-2", "10.0.0.6");
        let stranger = machine(&host, "tap1-1", "10.0.1.5");
        for tap in ["tap0-1", "tap0-2", "tap1-1"] {
            daemon.wait_port(tap, "attached");
        }
        daemon.wait_network("blue", "ready");
        daemon.wait_network("red", "ready");
        serve(&guest, "10.0.0.5:80");
        let to = "198.51.100.7:8080";
        assert_eq!(seen_by(&internet, to), ip("198.51.100.1"));
        assert_eq!(seen_by(&host, to), ip("198.51.100.7"));
        assert_eq!(seen_by(&neighbour, to), ip("10.0.0.1"));
        assert_eq!(seen_by(&stranger, to), ip("10.0.1.5"));
        assert_eq!(seen_by(&guest, to), ip("10.0.0.1"));
        for from in [&internet, &host, &neighbour, &stranger] {
            assert!(asks_by_udp(from, &guest, "10.0.0.5:1194", "198.51.100.7:1194"));
        }
        daemon.assert_nothing_planned();

        // Another port of the machine's: flows of the one before end, new ones go there.
        let mut flow = Flow::begin(&internet, to).expect("a connection");
        assert!(flow.lives());
        serve(&guest, "10.0.0.5:81");
        daemon.reload(&with.replace("fixed_port = 80", "fixed_port = 81"));
        let forwarded = |port: &str| {
            flows(&host)
                .iter()
                .any(|flow| is_of(flow, &["tcp", "198.51.100.7", "10.0.0.5", port]))
        };
        wait_until("the flow is cut", SOON, || !forwarded("80"));
        assert!(!flow.lives());
        assert_eq!(seen_by(&internet, to), ip("198.51.100.1"));
        // Gone, with its flows; the other one stays, with its own.
        let mut flow = Flow::begin(&internet, to).expect("a connection");
        assert!(flow.lives());
        let begin = with.find("[[port_forward]]").unwrap();
        let end = with.rfind("[[port_forward]]").unwrap();
        daemon.reload(&[&with[..begin], &with[end..]].concat());
        wait_until("the flow is cut", SOON, || !forwarded("81"));
        assert!(!flow.lives());
        assert_eq!(seen_by(&internet, to), None);
        assert!(asks_by_udp(
            &internet,
            &guest,
            "10.0.0.5:1194",
            "198.51.100.7:1194"
        ));
    });
}

#[test]
fn flows_of_a_forwarded_port_end_also_when_it_went_while_no_daemon_ran() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Nat, Feature::Program("conntrack"));
        let (host, internet) = host_and_internet();
        let mut daemon = Daemon::spawn(&host, &blue("", "snat = true", FORWARDS));
        let guest = machine(&host, "tap0-1", "10.0.0.5");
        daemon.wait_port("tap0-1", "attached");
        daemon.wait_network("blue", "ready");
        serve(&guest, "10.0.0.5:80");
        serve(&internet, "198.51.100.1:80");
        let mut inward = Flow::begin(&internet, "198.51.100.7:8080").expect("a connection");
        let mut outward = Flow::begin(&guest, "198.51.100.1:80").expect("a connection");
        daemon.kill();
        assert!(inward.lives() && outward.lives());
        daemon.write_configuration(&blue("", "snat = true", ""));
        daemon.start();
        daemon.wait_in_sync();
        daemon.wait_network("blue", "ready");
        wait_until("the flow is cut", SOON, || {
            !flows(&host)
                .iter()
                .any(|flow| is_of(flow, &["198.51.100.7", "8080"]))
        });
        assert!(!inward.lives() && outward.lives());
    });
}

/// A server that sends back whatever head of a request it gets, with the client's address.
fn serve_http(host: &Host, at: &str) {
    let at: SocketAddr = at.parse().unwrap();
    let listener = host.within(|| TcpListener::bind(at).expect("a listener"));
    std::thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && connection.read(&mut byte).is_ok_and(|n| n == 1) {
                head.push(byte[0]);
            }
            let peer = connection
                .peer_addr()
                .map(|a| a.ip().to_string())
                .unwrap_or_default();
            let body = format!("{peer}\n{}", String::from_utf8_lossy(&head));
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let _ = connection.write_all(answer.as_bytes());
        }
    });
}

/// What the metadata server tells a machine, if it answers.
fn metadata(machine: &Host) -> Option<String> {
    machine.within(|| {
        let to: SocketAddr = "169.254.169.254:80".parse().unwrap();
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let request =
            "GET /latest/meta-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n";
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    })
}

#[test]
fn metadata_leads_to_a_server_elsewhere_that_sees_the_machine_itself() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Nat);
        let (host, internet) = host_and_internet();
        internet.ip("route add 10.0.0.0/24 via 198.51.100.7");
        serve_http(&internet, "198.51.100.1:8775");
        let keys = "metadata = { host = \"198.51.100.1\", port = 8775 }";
        // Even without any forwarding, and never translated.
        let daemon = Daemon::spawn(&host, &blue(keys, "snat = true\nforward = []", ""));
        let guest = machine(&host, "tap0-1", "10.0.0.5");
        daemon.wait_port("tap0-1", "attached");
        daemon.wait_network("blue", "ready");
        let answer = metadata(&guest).expect("metadata");
        assert!(answer.contains("\n10.0.0.5\nGET /latest/meta-data/"), "{answer}");
        assert!(answer.contains("X-Forwarded-For: 192.0.2.1"), "{answer}");
        assert!(!reaches(&guest, "198.51.100.1"), "nothing else is forwarded");
    });
}

#[test]
fn metadata_leads_to_a_server_of_the_host_for_networks_that_ask() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Nat);
        let (host, _internet) = host_and_internet();
        serve_http(&host, "0.0.0.0:8775");
        for server in ["198.51.100.7", "127.0.0.1"] {
            let keys = format!("metadata = {{ host = \"{server}\", port = 8775 }}");
            let red = RED.replace("GATEWAY", "");
            let daemon = Daemon::spawn(&host, &blue(&keys, "snat = true", &red));
            let tap = if server == "127.0.0.1" { "tap0-2" } else { "tap0-1" };
            let guest = machine(&host, tap, "10.0.0.5");
            let stranger = machine(&host, &tap.replace("tap0", "tap1"), "10.0.1.5");
            daemon.wait_port(tap, "attached");
            daemon.wait_port(&tap.replace("tap0", "tap1"), "attached");
            daemon.wait_network("blue", "ready");
            daemon.wait_network("red", "ready");
            let answer = metadata(&guest).unwrap_or_else(|| panic!("metadata of {server}"));
            assert!(answer.contains("\n10.0.0.5\nGET /latest/meta-data/"), "{answer}");
            // A network that does not ask for it has none.
            assert_eq!(metadata(&stranger), None);
            host.ip(&format!("link del {tap}"));
            host.ip(&format!("link del {}", tap.replace("tap0", "tap1")));
        }
    });
}

/// SCTP without a kernel that has it: packets by hand.
mod sctp {
    use super::*;
    use std::os::fd::{FromRawFd as _, OwnedFd};

    const PROTOCOL: i32 = libc::IPPROTO_SCTP;
    pub const INIT: u8 = 1;
    pub const INIT_ACK: u8 = 2;

    pub struct Raw(OwnedFd);

    /// A chunk as heard: source address and port, destination port, kind, whether its checksum is right.
    #[derive(Debug, PartialEq, Eq)]
    pub struct Heard {
        pub from: SocketAddr,
        pub port: u16,
        pub kind: u8,
        pub is_sound: bool,
    }

    impl Raw {
        pub fn open(host: &Host) -> Self {
            host.within(|| {
                // SAFETY: no pointers; the descriptor is ours alone.
                let fd =
                    unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, PROTOCOL) };
                assert!(fd >= 0, "{}", std::io::Error::last_os_error());
                // SAFETY: just opened.
                Self(unsafe { OwnedFd::from_raw_fd(fd) })
            })
        }

        fn udp(&self) -> UdpSocket {
            // Only for its `send_to`, `recv_from` and timeouts, which are those of any socket.
            UdpSocket::from(self.0.try_clone().expect("a descriptor"))
        }

        /// A packet with one chunk of this kind, and a tag (RFC 9260 3.1 to 3.3.3).
        pub fn send(&self, from: u16, to: &str, kind: u8, tag: u32) {
            let to: SocketAddr = to.parse().expect("an address");
            let mut packet = [from.to_be_bytes(), to.port().to_be_bytes()].concat();
            packet.extend(tag.to_be_bytes());
            packet.extend([0; 4]);
            packet.extend([kind, 0, 0, 20]);
            for field in [0x1234_5678_u32, 65_536, 0x000a_000a, 1] {
                packet.extend(field.to_be_bytes());
            }
            let sum = crc32c(&packet);
            packet[8..12].copy_from_slice(&sum.to_le_bytes());
            self.udp()
                .send_to(&packet, SocketAddr::new(to.ip(), 0))
                .expect("a packet");
        }

        pub fn hear(&self) -> Option<Heard> {
            let socket = self.udp();
            socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            let mut buffer = [0; 256];
            let (length, from) = socket.recv_from(&mut buffer).ok()?;
            let header = usize::from(buffer[0] & 15) * 4;
            let mut packet = buffer[header..length].to_vec();
            let sum = u32::from_le_bytes([packet[8], packet[9], packet[10], packet[11]]);
            packet[8..12].fill(0);
            Some(Heard {
                from: SocketAddr::new(from.ip(), u16::from_be_bytes([packet[0], packet[1]])),
                port: u16::from_be_bytes([packet[2], packet[3]]),
                kind: packet[12],
                is_sound: sum == crc32c(&packet),
            })
        }
    }

    fn crc32c(bytes: &[u8]) -> u32 {
        let sum = bytes.iter().fold(u32::MAX, |sum, byte| {
            (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
                (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg())
            })
        });
        !sum
    }
}

#[test]
fn a_forwarded_port_of_sctp_leads_in_and_answers_come_from_it() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Nat, Feature::Program("conntrack"));
        let (host, internet) = host_and_internet();
        let forward = "[[port_forward]]\nprotocol = \"sctp\"\naddress = \"198.51.100.7\"\nport = 5000\n\
             fixed_address = \"10.0.0.5\"\nfixed_port = 5001\n";
        let with = blue("prewarm = true", "forward = []", forward);
        let daemon = host.daemon(&with);
        let guest = machine(&host, "tap0-1", "10.0.0.5");
        daemon.wait_port("tap0-1", "attached");
        daemon.wait_network("blue", "ready");
        wait_until("the machine reaches its router", SOON, || {
            reaches(&guest, "10.0.0.1")
        });
        let (client, server) = (sctp::Raw::open(&internet), sctp::Raw::open(&guest));
        client.send(4000, "198.51.100.7:5000", sctp::INIT, 0);
        let heard = server.hear().expect("the machine hears it");
        let expected = sctp::Heard {
            from: "198.51.100.1:4000".parse().unwrap(),
            port: 5001,
            kind: sctp::INIT,
            is_sound: true,
        };
        assert_eq!(heard, expected);
        server.send(5001, "198.51.100.1:4000", sctp::INIT_ACK, 0x1234_5678);
        let heard = client.hear().expect("the answer comes");
        let expected = sctp::Heard {
            from: "198.51.100.7:5000".parse().unwrap(),
            port: 4000,
            kind: sctp::INIT_ACK,
            is_sound: true,
        };
        assert_eq!(heard, expected);
        let tracked = || {
            let flows = flows(&host);
            flows
                .iter()
                .any(|flow| flow.contains("sctp") && is_of(flow, &["198.51.100.7", "10.0.0.5"]))
        };
        assert!(tracked());
        daemon.reload(&blue("prewarm = true", "forward = []", ""));
        wait_until("its flow is cut", SOON, || !tracked());
    });
}
