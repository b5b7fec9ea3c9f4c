//! Connects the model of the link with those who read it. Pure: the caller passes the time.

use std::time::{Duration, Instant};

use net::relay::Grant;

use super::admission::AdmissionControl;
use super::capacity::LEAST;
use super::link::{Flow, LinkModel, LinkState};
use super::pacer::{TokenBucket, ViewerPacer, Wanted};
use super::push_flow::PushFeedback;
use super::rate_control::{Finding, RateController};
use super::units::{Bytes, Rate};

/// The state of one uplink.
#[derive(Debug)]
pub(super) struct Controller {
    link: LinkModel,
    pacer: ViewerPacer,
    admission: AdmissionControl,
    /// Of the encoder, if its bitrate can change.
    rate_control: Option<RateController>,
    /// The configured limit of all viewers together.
    limit: Option<TokenBucket>,
    is_pushing: bool,
}

impl Controller {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            link: LinkModel::new(now),
            pacer: ViewerPacer::new(now),
            admission: AdmissionControl::new(),
            rate_control: None,
            limit: None,
            is_pushing: false,
        }
    }

    pub(super) fn limit_viewers(&mut self, limit: Rate, now: Instant) {
        self.limit = Some(TokenBucket::new(limit, now));
    }

    pub(super) fn control_encoder(&mut self, ceiling: Rate, now: Instant) {
        self.rate_control = Some(RateController::new(ceiling, now));
    }

    pub(super) fn target(&mut self, now: Instant) -> Option<Rate> {
        self.update(now);
        self.rate_control.as_ref().map(RateController::target)
    }

    pub(super) fn on_pushed(&mut self, bytes: usize, is_video: bool) {
        let bytes = Bytes::from(bytes);
        self.link.on_sent(Flow::Push, bytes);
        self.pacer.on_pushed(bytes);
        if let Some(rate_control) = self.rate_control.as_mut().filter(|_| !is_video) {
            rate_control.on_other_sent(bytes);
        }
    }

    pub(super) fn on_push_feedback(&mut self, feedback: Option<&PushFeedback>, now: Instant) {
        let was_pushing = std::mem::replace(&mut self.is_pushing, feedback.is_some());
        self.link.on_push_feedback(feedback, now);
        if was_pushing != self.is_pushing {
            self.read_estimate(now);
        }
        self.update(now);
        self.admission.tick(self.is_pushing, self.link.viewer_capacity(), now);
        self.prioritise();
    }

    pub(super) fn is_saturated(&self, now: Instant) -> bool {
        let estimate = self.link.estimate(now);
        estimate.state != LinkState::ApplicationLimited && estimate.queue_delay > SATURATED
    }

    pub(super) fn has_queue(&self, now: Instant) -> bool {
        self.link.has_queue(now)
    }

    pub(super) fn join(&mut self, id: u64) {
        self.admission.join(id);
        self.prioritise();
    }

    pub(super) fn is_admitted(&self, id: u64) -> bool {
        self.admission.is_admitted(id)
    }

    pub(super) fn leave(&mut self, id: u64, now: Instant) {
        self.link.remove_viewer(id);
        self.pacer.remove_viewer(id);
        self.admission.leave(id, now);
        self.prioritise();
    }

    pub(super) fn set_active(&mut self, id: u64, is_active: bool, now: Instant) {
        if is_active {
            self.link.add_viewer(id);
            self.pacer.add_viewer(id);
        } else {
            self.link.remove_viewer(id);
            self.pacer.remove_viewer(id);
        }
        self.admission.set_active(id, is_active, now);
        self.prioritise();
    }

    pub(super) fn on_dropped(&mut self, id: u64, now: Instant) {
        // A viewer whose own link is too slow is no reason to redirect another.
        if self.pacer.is_starved(id, now) && !self.link.is_converging(now) {
            self.admission.on_starved(self.link.viewer_capacity(), now);
            self.prioritise();
        }
    }

    pub(super) fn acquire(&mut self, wanted: Wanted, queue_delay: Duration, now: Instant) -> Grant {
        let Some(limit) = &mut self.limit else { return self.acquire_share(wanted, queue_delay, now) };
        let bytes = match limit.available(wanted.bytes, wanted.whole, now) {
            Grant::Bytes(bytes) => bytes,
            wait @ Grant::RetryAfter(_) => {
                self.pacer.on_starved(wanted.id, now);
                return wait;
            }
        };
        let grant = self.acquire_share(Wanted { bytes, ..wanted }, queue_delay, now);
        if let (Grant::Bytes(bytes), Some(limit)) = (grant, &mut self.limit) {
            limit.on_sent(bytes);
        }
        grant
    }

    fn acquire_share(&mut self, wanted: Wanted, queue_delay: Duration, now: Instant) -> Grant {
        self.link.on_viewer_feedback(wanted.id, queue_delay, now);
        self.update(now);
        let sharing = self.link.behind_bottleneck();
        self.pacer.refill(self.link.capacity(), &sharing, now);
        let capacity = self.link.capacity().filter(|_| sharing.contains(&wanted.id));
        let grant = match capacity {
            Some(capacity) => {
                let part = (capacity - self.link.push_rate()).max(LEAST) * (1.0 / sharing.len() as f64);
                self.pacer.acquire(wanted, part, now)
            }
            None => Grant::Bytes(wanted.bytes),
        };
        match grant {
            Grant::Bytes(bytes) => self.link.on_sent(Flow::Viewer(wanted.id), Bytes::from(bytes)),
            Grant::RetryAfter(_) => self.link.on_viewer_limited(wanted.id),
        }
        grant
    }

    pub(super) fn active_viewers(&self) -> usize {
        self.link.viewers()
    }

    pub(super) fn is_narrow(&self) -> bool {
        self.link.max_queue_delay() > NARROW
    }

    fn update(&mut self, now: Instant) {
        if self.link.update(now) {
            self.read_estimate(now);
        }
    }

    fn read_estimate(&mut self, now: Instant) {
        let estimate = self.link.estimate(now);
        if let Some(rate_control) = &mut self.rate_control
            && rate_control.on_estimate(&estimate, now) == Finding::ForeignQueue
        {
            self.link.on_foreign_queue(now);
        }
    }

    fn prioritise(&mut self) {
        self.pacer.set_priorities(self.admission.priorities());
        self.link.set_wanted(self.admission.has_waiting());
    }

    #[cfg(test)]
    pub(super) fn link(&self) -> &LinkModel {
        &self.link
    }

    #[cfg(test)]
    pub(super) fn pacer(&mut self) -> &mut ViewerPacer {
        &mut self.pacer
    }
}

/// Queueing delay of a frame's own packets on a link of some Mbit/s; on a fast one it is a fraction of this.
const NARROW: Duration = Duration::from_millis(4);
/// The queueing delay that indicates a saturated link: more than a single frame causes.
const SATURATED: Duration = Duration::from_millis(150);
