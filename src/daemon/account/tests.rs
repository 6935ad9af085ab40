use super::*;
use crate::control::api::ACCOUNT_QUEUE;
use crate::desired::Desired;
use crate::model::{Ifindex, NamePattern, TapMatch};

fn engine() -> Engine {
    let taps = TapMatch {
        patterns: vec![NamePattern::new("tap*").unwrap()],
        other_kinds: Vec::new(),
        adopt: false,
    };
    Engine::new(Desired::new(taps, "host"), None, Time::ZERO)
}

fn change() -> Change {
    Change::Removed(Ifindex::new(7).unwrap())
}

fn read(line: &str) -> Vec<Told> {
    serde_json::from_str(line).unwrap()
}

#[test]
fn nothing_is_kept_while_nobody_records() {
    let mut account = Account::new();
    let mut engine = engine();
    account.hear_message(&mut engine, change(), b"message", Time::ZERO);
    account.hear(&mut engine, Event::Drained, Time::ZERO);
    account.hand_out(&engine, true);
    assert_eq!((account.told.capacity(), account.read.capacity()), (0, 0));
}

#[test]
fn a_recorder_gets_the_state_and_then_everything_in_order() {
    let mut account = Account::new();
    let (sink, mut lines) = Sink::pair(ACCOUNT_QUEUE);
    account.add(sink);
    let mut engine = engine();
    account.hear(&mut engine, Event::Resync, Time::ZERO);
    account.hand_out(&engine, false);
    assert!(lines.try_recv().is_err());
    account.hand_out(&engine, true);
    account.hear_message(&mut engine, change(), b"a", Time(1));
    account.hear_message(&mut engine, change(), b"b", Time(2));
    account.hear(&mut engine, Event::Drained, Time(3));
    assert!(matches!(
        account.ask(&mut engine, Time(4)),
        Some(Action::Snapshot)
    ));
    account.hear_message(&mut engine, change(), b"c", Time(5));
    account.hand_out(&engine, true);
    let first = read(&lines.try_recv().unwrap());
    assert!(matches!(first[..], [Told::Begin { plans: 0, .. }]));
    let then = read(&lines.try_recv().unwrap());
    let [
        Told::Read(ab),
        Told::Heard(Time(3), event),
        Told::Asked(Time(4), Some(asked)),
        Told::Read(c),
    ] = &then[..]
    else {
        panic!("told something else");
    };
    assert_eq!(ab[..], [(Time(1), checksum(b"a")), (Time(2), checksum(b"b"))]);
    assert!(matches!(**event, Event::Drained) && matches!(**asked, Action::Snapshot));
    assert_eq!(c[..], [(Time(5), checksum(b"c"))]);
    assert!(lines.try_recv().is_err());
}

#[test]
fn a_slow_reader_is_told_of_the_gap_and_gets_the_state_anew() {
    let mut account = Account::new();
    let (sink, mut lines) = Sink::pair(2);
    let mut engine = engine();
    account.add(sink);
    account.hand_out(&engine, true);
    for _ in 0..3 {
        account.hear(&mut engine, Event::Drained, Time::ZERO);
        account.hand_out(&engine, true);
    }
    while lines.try_recv().is_ok() {}
    account.hand_out(&engine, true);
    assert!(lines.try_recv().unwrap().contains("\"loss\""));
    assert!(matches!(
        read(&lines.try_recv().unwrap())[..],
        [Told::Begin { .. }]
    ));
}

#[test]
fn a_plan_beside_the_loop_keeps_a_recorder_waiting() {
    let mut account = Account::new();
    let (sink, mut lines) = Sink::pair(ACCOUNT_QUEUE);
    let mut engine = engine();
    let plan = account.begins_beside_the_loop();
    account.add(sink);
    account.hand_out(&engine, true);
    assert!(lines.try_recv().is_err());
    let done = Done {
        plan: crate::plan::Plan {
            key: crate::plan::Key::Gateways,
            cause: crate::plan::CauseId(0),
            steps: Vec::new(),
        },
        results: Vec::new(),
        undo_failures: Vec::new(),
    };
    account.hear_done_beside_the_loop(&mut engine, plan, done, Time::ZERO);
    account.hand_out(&engine, true);
    assert!(lines.try_recv().is_ok());
}

#[test]
fn a_long_line_comes_in_pieces_and_a_lost_piece_is_a_gap() {
    let told = |fill: usize| format!(r#"[{{"PruneAfter":null}}{}]"#, " ".repeat(fill));
    let pieces = lines(&told(2 * LINE));
    assert!(pieces.len() == 3 && pieces.iter().all(|line| line.len() <= LINE + 1));
    let mut joined = Lines::default();
    let mut take = |line: &str| match joined.take(line).unwrap() {
        None => "piece".to_owned(),
        Some(Line::Told(told)) => format!("{} told", told.len()),
        Some(Line::Gap(lost)) => format!("{lost:?} lost"),
    };
    let whole: Vec<String> = pieces.iter().map(|piece| take(piece)).collect();
    assert_eq!(whole, ["piece", "piece", "1 told"]);
    assert_eq!(take(&pieces[0]), "piece");
    assert_eq!(
        take(r#"{"event":"loss","lost":2,"resync_ms":null}"#),
        "Some(2) lost"
    );
    assert_eq!(take(&told(0)), "1 told");
}
