//! Simulation of a link with one queue, shared by a push and viewers.

use std::collections::VecDeque;

use super::*;

/// Milliseconds since the start.
type Millis = u64;

/// A packet in the queue of the link.
#[derive(Clone, Copy, Debug)]
struct Packet {
    /// `None` for the push.
    viewer: Option<usize>,
    bytes: usize,
    /// When it was queued; for a ping, when it was requested.
    at: Millis,
    is_ping: bool,
    /// Whether it is the last packet of an IDR.
    ends_idr: bool,
    /// Whether it is the last packet of a frame.
    ends_picture: bool,
}

/// 500 kbit/s of video and 128 kbit/s of audio, times `scale`.
#[derive(Clone, Copy, Debug)]
struct Unit {
    at: Millis,
    bytes: usize,
    is_sound: bool,
    is_idr: bool,
}

fn units(until: Millis, scale: f64) -> Vec<Unit> {
    let scaled = |bytes: f64| (bytes * scale) as usize;
    let pictures = (0..until * 30 / 1000).map(|n| {
        let is_idr = n % 60 == 0;
        Unit { at: n * 1000 / 30, bytes: scaled(if is_idr { 15_000.0 } else { 1_860.0 }), is_sound: false, is_idr }
    });
    let sounds =
        (0..until * 47 / 1000).map(|n| Unit { at: n * 1000 / 47, bytes: scaled(340.0), is_sound: true, is_idr: false });
    let mut units: Vec<_> = pictures.chain(sounds).collect();
    units.sort_by_key(|unit| unit.at);
    units
}

/// One viewer's tracks: the newest IDR first, then what follows while that is not late.
#[derive(Default)]
struct Lane {
    sounds: VecDeque<Unit>,
    pictures: VecDeque<Unit>,
    skips: bool,
    ready: Millis,
    /// Bytes lost, to be retransmitted.
    again: usize,
    queueing: f64,
    idrs: usize,
    got: usize,
    /// When frames were complete.
    shown: Vec<Millis>,
    has_left: bool,
}

/// Bytes that the push and the viewers received, from `settled` on.
struct Outcome {
    waits: Vec<Millis>,
    idrs: Vec<usize>,
    got: Vec<usize>,
    /// Bytes of capacity that the push left.
    left: f64,
    made: usize,
    made_idrs: usize,
    is_free: bool,
    /// When each viewer's frames were complete.
    shown: Vec<Vec<Millis>>,
}

struct Setting {
    /// Capacity in bytes per second, by time.
    link: fn(Millis) -> f64,
    queue: usize,
    viewers: usize,
    /// When the n-th viewer joins.
    joins: fn(usize) -> Millis,
    /// When it leaves.
    leaves: fn(usize) -> Millis,
    /// Whether the viewers are behind the link.
    is_shared: bool,
    /// Whether viewers have priority by the order in which they joined.
    is_ranked: bool,
    /// Delay of the push elsewhere, in milliseconds, by time.
    elsewhere: fn(Millis) -> Millis,
    scale: f64,
    until: Millis,
    settled: Millis,
}

const ROUND_TRIP: Millis = 76;

