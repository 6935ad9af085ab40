//! A machine behind a tap, as a hypervisor runs it: a network namespace of its own whose `eth0` is wired, frame by frame,
//! to a tap on the host. Real DHCP clients and a resolver run in it.

use super::host::Host;
use super::wait::wait_until;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tapwire::kernel::tuntap::Tap;
use tempfile::TempDir;

/// MAC addresses of machines.
pub const VM1: &str = "52:54:00:00:00:01";
pub const VM2: &str = "52:54:00:00:00:02";

/// So long a client asks again and again.
const PATIENCE: Duration = Duration::from_secs(60);

/// A frame with an MTU of 65,535 and its header.
const FRAME: usize = 65_550;

/// The machine ends when dropped: its namespace, its tap, its clients.
#[derive(Debug)]
pub struct Guest {
    pub host: Host,
    folder: TempDir,
    /// Held for its end.
    _wire: Wire,
}

#[derive(Debug)]
struct Wire {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Guest {
    /// Makes `tap` on `hypervisor`, and a machine behind it whose network card has this MAC address, up.
    #[track_caller]
    pub fn start(hypervisor: &Host, tap: &str, mac: &str) -> Self {
        let host = Host::new();
        let outside = hypervisor.tap(tap);
        let inside = host.tap("eth0");
        host.ip(&format!("link set eth0 address {mac}"));
        host.ip("link set eth0 up");
        Self {
            host,
            folder: TempDir::new().expect("a folder for the guest"),
            _wire: Wire::new(outside, inside),
        }
    }

