//! A broadcast that reaches a viewer over two paths. The push breaks, loses what is in flight, resends and skips; the server restarts; another
//! publisher takes the stream over, and returns it; each path skips units of its own. Every unit that a path delivers comes out once, in order,
//! and without a gap, because each path states predecessors. Only units that neither path delivers are lost, and none waits for ever.
//!
//! The rules under test are those of the programs: [`HighWaterMarks`] (duplicates), [`LiveWindow::first_missing`] and
//! [`LiveWindow::resume_position`] (where a publisher and a viewer continue), [`TrackOrder`] (gaps) and [`PathMerger`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use media::catalog::Track;
use media::codec::{Codec, CodecConfig, Format};
use media::live_window::{Bounds, Entry};
use media::path_merge::{MergedUnit, PathId, PathMerger, Predecessor};
use media::{
    AccessUnit, Catalog, Cursor, Epoch, HighWaterMarks, LiveWindow, Timestamp, TrackId, TrackOrder, WallClock,
};
use proptest::prelude::*;

const LAN: PathId = PathId(1);
const CDN: PathId = PathId(2);
const TRACKS: [TrackId; 2] = [TrackId::VIDEO, TrackId::AUDIO];

/// A unit of a broadcast: its epoch and its number there.
type UnitId = (Epoch, i64);

/// Unit `n` of a broadcast: a video frame every 40 ms, every tenth an IDR, with an audio frame between two video frames.
fn unit(epoch: Epoch, n: i64) -> AccessUnit {
    let (track, dts) = (track_of(n), Timestamp::from_millis(n * 20));
    AccessUnit { epoch, track, dts, pts: dts, random_access: is_random_access(n), payload: Bytes::from_static(b"x") }
}

fn track_of(n: i64) -> TrackId {
    if n % 2 == 0 { TrackId::VIDEO } else { TrackId::AUDIO }
}

fn is_random_access(n: i64) -> bool {
    n % 2 == 1 || n % 20 == 0
}

fn id(unit: &AccessUnit) -> UnitId {
    (unit.epoch, unit.dts.as_millis() / 20)
}

/// A window of at most `units` units.
fn window(units: u64) -> LiveWindow {
    LiveWindow::new(Bounds { duration: Duration::from_millis(units * 20), bytes: 1 << 20 })
}

/// A broadcaster and what it holds for resending.
struct Publisher {
    catalog: Arc<Catalog>,
    made: i64,
    order: TrackOrder,
    window: LiveWindow,
}

impl Publisher {
    fn new(epoch: Epoch) -> Self {
        let clock = WallClock::from_micros(epoch.0 as i64);
        let mut catalog = Catalog { clock: Some(clock), ..Catalog::new(epoch) };
        for (id, codec, format) in [
            (TrackId::VIDEO, Codec::H264, Format::Video { width: 1, height: 1 }),
            (TrackId::AUDIO, Codec::Aac, Format::Audio { sample_rate: 48_000, channels: 2 }),
        ] {
            catalog.set_track(Track { id, config: CodecConfig { codec, record: Bytes::new(), format } });
        }
        // Three GOPs: a push that is interrupted for longer skips units.
        Self { catalog: Arc::new(catalog), made: 0, order: TrackOrder::default(), window: window(60) }
    }

    fn epoch(&self) -> Epoch {
        self.catalog.epoch
    }

    fn make(&mut self) {
        let unit = unit(self.epoch(), self.made);
        let predecessor = self.order.follow(&unit);
        self.window.push(self.catalog.clone(), unit, predecessor);
        self.made += 1;
    }
}

/// A unit as a receiver gets it.
struct Arrived {
    catalog: Arc<Catalog>,
    unit: AccessUnit,
    predecessor: Option<Timestamp>,
}

/// A connection that carries a window in order and states a predecessor only if the order does not show it, like Nearcast's RTMP.
struct Connection {
    cursor: Cursor,
    sender: TrackOrder,
    /// Units on their way, and whether their predecessor is stated.
    in_flight: VecDeque<(Entry, bool)>,
    receiver: TrackOrder,
}

impl Connection {
    fn new(cursor: Cursor) -> Self {
        let (sender, receiver) = (TrackOrder::default(), TrackOrder::default());
        Self { cursor, sender, in_flight: VecDeque::new(), receiver }
    }