fn run(setting: &Setting) -> Outcome {
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let mut share = BandwidthAllocator::new(start);
    let mut queue: VecDeque<Packet> = VecDeque::new();
    let (mut queued, mut budget) = (0usize, 0.0f64);
    let mut lanes: Vec<Lane> = (0..setting.viewers).map(|_| Lane::default()).collect();
    // The push: what is queued in the sender, its congestion window, what is in flight.
    let (mut unsent, mut window, mut flying): (VecDeque<Packet>, f64, usize) = (VecDeque::new(), 20_000.0, 0);
    let mut acks: VecDeque<(Millis, Packet)> = VecDeque::new();
    let (mut ping, mut least, mut waits, mut last_waits) = (None, Millis::MAX, Vec::new(), [0; 2]);
    let (mut cut, mut pushed, mut capacity, mut made, mut made_idrs) = (0, 0usize, 0.0, 0, 0);
    let all = units(setting.until, setting.scale);
    let mut next = 0;
    for now in 0..setting.until {
        let is_settled = now >= setting.settled;
        while let Some(unit) = all.get(next).filter(|unit| unit.at <= now) {
            next += 1;
            made += if is_settled { unit.bytes } else { 0 };
            made_idrs += usize::from(unit.is_idr && is_settled);
            let mut rest = unit.bytes;
            while rest > 0 {
                let bytes = rest.min(1448);
                rest -= bytes;
                unsent.push_back(Packet {
                    viewer: None,
                    bytes: bytes + 66,
                    at: now,
                    is_ping: false,
                    ends_idr: false,
                    ends_picture: false,
                });
            }
            let watches = |n: &usize| ((setting.joins)(*n)..(setting.leaves)(*n)).contains(&now);
            for (n, lane) in lanes.iter_mut().enumerate().filter(|(n, _)| watches(n)) {
                if now - (setting.joins)(n) < 40 && lane.pictures.is_empty() && lane.shown.is_empty() {
                    share.join(n as u64);
                    share.rank(std::iter::once((n as u64, setting.is_ranked.then_some(n as u64))), false);
                    // It starts at the last IDR.
                    let before = &all[..next - 1];
                    let idr = before.iter().rposition(|unit| unit.is_idr).unwrap_or(before.len());
                    lane.pictures.extend(before[idr..].iter().filter(|unit| !unit.is_sound));
                }
                if unit.is_sound { &mut lane.sounds } else { &mut lane.pictures }.push_back(*unit);
            }
        }
        if now % 200 == 0 && ping.is_none() {
            ping = Some(now);
            unsent.push_back(Packet {
                viewer: None,
                bytes: 84,
                at: now,
                is_ping: true,
                ends_idr: false,
                ends_picture: false,
            });
        }
        let mut enqueue = |packet: Packet, queued: &mut usize| {
            let fits = *queued + packet.bytes <= setting.queue;
            if fits {
                *queued += packet.bytes;
                queue.push_back(packet);
            }
            fits
        };
        while let Some(packet) = unsent.front().copied().filter(|packet| (flying + packet.bytes) as f64 <= window) {
            if !enqueue(packet, &mut queued) {
                if now - cut > ROUND_TRIP {
                    (window, cut) = ((window / 2.0).max(3000.0), now);
                }
                break;
            }
            flying += packet.bytes;
            share.pushed(packet.bytes);
            unsent.pop_front();
        }
        for (n, lane) in lanes.iter_mut().enumerate() {
            if now >= (setting.leaves)(n) {
                if !std::mem::replace(&mut lane.has_left, true) {
                    share.leave(n as u64);
                    (lane.again, lane.sounds, lane.pictures) = Default::default();
                }
                continue;
            }
            let queueing = Duration::from_secs_f64(lane.queueing / 1000.0);
            while lane.ready <= now {
                while lane.sounds.front().is_some_and(|unit| now - unit.at > 1000) {
                    lane.sounds.pop_front();
                }
                let newest_idr = lane.pictures.iter().rposition(|unit| unit.is_idr).unwrap_or(0);
                let is_late = lane.pictures.front().is_some_and(|unit| !unit.is_idr && now - unit.at > 1000);
                if is_late || (lane.skips && newest_idr > 0) {
                    lane.skips = newest_idr == 0;
                    lane.pictures.drain(..if newest_idr > 0 { newest_idr } else { lane.pictures.len() });
                }
                if lane.skips {
                    lane.skips = lane.pictures.front().is_none_or(|unit| !unit.is_idr);
                    if lane.skips {
                        lane.pictures.clear();
                    }
                }
                let of_sound = !lane.sounds.is_empty();
                let units = if of_sound { &mut lane.sounds } else { &mut lane.pictures };
                let wanted = if lane.again > 0 { lane.again } else { units.front().map_or(0, |unit| unit.bytes) };
                if wanted == 0 {
                    break;
                }
                match share.ask(n as u64, wanted, of_sound && lane.again == 0, queueing, at(now)) {
                    Grant::RetryAfter(wait) => lane.ready = now + (wait.as_millis() as u64).max(1),
                    Grant::Bytes(bytes) => {
                        let (mut ends_idr, mut ends_picture) = (false, false);
                        if lane.again > 0 {
                            lane.again -= bytes;
                        } else if let Some(unit) = units.front_mut() {
                            unit.bytes -= bytes;
                            if unit.bytes == 0 {
                                (ends_idr, ends_picture) = (unit.is_idr, !unit.is_sound);
                                units.pop_front();
                            }
                        }
                        let mut rest = bytes;
                        while rest > 0 {
                            let piece = rest.min(1200);
                            rest -= piece;
                            let (ends_idr, ends_picture) = (ends_idr && rest == 0, ends_picture && rest == 0);
                            let packet = Packet {
                                viewer: Some(n),
                                bytes: piece + 58,
                                at: now,
                                is_ping: false,
                                ends_idr,
                                ends_picture,
                            };
                            if !setting.is_shared {
                                (lane.got, lane.idrs) =
                                    (lane.got + piece, lane.idrs + usize::from(ends_idr && is_settled));
                            } else if !enqueue(packet, &mut queued) {
                                lane.again += piece;
                                lane.idrs += usize::from(ends_idr && is_settled);
                                // As with a congestion window.
                                lane.ready = now + 50;
                            }
                        }
                    }
                }
            }
        }
        let rate = (setting.link)(now) / 1000.0;
        budget = (budget + rate).min(rate + 2000.0);
        if is_settled {
            capacity += rate;
        }
        while let Some(packet) = queue.front().copied().filter(|packet| packet.bytes as f64 <= budget) {
            budget -= packet.bytes as f64;
            queued -= packet.bytes;
            queue.pop_front();
            match packet.viewer {
                None => acks.push_back((now + ROUND_TRIP, packet)),
                Some(n) => {
                    let lane = &mut lanes[n];
                    lane.queueing += ((now - packet.at) as f64 - lane.queueing) / 16.0;
                    if is_settled {
                        lane.got += packet.bytes - 58;
                        lane.idrs += usize::from(packet.ends_idr);
                    }
                    if packet.ends_picture {
                        lane.shown.push(now);
                    }
                }
            }
        }
        if queue.is_empty() {
            budget = budget.min(rate);
        }
        while let Some((_, packet)) = acks.front().copied().filter(|(due, _)| *due <= now) {
            acks.pop_front();
            flying -= packet.bytes;
            window = (window + 1448.0 * packet.bytes as f64 / window).min(200_000.0);
            if is_settled {
                pushed += packet.bytes;
            }
            if packet.is_ping {
                let round_trip = now - packet.at;
                least = least.min(round_trip);
                last_waits = [last_waits[1], round_trip - least];
                ping = None;
                if is_settled {
                    waits.push(round_trip - least);
                }
            }
        }
        if now % 13 == 0 && least != Millis::MAX {
            let pending = ping.map_or(0, |since| (now - since).saturating_sub(least));
            let wait = pending.max(last_waits[0].min(last_waits[1])) + (setting.elsewhere)(now);
            share.push_waits(Some(Duration::from_millis(wait)), Duration::from_millis(least), at(now));
        }
    }
    let left = capacity - pushed as f64;
    waits.sort_unstable();
    Outcome {
        waits,
        idrs: lanes.iter().map(|lane| lane.idrs).collect(),
        got: lanes.iter().map(|lane| lane.got).collect(),
        left,
        made,
        made_idrs,
        is_free: share.link.is_none(),
        shown: lanes.into_iter().map(|lane| lane.shown).collect(),
    }
}

