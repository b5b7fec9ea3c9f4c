//! Orders the two copies of a frame when the push and a LAN viewer share an uplink.
//!
//! Whichever copy finishes last is delayed by the transmission time of the other. Without an order they interleave, since the kernel paces
//! the push, and both are late. So the viewer's copy goes first: for the viewer it saves a third of the delay, for those of the CDN it adds
//! less than a tenth. On a link too slow for both this does not apply: the push has priority
//! ([`BandwidthAllocator`](super::bandwidth_allocator::BandwidthAllocator)).

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// Lets the push wait briefly for the viewer.
#[derive(Debug)]
pub(super) struct ViewerFirst {
    /// Window position after the last frame written to a viewer's connection.
    next: watch::Sender<u64>,
}

impl ViewerFirst {
    pub(super) fn new() -> Self {
        Self { next: watch::Sender::new(0) }
    }

    /// The frame at `position` was written to a viewer's connection.
    pub(super) fn took(&self, position: u64) {
        self.next.send_if_modified(|next| {
            let is_newer = *next <= position;
            *next = (*next).max(position + 1);
            is_newer
        });
    }

    /// Waits until the frame at `position` is written to a viewer's connection, for [`LONGEST`] at most; returns at once if no viewer keeps up.
    pub(super) async fn wait(&self, position: u64) {
        let mut next = self.next.subscribe();
        let taken = *next.borrow_and_update();
        if taken + KEEPS_UP < position {
            return;
        }
        if timeout(LONGEST, next.wait_for(|next| *next > position)).await.is_ok() {
            // Lets the task that sends it run first.
            tokio::task::yield_now().await;
        }
    }
}

/// A viewer keeps up if it is at most this many units behind: two frames with their audio.
const KEEPS_UP: u64 = 6;
/// Bounds one wait. When a viewer leaves or falls behind, a few frames wait for the full time until it no longer counts as keeping up.
const LONGEST: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_push_waits_for_a_viewer_that_keeps_up() {
        let lead = Arc::new(ViewerFirst::new());
        lead.took(100);
        let waiting = tokio::spawn({
            let lead = lead.clone();
            async move { lead.wait(103).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        let before = Instant::now();
        lead.took(103);
        waiting.await.unwrap();
        assert_eq!(before.elapsed(), Duration::ZERO);
        lead.took(90);
        lead.wait(103).await;
        assert_eq!(before.elapsed(), Duration::ZERO, "a viewer that is behind does not matter");
    }

    #[tokio::test(start_paused = true)]
    async fn the_push_does_not_wait_for_other_viewers() {
        let lead = ViewerFirst::new();
        let before = Instant::now();
        lead.wait(100).await;
        assert_eq!(before.elapsed(), Duration::ZERO, "no viewer yet");
        lead.took(100);
        lead.wait(102).await;
        assert!(before.elapsed() >= LONGEST, "the viewer may still keep up");
        let before = Instant::now();
        lead.wait(100 + KEEPS_UP + 2).await;
        assert_eq!(before.elapsed(), Duration::ZERO, "the viewer has fallen behind");
    }
}
