//! Whatever bytes come in, each parser answers: a value, or an error that says where. Tier 5 of DESIGN section 7.
//!
//! Real input (messages captured from two kernels, recordings, the valid configurations of `tests/config`) is damaged at
//! random: bits turned, lengths overwritten, pieces cut out, doubled or taken from elsewhere, words exchanged. No root, no
//! kernel; seconds. `TAPWIRE_CASES=100000` tries as many new ones; a failing case is printed shrunk.

// Clippy's own exemption knows only functions marked #[test], not what they call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngSeed};
use serde_json::{Map, Value};
use std::fs;
use std::path::{Path, PathBuf};
use tapwire::config;
use tapwire::kernel::{decode, watch, wire};
use tapwire::model::{Network, NetworkId, Segment};
use tapwire::telemetry::record::{Direction, Reader, Recorder};
use tapwire::telemetry::trace::Filter;

const CAPTURED: [&[u8]; 2] = [
    include_bytes!("data/rtnetlink-6.1.bin"),
    include_bytes!("data/rtnetlink-6.18.bin"),
];

fn cases() -> Config {
    let asked = std::env::var("TAPWIRE_CASES").ok().and_then(|n| n.parse().ok());
    Config {
        cases: asked.unwrap_or(256),
        failure_persistence: None,
        rng_seed: asked.map_or(RngSeed::Fixed(0x7461_7077), |_: u32| RngSeed::Random),
        ..Config::default()
    }
}

/// One damage to a run of bytes.
#[derive(Debug, Clone)]
enum Damage {
    Flip(Index, u8),
    /// A length or count that means trouble.
    Overwrite(Index, Vec<u8>),
    Cut(Index),
    Remove(Index, Index),
    Repeat(Index, Index),
    Insert(Index, Vec<u8>),
}

impl Damage {
    fn any() -> impl Strategy<Value = Self> {
        let trouble = prop_oneof![
            any::<u16>().prop_map(|n| n.to_ne_bytes().to_vec()),
            any::<u32>().prop_map(|n| n.to_ne_bytes().to_vec()),
            prop::sample::select(vec![
                0_u32,
                1,
                3,
                4,
                15,
                16,
                17,
                0x7fff_ffff,
                0x8000_0000,
                u32::MAX
            ])
            .prop_map(|n| n.to_ne_bytes().to_vec()),
            prop::sample::select(vec![0_u16, 1, 3, 4, 5, 0x7fff, u16::MAX])
                .prop_map(|n| n.to_ne_bytes().to_vec()),
        ];
        prop_oneof![
            (any::<Index>(), 1_u8..).prop_map(|(at, bits)| Damage::Flip(at, bits)),
            (any::<Index>(), trouble).prop_map(|(at, bytes)| Damage::Overwrite(at, bytes)),
            any::<Index>().prop_map(Damage::Cut),
            (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Damage::Remove(a, b)),
            (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Damage::Repeat(a, b)),
            (any::<Index>(), prop::collection::vec(any::<u8>(), 0..24))
                .prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        ]
    }

    fn few() -> impl Strategy<Value = Vec<Self>> {
        prop::collection::vec(Self::any(), 1..6)
    }

    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let len = bytes.len();
        let range = |a: &Index, b: &Index| {
            let (a, b) = (a.index(len), b.index(len));
            // Short pieces: what is left is still mostly sound.
            a.min(b)..(a.max(b)).min(a.min(b) + 64)
        };
        match self {
            Damage::Flip(at, bits) => bytes[at.index(len)] ^= bits,
            Damage::Overwrite(at, with) => {
                for (byte, new) in bytes[at.index(len)..].iter_mut().zip(with) {
                    *byte = *new;
                }
            }
            Damage::Cut(at) => bytes.truncate(at.index(len)),
            Damage::Remove(a, b) => drop(bytes.drain(range(a, b))),
            Damage::Repeat(a, b) => {
                let piece = bytes[range(a, b)].to_vec();
                let at = a.index(len);
                bytes.splice(at..at, piece);
            }
            Damage::Insert(at, piece) => {
                let at = at.index(len);
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }
}

fn damaged(bytes: &[u8], damages: &[Damage]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for damage in damages {
        damage.apply(&mut bytes);
    }
    bytes
}

/// The captured messages, one by one.
fn messages() -> Vec<&'static [u8]> {
    CAPTURED
        .iter()
        .flat_map(|captured| wire::Messages::new(captured))
        .map(|message| message.expect("a sound capture").raw)
        .collect()
}

