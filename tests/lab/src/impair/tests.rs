use super::Member::{A, B, C};
use super::*;

const MS: u64 = 1_000_000;

fn mac(member: Member) -> [u8; 6] {
    [2, 0, 0, 0, 0, member.number() as u8]
}

fn frame(to: [u8; 6], from: Member, number: u32) -> Vec<u8> {
    let mut frame = [to, mac(from)].concat();
    frame.extend([0x88, 0xb5]);
    frame.extend(number.to_be_bytes());
    frame.resize(1000, 7);
    frame
}

fn to_all(from: Member, number: u32) -> Vec<u8> {
    frame([0xff; 6], from, number)
}

fn number_of(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[14..18].try_into().unwrap())
}

/// Everything that is due, as (to, number).
fn drain(switch: &mut Switch, now_ns: u64) -> Vec<(Member, u32)> {
    std::iter::from_fn(|| switch.due(now_ns)).map(|(to, f)| (to, number_of(&f))).collect()
}

/// Sends `count` frames from A to all, one each 10 us, taking out at each step what is due; the
/// numbers that B got, in their order, with their times.
fn send(switch: &mut Switch, count: u32) -> Vec<(u64, u32)> {
    let mut got = Vec::new();
    let mut take = |switch: &mut Switch, now_ns: u64| {
        got.extend(
            drain(switch, now_ns).into_iter().filter(|&(to, _)| to == B).map(|(_, n)| (now_ns, n)),
        );
    };
    for number in 0..count {
        let now_ns = u64::from(number) * 10_000;
        switch.arrive(now_ns, A, &to_all(A, number));
        take(switch, now_ns);
    }
    let mut now_ns = u64::from(count) * 10_000;
    while let Some(due_ns) = switch.next_due_ns() {
        now_ns = now_ns.max(due_ns);
        take(switch, now_ns);
    }
    got
}

fn impaired(words: &str) -> Switch {
    let mut switch = Switch::new(42);
    switch.set(A, B, words.parse().unwrap());
    switch
}

/// A count of `trials` at `share`, give or take five standard deviations.
fn assert_near(count: u64, trials: u64, share: f64, what: &str) {
    let mean = trials as f64 * share;
    let deviation = (mean * (1.0 - share)).sqrt();
    assert!((count as f64 - mean).abs() < 5.0 * deviation, "{what}: {count} of {trials}");
}

#[test]
fn unimpaired_it_is_a_switch() {
    let mut switch = Switch::new(1);
    switch.arrive(0, A, &to_all(A, 1));
    assert_eq!(drain(&mut switch, 0), [(B, 1), (C, 1)], "everybody but the sender");
    switch.arrive(0, B, &frame(mac(A), B, 2));
    assert_eq!(drain(&mut switch, 0), [(A, 2)], "A is known by now");
    switch.arrive(0, B, &frame(mac(C), B, 3));
    assert_eq!(drain(&mut switch, 0), [(A, 3), (C, 3)], "C is not");
    switch.arrive(0, A, &frame(mac(A), A, 4));
    switch.arrive(0, A, &[0; 11]);
    assert_eq!(drain(&mut switch, 0), [], "to itself, and too short");
    let got = send(&mut switch, 10_000);
    assert!(
        got.iter().enumerate().all(|(at, &(ns, n))| n == at as u32 && ns == at as u64 * 10_000)
    );
    assert_eq!(got.len(), 10_000, "all, at once, in order");
}

#[test]
fn shares_are_kept() {
    let mut switch = impaired("loss=5%,reorder=10%,reorder-by=200us,duplicate=2%,corrupt=0.01");
    let got = send(&mut switch, 100_000);
    let ab = switch.counters(A, B);
    assert_eq!(ab.offered, 100_000);
    assert_near(ab.lost, 100_000, 0.05, "lost");
    assert_near(ab.held_back, 95_000, 0.1, "held back");
    assert_near(ab.duplicated, 95_000, 0.02, "duplicated");
    assert_near(ab.corrupted, 95_000, 0.01, "corrupted");
    assert_eq!(ab.forwarded, ab.offered - ab.lost + ab.duplicated);
    assert_eq!(got.len() as u64, ab.forwarded);
    let overtaken = ab.overtaken as f64 / ab.held_back as f64;
    assert!(overtaken > 0.99, "20 frames pass one that is held back 200 us: {overtaken}");
    let ac = switch.counters(A, C);
    assert_eq!((ac.forwarded, ac.lost, ac.overtaken), (100_000, 0, 0), "the other pair is whole");
    assert_eq!(ac.forwarded_bytes, 100_000 * 1000);
}

