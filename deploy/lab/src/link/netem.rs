//! A link emulated by the kernel's netem (tc-netem(8)): in the wire namespace a bridge connects the two ends of the link, and a netem
//! queueing discipline on each end delays what leaves there.
//!
//! Differences from [`super::userspace`]: the queue is limited in frames, loss precedes serialisation, random draws follow no seed, and with a
//! rate frames are not reordered. [`super::timer_probe`] measures the kernel's timing error.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::counts::FrameCounts;
use super::pipe::MAX_IN_FLIGHT_BYTES;
use super::shape::{BurstLoss, Jitter, MAX_RATE, Shape};
use crate::namespace::{Namespace, ip, tc};

/// A link emulated by netem.
#[derive(Debug)]
pub(super) struct NetemLink {
    /// The wire namespace's name.
    wire: String,
    /// `None` once the network is gone.
    directions: Mutex<Option<[NetemDirection; 2]>>,
}

/// One direction: the queueing discipline of one end.
#[derive(Debug)]
struct NetemDirection {
    end: String,
    shape: Shape,
    open: bool,
    /// Whether the current discipline has the table of normal jitter, which only a new discipline gets rid of.
    has_table: bool,
    /// Counts of earlier disciplines that were replaced.
    past: FrameCounts,
}

impl NetemLink {
    /// Connects the interfaces `ends` of the namespace `wire`, which must be up. Fails when netem cannot emulate a shape.
    pub(super) fn start(wire: &Namespace, ends: [&str; 2], shapes: [Shape; 2]) -> Result<NetemLink> {
        let hub = format!("hub{}", ends[0]);
        // A bridge without address table floods each frame, which here means to the other port.
        let flags = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0 ageing_time 0";
        let add: Vec<&str> = ["-n", wire.name(), "link", "add", &hub].into_iter().chain(flags.split(' ')).collect();
        ip(&add)?;
        ip(&["-n", wire.name(), "link", "set", "dev", &hub, "up"])?;
        let directions = [0, 1].map(|index| NetemDirection {
            end: ends[1 - index].to_owned(),
            shape: shapes[index],
            open: true,
            has_table: has_table(&shapes[index]),
            past: FrameCounts::default(),
        });
        for direction in &directions {
            place(wire.name(), &direction.end, &arguments(&direction.shape)?)?;
        }
        for end in ends {
            ip(&["-n", wire.name(), "link", "set", "dev", end, "master", &hub])?;
        }
        Ok(NetemLink { wire: wire.name().to_owned(), directions: Mutex::new(Some(directions)) })
    }

    /// Sets the shape of one direction, by its index, from the next frame on; frames in flight are lost when normal jitter is turned off.
    /// Fails when netem cannot emulate it, or the network is gone.
    pub(super) fn set(&self, index: usize, shape: Shape) -> Result<()> {
        let wanted = arguments(&shape)?;
        let mut directions = self.directions();
        let direction = &mut directions.as_mut().context(GONE)?[index];
        if direction.open {
            if direction.has_table && !has_table(&shape) {
                direction.swallow(&self.wire)?;
            }
            place(&self.wire, &direction.end, &wanted)?;
            direction.has_table = has_table(&shape);
        }
        direction.shape = shape;
        Ok(())
    }

    /// Forwards frames, or drops them and those in flight. Fails when the network is gone.
    pub(super) fn open(&self, open: bool) -> Result<()> {
        for direction in self.directions().as_mut().context(GONE)? {
            if direction.open && !open {
                direction.swallow(&self.wire)?;
            } else if open && !direction.open {
                direction.past = direction.counts(&self.wire);
                place(&self.wire, &direction.end, &arguments(&direction.shape)?)?;
                direction.has_table = has_table(&direction.shape);
            }
            direction.open = open;
        }
        Ok(())
    }

    /// Counters by direction; all zero once the network is gone.
    pub(super) fn counts(&self) -> [FrameCounts; 2] {
        let directions = self.directions();
        directions.as_ref().map_or_else(Default::default, |directions| {
            directions.each_ref().map(|direction| direction.counts(&self.wire))
        })
    }

    /// Whether the network is still there.
    pub(super) fn is_running(&self) -> bool {
        self.directions().is_some()
    }

    /// Drops everything from now on: a caller that holds the link may keep the wire namespace alive after its name is removed.
    pub(super) fn stop(&self) {
        for direction in self.directions().take().into_iter().flatten() {
            // It fails when the interface is already gone.
            let _ = place(&self.wire, &direction.end, &[BLACKHOLE.to_owned()]);
        }
    }