fn recording() -> Vec<u8> {
    let mut recorder = Recorder::start(Vec::new(), 1_700_000_000_000_000, 5_000_000).unwrap();
    for (at, message) in (5_000_001..).zip(messages()) {
        recorder.message(at, Direction::FromKernel, message).unwrap();
        if at % 16 == 0 {
            recorder.loss(Some(at));
        }
    }
    recorder.finish().unwrap().1
}

fn configurations() -> Vec<(PathBuf, String)> {
    let mut found: Vec<_> = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/config/valid"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path, text)
        })
        .filter(|(_, text)| !text.is_empty())
        .collect();
    found.sort();
    found
}

/// Words that stand where others are expected.
const WORDS: [&str; 22] = [
    "\"\"",
    "-1",
    "0",
    "1",
    "4095",
    "16777216",
    "99999999999999999999",
    "1e400",
    "nan",
    "true",
    "[]",
    "{}",
    "[[]]",
    "\"\\u0000\"",
    "\"ff02::1\"",
    "\"0.0.0.0/0\"",
    "\"fa:16:3e:00:00:0\"",
    "\"a b\"",
    "\"ä\u{202e}\"",
    "1979-05-27",
    "network",
    "=",
];

/// Exchanges what stands behind the n-th `=` of a text.
fn exchange(text: &str, at: Index, word: &str) -> String {
    let places: Vec<usize> = text.match_indices('=').map(|(at, _)| at + 1).collect();
    if places.is_empty() {
        return text.to_owned();
    }
    let from = places[at.index(places.len())];
    let to = text[from..].find('\n').map_or(text.len(), |n| from + n);
    format!("{} {word}{}", &text[..from], &text[to..])
}

/// A report's promise: each mistake names a place that exists, and can be printed.
fn is_precise(report: &config::Report, text: &str) -> Result<(), TestCaseError> {
    prop_assert!(!report.diagnostics().is_empty());
    for diagnostic in report.diagnostics() {
        prop_assert!(!diagnostic.message.is_empty());
        if let Some(line) = diagnostic.line {
            // A mistake at the very end is shown behind the last line.
            prop_assert!(line <= text.split('\n').count(), "line {line} of {text:?}");
        }
    }
    prop_assert!(!report.render(true).is_empty() && !report.to_string().is_empty());
    Ok(())
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(
            vec![
                "10.0.0.1/24",
                "10.0.0.1",
                "fd00::1/64",
                "::",
                "eth0",
                "all",
                "12h",
                "fa:16:3e:00:00:05",
                "",
                "x".repeat(300).as_str(),
                "169.254.169.254",
                "a.b",
                "-",
                "\n",
            ]
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
        )
        .prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            keys(inner).prop_map(Value::Object),
        ]
    })
}