#[test]
fn the_seed_decides() {
    let run = |seed| {
        let mut switch = Switch::new(seed);
        switch.set(A, B, "loss=30%,jitter=1ms,reorder=20%".parse().unwrap());
        send(&mut switch, 1000)
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn delay_and_jitter_are_honoured_and_keep_the_order() {
    let mut switch = impaired("delay=1ms,jitter=500us");
    let got = send(&mut switch, 10_000);
    assert_eq!(got.len(), 10_000);
    assert!(got.windows(2).all(|pair| pair[0].1 < pair[1].1), "jitter does not reorder");
    let delays = || got.iter().map(|&(ns, n)| ns.saturating_sub(u64::from(n) * 10_000));
    // `send` looks every 10 us while it sends.
    assert!(delays().all(|ns| (MS..=MS + MS / 2 + 10_000).contains(&ns)));
    assert!(delays().max() > delays().min().map(|ns| ns + MS / 4), "it spreads");
}

#[test]
fn a_rate_limit_paces_and_its_queue_is_bounded() {
    // 1000 bytes in 1 ms; 10 us apart they come a hundred times as fast.
    let mut switch = impaired("rate=8000kbit,queue=100k");
    let got = send(&mut switch, 1000);
    let ab = switch.counters(A, B);
    assert_eq!(ab.forwarded + ab.queue_drops, 1000);
    assert!((100..130).contains(&ab.forwarded), "what fits the queue, and what left: {ab:?}");
    let times: Vec<u64> = got.iter().map(|&(ns, _)| ns).collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] > 900_000), "one each ms");
}

#[test]
fn a_block_is_one_way_and_ends() {
    let mut switch = impaired("block");
    assert_eq!(send(&mut switch, 10), []);
    switch.arrive(0, B, &to_all(B, 1));
    assert_eq!(drain(&mut switch, 0), [(A, 1), (C, 1)]);
    assert_eq!(switch.counters(A, B).blocked, 10);
    switch.set(A, B, Impairment::default());
    assert_eq!(send(&mut switch, 10).len(), 10);
}

#[test]
fn corruption_is_one_bit_behind_the_header() {
    let mut switch = impaired("corrupt=1");
    for number in 0..1000 {
        let sent = to_all(A, number);
        switch.arrive(0, A, &sent);
        let got = std::iter::from_fn(|| switch.due(0)).find(|(to, _)| *to == B).unwrap().1;
        while switch.due(0).is_some() {}
        assert_eq!(got[..14], sent[..14]);
        let wrong: u32 = got.iter().zip(&sent).map(|(a, b)| (a ^ b).count_ones()).sum();
        assert_eq!(wrong, 1);
    }
    switch.arrive(0, A, &sent_without_payload());
    assert!(switch.due(0).is_some(), "nothing to corrupt, nothing to panic about");
}

fn sent_without_payload() -> Vec<u8> {
    to_all(A, 0)[..12].to_vec()
}

#[test]
fn queues_are_bounded() {
    let mut switch = impaired("delay=1s");
    for number in 0..QUEUE_FRAMES_MAX as u32 + 5 {
        switch.arrive(0, A, &to_all(A, number));
        while switch.next_due_ns() == Some(0) && switch.due(0).is_some() {}
    }
    assert_eq!(switch.counters(A, B).queue_drops, 5);
    assert_eq!(drain(&mut switch, 1000 * MS).len(), QUEUE_FRAMES_MAX);
}

#[test]
fn what_was_recorded_can_be_replayed() {
    let mut switch = impaired("block");
    switch.arrive(0, A, &to_all(A, 1));
    switch.start_recording();
    switch.arrive(0, A, &to_all(A, 2));
    while switch.due(0).is_some() {}
    let recorded = switch.take_recording();
    assert_eq!(recorded.len(), 1, "since it was told to");
    assert_eq!((recorded[0].0, number_of(&recorded[0].1)), (A, 2), "blocked or not");
    switch.inject(B, &recorded[0].1);
    assert_eq!(drain(&mut switch, 0), [(B, 2)], "to B, through any block");
    switch.arrive(0, A, &to_all(A, 3));
    assert!(switch.take_recording().is_empty());
}

#[test]
fn words_say_what_they_mean() {
    let parse = |text: &str| text.parse::<Impairment>();
    assert_eq!(parse("none").unwrap(), Impairment::default());
    let all = "block, loss=5%,delay=1ms,jitter=500us,duplicate=0.02,reorder=10%,reorder-by=2ms,\
               corrupt=0.1%,rate=200mbit,queue=64k";
    let wanted = Impairment {
        block: true,
        loss: 0.05,
        delay_ns: MS,
        jitter_ns: MS / 2,
        duplicate: 0.02,
        reorder: 0.1,
        reorder_by_ns: 2 * MS,
        corrupt: 0.001,
        rate_bits: 200_000_000,
        queue_bytes: 64 << 10,
    };
    assert_eq!(parse(all).unwrap(), wanted);
    for bad in
        ["", "loss", "loss=101%", "loss=-1", "loss=NaN", "delay=5", "delay=121s", "rate=0kbit"]
    {
        assert!(parse(bad).is_err(), "{bad}");
    }
    let error = format!("{:#}", parse("loss=5%,dealy=1ms").unwrap_err());
    assert!(error.contains("dealy=1ms"), "{error}");
}
