//! Tests of links emulated by the kernel's netem: it implements shapes, and rejects those that it cannot.
//!
//! They need root, `ip`, `tc` and a kernel with netem: `sudo -E cargo test -p lab --test netem`. Where the kernel has none,
//! `deploy/test --only netem` runs them in a virtual machine, so time limits are loose.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lab::{BurstLoss, Direction, Emulator, Host, Jitter, Link, Network, Shape};
use probe::{Echo, TIMEOUT, median_rtt, ms, ping, settles, socket};

#[allow(dead_code, reason = "shared by the tests in this folder")]
mod probe;

/// One test at a time: concurrent tests would distort each other's timing.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Pair {
    network: Network,
    a: Host,
    b: Host,
    link: Arc<Link>,
    _alone: MutexGuard<'static, ()>,
}

/// Two hosts on one link, with the addresses resolved.
fn pair(shape: Shape) -> Pair {
    let _alone = alone();
    let mut network = Network::new(1).unwrap();
    network.set_emulator(Emulator::Netem);
    let (a, b) = (network.host("a").unwrap(), network.host("b").unwrap());
    let ends = (a.at(Ipv4Addr::new(10, 1, 1, 1)), b.at(Ipv4Addr::new(10, 1, 1, 2)));
    let link = network.link("pair", ends.0, ends.1, [shape; 2]).unwrap();
    assert_eq!(link.emulator(), Emulator::Netem);
    median_rtt(&a, &b, 1);
    Pair { network, a, b, link, _alone }
}

impl Pair {
    /// Sends `count` numbered datagrams of `bytes` from a to b at once, and returns the numbers in the order of arrival.
    fn burst(&self, count: u32, bytes: usize) -> Vec<u32> {
        let (sender, receiver) = (socket(&self.a, 0), socket(&self.b, 0));
        let to = receiver.local_addr().unwrap();
        for number in 0..count {
            let mut datagram = vec![0; bytes];
            datagram[..4].copy_from_slice(&number.to_be_bytes());
            sender.send_to(&datagram, to).unwrap();
        }
        receiver.set_read_timeout(Some(QUIET)).unwrap();
        let mut buffer = [0; 2048];
        std::iter::from_fn(|| {
            receiver.recv(&mut buffer).ok()?;
            Some(u32::from_be_bytes(buffer[..4].try_into().unwrap()))
        })
        .collect()
    }

    /// Sends many small bursts, which fit the socket's buffer.
    fn bursts(&self, rounds: usize) -> Vec<Vec<u32>> {
        (0..rounds).map(|_| self.burst(100, 4)).collect()
    }

    fn set(&self, shape: Shape) {
        self.link.set(Direction::AToB, shape).unwrap();
    }
}

#[test]
fn frames_take_their_delay_and_their_length_over_the_rate() {
    let pair = pair(Shape { delay: ms(30), rate: Some(1_000_000), ..Shape::default() });
    let round_trip = |what: &str, least: Duration| {
        settles(&pair.network, what, least, least + SLOW_MACHINE, || median_rtt(&pair.a, &pair.b, 20));
    };
    // 46 bytes there and back.
    round_trip("two times 30 ms", ms(60) + Duration::from_micros(2 * 368));
    // Twenty frames of 1514 bytes in a row; the end is detected by a timeout.
    let row = ms(30) + Duration::from_micros(20 * 12_112);
    settles(&pair.network, "20 full frames", row, row + SLOW_MACHINE, || {
        let start = std::time::Instant::now();
        assert_eq!(pair.burst(20, 1472).len(), 20);
        start.elapsed().saturating_sub(QUIET)
    });
    pair.link.set_both(Shape { delay: ms(5), ..Shape::default() }).unwrap();
    round_trip("two times 5 ms, no rate", ms(10));
    assert!(pair.network.lateness().count() > 100, "{}", pair.network.lateness());
}

