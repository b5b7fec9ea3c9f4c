//! A path by RTMP: receives messages, returns access units.

use std::sync::Arc;
use std::time::{Duration, Instant};

use command::LogLimiter;
use media::latency::DeliveryMode;
use media::path_merge::Predecessor;
use media::select::PathProfile;
use media::{AccessUnit, Catalog, Epoch, Timestamp, TrackOrder, flv};
use net::rtmp::{self, Message, Url, client};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::path::{Cost, OpenContext, Opening, PathSource, ServerOffer, Source, Transport, UrlPaths, UrlRequest};
use super::reach::Reach;
use super::timing_poll::run_alongside;
use super::{Closed, Error, EventSender, PathEvent, Position, ResumePoint, port_probe, random_epoch};

/// RTMP from a server.
pub(super) static TRANSPORT: Transport = Transport {
    name: "rtmp",
    help: "RTMP from the server",
    label: "RTMP",
    profile: PathProfile { rank: 30, can_idle: false, min_stall_timeout: Duration::from_millis(300) },
    delivery: DeliveryMode::Units,
    states_predecessor: false,
    cost: Cost::Server,
    from_url,
    from_server,
};

/// A stream at an RTMP server.
#[derive(Debug)]
struct RtmpSource(Url);

impl PathSource for RtmpSource {
    fn address(&self) -> String {
        self.0.revealed()
    }

    fn open<'a>(&'a self, context: OpenContext, events: &'a EventSender) -> Opening<'a> {
        Box::pin(async move {
            let (position, url, reach) = (context.position.clone(), self.0.clone(), context.http.reach().clone());
            let is_given = context.api.is_none();
            let result = run_alongside(run(url, position, reach, events), context.api, &context.position, events).await;
            match result {
                Err(error) if is_given && context.position.resume_point().is_none() => {
                    Err(port_probe::explain(&self.address(), error).await)
                }
                result => result,
            }
        })
    }
}

fn from_url(request: &UrlRequest<'_>) -> UrlPaths {
    let source = |url| vec![Arc::new(RtmpSource(url)) as Source];
    let is_rtmp = matches!(request.scheme, "rtmp" | "rtmps");
    is_rtmp.then(|| rtmp::url::parse(request.url).map(source).map_err(|error| error.to_string()))
}

fn from_server(offer: &ServerOffer<'_>) -> Option<Source> {
    let url = rtmp::url::parse(offer.info.urls.rtmp.as_ref()?).ok()?;
    Some(Arc::new(RtmpSource(url)))
}

/// Plays `url` until the connection fails. A Nearcast server resumes after `position`.
async fn run(url: Url, position: Position, reach: Reach, events: &EventSender) -> Result<(), Error> {
    let address = url.revealed();
    let failed = |source| failed(&url, source);
    let resume = position.resume_point();
    let mut demuxer = MessageDemuxer::new(random_epoch(), resume.as_ref());
    let asked = Url { name: with_resume(&url.name, resume), ..url.clone() };
    let io = timeout(CONNECT, connect(&url, &reach))
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {CONNECT:?}").into()));
    let io = io.map_err(|error| Error::Unreachable { address: address.clone(), reason: error.to_string() })?;
    let mut player = client::play_over(io, &asked, client::ClientOptions::default()).await.map_err(failed)?;
    demuxer.states_gaps = player.server_is_nearcast();
    debug!(address, "connected");
    if events.send(PathEvent::Opened { burst: Duration::ZERO, complete: false, transport: None }).await.is_err() {
        return Ok(());
    }
    let mut has_media = false;
    loop {
        let message = match player.next().await {
            Ok(Some(message)) => message,
            Ok(None) => return Err(failed(rtmp::Error::Closed { waiting_for: "the next message" })),
            // A server without a publisher may send nothing for any time; that is not a failure.
            Err(rtmp::Error::Timeout { .. }) if !has_media => return Err(Error::NotLive { address }),
            Err(source) => return Err(failed(source)),
        };
        has_media |= matches!(message, Message::Audio { .. } | Message::Video { .. });
        if take(&mut demuxer, message, events).await.is_err() {
            return Ok(());
        }
    }
}