/// Slightly more than twice the stream for three copies: every viewer gets frames, and the push is hardly delayed.
const NARROW: Setting = Setting {
    link: |_| 1_700_000.0 / 8.0,
    queue: 64 << 10,
    viewers: 2,
    joins: |n| 5000 + n as u64 * 3000,
    leaves: |_| Millis::MAX,
    is_shared: true,
    is_ranked: false,
    elsewhere: |_| 0,
    scale: 1.0,
    until: 60_000,
    settled: 20_000,
};

#[track_caller]
fn check(setting: &Setting, part: f64, idrs: f64) {
    let Outcome { waits, idrs: had, got, left, made, made_idrs, .. } = run(setting);
    // Viewers cannot use more than the stream.
    let left = left.min((made * setting.viewers) as f64);
    let (half, most) = (waits[waits.len() / 2], waits[waits.len() - 1 - waits.len() / 50]);
    let all: usize = got.iter().sum();
    println!(
        "wait {half} ms, at most {most} ms; {:.2} of what is left; {had:?} of {made_idrs} IDRs; {got:?}",
        all as f64 / left
    );
    assert!(half <= 120 && most <= 450, "the push waits {half} ms, at most {most} ms");
    assert!(all as f64 >= left * part, "{all} of {left} that are left");
    let (few, many) = (got.iter().min().unwrap(), got.iter().max().unwrap());
    assert!(*few as f64 >= *many as f64 * 0.75, "not even: {got:?}");
    assert!(had.iter().all(|had| *had as f64 >= made_idrs as f64 * idrs), "{had:?} of {made_idrs} IDRs");
}

#[test]
fn viewers_get_what_the_push_leaves() {
    check(&NARROW, 0.7, 0.9);
}

#[test]
fn three_viewers_fill_the_uplink_of_the_paper() {
    check(&Setting { link: |_| 4_000_000.0 / 8.0, viewers: 3, scale: 1.6, ..NARROW }, 0.7, 0.9);
}

/// Audio alone uses three fifths of what is left.
#[test]
fn four_viewers_get_little_more_than_idrs() {
    check(&Setting { viewers: 4, joins: |n| 3000 + n as u64 * 500, ..NARROW }, 0.7, 0.5);
}

#[test]
fn six_viewers_get_little_more_than_audio() {
    check(&Setting { viewers: 6, joins: |n| 3000 + n as u64 * 500, ..NARROW }, 0.7, 0.0);
}

#[test]
fn the_estimate_follows_a_changing_capacity() {
    let link = |now| if (25_000..35_000).contains(&now) { 1_200_000.0 } else { 2_400_000.0 } / 8.0;
    check(&Setting { link, ..NARROW }, 0.7, 0.8);
}

