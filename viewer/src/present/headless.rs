//! Presentation without a window: every decoded picture counts as presented when it is due.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use crate::decode::DecodedFrame;
use crate::player_context::PlayerContext;

/// Presents pictures until there are no more, the viewer stops, or `is_over` returns true.
pub fn run(player: &PlayerContext, pictures: &Receiver<DecodedFrame>, is_over: impl Fn() -> bool) {
    while !player.is_stopping() && !is_over() {
        player.playback.lock().adjust(player.clock.now());
        match pictures.recv_timeout(TICK) {
            Ok(mut ready) => {
                wait_until_due(player, &ready, &is_over);
                super::presented(player, &mut ready);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn wait_until_due(player: &PlayerContext, ready: &DecodedFrame, is_over: impl Fn() -> bool) {
    while !player.is_stopping() && !is_over() {
        let now = player.clock.now();
        let due = player.playback.lock().due(ready.timeline, ready.picture.pts);
        let Some(wait) = due.map(|due| due.saturating_sub(now)).filter(|wait| !wait.is_zero()) else { return };
        // In short steps: the due time changes with the speed.
        std::thread::sleep(wait.min(TICK));
    }
}

/// How often the stop request is checked.
const TICK: Duration = Duration::from_millis(20);
