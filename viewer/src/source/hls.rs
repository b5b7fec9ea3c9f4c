//! A path by HLS: playlists and segments in, access units out.
//!
//! Which segment is next, and when the playlist is loaded again, is decided by [`media::hls::client`]; here are the requests, each
//! with a deadline and a size limit. fMP4 segments are read as their bytes come; MPEG-TS ones when they are whole.
//! RFC 8216 §6.3.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use media::hls::client::{Fetch, Scheduler, Step, resolve};
use media::hls::{self, AudioRendition, ByteRange, Multivariant, ParsedPlaylist, Variant};
use media::{AccessUnit, Catalog, Epoch, WallClock, fmp4};
use reqwest::{StatusCode, header};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, warn};

use super::resolve::plain;
use super::{Error, Gone, Report, Reporter, random_epoch};
use crate::ffmpeg::TsReader;

/// A client for everything that the viewer asks by HTTP.
pub(super) fn client() -> Result<reqwest::Client, Error> {
    let client = reqwest::Client::builder().connect_timeout(CONNECT).read_timeout(READ).user_agent(AGENT).build();
    client.map_err(|error| Error::Http { url: "HTTP".to_owned(), reason: plain(&error), retry: false })
}

/// What is kept while the path is closed, so that it goes on where it was.
#[derive(Clone, Debug, Default)]
pub(super) struct HlsPath(Arc<Mutex<Option<Place>>>);

#[derive(Debug)]
struct Place {
    playlist: String,
    scheduler: Scheduler,
    reader: SegmentReader,
    started: Instant,
    /// Whether a segment was asked for and has not come whole yet.
    in_hand: bool,
}

/// How a playlist is to be played.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wishes {
    /// One that has ended already is played from its start; else it is a stream that is not on the air.
    pub replay: bool,
    /// After an outage, go on at the oldest segment, not at the live edge.
    pub keep_all: bool,
}

/// Plays the playlist at `url` until it ends (`Ok`) or breaks.
pub(super) async fn run(
    url: &str,
    http: &reqwest::Client,
    path: &HlsPath,
    wishes: Wishes,
    reporter: &Reporter,
) -> Result<(), Error> {
    let mut kept = path.0.lock().await;
    // Chosen anew each time: what was there before may not be what broke it.
    let playlist = choose(url, http).await?;
    let place = kept.get_or_insert_with(|| Place {
        playlist: playlist.clone(),
        scheduler: Scheduler::new(None).keep_all(wishes.keep_all),
        reader: SegmentReader::default(),
        started: Instant::now(),
        in_hand: false,
    });
    if place.playlist != playlist {
        place.playlist = playlist;
        place.scheduler.other_rendition();
    }
    if std::mem::take(&mut place.in_hand) {
        place.scheduler.fetch_again();
    }
    let began = place.started.elapsed();
    let (first, mut base) = media_playlist(&place.playlist, http).await?;
    let complete = first.end_list;
    if complete && !wishes.replay {
        *kept = None;
        return Err(Error::NotLive { address: url.to_owned() });
    }
    if reporter.send(Report::Opened { burst: first.target_duration, complete }).await.is_err() {
        return Ok(());
    }
    let mut growth = Growth::new(began, &first);
    place.scheduler.loaded(began, first);
    let (mut failed_loads, mut failed_fetches, mut lost) = (0, 0, 0);
    loop {
        match place.scheduler.next() {
            Step::End => {
                // Should it begin anew, it does so with another playlist.
                *kept = None;
                return Ok(());
            }
            Step::Reload(at) => {
                sleep_until(place.started + at).await;
                let began = place.started.elapsed();
                match media_playlist(&place.playlist, http).await {
                    Ok((playlist, now_at)) => {
                        (failed_loads, base) = (0, now_at);
                        if growth.has_stopped(began, &playlist) && reporter.send(Report::Silent).await.is_err() {
                            return Ok(());
                        }
                        place.scheduler.loaded(began, playlist);
                    }
                    Err(error) => {
                        failed_loads += 1;
                        if failed_loads > PATIENCE || !error.retry() {
                            return Err(error);
                        }
                        debug!(%error, failed_loads, "the playlist did not load");
                        place.scheduler.load_failed(place.started.elapsed());
                    }
                }
            }
            Step::Fetch(fetch) => {
                place.in_hand = true;
                if fetch.lost > 0 && reporter.send(Report::Gap).await.is_err() {
                    return Ok(());
                }
                let error = match segment(&base, http, &mut place.reader, &fetch, reporter).await {
                    Ok(Ok(())) => {
                        place.in_hand = false;
                        (failed_fetches, lost) = (0, 0);
                        continue;
                    }
                    Ok(Err(Gone)) => return Ok(()),
                    Err(error) => error,
                };
                place.reader.broken();
                failed_fetches += 1;
                if error.retry() && failed_fetches < PATIENCE {
                    debug!(%error, msn = fetch.msn, failed_fetches, "a segment did not come");
                    place.scheduler.fetch_again();
                    sleep(RETRY * failed_fetches).await;
                    continue;
                }
                // A server that is away may still have the segment when it is back: it stays in hand.
                if error.retry() && media_playlist(&place.playlist, http).await.is_err() {
                    return Err(error);
                }
                warn!(%error, msn = fetch.msn, "a segment is lost");
                place.in_hand = false;
                place.scheduler.fetch_failed();
                (failed_fetches, lost) = (0, lost + 1);
                if !error.retry() || lost >= PATIENCE {
                    return Err(error);
                }
            }
        }
    }
}

