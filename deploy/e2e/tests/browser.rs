//! The player page in headless Chromium: hls.js plays LL-HLS parts without fatal errors, and the burnt-in frame numbers on the screen advance.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Broadcaster, Browser, Cdn, PlayerPage, TIMEOUT, TestEnv, from_base64, until};
use media::frame_counter;

#[test]
fn the_page_plays_by_parts_without_an_error() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let cdn = Cdn::start(&env, &[])?;
    let _broadcaster = Broadcaster::start(&env, &cdn.publish_url(&key), &Broadcaster::SMALL)?;
    cdn.wait_live("live")?;
    let page = PlayerPage::open(&env, &cdn, "live")?;
    let browser = &page.browser;

    let time = || -> Result<f64> {
        Ok(browser.run("return document.querySelector('video').currentTime")?.as_f64().unwrap_or(0.0))
    };
    until(TIMEOUT, "the page to play", || {
        let begun = browser.run(
            "const v = document.querySelector('video'); return v.readyState >= 3 && !v.paused && v.currentTime > 0",
        )?;
        Ok((begun == true).then_some(()))
    })?;
    let (begun_at, mut counters) = (time()?, Vec::new());
    until(TIMEOUT, "the page to play on", || {
        // Reading the frame costs the browser time that it needs for playback.
        std::thread::sleep(Duration::from_millis(100));
        counters.extend(counter_on_screen(browser)?);
        Ok((time()? - begun_at >= WATCHED && counters.len() >= 20).then_some(()))
    })?;
    let played = time()? - begun_at;
    let screenshot = screenshot_path(&env);
    browser.screenshot(&screenshot)?;
    eprintln!("played {played:.1} s; screenshot in {}", screenshot.display());

    let errors = browser.run("return window.hlsErrors || []")?;
    let fatal: Vec<_> = errors.as_array().context("a list")?.iter().filter(|error| error["fatal"] == true).collect();
    ensure!(fatal.is_empty(), "hls.js: {fatal:?}");
    let severe: Vec<_> = browser.console()?.into_iter().filter(|entry| entry["level"] == "SEVERE").collect();
    ensure!(severe.is_empty(), "on the console: {severe:?}");
    let (parts, mode) = (browser.run("return window.hlsParts || 0")?, browser.run(READ_MODE)?);
    eprintln!("{parts} parts; the page says: {mode}; hls.js: {}", browser.run(READ_LATENCY)?);
    // A part lasts 0.2 s. After a stall, as on a busy machine, hls.js loads a whole segment.
    ensure!(parts.as_f64().unwrap_or(0.0) > played, "hls.js took {parts} parts in {played:.1} s");
    ensure!(mode.as_str().is_some_and(|mode| mode.starts_with("LL-HLS")), "the page says {mode}");
    ensure!(counters.is_sorted(), "the frame numbers decreased: {counters:?}");
    let pictures = counters.last().context("not empty")? - counters[0];
    ensure!(f64::from(pictures) > 0.8 * 30.0 * played, "the pictures moved on by {pictures} in {played:.1} s");
    Ok(())
}

#[test]
fn the_page_says_when_a_stream_is_offline_or_unknown_and_starts_by_itself() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let cdn = Cdn::start(&env, &[])?;
    let browser = Browser::start(&env)?;
    let state = || -> Result<String> {
        Ok(browser.run("return document.getElementById('state').dataset.state")?.as_str().unwrap_or("").to_owned())
    };
    for (name, expected) in [("nowhere", "unknown"), ("live", "offline")] {
        browser.open(&cdn.page_url(name))?;
        until(TIMEOUT, &format!("the page of {name} to say {expected}"), || Ok((state()? == expected).then_some(())))?;
    }
    let _broadcaster = Broadcaster::start(&env, &cdn.publish_url(&key), &Broadcaster::SMALL)?;
    until(TIMEOUT, "the page to start by itself", || {
        Ok((browser.run("return document.querySelector('video').currentTime > 1")? == true).then_some(()))
    })
}

