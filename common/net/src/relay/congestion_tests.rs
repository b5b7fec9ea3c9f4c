//! [`LowDelay`] over simulated links in virtual time.

use std::collections::VecDeque;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// A link and the application's bitrate.
#[derive(Clone, Copy)]
struct Link {
    /// Bytes per second.
    rate: f64,
    round_trip: Duration,
    /// The queue before the link, in bytes.
    queue: f64,
    /// The share of packets lost at random.
    loss: f64,
    /// Additional delay caused by other traffic.
    others: Duration,
    /// The largest additional delay of a packet, evenly distributed; packets stay in order.
    jitter: Duration,
    /// Bytes per second that the application sends.
    made: f64,
}

const USUAL: Link = Link {
    rate: 1.25e6,
    round_trip: Duration::from_millis(80),
    queue: 128e3,
    loss: 0.0,
    others: Duration::ZERO,
    jitter: Duration::ZERO,
    made: 150e3,
};

struct Sender {
    controller: LowDelay,
    now: Instant,
    link: Link,
    random: StdRng,
    /// Not yet sent.
    backlog: f64,
    /// Whether the backlog exists because the window is too small.
    is_limited: bool,
    free: Instant,
    /// When the last acknowledgement arrives.
    last: Instant,
    next: u64,
    /// Packet number, time of sending, and time of its acknowledgement, if it arrives.
    flying: VecDeque<(u64, Instant, Option<Instant>)>,
}

/// The result of a few seconds.
#[derive(Debug)]
struct Seen {
    /// Bytes per second that arrived.
    rate: f64,
    /// The mean queueing delay caused by our own packets, in milliseconds.
    queue_ms: f64,
    least_window: u64,
    backlog: f64,
}

impl Sender {
    fn new(link: Link) -> Self {
        let now = Instant::now();
        let random = StdRng::seed_from_u64(7);
        Self {
            controller: LowDelay::new(now, MTU),
            now,
            link,
            random,
            backlog: 0.0,
            is_limited: false,
            free: now,
            last: now,
            next: 0,
            flying: VecDeque::new(),
        }
    }

    fn run(&mut self, seconds: u64) -> Seen {
        let (mut arrived, mut waits, mut least_window) = (0u64, 0.0, u64::MAX);
        for _ in 0..seconds * 1000 {
            self.now += MILLI;
            self.backlog += self.link.made / 1e3;
            arrived += self.acknowledge();
            self.is_limited = false;
            while self.backlog >= f64::from(MTU) && !self.is_limited {
                self.is_limited = self.in_flight() + u64::from(MTU) >= self.controller.window();
                if !self.is_limited {
                    self.send();
                }
            }
            waits += self.wait().as_secs_f64();
            least_window = least_window.min(self.controller.window());
        }
        Seen {
            rate: arrived as f64 / seconds as f64,
            queue_ms: waits / seconds as f64,
            least_window,
            backlog: self.backlog,
        }
    }

    fn in_flight(&self) -> u64 {
        self.flying.len() as u64 * u64::from(MTU)
    }

    fn wait(&self) -> Duration {
        self.free.saturating_duration_since(self.now)
    }

    fn send(&mut self) {
        self.backlog -= f64::from(MTU);
        let is_lost = self.wait().as_secs_f64() * self.link.rate > self.link.queue
            || self.random.random::<f64>() < self.link.loss;
        if self.wait().as_secs_f64() * self.link.rate <= self.link.queue {
            let takes = Duration::from_secs_f64(f64::from(MTU) / self.link.rate);
            self.free = self.free.max(self.now) + takes;
        }
        let jitter = self.link.jitter.mul_f64(self.random.random());
        let back = (self.free + self.link.round_trip + self.link.others + jitter).max(self.last);
        self.last = back;
        self.flying.push_back((self.next, self.now, (!is_lost).then_some(back)));
        self.next += 1;
        self.controller.sent(self.now);
    }

    /// Processes the acknowledgements that are due, then losses: packets that three later ones have overtaken.
    fn acknowledge(&mut self) -> u64 {
        let is_due = |back: &Option<Instant>| back.is_some_and(|back| back <= self.now);
        let due: Vec<_> = self.flying.iter().filter(|(_, _, back)| is_due(back)).copied().collect();
        let Some((largest, ..)) = due.last().copied() else { return 0 };
        self.flying.retain(|(number, ..)| !due.iter().any(|(other, ..)| other == number));
        for (_, sent, _) in &due {
            self.controller.acknowledged(self.now, *sent, MTU.into(), self.is_limited);
        }
        self.controller.acknowledged_all(self.now, self.in_flight());
        let before = self.flying.len();
        self.flying.retain(|(number, ..)| number + 3 > largest);
        let lost = (before - self.flying.len()) as u64 * u64::from(MTU);
        if lost > 0 {
            self.controller.lost(self.now, lost, false);
            // Lost bytes are sent again.
            self.backlog += lost as f64;
        }
        due.len() as u64 * u64::from(MTU)
    }
}

const MTU: u16 = 1200;
const MILLI: Duration = Duration::from_millis(1);

