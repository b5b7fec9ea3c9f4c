//! HLS viewers: whole segments (RFC 8216 §6.3), or low latency with parts, blocking reloads, delta updates and preload hints (RFC 8216bis
//! §6.3).

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use media::hls::client::parts::{PartClient, Reload, has_parts};
use media::hls::client::{Fetch, PlaylistAction, PlaylistClient, resolve};
use media::hls::{self, MediaPlaylist, ParsedPlaylist};
use media::{Epoch, WallClock, fmp4};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::http::{Http, HttpResponse, locate};
use super::viewer::LoadViewer;

/// The location of a stream's media playlist.
#[derive(Clone, Debug)]
pub(super) struct Playlist {
    server: std::net::SocketAddr,
    authority: String,
    path: String,
    /// Value of the playlist's `EXT-X-TARGETDURATION`.
    pub(super) target: Duration,
}

/// Resolves `url` to a media playlist: itself, or the variant with the highest bandwidth. Fails if it cannot be played, or lists no parts
/// although `by_parts` is set.
pub(super) async fn find(url: &str, by_parts: bool) -> Result<Playlist> {
    let (server, authority, path) = locate(url).await?;
    let http = Http::new(server, &authority);
    let (path, playlist) = match hls::parse(text(&http, &path).await?.as_str())? {
        ParsedPlaylist::Media(playlist) => (path, playlist),
        ParsedPlaylist::Multivariant(list) => {
            let best = list.variants.iter().max_by_key(|variant| variant.bandwidth).context("it lists no variant")?;
            let path = path_of(&path, &best.uri)?;
            let playlist = load(&http, &path).await?;
            (path, playlist)
        }
    };
    ensure!(!playlist.end_list, "{url} is not a live stream");
    ensure!(!by_parts || has_parts(&playlist), "{url} does not support low latency: no parts, or no blocking reload");
    Ok(Playlist { server, authority, path, target: playlist.target_duration })
}

/// Plays whole segments until an error.
pub(super) async fn segments(viewer: &LoadViewer, playlist: &Playlist) -> Result<()> {
    let http = Http::new(playlist.server, &playlist.authority);
    let started = Instant::now();
    let (mut playlist_client, mut reader) = (PlaylistClient::new(None), Reader::default());
    loop {
        match playlist_client.next() {
            PlaylistAction::End => bail!("the stream has ended"),
            PlaylistAction::Reload(at) => {
                sleep_until(started + at).await;
                let began = started.elapsed();
                playlist_client.on_playlist(began, load(&http, &playlist.path).await?);
                viewer.request();
            }
            PlaylistAction::Fetch(fetch) => {
                ensure!(fetch.lost == 0, "segments left the playlist before they were requested");
                let answer = http.get(&path_of(&playlist.path, &fetch.uri)?).await?;
                reader.read(viewer, &http, &playlist.path, &fetch, answer).await?;
            }
        }
    }
}

/// Plays parts until an error.
pub(super) async fn parts(viewer: &LoadViewer, playlist: &Playlist) -> Result<()> {
    let http = Http::new(playlist.server, &playlist.authority);
    let (mut playlist_client, mut reader) = (PartClient::new(false), Reader::default());
    playlist_client.on_playlist(load(&http, &playlist.path).await?);
    viewer.request();
    // Both continue while parts are read; dropping a set aborts its tasks.
    let (mut loading, mut ahead) = (JoinSet::new(), JoinSet::new());
    let mut ahead_of = None;
    let mut pause = Duration::ZERO;
    loop {
        while let Some(fetch) = playlist_client.next() {
            ensure!(fetch.lost == 0, "parts left the playlist before they were requested");
            let path = path_of(&playlist.path, &fetch.uri)?;
            let was_asked = ahead_of.take_if(|ahead: &mut String| *ahead == path && fetch.byte_range.is_none());
            let answer = match was_asked {
                Some(_) => ahead.join_next().await.context("no request for the hinted part")??,
                None => http.get(&path).await,
            };
            reader.read(viewer, &http, &playlist.path, &fetch, answer?).await?;
            if loading.is_empty() {
                reload(&mut loading, &http, playlist, playlist_client.reload(), pause);
            }
        }
        ensure!(!playlist_client.has_ended(), "the stream has ended");
        if loading.is_empty() {
            reload(&mut loading, &http, playlist, playlist_client.reload(), pause);
        }
        if let Some(hint) = playlist_client.hint() {
            let path = path_of(&playlist.path, hint)?;
            if ahead_of.as_ref() != Some(&path) {
                // The part of the previous hint was never listed.
                ahead = JoinSet::new();
                let (http, path_asked) = (http.clone(), path.clone());
                ahead.spawn_local(async move { http.get(&path_asked).await });
                ahead_of = Some(path);
            }
        }
        let loaded = loading.join_next().await.context("no playlist is loading")??;
        let before = playlist_client.reload();
        playlist_client.on_playlist(loaded?);
        viewer.request();
        // A server that does not block reloads is not polled in a busy loop.
        pause = if before == playlist_client.reload() { RELOAD_BACKOFF } else { Duration::ZERO };
    }
}