#[test]
fn the_page_resumes_when_the_publisher_returns() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let cdn = Cdn::start(&env, &[])?;
    let mut first = Broadcaster::start(&env, &cdn.publish_url(&key), &Broadcaster::SMALL)?;
    cdn.wait_live("live")?;
    let page = PlayerPage::open(&env, &cdn, "live")?;
    let browser = &page.browser;
    until(TIMEOUT, "the page to play", || {
        Ok((browser.run("return document.querySelector('video').currentTime > 3")? == true).then_some(()))
    })?;
    until(TIMEOUT, "pictures", || counter_on_screen(browser))?;
    first.process.kill();
    until(TIMEOUT, "the page to say that the publisher is away", || {
        Ok((browser.run("return document.getElementById('state').dataset.state")? == "disconnected").then_some(()))
    })?;
    // Long enough for a blocking reload to time out.
    until(TIMEOUT, "hls.js to ask again", || {
        let waited = "return (window.hlsErrors || []).some((error) => error.details.startsWith('levelLoad'))";
        Ok((browser.run(waited)? == true).then_some(()))
    })?;
    // The second broadcast has another picture size.
    let options = ["--source", "test", "--audio", "tone", "--size", "320x180", "--fps", "30"];
    let _second = Broadcaster::start(&env, &cdn.publish_url(&key), &options)?;
    let time_of_second = || -> Result<Option<f64>> {
        let time = "const v = document.querySelector('video'); return v.videoWidth === 320 ? v.currentTime : null";
        Ok(browser.run(time)?.as_f64())
    };
    let begun_at = until(TIMEOUT, "pictures of the second broadcast", time_of_second)?;
    until(TIMEOUT, "the second broadcast to play on", || {
        Ok(time_of_second()?.filter(|time| *time > begun_at + 2.0).map(drop))
    })?;
    let errors = browser.run("return window.hlsErrors || []")?;
    eprintln!("{errors}");
    let fatal = errors.as_array().is_some_and(|errors| errors.iter().any(|error| error["fatal"] == true));
    ensure!(!fatal, "hls.js: {errors}");
    Ok(())
}

/// Reads the frame number of the picture that the page currently shows.
fn counter_on_screen(browser: &Browser) -> Result<Option<u32>> {
    let luma = browser.run(READ_PICTURE)?;
    let Some(text) = luma.as_str() else { return Ok(None) };
    Ok(frame_counter::read(&from_base64(text)?, WIDTH, WIDTH, HEIGHT).map(|mark| mark.counter))
}

/// The path of the screenshot: in `NEARCAST_SCREENSHOTS`, else in the directory of the logs.
fn screenshot_path(env: &TestEnv) -> PathBuf {
    match std::env::var_os("NEARCAST_SCREENSHOTS") {
        Some(directory) => PathBuf::from(directory).join("page.png"),
        None => env.path("page.png"),
    }
}

const WIDTH: usize = 640;
const HEIGHT: usize = 360;
/// Seconds of media time to watch.
const WATCHED: f64 = 20.0;

/// Reads the page's playback mode.
const READ_MODE: &str = "return document.getElementById('stat-mode').textContent";

/// Reads hls.js' target latency and its distance from the live edge, and the page's measured glass-to-glass latency, in seconds.
const READ_LATENCY: &str = "
    const { latency, targetLatency } = window.watchedHls;
    return { latency, targetLatency, measured: document.getElementById('stat-latency').textContent };";

/// Reads the current frame's luma, in Base64.
const READ_PICTURE: &str = "
    const video = document.querySelector('video');
    if (!video.videoWidth) return null;
    const canvas = (window.canvas ??= new OffscreenCanvas(640, 360));
    const context = canvas.getContext('2d', { willReadFrequently: true });
    context.drawImage(video, 0, 0, 640, 360);
    const { data } = context.getImageData(0, 0, 640, 360);
    let luma = '';
    for (let n = 0; n < data.length; n += 4) luma += String.fromCharCode((data[n] + 2 * data[n + 1] + data[n + 2]) >> 2);
    return btoa(luma);";