    /// Sends at most `count` units, which must be of one byte.
    fn send(&mut self, window: &LiveWindow, count: usize) {
        if count == 0 {
            return;
        }
        for entry in self.cursor.read(window, count).entries {
            let is_gap = self.sender.must_state(&entry.unit, entry.predecessor_dts);
            self.in_flight.push_back((entry, is_gap));
        }
    }

    /// At most `count` of the units on their way arrive.
    fn receive(&mut self, count: usize) -> Vec<Arrived> {
        let count = count.min(self.in_flight.len());
        let mut arrived = Vec::new();
        for (Entry { catalog, unit, predecessor_dts, .. }, is_gap) in self.in_flight.drain(..count) {
            if is_gap {
                self.receiver.state(unit.epoch, unit.track, predecessor_dts);
            }
            let predecessor = self.receiver.follow(&unit);
            arrived.push(Arrived { catalog, unit, predecessor });
        }
        arrived
    }
}

struct Server {
    window: LiveWindow,
    received: HighWaterMarks,
}

impl Server {
    fn new() -> Self {
        Self { window: window(1000), received: HighWaterMarks::default() }
    }
}

/// The path from a broadcaster to the viewer. Like the relay protocol, it states the predecessor of each unit, and tracks overtake each other.
struct LanPath {
    publisher: usize,
    cursor: Cursor,
    in_flight: BTreeMap<TrackId, VecDeque<Arrived>>,
}

/// How the viewer's path to the server carries predecessors.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Egress {
    /// It states them, as RTMP between Nearcast programs and the relay protocol do.
    States,
    /// It does not, like HLS and third-party servers. Then the merge cannot tell whether a unit follows one of the other path, so this path and
    /// the LAN path each carry all units from where they start, and no broadcast returns.
    IsSilent,
}

struct World {
    publishers: [Publisher; 2],
    /// Index of the publisher that has the stream.
    on_air: usize,
    push: Option<Connection>,
    server: Server,
    lan: Option<LanPath>,
    cdn: Option<Connection>,
    egress: Egress,
    merger: PathMerger,
    out: Vec<MergedUnit>,
    /// Units that each path delivered while their broadcast was live, except those that waited when the path was closed.
    brought: BTreeMap<PathId, BTreeSet<UnitId>>,
    /// Units that no path had brought when the merge was free to continue without them.
    given_up: BTreeSet<UnitId>,
    /// By epoch and track, up to which unit that is known.
    given_up_to: BTreeMap<(Epoch, TrackId), i64>,
}

#[derive(Clone, Debug)]
enum Op {
    /// Both publishers make this many units.
    Make(i64),
    /// The publisher on air sends this many units; if its connection was broken, it connects first.
    Send(usize),
    /// This many of them arrive at the server.
    Arrive(usize),
    /// The push breaks, and what is in flight is lost; or the publisher reconnects before the server has noticed, which takes the stream over.
    Break,
    /// The other publisher takes the stream over.
    TakeOver,
    /// The server restarts: the push breaks, and so does the viewer's path to it.
    Restart,
    /// This many units of a track arrive over the LAN path. If it was closed, it is opened to the publisher on air.
    Lan(TrackId, usize),
    /// Of the units of a track in flight on the LAN path, `count` are dropped after the first `after`.
    LanDrops { track: TrackId, after: usize, count: usize },
    /// The LAN path breaks.
    BreakLan,
    /// This many units arrive from the server; if that path was broken, it connects first.
    Cdn(usize),
    /// The server skips to its newest IDR for this viewer.
    CdnSkips,
    /// The viewer's path to the server breaks.
    BreakCdn,
    /// Everything in flight arrives, and as much time passes as the viewer waits for missing units.
    Wait,
}

