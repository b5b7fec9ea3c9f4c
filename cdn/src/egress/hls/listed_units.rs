//! Tracks which units the playlist lists, to stamp when their part or segment became available.

use std::sync::Arc;

use media::AccessUnit;
use media::cmaf::SegmentWindow;
use media::latency::Stage;

use crate::hub::HubStream;

/// Units that are not in a listed part or segment yet.
#[derive(Debug, Default)]
pub(super) struct ListedUnits {
    /// The playlist of the previous comparison.
    playlist: Arc<SegmentWindow>,
    unlisted: Vec<AccessUnit>,
    /// Units in a listed part, but not in a listed segment yet.
    in_parts: Vec<AccessUnit>,
}

impl ListedUnits {
    /// Updates the lists after the segmenter processed `unit` and made `playlist`. A part or segment new in it ended before that unit.
    pub(super) fn take(&mut self, stream: &HubStream, playlist: &Arc<SegmentWindow>, unit: &AccessUnit) {
        if !Arc::ptr_eq(&self.playlist, playlist) {
            let newest = |p: &SegmentWindow| p.segments.last().map(|segment| segment.msn);
            let parts = |p: &SegmentWindow| p.open.as_ref().map(|open| (open.msn, open.parts.len()));
            if parts(playlist).is_some_and(|(_, count)| count > 0) && parts(playlist) != parts(&self.playlist)
                || newest(playlist) != newest(&self.playlist)
            {
                stream.latency().on_stage(&self.unlisted, Stage::InPart);
                self.in_parts.append(&mut self.unlisted);
            }
            if newest(playlist) != newest(&self.playlist) {
                stream.latency().on_stage(&self.in_parts, Stage::InSegment);
                self.in_parts.clear();
            }
            self.playlist = playlist.clone();
        }
        if self.unlisted.len() + self.in_parts.len() < MAX_UNLISTED {
            // Without the payload, so that the memory is not held longer than the window holds it.
            self.unlisted.push(AccessUnit { payload: bytes::Bytes::new(), ..unit.clone() });
        }
    }
}

/// Maximum number of units: a segment of ten seconds at the highest frame rates of video and audio.
const MAX_UNLISTED: usize = 4096;
