//! A live stream over links that lose, corrupt, delay, stall and are too narrow.

use std::sync::Arc;
use std::time::Duration;

use media::{Timestamp, TrackId};
use tokio::time::{Instant, sleep};

use super::super::Event;
use super::{FRAME_MS, GOP, TestStream, next, serve, watch_live};
use crate::sim::{Link, Network, simulate};

/// A unit as it arrives at the subscriber.
#[derive(Clone, Debug, PartialEq)]
struct Arrival {
    track: TrackId,
    /// DTS in milliseconds.
    dts: i64,
    /// Time from its push to its arrival.
    delay: Duration,
    /// Whether the unit before it of its track arrived too.
    follows: bool,
    random_access: bool,
}

impl Arrival {
    /// When it arrived, since the first push.
    fn at(&self) -> Duration {
        Duration::from_millis((self.dts / FRAME_MS * FRAME_MS) as u64) + self.delay
    }
}

/// Streams `frames` video frames of `size` bytes live, with their audio, while `change` acts on the network; returns the arrivals.
async fn stream(
    network: &Network,
    frames: i64,
    size: usize,
    change: impl Future<Output = ()>,
) -> (Vec<Arrival>, usize) {
    stream_from(&TestStream::new(), network, frames, size, change).await
}

/// The same from an empty stream that the caller looks into.
async fn stream_from(
    stream: &Arc<TestStream>,
    network: &Network,
    frames: i64,
    size: usize,
    change: impl Future<Output = ()>,
) -> (Vec<Arrival>, usize) {
    let server = serve(network, stream);
    let (_endpoint, mut subscription) = watch_live(network, &server).await;
    let start = Instant::now();
    let feed = async {
        stream.push_live(0..frames, size).await;
        stream.end();
    };
    let receive = async {
        let (mut arrivals, mut gaps, mut last) = (Vec::new(), 0, [None; 2]);
        loop {
            let received = match next(&mut subscription).await {
                Event::Unit(received) => received,
                Event::Gap(_) => {
                    gaps += 1;
                    continue;
                }
                Event::Ended => return (arrivals, gaps),
                other => panic!("{other:?}"),
            };
            let unit = received.unit;
            assert!(unit.payload.iter().all(|byte| *byte == unit.dts.as_millis() as u8), "an altered unit");
            let dts = unit.dts.as_millis();
            let last = &mut last[usize::from(unit.track.is_video())];
            let follows = received.predecessor_dts == *last;
            *last = Some(Timestamp::from_millis(dts));
            let pushed = start + Duration::from_millis((dts / FRAME_MS * FRAME_MS) as u64);
            let (track, random_access) = (unit.track, unit.random_access);
            arrivals.push(Arrival { track, dts, delay: pushed.elapsed(), follows, random_access });
        }
    };
    let ((), received, ()) = tokio::join!(feed, receive, change);
    received
}

fn of(arrivals: &[Arrival], track: TrackId) -> Vec<&Arrival> {
    arrivals.iter().filter(|arrival| arrival.track == track).collect()
}

fn check_complete(arrivals: &[Arrival], frames: i64) {
    for (track, offset) in [(TrackId::VIDEO, 0), (TrackId::AUDIO, 5)] {
        let dts: Vec<i64> = of(arrivals, track).iter().map(|arrival| arrival.dts).collect();
        assert_eq!(dts, (0..frames).map(|n| n * FRAME_MS + offset).collect::<Vec<_>>(), "{track}");
    }
}

/// Each video frame follows the one that arrived before it, or is an IDR.
fn check_decodable(video: &[&Arrival]) {
    let is_missing = |picture: &&Arrival| !picture.follows && !picture.random_access;
    if let Some(at) = video.iter().position(is_missing) {
        panic!("a picture without its predecessor: {:?}", &video[at.saturating_sub(2)..=at]);
    }
}

fn longest(arrivals: &[Arrival]) -> Duration {
    arrivals.iter().map(|arrival| arrival.delay).max().unwrap()
}

#[test]
fn on_a_lan_a_unit_takes_only_the_link_delay() {
    simulate(|network| async move {
        let (arrivals, gaps) = stream(&network, 150, 4000, async {}).await;
        check_complete(&arrivals, 150);
        assert_eq!(gaps, 0);
        assert!(longest(&arrivals) <= Duration::from_millis(3), "{:?}", longest(&arrivals));
    });
}

/// A corrupted packet fails its authentication (RFC 9001 §5.3), so it counts as lost and its content is sent again.
#[test]
fn corrupted_packets_change_nothing() {
    simulate(|network| async move {
        let link = Link { corruption: 0.2, ..Link::default() };
        network.set_links(link, link);
        let (arrivals, gaps) = stream(&network, 120, 1000, async {}).await;
        check_complete(&arrivals, 120);
        assert_eq!(gaps, 0);
        assert!(network.counts().iter().all(|counts| counts.corrupted >= 10), "{:?}", network.counts());
    });
}