    /// One run of udhcpc: what the lease says, by udhcpc's own names (`ip`, `router`, `dns` ...). The address, default
    /// route and MTU are put in place. `None` when nobody answers.
    #[track_caller]
    pub fn dhcp4(&self, arguments: &[&str]) -> Option<Lease> {
        let seen = self.folder.path().join("lease");
        let script = self.script(&format!(
            "case $1 in bound|renew) env > {0}.new
             ip address flush dev $interface scope global
             ip address add $ip/$mask dev $interface
             [ -z \"$mtu\" ] || ip link set $interface mtu $mtu
             [ -z \"$router\" ] || ip route replace default via ${{router%% *}} dev $interface
             mv {0}.new {0};; esac",
            seen.display()
        ));
        let _ = std::fs::remove_file(&seen);
        let output = self
            .host
            .command("udhcpc")
            .args(["-i", "eth0", "-q", "-f", "-n", "-t", "5", "-T", "1"])
            .args(["-O", "mtu", "-O", "staticroutes", "-O", "121", "-s"])
            .arg(script)
            .args(arguments)
            .output()
            .expect("run udhcpc");
        if !output.status.success() {
            return None;
        }
        let text = std::fs::read_to_string(&seen).expect("the lease's variables");
        Some(Lease(text))
    }

    /// Asks until it is leased this address; the lease.
    #[track_caller]
    pub fn wait_lease(&self, address: &str) -> Lease {
        let mut lease = None;
        wait_until(&format!("{address} is leased"), PATIENCE, || {
            lease = self.dhcp4(&[]).filter(|lease| lease.get("ip") == Some(address));
            lease.is_some()
        });
        lease.expect("a lease")
    }

    /// Until its kernel has made itself an address in an advertised prefix, and has a default router.
    #[track_caller]
    pub fn wait_advertised(&self) -> IpAddr {
        let mut made = None;
        wait_until("a router advertises a prefix", PATIENCE, || {
            let addresses = self.host.ip_json("-6 address show dev eth0 scope global dynamic");
            // iproute2 6.1 prints empty objects for what it left out.
            let known = addresses.as_array().into_iter().flatten();
            let mut known = known.filter_map(|link| link["addr_info"].as_array()).flatten();
            let ready = known.find(|a| a["mngtmpaddr"] == true && a["tentative"].is_null());
            made = ready.and_then(|a| a["local"].as_str()?.parse().ok());
            made.is_some() && self.host.ip("-6 route show default").contains("proto ra")
        });
        made.expect("an address")
    }

    /// Does it get an answer from there?
    pub fn reaches(&self, address: &str) -> bool {
        let mut ping = self.host.command("ping");
        let output = ping.args(["-c", "1", "-W", "2", address]).output();
        output.expect("run ping").status.success()
    }

    /// One run of dhclient for IPv6: the address that it was leased, put in place.
    #[track_caller]
    pub fn dhcp6(&self) -> Option<IpAddr> {
        let file = |name: &str| self.folder.path().join(name);
        let seen = file("address6");
        let script = self.script(&format!(
            "case $reason in BOUND6|RENEW6|REBIND6) ip -6 address replace $new_ip6_address/128 dev $interface
             printf %s $new_ip6_address > {0}.new && mv {0}.new {0};; esac",
            seen.display()
        ));
        self.wait_link_local();
        let _ = std::fs::remove_file(&seen);
        let output = self
            .host
            .command("dhclient")
            .args(["-6", "-1", "-d", "-nw", "-sf"])
            .arg(script)
            .arg("-lf")
            .arg(file("leases6"))
            .arg("-pf")
            .arg(file("pid6"))
            .arg("eth0")
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn();
        let mut client = output.expect("run dhclient");
        let mut address = None;
        let begin = std::time::Instant::now();
        while address.is_none() && begin.elapsed() < Duration::from_secs(15) {
            address = std::fs::read_to_string(&seen)
                .ok()
                .and_then(|text| text.parse().ok());
            thread::sleep(Duration::from_millis(10));
        }
        client.kill().expect("end dhclient");
        client.wait().expect("wait for dhclient");
        if address.is_some() {
            wait_until("the leased address is checked for duplicates", PATIENCE, || {
                !self.host.ip("-6 address show dev eth0").contains("tentative")
            });
        }
        address
    }

    /// Until the machine's own address is checked for duplicates (RFC 4862).
    #[track_caller]
    pub fn wait_link_local(&self) {
        wait_until(
            "the guest has a link-local address",
            Duration::from_secs(10),
            || {
                let addresses = self.host.ip("-6 -o address show dev eth0 scope link");
                !addresses.is_empty() && !addresses.contains("tentative")
            },
        );
    }

    /// Asks a name server, from the machine.
    pub fn resolve(&self, name: &str, server: IpAddr) -> Vec<IpAddr> {
        let [v4, v6] = [1_u16, 28].map(|kind| {
            let asked = self.host.within(|| ask(name, kind, server));
            asked.unwrap_or_else(|e| panic!("{name} from {server}: {e}"))
        });
        [v4, v6].concat()
    }

    fn script(&self, body: &str) -> PathBuf {
        let path = self.folder.path().join("script");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("write the client's script");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("make the script executable");
        path
    }
}

/// udhcpc's variables.
#[derive(Debug)]
pub struct Lease(String);

impl Lease {
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self
            .0
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        found.filter(|value| !value.is_empty())
    }
}

impl Wire {
    fn new(outside: Tap, inside: Tap) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut frame = vec![0; FRAME];
            let (a, b) = (outside.as_fd().as_raw_fd(), inside.as_fd().as_raw_fd());
            while !stopped.load(Ordering::Relaxed) {
                if readable(a, b) {
                    carry(a, b, &mut frame);
                    carry(b, a, &mut frame);
                }
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// False after a while without frames, so that the wire notices its end.
fn readable(a: RawFd, b: RawFd) -> bool {
    let mut polls = [a, b].map(|fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    });
    // SAFETY: two pollfds, alive through the call.
    unsafe { libc::poll(polls.as_mut_ptr(), 2, 50) > 0 }
}

/// All frames that wait at `from`; a tap that is down takes none, like a card without a cable.
fn carry(from: RawFd, to: RawFd, frame: &mut [u8]) {
    loop {
        // SAFETY: reads into and writes from a buffer that is alive through both calls.
        unsafe {
            let length = libc::read(from, frame.as_mut_ptr().cast(), frame.len());
            let Ok(length) = usize::try_from(length) else {
                return;
            };
            libc::write(to, frame.as_ptr().cast(), length);
        }
    }
}

/// One question to a name server (RFC 1035), and the addresses in its answer.
fn ask(name: &str, kind: u16, server: IpAddr) -> io::Result<Vec<IpAddr>> {
    const HEADER: usize = 12;
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).expect("a label"));
        question.extend_from_slice(label.as_bytes());
    }
    question.push(0);
    question.extend_from_slice(&kind.to_be_bytes());
    question.extend_from_slice(&[0, 1]);
    let socket = UdpSocket::bind(match server {
        IpAddr::V4(_) => "0.0.0.0:0",
        IpAddr::V6(_) => "[::]:0",
    })?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.send_to(&question, (server, 53))?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    let answer = &answer[..length];
    let records = u16::from_be_bytes([answer[6], answer[7]]);
    let mut at = HEADER + question.len() - HEADER;
    let mut addresses = Vec::new();
    for _ in 0..records {
        // A name is a pointer, or labels.
        while answer[at] != 0 && answer[at] & 0xc0 != 0xc0 {
            at += usize::from(answer[at]) + 1;
        }
        at += if answer[at] == 0 { 1 } else { 2 };
        let kind = u16::from_be_bytes([answer[at], answer[at + 1]]);
        let length = usize::from(u16::from_be_bytes([answer[at + 8], answer[at + 9]]));
        let data = &answer[at + 10..at + 10 + length];
        match kind {
            1 => addresses.push(IpAddr::from(<[u8; 4]>::try_from(data).expect("4 bytes"))),
            28 => addresses.push(IpAddr::from(<[u8; 16]>::try_from(data).expect("16 bytes"))),
            _ => {}
        }
        at += 10 + length;
    }
    Ok(addresses)
}
