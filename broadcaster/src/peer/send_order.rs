//! Whose copy of a picture leaves first, where the push and a viewer on this network share a link.
//!
//! Two copies take twice the time, and whichever ends last is late by that of the other, however they are mixed. Left to themselves
//! they mix, since the kernel paces the push, and both are late. So one copy for this network goes first: to its viewer it is a third of the delay, to
//! those of the CDN less than a tenth. Where the link is too narrow for both this is not asked: viewers have what the push leaves then
//! ([`share`](super::share)), and are behind it.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// Lets the push wait for a viewer, a moment at most.
#[derive(Debug)]
pub(super) struct ViewerFirst {
    /// The position after the last picture that a viewer's connection has taken.
    next: watch::Sender<u64>,
}

impl ViewerFirst {
    pub(super) fn new() -> Self {
        Self { next: watch::Sender::new(0) }
    }

    /// A viewer's connection took the picture at `position`.
    pub(super) fn took(&self, position: u64) {
        self.next.send_if_modified(|next| {
            let is_newer = *next <= position;
            *next = (*next).max(position + 1);
            is_newer
        });
    }

    /// Returns when a viewer's connection has taken the picture at `position`; at once if none keeps up, or there is none.
    pub(super) async fn wait(&self, position: u64) {
        let mut next = self.next.subscribe();
        let taken = *next.borrow_and_update();
        if taken + KEEPS_UP < position {
            return;
        }
        if timeout(LONGEST, next.wait_for(|next| *next > position)).await.is_ok() {
            // Whoever sends it was woken before us.
            tokio::task::yield_now().await;
        }
    }
}

/// Units by which a viewer that keeps up is behind: two pictures with their sound.
const KEEPS_UP: u64 = 6;
/// What the push may lose in vain when a viewer leaves or falls behind: a few times, until it is seen not to keep up.
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
        assert_eq!(before.elapsed(), Duration::ZERO, "another viewer that is behind changes nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_no_other() {
        let lead = ViewerFirst::new();
        let before = Instant::now();
        lead.wait(100).await;
        assert_eq!(before.elapsed(), Duration::ZERO, "there was never one");
        lead.took(100);
        lead.wait(102).await;
        assert!(before.elapsed() >= LONGEST, "it may come yet");
        let before = Instant::now();
        lead.wait(100 + KEEPS_UP + 2).await;
        assert_eq!(before.elapsed(), Duration::ZERO, "it does not");
    }
}