/// Whether a live playlist grows as it should.
struct Growth {
    last: u64,
    since: Duration,
    is_told: bool,
}

impl Growth {
    fn new(now: Duration, playlist: &hls::MediaPlaylist) -> Self {
        Self { last: playlist.next_msn(), since: now, is_told: false }
    }

    /// Whether it has just been too long since there was a new segment.
    fn has_stopped(&mut self, now: Duration, playlist: &hls::MediaPlaylist) -> bool {
        if playlist.next_msn() != self.last {
            *self = Self::new(now, playlist);
        }
        let is_late = now.saturating_sub(self.since) > playlist.target_duration * OVERDUE;
        is_late && !std::mem::replace(&mut self.is_told, is_late)
    }
}

/// The media playlist to play: `url` itself, or the best variant that it lists.
async fn choose(url: &str, http: &reqwest::Client) -> Result<String, Error> {
    let response = request(url, None, http).await?;
    // What is not on the air yet is promised by a server that names a time to ask again (RFC 9110 §10.2.3).
    if response.status() == StatusCode::NOT_FOUND && !response.headers().contains_key(header::RETRY_AFTER) {
        let reason = "404 Not Found, and no word of when it might be there. Check the spelling".to_owned();
        return Err(Error::Http { url: url.to_owned(), reason, retry: false });
    }
    let (text, base) = text(checked(response, url)?, url).await?;
    match hls::parse(&text).map_err(|error| unsupported(&base, error))? {
        // Asked for where it was, not where it happened to be: a redirect may lead elsewhere the next time.
        ParsedPlaylist::Media(_) => Ok(url.to_owned()),
        ParsedPlaylist::Multivariant(list) => {
            let best =
                best(&list).ok_or_else(|| unsupported(&base, "no variant has a codec that can be decoded here"))?;
            debug!(uri = best.uri, bandwidth = best.bandwidth, "chose a variant");
            if let Some(sound) = separate_sound(&list, best) {
                warn!(
                    rendition = sound.name,
                    "the sound is a rendition of its own, which is not played: there is none"
                );
            }
            Ok(resolve(&base, &best.uri))
        }
    }
}

/// Pictures before none, sound with them before none, then the highest rate.
fn best(list: &Multivariant) -> Option<&Variant> {
    let playable = list.variants.iter().filter(|variant| is_playable(variant));
    playable.max_by_key(|v| (has_pictures(v), separate_sound(list, v).is_none(), v.bandwidth))
}

fn has_pictures(variant: &Variant) -> bool {
    let video = ["avc", "hvc1", "hev1", "av01", "vp09"];
    let is_video = |codec: &str| video.iter().any(|video| codec.trim().to_ascii_lowercase().starts_with(video));
    variant.resolution.is_some() || variant.codecs.as_ref().is_none_or(|codecs| codecs.split(',').any(is_video))
}

/// The rendition that the sound of a variant is in, where it is not in the variant itself (RFC 8216 §4.3.4.2.1).
fn separate_sound<'a>(list: &'a Multivariant, variant: &Variant) -> Option<&'a AudioRendition> {
    let group = variant.audio.as_ref()?;
    let mut renditions = list.audio.iter().filter(|rendition| rendition.group == *group);
    // One without a URI is what the variant holds.
    let has_own = renditions.clone().any(|rendition| rendition.uri.is_none());
    renditions
        .find(|rendition| rendition.default)
        .or_else(|| list.audio.iter().find(|r| r.group == *group))
        .filter(|_| !has_own)
}

