//! The player page in a browser, seen through its video element and its hls.js.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::browser::Browser;
use crate::cdn::Cdn;
use crate::test_env::TestEnv;
use ::lab::until;

/// A page that plays one stream in its own browser.
///
/// The page's scripts can be read: `window.watchedHls` is the newest instance of hls.js, `window.hlsErrors` are the errors of all, fatal or
/// not, and `window.hlsParts` counts the parts that they loaded.
#[derive(Debug)]
pub struct PlayerPage {
    /// The browser; the page is open in its only window.
    pub browser: Browser,
}

/// What the player does at one moment. Times are in seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct PlayerState {
    /// The play head.
    pub time: f64,
    /// Pictures that were decoded since the media was loaded.
    pub pictures: f64,
    /// Whether playback is paused.
    pub paused: bool,
    /// Distance of the play head from the live edge, which moves on by itself while no playlist arrives; `None` before the first playlist.
    pub latency: Option<f64>,
    /// The distance that the player aims at.
    pub target: Option<f64>,
    /// `PART-HOLD-BACK` of the playlist.
    pub hold_back: Option<f64>,
}

impl PlayerPage {
    /// Starts a browser and opens the page of `name` in it.
    pub fn open(env: &TestEnv, cdn: &Cdn, name: &str) -> Result<Self> {
        Self::open_url(env, &cdn.page_url(name))
    }

    /// The same, at another URL, such as a proxy's.
    pub fn open_url(env: &TestEnv, url: &str) -> Result<Self> {
        let browser = Browser::start(env)?;
        browser.before_each_page(WATCH_HLS_JS)?;
        browser.open(url)?;
        Ok(Self { browser })
    }

    /// Reads the state of the player.
    pub fn state(&self) -> Result<PlayerState> {
        let read = self.browser.run(READ_STATE)?;
        let number = |name: &str| read[name].as_f64();
        Ok(PlayerState {
            time: number("time").context("no play head")?,
            pictures: number("pictures").unwrap_or(0.0),
            paused: read["paused"] == true,
            latency: number("latency"),
            target: number("target"),
            hold_back: number("holdBack"),
        })
    }

    /// Waits until pictures have followed each other at the target for a second. `after` names what happened before, for the error.
    pub fn wait_at_target(&self, within: Duration, after: &str) -> Result<PlayerState> {
        let mut before = self.state()?;
        let mut since = Instant::now();
        until(within, &format!("the page to play at its target after {after}"), || {
            // Reading the state costs the browser time that it needs for playback.
            std::thread::sleep(BETWEEN_READINGS);
            let now = self.state()?;
            let moves = now.time > before.time && now.pictures > before.pictures && !now.paused;
            if !moves || !now.is_at_target() {
                since = Instant::now();
            }
            before = now.clone();
            Ok((since.elapsed() >= AT_TARGET_FOR).then_some(now))
        })
        .with_context(|| format!("{before:?}\n{}", self.history().unwrap_or_else(|error| format!("{error:#}"))))
    }

    /// The distances of the play head from the live edge and those that the player aims at, in seconds, four times a second since the last call.
    ///
    /// # Errors
    /// If the browser does not answer.
    pub fn distances(&self) -> Result<Vec<(f64, f64)>> {
        let read = self.browser.run("return window.playerDistances.splice(0)")?;
        let pairs = read.as_array().into_iter().flatten();
        Ok(pairs.filter_map(|pair| pair[0].as_f64().zip(pair[1].as_f64())).collect())
    }

    /// What happened in the page, newest last: a line per event of its video, its document and hls.js, with its time in milliseconds since the page
    /// was opened and the play head in seconds. The events that a playing page has all the time are left out.
    ///
    /// # Errors
    /// If the browser does not answer.
    pub fn history(&self) -> Result<String> {
        let lines = self.browser.run("return window.playerHistory")?;
        let lines = lines.as_array().into_iter().flatten().filter_map(Value::as_str);
        Ok(lines.collect::<Vec<_>>().join("\n"))
    }