async fn connect(url: &Url, reach: &Reach) -> Result<TcpStream, Box<dyn std::error::Error + Send + Sync>> {
    let addresses = reach.addresses(&url.host, url.port).await?;
    let io = TcpStream::connect(&addresses[..]).await?;
    io.set_nodelay(true)?;
    Ok(io)
}

async fn take(demuxer: &mut MessageDemuxer, message: Message, events: &EventSender) -> Result<(), Closed> {
    if matches!(message, Message::EndOfStream) {
        demuxer.end();
        return events.send(PathEvent::NotLive).await;
    }
    for Arrived { catalog, unit, predecessor, is_after_gap } in demuxer.take(message) {
        if is_after_gap {
            events.send(PathEvent::Gap).await?;
        }
        events.send(PathEvent::Unit(catalog, unit, predecessor)).await?;
    }
    Ok(())
}

fn failed(url: &Url, source: rtmp::Error) -> Error {
    let name = rtmp::url::split_query(&url.name).0;
    match source {
        rtmp::Error::Refused { code, .. } if code == "NetStream.Play.StreamNotFound" => {
            Error::UnknownStream { address: url.tc_url(), name }
        }
        source => Error::Rtmp { address: url.revealed(), source },
    }
}

/// The play name with a query that asks a Nearcast server to resume after `resume`; other servers ignore it.
fn with_resume(name: &str, resume: Option<ResumePoint>) -> String {
    let Some((epoch, last)) = resume.filter(|(_, last)| !last.is_empty()) else { return name.to_owned() };
    let after: Vec<String> = last.iter().map(|(track, dts)| format!("{track}:{}", dts.as_millis())).collect();
    let separator = if name.contains('?') { '&' } else { '?' };
    format!("{name}{separator}nearcastEpoch={epoch}&nearcastAfter={}", after.join(","))
}

/// Demuxes RTMP messages into access units, and keeps their catalog.
struct MessageDemuxer {
    demuxer: flv::Demuxer,
    catalog: Arc<Catalog>,
    skip_log: LogLimiter<String>,
    /// Whether the server states epochs.
    named: bool,
    /// The broadcast before this connection, and its newest DTS.
    seen: Option<(Epoch, Timestamp)>,
    /// Whether the server states predecessors where the order of units does not imply them. Other servers skip units without notice.
    states_gaps: bool,
    order: TrackOrder,
    /// Order of the units received over this connection.
    newest: TrackOrder,
}

/// A received unit.
struct Arrived {
    catalog: Arc<Catalog>,
    unit: AccessUnit,
    predecessor: Predecessor,
    /// Whether units before it are missing that this connection could have delivered.
    is_after_gap: bool,
}

impl MessageDemuxer {
    /// `fallback` is the epoch if the server states none; `resume` is where playback is.
    fn new(fallback: Epoch, resume: Option<&ResumePoint>) -> Self {
        Self {
            seen: resume.and_then(|(epoch, last)| Some((*epoch, last.iter().map(|(_, dts)| *dts).max()?))),
            demuxer: flv::Demuxer::new(fallback),
            catalog: Arc::new(Catalog::new(fallback)),
            skip_log: LogLimiter::new(|skipped, error: &String| {
                warn!(error, skipped, "skipped a message that cannot be parsed");
            }),
            named: false,
            states_gaps: false,
            order: TrackOrder::default(),
            newest: TrackOrder::default(),
        }
    }

    fn take(&mut self, message: Message) -> Vec<Arrived> {
        let arrived = Instant::now();
        let events = match message {
            Message::Audio { timestamp, body } => self.demuxer.audio(timestamp, body, arrived),
            Message::Video { timestamp, body } => self.demuxer.video(timestamp, body, arrived),
            Message::Metadata(metadata) => {
                self.metadata(metadata);
                return Vec::new();
            }
            Message::Gap(gap) => {
                self.gap(&gap);
                return Vec::new();
            }
            Message::EndOfStream | Message::Peer(_) | Message::Timing(_) => return Vec::new(),
        };
        match events {
            Ok(events) => self.apply(events),
            Err(error) => {
                self.skip(&error);
                Vec::new()
            }
        }
    }

