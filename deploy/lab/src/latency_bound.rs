//! The floor: how soon the last bit of an access unit can arrive after its first bit was sent, by arithmetic alone.
//!
//! It is what links of a given rate and delay allow a sender without any overhead: packets of one size, sent back to back, stored
//! and forwarded whole at every link, in order, with nothing else on the way but what is said. No program can be faster over the
//! same path; how much slower one is, is what it costs. Pure: times are parameters.

use std::time::Duration;

use crate::link::shape::Shape;

/// One link of a path, in the direction of travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Bits per second; `None` takes no time.
    pub rate: Option<u64>,
    /// One-way propagation delay.
    pub delay: Duration,
}

impl From<Shape> for Hop {
    fn from(shape: Shape) -> Hop {
        Hop { rate: shape.rate, delay: shape.delay }
    }
}

/// How units are cut into packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// Most bytes of a unit in one packet; at least 1.
    pub payload: usize,
    /// Bytes that every packet has besides, on the wire.
    pub headers: usize,
}

impl Framing {
    /// Lengths of the packets of a unit of `bytes`, in order.
    fn packets(self, bytes: usize) -> impl Iterator<Item = usize> {
        let payload = self.payload.max(1);
        let last = bytes % payload;
        std::iter::repeat_n(payload, bytes / payload).chain((last > 0).then_some(last)).map(move |p| p + self.headers)
    }

    /// Bytes on the wire for a unit of `bytes`.
    pub fn wire_bytes(self, bytes: usize) -> usize {
        self.packets(bytes).sum()
    }
}

/// A path with the state of its links: each knows until when it is busy with what was sent before.
///
/// A path is one or more *legs*, each a run of links that forward packet by packet. Between two legs stands a relay that forwards
/// a unit when it has all of it.
#[derive(Clone, Debug)]
pub struct PathModel {
    framing: Framing,
    legs: Vec<Vec<LinkState>>,
    copies_first: usize,
}

#[derive(Clone, Copy, Debug)]
struct LinkState {
    hop: Hop,
    /// Nanoseconds.
    free_at: u64,
}

impl PathModel {
    /// An idle path of these legs.
    pub fn new(framing: Framing, legs: &[Vec<Hop>]) -> PathModel {
        let links = |leg: &Vec<Hop>| leg.iter().map(|hop| LinkState { hop: *hop, free_at: 0 }).collect();
        PathModel { framing, legs: legs.iter().map(links).collect(), copies_first: 0 }
    }

    /// The same, where so many other copies of each unit go over the first link before this one.
    pub fn after_copies(self, copies_first: usize) -> PathModel {
        PathModel { copies_first, ..self }
    }

    /// Sends a unit of `bytes` at `sent`, behind all that was sent before; how long after that its last bit arrives. Units are to
    /// be given in the order in which they are sent.
    pub fn send(&mut self, sent: Duration, bytes: usize) -> Duration {
        let start = nanoseconds(sent);
        if let Some(first) = self.legs.first_mut().and_then(|leg| leg.first_mut()) {
            for length in (0..self.copies_first).flat_map(|_| self.framing.packets(bytes)) {
                first.forward(start, length);
            }
        }
        let mut ready = start;
        for leg in &mut self.legs {
            let mut last = ready;
            for length in self.framing.packets(bytes) {
                last = leg.iter_mut().fold(ready, |at, link| link.forward(at, length));
            }
            ready = last;
        }
        Duration::from_nanos(ready - start)
    }

    /// What a unit of `bytes` takes on this path while it is idle.
    pub fn idle_latency(&self, bytes: usize) -> Duration {
        let mut idle = self.clone();
        idle.legs.iter_mut().flatten().for_each(|link| link.free_at = 0);
        idle.send(Duration::ZERO, bytes)
    }
}

impl LinkState {
    /// When a packet that is there at `at` has all arrived at the other end.
    fn forward(&mut self, at: u64, length: usize) -> u64 {
        let shape = Shape { rate: self.hop.rate, ..Shape::PERFECT };
        self.free_at = at.max(self.free_at) + shape.serialisation_ns(length);
        self.free_at + nanoseconds(self.hop.delay)
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}

/// The four bounds that a broadcaster, its viewer and a CDN have.
#[derive(Clone, Debug)]
pub struct LatencyBounds {
    /// Through the CDN, if it forwards packets as they come.
    pub cdn_packets: PathModel,
    /// Through the CDN, if it forwards whole units.
    pub cdn_units: PathModel,
    /// Straight from the broadcaster.
    pub peer: PathModel,
    /// Straight from the broadcaster, if the copy for the CDN goes first.
    pub peer_second: PathModel,
}

impl LatencyBounds {
    /// Of these three runs of links: broadcaster to CDN, CDN to viewer, broadcaster to viewer.
    pub fn new(framing: Framing, up: &[Hop], down: &[Hop], direct: &[Hop]) -> LatencyBounds {
        let direct = PathModel::new(framing, &[direct.to_vec()]);
        LatencyBounds {
            cdn_packets: PathModel::new(framing, &[[up, down].concat()]),
            cdn_units: PathModel::new(framing, &[up.to_vec(), down.to_vec()]),
            peer_second: direct.clone().after_copies(1),
            peer: direct,
        }
    }