    /// Moves the play head back by `seconds`, as if playback had stood still unnoticed. The page may be back before its state can be read.
    ///
    /// # Errors
    /// If the page is then not further behind the live edge than that.
    pub fn fall_behind(&self, seconds: f64) -> Result<()> {
        let script = format!("document.querySelector('video').currentTime -= {seconds}; return readState().latency");
        let latency = self.browser.run(&script)?;
        ensure!(
            latency.as_f64().is_some_and(|latency| latency > seconds),
            "{latency} s behind, {seconds} s further back"
        );
        Ok(())
    }

    /// Waits until playback is more than `seconds` behind the live edge.
    pub fn wait_behind(&self, within: Duration, seconds: f64) -> Result<PlayerState> {
        until(within, &format!("the page to be {seconds} s behind the live edge"), || {
            std::thread::sleep(BETWEEN_READINGS);
            let now = self.state()?;
            Ok(now.latency.is_some_and(|latency| latency > seconds).then_some(now))
        })
    }
}

impl PlayerState {
    /// Whether the play head is where the player aims, and the player aims at most 1.5 s behind what the playlist asks for.
    pub fn is_at_target(&self) -> bool {
        let (Some(latency), Some(target), Some(hold_back)) = (self.latency, self.target, self.hold_back) else {
            return false;
        };
        latency < target + AT_TARGET && target <= hold_back + MAX_MARGIN
    }
}

/// The page corrects smaller distances from its target by its rate of playback.
const AT_TARGET: f64 = 0.4;
/// The most that stalls add to the page's target.
const MAX_MARGIN: f64 = 1.5;
/// What plays for a shorter time may still be what was loaded before an interruption.
const AT_TARGET_FOR: Duration = Duration::from_secs(1);
const BETWEEN_READINGS: Duration = Duration::from_millis(250);

/// Reads the state; keeps the instances and the errors of hls.js, the newest distances from the live edge, and the newest events.
const WATCH_HLS_JS: &str = "
    let real, video;
    window.readState = () => {
        const video = document.querySelector('video'), hls = window.watchedHls;
        let details;
        try { details = hls?.latestLevelDetails; } catch { /* this instance was destroyed, and there is no other yet */ }
        return {
            time: video.currentTime, paused: video.paused, pictures: video.getVideoPlaybackQuality().totalVideoFrames,
            latency: details && details.edge + details.age - video.currentTime,
            target: details && hls.targetLatency, holdBack: details && details.partHoldBack,
        };
    };
    window.playerHistory = [];
    window.playerDistances = [];
    setInterval(() => {
        if (!video) return;
        const { latency, target } = readState();
        window.playerDistances.push([latency, target]);
        if (window.playerDistances.length > 1000) window.playerDistances.shift();
    }, 250);
    const note = (what) => {
        window.playerHistory.push(`${Math.round(performance.now())} ${video?.currentTime.toFixed(3)} ${what}`);
        if (window.playerHistory.length > 150) window.playerHistory.shift();
    };
    document.addEventListener('visibilitychange', () => note(document.visibilityState));
    for (const type of ['online', 'offline']) addEventListener(type, () => note(type));
    document.addEventListener('DOMContentLoaded', () => {
        video = document.querySelector('video');
        const types = ['play', 'pause', 'playing', 'waiting', 'seeking', 'seeked', 'emptied', 'loadedmetadata', 'canplay', 'ended', 'error'];
        for (const type of types) video?.addEventListener(type, () => note(type));
    });
    Object.defineProperty(window, 'Hls', {
        configurable: true,
        get: () => real,
        set: (hls) => {
            real = hls;
            const trigger = hls.prototype.trigger;
            hls.prototype.trigger = function (name, data) {
                if (name === 'hlsManifestLoading') window.watchedHls = this;
                if (['hlsManifestLoading', 'hlsManifestParsed', 'hlsMediaAttached', 'hlsDestroying'].includes(name)) note(name);
                if (name === 'hlsError') note(`${name} ${data.details} ${data.response?.code ?? ''} ${data.fatal ? 'fatal' : ''}`);
                if (name === 'hlsFragLoaded' && data.part) window.hlsParts = (window.hlsParts ?? 0) + 1;
                if (name === 'hlsError') (window.hlsErrors ??= []).push({ fatal: data.fatal, type: data.type, details: data.details });
                return trigger.apply(this, arguments);
            };
        },
    });";

const READ_STATE: &str = "return readState()";
