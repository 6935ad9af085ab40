//! Forwarding: switched on where it is needed, kept on, and put back as it was.

use super::*;

const ON: &str = "net/ipv4/ip_forward";

fn set(name: &str, value: &str) {
    std::fs::write(format!("/proc/sys/{name}"), value).unwrap_or_else(|e| panic!("{name}: {e}"));
}

fn get(name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/sys/{name}"));
    text.unwrap_or_else(|e| panic!("{name}: {e}")).trim().to_owned()
}

#[track_caller]
fn wait_set(name: &str, value: &str) {
    wait_until(&format!("{name} is {value}"), SOON, || get(name) == value);
}

#[test]
fn forwarding_that_was_on_before_stays_on() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Nat);
        let (host, _internet) = host_and_internet();
        set(ON, "1");
        let before = footprint(&host);
        let daemon = host.daemon(&blue("prewarm = true", "snat = true", ""));
        daemon.wait_network("blue", "ready");
        daemon.reload(NOTHING);
        wait_for(&host, &before);
        assert_eq!(get(ON), "1");
    });
}

#[test]
fn forwarding_that_somebody_switches_off_is_on_again_at_once_and_ends_as_it_was() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Nat);
        let (host, internet) = host_and_internet();
        let before = footprint(&host);
        let mut daemon = host.daemon(&blue("", "snat = true", ""));
        let guest = machine(&host, "tap0-1", "10.0.0.5");
        daemon.wait_port("tap0-1", "attached");
        daemon.wait_network("blue", "ready");
        serve(&internet, "198.51.100.1:80");
        let is_forwarded = || seen_by(&guest, "198.51.100.1:80").is_some();
        assert_eq!(get(ON), "1");
        set(ON, "0");
        wait_set(ON, "1");
        assert!(is_forwarded());
        // One device's switch, where only devices are switched on.
        daemon.reload(&blue("", "snat = true\nforward = [\"nic0\"]", ""));
        wait_set(ON, "0");
        for name in [
            "net/ipv4/conf/brqblue/forwarding",
            "net/ipv4/conf/nic0/forwarding",
        ] {
            wait_set(name, "1");
            set(name, "0");
            wait_set(name, "1");
            wait_until("it is forwarded", SOON, is_forwarded);
        }
        daemon.reload(&blue("", "snat = true", ""));
        wait_set(ON, "1");
        // Not a dozen times, against somebody who insists.
        let mut off = 0;
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            if get(ON) == "1" {
                set(ON, "0");
                off += 1;
            }
        }
        assert!((1..=25).contains(&off), "switched off {off} times");
        drop(guest);
        daemon.reload(NOTHING);
        wait_for(&host, &before);
        assert_eq!(get(ON), "0");

        // Off while no daemon ran, on by the next one, and off in the end.
        daemon.reload(&blue("prewarm = true", "snat = true", ""));
        daemon.wait_network("blue", "ready");
        daemon.kill();
        set(ON, "0");
        daemon.start();
        daemon.wait_in_sync();
        wait_set(ON, "1");
        // Switched on by somebody else before us: then it is not ours to switch off.
        daemon.reload(NOTHING);
        wait_set(ON, "0");
        set(ON, "1");
        daemon.reload(&blue("prewarm = true", "snat = true", ""));
        daemon.wait_network("blue", "ready");
        daemon.reload(NOTHING);
        wait_until("the network is gone", SOON, || host.link("brqblue").is_none());
        assert_eq!(get(ON), "1");
    });
}

#[test]
fn lists_switch_on_only_their_devices_also_when_they_change() {
    in_namespace(|| {
        require!(Feature::Veth, Feature::Nat);
        let (host, _internet) = host_and_internet();
        let before = footprint(&host);
        let with = |forward: &str| blue("prewarm = true", &format!("forward = {forward}"), "");
        let daemon = host.daemon(&with("[\"nic0\"]"));
        let state = || {
            [
                "net/ipv4/ip_forward",
                "net/ipv4/conf/nic0/forwarding",
                "net/ipv4/conf/brqblue/forwarding",
                "net/ipv4/conf/lo/forwarding",
            ]
            .map(|name| get(name) == "1")
        };
        for (forward, want) in [
            ("[\"nic0\"]", [false, true, true, false]),
            ("[\"all\"]", [true; 4]),
            ("[\"nic0\"]", [false, true, true, false]),
            ("[]", [false; 4]),
            ("[\"all\"]", [true; 4]),
            ("[]", [false; 4]),
        ] {
            daemon.reload(&with(forward));
            daemon.wait_network("blue", "ready");
            wait_until(&format!("as {forward} needs it"), SOON, || state() == want);
        }
        daemon.reload(&with("[\"nic0\"]"));
        wait_until("as the list needs it", SOON, || state()[1]);
        daemon.reload(NOTHING);
        wait_for(&host, &before);
    });
}
