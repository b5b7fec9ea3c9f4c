//! The player page after interruptions: it plays at its target again, without a click.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::replay::{TimedTag, is_header, replay};
use e2e::{Broadcaster, Cdn, ClipSpec, NumberedClip, PlayerPage, Process, TIMEOUT, TestEnv, until};
use media::flv::file::{Reader, VIDEO};
use rustix::process::Signal;
use serde_json::json;

#[test]
fn the_page_plays_close_behind_the_live_edge() -> Result<()> {
    let env = TestEnv::new()?;
    let (_cdn, _broadcaster, page) = watching(&env)?;
    wait_close(&page)
}

#[test]
fn the_page_returns_to_its_target_after_interruptions() -> Result<()> {
    let env = TestEnv::new()?;
    let (mut cdn, _broadcaster, page) = watching(&env)?;

    page.browser.set_offline(true)?;
    page.wait_behind(TIMEOUT, 3.0 + HOLD_BACK)?;
    page.browser.set_offline(false)?;
    page.wait_at_target(SOON, "an outage of the network")?;

    // Such as by a stall that no event tells of.
    page.fall_behind(6.0)?;
    page.wait_at_target(SOON, "it fell behind")?;

    cdn.restart(&env)?;
    cdn.wait_segment("live")?;
    page.wait_at_target(SOON, "a restart of the server")?;
    Ok(())
}

#[test]
fn the_page_returns_to_its_target_when_it_is_visible_again() -> Result<()> {
    let env = TestEnv::new()?;
    let (_cdn, _broadcaster, page) = watching(&env)?;
    page.browser.hide()?;
    let state = page.wait_behind(TIMEOUT, 5.0)?;
    ensure!(state.paused, "a hidden page plays against the browser's will");
    page.browser.show()?;
    page.wait_at_target(SOON, "it was hidden")?;
    Ok(())
}

#[test]
fn the_page_plays_on_when_the_publisher_returns_with_other_tracks() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let cdn = Cdn::start(&env, &[])?;
    let publish = |audio: &str| {
        let options = ["--source", "test", "--audio", audio, "--size", "640x360", "--fps", "30"];
        Broadcaster::start(&env, &cdn.publish_url(&key), &options)
    };
    let mut broadcaster = publish("tone")?;
    cdn.wait_live("live")?;
    let page = PlayerPage::open(&env, &cdn, "live")?;
    page.wait_at_target(TIMEOUT, "the start")?;
    for audio in ["none", "tone"] {
        broadcaster.process.kill();
        page.wait_behind(TIMEOUT, 3.0)?;
        broadcaster = publish(audio)?;
        let tracks = if audio == "none" { 1 } else { 2 };
        until(TIMEOUT, "the other tracks", || {
            let stream = cdn.stream("live")?;
            let count = stream["tracks"].as_array().map_or(0, Vec::len);
            Ok((stream["state"] == "live" && count == tracks).then_some(()))
        })?;
        page.wait_at_target(SOON, &format!("the publisher returned with audio {audio}"))?;
        let sound = "const v = document.querySelector('video'); return v.webkitAudioDecodedByteCount > 0";
        until(SOON, &format!("the page to have the sound of the publisher, {audio}"), || {
            Ok((page.browser.run(sound)? == (audio == "tone")).then_some(()))
        })?;
    }
    Ok(())
}

