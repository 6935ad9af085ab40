use super::*;
use proptest::prelude::*;

fn event(at_us: u64, ifindex: u32, name: &'static str, word: &'static str) -> Step<'static> {
    Step::new(Kind::Event, at_us, at_us)
        .device(ifindex, name)
        .says(word, "")
}

#[test]
fn a_step_is_read_back_as_pushed() {
    let mut flight = FlightRecorder::new(MIN_CAPACITY);
    let step = Step::new(Kind::Op, 7, 3)
        .device(5, "tap0")
        .says("attach", "Exchange full")
        .took(71, 54);
    flight.push(step);
    assert_eq!(flight.steps().collect::<Vec<_>>(), [step]);
    let mut json = Vec::new();
    flight.dump(&mut json).unwrap();
    assert_eq!(
        String::from_utf8(json).unwrap(),
        "{\"at_us\":7,\"kind\":\"op\",\"cause\":3,\"ifindex\":5,\"ifname\":\"tap0\",\"word\":\"attach\",\
         \"errno\":54,\"elapsed_us\":71,\"text\":\"Exchange full\"}\n"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn the_ring_always_holds_the_newest_steps_in_order(lengths in prop::collection::vec(0usize..300, 1..300)) {
        let text = "x".repeat(300);
        let mut flight = FlightRecorder::new(MIN_CAPACITY);
        for (nth, len) in lengths.iter().enumerate() {
            flight.push(Step::new(Kind::Event, nth as u64, 0).says("change", &text[..*len]));
            let stamps: Vec<u64> = flight.steps().map(|s| s.at_us).collect();
            prop_assert_eq!(stamps.len(), flight.len());
            let first = nth as u64 + 1 - stamps.len() as u64;
            prop_assert!(stamps.iter().copied().eq(first..=nth as u64));
            // Never less than the ring without one longest record and what does not fit at its end.
            let held: usize = flight.steps().map(|s| HEAD + s.word.len() + s.text.len()).sum();
            prop_assert!(flight.overwritten() == 0 || held + 2 * (HEAD + 6 + MAX_TEXT) >= MIN_CAPACITY);
        }
    }
}

#[test]
fn a_story_leaves_out_the_device_that_had_the_index_before() {
    let mut flight = FlightRecorder::new(MIN_CAPACITY);
    flight.push(event(1, 5, "tap0", "new"));
    flight.push(event(2, 6, "tap1", "new"));
    flight.push(event(3, 5, "tap0", "gone"));
    flight.push(Step::new(Kind::Resync, 4, 0).says("command", ""));
    flight.push(event(5, 5, "tap9", "new"));
    flight.push(Step::new(Kind::Overrun, 6, 0).says("overrun", "12"));
    let stamps = |index, name| {
        flight
            .of_device(index, name, None)
            .iter()
            .map(|s| s.at_us)
            .collect::<Vec<_>>()
    };
    assert_eq!(stamps(5, "tap9"), [5, 6]);
    assert_eq!(stamps(6, "tap1"), [2, 4, 6]);
    assert_eq!(stamps(7, "tap2"), Vec::<u64>::new());
}

#[test]
fn a_panic_of_its_owner_leaves_a_dump() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().to_owned();
    let owner = std::thread::spawn(move || {
        let mut flight = FlightRecorder::new(MIN_CAPACITY);
        flight.dump_on_panic(directory);
        flight.push(event(1, 5, "tap0", "new"));
        panic!("a bug");
    });
    assert!(owner.join().is_err());
    let files: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|f| f.unwrap().path())
        .collect();
    assert_eq!(files.len(), 1);
    assert!(
        std::fs::read_to_string(&files[0])
            .unwrap()
            .contains("\"ifname\":\"tap0\"")
    );
}

#[test]
fn a_long_text_is_cut_at_a_character() {
    let mut flight = FlightRecorder::new(MIN_CAPACITY);
    let text = "ä".repeat(200);
    flight.push(Step::new(Kind::State, 1, 0).says("failed", &text));
    assert_eq!(flight.steps().next().unwrap().text.chars().count(), 127);
}

#[test]
fn a_recorder_that_is_off_records_nothing() {
    let mut flight = FlightRecorder::new(0);
    flight.push(event(1, 5, "tap0", "new"));
    assert!(flight.is_off() && flight.is_empty());
    assert_eq!((flight.steps().count(), flight.overwritten()), (0, 0));
}
