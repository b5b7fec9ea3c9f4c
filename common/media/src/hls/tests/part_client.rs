//! The part client, against the text of the segmenter's playlists, and against playlists of other servers.

use super::*;
use crate::hls::client::parts::{PartClient, StartPosition, has_parts};
use crate::hls::delta_update;

/// Follows a growing stream: each reload is answered when its part is available, by a delta update if requested.
#[derive(Default)]
struct Follower {
    client: PartClient,
    reader: Option<Reader>,
    received: Vec<AccessUnit>,
    /// Number of requests for parts, and number of those with a preload hint.
    parts: usize,
    hinted: Option<String>,
    kept: usize,
    lost: u64,
}

impl Follower {
    fn see(&mut self, stream: &Stream) {
        let playlist = stream.segmenter.window();
        let Some(whole) = media_playlist(&playlist) else { return };
        let text = match self.client.reload() {
            Some(reload) if !playlist.ended && !playlist.contains(reload.msn, Some(reload.part)) => return,
            Some(reload) if reload.skip => delta_update(&playlist).unwrap(),
            _ => whole,
        };
        self.client.on_playlist(parse_media(&text).unwrap());
        while let Some(fetch) = self.client.next() {
            self.lost += fetch.lost;
            if fetch.new_map {
                let Some(Resource::Init(id)) = Resource::from_name(&fetch.map.unwrap().uri) else { panic!() };
                let mut reader = Reader::new(Epoch(0));
                reader.push(playlist.init(id).unwrap()).unwrap();
                self.reader = Some(reader);
            }
            let bytes = match Resource::from_name(&fetch.uri).unwrap() {
                Resource::Part(msn, index) => {
                    self.parts += 1;
                    self.kept += usize::from(self.hinted.as_ref() == Some(&fetch.uri));
                    playlist.part(msn, index).unwrap()
                }
                Resource::Segment(msn) => playlist.segment(msn).unwrap(),
                Resource::Init(_) => panic!(),
            };
            let reader = self.reader.as_mut().unwrap();
            reader.begin_segment();
            let events = bytes.into_iter().flat_map(|chunk| reader.push(chunk).unwrap());
            self.received.extend(events.filter_map(|event| match event {
                Event::Unit(unit) => Some(unit),
                Event::Catalog(_) | Event::Predecessor(..) => None,
            }));
            reader.end_segment().unwrap();
        }
        self.hinted = self.client.hint().map(str::to_owned);
    }
}

#[test]
fn a_client_fetches_every_part() {
    let mut stream = Stream::new(SegmenterConfig::default(), catalog(1, &[video(), sound()]));
    let mut follower = Follower::default();
    let mut dts = [0i64; 2];
    for n in 0..2000 {
        if n == 700 {
            // Another broadcast and, later, a gap.
            stream.catalog = catalog(2, &[video(), sound()]);
        }
        dts = dts.map(|dts| if n == 1400 { dts + 9000 } else { dts });
        if n % 2 == 0 {
            stream.push(TrackId::VIDEO, dts[0], 0, n % 50 == 0, 100);
            dts[0] += 40;
        }
        stream.push(TrackId::AUDIO, dts[1], 0, true, 10);
        dts[1] += 20;
        follower.see(&stream);
    }
    stream.segmenter.end();
    follower.see(&stream);
    assert!(follower.client.has_ended() && follower.lost == 0);
    // It began a second in, at the part that has the IDR nearest to the edge when there first was a playlist.
    let from = Timestamp::from_millis(1000);
    for id in [TrackId::VIDEO, TrackId::AUDIO] {
        let sent = stream.sent.iter().filter(|unit| unit.track == id && (unit.dts >= from || unit.epoch != Epoch(1)));
        assert!(follower.received.iter().filter(|unit| unit.track == id).eq(sent), "{id}");
    }
    // Except for the first segment of each broadcast, and the parts after the gap, which became available at once.
    assert!(follower.parts > 150 && follower.kept * 10 > follower.parts * 9, "{} {}", follower.parts, follower.kept);
}

/// Four segments of two seconds, the last two by parts of which the first and the sixth can be decoded, and seven parts of the next.
fn playlist() -> MediaPlaylist {
    let parts = |msn: u64, count: usize| {
        let part = |n| MediaPart {
            uri: format!("{msn}.{n}"),
            duration: Duration::from_millis(200),
            independent: n % 5 == 0,
            ..MediaPart::default()
        };
        (0..count).map(part).collect::<Vec<_>>()
    };
    let mut playlist = listed(10, &[2; 4]);
    playlist.segments[0].program_date_time = Some(CLOCK);
    playlist.segments[2].parts = parts(12, 10);
    playlist.segments[3].parts = parts(13, 10);
    playlist.trailing.head = MediaSegment { map: playlist.segments[0].map.clone(), ..MediaSegment::default() };
    playlist.trailing.head.parts = parts(14, 7);
    let uri = "14.7".to_owned();
    playlist.trailing.preload_hint = Some(PreloadHint { is_map: false, uri, start: 0, length: None });
    playlist.part_target = Some(Duration::from_millis(200));
    playlist.server_control.can_block_reload = true;
    playlist
}