/// Whether none of the codecs is one that is surely not understood.
fn is_playable(variant: &Variant) -> bool {
    let known = ["avc1", "avc3", "hvc1", "hev1", "av01", "vp09", "mp4a", "opus", "flac", "mp3"];
    variant.codecs.as_ref().is_none_or(|codecs| {
        codecs.split(',').all(|codec| {
            let codec = codec.trim().to_ascii_lowercase();
            known.iter().any(|known| codec.starts_with(known))
        })
    })
}

/// The playlist, and what its URIs are relative to: where it was after redirects (RFC 3986 §5.1.3).
async fn media_playlist(url: &str, http: &reqwest::Client) -> Result<(hls::MediaPlaylist, String), Error> {
    let (text, base) = text(get(url, None, http).await?, url).await?;
    let playlist = hls::parse_media(&text).map_err(|error| unsupported(&base, error))?;
    Ok((playlist, base))
}

/// A playlist's text, and where it was after redirects.
async fn text(mut response: reqwest::Response, url: &str) -> Result<(String, String), Error> {
    let base = response.url().to_string();
    let mut body = BytesMut::new();
    while let Some(bytes) = chunk(&mut response, url).await? {
        body.extend_from_slice(&bytes);
        if body.len() > MAX_PLAYLIST {
            return Err(unsupported(url, format!("the playlist is longer than {MAX_PLAYLIST} bytes")));
        }
    }
    let text = String::from_utf8(body.into()).map_err(|_| unsupported(url, "the playlist is not UTF-8"))?;
    Ok((text, base))
}

async fn get(url: &str, range: Option<ByteRange>, http: &reqwest::Client) -> Result<reqwest::Response, Error> {
    checked(request(url, range, http).await?, url)
}

/// The answer, whatever it is.
async fn request(url: &str, range: Option<ByteRange>, http: &reqwest::Client) -> Result<reqwest::Response, Error> {
    let mut request = http.get(url);
    if let Some(ByteRange { length, offset }) = range.filter(|range| range.length > 0) {
        request = request.header(header::RANGE, format!("bytes={offset}-{}", offset.saturating_add(length - 1)));
    }
    let failed = |reason: String, retry| Error::Http { url: url.to_owned(), reason, retry };
    let answer = timeout(READ, request.send()).await.map_err(|_| failed("no answer in time".to_owned(), true))?;
    answer.map_err(|error| failed(plain(&error), !error.is_builder()))
}

/// The answer, if it is what was asked for.
fn checked(response: reqwest::Response, url: &str) -> Result<reqwest::Response, Error> {
    match response.status() {
        status if status.is_success() => Ok(response),
        // A playlist that is not there may be there once somebody broadcasts.
        StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_EARLY => {
            Err(Error::NotLive { address: url.to_owned() })
        }
        status => {
            let retry = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
            Err(Error::Http { url: url.to_owned(), reason: status.to_string(), retry })
        }
    }
}

async fn chunk(response: &mut reqwest::Response, url: &str) -> Result<Option<Bytes>, Error> {
    response.chunk().await.map_err(|error| Error::Http { url: url.to_owned(), reason: plain(&error), retry: true })
}

/// Fetches a segment, and its init segment if that is new, and reports what they hold.
async fn segment(
    base: &str,
    http: &reqwest::Client,
    reader: &mut SegmentReader,
    fetch: &Fetch,
    reporter: &Reporter,
) -> Result<Result<(), Gone>, Error> {
    let url = resolve(base, &fetch.uri);
    if fetch.encrypted {
        return Err(unsupported(&url, "the stream is encrypted, and this viewer decrypts nothing"));
    }
    reader.enter(fetch.discontinuity_sequence);
    if let Some(map) = fetch.map.as_ref().filter(|_| fetch.new_map || reader.wants_init()) {
        let map_url = resolve(base, &map.uri);
        let mut response = get(&map_url, map.byte_range, http).await?;
        let mut init = BytesMut::new();
        while let Some(bytes) = chunk(&mut response, &map_url).await? {
            init.extend_from_slice(&bytes);
            if init.len() > MAX_INIT {
                return Err(unsupported(&map_url, format!("the init segment is longer than {MAX_INIT} bytes")));
            }
        }
        reader.init(init.freeze()).map_err(|error| unsupported(&map_url, error))?;
    }
    reader.begin(fetch.program_date_time);
    let mut response = get(&url, fetch.byte_range, http).await?;
    let (mut length, mut whole) = (0, BytesMut::new());
    while let Some(bytes) = chunk(&mut response, &url).await? {
        length += bytes.len();
        if length > MAX_SEGMENT {
            return Err(unsupported(&url, format!("the segment is longer than {MAX_SEGMENT} bytes")));
        }
        if fetch.map.is_none() {
            whole.extend_from_slice(&bytes);
            continue;
        }
        for (catalog, unit) in reader.fmp4(bytes).map_err(|error| unsupported(&url, error))? {
            if reporter.send(Report::Unit(catalog, unit, None)).await.is_err() {
                return Ok(Err(Gone));
            }
        }
    }
    if fetch.map.is_some() {
        let cut = |reason| Error::Http { url: url.clone(), reason, retry: true };
        reader.end().map_err(|error| cut(error.to_string()))?;
    } else {
        let units = reader.whole(whole.freeze()).await.map_err(|reason| unsupported(&url, reason))?;
        for (catalog, unit) in units {
            if reporter.send(Report::Unit(catalog, unit, None)).await.is_err() {
                return Ok(Err(Gone));
            }
        }
    }
    Ok(Ok(()))
}