impl World {
    fn new(egress: Egress) -> Self {
        let mut world = Self {
            publishers: [Epoch(7), Epoch(8)].map(Publisher::new),
            on_air: 0,
            push: None,
            server: Server::new(),
            lan: None,
            cdn: None,
            egress,
            merger: PathMerger::new(),
            out: Vec::new(),
            brought: BTreeMap::new(),
            given_up: BTreeSet::new(),
            given_up_to: BTreeMap::new(),
        };
        // The viewer has started on both paths.
        world.run(&[Op::Make(10), Op::Send(10), Op::Arrive(10)]);
        world.run(&[Op::Cdn(10), Op::Lan(TrackId::VIDEO, 5), Op::Lan(TrackId::AUDIO, 5)]);
        world
    }

    fn run(&mut self, ops: &[Op]) {
        ops.iter().for_each(|op| self.step(op));
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Make(count) => {
                for _ in 0..count {
                    self.publishers.iter_mut().for_each(Publisher::make);
                    self.send_by_lan();
                }
            }
            Op::Send(count) => {
                let window = &self.publishers[self.on_air].window;
                if self.push.is_none() {
                    self.push = Some(Connection::new(self.resend_from()));
                }
                self.push.as_mut().expect("it was just connected").send(window, count);
            }
            Op::Arrive(count) => {
                let arrived = self.push.as_mut().map(|push| push.receive(count)).unwrap_or_default();
                for Arrived { catalog, unit, predecessor } in arrived {
                    if self.server.received.accept(unit.epoch, unit.track, unit.dts) {
                        self.server.window.push(catalog, unit, predecessor);
                    }
                }
            }
            Op::Break => self.push = None,
            Op::TakeOver if self.egress == Egress::States => {
                (self.on_air, self.push) = (1 - self.on_air, None);
            }
            Op::TakeOver if self.on_air == 0 => {
                (self.on_air, self.push) = (1, None);
                // The order of a silent path counts once the interval between its units is known.
                for _ in 0..2 {
                    self.run(&[Op::Send(ALL), Op::Arrive(ALL), Op::Cdn(ALL), Op::Make(4)]);
                }
                self.run(&[Op::Send(ALL), Op::Arrive(ALL), Op::Cdn(ALL), Op::BreakLan]);
            }
            Op::TakeOver => {}
            Op::Restart => {
                (self.push, self.server) = (None, Server::new());
                self.close_cdn();
            }
            Op::Lan(track, count) => {
                if self.lan.is_none() {
                    self.open_lan();
                }
                self.receive_by_lan(track, count);
            }
            Op::LanDrops { track, after, count } => {
                let in_flight = self.lan.as_mut().and_then(|lan| lan.in_flight.get_mut(&track));
                if let Some(in_flight) = in_flight {
                    let from = after.min(in_flight.len());
                    in_flight.drain(from..in_flight.len().min(from + count));
                }
            }
            Op::BreakLan => self.close_lan(),
            Op::Cdn(count) => {
                if self.cdn.is_none() {
                    self.cdn = Some(Connection::new(self.cdn_start()));
                    self.merger.open(CDN);
                }
                self.receive_by_cdn(count);
            }
            Op::CdnSkips => {
                if let Some(cdn) = &mut self.cdn {
                    cdn.cursor.jump_to_live_edge(&self.server.window);
                }
            }
            Op::BreakCdn => self.close_cdn(),
            Op::Wait => {
                self.step(&Op::Arrive(ALL));
                self.receive_by_cdn(ALL);
                TRACKS.into_iter().for_each(|track| self.receive_by_lan(track, ALL));
                if self.merger.waiting().is_some() {
                    self.merger.skip_gap(&mut self.out);
                }
                self.give_up(self.merger.epoch());
            }
        }
    }

    /// Where the publisher on air sends from on a new connection: after what the server has of its broadcast; else its whole window.
    fn resend_from(&self) -> Cursor {
        let Publisher { window, catalog, .. } = &self.publishers[self.on_air];
        let position = match self.server.received.last() {
            Some((epoch, have)) if epoch == catalog.epoch => {
                let missing = window.first_missing(epoch, have);
                Some(missing.map_or(window.next_position(), |entry| entry.position))
            }
            _ => window.from(0).find(|entry| entry.starts_gop).map(|entry| entry.position),
        };
        position.map_or(Cursor::at_live_edge(), Cursor::at)
    }

    fn open_lan(&mut self) {
        let cursor = self.resume(&self.publishers[self.on_air].window);
        self.lan = Some(LanPath { publisher: self.on_air, cursor, in_flight: BTreeMap::new() });
        self.merger.open(LAN);
        self.send_by_lan();
    }

    /// Where a path that states predecessors continues.
    fn resume(&self, window: &LiveWindow) -> Cursor {
        let have = self.merger.position();
        let epoch = self.merger.epoch().filter(|_| !have.is_empty());
        let position = epoch.and_then(|epoch| window.resume_position(epoch, &have));
        position.map_or(Cursor::at_live_edge(), Cursor::at)
    }

    fn cdn_start(&self) -> Cursor {
        let window = &self.server.window;
        if self.egress == Egress::States {
            return self.resume(window);
        }
        // The GOP of the viewer's last frame, which shows that nothing is missing.
        let last = self.merger.position().into_iter().find(|(track, _)| *track == TrackId::VIDEO).map(|(_, dts)| dts);
        let is_had = |unit: &AccessUnit| Some(unit.epoch) == self.merger.epoch() && last >= Some(unit.dts);
        let last_had = window.from(0).filter(|entry| is_had(&entry.unit)).last();
        let position = last_had.and_then(|entry| window.gop_start(entry.position)).or(window.join_position());
        position.map_or(Cursor::at_live_edge(), Cursor::at)
    }

    fn send_by_lan(&mut self) {
        let Some(lan) = &mut self.lan else { return };
        for entry in lan.cursor.read(&self.publishers[lan.publisher].window, ALL).entries {
            let Entry { catalog, unit, predecessor_dts: predecessor, .. } = entry;
            lan.in_flight.entry(unit.track).or_default().push_back(Arrived { catalog, unit, predecessor });
        }
    }

    fn receive_by_lan(&mut self, track: TrackId, count: usize) {
        let in_flight = self.lan.as_mut().and_then(|lan| lan.in_flight.get_mut(&track));
        let arrived = in_flight.map(|units| units.drain(..count.min(units.len())).collect()).unwrap_or_default();
        self.bring(LAN, arrived, Egress::States);
    }

    fn receive_by_cdn(&mut self, count: usize) {
        let Some(cdn) = &mut self.cdn else { return };
        cdn.send(&self.server.window, count);
        let arrived = cdn.receive(count);
        self.bring(CDN, arrived, self.egress);
    }

    fn bring(&mut self, path: PathId, arrived: Vec<Arrived>, egress: Egress) {
        for Arrived { catalog, unit, predecessor } in arrived {
            let (id, before) = (id(&unit), self.merger.epoch());
            let predecessor = if egress == Egress::States { predecessor.into() } else { Predecessor::PathOrder };
            self.merger.push(path, &catalog, unit, predecessor, &mut self.out);
            if self.merger.epoch() != before {
                self.give_up(before);
            }
            // Before the first IDR, pictures are dropped, while sound is played.
            let has_begun = self.merger.position().iter().any(|(track, _)| *track == track_of(id.1));
            if self.merger.epoch() == Some(id.0) && has_begun {
                self.brought.entry(path).or_default().insert(id);
            }
        }
        if self.lan.is_none() || self.cdn.is_none() {
            self.give_up(self.merger.epoch());
        }
    }

    fn close_lan(&mut self) {
        if self.lan.take().is_some() {
            self.close(LAN);
        }
    }

    fn close_cdn(&mut self) {
        if self.cdn.take().is_some() {
            self.close(CDN);
        }
    }

    fn close(&mut self, path: PathId) {
        let (epoch, position) = (self.merger.epoch(), self.merger.position());
        let is_processed = |id: &UnitId| {
            let unit = unit(id.0, id.1);
            Some(id.0) != epoch || position.iter().any(|(track, last)| *track == unit.track && unit.dts <= *last)
        };
        self.brought.entry(path).or_default().retain(is_processed);
        self.merger.close(path, &mut self.out);
        if self.lan.is_some() || self.cdn.is_some() {
            assert_eq!(self.merger.waiting(), None, "the only path waits for no other");
        }
        self.give_up(epoch);
    }

    /// The merge was free to continue without the units of `epoch` that no path has brought.
    fn give_up(&mut self, epoch: Option<Epoch>) {
        let Some(epoch) = epoch else { return };
        for track in TRACKS {
            let newest = |brought: &BTreeSet<UnitId>| {
                let of_epoch = brought.range((epoch, 0)..=(epoch, i64::MAX)).rev();
                of_epoch.map(|(_, n)| *n).find(|n| track_of(*n) == track)
            };
            let Some(newest) = self.brought.values().filter_map(newest).max() else { continue };
            let from = self.given_up_to.insert((epoch, track), newest).unwrap_or(0);
            let missing = (from..newest).filter(|n| track_of(*n) == track && !self.is_brought((epoch, *n)));
            self.given_up.extend(missing.map(|n| (epoch, n)).collect::<Vec<_>>());
        }
    }

    fn is_brought(&self, id: UnitId) -> bool {
        self.brought.values().any(|brought| brought.contains(&id))
    }

    /// The replaced broadcaster ends, all connections are made again, and the broadcast goes on for two GOPs.
    fn finish(&mut self) {
        if self.lan.as_ref().is_some_and(|lan| lan.publisher != self.on_air) {
            self.close_lan();
        }
        self.run(&[Op::Lan(TrackId::VIDEO, 0), Op::Cdn(0), Op::Make(40), Op::Send(ALL), Op::Wait]);
    }
}