fn reload(
    loading: &mut JoinSet<Result<MediaPlaylist>>,
    http: &Http,
    playlist: &Playlist,
    wanted: Option<Reload>,
    pause: Duration,
) {
    let (http, path) = (http.clone(), with_directives(&playlist.path, wanted));
    loading.spawn_local(async move {
        sleep(pause).await;
        load(&http, &path).await
    });
}

/// The playlist's path with delivery directives for a blocking reload (RFC 8216bis §6.2.5).
fn with_directives(path: &str, wanted: Option<Reload>) -> String {
    let Some(Reload { msn, part, skip }) = wanted else { return path.to_owned() };
    let separator = if path.contains('?') { '&' } else { '?' };
    let skip = if skip { "&_HLS_skip=YES" } else { "" };
    format!("{path}{separator}_HLS_msn={msn}&_HLS_part={part}{skip}")
}

async fn load(http: &Http, path: &str) -> Result<MediaPlaylist> {
    hls::parse_media(&text(http, path).await?).with_context(|| path.to_owned())
}

async fn text(http: &Http, path: &str) -> Result<String> {
    String::from_utf8(http.whole(path).await?.into()).with_context(|| format!("{path} is not UTF-8"))
}

/// Resolves `uri` in a playlist at `base` to a path. Fails if it is on another server.
fn path_of(base: &str, uri: &str) -> Result<String> {
    let resolved = resolve(&format!("{BASE_AUTHORITY}{base}"), uri);
    let path = resolved.strip_prefix(BASE_AUTHORITY).with_context(|| format!("{uri} is on another server"))?;
    Ok(path.to_owned())
}

/// Demuxes segments and parts into access units.
#[derive(Default)]
struct Reader {
    fmp4: Option<fmp4::Reader>,
    /// Wall-clock time of PTS 0.
    clock: Option<WallClock>,
}

impl Reader {
    async fn read(
        &mut self,
        viewer: &LoadViewer,
        http: &Http,
        base: &str,
        fetch: &Fetch,
        mut answer: HttpResponse,
    ) -> Result<()> {
        let map = fetch.map.as_ref().context("its segments are not fragmented MP4")?;
        ensure!(!fetch.encrypted && fetch.byte_range.is_none(), "encryption and byte ranges are not supported");
        if fetch.new_map || self.fmp4.is_none() {
            let mut reader = fmp4::Reader::new(Epoch(0));
            self.clock = None;
            for event in reader.push(http.whole(&path_of(base, &map.uri)?).await?)? {
                self.catalog(&event);
            }
            self.fmp4 = Some(reader);
        }
        let mut date = fetch.program_date_time;
        let mut reader = self.fmp4.take().context("no init segment")?;
        reader.begin_segment();
        while let Some(bytes) = answer.bytes().await? {
            for event in reader.push(bytes)? {
                self.catalog(&event);
                let fmp4::Event::Unit(unit) = event else { continue };
                if let Some(date) = date.take().filter(|_| self.clock.is_none()) {
                    let zero = date.as_micros().saturating_sub(unit.pts.as_millis().saturating_mul(1000));
                    self.clock = Some(WallClock::from_micros(zero));
                }
                viewer.unit(&unit, self.clock);
            }
        }
        reader.end_segment()?;
        viewer.request();
        self.fmp4 = Some(reader);
        Ok(())
    }

    fn catalog(&mut self, event: &fmp4::Event) {
        if let fmp4::Event::Catalog(catalog) = event {
            self.clock = catalog.clock.or(self.clock);
        }
    }
}

/// A placeholder for the server's authority when URIs are resolved.
const BASE_AUTHORITY: &str = "http://here";
/// Pause before a playlist that had nothing new is reloaded.
const RELOAD_BACKOFF: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_of_other_servers_are_rejected() {
        for (base, uri, wanted) in [
            ("/live/index.m3u8", "v.m3u8", Some("/live/v.m3u8")),
            ("/live/v.m3u8?a=b", "/x/7.m4s", Some("/x/7.m4s")),
            ("/live/v.m3u8", "http://elsewhere/7.m4s", None),
        ] {
            assert_eq!(path_of(base, uri).ok().as_deref(), wanted);
        }
    }

    #[test]
    fn directives_go_into_the_query() {
        let wanted = Some(Reload { msn: 7, part: 2, skip: true });
        for (path, wanted, text) in [
            ("/a.m3u8", None, "/a.m3u8"),
            ("/a.m3u8", wanted, "/a.m3u8?_HLS_msn=7&_HLS_part=2&_HLS_skip=YES"),
            ("/a.m3u8?t=x", wanted, "/a.m3u8?t=x&_HLS_msn=7&_HLS_part=2&_HLS_skip=YES"),
        ] {
            assert_eq!(with_directives(path, wanted), text);
        }
    }
}