/// What the publisher sends changes before the page has played long enough to forget the change before it.
#[test]
fn the_page_plays_quick_changes_of_tracks() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let cdn = Cdn::start(&env, &[])?;
    let url = cdn.publish_url(&key);
    let mut publisher = publish(&env, &url, BOTH)?;
    cdn.wait_live("live")?;
    let page = PlayerPage::open(&env, &cdn, "live")?;
    page.wait_at_target(TIMEOUT, "the start")?;
    page.browser.run(WATCH_VEIL)?;
    let mut waits = Vec::new();
    for tracks in [&["audio"], BOTH, &["video"], BOTH, &["audio"], &["video"], BOTH] {
        publisher.kill();
        publisher = publish(&env, &url, tracks)?;
        until(TIMEOUT, &format!("the server to have {tracks:?}"), || {
            let stream = cdn.stream("live")?;
            let kinds = stream["tracks"].as_array().into_iter().flatten().filter_map(|track| track["kind"].as_str());
            let kinds: BTreeSet<_> = kinds.collect();
            Ok((stream["state"] == "live" && kinds == tracks.iter().copied().collect()).then_some(()))
        })?;
        let changed = Instant::now();
        until(TIMEOUT, &format!("the page to play {tracks:?}"), || {
            std::thread::sleep(Duration::from_millis(50));
            Ok((page.browser.run(PLAYED)? == json!(tracks)).then_some(()))
        })
        .with_context(|| page.history().unwrap_or_default())?;
        waits.push((tracks, changed.elapsed()));
        std::thread::sleep(Duration::from_secs(5).saturating_sub(changed.elapsed()));
    }
    let shown = page.browser.run("return window.veils")?;
    eprintln!("until the page played other tracks: {waits:?}; shown meanwhile: {shown}");
    let worst = waits.iter().map(|(_, wait)| *wait).max().context("no change")?;
    ensure!(worst < QUICK, "{worst:?} until the page played other tracks\n{}", page.history()?);
    ensure!(!shown.to_string().contains("Interrupted"), "a change of tracks is shown as a failure: {shown}");
    Ok(())
}

/// Pictures stay away, sound goes on: so does the page, and shows the pictures when they are there again.
#[test]
fn the_page_plays_the_sound_while_pictures_stay_away() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let cdn = Cdn::start(&env, &[])?;
    let encoders = &["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "25", "-c:a", "aac"];
    let clip = NumberedClip::encode(&env, "clip.flv", ClipSpec { count: 25 * 90, encoders, ..ClipSpec::default() })?;
    let mut tags = TimedTag::from_tags(&Reader::new().push(&std::fs::read(&clip.path)?)?);
    let is_away = |at: u32| (12_000..27_000).contains(&at) || (42_000..57_000).contains(&at);
    tags.retain(|TimedTag { at, tag }| tag.kind != VIDEO || is_header(tag) || !is_away(*at));
    let url = cdn.publish_url(&key);
    std::thread::spawn(move || replay(&url, None, &tags, &AtomicBool::new(false)));
    cdn.wait_live("live")?;
    let page = PlayerPage::open(&env, &cdn, "live")?;
    page.wait_at_target(TIMEOUT, "the start")?;
    page.browser.run(WATCH_VEIL)?;
    for expected in [&["audio"], BOTH, &["audio"], BOTH] {
        until(TIMEOUT, &format!("the page to play {expected:?}"), || {
            std::thread::sleep(Duration::from_millis(100));
            Ok((page.browser.run(PLAYED)? == json!(expected)).then_some(()))
        })
        .with_context(|| page.history().unwrap_or_default())?;
        let title = page.browser.run("return document.getElementById('veil-title').textContent")?;
        ensure!((title == "Sound only") == (expected != BOTH), "the page plays {expected:?} and shows {title}");
        page.wait_at_target(SOON, &format!("{expected:?} are all there is"))?;
    }
    let shown = page.browser.run("return window.veils")?.to_string();
    eprintln!("the page has shown {shown}");
    ensure!(!shown.contains("Interrupted") && shown.contains("No pictures arrive"), "the page has shown {shown}");
    Ok(())
}

/// The kinds of tracks of most broadcasts.
const BOTH: &[&str] = &["audio", "video"];
/// How long the page may take to play other tracks than before, on a machine that runs other tests beside it.
const QUICK: Duration = Duration::from_secs(5);
/// The kinds of tracks that have been decoded since the last call, if playback moves.
const PLAYED: &str = "
    const video = document.querySelector('video'), { before } = window;
    const now = { time: video.currentTime, audio: video.webkitAudioDecodedByteCount, video: video.webkitVideoDecodedByteCount };
    window.before = now;
    const moves = now.time > before?.time && !video.paused && !video.seeking && video.readyState >= 3;
    return moves ? ['audio', 'video'].filter((kind) => now[kind] > 0) : [];";
