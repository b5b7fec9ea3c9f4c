//! One packaged stream: the newest snapshot, requests that wait for the next one, and recent clients.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use media::hls::Resource;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::recent_clients::RecentClients;
use super::request::{BlockingRequest, Directives, Request, Response, Unavailable};
use super::snapshot::Snapshot;
use crate::hub::{HubStream, PublishState};
use crate::precompressed::Precompressed;

/// A packaged stream.
#[derive(Debug)]
pub struct HlsStream {
    stream: Arc<HubStream>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    clients: RecentClients,
    ended_playlist_ttl: Duration,
    stop: CancellationToken,
}

/// Result of a blocking request.
enum BlockingResult {
    /// The snapshot that contains the requested part or segment.
    Ready(Arc<Snapshot>),
    /// The request names a part or segment too far ahead for a client that knows the playlist.
    TooFarAhead,
    /// The part or segment did not arrive in time, or never will.
    TimedOut,
}

impl HlsStream {
    pub(super) fn new(stream: Arc<HubStream>, ended_playlist_ttl: Duration, stop: CancellationToken) -> Arc<Self> {
        let (snapshot, clients) = (watch::Sender::default(), RecentClients::default());
        Arc::new(Self { stream, snapshot, clients, ended_playlist_ttl, stop })
    }

    /// The stream that it packages.
    pub fn stream(&self) -> &Arc<HubStream> {
        &self.stream
    }