fn unsupported(url: &str, reason: impl ToString) -> Error {
    Error::Unsupported { url: url.to_owned(), reason: reason.to_string() }
}

type Units = Vec<(Arc<Catalog>, AccessUnit)>;

/// Reads the segments of one rendition, whatever their container, and keeps track of what they belong to.
#[derive(Debug, Default)]
struct SegmentReader {
    timeline: Option<u64>,
    /// Names the broadcast of a server that states no epoch: one for each timeline.
    fallback: Option<Epoch>,
    fmp4: Option<fmp4::Reader>,
    ts: TsReader,
    /// What the units belong to.
    catalog: Option<Arc<Catalog>>,
    /// What the playlist says of the next segment's first unit.
    date: Option<WallClock>,
}

impl SegmentReader {
    /// The next segment is of this timeline: another number is another clock, and for servers that state none, another epoch.
    fn enter(&mut self, timeline: u64) {
        if self.timeline.replace(timeline) != Some(timeline) {
            self.fallback = Some(random_epoch());
            (self.fmp4, self.catalog) = (None, None);
            self.ts.restart();
        }
    }

    fn wants_init(&self) -> bool {
        self.fmp4.is_none()
    }

    /// A segment starts here, at this time of day: what an earlier one left half read is of no use.
    fn begin(&mut self, date: Option<WallClock>) {
        self.date = date;
        self.fmp4.as_mut().map(fmp4::Reader::begin_segment).unwrap_or_default();
    }

    /// The segment has ended, whole or not.
    fn end(&self) -> Result<(), fmp4::Error> {
        self.fmp4.as_ref().map_or(Ok(()), fmp4::Reader::end_segment)
    }

    /// What was read last broke off: the reader has lost its place.
    fn broken(&mut self) {
        self.fmp4 = None;
    }

    fn init(&mut self, init: Bytes) -> Result<(), fmp4::Error> {
        let mut reader = fmp4::Reader::new(self.fallback.unwrap_or_else(random_epoch));
        for event in reader.push(init)? {
            if let fmp4::Event::Catalog(catalog) = event {
                self.catalog = Some(Arc::new(catalog));
            }
        }
        self.fmp4 = Some(reader);
        Ok(())
    }

    fn fmp4(&mut self, bytes: Bytes) -> Result<Units, fmp4::Error> {
        let Some(reader) = &mut self.fmp4 else { return Ok(Units::new()) };
        let mut units = Units::new();
        for event in reader.push(bytes)? {
            match event {
                fmp4::Event::Catalog(mut catalog) => {
                    // A clock that was taken from the playlist stays.
                    let known = self.catalog.as_ref().filter(|known| known.epoch == catalog.epoch);
                    catalog.clock = catalog.clock.or(known.and_then(|known| known.clock));
                    self.catalog = Some(Arc::new(catalog));
                }
                fmp4::Event::Unit(unit) => units.extend(self.dated(unit)),
            }
        }
        Ok(units)
    }

