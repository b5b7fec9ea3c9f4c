//! The lower bound on latency: from the first bit of an access unit sent to its last bit received, computed from link rates and delays.
//!
//! It assumes a sender without overhead: packets of one size, sent back to back, stored and forwarded at every link, in order, without cross
//! traffic. The excess of a measured latency over the bound is the cost of the program. Pure: times are parameters.

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

/// How access units are split into packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// Maximum payload bytes per packet; at least 1.
    pub payload: usize,
    /// Header bytes of every packet, on the wire.
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

/// A path and, for each of its links, until when it is busy.
///
/// A path is one or more *legs*, each a sequence of links that forward packet by packet. Between two legs is a relay that forwards whole access
/// units.
#[derive(Clone, Debug)]
pub struct PathModel {
    framing: Framing,
    legs: Vec<Vec<LinkState>>,
    copies_first: usize,
}

#[derive(Clone, Copy, Debug)]
struct LinkState {
    hop: Hop,
    /// When the link is free again, in nanoseconds.
    free_at: u64,
}

impl PathModel {
    /// A path of these legs, idle at first.
    pub fn new(framing: Framing, legs: &[Vec<Hop>]) -> PathModel {
        let links = |leg: &Vec<Hop>| leg.iter().map(|hop| LinkState { hop: *hop, free_at: 0 }).collect();
        PathModel { framing, legs: legs.iter().map(links).collect(), copies_first: 0 }
    }

    /// The same path, where this many other copies of each unit precede it on the first link.
    pub fn after_copies(self, copies_first: usize) -> PathModel {
        PathModel { copies_first, ..self }
    }

    /// Sends a unit of `bytes` at time `sent`, queued behind earlier units, and returns its latency. Call it in the order of sending.
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

    /// The latency of a unit of `bytes` on the idle path.
    pub fn idle_latency(&self, bytes: usize) -> Duration {
        let mut idle = self.clone();
        idle.legs.iter_mut().flatten().for_each(|link| link.free_at = 0);
        idle.send(Duration::ZERO, bytes)
    }
}

impl LinkState {
    /// When a packet that reaches the link at `at` has been received at its other end, nanoseconds.
    fn forward(&mut self, at: u64, length: usize) -> u64 {
        let shape = Shape { rate: self.hop.rate, ..Shape::PERFECT };
        self.free_at = at.max(self.free_at) + shape.serialisation_ns(length);
        self.free_at + nanoseconds(self.hop.delay)
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}

/// The four paths between a broadcaster, a viewer and a CDN that have a bound.
#[derive(Clone, Debug)]
pub struct LatencyBounds {
    /// Via a CDN that forwards packets as they arrive.
    pub cdn_packets: PathModel,
    /// Via a CDN that forwards whole units.
    pub cdn_units: PathModel,
    /// Directly from the broadcaster.
    pub peer: PathModel,
    /// Directly from the broadcaster, with the CDN's copy sent first.
    pub peer_second: PathModel,
}

impl LatencyBounds {
    /// From the links broadcaster to CDN, CDN to viewer, and broadcaster to viewer.
    pub fn new(framing: Framing, up: &[Hop], down: &[Hop], direct: &[Hop]) -> LatencyBounds {
        let direct = PathModel::new(framing, &[direct.to_vec()]);
        LatencyBounds {
            cdn_packets: PathModel::new(framing, &[[up, down].concat()]),
            cdn_units: PathModel::new(framing, &[up.to_vec(), down.to_vec()]),
            peer_second: direct.clone().after_copies(1),
            peer: direct,
        }
    }

    /// All four with their display names.
    pub fn named(&self) -> [(&'static str, &PathModel); 4] {
        [
            ("CDN, forwarding packets", &self.cdn_packets),
            ("CDN, forwarding whole units", &self.cdn_units),
            ("peer", &self.peer),
            ("peer, CDN copy first", &self.peer_second),
        ]
    }
}

/// Assumption of the analysis: 1,400 bytes of UDP payload; headers of Ethernet, IP, UDP and 16 bytes of a transport protocol.
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
