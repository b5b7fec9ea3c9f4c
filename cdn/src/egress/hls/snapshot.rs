//! What a stream offers at one moment: the playlist and its texts, immutable and shared by all who read it.

use std::sync::{Arc, OnceLock};

use media::cmaf::SegmentWindow;
use media::hls;

use super::request::MEDIA_PLAYLIST;
use crate::precompressed::Precompressed;

/// What is served of a stream at one moment. Everything in it is shared, and what is asked for does not change.
///
/// A text is rendered on first use, once for all who ask: a part that nobody waits for costs no playlist.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Segments, parts and init segments.
    pub playlist: Arc<SegmentWindow>,
    media: Text,
    delta: Text,
    multivariant: Text,
}

/// Shared with the snapshots of which it is equally true.
type Text = Arc<OnceLock<Option<Precompressed>>>;

impl Snapshot {
    /// The media playlist; `None` before the first complete segment.
    pub fn media(&self) -> Option<&Precompressed> {
        self.media.get_or_init(|| hls::media_playlist(&self.playlist).map(Precompressed::new)).as_ref()
    }

    /// The delta update (RFC 8216bis §6.2.5.1): the media playlist without what a client has that read it a moment ago.
    pub fn delta(&self) -> Option<&Precompressed> {
        self.delta.get_or_init(|| hls::delta_update(&self.playlist).map(Precompressed::new)).as_ref()
    }

    /// The multivariant playlist; `None` before the first complete segment.
    pub fn multivariant(&self) -> Option<&Precompressed> {
        let render = || hls::multivariant(&self.playlist, MEDIA_PLAYLIST).map(Precompressed::new);
        self.multivariant.get_or_init(render).as_ref()
    }

    /// The snapshot of `playlist`, which comes after this one; it keeps the texts that are still true.
    pub(super) fn followed_by(&self, playlist: Arc<SegmentWindow>) -> Self {
        let lists = |p: &SegmentWindow| (p.segments.first().map(|s| s.msn), p.segments.last().map(|s| s.msn), p.ended);
        if lists(&self.playlist) != lists(&playlist) {
            return Self { playlist, ..Self::default() };
        }
        let multivariant = self.multivariant.clone();
        match playlist.low_latency {
            true => Self { playlist, multivariant, ..Self::default() },
            // Without parts, the texts are about complete segments alone.
            false => Self { playlist, multivariant, media: self.media.clone(), delta: self.delta.clone() },
        }
    }
}
