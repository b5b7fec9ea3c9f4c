//! A broadcast that reaches a viewer over two paths, with a push that breaks, resends and skips, and a server that restarts: every unit that
//! either path delivers is emitted once, in order, and without a gap, because each path states predecessors.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use media::catalog::Track;
use media::codec::{Codec, CodecConfig, Format};
use media::live_window::{Bounds, Entry};
use media::path_merge::{MergedUnit, PathId, PathMerger, Predecessor};
use media::{AccessUnit, Catalog, Cursor, Epoch, LiveWindow, Timestamp, TrackId, TrackOrder};
use proptest::prelude::*;

const EPOCH: Epoch = Epoch(7);
const LAN: PathId = PathId(1);
const CDN: PathId = PathId(2);

/// Unit `n` of the broadcast: a video frame every 40 ms, every tenth an IDR, with an audio frame between two video frames.
fn unit(n: i64) -> AccessUnit {
    let (track, at) = if n % 2 == 0 { (TrackId::VIDEO, n * 20) } else { (TrackId::AUDIO, n * 20) };
    let dts = Timestamp::from_millis(at);
    let random_access = n % 2 == 1 || n % 20 == 0;
    AccessUnit { epoch: EPOCH, track, dts, pts: dts, random_access, payload: Bytes::from_static(b"x") }
}

/// A window of at most `units` units.
fn window(units: u64) -> LiveWindow {
    LiveWindow::new(Bounds { duration: Duration::from_millis(units * 20), bytes: 1 << 20 })
}

/// One end of a connection that states a predecessor only if the order of units does not show it, like Nearcast's RTMP.
#[derive(Default)]
struct Sender(TrackOrder);

#[derive(Default)]
struct Receiver(TrackOrder);

impl Sender {
    /// The statement before `entry`, if one is necessary.
    fn gap(&mut self, entry: &Entry) -> Option<Option<Timestamp>> {
        (self.0.follow(&entry.unit) != entry.predecessor_dts).then_some(entry.predecessor_dts)
    }
}

impl Receiver {
    fn receive(&mut self, unit: &AccessUnit, gap: Option<Option<Timestamp>>) -> Option<Timestamp> {
        if let Some(predecessor) = gap {
            self.0.state(unit.epoch, unit.track, predecessor);
        }
        self.0.follow(unit)
    }
}

/// One reader of a window: a viewer's path to it, or the push to the server.
struct Link {
    cursor: Cursor,
    sender: Sender,
    receiver: Receiver,
}

impl Link {
    fn from(position: Option<u64>) -> Self {
        let cursor = position.map_or(Cursor::at_live_edge(), Cursor::at);
        Self { cursor, sender: Sender::default(), receiver: Receiver::default() }
    }

    /// Carries at most `count` units.
    fn carry(&mut self, window: &LiveWindow, count: usize) -> Vec<(AccessUnit, Option<Timestamp>)> {
        let entries = self.cursor.read(window, count).entries;
        let carried = entries.into_iter().map(|entry| {
            let gap = self.sender.gap(&entry);
            let predecessor = self.receiver.receive(&entry.unit, gap);
            (entry.unit, predecessor)
        });
        carried.collect()
    }
}

struct Server {
    window: LiveWindow,
    had: BTreeMap<TrackId, Timestamp>,
}

impl Server {
    fn new() -> Self {
        Self { window: window(1000), had: BTreeMap::new() }
    }
}

/// How a viewer's path to the server carries predecessors.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Egress {
    States,
    IsSilent,
}

struct World {
    catalog: Arc<Catalog>,
    made: i64,
    order: TrackOrder,
    source: LiveWindow,
    push: Option<Link>,
    server: Server,
    lan: Link,
    /// Units in flight from the broadcaster to the viewer.
    lan_in_flight: VecDeque<(AccessUnit, Option<Timestamp>)>,
    cdn: Option<Link>,
    egress: Egress,
    merger: PathMerger,
    out: Vec<MergedUnit>,
    /// The units that each path has delivered since it was opened: units queued on a path that breaks are delivered again.
    brought: BTreeMap<PathId, BTreeSet<(TrackId, i64)>>,
}

#[derive(Clone, Debug)]
enum Op {
    /// The broadcaster produces this many units.
    Make(i64),
    /// The push carries this many units; if it was broken, it connects first.
    Push(usize),
    /// The push breaks.
    Break,
    /// The server restarts: the push breaks, and so does the viewer's path to it.
    Restart,
    /// This many of the units sent by the broadcaster arrive at the viewer.
    Lan(usize),
    /// The server delivers this many units to the viewer; if that path was broken, it connects first.
    Cdn(usize),
    /// The viewer's path to the server breaks, and resumes after the viewer's last units.
    BreakCdn,
}

