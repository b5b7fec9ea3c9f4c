//! How much media arrives at once by a playlist, and what of it the pipeline was told.
//!
//! A playlist's target durations change where a server begins its list anew, as for a broadcast with shorter GOPs. A viewer that kept the
//! old ones would stay behind by them.

use std::time::Duration;

use media::hls::MediaPlaylist;

use super::super::{Closed, EventSender, PathEvent};

/// The last burst that was reported.
#[derive(Debug)]
pub(super) struct ReportedBurst {
    by_parts: bool,
    last: Duration,
}

impl ReportedBurst {
    /// That of the playlist by which the path was opened.
    pub(super) fn new(by_parts: bool, first: &MediaPlaylist) -> Self {
        Self { by_parts, last: burst(by_parts, first) }
    }

    /// The duration of a part or segment.
    pub(super) fn last(&self) -> Duration {
        self.last
    }

    /// Reports the burst of a newer playlist if it is another. To be called before a unit of that playlist is reported.
    pub(super) async fn update(&mut self, playlist: &MediaPlaylist, events: &EventSender) -> Result<(), Closed> {
        let burst = burst(self.by_parts, playlist);
        if std::mem::replace(&mut self.last, burst) == burst {
            return Ok(());
        }
        events.send(PathEvent::BurstChanged(burst)).await
    }
}

fn burst(by_parts: bool, playlist: &MediaPlaylist) -> Duration {
    playlist.part_target.filter(|_| by_parts).unwrap_or(playlist.target_duration)
}
