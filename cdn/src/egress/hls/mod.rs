//! HLS (RFC 8216, RFC 8216bis): one segmenter per stream turns the hub's access units into fMP4 segments and playlists, in memory.
//!
//! The task of a segmenter is a subscriber with a cursor. It starts when its stream is opened and outlives every publisher, so media
//! sequence numbers continue. It publishes immutable snapshots that all readers share. A request waits only if it blocks for the next part or
//! playlist. `media::hls` renders the playlists; nothing here knows HTTP.

mod hls_stream;
mod listed_units;
mod recent_clients;
mod request;
mod settings;
mod snapshot;
mod stream_segmenter;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

pub use hls_stream::HlsStream;
pub use request::{
    BlockingRequest, Directives, InvalidDirective, MEDIA_PLAYLIST, MULTIVARIANT_PLAYLIST, Request, Response,
    Unavailable,
};
pub use settings::HlsSettings;
pub use snapshot::Snapshot;

use crate::hub::{Hub, HubStream};

/// The segmenters of all streams of a hub.
#[derive(Debug)]
pub struct Hls {
    hub: Arc<Hub>,
    settings: HlsSettings,
    streams: RwLock<BTreeMap<String, Arc<HlsStream>>>,
    /// Stops all segmenters.
    stop: CancellationToken,
}

impl Hls {
    /// Creates it without segmenters, which [`run`](Self::run) starts.
    pub fn new(hub: Arc<Hub>, settings: HlsSettings) -> Arc<Self> {
        Arc::new(Self { hub, settings, streams: RwLock::default(), stop: CancellationToken::new() })
    }

    /// How streams are packaged.
    pub fn settings(&self) -> &HlsSettings {
        &self.settings
    }

    /// The packaged stream called `name`; `None` if the hub has no such stream. Call it within a tokio runtime.
    pub fn stream(&self, name: &str) -> Option<Arc<HlsStream>> {
        let stream = self.hub.stream(name)?;
        let known =
            self.streams.read().get(name).filter(|hls_stream| Arc::ptr_eq(hls_stream.stream(), &stream)).cloned();
        // A request may arrive before `run` is notified of a new stream.
        known.or_else(|| {
            self.follow_hub();
            self.streams.read().get(name).cloned()
        })
    }

    /// Runs one segmenter for every stream of the hub, until `stop` is cancelled.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let _ends_all = self.stop.clone().drop_guard();
        let mut opened = self.hub.streams_changed();
        loop {
            opened.borrow_and_update();
            self.follow_hub();
            tokio::select! {
                () = stop.cancelled() => return,
                changed = opened.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Starts segmenters of new streams and drops those of removed streams, which end by themselves.
    fn follow_hub(&self) {
        // Read the hub under the lock, so that of two concurrent calls the later one has the newer list.
        let mut hls_streams = self.streams.write();
        let streams = self.hub.streams();
        hls_streams.retain(|_, old| {
            let is_held = streams.iter().any(|stream| Arc::ptr_eq(stream, old.stream()));
            if !is_held {
                old.stop();
            }
            is_held
        });
        for stream in streams {
            hls_streams.entry(stream.name().to_owned()).or_insert_with(|| self.start(stream));
        }
    }

    fn start(&self, stream: Arc<HubStream>) -> Arc<HlsStream> {
        let hls_stream = HlsStream::new(stream, self.settings.ended_playlist_ttl, self.stop.child_token());
        tokio::spawn(stream_segmenter::run(hls_stream.clone(), self.settings.clone()));
        hls_stream
    }
}
