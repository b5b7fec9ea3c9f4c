//! How many bits a second the encoder is to make, so that what is pushed does not wait for its uplink. Pure: time comes in.
//!
//! Told by [`publish`](crate::publish) what it pushed and how long that waits, asked by the encoder for each picture. A push that waits
//! is given what the link was seen to take, and less until what waits has gone; without a wait the rate rises slowly to the ceiling,
//! and after each rise that made it wait again, it is left alone for longer.
//!
//! Where viewers on this network take a part of the same link, it is theirs to make way ([`peer`](crate::peer)): they can have the CDN's
//! copy, which costs this link nothing more, while all who watch by the CDN would see a worse picture. So as long as the whole link has room
//! for what is pushed, the rate stays; but they are not waited for long, and where it fell for want of that, it returns at once.
//!
//! A link that takes nothing at all is broken, and not narrow: a rate that has just fallen for it returns, for those who watch by another way.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The uplink of one broadcast, as its encoder sees it. Shared by the encoder's thread and the task that publishes.
#[derive(Debug, Default)]
pub struct RateControl(Mutex<Option<EncoderRateController>>);

impl RateControl {
    /// From now on there is an encoder whose rate can follow, of at most `ceiling` bits per second.
    pub fn follow(&self, ceiling: u64, now: Instant) {
        *self.0.lock() = Some(EncoderRateController::new(ceiling, now));
    }

    /// So many bytes of payload were handed to the push's connection; `pictures` says whether the encoder made them.
    pub fn pushed(&self, bytes: usize, pictures: bool) {
        if let Some(follow) = &mut *self.0.lock() {
            follow.pushed(bytes, pictures);
        }
    }

    /// How the push waits now; `None` while nothing is pushed. To be told at least as often as units are pushed: silence counts as waiting.
    pub fn waits(&self, wait: Option<UplinkSample>, now: Instant) {
        if let Some(follow) = &mut *self.0.lock() {
            follow.waits(wait, now);
        }
    }

    /// Bits per second that the encoder is to make now; `None` if it is not to follow.
    pub fn target(&self, now: Instant) -> Option<u64> {
        self.0.lock().as_mut().map(|follow| follow.target(now))
    }
}

/// How the push waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UplinkSample {
    /// In queues on its way, after it was handed to the connection.
    pub queueing: Duration,
    /// Before that: from the oldest unit that was not handed over to the newest.
    pub behind: Duration,
    /// Bits per second that the link takes in all, where others take a part of it and make way; `None` where nobody does.
    pub shared: Option<u64>,
}

/// The rate of one encoder. Rates are in bits per second.
#[derive(Debug)]
struct EncoderRateController {
    ceiling: f64,
    floor: f64,
    target: f64,
    wait: Option<(UplinkSample, Instant)>,
    /// Bits handed over since the last look, and those among them that are no pictures.
    handed: f64,
    aside: f64,
    /// The last looks, over [`WINDOW`].
    looks: VecDeque<Sample>,
    looked: Instant,
    /// Looks in a row at which the push waited.
    waited: u32,
    fallen: Option<DrainState>,
    /// When it last waited.
    stirred: Instant,
    /// For how long it must not have waited before the rate rises.
    lull: Duration,
    /// When others were last waited for in vain.
    in_vain: Option<Instant>,
    /// When it last fell, and from where.
    last_fall: Option<(Instant, f64)>,
}

/// What one look saw.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    handed: f64,
    aside: f64,
    queueing: f64,
}

/// While what waits is let go.
#[derive(Clone, Copy, Debug)]
struct DrainState {
    /// What the link takes.
    link: f64,
    /// When that was last found too much, and the wait then, in seconds.
    since: Instant,
    wait: f64,
    /// The wait at the last look.
    last: f64,
}

impl EncoderRateController {
    fn new(ceiling: u64, now: Instant) -> Self {
        let ceiling = ceiling as f64;
        Self {
            ceiling,
            floor: (ceiling * FLOOR).max(LEAST).min(ceiling),
            target: ceiling,
            wait: None,
            handed: 0.0,
            aside: 0.0,
            looks: VecDeque::new(),
            looked: now,
            waited: 0,
            fallen: None,
            stirred: now,
            lull: LULL,
            in_vain: None,
            last_fall: None,
        }
    }

    fn pushed(&mut self, bytes: usize, pictures: bool) {
        let bits = bytes as f64 * 8.0;
        self.handed += bits;
        if !pictures {
            self.aside += bits;
        }
    }