#[test]
fn randomly_lost_packets_arrive_one_or_two_round_trips_later() {
    simulate(|network| async move {
        let link = Link { delay: Duration::from_millis(10), loss: 0.05, ..Link::default() };
        network.set_links(link, link);
        let (arrivals, gaps) = stream(&network, 600, 4000, async {}).await;
        check_complete(&arrivals, 600);
        assert_eq!(gaps, 0);
        let late = arrivals.iter().filter(|arrival| arrival.delay > Duration::from_millis(100)).count();
        assert!(late * 100 <= arrivals.len(), "{late} of {} took longer than 100 ms", arrivals.len());
    });
}

#[test]
fn a_link_that_is_too_narrow_carries_all_audio_and_the_newest_decodable_pictures() {
    simulate(|network| async move {
        // 4000 bytes 30 times a second are 120 kB/s.
        let link = Link { rate: Some(60e3), delay: Duration::from_millis(10), queue: 60e3, ..Link::default() };
        network.set_links(link, Link::default());
        let (arrivals, gaps) = stream(&network, 900, 4000, async {}).await;
        let (video, audio) = (of(&arrivals, TrackId::VIDEO), of(&arrivals, TrackId::AUDIO));
        assert_eq!(audio.len(), 900, "audio has priority");
        let slowest = audio.iter().map(|arrival| arrival.delay).max().unwrap();
        assert!(slowest < Duration::from_millis(1500), "audio took {slowest:?}");
        assert!(gaps > 0 && (200..700).contains(&video.len()), "{gaps} gaps, {} pictures", video.len());
        check_decodable(&video);
        let slowest = video.iter().map(|arrival| arrival.delay).max().unwrap();
        assert!(slowest < Duration::from_millis(3000), "a picture took {slowest:?}");
        let freeze = video.windows(2).map(|pair| pair[1].at().saturating_sub(pair[0].at())).max().unwrap();
        // Of a GOP, the frames that come too late are left out, and the next GOP begins in time.
        let gop = Duration::from_millis((GOP * FRAME_MS) as u64);
        assert!(freeze < gop, "no picture for {freeze:?}");
    });
}

#[test]
fn a_short_outage_loses_nothing() {
    simulate(|network| async move {
        let outage = async {
            sleep(Duration::from_secs(3)).await;
            let dead = Link { loss: 1.0, ..Link::default() };
            network.set_links(dead, dead);
            sleep(Duration::from_millis(500)).await;
            network.set_links(Link::default(), Link::default());
        };
        let (arrivals, gaps) = stream(&network, 300, 4000, outage).await;
        check_complete(&arrivals, 300);
        assert_eq!(gaps, 0);
        assert!(longest(&arrivals) < Duration::from_millis(1500), "{:?}", longest(&arrivals));
        let settled = arrivals.iter().filter(|arrival| arrival.dts > 6000).map(|arrival| arrival.delay).max().unwrap();
        assert!(settled <= Duration::from_millis(10), "{settled:?} after the outage");
    });
}

#[test]
fn after_a_long_outage_video_continues_at_an_idr() {
    simulate(|network| async move {
        let outage = async {
            sleep(Duration::from_secs(3)).await;
            let dead = Link { loss: 1.0, ..Link::default() };
            network.set_links(dead, dead);
            sleep(Duration::from_millis(3000)).await;
            network.set_links(Link::default(), Link::default());
        };
        let (arrivals, _) = stream(&network, 450, 40_000, outage).await;
        let video = of(&arrivals, TrackId::VIDEO);
        check_decodable(&video);
        assert_eq!(video.last().unwrap().dts, 449 * FRAME_MS);
        let healed = Duration::from_secs(6);
        let resumed = video.iter().map(|arrival| arrival.at()).find(|at| *at >= healed).unwrap() - healed;
        // The interval of keep-alives; probes alone would be as far apart as the outage was long (RFC 9002 §6.2.1).
        assert!(resumed < Duration::from_secs(1), "the first picture came {resumed:?} after the outage");
        let settled = arrivals.iter().filter(|arrival| arrival.dts > 9000).map(|arrival| arrival.delay).max().unwrap();
        assert!(settled <= Duration::from_millis(100), "{settled:?} after the outage");
    });
}

#[test]
fn a_longer_route_is_not_a_queue_for_ever() {
    simulate(|network| async move {
        let source = TestStream::new();
        let queue_delay = || *source.queue_delay.lock();
        let handover = async {
            sleep(Duration::from_secs(3)).await;
            assert!(queue_delay() < Duration::from_millis(5), "{:?} at first", queue_delay());
            let longer = Link { delay: Duration::from_millis(80), ..Link::default() };
            network.set_links(longer, longer);
        };
        let (arrivals, gaps) = stream_from(&source, &network, 800, 4000, handover).await;
        check_complete(&arrivals, 800);
        assert_eq!(gaps, 0);
        assert!(queue_delay() < Duration::from_millis(5), "{:?} after the longer route", queue_delay());
    });
}