fn uris(client: &mut PartClient) -> Vec<String> {
    std::iter::from_fn(|| client.next()).map(|fetch| fetch.uri).collect()
}

#[test]
fn a_part_client_starts_at_the_requested_position() {
    let after = |millis: i64| StartPosition::At(WallClock::from_micros(CLOCK.as_micros() + millis * 1000));
    for (entry, first, count) in [
        // 0.6 s behind the edge at 9.4 s, or more: 8.8 is in the middle of what can not be decoded.
        (StartPosition::LiveEdge, "14.0", 7),
        (StartPosition::Behind, "11.m4s", 10),
        (after(9_350), "14.5", 2),
        (after(8_999), "14.5", 2),
        (after(8_800), "14.0", 7),
        // Half of it: by its parts, as far as it goes.
        (after(7_400), "13.5", 12),
        (after(6_300), "13.m4s", 8),
        (after(2_100), "11.m4s", 10),
        (after(60_000), "14.5", 2),
        (after(-60_000), "14.0", 7),
    ] {
        let mut client = PartClient::new(false);
        client.restart_at(entry);
        client.on_playlist(playlist());
        let uris = uris(&mut client);
        assert_eq!((uris[0].as_str(), uris.len()), (first, count), "{entry:?}: {uris:?}");
        assert_eq!(client.hint(), Some("14.7"));
        let reload = client.reload().unwrap();
        assert_eq!((reload.msn, reload.part, reload.skip), (14, 7, false));
    }
}

#[test]
fn a_part_client_continues_after_an_outage() {
    let moved = |numbers: i64, millis: i64| {
        let mut playlist = playlist();
        playlist.media_sequence = playlist.media_sequence.saturating_add_signed(numbers);
        let date = WallClock::from_micros(CLOCK.as_micros() + millis * 1000);
        playlist.segments[0].program_date_time = Some(date);
        playlist
    };
    for (keep_all, playlist, first, lost) in [
        // Nothing new; a cache that is behind; a segment more.
        (false, moved(0, 0), None, 0),
        (false, moved(-1, -2000), None, 0),
        (false, moved(1, 2000), Some("13.7"), 0),
        // The part expired, and its time has left the playlist.
        (false, moved(90, 180_000), Some("14.0"), 1),
        (true, moved(90, 180_000), Some("10.m4s"), 1),
        // Other numbers, the same time.
        (false, moved(90, 4000), Some("12.5"), 0),
        (false, moved(-10, 4000), Some("12.5"), 0),
    ] {
        let mut client = PartClient::new(keep_all);
        client.on_playlist(self::playlist());
        assert_eq!(uris(&mut client).len(), 7);
        client.on_playlist(playlist.clone());
        let next = client.next();
        assert_eq!(next.as_ref().map(|fetch| fetch.uri.as_str()), first, "{}", playlist.media_sequence);
        assert_eq!(next.map_or(0, |fetch| fetch.lost), lost);
    }
}

#[test]
fn a_part_client_repeats_a_fetch_and_gives_up() {
    let mut client = PartClient::new(false);
    assert_eq!((client.next(), client.reload(), client.hint()), (None, None, None));
    client.on_playlist(playlist());
    assert_eq!(client.hint(), None, "listed parts precede the hinted one");
    let first = client.next().unwrap();
    client.retry_fetch();
    assert_eq!(client.next().unwrap(), first);
    client.on_fetch_failed();
    client.retry_fetch();
    let second = client.next().unwrap();
    assert_eq!((second.uri.as_str(), second.lost, second.restart), ("14.1", 1, true));
    let mut over = playlist();
    over.segments.push(MediaSegment { uri: "14.m4s".into(), ..std::mem::take(&mut over.trailing.head) });
    over.trailing = TrailingParts::default();
    over.end_list = true;
    assert!(has_parts(&playlist()) && !has_parts(&over) && !has_parts(&listed(0, &[2; 4])));
    client.on_playlist(over);
    assert!(!client.has_ended());
    assert_eq!(uris(&mut client), ["14.2", "14.3", "14.4", "14.5", "14.6"]);
    assert!(client.has_ended() && client.reload().is_none());
}

#[test]
fn gaps_are_skipped() {
    let mut gone = playlist();
    gone.trailing.head.parts[1].gap = true;
    let mut client = PartClient::new(false);
    client.on_playlist(gone);
    let fetches: Vec<_> = std::iter::from_fn(|| client.next()).map(|fetch| (fetch.uri, fetch.lost)).collect();
    assert_eq!(fetches[..2], [("14.0".to_owned(), 0), ("14.2".to_owned(), 1)]);
}

proptest! {
    /// For any playlist, a part client returns a bounded number of fetches, and none twice in a row.
    #[test]
    fn any_playlists_are_followed(playlists in prop::collection::vec(playlist_strategy(), 1..6)) {
        let mut client = PartClient::new(false);
        for playlist in playlists {
            let most = playlist.segments.len() + 3 * (playlist.segments.len() + 1);
            client.on_playlist(playlist);
            let given = (0..=2 * most + 100).take_while(|_| client.next().is_some()).count();
            prop_assert!(given <= 2 * most + 99, "{given} of {most}");
            let _ = (client.reload(), client.hint(), client.has_ended());
        }
    }
}