    fn waits(&mut self, wait: Option<UplinkSample>, now: Instant) {
        if wait.is_none() || self.wait.is_none() {
            // Another connection: what the last one took says nothing of it.
            self.looks.clear();
            (self.handed, self.aside, self.waited, self.fallen, self.looked) = (0.0, 0.0, 0, None, now);
            self.in_vain = None;
            self.broken(now);
        }
        self.wait = wait.map(|wait| (wait, now));
        self.look(now);
    }

    fn target(&mut self, now: Instant) -> u64 {
        self.look(now);
        self.target as u64
    }

    fn look(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.looked);
        let Some((wait, told)) = self.wait.filter(|_| passed >= EVERY) else { return };
        self.looked = now;
        let silent = now.saturating_duration_since(told).saturating_sub(TOLD);
        let queueing = wait.queueing.max(silent).as_secs_f64();
        let (handed, aside) = (std::mem::take(&mut self.handed), std::mem::take(&mut self.aside));
        self.looks.push_back(Sample { at: now, handed, aside, queueing });
        while self.looks.front().is_some_and(|look| now.saturating_duration_since(look.at) > WINDOW) {
            self.looks.pop_front();
        }
        // What waits here comes before what waits on the way: both are late.
        let shared = wait.shared.map_or(0.0, |link| link as f64);
        let wait = queueing + wait.behind.as_secs_f64();
        self.waited = if wait > TOLERATED.as_secs_f64() { self.waited + 1 } else { 0 };
        if wait > TOLERATED.as_secs_f64() {
            self.stirred = now;
        }
        if shared > 0.0 && self.waited >= MAKE_WAY {
            self.in_vain = Some(now);
        }
        let is_trusted = self.in_vain.is_none_or(|at| now.saturating_duration_since(at) > FORGET);
        let shared = if is_trusted && wait < TOO_LONG.as_secs_f64() { shared } else { 0.0 };
        match self.fallen {
            None if self.waited >= PATIENCE => self.fall(wait, shared, now),
            None => self.rise(passed.as_secs_f64(), now),
            Some(fall) => self.drain(fall, wait, shared, now),
        }
        let seen = self.seen();
        tracing::trace!(
            wait_ms = (wait * 1e3) as u64,
            took = seen.map(|seen| seen.0 as u64),
            link = self.fallen.map(|fall| fall.link as u64),
            target = self.target as u64,
            "follow"
        );
    }

    /// What the link took over the last looks, and what of that were no pictures: what was handed over and made the wait no longer went on.
    fn seen(&self) -> Option<(f64, f64)> {
        let (first, last) = self.looks.front().zip(self.looks.back())?;
        let seconds = last.at.saturating_duration_since(first.at).as_secs_f64();
        if seconds < EVERY.as_secs_f64() {
            return None;
        }
        let after = self.looks.iter().skip(1);
        let (handed, aside) = after.fold((0.0, 0.0), |sum, look| (sum.0 + look.handed, sum.1 + look.aside));
        let taking = (seconds + last.queueing - first.queueing).max(seconds / 4.0);
        Some((handed / taking, aside / seconds))
    }

    /// Gives the encoder a part of what `link` takes, after what is no picture.
    fn give(&mut self, link: f64, part: f64) {
        let aside = self.seen().map_or(0.0, |seen| seen.1);
        self.target = (link * part - aside).clamp(self.floor, self.ceiling);
    }

    fn fall(&mut self, wait: f64, shared: f64, now: Instant) {
        let Some((took, aside)) = self.seen() else { return };
        let took = took.max(shared);
        if took * NEARLY >= self.target + aside {
            // What waits is more than is made, as after an outage: the link takes it soon, or once others have made way.
            return;
        }
        // One that rose to where it had fallen from before has found the same end again.
        let is_again = self.last_fall.is_some_and(|(at, from)| {
            now.saturating_duration_since(at) < FORGET && self.target < from * BEYOND && from < self.ceiling
        });
        self.lull = if is_again { (self.lull * 2).min(LONGEST_LULL) } else { LULL };
        self.last_fall = Some((now, self.target));
        self.fallen = Some(DrainState { link: took, since: now, wait, last: wait });
        // A wait is known late: by now it is longer.
        self.give(took, drained(wait + UNKNOWN.as_secs_f64()));
    }

    fn drain(&mut self, fall: DrainState, wait: f64, shared: f64, now: Instant) {
        let mut fall = fall;
        let took = self.seen().map_or(fall.link, |seen| seen.0);
        if wait < CALM.as_secs_f64() {
            self.fallen = None;
            self.stirred = now;
            // As long as something waited, what went on was all that the link takes.
            return self.give(took.clamp(fall.link, fall.link * MORE).max(shared), NEARLY);
        }
        let passed = now.saturating_duration_since(fall.since);
        if passed > SHOWN + Duration::from_secs_f64(fall.wait) {
            // Half of what was to go in that time has not: the link takes less than was thought.
            let hoped = fall.wait - (1.0 - drained(fall.wait)) * passed.as_secs_f64() / 2.0;
            if wait > hoped {
                fall.link = took.clamp(fall.link / 2.0, fall.link * NEARLY);
            }
            (fall.since, fall.wait) = (now, wait);
        }
        // As long as it does not fall, it is known late.
        let unknown = if wait > fall.last * FALLS { UNKNOWN.as_secs_f64() } else { 0.0 };
        fall.last = wait;
        self.fallen = Some(fall);
        self.give(fall.link.max(shared), drained(wait + unknown));
    }

    /// The link takes nothing: what fell of late fell for that.
    fn broken(&mut self, now: Instant) {
        if let Some((at, from)) = self.last_fall.take_if(|(at, _)| now.saturating_duration_since(*at) < BREAKS) {
            tracing::debug!(after = ?now.saturating_duration_since(at), "nothing is taken: no narrow link");
            self.target = self.target.max(from);
        }
    }

    fn rise(&mut self, seconds: f64, now: Instant) {
        let calm = now.saturating_duration_since(self.stirred);
        if self.target < self.ceiling && calm > self.lull {
            // The longer nothing waits, the more there is room for.
            let hurry = 1.0 + ((calm - self.lull).as_secs_f64() / HURRY.as_secs_f64()).min(1.0);
            self.target = (self.target * (RISE * hurry * seconds).exp()).min(self.ceiling);
        }
    }
}