impl World {
    fn new(egress: Egress) -> Self {
        let mut catalog = Catalog::new(EPOCH);
        let format = Format::Video { width: 1, height: 1 };
        let config = CodecConfig { codec: Codec::H264, record: Bytes::new(), format };
        catalog.set_track(Track { id: TrackId::VIDEO, config });
        let format = Format::Audio { sample_rate: 48_000, channels: 2 };
        let config = CodecConfig { codec: Codec::Aac, record: Bytes::new(), format };
        catalog.set_track(Track { id: TrackId::AUDIO, config });
        let mut merger = PathMerger::new();
        [LAN, CDN].into_iter().for_each(|path| merger.open(path));
        Self {
            catalog: Arc::new(catalog),
            made: 0,
            order: TrackOrder::default(),
            // Three GOPs: a push that is interrupted for longer skips units.
            source: window(60),
            push: None,
            server: Server::new(),
            lan: Link::from(Some(0)),
            lan_in_flight: VecDeque::new(),
            cdn: None,
            egress,
            merger,
            out: Vec::new(),
            brought: BTreeMap::new(),
        }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Make(count) => {
                for n in self.made..self.made + count {
                    let unit = unit(n);
                    let predecessor = self.order.follow(&unit);
                    self.source.push(self.catalog.clone(), unit, predecessor);
                    self.lan_in_flight.extend(self.lan.carry(&self.source, usize::MAX));
                }
                self.made += count;
            }
            Op::Push(count) => {
                let push = self.push.get_or_insert_with(|| {
                    let have: Vec<_> = self.server.had.iter().map(|(track, dts)| (*track, *dts)).collect();
                    let lacked = self.source.first_missing(EPOCH, &have).map(|entry| entry.position);
                    Link::from(Some(lacked.unwrap_or(self.source.next_position())))
                });
                for (unit, predecessor) in push.carry(&self.source, count) {
                    let newest = self.server.had.entry(unit.track).or_insert(Timestamp::from_millis(i64::MIN));
                    if unit.dts > *newest {
                        *newest = unit.dts;
                        self.server.window.push(self.catalog.clone(), unit, predecessor);
                    }
                }
            }
            Op::Break => self.push = None,
            Op::Restart => {
                (self.push, self.cdn) = (None, None);
                self.server = Server::new();
            }
            Op::Lan(count) => {
                let count = count.min(self.lan_in_flight.len());
                let carried = self.lan_in_flight.drain(..count).collect();
                self.bring(LAN, carried, Egress::States);
            }
            Op::Cdn(count) => {
                if self.cdn.is_none() {
                    self.merger.open(CDN);
                    self.brought.remove(&CDN);
                }
                let position = self.merger.position();
                let window = &self.server.window;
                let cdn = self.cdn.get_or_insert_with(|| {
                    let last = position.iter().find(|(track, _)| *track == TrackId::VIDEO).map(|(_, dts)| *dts);
                    let held = window.from(0).filter(|entry| last.is_some_and(|last| entry.unit.dts <= last)).last();
                    Link::from(held.and_then(|entry| window.gop_start(entry.position)).or(window.join_position()))
                });
                let carried = cdn.carry(&self.server.window, count);
                self.bring(CDN, carried, self.egress);
            }
            Op::BreakCdn => self.cdn = None,
        }
    }

    fn bring(&mut self, path: PathId, carried: Vec<(AccessUnit, Option<Timestamp>)>, egress: Egress) {
        for (unit, predecessor) in carried {
            self.brought.entry(path).or_default().insert((unit.track, unit.dts.as_millis()));
            let predecessor = if egress == Egress::States { predecessor.into() } else { Predecessor::PathOrder };
            self.merger.push(path, &self.catalog, unit, predecessor, &mut self.out);
        }
    }
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        8 => (1i64..30).prop_map(Op::Make),
        6 => (1usize..60).prop_map(Op::Push),
        6 => (1usize..60).prop_map(Op::Cdn),
        4 => (1usize..40).prop_map(Op::Lan),
        1 => Just(Op::Break),
        1 => Just(Op::Restart),
        1 => Just(Op::BreakCdn),
    ];
    prop::collection::vec(op, 1..120)
}

/// DTS of the emitted units, by track.
fn out_by_track(world: &World) -> BTreeMap<TrackId, Vec<i64>> {
    let mut out: BTreeMap<TrackId, Vec<i64>> = BTreeMap::new();
    for merged in &world.out {
        out.entry(merged.unit.track).or_default().push(merged.unit.dts.as_millis());
    }
    out
}

fn check(ops: &[Op], egress: Egress) -> Result<(), TestCaseError> {
    let mut world = World::new(egress);
    // The viewer has started on both paths.
    [Op::Make(10), Op::Push(10), Op::Lan(10), Op::Cdn(10)].iter().chain(ops).for_each(|op| world.step(op));
    for (track, out) in out_by_track(&world) {
        let expected: Vec<i64> = (0..out.len() as i64).map(|n| out[0] + n * 40).collect();
        prop_assert_eq!(&out, &expected, "{} has a gap, a duplicate or wrong order", track);
        let next = out.last().map_or(0, |last| last + 40);
        let is_brought = world.brought.values().any(|brought| brought.contains(&(track, next)));
        let waits_for_nothing = is_brought && egress == Egress::States;
        prop_assert!(!waits_for_nothing, "{}@{} was delivered, but waits for no reason", track, next);
    }
    prop_assert_eq!(world.merger.counters().lost, 0);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_delivered_unit_is_lost_or_duplicated(ops in ops()) {
        check(&ops, Egress::States)?;
    }

    /// HLS and third-party servers: no predecessors are stated on the path to the viewer.
    #[test]
    fn no_unit_is_lost_if_one_path_states_no_predecessors(ops in ops()) {
        check(&ops, Egress::IsSilent)?;
    }
}

/// A regression test: an outage longer than the resend window, with the server ahead of the broadcaster's own path.
#[test]
fn a_server_that_is_ahead_after_a_skip_waits_for_the_broadcaster() {
    for egress in [Egress::States, Egress::IsSilent] {
        let mut world = World::new(egress);
        for op in [
            Op::Make(58),
            Op::Push(58),
            Op::Lan(58),
            Op::Cdn(58),
            Op::Break,
            Op::Make(72),
            Op::Push(1000),
            Op::Cdn(1000),
            Op::Lan(1000),
        ] {
            world.step(&op);
        }
        let counters = world.merger.counters();
        assert_eq!((counters.units, counters.lost), (130, 0), "{egress:?}");
    }
}