    /// The newest snapshot.
    pub fn now(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// Answers `request`. Waits at most `first_segment_wait` for the first segment of a stream that is on air, and at most three target durations
    /// for a part or a newer playlist.
    ///
    /// # Errors
    /// [`Unavailable`] if there is nothing to serve.
    pub async fn respond(&self, request: Request, first_segment_wait: Duration) -> Result<Response, Unavailable> {
        match request {
            Request::Multivariant => {
                self.playlist(Directives::default(), Snapshot::multivariant, first_segment_wait).await
            }
            Request::Media(directives) => {
                let text = if directives.skip { Snapshot::delta } else { Snapshot::media };
                self.playlist(directives, text, first_segment_wait).await
            }
            Request::Resource(resource) => {
                self.resource(resource).await.map(|pieces| Response::Media { resource, pieces })
            }
        }
    }

    async fn playlist(
        &self,
        directives: Directives,
        text: fn(&Snapshot) -> Option<&Precompressed>,
        first_segment_wait: Duration,
    ) -> Result<Response, Unavailable> {
        if let PublishState::Ended { since } = self.stream.state()
            && since.elapsed() > self.ended_playlist_ttl
        {
            return Err(Unavailable::Offline);
        }
        let playable = self.playable(first_segment_wait).await;
        let mut snapshot = playable.ok_or_else(|| self.unavailable(Unavailable::NoSegment))?;
        if let Some(wanted) = directives.block_for {
            snapshot = match self.blocking_reload(snapshot, wanted).await {
                BlockingResult::Ready(snapshot) => snapshot,
                BlockingResult::TooFarAhead => return Err(Unavailable::TooFarAhead),
                BlockingResult::TimedOut => return Err(self.unavailable(Unavailable::NoUpdate)),
            };
        }
        let text = text(&snapshot).cloned().ok_or_else(|| self.unavailable(Unavailable::NoSegment))?;
        let target_duration = Duration::from_secs(snapshot.playlist.target_duration);
        Ok(Response::Playlist { text, max_age: max_age(target_duration, directives.block_for.is_some()) })
    }

    async fn resource(&self, resource: Resource) -> Result<Vec<Bytes>, Unavailable> {
        let snapshot = match resource {
            Resource::Part(msn, index) => match self.part(msn, index).await {
                BlockingResult::Ready(snapshot) => snapshot,
                BlockingResult::TooFarAhead | BlockingResult::TimedOut => {
                    return Err(self.unavailable(Unavailable::NoPart));
                }
            },
            Resource::Init(_) | Resource::Segment(_) => self.now(),
        };
        let found = match resource {
            Resource::Init(id) => snapshot.playlist.init(id).map(|bytes| vec![bytes]),
            Resource::Segment(msn) => snapshot.playlist.segment(msn),
            Resource::Part(msn, index) => snapshot.playlist.part(msn, index),
        };
        found.ok_or(Unavailable::NotHeld)
    }

    /// `on_air` if the stream is on air or within its grace period, else [`Unavailable::Offline`].
    fn unavailable(&self, on_air: Unavailable) -> Unavailable {
        match self.stream.state() {
            PublishState::Idle | PublishState::Ended { .. } => Unavailable::Offline,
            PublishState::Live { .. } | PublishState::Disconnected { .. } => on_air,
        }
    }

    /// Waits at most `timeout` for a playlist that a player can start with. `None` if there is none by then.
    ///
    /// A stream that restarts after its end has only the ended playlist until its first new segment is complete.
    pub async fn playable(&self, timeout: Duration) -> Option<Arc<Snapshot>> {
        let is_on_air = !matches!(self.stream.state(), PublishState::Idle | PublishState::Ended { .. });
        let timeout = if is_on_air { timeout } else { Duration::ZERO };
        self.wait(timeout, |s| !(s.playlist.segments.is_empty() || s.playlist.ended && is_on_air)).await
    }

    /// Waits until the playlist contains `wanted`, starting with `snapshot`. An ended playlist is returned at once (RFC 8216bis §6.2.5.2).
    ///
    /// All requests for the same part wake once, when a snapshot contains it, and share the rendered text.
    async fn blocking_reload(&self, snapshot: Arc<Snapshot>, wanted: BlockingRequest) -> BlockingResult {
        let BlockingRequest { msn, part } = wanted;
        let has_come = |s: &Snapshot| s.playlist.ended || s.playlist.contains(msn, part);
        if has_come(&snapshot) {
            return BlockingResult::Ready(snapshot);
        }
        if snapshot.playlist.is_too_far_ahead(msn, part) {
            return BlockingResult::TooFarAhead;
        }
        let timeout = snapshot.playlist.blocking_timeout();
        drop(snapshot);
        self.wait(timeout, has_come).await.map_or(BlockingResult::TimedOut, BlockingResult::Ready)
    }

    /// The snapshot with the part. Waits for the part if it is the next one, which the preload hint names (RFC 8216bis §4.4.5.3).
    async fn part(&self, msn: u64, index: u64) -> BlockingResult {
        let now = self.now();
        if now.playlist.preload_hint() != Some((msn, index)) || now.playlist.segments.is_empty() {
            return BlockingResult::Ready(now);
        }
        let timeout = now.playlist.blocking_timeout();
        drop(now);
        let is_past = |s: &Snapshot| s.playlist.preload_hint() != Some((msn, index));
        self.wait(timeout, is_past).await.map_or(BlockingResult::TimedOut, BlockingResult::Ready)
    }

    async fn wait(&self, timeout: Duration, until: impl Fn(&Snapshot) -> bool) -> Option<Arc<Snapshot>> {
        let mut snapshots = self.snapshot.subscribe();
        let ready = snapshots.wait_for(|snapshot| until(snapshot));
        let found = tokio::select! {
            biased;
            found = ready => found.ok().map(|snapshot| snapshot.clone()),
            () = tokio::time::sleep(timeout) => None,
            () = self.stop.cancelled() => None,
        };
        found
    }

    /// Counts a client as a viewer from `now` until it has sent no request for a while. `client`: a hash that identifies it.
    pub fn on_request(&self, client: u64, now: Instant) {
        if self.clients.on_request(client, now) {
            self.count_viewers(now);
        }
    }

    /// Sets the stream's viewer count to the number of recent clients.
    pub(super) fn count_viewers(&self, now: Instant) {
        self.stream.set_viewers(PROTOCOL, self.clients.count(now));
    }

    /// Publishes `snapshot` to all readers and wakes waiting requests.
    pub(super) fn publish(&self, snapshot: Snapshot) {
        self.snapshot.send_replace(Arc::new(snapshot));
    }

    /// Stops the segmenter and all waiting requests.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Cancelled by [`stop`](Self::stop), or when the server shuts down.
    pub(super) fn stopped(&self) -> &CancellationToken {
        &self.stop
    }
}

/// The protocol name under which viewers are counted.
const PROTOCOL: &str = "hls";

/// How long a shared cache may serve a playlist. The URL of a blocking request names a segment or part that the playlist has, so the response
/// stays right for as long as its segments are held: six target durations are recommended (RFC 8216bis appendix B.1). Any other playlist is the newest
/// for half a target duration, which is a player's reload interval where nothing has changed (§6.3.4); in whole seconds, and at least one.
fn max_age(target_duration: Duration, is_blocking: bool) -> Duration {
    if is_blocking { 6 * target_duration } else { (target_duration / 2).max(Duration::from_secs(1)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caching_follows_the_target_duration() {
        for (target, is_blocking, expected) in
            [(2, true, 12), (8, true, 48), (1, false, 1), (2, false, 1), (8, false, 4)]
        {
            let max_age = max_age(Duration::from_secs(target), is_blocking);
            assert_eq!(max_age.as_secs(), expected, "{target} {is_blocking}");
        }
    }
}