    /// All four, with what to call them.
    pub fn named(&self) -> [(&'static str, &PathModel); 4] {
        [
            ("CDN, forwarding packets", &self.cdn_packets),
            ("CDN, forwarding whole units", &self.cdn_units),
            ("peer", &self.peer),
            ("peer, CDN copy first", &self.peer_second),
        ]
    }
}

/// What the analysis assumes: UDP payload of 1,400 bytes, and Ethernet, IP, UDP and 16 bytes of a transport's own.
pub const FRAMING: Framing = Framing { payload: 1_400, headers: 58 };

/// Mean access unit of the analysis, bytes: 1 Mbit/s at 30 pictures a second.
pub const MEAN_UNIT: usize = 4_167;

/// IDR of the analysis, bytes.
pub const IDR_UNIT: usize = 30_000;

#[cfg(test)]
mod tests {
    use super::*;

    const MBIT: u64 = 1_000_000;

    fn bounds(cdn: u64, lan: u64) -> LatencyBounds {
        let lan = Hop { rate: Some(lan * MBIT), delay: Duration::from_millis(8) };
        let wan = Hop { rate: Some(cdn * MBIT), delay: Duration::from_millis(30) };
        LatencyBounds::new(FRAMING, &[lan, wan], &[wan, lan], &[lan, lan])
    }

    /// Both topologies' bounds in milliseconds, for the mean unit and the IDR, in the order of [`LatencyBounds::named`].
    #[test]
    fn bounds_match_the_analysis() {
        let expected = [
            (bounds(4, 4), [(93.4, 147.3), (99.2, 206.9), (27.6, 81.5), (36.3, 144.0)]),
            (bounds(100, 10), [(80.9, 102.4), (83.2, 126.2), (20.6, 42.2), (24.1, 67.2)]),
        ];
        for (bounds, expected) in expected {
            for ((name, path), (mean, idr)) in bounds.named().into_iter().zip(expected) {
                for (bytes, wanted) in [(MEAN_UNIT, mean), (IDR_UNIT, idr)] {
                    let got = path.idle_latency(bytes).as_secs_f64() * 1e3;
                    assert!((got - wanted).abs() <= 0.051, "{name}, {bytes} bytes: {got:.2} ms for {wanted}");
                }
            }
        }
    }

    /// The rest of the analysis: idle round trips of 76 ms and 32 ms, and three viewers and the CDN on 4 Mbit/s.
    #[test]
    fn round_trips_and_uplink_load_match_the_analysis() {
        let bounds = bounds(4, 4);
        let millis = |path: &PathModel| path.idle_latency(1).as_millis();
        assert_eq!((millis(&bounds.cdn_packets), 2 * millis(&bounds.peer)), (76, 32));
        let per_copy = FRAMING.wire_bytes(MEAN_UNIT) as f64 * 8.0 * 30.0;
        assert!((4.0 * per_copy / 1e6 - 4.17).abs() < 0.005, "{}", 4.0 * per_copy);
    }

    #[test]
    fn a_unit_queues_behind_earlier_units() {
        let hop = Hop { rate: Some(8_000), delay: Duration::from_millis(5) };
        let mut path = PathModel::new(Framing { payload: 100, headers: 0 }, &[vec![hop]]);
        let ms = Duration::from_millis;
        assert_eq!(path.send(ms(0), 100), ms(105));
        assert_eq!(path.send(ms(30), 100), ms(175));
        assert_eq!(path.send(ms(500), 100), ms(105));
        assert_eq!(path.idle_latency(50), ms(55));
    }

    #[test]
    fn no_rate_is_no_serialisation_and_no_bytes_are_no_packets() {
        let hop = Hop { rate: None, delay: Duration::from_millis(5) };
        let path = PathModel::new(FRAMING, &[vec![hop], vec![hop]]);
        assert_eq!(path.idle_latency(1 << 20), Duration::from_millis(10));
        assert_eq!(FRAMING.wire_bytes(0), 0);
        assert_eq!(FRAMING.wire_bytes(2800), 2 * 1458);
    }
}