/// The part of what the link takes that lets `wait` seconds go within [`DRAIN`].
fn drained(wait: f64) -> f64 {
    (1.0 - wait / DRAIN.as_secs_f64()).clamp(LITTLE, MUCH)
}

/// The least, of the ceiling: below, pictures of that size are not worth their bits.
const FLOOR: f64 = 0.15;
/// The least, in bits per second, or the ceiling if that is less.
const LEAST: f64 = 100_000.0;
/// How often the rate is thought of.
const EVERY: Duration = Duration::from_millis(100);
/// What the link takes is measured over so long.
const WINDOW: Duration = Duration::from_millis(600);
/// A push that tells nothing for longer is stuck: several units' time.
const TOLD: Duration = Duration::from_millis(150);
/// A wait that is borne: an IDR on a link that is not much faster than the stream makes it.
const TOLERATED: Duration = Duration::from_millis(150);
/// Looks in a row at which it waits for longer, before anything is done.
const PATIENCE: u32 = 2;
/// A wait that is too long for others to be given the time to make way: it may as well be another link.
const TOO_LONG: Duration = Duration::from_millis(300);
/// Looks in a row within which others have made way, if they do.
const MAKE_WAY: u32 = 20;
/// What waits has gone when the wait is less.
const CALM: Duration = Duration::from_millis(60);
/// Of what the link was seen to take.
const NEARLY: f64 = 0.85;
/// What was taken for all that the link takes is raised by so much at once, where it proves to be more.
const MORE: f64 = 1.3;
/// Of that, at least and at most, while what waits is let go.
const LITTLE: f64 = 0.3;
const MUCH: f64 = 0.7;
/// Within which what waits is to be gone.
const DRAIN: Duration = Duration::from_millis(1500);
/// How much longer than is known the wait is when it is first found.
const UNKNOWN: Duration = Duration::from_millis(500);
/// Of the last wait: what is more does not fall, for two pings may tell the same.
const FALLS: f64 = 0.95;
/// How long it takes until a change shows in the wait, beside the wait itself.
const SHOWN: Duration = Duration::from_millis(600);
/// Per second, without a wait.
const RISE: f64 = 0.07;
/// After so long, twice that.
const HURRY: Duration = Duration::from_secs(10);
/// Without a wait for so long, it rises: an IDR, which comes every two seconds, has gone through.
const LULL: Duration = Duration::from_millis(2200);
/// So long at most, however often a rise made it wait.
const LONGEST_LULL: Duration = Duration::from_secs(16);
/// A fall so short before a link breaks was the beginning of that.
const BREAKS: Duration = Duration::from_secs(20);
/// A fall longer ago says nothing of the next, nor does who did not make way.
const FORGET: Duration = Duration::from_secs(60);
/// A fall from so much more than the last was another's fault.
const BEYOND: f64 = 1.3;

#[cfg(test)]
#[path = "rate_control_tests.rs"]
mod tests;
