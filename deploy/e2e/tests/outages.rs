//! Servers and publishers that are killed and restarted, and publishers that compete for one stream key.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Broadcaster, Cdn, ExternalPlayer, TIMEOUT, TestEnv, Viewer, ensure_consecutive, until};
use rustix::process::Signal;

#[test]
fn a_server_restart_loses_no_access_unit() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let mut cdn = Cdn::start(&env, &[])?;
    let mut viewer = Viewer::start(&env, &cdn.rtmp_url("live"), &[])?;
    let mut broadcaster = Broadcaster::start(&env, &cdn.publish_url(&key), &Broadcaster::SMALL)?;
    viewer.wait_pictures(90, TIMEOUT)?;
    cdn.process.kill();
    std::thread::sleep(OUTAGE);
    let before = viewer.pictures()?;
    cdn.restart(&env)?;
    // The frames of the outage, and some after it.
    viewer.wait_pictures(before + 30 * OUTAGE.as_secs() as usize + 90, TIMEOUT)?;
    ensure!(broadcaster.process.running()?, "the broadcaster ended");
    viewer.finish()?.ensure_unbroken(90)?;
    broadcaster.stop_and_compare(&viewer)
}

#[test]
fn ctrl_c_stops_the_broadcaster_before_it_gives_up_in_every_server_state() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let mut cdn = Cdn::start(&env, &[])?;
    type Outage = fn(&mut Cdn);
    let cases: [(&str, Outage); 3] = [
        ("is running", |_| ()),
        ("is suspended", |cdn| cdn.process.signal(Signal::STOP)),
        ("is down", |cdn| cdn.process.kill()),
    ];
    for (name, outage) in cases {
        let mut broadcaster = Broadcaster::start(&env, &cdn.publish_url(&key), &Broadcaster::SMALL)?;
        cdn.wait_live("live")?;
        outage(&mut cdn);
        if name != "is running" {
            std::thread::sleep(OUTAGE);
        }
        broadcaster.process.interrupt();
        // If it waited for the server until it gives up by itself, it would fail.
        broadcaster.process.success(TIMEOUT).with_context(|| format!("where the server {name}"))?;
        cdn.restart(&env)?;
    }
    Ok(())
}

#[test]
fn an_hls_viewer_survives_the_restart_of_its_server() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let mut cdn = Cdn::start(&env, &[])?;
    let mut broadcaster = Broadcaster::start(&env, &cdn.publish_url(&key), &Broadcaster::SMALL)?;
    cdn.wait_segment("live")?;
    let mut viewer = Viewer::start(&env, &cdn.hls_url("live"), &[])?;
    viewer.wait_pictures(60, TIMEOUT)?;
    cdn.process.kill();
    let before = viewer.pictures()?;
    cdn.restart(&env)?;
    viewer.wait_pictures(before + 240, TIMEOUT)?;
    viewer.finish()?.ensure_unbroken(240)?;
    broadcaster.stop_and_compare(&viewer)
}

#[test]
fn players_stay_connected_while_the_publisher_restarts() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let cdn = Cdn::start(&env, &[])?;
    let mut first = Broadcaster::start(&env, &cdn.publish_url(&key), &Broadcaster::SMALL)?;
    cdn.wait_segment("live")?;
    let mut readers =
        [Viewer::start(&env, &cdn.rtmp_url("live"), &[])?, Viewer::start(&env, &cdn.hls_url("live"), &[])?];
    for reader in &mut readers {
        reader.wait_pictures(60, TIMEOUT)?;
    }
    let before = Playlist::of(&cdn)?;
    first.process.kill();
    until(TIMEOUT, "the stream to be away", || Ok((cdn.stream("live")?["state"] == "disconnected").then_some(())))?;
    let while_away = Playlist::of(&cdn)?;
    ensure!(
        while_away.sequence >= before.sequence && !while_away.ended,
        "the playlist ended with the publisher: {}",
        while_away.text
    );

    let seen: Vec<usize> = readers.iter().map(Viewer::pictures).collect::<Result<_>>()?;
    // A different audio bitrate: identical audio at the same timestamp would look like a duplicate unit.
    let options = [&Broadcaster::SMALL[..], &["--audio-bitrate", "96k"]].concat();
    let _second = Broadcaster::start(&env, &cdn.publish_url(&key), &options)?;
    for (reader, seen) in readers.iter_mut().zip(seen) {
        reader.wait_pictures(seen + 150, TIMEOUT)?;
        ensure!(reader.process.running()?, "a player ended with the publisher");
    }
    let after = Playlist::of(&cdn)?;
    ensure!(after.last() > while_away.last(), "no new segment after the return");
    ensure!(
        after.sequence >= while_away.sequence,
        "media sequence numbers decreased: {} to {}",
        while_away.sequence,
        after.sequence
    );
    let marked = after.text.contains("#EXT-X-DISCONTINUITY\n")
        || after.discontinuity_sequence > while_away.discontinuity_sequence;
    ensure!(marked, "no discontinuity before another broadcast: {}", after.text);
    for reader in &mut readers {
        reader.finish()?;
        reader.ensure_no_duplicates()?;
    }
    Ok(())
}