/// Keeps what the page shows over the video.
const WATCH_VEIL: &str = "
    window.veils = [];
    setInterval(() => {
        const veil = document.getElementById('veil');
        const words = veil.hidden ? '' : document.getElementById('veil-title').textContent + ' ' + document.getElementById('veil-text').textContent;
        if (words !== window.veils.at(-1)) window.veils.push(words);
    }, 50);";

/// Publishes tracks of these kinds with ffmpeg.
fn publish(env: &TestEnv, url: &str, tracks: &[&str]) -> Result<Process> {
    let mut arguments = vec!["-nostdin", "-loglevel", "error"];
    if tracks.contains(&"video") {
        arguments.extend(["-re", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=30"]);
    }
    if tracks.contains(&"audio") {
        arguments.extend(["-re", "-f", "lavfi", "-i", "sine=sample_rate=48000"]);
    }
    arguments.extend(["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency"]);
    arguments.extend(["-g", "30", "-pix_fmt", "yuv420p"]);
    arguments.extend(["-c:a", "aac", "-f", "flv", url]);
    env.run("publisher", "ffmpeg", arguments)
}

/// Three minutes of faults in turn, or as many as `NEARCAST_PAGE_MINUTES`. After each the page is at its target again, without a click, and plays there; at
/// the end it is as close as at the start.
#[test]
fn the_page_recovers_from_minutes_of_faults() -> Result<()> {
    let minutes: u64 = match std::env::var("NEARCAST_PAGE_MINUTES") {
        Ok(minutes) => minutes.parse().context("NEARCAST_PAGE_MINUTES")?,
        Err(_) => 3,
    };
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let mut cdn = Cdn::start(&env, &[])?;
    let url = cdn.publish_url(&key);
    let publish = |options: &[&str]| {
        let picture = ["--source", "test", "--size", "640x360", "--fps", "30"];
        Broadcaster::start(&env, &url, &[&picture, options].concat())
    };
    let mut options = OTHER_TRACKS[0];
    let mut broadcaster = publish(options)?;
    cdn.wait_live("live")?;
    let page = PlayerPage::open(&env, &cdn, "live")?;
    page.wait_at_target(TIMEOUT, "the start")?;
    let mut undisturbed = Vec::new();
    let mut times: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let begun = Instant::now();
    for turn in 0.. {
        if begun.elapsed().as_secs() > minutes * 60 && turn >= 7 {
            break;
        }
        page.distances()?;
        std::thread::sleep(UNDISTURBED);
        undisturbed.extend(page.distances()?);
        let fault = match turn % 7 {
            0 => {
                broadcaster.process.kill();
                page.wait_behind(TIMEOUT, 3.0)?;
                broadcaster = publish(options)?;
                "the publisher was killed"
            }
            1 => {
                cdn.process.kill();
                page.wait_behind(TIMEOUT, 3.0)?;
                cdn.restart(&env)?;
                "the server was killed"
            }
            2 => {
                page.browser.set_offline(true)?;
                page.wait_behind(TIMEOUT, 4.0)?;
                page.browser.set_offline(false)?;
                "the network was away"
            }
            3 => {
                page.browser.hide()?;
                page.wait_behind(TIMEOUT, 5.0)?;
                page.browser.show()?;
                "the page was hidden"
            }
            4 => {
                broadcaster.process.kill();
                page.wait_behind(TIMEOUT, 3.0)?;
                options = OTHER_TRACKS[(turn / 7 + 1) % OTHER_TRACKS.len()];
                broadcaster = publish(options)?;
                "the publisher returned with other tracks"
            }
            5 => {
                // Less than a segment: the media that follows has a gap.
                broadcaster.process.signal(Signal::STOP);
                std::thread::sleep(Duration::from_secs(2));
                broadcaster.process.signal(Signal::CONT);
                "the publisher was kept from running"
            }
            _ => {
                page.fall_behind(8.0)?;
                "it fell behind"
            }
        };
        cdn.wait_live("live")?;
        let over = Instant::now();
        page.wait_at_target(SOON, fault)?;
        let took = over.elapsed();
        if took > SLOW {
            eprintln!("{took:?} to the target after {fault}:\n{}", page.history()?);
        }
        times.entry(fault).or_default().push(took.as_secs_f64());
    }
    for (fault, times) in &mut times {
        eprintln!("seconds to the target after {fault}: {}", Spread::of(times)?);
    }
    let (mut distances, mut beyond): (Vec<_>, Vec<_>) =
        undisturbed.iter().map(|(distance, target)| (*distance, distance - target)).unzip();
    eprintln!("seconds behind the live edge while undisturbed: {}", Spread::of(&mut distances)?);
    let beyond = Spread::of(&mut beyond)?;
    eprintln!("seconds behind the target while undisturbed: {beyond}");
    ensure!(beyond.half < AT_TARGET, "the page does not stay at its target: it was {beyond} s behind it");
    wait_close(&page)
}

/// Options of broadcasts with different tracks.
const OTHER_TRACKS: [&[&str]; 3] =
    [&["--audio", "tone"], &["--audio", "none"], &["--audio", "tone", "--audio-codec", "opus"]];
/// A way back to the target that took longer is explained in the output.
const SLOW: Duration = Duration::from_secs(8);
/// How long the page is left alone between two faults.
const UNDISTURBED: Duration = Duration::from_secs(3);
/// Seconds behind its target in which the page counts as at its target.
const AT_TARGET: f64 = 0.4;

/// How measurements are distributed.
#[derive(Debug)]
struct Spread {
    count: usize,
    half: f64,
    most: f64,
    worst: f64,
}

impl Spread {
    fn of(values: &mut [f64]) -> Result<Self> {
        ensure!(!values.is_empty(), "nothing was measured");
        values.sort_by(f64::total_cmp);
        let at = |part: f64| values[((values.len() as f64 * part).ceil() as usize).max(1) - 1];
        Ok(Self { count: values.len(), half: at(0.5), most: at(0.9), worst: at(1.0) })
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { count, half, most, worst } = self;
        write!(f, "median {half:.2}, 90% below {most:.2}, at most {worst:.2} (of {count})")
    }
}

#[test]
fn what_stalls_add_to_the_latency_goes_away() -> Result<()> {
    let env = TestEnv::new()?;
    let (_cdn, _broadcaster, page) = watching(&env)?;
    let target = || Ok::<_, anyhow::Error>(page.state()?.target.unwrap_or(0.0));
    let before = target()?;
    for _ in 0..20 {
        page.browser.run(STALL)?;
        // The next look at what plays.
        std::thread::sleep(Duration::from_millis(300));
    }
    let raised = until(TIMEOUT, "the target to rise", || Ok(Some(target()?).filter(|target| *target > before + 0.5)))?;
    ensure!(raised < HOLD_BACK + 1.6, "20 stalls put the target at {raised} s");
    until(TIMEOUT, "the target to return", || Ok((target()? < HOLD_BACK + 0.3).then_some(())))
}

#[test]
fn a_page_that_the_viewer_paused_stays_paused() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let mut cdn = Cdn::start(&env, &[])?;
    let url = cdn.publish_url(&key);
    let mut broadcaster = Broadcaster::start(&env, &url, &Broadcaster::SMALL)?;
    cdn.wait_live("live")?;
    let page = PlayerPage::open(&env, &cdn, "live")?;
    page.wait_at_target(TIMEOUT, "the start")?;
    page.browser.run(PRESS_K)?;
    page.browser.set_offline(true)?;
    page.wait_behind(TIMEOUT, 4.0)?;
    page.browser.set_offline(false)?;
    page.wait_behind(TIMEOUT, 12.0)?;
    ensure!(page.state()?.paused, "the page plays although the viewer has paused");
    broadcaster.process.kill();
    cdn.restart(&env)?;
    until(TIMEOUT, "the page to say that the stream is offline", || {
        Ok((page.browser.run("return document.getElementById('state').dataset.state")? == "offline").then_some(()))
    })?;
    let _next = Broadcaster::start(&env, &url, &Broadcaster::SMALL)?;
    cdn.wait_segment("live")?;
    std::thread::sleep(TO_NOTICE);
    ensure!(page.state()?.paused, "the page plays the next broadcast although the viewer has paused");
    page.browser.run(PRESS_K)?;
    page.wait_at_target(SOON, "the viewer continues")?;
    Ok(())
}

/// A server, a broadcaster, and a page that plays its stream.
fn watching(env: &TestEnv) -> Result<(Cdn, Broadcaster, PlayerPage)> {
    let key = Cdn::key(env, "live")?;
    let cdn = Cdn::start(env, &[])?;
    let broadcaster = Broadcaster::start(env, &cdn.publish_url(&key), &Broadcaster::SMALL)?;
    cdn.wait_live("live")?;
    let page = PlayerPage::open(env, &cdn, "live")?;
    page.wait_at_target(TIMEOUT, "the start")?;
    Ok((cdn, broadcaster, page))
}

/// Waits until the page is as close behind the live edge as it is where nothing stalls.
fn wait_close(page: &PlayerPage) -> Result<()> {
    let stalls = || Ok::<_, anyhow::Error>(page.browser.run(COUNT_STALLS)?.as_u64().unwrap_or(0));
    let started = Instant::now();
    let mut quiet_since = (Instant::now(), stalls()?);
    loop {
        std::thread::sleep(Duration::from_millis(250));
        let (state, count) = (page.state()?, stalls()?);
        if state.latency.zip(state.target).is_some_and(|(latency, target)| latency <= 0.75 && target <= 0.7) {
            eprintln!("{state:?}, after {count} stalls");
            return Ok(());
        }
        if count > quiet_since.1 {
            quiet_since = (Instant::now(), count);
        }
        ensure!(quiet_since.0.elapsed() < FORGOTTEN, "{state:?}, {FORGOTTEN:?} after the last of {count} stalls");
        if started.elapsed() > 2 * TIMEOUT {
            eprintln!("skipped: the browser stalled {count} times, for want of processor time");
            return Ok(());
        }
    }
}

/// How long the page may take to be at its target again: 5 s to notice that it is behind and 5 s to return, on a machine that runs other tests beside
/// it.
const SOON: Duration = Duration::from_secs(30);
/// `PART-HOLD-BACK` in seconds with the default duration of parts.
const HOLD_BACK: f64 = 0.648;

/// How long after a stall the page is close behind the live edge again: the most that stalls add is gone after 75 s.
const FORGOTTEN: Duration = Duration::from_secs(85);

/// The number of stalls since the page was opened.
const COUNT_STALLS: &str =
    "return (window.hlsErrors ?? []).filter((error) => error.details === 'bufferStalledError').length";
/// Tells the page of a stall.
const STALL: &str = "
    const { ErrorTypes, ErrorDetails, Events } = window.Hls;
    const stall = { type: ErrorTypes.MEDIA_ERROR, details: ErrorDetails.BUFFER_STALLED_ERROR, fatal: false, error: new Error() };
    window.watchedHls.trigger(Events.ERROR, stall);";
/// In which the page has noticed the next broadcast, and would have played it.
const TO_NOTICE: Duration = Duration::from_secs(6);
const PRESS_K: &str = "document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 'k', bubbles: true }))";