#[test]
fn short_and_long_queues_work() {
    check(&Setting { queue: 24 << 10, ..NARROW }, 0.6, 0.8);
    check(&Setting { queue: 256 << 10, ..NARROW }, 0.7, 0.9);
}

#[test]
fn with_free_capacity_nothing_is_limited() {
    let outcome = run(&Setting { link: |_| 20_000_000.0 / 8.0, ..NARROW });
    assert!(outcome.is_free);
    assert_eq!(outcome.idrs, [outcome.made_idrs; 2]);
}

/// Longest time without a frame from `from` to `until`, the time before the first included.
fn hole(shown: &[Millis], from: Millis, until: Millis) -> Millis {
    let within = shown.iter().copied().filter(|at| (from..until).contains(at));
    let all: Vec<Millis> = std::iter::once(from).chain(within).chain([until]).collect();
    all.windows(2).map(|two| two[1] - two[0]).max().unwrap_or(Millis::MAX)
}

/// Viewers join and leave, two and three at a time.
#[track_caller]
fn check_coming_and_going(setting: &Setting, first: Millis, longest: Millis) {
    let setting = Setting {
        joins: |n| 5300 + n as u64 * 7000,
        leaves: |n| 5300 + n as u64 * 7000 + 16_000,
        settled: 5000,
        ..*setting
    };
    let outcome = run(&setting);
    for (n, shown) in outcome.shown.iter().enumerate() {
        let (from, until) = ((setting.joins)(n), (setting.leaves)(n).min(setting.until));
        let (came, hole) = (shown.first().map_or(Millis::MAX, |at| at - from), hole(shown, from, until));
        println!("viewer {n}: first frame after {came} ms, longest gap {hole} ms, {} frames", shown.len());
        assert!(came <= first && hole <= longest, "viewer {n}: first frame after {came} ms, longest gap {hole} ms");
    }
}

#[test]
fn the_estimate_is_kept_while_viewers_join_and_leave() {
    check_coming_and_going(&Setting { viewers: 4, ..NARROW }, 1500, 2000);
    check_coming_and_going(&Setting { link: |_| 4_000_000.0 / 8.0, viewers: 6, scale: 1.6, ..NARROW }, 600, 1500);
}

/// The push is delayed, but not by viewers: their packets are not queued.
#[test]
fn a_push_delayed_elsewhere_does_not_limit_viewers() {
    let outcome = run(&Setting { link: |_| 600_000.0 / 8.0, is_shared: false, ..NARROW });
    assert!(outcome.is_free);
    assert_eq!(outcome.idrs, [outcome.made_idrs; 2]);
}

/// The return path is full.
#[test]
fn delay_on_the_return_path_does_not_limit_viewers() {
    let elsewhere = |now| if now > 20_000 { 400 } else { 0 };
    let outcome = run(&Setting { link: |_| 4_000_000.0 / 8.0, scale: 1.6, elsewhere, ..NARROW });
    println!("{:?} of {}: {:?} of {}", outcome.idrs, outcome.made_idrs, outcome.got, outcome.made);
    assert!(outcome.got.iter().all(|got| *got as f64 > outcome.made as f64 * 0.98), "viewers were limited");
}

#[test]
fn earlier_viewers_have_priority() {
    let setting = Setting { link: |_| 3_200_000.0 / 8.0, scale: 1.6, viewers: 3, is_ranked: true, ..NARROW };
    let outcome = run(&setting);
    println!("{:?} of {}", outcome.got, outcome.made);
    let part = |n: usize| outcome.got[n] as f64 / outcome.made as f64;
    assert!(part(0) > 0.99 && part(0) > part(1) && part(1) > part(2), "{:?} of {}", outcome.got, outcome.made);
}

#[test]
fn a_first_guess_is_not_reported() {
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let mut share = BandwidthAllocator::new(start);
    share.join(0);
    let mut go = |from: Millis, to: Millis| {
        for millis in (from..to).step_by(20) {
            share.pushed(2000);
            share.ask(0, 2000, true, Duration::from_millis(100), at(millis));
            share.push_waits(Some(Duration::from_millis(100)), Duration::from_millis(50), at(millis));
        }
        (share.is_guess(at(to)), share.takes(at(to)).is_some())
    };
    assert_eq!(go(0, 100), (false, false));
    assert_eq!(go(100, 400), (true, false));
    assert_eq!(go(400, 1000), (true, true));
    assert_eq!(go(1000, 3000), (false, true));
    // The viewers' packets are delayed less than half as long: the push is delayed elsewhere.
    share.push_waits(Some(Duration::from_millis(500)), Duration::from_millis(50), at(3010));
    assert_eq!(share.takes(at(3010)), None);
}
