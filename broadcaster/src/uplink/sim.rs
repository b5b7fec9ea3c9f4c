//! Simulation of an uplink in virtual time: an encoder, its push over TCP, viewers over QUIC and a download of somebody else meet in one
//! queue before one link, whose rate, delay and losses change; the way back has a delay of its own.

mod scenario;
mod scenarios;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use net::relay::Grant;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::controller::Controller;
use super::pacer::Wanted;
use super::push_flow::PushFeedback;
use super::return_path::ServerStamps;
use super::units::Rate;
use scenario::{Outcome, Scenario, Unit, units};

/// Milliseconds since the start.
type Millis = u64;

/// What a packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Push,
    Ping,
    /// A request for the server's clock.
    Exchange,
    Download,
    Viewer {
        number: usize,
        /// Whether it is the last packet of an IDR, of a frame.
        ends_idr: bool,
        ends_frame: bool,
    },
}

#[derive(Clone, Copy, Debug)]
struct Packet {
    kind: Kind,
    bytes: usize,
    /// When it was made: for the push, when its unit was.
    at: Millis,
}

/// A window-based sender: TCP.
struct Tcp {
    window: f64,
    in_flight: usize,
    cut: Millis,
    /// Of slow start.
    threshold: f64,
}

impl Tcp {
    fn on_loss(&mut self, now: Millis, rtt: Millis) {
        if now.saturating_sub(self.cut) > rtt {
            (self.window, self.cut) = ((self.window * 0.7).max(3000.0), now);
            self.threshold = self.window;
        }
    }

    fn on_ack(&mut self, bytes: usize) {
        self.in_flight -= bytes;
        let slow_start = self.window < self.threshold;
        let growth = if slow_start { bytes as f64 } else { 1448.0 * bytes as f64 / self.window };
        self.window = (self.window + growth).min(400_000.0);
    }
}

/// One viewer's tracks: the newest IDR first, then what follows while that is not late.
#[derive(Default)]
struct Lane {
    audio: VecDeque<Unit>,
    video: VecDeque<Unit>,
    skips: bool,
    ready: Millis,
    /// Bytes lost, to be retransmitted.
    again: usize,
    queueing: f64,
    has_joined: bool,
    has_left: bool,
}

impl Lane {
    /// Leaves out what is too late.
    fn skip(&mut self, now: Millis) {
        while self.audio.pop_front_if(|unit| now - unit.at > 1000).is_some() {}
        let newest_idr = self.video.iter().rposition(|unit| unit.is_idr).unwrap_or(0);
        let is_late = self.video.front().is_some_and(|unit| !unit.is_idr && now - unit.at > 1000);
        if is_late || (self.skips && newest_idr > 0) {
            self.skips = newest_idr == 0;
            self.video.drain(..if newest_idr > 0 { newest_idr } else { self.video.len() });
        }
        if self.skips {
            self.skips = self.video.front().is_none_or(|unit| !unit.is_idr);
            if self.skips {
                self.video.clear();
            }
        }
    }
}

struct Sim<'a> {
    scenario: &'a Scenario,
    start: Instant,
    random: StdRng,
    controller: Controller,
    queue: VecDeque<Packet>,
    queued: usize,
    /// What the link may still send in this millisecond.
    budget: f64,
    /// The push: units that are not written, packets in the socket, its TCP.
    backlog: VecDeque<Unit>,
    socket: VecDeque<Packet>,
    push: Tcp,
    download: Tcp,
    acks: Vec<(Millis, Packet, Millis)>,
    acknowledged: u64,
    pings: VecDeque<Millis>,
    rtt: Option<Millis>,
    stamps: Option<ServerStamps>,
    exchanged: Millis,
    lanes: Vec<Lane>,
    history: Vec<Unit>,
    outcome: Outcome,
}