    /// Tag bodies are independent: what cannot be parsed of one is skipped.
    fn skip(&mut self, error: &flv::Error) {
        self.skip_log.note(Instant::now(), error.to_string());
    }

    fn apply(&mut self, events: Vec<flv::Event>) -> Vec<Arrived> {
        let mut units = Vec::new();
        for event in events {
            match event {
                flv::Event::Track(track) => {
                    if self.catalog.track(track.id) != Some(&track) {
                        Arc::make_mut(&mut self.catalog).set_track(track);
                    }
                }
                flv::Event::Unit(mut unit) => {
                    unit.epoch = self.catalog.epoch;
                    units.push(self.arrived(unit));
                }
                flv::Event::ClockCorrected(track, correction) => {
                    debug!(%track, %correction, "timestamps are corrected");
                }
                flv::Event::EndOfSequence(track) => debug!(%track, "end of sequence"),
                flv::Event::Refused(error) => self.skip(&error),
            }
        }
        units
    }

    fn arrived(&mut self, unit: AccessUnit) -> Arrived {
        let before = self.newest.newest(unit.epoch, unit.track);
        self.newest.follow(&unit);
        let stated = self.order.follow(&unit);
        let predecessor = if self.states_gaps { stated.into() } else { Predecessor::PathOrder };
        let is_after_gap = predecessor.dts().zip(before).is_some_and(|(predecessor, before)| predecessor > before);
        Arrived { catalog: self.catalog.clone(), unit, predecessor, is_after_gap }
    }

    /// The server skipped units, because it never received them or because this viewer was too slow; or it begins in the middle of a broadcast.
    fn gap(&mut self, gap: &rtmp::Gap) {
        for (track, predecessor) in &gap.predecessors {
            self.order.state(gap.epoch, *track, *predecessor);
        }
    }

    fn metadata(&mut self, metadata: rtmp::Metadata) {
        if let Some(epoch) = metadata.epoch {
            self.demuxer.set_exact(true);
            self.named = true;
            if epoch != self.catalog.epoch {
                self.begin(epoch);
                // RTMP timestamps wrap every 49.7 days, and a broadcast may be older than this connection.
                let seen = self.seen.filter(|(seen, _)| *seen == epoch).map(|(_, dts)| dts);
                if let Some(near) = metadata.dts.or(seen) {
                    self.demuxer.resume_near(near);
                }
            }
        }
        let catalog = Arc::make_mut(&mut self.catalog);
        catalog.clock = metadata.clock;
        catalog.metadata = metadata.values;
    }

    /// The publisher has left. The next one may have other tracks and another clock, which only Nearcast servers state.
    fn end(&mut self) {
        if !self.named {
            let new = Self { states_gaps: self.states_gaps, ..Self::new(random_epoch(), None) };
            let old = std::mem::replace(self, new);
            self.skip_log = old.skip_log;
        } else if !self.states_gaps {
            self.forget_tracks();
        }
    }

    /// Begins another epoch. A Nearcast server announces all its tracks after this; in which order another one does is not known.
    fn begin(&mut self, epoch: Epoch) {
        if self.states_gaps {
            self.forget_tracks();
        }
        self.demuxer.set_epoch(epoch);
        let catalog = Arc::make_mut(&mut self.catalog);
        (catalog.epoch, catalog.clock) = (epoch, None);
    }

    fn forget_tracks(&mut self) {
        self.demuxer.forget_tracks();
        Arc::make_mut(&mut self.catalog).tracks.clear();
    }
}