    /// A segment without init segment: MPEG-TS, or something that is refused.
    async fn whole(&mut self, segment: Bytes) -> Result<Units, String> {
        if segment.first() != Some(&TS_SYNC) {
            return Err("the segment is neither fMP4 with an init segment nor MPEG-TS".to_owned());
        }
        let mut ts = std::mem::take(&mut self.ts);
        let read =
            tokio::task::spawn_blocking(move || (ts.segment(segment), ts)).await.map_err(|error| error.to_string())?;
        self.ts = read.1;
        let (tracks, found) = read.0.map_err(|error| error.to_string())?;
        let epoch = *self.fallback.get_or_insert_with(random_epoch);
        let catalog = self.catalog.get_or_insert_with(|| Arc::new(Catalog::new(epoch)));
        for track in tracks {
            if catalog.track(track.id) != Some(&track) {
                Arc::make_mut(catalog).set_track(track);
            }
        }
        let unit = |u: crate::ffmpeg::TsUnit| AccessUnit {
            epoch,
            track: u.track,
            dts: u.dts,
            pts: u.pts,
            random_access: u.random_access,
            payload: u.payload,
        };
        Ok(found.into_iter().map(unit).filter_map(|unit| self.dated(unit)).collect())
    }

    /// The unit with its catalog; one that does not know the time learns it from the playlist.
    fn dated(&mut self, unit: AccessUnit) -> Option<(Arc<Catalog>, AccessUnit)> {
        let catalog = self.catalog.as_mut()?;
        if let Some(date) = self.date.take()
            && catalog.clock.is_none()
        {
            let zero = date.as_micros().saturating_sub(unit.pts.as_millis().saturating_mul(1000));
            Arc::make_mut(catalog).clock = Some(WallClock::from_micros(zero));
        }
        Some((catalog.clone(), unit))
    }
}

const AGENT: &str = concat!("nearcast-viewer/", env!("CARGO_PKG_VERSION"));
/// Resolution and TCP and TLS together.
const CONNECT: Duration = Duration::from_secs(5);
/// The longest silence within an answer.
const READ: Duration = Duration::from_secs(10);
/// Attempts at a playlist or a segment before it is given up, and segments lost in a row before the path is.
const PATIENCE: u32 = 3;
/// Pause before a segment is asked for again, longer each time: one that is listed a moment too early is there then.
const RETRY: Duration = Duration::from_millis(300);
/// Target durations without a new segment before the broadcast seems to be away.
const OVERDUE: u32 = 3;
/// A day of two-second segments is under 4 MB.
const MAX_PLAYLIST: usize = 8 << 20;
/// Decoder configurations: a few hundred bytes.
const MAX_INIT: usize = 1 << 20;
/// Ten seconds at 100 Mbit/s.
const MAX_SEGMENT: usize = 128 << 20;
/// What every packet of a transport stream starts with.
const TS_SYNC: u8 = 0x47;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variant_that_can_be_played_whole() {
        let own = "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"English\",DEFAULT=YES,URI=\"a.m3u8\"\n";
        let within = "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"b\",NAME=\"English\",DEFAULT=YES\n";
        let variant = |rate: u32, codecs: &str, group: &str| {
            let group = if group.is_empty() { String::new() } else { format!(",AUDIO=\"{group}\"") };
            format!("#EXT-X-STREAM-INF:BANDWIDTH={rate},CODECS=\"{codecs}\"{group}\n{rate}.m3u8\n")
        };
        let av = "avc1.42001e,mp4a.40.2";
        for (variants, wanted, silent) in [
            (vec![variant(1, av, ""), variant(3, av, ""), variant(2, av, "")], Some("3.m3u8"), None),
            (vec![variant(1, av, ""), variant(3, "xyz1", "")], Some("1.m3u8"), None),
            (vec![variant(3, "xyz1", "")], None, None),
            (vec![variant(1, av, ""), variant(3, av, "a")], Some("1.m3u8"), None),
            (vec![variant(1, av, ""), variant(3, av, "b")], Some("3.m3u8"), None),
            (vec![variant(1, "mp4a.40.2", ""), variant(3, av, "a")], Some("3.m3u8"), Some("English")),
        ] {
            let text = format!("#EXTM3U\n{own}{within}{}", variants.concat());
            let list = hls::parse_multivariant(&text).unwrap();
            let best = best(&list);
            assert_eq!(best.map(|v| v.uri.as_str()), wanted, "{text}");
            assert_eq!(best.and_then(|v| separate_sound(&list, v)).map(|r| r.name.as_str()), silent, "{text}");
        }
    }

    #[test]
    fn a_playlist_that_does_not_grow() {
        let mut playlist = hls::MediaPlaylist { target_duration: Duration::from_secs(2), ..Default::default() };
        let mut growth = Growth::new(Duration::ZERO, &playlist);
        let mut told = Vec::new();
        for second in 0..30 {
            playlist.media_sequence += u64::from(second == 10);
            told.extend(growth.has_stopped(Duration::from_secs(second), &playlist).then_some(second));
        }
        assert_eq!(told, [7, 17], "once for each time");
    }
}