#[test]
fn a_full_queue_drops_arriving_frames() {
    let pair = pair(Shape { rate: Some(1_000_000), queue: 16 << 10, ..Shape::default() });
    let arrived = pair.burst(50, 1472);
    // Eleven full frames are 16 KiB, and a few leave while the burst arrives.
    assert!((11..=16).contains(&arrived.len()), "{arrived:?}");
    assert_eq!(pair.link.stats().a_to_b.lost, 50 - arrived.len() as u64, "{:?}", pair.link.stats());
}

#[test]
fn loss_duplication_and_burst_rates_match_their_probabilities() {
    let pair = pair(Shape::default());
    pair.set(Shape { loss: 0.3, ..Shape::default() });
    let arrived: usize = pair.bursts(20).iter().map(Vec::len).sum();
    // Four standard deviations are 82.
    assert!(arrived.abs_diff(1400) < 90, "{arrived} of 2000 at 30% loss");
    pair.set(Shape { duplicate: 0.3, ..Shape::default() });
    let arrived: usize = pair.bursts(20).iter().map(Vec::len).sum();
    assert!(arrived.abs_diff(2600) < 90, "{arrived} of 2000 at 30% duplication");
    let burst = BurstLoss { to_bad: 0.05, to_good: 0.2, loss_good: 0.0, loss_bad: 1.0 };
    pair.set(Shape { burst: Some(burst), ..Shape::default() });
    let runs = pair.bursts(30);
    let (mut lost, mut gaps) = (0, 0);
    for numbers in &runs {
        for pair in numbers.windows(2) {
            let gap = pair[1] - pair[0] - 1;
            lost += gap;
            gaps += u32::from(gap > 0);
        }
    }
    // A fifth of about 3000, in runs of five.
    assert!((350..850).contains(&lost), "{lost} lost in {gaps} gaps");
    assert!((3.5..6.5).contains(&(f64::from(lost) / f64::from(gaps))), "{lost} lost in {gaps} gaps");
}

#[test]
fn jitter_keeps_order_unless_reordering_is_enabled() {
    let pair = pair(Shape::default());
    for jitter in [Jitter::Uniform(ms(20)), Jitter::Normal(ms(10))] {
        let shape = Shape { delay: ms(30), jitter, ..Shape::default() };
        pair.set(shape);
        let kept = pair.burst(100, 4);
        assert!(kept.len() == 100 && kept.is_sorted(), "{jitter:?}: {kept:?}");
        pair.set(Shape { reorder: true, ..shape });
        let mixed = pair.burst(100, 4);
        assert!(mixed.len() == 100 && !mixed.is_sorted(), "{jitter:?}: {mixed:?}");
    }
    // No jitter remains, nor the table of normal jitter.
    pair.set(Shape { delay: ms(30), reorder: true, ..Shape::default() });
    let plain = pair.burst(100, 4);
    assert!(plain.len() == 100 && plain.is_sorted(), "{plain:?}");
}

#[test]
fn a_shape_change_drops_no_frame_and_a_black_hole_drops_all() {
    // Longer than `tc` takes on any machine: datagrams sent before are still in flight when it takes effect.
    let slow = Shape { delay: Duration::from_secs(5), ..Shape::default() };
    let pair = pair(Shape::default());
    let echo = Echo::start(&pair.b);
    let (sender, receiver) = (socket(&pair.a, 0), socket(&pair.b, 0));
    let to = receiver.local_addr().unwrap();
    pair.set(slow);
    sender.send_to(&[1], to).unwrap();
    pair.set(Shape { loss: 0.01, ..slow });
    assert_eq!(receiver.recv(&mut [0; 8]).unwrap(), 1, "it was in flight when the shape changed");

    sender.send_to(&[2], to).unwrap();
    pair.link.blackhole().unwrap();
    sender.send_to(&[3], to).unwrap();
    // Takes effect when the link is healed.
    pair.set(Shape { delay: ms(1), ..Shape::default() });
    let before = pair.link.stats().a_to_b;
    assert!(before.link_down_drops >= 1 && before.sent >= 1, "{before:?}");
    receiver.set_read_timeout(Some(slow.delay + QUIET)).unwrap();
    assert!(receiver.recv(&mut [0; 8]).is_err(), "it was in flight when the black hole began, or sent into it");
    pair.link.heal().unwrap();
    let ask = socket(&pair.a, 0);
    assert!(ping(&ask, echo.address, 7).unwrap() < slow.delay, "the new delay is in effect");
    assert!(pair.link.stats().a_to_b.sent > before.sent);
}

