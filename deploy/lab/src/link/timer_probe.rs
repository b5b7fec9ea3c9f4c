//! Measures the timing error of netem: a thread sends a small frame every 5 ms over its own pair of interfaces, which netem delays by a
//! known time, and compares the arrival time.
//!
//! netem itself does not report it. Whatever delays these frames (a core that wakes late, pending interrupts) delays those of all links; a delay
//! of a single link is not detected.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::netem::microseconds;
use super::packet_socket::{PacketSocket, monotonic};
use super::priority::raise_priority;
use crate::interface::Interface;
use crate::lateness::{Histogram, Lateness};
use crate::namespace::{Namespace, ip, tc};

/// The running thread; ends when dropped.
#[derive(Debug)]
pub(crate) struct TimerProbe {
    histogram: Arc<Histogram>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl TimerProbe {
    /// Starts the probe in the namespace `wire`, at most once in each. Fails, and leaves nothing behind, without netem in the kernel or without `tc`.
    pub(crate) fn start(wire: &Namespace) -> Result<TimerProbe> {
        let [near, far] = ENDS;
        ip(&["-n", wire.name(), "link", "add", near, "type", "veth", "peer", "name", far])?;
        TimerProbe::between(wire).inspect_err(|_| {
            // At the latest it disappears with the namespace.
            let _ = ip(&["-n", wire.name(), "link", "delete", near]);
        })
    }

    fn between(wire: &Namespace) -> Result<TimerProbe> {
        let delay = microseconds(DELAY);
        tc(&["-n", wire.name(), "qdisc", "replace", "dev", ENDS[0], "root", "netem", "delay", &delay])?;
        let [near, far] = wire.run(|| -> Result<_> {
            ENDS.iter().try_for_each(|end| Interface::open(end)?.up())?;
            Interface::open(ENDS[1])?.await_running(true)?;
            Ok([PacketSocket::open(ENDS[0])?, PacketSocket::open(ENDS[1])?])
        })??;
        let (histogram, stop) = (Arc::new(Histogram::new()), Arc::new(AtomicBool::new(false)));
        let (counted, stopped) = (Arc::clone(&histogram), Arc::clone(&stop));
        let thread = std::thread::Builder::new().name("timer probe".to_owned()).spawn(move || {
            raise_priority();
            let mut next = monotonic();
            while !stopped.load(Ordering::Relaxed) {
                let _ = near.send(&frame(monotonic()));
                next += EVERY;
                take_until(next, &far, &counted);
            }
        });
        Ok(TimerProbe { histogram, stop, thread: Some(thread.context("start a thread")?) })
    }

    /// The timing error so far.
    pub(crate) fn lateness(&self) -> Lateness {
        self.histogram.snapshot()
    }
}

impl Drop for TimerProbe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic was printed when it happened.
            let _ = thread.join();
        }
    }
}

/// Counts what arrives until `time`.
fn take_until(time: u64, far: &PacketSocket, histogram: &Histogram) {
    loop {
        let mut buffer = [0; 64];
        while let Ok(Some(received)) = far.receive(&mut buffer) {
            if let Some(sent) = sent_at(&buffer) {
                histogram.record(received.at.saturating_sub(sent + DELAY.as_nanos() as u64));
            }
        }
        let left = time.saturating_sub(monotonic());
        if left == 0 {
            return;
        }
        let mut polled = [PollFd::new(far, PollFlags::IN)];
        let timeout = Timespec { tv_sec: 0, tv_nsec: left.min(EVERY) as i64 };
        // An interrupted wait is just shorter.
        let _ = poll(&mut polled, Some(&timeout));
    }
}

/// A broadcast Ethernet frame that carries a timestamp.
fn frame(time: u64) -> [u8; 60] {
    let mut frame = [0; 60];
    frame[..6].fill(0xff);
    frame[12..14].copy_from_slice(&ETHERTYPE);
    frame[14..22].copy_from_slice(&time.to_be_bytes());
    frame
}

fn sent_at(frame: &[u8]) -> Option<u64> {
    (frame.get(12..14)? == ETHERTYPE).then(|| frame.get(14..22)?.try_into().ok().map(u64::from_be_bytes))?
}

/// The probe's interfaces in the wire namespace.
const ENDS: [&str; 2] = ["probe0", "probe1"];

/// netem's delay of each frame: as on a short link.
const DELAY: Duration = Duration::from_millis(10);

/// Interval between frames, nanoseconds: 200 per second give a 99th percentile within seconds at negligible cost.
const EVERY: u64 = 5_000_000;

/// EtherType for local experiments (IEEE 802, "Local Experimental EtherType 1").
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_probe_frames_carry_a_timestamp() {
        assert_eq!(sent_at(&frame(0x0102_0304_0506_0708)), Some(0x0102_0304_0506_0708));
        assert_eq!(sent_at(&[0; 60]), None);
        assert_eq!(sent_at(&frame(1)[..20]), None);
    }
}
