//! Snapshot of a packaged stream: the playlist and its rendered texts, immutable and shared by all readers.

use std::sync::{Arc, OnceLock};

use media::cmaf::SegmentWindow;
use media::hls;

use super::request::MEDIA_PLAYLIST;
use crate::precompressed::Precompressed;

/// The state of a packaged stream at one moment. Immutable, and cheap to share.
///
/// A text is rendered on first use, once for all requests. A part that no request asks for costs no rendering.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Segments, parts and init segments.
    pub playlist: Arc<SegmentWindow>,
    media: Text,
    delta: Text,
    multivariant: Text,
}

/// A text, rendered on first use; shared by all snapshots for which it is the same.
type Text = Arc<OnceLock<Option<Precompressed>>>;

impl Snapshot {
    /// The media playlist; `None` before the first complete segment.
    pub fn media(&self) -> Option<&Precompressed> {
        self.media.get_or_init(|| hls::media_playlist(&self.playlist).map(Precompressed::new)).as_ref()
    }

    /// The delta update (RFC 8216bis §6.2.5.1): the media playlist without the older segments, which a client already has.
    pub fn delta(&self) -> Option<&Precompressed> {
        self.delta.get_or_init(|| hls::delta_update(&self.playlist).map(Precompressed::new)).as_ref()
    }

    /// The multivariant playlist; `None` before the first complete segment.
    pub fn multivariant(&self) -> Option<&Precompressed> {
        let render = || hls::multivariant(&self.playlist, MEDIA_PLAYLIST).map(Precompressed::new);
        self.multivariant.get_or_init(render).as_ref()
    }

    /// The next snapshot, of `playlist`. Keeps the texts that have not changed.
    pub(super) fn followed_by(&self, playlist: Arc<SegmentWindow>) -> Self {
        let lists = |p: &SegmentWindow| (p.segments.first().map(|s| s.msn), p.segments.last().map(|s| s.msn), p.ended);
        if lists(&self.playlist) != lists(&playlist) {
            return Self { playlist, ..Self::default() };
        }
        let multivariant = self.multivariant.clone();
        match playlist.low_latency {
            true => Self { playlist, multivariant, ..Self::default() },
            // Without parts, the texts depend on complete segments only.
            false => Self { playlist, multivariant, media: self.media.clone(), delta: self.delta.clone() },
        }
    }
}