fn ops(egress: Egress) -> BoxedStrategy<Vec<Op>> {
    let track = || prop::sample::select(TRACKS.to_vec());
    let drops = (track(), 0usize..20, 1usize..20);
    let common = prop_oneof![
        8 => (1i64..30).prop_map(Op::Make),
        6 => (1usize..60).prop_map(Op::Send),
        6 => (1usize..60).prop_map(Op::Arrive),
        6 => (1usize..60).prop_map(Op::Cdn),
        6 => (track(), 1usize..30).prop_map(|(track, count)| Op::Lan(track, count)),
        1 => Just(Op::Break),
        1 => Just(Op::TakeOver),
        1 => Just(Op::Restart),
        1 => Just(Op::BreakCdn),
        1 => Just(Op::Wait),
    ];
    let skips = prop_oneof![
        3 => drops.prop_map(|(track, after, count)| Op::LanDrops { track, after, count }),
        2 => Just(Op::CdnSkips),
        1 => Just(Op::BreakLan),
    ];
    let op = match egress {
        Egress::States => prop_oneof![6 => common, 1 => skips].boxed(),
        Egress::IsSilent => common.boxed(),
    };
    prop::collection::vec(op, 1..120).boxed()
}

fn check(ops: &[Op], egress: Egress) -> Result<(), TestCaseError> {
    let mut world = World::new(egress);
    world.run(ops);
    world.finish();
    prop_assert_eq!(world.merger.waiting(), None, "units wait for ever");
    let mut newest: BTreeMap<(Epoch, TrackId), Timestamp> = BTreeMap::new();
    for Entry { unit, .. } in world.server.window.from(0) {
        let before = newest.insert((unit.epoch, unit.track), unit.dts);
        prop_assert!(before < Some(unit.dts), "the server holds {:?} after {before:?}", id(unit));
    }
    let mut out: BTreeMap<(Epoch, TrackId), Vec<i64>> = BTreeMap::new();
    for merged in &world.out {
        out.entry((merged.unit.epoch, merged.unit.track)).or_default().push(id(&merged.unit).1);
    }
    let mut holes = 0;
    for ((epoch, track), out) in &out {
        prop_assert!(out.is_sorted_by(|a, b| a < b), "{epoch:?} {track}: twice or out of order: {out:?}");
        let shown: BTreeSet<i64> = out.iter().copied().collect();
        let is_undecodable = |n: i64| !is_random_access(n) && !shown.contains(&(n - 2));
        let made = world.publishers.iter().find(|publisher| publisher.epoch() == *epoch).map_or(0, |p| p.made);
        for n in (out[0]..made).step_by(2) {
            let is_lost = !world.is_brought((*epoch, n)) || world.given_up.contains(&(*epoch, n));
            let (is_shown, is_undecodable) = (shown.contains(&n), is_undecodable(n));
            prop_assert!(is_shown || is_lost || is_undecodable, "{epoch:?} {track} {n}: brought, and did not come out");
            prop_assert!(!(is_shown && is_undecodable), "{epoch:?} {track} {n}: cannot be decoded");
            holes += u64::from(!is_shown && out.last() > Some(&n));
        }
    }
    // An IDR of a live broadcast starts it.
    for (epoch, n) in world.brought.values().flatten().filter(|(_, n)| n % 20 == 0) {
        prop_assert!(out.contains_key(&(*epoch, TrackId::VIDEO)), "{epoch:?} {n}: its broadcast was never shown");
    }
    let on_air = &world.publishers[world.on_air];
    for track in TRACKS {
        let last_made = (0..on_air.made).rev().find(|n| track_of(*n) == track);
        let last_shown = out.get(&(on_air.epoch(), track)).and_then(|out| out.last().copied());
        prop_assert_eq!(last_shown, last_made, "{}: the merge has stalled", track);
    }
    if egress == Egress::States {
        let lost = world.merger.counters().lost;
        prop_assert_eq!(lost > 0, holes > 0, "{} units are missing, {} are counted", holes, lost);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn only_units_that_no_path_delivers_are_lost(ops in ops(Egress::States)) {
        check(&ops, Egress::States)?;
    }

    /// HLS and third-party servers: no predecessors are stated on the path to the viewer.
    #[test]
    fn no_unit_is_lost_if_one_path_states_no_predecessors(ops in ops(Egress::IsSilent)) {
        check(&ops, Egress::IsSilent)?;
    }
}

/// A regression test: an outage longer than the resend window, with the server ahead of the broadcaster's own path.
#[test]
fn a_server_that_is_ahead_after_a_skip_waits_for_the_broadcaster() {
    for egress in [Egress::States, Egress::IsSilent] {
        let mut world = World::new(egress);
        world.run(&[Op::Make(48), Op::Send(48), Op::Wait, Op::Break, Op::Make(72), Op::Send(ALL), Op::Arrive(ALL)]);
        world.run(&[Op::Cdn(ALL), Op::Lan(TrackId::VIDEO, ALL), Op::Lan(TrackId::AUDIO, ALL)]);
        let counters = world.merger.counters();
        assert_eq!((counters.units, counters.lost), (130, 0), "{egress:?}");
    }
}

/// The LAN path lacks video 20 to 38 and audio 21 to 29; the server lacks 58 to 79, since its publisher's window has moved on.
#[test]
fn units_that_only_one_path_lacks_come_from_the_other() {
    let mut world = World::new(Egress::States);
    world.run(&[Op::Make(48), Op::Send(48), Op::Arrive(ALL), Op::Break, Op::Make(72)]);
    for (track, count) in [(TrackId::VIDEO, 10), (TrackId::AUDIO, 5)] {
        world.run(&[Op::LanDrops { track, after: 5, count }, Op::Lan(track, ALL)]);
    }
    world.run(&[Op::Send(ALL), Op::Arrive(ALL)]);
    let after_skip = world.server.window.from(58).next().map(|entry| id(&entry.unit).1);
    assert_eq!(after_skip, Some(80), "the server skipped");
    world.step(&Op::Cdn(ALL));
    let counters = world.merger.counters();
    assert_eq!((counters.units, counters.lost, world.merger.waiting()), (130, 0, None));
}

/// More than any test makes.
const ALL: usize = usize::MAX;

/// A regression test: sound has begun, and a picture of one path is dropped because its IDR is only on the other path, which is later.
#[test]
fn a_picture_that_was_dropped_before_the_first_idr_is_lost() {
    use Op::{BreakLan, Lan, LanDrops, Make, Send, TakeOver, Wait};
    let track = TrackId::VIDEO;
    let mut world = World::new(Egress::States);
    world.run(&[
        Make(26),
        BreakLan,
        TakeOver,
        Lan(TrackId::AUDIO, 1),
        Make(27),
        LanDrops { track, after: 0, count: 21 },
    ]);
    world.run(&[Lan(track, 1), Send(41), Wait, Make(2), Wait]);
    world.finish();
    let pictures = |n: i64| world.out.iter().any(|merged| id(&merged.unit) == (Epoch(8), n));
    assert!(pictures(60) && !pictures(62) && pictures(80));
}
