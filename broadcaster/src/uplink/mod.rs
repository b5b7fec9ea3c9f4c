//! The uplink: one model of the link, and what reads it: encoder rate control, allocation, admission and pacing. Pure but for [`Uplink`],
//! which adds the clock.
//!
//! - `link`: the model: what waits, what is delivered, what the link carries. The only place where these are estimated.
//! - `allocate`: divides what the push leaves among LAN viewers, by priority.
//! - `pacer`: token buckets that keep to it, to the configured limit, and the pacing of a pushed IDR.
//! - `admission`: which viewers are served by the broadcaster and which by the CDN.
//! - `rate_control`: the encoder's target bitrate.

mod admission;
mod allocate;
mod base_delay;
mod capacity;
mod controller;
mod delivery_rate;
mod link;
mod pacer;
mod push_flow;
mod rate_control;
mod return_path;
#[cfg(test)]
mod sim;
mod units;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use net::relay::Grant;
use parking_lot::Mutex;
use tokio::sync::watch;

use controller::Controller;
use pacer::Wanted;
pub use pacer::idr_rate;
pub use push_flow::PushFeedback;
pub use return_path::ServerStamps;
pub use units::{Bytes, Rate};

/// The uplink of one broadcast. Shared by the encoder's thread, the publishing task and the server of LAN viewers.
#[derive(Debug)]
pub struct Uplink(Mutex<Shared>);

#[derive(Debug)]
struct Shared {
    controller: Controller,
    /// Says to each viewer whether it is admitted.
    admitted: BTreeMap<u64, watch::Sender<bool>>,
    /// The next viewer's number.
    next: u64,
}

impl Default for Uplink {
    fn default() -> Self {
        let controller = Controller::new(Instant::now());
        Self(Mutex::new(Shared { controller, admitted: BTreeMap::new(), next: 0 }))
    }
}

impl Uplink {
    /// Limits what is sent to all viewers together, on average.
    pub fn limit_viewers(&self, limit: Rate) {
        self.0.lock().controller.limit_viewers(limit, Instant::now());
    }

    /// Starts rate control of an encoder configured for `ceiling`, which becomes the maximum.
    pub fn control_encoder(&self, ceiling: Rate) {
        self.0.lock().controller.control_encoder(ceiling, Instant::now());
    }

    /// The encoder's target; `None` without rate control.
    pub fn target(&self) -> Option<Rate> {
        self.change(|controller, now| controller.target(now))
    }

    /// Accounts `bytes` of payload written to the push's connection; `is_video`: they are the encoder's.
    pub fn on_pushed(&self, bytes: usize, is_video: bool) {
        self.0.lock().controller.on_pushed(bytes, is_video);
    }

    /// Feeds what is known of the push's connection; `None` while it is disconnected. Call it for every unit: missing feedback counts as
    /// delay.
    pub fn on_push_feedback(&self, feedback: Option<&PushFeedback>) {
        self.change(|controller, now| controller.on_push_feedback(feedback, now));
    }

    /// Whether the push has a queue before it: BBR needs to measure the path then.
    pub fn is_saturated(&self) -> bool {
        self.0.lock().controller.is_saturated(Instant::now())
    }

    /// Whether a queue is on the way, so that it is worth asking the server where it is.
    pub fn has_queue(&self) -> bool {
        self.0.lock().controller.has_queue(Instant::now())
    }

    /// Adds a viewer. Returns its number, and whether it is admitted.
    pub(crate) fn join(&self) -> (u64, watch::Receiver<bool>) {
        let mut shared = self.0.lock();
        let id = shared.next;
        shared.next += 1;
        shared.controller.join(id);
        let (sender, receiver) = watch::channel(shared.controller.is_admitted(id));
        shared.admitted.insert(id, sender);
        (id, receiver)
    }

    /// Removes a viewer.
    pub(crate) fn leave(&self, id: u64) {
        self.change(|controller, now| controller.leave(id, now));
        self.0.lock().admitted.remove(&id);
    }

    /// A viewer's subscription became active or idle.
    pub(crate) fn set_active(&self, id: u64, is_active: bool) {
        self.change(|controller, now| controller.set_active(id, is_active, now));
    }

    /// Units were dropped for a viewer.
    pub(crate) fn on_dropped(&self, id: u64) {
        self.change(|controller, now| controller.on_dropped(id, now));
    }

    /// Requests to send `wanted` bytes to a viewer whose packets have the given queueing delay. `whole`: the unit must not be split.
    pub(crate) fn acquire(&self, id: u64, wanted: usize, whole: bool, queue_delay: Duration) -> Grant {
        self.0.lock().controller.acquire(Wanted { id, bytes: wanted, whole }, queue_delay, Instant::now())
    }

    /// Number of viewers with an active subscription; viewers that wait to be admitted are connected, but idle.
    pub(crate) fn active_viewers(&self) -> usize {
        self.0.lock().controller.active_viewers()
    }

    /// Whether the viewers' packets queue before their link.
    pub(crate) fn is_narrow(&self) -> bool {
        self.0.lock().controller.is_narrow()
    }

    /// Changes the state and tells viewers whether they are admitted.
    fn change<T>(&self, change: impl FnOnce(&mut Controller, Instant) -> T) -> T {
        let shared = &mut *self.0.lock();
        let result = change(&mut shared.controller, Instant::now());
        for (id, sender) in &shared.admitted {
            let is_admitted = shared.controller.is_admitted(*id);
            sender.send_if_modified(|admitted| std::mem::replace(admitted, is_admitted) != is_admitted);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_viewer_limited_by_its_own_link_does_not_redirect_others() {
        let uplink = Uplink::default();
        uplink.limit_viewers(Rate::bits_per_second(800_000.0));
        let viewers = [uplink.join(), uplink.join()];
        viewers.iter().for_each(|(id, _)| uplink.set_active(*id, true));
        uplink.on_push_feedback(Some(&PushFeedback::default()));
        uplink.on_dropped(0);
        assert!(viewers.iter().all(|(_, admitted)| *admitted.borrow()));
        // Now the configured limit is the cause.
        while matches!(uplink.acquire(0, 100_000, false, Duration::ZERO), Grant::Bytes(_)) {}
        uplink.on_dropped(0);
        assert_eq!(viewers.map(|(_, admitted)| *admitted.borrow()), [true, false]);
    }

    #[test]
    fn without_limits_nothing_waits() {
        let uplink = Uplink::default();
        let (id, _) = uplink.join();
        uplink.set_active(id, true);
        for _ in 0..10_000 {
            assert_eq!(uplink.acquire(id, 100_000, false, Duration::from_millis(50)), Grant::Bytes(100_000));
        }
        uplink.leave(id);
        assert_eq!(uplink.acquire(id, 1, false, Duration::ZERO), Grant::Bytes(1), "a removed viewer is not limited");
    }

    #[test]
    fn without_an_encoder_there_is_no_target() {
        let uplink = Uplink::default();
        uplink.on_pushed(1000, true);
        uplink.on_push_feedback(Some(&PushFeedback::default()));
        assert_eq!(uplink.target(), None);
        uplink.control_encoder(Rate::bits_per_second(1e6));
        assert_eq!(uplink.target(), Some(Rate::bits_per_second(1e6)));
    }
}
