//! A virtual machine that boots from the network: firmware in QEMU, without a disk, behind a tap that QEMU makes.

use super::{Running, host_with_internet};
use crate::support::feature::{Feature, require};
use crate::support::guest::VM1;
use crate::support::host::Host;
use crate::support::wait::wait_until;
use crate::support::world::in_namespace;
use std::process::Stdio;
use std::time::Duration;

/// Firmware, card and address take 6 s on an idle processor, which here emulates another one.
const PATIENCE: Duration = Duration::from_secs(90);

/// Begins anew when there is nothing to boot, so that it answers for a few seconds again and again.
fn machine(host: &Host, tap: &str) -> Running {
    let mut qemu = host.command("qemu-system-x86_64");
    let qemu = qemu
        .args([
            "-accel",
            "tcg",
            "-M",
            "pc",
            "-m",
            "64",
            "-nodefaults",
            "-display",
            "none",
        ])
        .arg("-netdev")
        .arg(format!("tap,id=n,ifname={tap},script=no,downscript=no"))
        .arg("-device")
        .arg(format!("virtio-net-pci,netdev=n,mac={VM1}"))
        .args(["-boot", "order=n,reboot-timeout=100"])
        .stdout(Stdio::null());
    Running::spawn(qemu)
}

#[test]
fn firmware_that_boots_from_the_network_gets_its_reservation_and_answers() {
    in_namespace(|| {
        require!(
            Feature::Tap,
            Feature::Nat,
            Feature::Program("dnsmasq"),
            Feature::Program("qemu-system-x86_64"),
        );
        let (host, _internet) = host_with_internet();
        let daemon = host.daemon(super::BLUE);
        super::wait_running(&daemon);
        let mut machine = machine(&host, "tap1");
        daemon.wait_port("tap1", "attached");
        wait_until("the firmware has its lease", PATIENCE, || {
            assert!(machine.runs(), "qemu ended");
            daemon
                .json(&["explain", "tap1"])
                .to_string()
                .contains("lease added: 10.0.0.71")
        });
        wait_until("it answers", PATIENCE, || {
            let mut ping = host.command("ping");
            let output = ping.args(["-c", "1", "-W", "1", "10.0.0.71"]).output();
            output.expect("run ping").status.success()
        });
        assert!(host.is_attached("tap1", "brqblue"));
        assert_eq!(daemon.network("blue")["state"], "ready");
    });
}