fn run(scenario: &Scenario) -> Outcome {
    let start = Instant::now();
    let mut controller = Controller::new(start);
    if let Some(ceiling) = scenario.ceiling {
        controller.control_encoder(Rate::bits_per_second(ceiling), start);
    }
    let viewers = scenario.viewers;
    let tcp = || Tcp { window: 20_000.0, in_flight: 0, cut: 0, threshold: f64::INFINITY };
    let outcome = Outcome {
        got: vec![0; viewers],
        idrs: vec![0; viewers],
        shown: vec![Vec::new(); viewers],
        ..Outcome::default()
    };
    let mut sim = Sim {
        scenario,
        start,
        random: StdRng::seed_from_u64(scenario.seed),
        controller,
        queue: VecDeque::new(),
        queued: 0,
        budget: 0.0,
        backlog: VecDeque::new(),
        socket: VecDeque::new(),
        push: tcp(),
        download: tcp(),
        acks: Vec::new(),
        acknowledged: 0,
        pings: VecDeque::new(),
        rtt: None,
        stamps: None,
        exchanged: 0,
        lanes: (0..viewers).map(|_| Lane::default()).collect(),
        history: Vec::new(),
        outcome,
    };
    for now in 0..scenario.until {
        sim.step(now);
    }
    sim.outcome.pings.sort_unstable();
    sim.outcome.is_free = sim.controller.link().capacity().is_none();
    sim.outcome
}

