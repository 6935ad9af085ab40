//! Each story with its nth operation failing, for every n: before it took effect, or after (its answer was lost). Retried,
//! it ends where the undisturbed one ends, and at no moment is the host unreachable or somebody else's thing touched.

use crate::engine_golden::{self, step};
use crate::fake_kernel::host::Host;
use crate::fake_kernel::{Fault, Moment};
use std::net::IpAddr;
use std::time::Duration;
use tapwire::engine::event::Event;
use tapwire::plan::address_move::address_of;

/// Scenarios that end in rest without a fault of their own.
const STORIES: [&str; 19] = [
    "02-", "03-", "04-", "05-", "08-", "09-", "16-", "24-", "25-", "26-", "27-", "28-", "29-", "32-", "38-",
    "40-", "43-", "60-", "61-",
];

const FAULTS: [(Moment, i32); 5] = [
    (Moment::Before, libc::EBUSY),
    (Moment::After, libc::EBUSY),
    (Moment::Before, libc::EINVAL),
    (Moment::Before, libc::ENODEV),
    (Moment::Before, libc::EPERM),
];

/// Devices, routes and ports as they are in the end, without indexes.
fn outcome(host: &Host) -> Vec<String> {
    let mut lines: Vec<String> = host
        .kernel
        .devices()
        .map(|d| {
            let text = step::describe(&host.kernel, d);
            let words: Vec<&str> = text.split(' ').filter(|w| !w.starts_with('#')).collect();
            let (own, mut lists) = split_lists(&words);
            lists.sort();
            format!("{own} {}", lists.join(" "))
        })
        .collect();
    lines.extend(
        host.engine
            .taps()
            .map(|(_, tap)| format!("{} {}", tap.name, tap.state.word())),
    );
    lines.extend(host.kernel.routes.iter().map(|route| {
        let out = crate::fake_kernel::record::out_of(route).and_then(|i| host.kernel.device(i));
        let gateway = crate::fake_kernel::record::gateway(route);
        format!(
            "route /{} via {gateway:?} dev {:?}",
            route.dst_len,
            out.map(|d| d.link.name)
        )
    }));
    lines.sort();
    lines
}

/// Addresses and entries come in any order.
fn split_lists(words: &[&str]) -> (String, Vec<String>) {
    let at = words
        .iter()
        .position(|w| ["inet", "fdb", "neigh"].contains(w))
        .unwrap_or(words.len());
    let (own, lists) = words.split_at(at);
    let mut entries: Vec<String> = Vec::new();
    for word in lists {
        match entries.last_mut() {
            Some(entry) if !["inet", "fdb", "neigh"].contains(word) => {
                entry.push(' ');
                entry.push_str(word);
            }
            _ => entries.push((*word).to_owned()),
        }
    }
    (own.join(" "), entries)
}

fn tell(story: &str, fault: Option<Fault>) -> Host {
    let mut watched = false;
    let mut host = engine_golden::tell(story, &mut |host: &mut Host| {
        if host.started {
            // What failed in the step before has been retried.
            host.wait(Duration::from_secs(100));
        }
        if host.started && !watched {
            watched = true;
            let addresses: Vec<IpAddr> = host
                .kernel
                .devices()
                .flat_map(|d| d.addresses.iter().filter_map(address_of))
                .collect();
            host.keep_reachable(addresses);
            host.faults.extend(fault.clone());
        }
    });
    // Retries, the slow ones of a move, and what is empty by then goes.
    host.wait(Duration::from_secs(400));
    host.tell(Event::Resync);
    host.wait(Duration::from_secs(800));
    host
}

#[test]
fn whatever_operation_fails_a_retry_ends_where_the_undisturbed_story_ends() {
    let mut wrong = Vec::new();
    for story in STORIES {
        let clean = tell(story, None);
        let expected = outcome(&clean);
        let operations = clean.operations.len();
        for (moment, errno) in FAULTS {
            for n in 0..operations {
                let case = format!(
                    "{story} operation {n} ({}) {moment:?} {errno}",
                    clean.operations[n].line
                );
                let host = tell(story, Some(Fault::once(n, moment, errno)));
                let actual = outcome(&host);
                // A device whose making was not acknowledged is found, not made: adopted, and never deleted.
                let line = &clean.operations[n].line;
                let found = moment == Moment::After && line.starts_with("ip link add");
                // "No such thing" to a deletion means that it is gone: here it was a lie.
                let lied = errno == libc::ENODEV && line.contains(" del ");
                // A refused MTU is left out until the next full pass.
                let refused = errno == libc::EINVAL && line.contains(" mtu ");
                if actual != expected && !found && !lied && !refused {
                    let only = |a: &[String], b: &[String]| {
                        a.iter().filter(|l| !b.contains(l)).cloned().collect::<Vec<_>>()
                    };
                    wrong.push(format!(
                        "{case}:\n  - {:?}\n  + {:?}",
                        only(&expected, &actual),
                        only(&actual, &expected)
                    ));
                }
                if !host.breaches.is_empty() {
                    wrong.push(format!("{case}: {:?}", host.breaches));
                }
                if !host.engine.preview().is_empty() {
                    wrong.push(format!("{case}: still to do {:?}", host.engine.preview()));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} cases:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(12)].join("\n")
    );
}
