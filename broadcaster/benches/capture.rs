//! Delay from capture to access unit: the test pattern at 720p30 with the default encoder.
//!
//! Prints p50 and p99 in milliseconds and in frame intervals: a delay that exceeds one interval costs a viewer a further one.
#![allow(clippy::print_stdout, reason = "a benchmark's output")]

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use broadcaster::broadcast::Broadcast;
use broadcaster::capture::{self, CaptureContext, test_pattern};
use broadcaster::clock::BroadcastClock;
use broadcaster::config::Cli;
use broadcaster::encode::DropOldestQueue;
use broadcaster::encode::video::VideoEncoding;
use broadcaster::shutdown::ShutdownSignal;
use broadcaster::stats::Stats;
use clap::Parser;
use media::{Epoch, TrackId};

fn main() -> anyhow::Result<()> {
    capture::init()?;
    let command =
        ["broadcaster", "--source", "test", "--size", "1280x720", "--fps", "30", "rtmp://127.0.0.1/bench/none"];
    let settings = Cli::try_parse_from(command)?.publish.settings()?;
    let stats = Arc::new(Stats::default());
    let clock = BroadcastClock::start();
    let broadcast = Arc::new(Broadcast::new(Epoch(1), clock.zero(), &[TrackId::VIDEO], settings.window, stats.clone()));
    let shutdown = ShutdownSignal::default();
    let context = CaptureContext {
        settings: Arc::new(settings.capture.clone()),
        clock,
        broadcast: broadcast.clone(),
        stats: stats.clone(),
        shutdown: shutdown.clone(),
    };
    let pictures = Arc::new(DropOldestQueue::new(1));
    let encoding = VideoEncoding::new(settings.capture.video.clone(), true, clock, broadcast.clone(), stats.clone());

    let delays = std::thread::scope(|scope| {
        scope.spawn(|| encoding.run(&pictures));
        scope.spawn(|| test_pattern::run_video(&context, &pictures));
        let delays = measure(&broadcast, clock);
        shutdown.trigger();
        pictures.close();
        delays
    })?;
    report(delays, &stats);
    Ok(())
}

/// Waits for each access unit as publishing does. Returns their ages in microseconds.
fn measure(broadcast: &Broadcast, clock: BroadcastClock) -> anyhow::Result<Vec<i64>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let mut changed = broadcast.changed();
    let mut delays = Vec::new();
    let mut next = 0;
    while delays.len() < WARM_UP + PICTURES {
        runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(5), changed.changed()).await })
            .context("no access unit for 5 s")??;
        let now = clock.now();
        broadcast.with_window(|window| {
            for entry in window.from(next) {
                next = entry.position + 1;
                delays.push(now - entry.unit.pts.as_millis() * 1000);
            }
        });
    }
    Ok(delays.split_off(WARM_UP))
}

fn report(mut delays: Vec<i64>, stats: &Stats) {
    delays.sort_unstable();
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize] as f64 / 1000.0;
    let interval = 1000.0 / 30.0;
    for (name, millis) in [("p50", at(0.5)), ("p99", at(0.99))] {
        println!("capture to access unit, 720p30, {name}: {millis:.1} ms = {:.2} frame intervals", millis / interval);
    }
    println!("{} pictures, {} dropped", delays.len(), stats.frames_dropped.value());
}

/// Frames not counted: the encoder opens with the first.
const WARM_UP: usize = 30;

/// Frames counted: twenty seconds.
const PICTURES: usize = 600;
