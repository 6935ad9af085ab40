use super::*;

fn message(kind: u16, len: usize) -> Vec<u8> {
    let mut out = u32::try_from(len).unwrap().to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.resize(len, 0xab);
    out
}

fn sample() -> Vec<u8> {
    let mut recorder = Recorder::start(Vec::new(), 1_700_000_000_000_000, 5_000_000).unwrap();
    recorder
        .message(5_000_001, Direction::ToKernel, &message(18, 32))
        .unwrap();
    recorder
        .message(5_000_002, Direction::FromKernel, &message(16, 77))
        .unwrap();
    recorder.loss(Some(41));
    recorder.loss(None);
    recorder
        .message(6_000_000, Direction::FromKernel, &message(17, 1_500))
        .unwrap();
    let (packets, bytes) = recorder.finish().unwrap();
    assert_eq!(packets, 3);
    bytes
}

fn read(bytes: &[u8]) -> Result<Vec<Packet>, String> {
    Reader::open(bytes)
        .map_err(|e| e.to_string())?
        .collect::<Result<_, _>>()
        .map_err(|e| e.to_string())
}

#[test]
fn what_was_recorded_is_read_back_with_time_direction_and_loss() {
    let packets = read(&sample()).unwrap();
    let told: Vec<_> = packets
        .iter()
        .map(|p| (p.ts_us, p.direction, p.lost_before))
        .collect();
    assert_eq!(
        told,
        [
            (1_700_000_000_000_001, Direction::ToKernel, None),
            (1_700_000_000_000_002, Direction::FromKernel, None),
            (1_700_000_001_000_000, Direction::FromKernel, Some(41)),
        ]
    );
    assert_eq!(packets[1].bytes, message(16, 77));
}

#[test]
fn a_recording_that_was_cut_short_is_read_up_to_the_cut() {
    let whole = sample();
    let mut counts = std::collections::BTreeSet::new();
    for len in 0..whole.len() {
        let Ok(reader) = Reader::open(&whole[..len]) else {
            continue;
        };
        let items: Vec<_> = reader.collect();
        let good = items.iter().filter(|item| item.is_ok()).count();
        assert!(items.len() - good <= 1, "one error ends it");
        counts.insert(good);
    }
    assert_eq!(counts, [0, 1, 2].into());
    assert!(
        read(&whole[..whole.len() - 7])
            .unwrap_err()
            .ends_with("the file is cut short")
    );
}

#[test]
fn a_broken_file_is_refused_with_the_place_and_the_reason() {
    let start = "recording is not readable at byte ";
    assert_eq!(read(b"").unwrap_err(), format!("{start}0: not a pcapng file"));
    assert_eq!(
        read(b"GIF89a and more").unwrap_err(),
        format!("{start}0: not a pcapng file")
    );
    let whole = sample();
    // The section block ends where its length says, the interface block follows it.
    let interface = u32::from_ne_bytes(whole[4..8].try_into().unwrap()) as usize;
    let mut ethernet = whole.clone();
    ethernet[interface + 8..interface + 10].copy_from_slice(&1u16.to_ne_bytes());
    assert_eq!(
        read(&ethernet).unwrap_err(),
        format!("{start}{interface}: link type 1, not netlink (253)")
    );
    let mut long = whole.clone();
    long[interface + 4..interface + 8].copy_from_slice(&0x7fff_fff0u32.to_ne_bytes());
    assert_eq!(
        read(&long).unwrap_err(),
        format!("{start}{interface}: a block of 2147483632 bytes")
    );
    let mut swapped = whole;
    swapped[8..12].reverse();
    assert_eq!(
        read(&swapped).unwrap_err(),
        format!("{start}0: recorded on a machine of the other byte order")
    );
}

#[test]
fn no_single_changed_byte_makes_the_reader_panic() {
    let whole = sample();
    for at in 0..whole.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            // Readable or not: it must return.
            drop(read(&bytes));
        }
    }
}