#[test]
fn a_second_publisher_with_the_same_key_takes_over() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let cdn = Cdn::start(&env, &[])?;
    let mut first = env.run(
        "first",
        "ffmpeg",
        [
            "-nostdin",
            "-loglevel",
            "error",
            "-re",
            "-f",
            "lavfi",
            "-i",
            "testsrc2=size=640x360:rate=30",
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            "-g",
            "60",
            "-pix_fmt",
            "yuv420p",
            "-f",
            "flv",
            &cdn.publish_url(&key),
        ],
    )?;
    cdn.wait_live("live")?;
    let segment = cdn.wait_segment("live")?;
    let mut viewer = Viewer::start(&env, &cdn.rtmp_url("live"), &[])?;
    viewer.wait_pictures(30, TIMEOUT)?;
    let before = Playlist::parse(&segment)?;
    let epoch = cdn.stream("live")?["epoch"].clone();

    let mut second = Broadcaster::start(&env, &cdn.publish_url(&key), &Broadcaster::SMALL)?;
    until(TIMEOUT, "the second publisher to have the stream", || {
        Ok((cdn.stream("live")?["epoch"] != epoch).then_some(()))
    })?;
    let status = first.exit(TIMEOUT)?;
    ensure!(!status.success(), "the first publisher was not disconnected with an error");
    let seen = viewer.pictures()?;
    viewer.wait_pictures(seen + 90, TIMEOUT)?;
    // Frames are now those of the second publisher: numbered and consecutive.
    ensure_consecutive(&ExternalPlayer::Ffmpeg.frame_numbers(&env, &cdn.rtmp_url("live"), (640, 360), 30, TIMEOUT)?)?;
    ensure!(second.process.running()?, "the second publisher ended");
    let after = until(TIMEOUT, "a segment of the second publisher", || {
        let playlist = Playlist::of(&cdn)?;
        Ok((playlist.last() > before.last() && playlist.text.contains("#EXT-X-DISCONTINUITY\n")).then_some(playlist))
    })?;
    ensure!(
        after.sequence >= before.sequence,
        "media sequence numbers decreased: {} to {}",
        before.sequence,
        after.sequence
    );
    viewer.finish()?;
    viewer.ensure_no_duplicates()?;
    Ok(())
}

#[test]
fn two_broadcasters_with_one_key_do_not_alternate() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let cdn = Cdn::start(&env, &[])?;
    let mut first = Broadcaster::start(&env, &cdn.publish_url(&key), &Broadcaster::SMALL)?;
    cdn.wait_live("live")?;
    let epoch = cdn.stream("live")?["epoch"].clone();
    let mut second = Broadcaster::start(&env, &cdn.publish_url(&key), &Broadcaster::SMALL)?;
    until(TIMEOUT, "the second broadcaster to have the stream", || {
        Ok((cdn.stream("live")?["epoch"] != epoch).then_some(()))
    })?;
    let status = first.process.exit(TIMEOUT).context("the replaced broadcaster keeps reconnecting")?;
    ensure!(!status.success(), "the replaced broadcaster exited with success");
    ensure!(second.process.running()?, "the second broadcaster ended");
    ensure_consecutive(&ExternalPlayer::Ffmpeg.frame_numbers(&env, &cdn.rtmp_url("live"), (640, 360), 60, TIMEOUT)?)?;
    Ok(())
}

#[test]
fn the_server_drains_on_sigterm() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let mut cdn = Cdn::start(&env, &[])?;
    let _broadcaster = Broadcaster::start(&env, &cdn.publish_url(&key), &Broadcaster::SMALL)?;
    let mut viewer = Viewer::start(&env, &cdn.rtmp_url("live"), &[])?;
    viewer.wait_pictures(30, TIMEOUT)?;
    cdn.process.terminate();
    cdn.process.success(TIMEOUT)?;
    viewer.finish()?.ensure_unbroken(20)
}

/// What the tests need of a media playlist.
struct Playlist {
    text: String,
    sequence: u64,
    discontinuity_sequence: u64,
    segments: u64,
    ended: bool,
}

impl Playlist {
    fn of(cdn: &Cdn) -> Result<Self> {
        let answer = cdn.get("/live/media.m3u8")?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        Self::parse(&answer.text())
    }

    fn parse(text: &str) -> Result<Self> {
        let number = |tag: &str| text.lines().find_map(|line| line.strip_prefix(tag)).map(str::parse).transpose();
        Ok(Self {
            sequence: number("#EXT-X-MEDIA-SEQUENCE:")?.context("no media sequence")?,
            discontinuity_sequence: number("#EXT-X-DISCONTINUITY-SEQUENCE:")?.unwrap_or(0),
            segments: text.lines().filter(|line| line.starts_with("#EXTINF")).count() as u64,
            ended: text.contains("#EXT-X-ENDLIST"),
            text: text.to_owned(),
        })
    }

    /// The media sequence number after that of the last segment.
    fn last(&self) -> u64 {
        self.sequence + self.segments
    }
}

/// Duration of the server's outage, within what the broadcaster promises to bridge.
const OUTAGE: Duration = Duration::from_secs(5);
