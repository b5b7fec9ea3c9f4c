//! The player page after interruptions: it plays at its target again, without a click.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::{Broadcaster, Cdn, PlayerPage, TIMEOUT, TestEnv, until};

#[test]
fn the_page_plays_close_behind_the_live_edge() -> Result<()> {
    let env = TestEnv::new()?;
    let (_cdn, _broadcaster, page) = watching(&env)?;
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

#[test]
fn the_page_returns_to_its_target_after_interruptions() -> Result<()> {
    let env = TestEnv::new()?;
    let (mut cdn, _broadcaster, page) = watching(&env)?;

    page.browser.set_offline(true)?;
    page.wait_behind(TIMEOUT, 3.0 + HOLD_BACK)?;
    page.browser.set_offline(false)?;
    page.wait_at_target(SOON, "an outage of the network")?;

    // Such as by a stall that no event tells of.
    page.browser.run("document.querySelector('video').currentTime -= 6")?;
    page.wait_behind(TIMEOUT, 4.0)?;
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

#[test]
fn what_stalls_add_to_the_latency_goes_away() -> Result<()> {
    let env = TestEnv::new()?;
    let (_cdn, _broadcaster, page) = watching(&env)?;
    let target = || Ok::<_, anyhow::Error>(page.state()?.target.unwrap_or(0.0));
    let before = target()?;
    for _ in 0..20 {
        page.browser.run(STALL)?;
    }
    let raised = until(TIMEOUT, "the target to rise", || Ok(Some(target()?).filter(|target| *target > before + 0.5)))?;
    ensure!(raised < HOLD_BACK + 1.6, "20 stalls put the target at {raised} s");
    until(TIMEOUT, "the target to return", || Ok((target()? < HOLD_BACK + 0.3).then_some(())))
}

#[test]
fn a_page_that_the_viewer_paused_stays_paused() -> Result<()> {
    let env = TestEnv::new()?;
    let (_cdn, _broadcaster, page) = watching(&env)?;
    page.browser.run(PRESS_K)?;
    page.browser.set_offline(true)?;
    page.wait_behind(TIMEOUT, 4.0)?;
    page.browser.set_offline(false)?;
    page.wait_behind(TIMEOUT, 12.0)?;
    ensure!(page.state()?.paused, "the page plays although the viewer has paused");
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
const PRESS_K: &str = "document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 'k', bubbles: true }))";