    fn directions(&self) -> MutexGuard<'_, Option<[NetemDirection; 2]>> {
        // A panic elsewhere leaves each direction either changed or not; the kernel has the actual state.
        self.directions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NetemDirection {
    /// Installs a discipline that drops everything; the frames of the previous one are lost.
    fn swallow(&mut self, wire: &str) -> Result<()> {
        self.past = self.counts(wire);
        place(wire, &self.end, &[BLACKHOLE.to_owned()])?;
        self.has_table = false;
        Ok(())
    }

    /// Counts of earlier disciplines and of the current one, which counts as zero if it cannot be read.
    fn counts(&self, wire: &str) -> FrameCounts {
        let said = tc(&["-n", wire, "-s", "-j", "qdisc", "show", "dev", &self.end]).unwrap_or_default();
        let now: Vec<Discipline> = serde_json::from_str(&said).unwrap_or_default();
        let mut counts = self.past;
        for Discipline { kind, bytes, packets, drops } in now {
            counts.sent += packets;
            counts.sent_bytes += bytes;
            match kind.as_str() {
                "netem" => counts.lost += drops,
                _ => counts.link_down_drops += drops,
            }
        }
        counts
    }
}

/// One discipline in the output of `tc -s -j qdisc show`.
#[derive(Deserialize)]
struct Discipline {
    kind: String,
    #[serde(default)]
    bytes: u64,
    #[serde(default)]
    packets: u64,
    #[serde(default)]
    drops: u64,
}

/// Sets the root discipline of an interface. One of the same kind is changed and keeps its frames; one of another kind is replaced, and its
/// frames are lost.
fn place(wire: &str, end: &str, discipline: &[String]) -> Result<()> {
    let mut words = vec!["-n", wire, "qdisc", "replace", "dev", end, "root"];
    words.extend(discipline.iter().map(String::as_str));
    tc(&words).map(drop)
}

/// The arguments of `tc` after `root` that make netem emulate `shape`. Fails when it cannot.
pub(crate) fn arguments(shape: &Shape) -> Result<Vec<String>> {
    let percent = |chance: f64| format!("{}%", chance * 100.0);
    let (jitter, normal) = match shape.jitter {
        Jitter::None => (None, false),
        Jitter::Uniform(width) => (Some(width), false),
        Jitter::Normal(deviation) => (Some(deviation), true),
    };
    ensure!(
        shape.rate.is_none() || !shape.reorder || jitter.is_none(),
        "netem does not reorder with a rate: leave out rate or reorder, or use --links userspace"
    );
    let mut words = vec!["netem".to_owned(), "limit".to_owned(), limit(shape).to_string()];
    words.extend(["delay".to_owned(), microseconds(shape.delay)]);
    words.extend(jitter.map(microseconds));
    if normal {
        words.extend(["distribution", "normal"].map(str::to_owned));
    }
    // netem keeps frames in order only with a rate.
    let rate = shape.rate.unwrap_or(if shape.reorder { 0 } else { MAX_RATE });
    words.extend(["rate".to_owned(), format!("{rate}bit")]);
    match shape.burst {
        // netem has one loss model at a time: random loss is added to both states of the burst model.
        Some(BurstLoss { to_bad, to_good, loss_good, loss_bad }) => {
            let also = |chance: f64| 1.0 - (1.0 - chance) * (1.0 - shape.loss);
            words.extend(["loss", "gemodel"].map(str::to_owned));
            words.extend([to_bad, to_good, also(loss_bad), also(loss_good)].map(percent));
        }
        None if shape.loss > 0.0 => words.extend(["loss".to_owned(), "random".to_owned(), percent(shape.loss)]),
        None => {}
    }
    if shape.duplicate > 0.0 {
        words.extend(["duplicate".to_owned(), percent(shape.duplicate)]);
    }
    Ok(words)
}

/// A time as an argument of `tc`, which does not accept nanoseconds in every version.
pub(super) fn microseconds(time: Duration) -> String {
    format!("{}us", time.as_nanos() as f64 / 1e3)
}

/// netem's limit in frames, which covers both the queue and the frames in flight.
fn limit(shape: &Shape) -> u128 {
    let Some(rate) = shape.rate else { return MAX_IN_FLIGHT_BYTES as u128 / FULL_FRAME };
    let spread = match shape.jitter {
        Jitter::None => Duration::ZERO,
        Jitter::Uniform(width) | Jitter::Normal(width) => width,
    };
    let flying = u128::from(rate) * (shape.delay + spread).as_nanos() / 8_000_000_000;
    1 + (shape.queue as u128 + flying) / FULL_FRAME
}

fn has_table(shape: &Shape) -> bool {
    matches!(shape.jitter, Jitter::Normal(_))
}

/// Bytes of a full Ethernet frame, in which queues are counted.
const FULL_FRAME: u128 = 1_514;

/// The name of the discipline that drops everything.
const BLACKHOLE: &str = "blackhole";

const GONE: &str = "the link's network is gone";

#[cfg(test)]
mod tests {
    use super::*;

    fn words(shape: Shape) -> String {
        arguments(&shape).unwrap().join(" ")
    }

    #[test]
    fn a_shape_maps_to_tc_arguments() {
        let ms = Duration::from_millis;
        assert_eq!(words(Shape::PERFECT), "netem limit 44325 delay 0us rate 10000000000bit");
        let narrow = Shape { rate: Some(4_000_000), delay: ms(30), loss: 0.01, ..Shape::PERFECT };
        // A queue of 128 KiB and 15,000 bytes in flight.
        assert_eq!(words(narrow), "netem limit 97 delay 30000us rate 4000000bit loss random 1%");
        let loose = Shape { jitter: Jitter::Uniform(ms(5)), reorder: true, duplicate: 0.5, ..Shape::PERFECT };
        assert_eq!(words(loose), "netem limit 44325 delay 0us 5000us rate 0bit duplicate 50%");
        let normal = Shape { jitter: Jitter::Normal(ms(5)), ..Shape::PERFECT };
        assert!(words(normal).contains("delay 0us 5000us distribution normal rate 10000000000bit"));
    }

    #[test]
    fn random_loss_is_added_to_both_burst_states() {
        let burst = Some(BurstLoss { to_bad: 0.25, to_good: 0.5, loss_good: 0.0, loss_bad: 0.5 });
        let shape = Shape { burst, loss: 0.5, ..Shape::PERFECT };
        assert!(words(shape).ends_with("loss gemodel 25% 50% 75% 50%"), "{}", words(shape));
    }

    #[test]
    fn shapes_that_netem_cannot_emulate_are_rejected() {
        let jitter = Jitter::Uniform(Duration::from_millis(1));
        let shape = Shape { rate: Some(1_000_000), jitter, reorder: true, ..Shape::PERFECT };
        assert!(arguments(&shape).unwrap_err().to_string().contains("--links userspace"));
        arguments(&Shape { reorder: false, ..shape }).unwrap();
    }
}
