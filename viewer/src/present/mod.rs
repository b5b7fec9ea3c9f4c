//! Where pictures go: a window, or nowhere but the statistics.

pub mod headless;
mod overlay;
mod sound;
pub mod window;

use media::latency::Stage;
use media::marker;

use crate::decode::Ready;
use crate::player::Player;

/// Counts a picture as presented now.
fn presented(player: &Player, ready: &mut Ready) {
    let now = player.clock.now();
    ready.stamps.stamp(Stage::Presented, player.wall_at(now));
    let picture = &ready.picture;
    let (luma, stride) = picture.plane(0);
    let mark = marker::read(luma, stride, picture.width() as usize, picture.height() as usize);
    let is_late = player.playback.lock().is_left_behind(now, ready.timeline, picture.pts);
    let mut stats = player.stats.lock();
    stats.switches.presented(now, picture.pts);
    stats.presented(now, ready.epoch, &ready.stamps, mark, !is_late);
}