/// Objects whose keys are mostly real ones.
fn keys(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    let known = [
        "gateway",
        "dhcp",
        "ra",
        "metadata",
        "share_dhcp_address",
        "floating_ip",
        "port_forward",
        "address",
        "addresses",
        "snat",
        "source",
        "interface",
        "dmz",
        "force_snat_range",
        "forward",
        "range",
        "lease_time",
        "dns_servers",
        "domain",
        "mtu",
        "routes",
        "host",
        "port",
        "fixed_address",
        "mac",
        "hostname",
        "port_security",
        "allowed_address_pairs",
        "protocol",
    ];
    let key = prop_oneof![
        9 => prop::sample::select(known.to_vec()).prop_map(str::to_owned),
        1 => ".{0,6}",
    ];
    prop::collection::vec((key, value), 0..8).prop_map(|pairs| pairs.into_iter().collect())
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn damaged_netlink_messages_are_read_or_refused(at in any::<Index>(), damages in Damage::few()) {
        let known = messages();
        let bytes = damaged(known[at.index(known.len())], &damages);
        for message in wire::Messages::new(&bytes) {
            let Ok(message) = message else { continue };
            prop_assert!(message.raw.len() <= bytes.len());
            let _either = decode::change(&message);
        }
        for message in watch::decode::messages(&bytes) {
            let Ok(message) = message else { continue };
            if let Err(refused) = watch::decode(message) {
                prop_assert!(!refused.problem.is_empty() && refused.offset <= message.len());
            }
        }
    }

    #[test]
    fn a_damaged_recording_is_read_up_to_the_damage(damages in Damage::few()) {
        let bytes = damaged(&recording(), &damages);
        let Ok(reader) = Reader::open(&bytes[..]) else { return Ok(()) };
        let (mut told, mut ended) = (0, false);
        for packet in reader {
            prop_assert!(!ended, "something behind an error");
            match packet {
                Ok(packet) => told += packet.bytes.len(),
                Err(error) => {
                    ended = true;
                    prop_assert!(error.offset <= bytes.len() as u64 && !error.to_string().is_empty());
                }
            }
        }
        prop_assert!(told <= bytes.len());
    }

    #[test]
    fn a_damaged_configuration_is_read_or_every_mistake_has_its_place(at in any::<Index>(), damages in Damage::few()) {
        let known = configurations();
        let (path, text) = &known[at.index(known.len())];
        let text = String::from_utf8_lossy(&damaged(text.as_bytes(), &damages)).into_owned();
        if let Err(report) = config::load_str(&text, path) {
            is_precise(&report, &text)?;
        }
    }

    #[test]
    fn a_configuration_with_words_in_wrong_places_is_refused_with_the_place(
        at in any::<Index>(), swaps in prop::collection::vec((any::<Index>(), prop::sample::select(WORDS.to_vec())), 1..4),
    ) {
        let known = configurations();
        let (path, text) = &known[at.index(known.len())];
        let text = swaps.into_iter().fold(text.clone(), |text, (place, word)| exchange(&text, place, word));
        if let Err(report) = config::load_str(&text, path) {
            is_precise(&report, &text)?;
        }
    }

    #[test]
    fn a_gateway_told_as_json_is_taken_or_refused_in_words(keys in keys(any_json())) {
        let network = Network::new(NetworkId::new("blue").unwrap(), Segment::Local);
        match config::gateway_from_json(&keys, &network) {
            // What is taken is taken again when the store is read.
            Ok(Some(gateway)) => {
                let told = config::gateway_to_json(&gateway);
                prop_assert_eq!(config::gateway_from_json(&told, &network).map_err(|r| r.to_string()), Ok(Some(gateway)));
            }
            Ok(None) => {}
            Err(report) => prop_assert!(!report.to_string().is_empty()),
        }
    }

    #[test]
    fn any_text_is_a_filter_or_refused_in_words(text in ".{0,40}|((event|kind|network|ifname|master)=[a-z*?!,]{0,6},?){0,4}") {
        if let Err(error) = Filter::parse(&text) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}

#[test]
fn the_material_is_sound_before_it_is_damaged() {
    assert!(messages().len() > 80);
    let packets = Reader::open(&recording()[..])
        .unwrap()
        .collect::<Result<Vec<_>, _>>()
        .unwrap();
    assert_eq!(packets.len(), messages().len());
    for (path, text) in configurations() {
        assert!(
            config::load_str(&text, Path::new(&path)).is_ok(),
            "{}",
            path.display()
        );
    }
}