#[test]
fn a_cut_removes_the_carrier_and_healing_restores_it() {
    let pair = pair(Shape { delay: ms(2), ..Shape::default() });
    let echo = Echo::start(&pair.b);
    let ask = socket(&pair.a, 0);
    let state = || {
        let said = pair.a.command("ip").args(["link", "show", "eth0"]).output().unwrap();
        String::from_utf8(said.stdout).unwrap()
    };
    for round in 0..2 {
        pair.link.cut().unwrap();
        assert!(state().contains("NO-CARRIER"), "{}", state());
        ask.set_read_timeout(Some(ms(300))).unwrap();
        assert_eq!(ping(&ask, echo.address, round), None);
        pair.link.heal().unwrap();
        assert!(!state().contains("NO-CARRIER"), "{}", state());
        ask.set_read_timeout(Some(TIMEOUT)).unwrap();
        assert!(ping(&ask, echo.address, 10 + round).is_some());
    }
}

#[test]
fn a_link_forwards_nothing_after_its_network_is_dropped() {
    let Pair { network, a, b, link, _alone } = pair(Shape::default());
    let (sender, receiver) = (socket(&a, 0), socket(&b, 0));
    let to = receiver.local_addr().unwrap();
    sender.send_to(&[1], to).unwrap();
    assert_eq!(receiver.recv(&mut [0; 8]).unwrap(), 1);
    drop(network);
    assert!(!link.is_running());
    link.set(Direction::AToB, Shape::default()).unwrap_err();
    // Without a route the send itself may fail.
    let _ = sender.send_to(&[2], to);
    receiver.set_read_timeout(Some(QUIET)).unwrap();
    assert!(receiver.recv(&mut [0; 8]).is_err(), "it still forwards frames");
}

#[test]
fn shapes_that_netem_cannot_emulate_are_rejected_or_emulated_in_userspace() {
    let _alone = alone();
    let shape = Shape { rate: Some(1_000_000), jitter: Jitter::Uniform(ms(5)), reorder: true, ..Shape::default() };
    let mut network = Network::new(1).unwrap();
    let (a, b) = (network.host("a").unwrap(), network.host("b").unwrap());
    let (one, two) = (Ipv4Addr::new(10, 1, 1, 1), Ipv4Addr::new(10, 1, 2, 1));
    network.set_emulator(Emulator::Netem);
    let refused = network.link("odd", a.at(one), b.at(two), [shape; 2]).unwrap_err();
    assert!(format!("{refused:#}").contains("--links userspace"), "{refused:#}");
    network.set_emulator(Emulator::Auto);
    let odd = network.link("odd", a.at(one), b.at(two), [shape; 2]).unwrap();
    let plain = network.link("plain", a.at(one), b.at(two), [Shape::default(); 2]).unwrap();
    assert_eq!((odd.emulator(), plain.emulator()), (Emulator::Userspace, Emulator::Netem));
    let refused = plain.set(Direction::AToB, shape).unwrap_err();
    assert!(format!("{refused:#}").contains("--links userspace"), "{refused:#}");
    assert_eq!(plain.shape(Direction::AToB), Shape::default(), "a rejected change has no effect");
}

/// Additional time that a machine emulated in software may take.
const SLOW_MACHINE: Duration = Duration::from_millis(80);

/// Timeout after which a burst is over.
const QUIET: Duration = Duration::from_millis(1500);
