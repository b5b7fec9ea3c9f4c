//! Presentation of pictures and audio: in a window, or headless into the statistics only.

pub mod headless;
mod overlay;
mod sound;
pub mod window;

use media::frame_counter;
use media::latency::Stage;

use crate::decode::DecodedFrame;
use crate::player_context::PlayerContext;
use crate::stats::PresentedFrame;

/// Stamps and counts a picture that is presented now.
fn presented(player: &PlayerContext, ready: &mut DecodedFrame) {
    let now = player.clock.now();
    ready.stamps.stamp(Stage::Presented, player.wall_clock_at(now));
    if let Some((trace, unit)) = player.trace.as_ref().zip(ready.unit) {
        for stage in [Stage::Buffered, Stage::Decoded, Stage::Presented] {
            ready.stamps.at(stage).into_iter().for_each(|at| trace.note(stage.name(), unit, "", at));
        }
    }
    let picture = &ready.picture;
    let (luma, stride) = picture.plane(0);
    let mark = frame_counter::read(luma, stride, picture.width() as usize, picture.height() as usize);
    let playback = player.playback.lock();
    let (on_time, skipped) = (!playback.is_skipped_over(now, ready.timeline, picture.pts), playback.skipped_unasked());
    drop(playback);
    let mut stats = player.stats.lock();
    stats.switches.presented(now, picture.pts);
    let unit = ready.unit.map(|unit| (unit.track, unit.dts));
    stats.presented(now, &PresentedFrame { epoch: ready.epoch, unit, stamps: &ready.stamps, mark, on_time, skipped });
}