impl Sim<'_> {
    fn at(&self, now: Millis) -> Instant {
        self.start + Duration::from_millis(now)
    }

    fn step(&mut self, now: Millis) {
        self.make(now);
        self.write(now);
        self.send_push(now);
        self.send_download(now);
        for number in 0..self.lanes.len() {
            self.send_to_viewer(number, now);
        }
        self.carry(now);
        self.receive(now);
        if now.is_multiple_of(13) {
            self.feed(now);
        }
        if now.is_multiple_of(100) {
            let target = self.controller.target(self.at(now));
            self.outcome.targets.push(target.map_or(0.0, Rate::as_bits_per_second));
            let pushed = self.queue.iter().find(|packet| packet.kind == Kind::Push).map(|packet| packet.at);
            let oldest = pushed.or(self.socket.front().map(|packet| packet.at));
            let oldest = oldest.or(self.backlog.front().map(|unit| unit.at));
            self.outcome.waits.push(oldest.map_or(0, |at| now - at));
            self.outcome.delivered.push(0);
        }
    }

    fn is_settled(&self, now: Millis) -> bool {
        now >= self.scenario.settled
    }

    /// The encoder's units, for the push and for viewers.
    fn make(&mut self, now: Millis) {
        let (video, audio, idr) = match self.scenario.ceiling {
            Some(_) => {
                let target = self.controller.target(self.start + Duration::from_millis(now)).unwrap();
                (target.as_bits_per_second() / 500_000.0, 1.0, 5.0)
            }
            None => (self.scenario.scale, self.scenario.scale, 7.2),
        };
        for unit in units(now, video, audio, idr) {
            if self.is_settled(now) {
                self.outcome.made += unit.bytes;
                self.outcome.made_idrs += usize::from(unit.is_idr);
            }
            self.backlog.push_back(unit);
            for (number, lane) in self.lanes.iter_mut().enumerate() {
                if !((self.scenario.joins)(number)..(self.scenario.leaves)(number)).contains(&now) {
                    continue;
                }
                if !std::mem::replace(&mut lane.has_joined, true) {
                    self.controller.join(number as u64);
                    self.controller.set_active(number as u64, true, self.start + Duration::from_millis(now));
                    // It starts at the last IDR.
                    let idr = self.history.iter().rposition(|unit| unit.is_idr).unwrap_or(self.history.len());
                    lane.video.extend(self.history[idr..].iter().filter(|unit| !unit.is_audio));
                }
                if unit.is_audio { &mut lane.audio } else { &mut lane.video }.push_back(unit);
            }
            self.history.push(unit);
        }
        if !self.scenario.is_ranked {
            let even = (0..self.lanes.len()).map(|number| (number as u64, None));
            self.controller.pacer().set_priorities(even);
        }
    }

    /// Units are written to the socket as long as it takes them.
    fn write(&mut self, now: Millis) {
        while let Some(unit) = self.backlog.front().copied() {
            if self.socket.iter().map(|packet| packet.bytes).sum::<usize>() > SOCKET {
                break;
            }
            self.backlog.pop_front();
            self.controller.on_pushed(unit.bytes, !unit.is_audio);
            let mut rest = unit.bytes;
            while rest > 0 {
                let bytes = rest.min(1448);
                rest -= bytes;
                self.socket.push_back(Packet { kind: Kind::Push, bytes: bytes + 66, at: unit.at });
            }
        }
        if now.is_multiple_of(100) && self.pings.len() < 32 {
            self.pings.push_back(now);
            self.socket.push_back(Packet { kind: Kind::Ping, bytes: 84, at: now });
        }
        let interval = if self.controller.has_queue(self.at(now)) { 250 } else { 1000 };
        if self.scenario.has_stamps && now >= self.exchanged + interval {
            self.exchanged = now;
            self.socket.push_back(Packet { kind: Kind::Exchange, bytes: 200, at: now });
        }
    }

    /// Puts a packet into the queue of the link; false if it does not fit, or is lost.
    fn enqueue(&mut self, packet: Packet) -> bool {
        let fits = self.queued + packet.bytes <= self.scenario.queue;
        let is_lost = packet.kind != Kind::Download && self.random.random::<f64>() < self.scenario.loss;
        if fits && !is_lost {
            self.queued += packet.bytes;
            self.queue.push_back(packet);
        }
        fits && !is_lost
    }

    fn rtt(&self, now: Millis) -> Millis {
        (self.scenario.base)(now) + (self.scenario.return_queue)(now)
    }

    /// The RTT with the queue.
    fn full_rtt(&self, now: Millis) -> Millis {
        self.rtt(now) + (self.queued as f64 * 8000.0 / (self.scenario.link)(now).max(1.0)).min(1000.0) as Millis
    }

    fn send_push(&mut self, now: Millis) {
        let rtt = self.full_rtt(now);
        while let Some(packet) = self.socket.front().copied() {
            if (self.push.in_flight + packet.bytes) as f64 > self.push.window {
                break;
            }
            if !self.enqueue(packet) {
                self.push.on_loss(now, rtt);
                break;
            }
            self.push.in_flight += packet.bytes;
            self.socket.pop_front();
        }
    }

    fn send_download(&mut self, now: Millis) {
        let rtt = self.full_rtt(now);
        while (self.scenario.download)(now) && (self.download.in_flight + 1514) as f64 <= self.download.window {
            if !self.enqueue(Packet { kind: Kind::Download, bytes: 1514, at: now }) {
                self.download.on_loss(now, rtt);
                break;
            }
            self.download.in_flight += 1514;
        }
    }

    fn send_to_viewer(&mut self, number: usize, now: Millis) {
        let at = self.at(now);
        if now >= (self.scenario.leaves)(number) {
            let lane = &mut self.lanes[number];
            if !std::mem::replace(&mut lane.has_left, true) {
                self.controller.leave(number as u64, at);
                *lane = Lane { has_left: true, has_joined: true, ..Lane::default() };
            }
            return;
        }
        while self.lanes[number].ready <= now {
            let lane = &mut self.lanes[number];
            lane.skip(now);
            let is_audio = !lane.audio.is_empty();
            let units = if is_audio { &mut lane.audio } else { &mut lane.video };
            let bytes = if lane.again > 0 { lane.again } else { units.front().map_or(0, |unit| unit.bytes) };
            if bytes == 0 {
                break;
            }
            let queue_delay = Duration::from_secs_f64(lane.queueing / 1000.0);
            let wanted = Wanted { id: number as u64, bytes, whole: is_audio && lane.again == 0 };
            match self.controller.acquire(wanted, queue_delay, at) {
                Grant::RetryAfter(wait) => lane.ready = now + (wait.as_millis() as u64).max(1),
                Grant::Bytes(bytes) => self.send_piece(number, is_audio, bytes, now),
            }
        }
    }

    fn send_piece(&mut self, number: usize, is_audio: bool, bytes: usize, now: Millis) {
        let lane = &mut self.lanes[number];
        let units = if is_audio { &mut lane.audio } else { &mut lane.video };
        let (mut ends_idr, mut ends_frame) = (false, false);
        if lane.again > 0 {
            lane.again -= bytes;
        } else if let Some(unit) = units.front_mut() {
            unit.bytes -= bytes;
            if unit.bytes == 0 {
                (ends_idr, ends_frame) = (unit.is_idr, !unit.is_audio);
                units.pop_front();
            }
        }
        let mut rest = bytes;
        while rest > 0 {
            let piece = rest.min(1200);
            rest -= piece;
            let (ends_idr, ends_frame) = (ends_idr && rest == 0, ends_frame && rest == 0);
            let packet = Packet { kind: Kind::Viewer { number, ends_idr, ends_frame }, bytes: piece + 58, at: now };
            if !self.scenario.is_shared {
                self.deliver(packet, now);
            } else if !self.enqueue(packet) {
                let lane = &mut self.lanes[number];
                lane.again += piece;
                self.outcome.idrs[number] += usize::from(ends_idr && now >= self.scenario.settled);
                // As with a congestion window.
                lane.ready = now + 50;
            }
        }
    }

    /// The link sends what it can in a millisecond.
    fn carry(&mut self, now: Millis) {
        let rate = (self.scenario.link)(now) / 8000.0;
        self.budget = (self.budget + rate).min(rate + 2000.0);
        if self.is_settled(now) {
            self.outcome.left += rate;
        }
        while let Some(packet) = self.queue.front().copied().filter(|packet| packet.bytes as f64 <= self.budget) {
            self.budget -= packet.bytes as f64;
            self.queued -= packet.bytes;
            self.queue.pop_front();
            match packet.kind {
                Kind::Viewer { .. } => self.deliver(packet, now),
                _ => self.acks.push((now + self.rtt(now), packet, now)),
            }
        }
        if self.queue.is_empty() {
            self.budget = self.budget.min(rate);
        }
    }

    /// A packet has reached its viewer.
    fn deliver(&mut self, packet: Packet, now: Millis) {
        let Kind::Viewer { number, ends_idr, ends_frame } = packet.kind else { return };
        let lane = &mut self.lanes[number];
        lane.queueing += ((now - packet.at) as f64 - lane.queueing) / 16.0;
        if now >= self.scenario.settled {
            self.outcome.got[number] += packet.bytes - 58;
            self.outcome.idrs[number] += usize::from(ends_idr);
        }
        if ends_frame {
            self.outcome.shown[number].push(now);
        }
    }

    /// Acknowledgements and answers come back.
    fn receive(&mut self, now: Millis) {
        if self.acks.iter().all(|(due, ..)| *due > now) {
            return;
        }
        let (due, rest) = self.acks.iter().copied().partition(|(due, ..)| *due <= now);
        self.acks = rest;
        for (_, packet, left) in due {
            if packet.kind == Kind::Download {
                self.download.on_ack(packet.bytes);
                continue;
            }
            self.push.on_ack(packet.bytes);
            match packet.kind {
                Kind::Ping => {
                    let rtt = now - packet.at;
                    self.pings.retain(|sent| *sent > packet.at);
                    self.rtt = Some(rtt);
                    if self.is_settled(now) {
                        self.outcome.pings.push(rtt - self.rtt(now).min(rtt));
                    }
                }
                Kind::Exchange => {
                    let half = (self.scenario.base)(left) as i64 / 2;
                    let forward = (left - packet.at) as i64 + half;
                    let backward = (now - left) as i64 - half;
                    self.stamps = Some(ServerStamps { forward: forward * 1000, backward: backward * 1000 });
                }
                _ => {
                    self.acknowledged += packet.bytes as u64 - 66;
                    *self.outcome.delivered.last_mut().unwrap_or(&mut 0) += packet.bytes;
                    if self.is_settled(now) {
                        self.outcome.left -= packet.bytes as f64;
                    }
                }
            }
        }
    }

    fn feed(&mut self, now: Millis) {
        let feedback = PushFeedback {
            rtt: self.rtt.take().map(Duration::from_millis),
            outstanding: Duration::from_millis(self.pings.front().map_or(0, |sent| now - sent)),
            backlog: Duration::from_millis(self.backlog.front().map_or(0, |unit| now - unit.at)),
            delivered: Some(self.acknowledged),
            unsent: Some(self.socket.iter().map(|packet| packet.bytes as u32).sum()),
            stamps: self.stamps.take(),
        };
        self.controller.on_push_feedback(Some(&feedback), self.at(now));
    }
}

/// Bytes that the socket takes before they are sent: `TCP_NOTSENT_LOWAT`.
const SOCKET: usize = 64 << 10;
