//! The player page in a browser, seen through its video element and its hls.js.

use std::time::Duration;

use anyhow::{Context, Result};

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

    /// Waits until pictures follow each other at the target. `after` names what happened before, for the error.
    pub fn wait_at_target(&self, within: Duration, after: &str) -> Result<PlayerState> {
        let mut before = self.state()?;
        until(within, &format!("the page to play at its target after {after}"), || {
            // Reading the state costs the browser time that it needs for playback.
            std::thread::sleep(BETWEEN_READINGS);
            let now = self.state()?;
            let moves = now.time > before.time && now.pictures > before.pictures && !now.paused;
            before = now.clone();
            Ok((moves && now.is_at_target()).then_some(now))
        })
        .with_context(|| format!("{before:?}"))
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
const BETWEEN_READINGS: Duration = Duration::from_millis(250);

/// Keeps the instances and the errors of hls.js.
const WATCH_HLS_JS: &str = "
    let real;
    Object.defineProperty(window, 'Hls', {
        configurable: true,
        get: () => real,
        set: (hls) => {
            real = hls;
            const trigger = hls.prototype.trigger;
            hls.prototype.trigger = function (name, data) {
                if (name === 'hlsManifestLoading') window.watchedHls = this;
                if (name === 'hlsFragLoaded' && data.part) window.hlsParts = (window.hlsParts ?? 0) + 1;
                if (name === 'hlsError') (window.hlsErrors ??= []).push({ fatal: data.fatal, type: data.type, details: data.details });
                return trigger.apply(this, arguments);
            };
        },
    });";

const READ_STATE: &str = "
    const video = document.querySelector('video'), hls = window.watchedHls;
    let details;
    try { details = hls?.latestLevelDetails; } catch { /* this instance was destroyed, and there is no other yet */ }
    return {
        time: video.currentTime, paused: video.paused, pictures: video.getVideoPlaybackQuality().totalVideoFrames,
        latency: details && details.edge + details.age - video.currentTime,
        target: details && hls.targetLatency, holdBack: details && details.partHoldBack,
    };";