/// Name resolution and TCP together.
const CONNECT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use media::TrackId;

    use super::*;

    #[test]
    fn the_play_name_carries_the_resume_point() {
        let resume =
            || (Epoch(0xab), vec![(TrackId::VIDEO, Timestamp::from_millis(120)), (TrackId::AUDIO, Timestamp::ZERO)]);
        for (name, resume, wanted) in [
            ("live", None, "live"),
            ("live", Some((Epoch(1), vec![])), "live"),
            ("live", Some(resume()), "live?nearcastEpoch=00000000000000ab&nearcastAfter=v0:120,a0:0"),
            ("live?a=b", Some(resume()), "live?a=b&nearcastEpoch=00000000000000ab&nearcastAfter=v0:120,a0:0"),
        ] {
            assert_eq!(with_resume(name, resume), wanted);
        }
    }

    #[test]
    fn a_stated_epoch_applies_to_later_units() {
        let mut demuxer = MessageDemuxer::new(Epoch(1), None);
        let metadata = rtmp::Metadata {
            epoch: Some(Epoch(2)),
            clock: Some(media::WallClock::from_micros(5)),
            ..Default::default()
        };
        assert!(demuxer.take(Message::Metadata(metadata)).is_empty());
        assert_eq!((demuxer.catalog.epoch, demuxer.catalog.clock.map(|c| c.as_micros())), (Epoch(2), Some(5)));
    }

    /// What a server sends of a broadcast: metadata, the decoder configurations, then a unit of each track. Returns the tracks of each
    /// unit's catalog.
    fn broadcast(demuxer: &mut MessageDemuxer, epoch: Option<u64>, tracks: &[Message]) -> Vec<Vec<media::Track>> {
        let mut messages = vec![Message::Metadata(rtmp::Metadata { epoch: epoch.map(Epoch), ..Default::default() })];
        messages.extend_from_slice(tracks);
        messages.extend(tracks.iter().map(|configuration| match configuration {
            Message::Video { .. } => {
                let body = Bytes::from_static(&[0x17, 1, 0, 0, 0, 0, 0, 0, 2, 0x65, 0x88]);
                Message::Video { timestamp: 40, body }
            }
            _ => Message::Audio { timestamp: 40, body: Bytes::from_static(&[0xaf, 1, 0x21, 0x10]) },
        }));
        let units = messages.into_iter().flat_map(|message| demuxer.take(message)).collect::<Vec<_>>();
        assert_eq!(units.len(), tracks.len());
        units.iter().map(|arrived| arrived.catalog.tracks.clone()).collect()
    }

    #[test]
    fn a_broadcast_has_the_tracks_that_its_publisher_sends() {
        const RECORD: &[u8] = &[
            0x17, 0, 0, 0, 0, 1, 0x64, 0, 0x15, 0xff, 0xe1, 0, 25, 0x67, 0x64, 0, 0x15, 0xac, 0xd9, 0x41, 0x43, 0x3f,
            0x26, 2, 0, 0, 3, 0, 2, 0, 0, 3, 2, 0x83, 0xe2, 0x85, 0x32, 0xc0, 1, 0, 6, 0x68, 0xeb, 0xe3, 0xcb, 0x22,
            0xc0,
        ];
        let video = Message::Video { timestamp: 0, body: Bytes::from_static(RECORD) };
        let [stereo, mono] = [&[0xaf, 0, 0x12, 0x10], &[0xaf, 0, 0x12, 0x08]]
            .map(|record| Message::Audio { timestamp: 0, body: Bytes::from_static(record) });
        let both = [video.clone(), stereo];
        let broadcasts: [&[Message]; 7] =
            [&both, &both[1..], &both, &both[..1], &both, &[video.clone(), mono.clone()], &[mono]];
        // A Nearcast server, another one that passes the epochs on, and one that has none. Only the first changes the epoch without an end.
        for (states_gaps, states_epochs) in [(true, true), (false, true), (false, false)] {
            let mut demuxer = MessageDemuxer { states_gaps, ..MessageDemuxer::new(Epoch(1), None) };
            for (epoch, tracks) in (2..).zip(broadcasts) {
                if !states_gaps {
                    demuxer.end();
                }
                let found = broadcast(&mut demuxer, states_epochs.then_some(epoch), tracks);
                let first = broadcast(&mut MessageDemuxer::new(Epoch(1), None), None, tracks);
                assert_eq!(found, first, "broadcast {epoch}, {states_gaps}, {states_epochs}");
                assert!(found.iter().all(|found| found.len() == tracks.len()), "both are known before the first unit");
            }
        }
    }

    #[test]
    fn a_reconnect_of_the_publisher_changes_no_track() {
        let stereo = [Message::Audio { timestamp: 0, body: Bytes::from_static(&[0xaf, 0, 0x12, 0x10]) }];
        let mut demuxer = MessageDemuxer { states_gaps: true, ..MessageDemuxer::new(Epoch(1), None) };
        let first = broadcast(&mut demuxer, Some(2), &stereo);
        demuxer.end();
        // The server has announced them.
        demuxer.take(Message::Metadata(rtmp::Metadata { epoch: Some(Epoch(2)), ..Default::default() }));
        let sound = Message::Audio { timestamp: 60, body: Bytes::from_static(&[0xaf, 1, 0x21, 0x10]) };
        assert_eq!(demuxer.take(sound)[0].catalog.tracks, first[0]);
    }

    #[test]
    fn the_predecessor_is_the_one_that_a_nearcast_server_states() {
        let sound = |timestamp| Message::Audio { timestamp, body: Bytes::from_static(&[0xaf, 1, 0x21, 0x10]) };
        let gap = |dts| {
            let predecessors = vec![(TrackId::AUDIO, Some(Timestamp::from_millis(dts)))];
            Message::Gap(rtmp::Gap { epoch: Epoch(2), predecessors })
        };
        let take = |states_gaps| {
            let mut demuxer = MessageDemuxer { states_gaps, ..MessageDemuxer::new(Epoch(1), None) };
            demuxer.take(Message::Metadata(rtmp::Metadata { epoch: Some(Epoch(2)), ..Default::default() }));
            demuxer.take(Message::Audio { timestamp: 0, body: Bytes::from_static(&[0xaf, 0, 0x12, 0x10]) });
            let messages = [sound(20), gap(480), sound(500), sound(520), gap(520), sound(540)];
            let units = messages.into_iter().flat_map(|message| demuxer.take(message)).collect::<Vec<_>>();
            units.into_iter().map(|arrived| (arrived.predecessor, arrived.is_after_gap)).collect::<Vec<_>>()
        };
        let at = |dts| Predecessor::Dts(Timestamp::from_millis(dts));
        let stated = [(Predecessor::Unknown, false), (at(480), true), (at(500), false), (at(520), false)];
        assert_eq!(take(true), stated);
        assert!(take(false).iter().all(|unit| *unit == (Predecessor::PathOrder, false)), "others say nothing");
    }

    #[test]
    fn wrapped_timestamps_are_unwrapped_near_the_resume_point() {
        let far = |millis| Timestamp::from_millis((2i64 << 32) + millis);
        let last = || vec![(TrackId::AUDIO, far(-90)), (TrackId::VIDEO, far(-40))];
        for (resume, stated, expected) in [
            (None, None, 5),
            (None, Some(far(-20)), far(5).as_millis()),
            (Some((Epoch(2), last())), None, far(5).as_millis()),
            // The resume point of another broadcast does not count.
            (Some((Epoch(3), last())), None, 5),
            (Some((Epoch(2), vec![])), None, 5),
        ] {
            let mut demuxer = MessageDemuxer::new(Epoch(1), resume.as_ref());
            let metadata = rtmp::Metadata { epoch: Some(Epoch(2)), dts: stated, ..Default::default() };
            demuxer.take(Message::Metadata(metadata));
            demuxer.take(Message::Audio { timestamp: 0, body: Bytes::from_static(&[0xaf, 0, 0x12, 0x10]) });
            let units = demuxer.take(Message::Audio { timestamp: 5, body: Bytes::from_static(&[0xaf, 1, 0x21, 0x10]) });
            let dts: Vec<i64> = units.iter().map(|arrived| arrived.unit.dts.as_millis()).collect();
            assert_eq!(dts, [expected], "{resume:?} {stated:?}");
        }
    }
}