#[test]
fn random_losses_do_not_slow_a_stream() {
    for loss in [0.0, 0.01, 0.05, 0.1, 0.15] {
        let mut sender = Sender::new(Link { loss, ..USUAL });
        let seen = sender.run(60);
        assert!(seen.rate > 0.98 * USUAL.made, "{loss}: {seen:?}");
        assert!(seen.backlog < 20e3, "{loss}: {seen:?}");
    }
}

#[test]
fn a_quiet_stream_keeps_its_window() {
    let mut sender = Sender::new(Link { made: 5e3, ..USUAL });
    assert_eq!(sender.run(60).least_window, INITIAL_WINDOW);
}

#[test]
fn jitter_does_not_count_as_congestion() {
    for loss in [0.0, 0.05] {
        let mut sender = Sender::new(Link { jitter: Duration::from_millis(100), loss, ..USUAL });
        let seen = sender.run(120);
        assert!(seen.rate > 0.98 * USUAL.made, "{seen:?}");
        assert!(seen.least_window > 40_000, "{loss}: {seen:?}");
    }
}

#[test]
fn a_saturated_link_is_filled_with_a_short_queue() {
    // In the third case the minimum window alone causes a queue of 80 ms.
    for (rate, round_trip, most) in
        [(60e3, 80, 130.0), (150e3, 80, 130.0), (60e3, 3, 180.0), (1.25e6, 30, 130.0), (5e6, 150, 130.0)]
    {
        let link = Link { rate, round_trip: Duration::from_millis(round_trip), made: 2.0 * rate, queue: 1e6, ..USUAL };
        let mut sender = Sender::new(link);
        sender.run(5);
        for minute in 0..3 {
            let seen = sender.run(60);
            assert!(seen.rate > 0.85 * rate, "{rate} {round_trip} {minute}: {seen:?}");
            assert!(seen.queue_ms < most, "{rate} {round_trip} {minute}: {seen:?}");
        }
    }
}

#[test]
fn the_rate_recovers_when_the_link_widens() {
    let mut sender = Sender::new(Link { made: 400e3, ..USUAL });
    sender.run(5);
    sender.link.rate = 40e3;
    sender.run(6);
    let narrow = sender.run(5);
    assert!(narrow.queue_ms < 200.0 && narrow.rate > 30e3, "{narrow:?}");
    sender.link.rate = USUAL.rate;
    sender.run(4);
    sender.backlog = 0.0;
    let wide = sender.run(5);
    assert!(wide.rate > 0.98 * 400e3, "{wide:?}");
}

#[test]
fn the_queue_of_other_traffic_does_not_slow_the_stream() {
    let mut sender = Sender::new(USUAL);
    sender.run(5);
    sender.link.others = Duration::from_millis(300);
    sender.run(6);
    let seen = sender.run(20);
    assert!(seen.rate > 0.98 * USUAL.made, "{seen:?}");
    assert!(seen.backlog < 20e3, "{seen:?}");
}

/// A change of the route. The backlog is what a viewer is behind.
#[test]
fn a_longer_way_does_not_hold_a_stream_up() {
    for made in [20e3, 41e3, 150e3, 625e3] {
        for round_trip in [10, 60, 150] {
            for step in [50, 110, 150, 300, 400] {
                let mut sender = Sender::new(Link { round_trip: round_trip * MILLI, made, ..USUAL });
                sender.run(8);
                sender.backlog = 0.0;
                sender.link.round_trip += step * MILLI;
                let most = (0..20).map(|_| sender.run(1).backlog).fold(0.0, f64::max);
                let behind = most / made;
                let needed = made * sender.link.round_trip.as_secs_f64() / INITIAL_WINDOW as f64;
                // A window that must grow takes some round trips.
                let bound = if needed < 0.9 { 0.1 } else { 2.0 * needed };
                assert!(behind < bound, "{made} {round_trip} {step}: {behind} s");
            }
        }
    }
}

#[test]
fn a_shallow_queue_is_not_flooded() {
    // The link is saturated and its queue holds only 27 ms, so that loss is the only sign of congestion.
    let mut sender = Sender::new(Link { queue: 4e3, rate: 150e3, made: 600e3, ..USUAL });
    sender.run(5);
    let before = sender.next;
    let seen = sender.run(30);
    let sent = (sender.next - before) as f64 * f64::from(MTU) / 30.0;
    assert!(seen.rate > 0.75 * 150e3, "{seen:?}");
    assert!(sent < 1.4 * 150e3, "{sent}: {seen:?}");
}

#[test]
fn persistent_congestion_restarts_with_a_small_window() {
    let now = Instant::now();
    let mut controller = LowDelay::new(now, MTU);
    controller.lost(now, 5000, true);
    assert_eq!(controller.window(), RESTART_WINDOW_PACKETS * u64::from(MTU));
    controller.lost(now, 0, false);
    assert!(controller.window() < RESTART_WINDOW_PACKETS * u64::from(MTU), "a mark");
    for _ in 0..100 {
        controller.lost(now, 0, true);
        controller.shrink_to(0.0);
    }
    assert_eq!(controller.window(), MIN_WINDOW_PACKETS * u64::from(MTU));
    controller.on_mtu_update(1452);
    assert_eq!(controller.window(), MIN_WINDOW_PACKETS * 1452);
}
