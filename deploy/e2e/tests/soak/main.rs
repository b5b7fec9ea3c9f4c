//! A soak: a broadcaster, a server, viewers by each protocol and a page run for minutes or hours in a network of namespaces, while encoders take
//! turns on a second stream and something breaks every minute. Nothing may be lost, no path may stay stuck, and memory must not grow.
//!
//! `NEARCAST_SOAK_MINUTES` says how long; `deploy/test --soak MINUTES` runs it. It writes `soak.csv` (memory over time) and
//! pictures of the page into `NEARCAST_SOAK_OUT`, if that is set. `NEARCAST_SOAK_FAULTS` and
//! `NEARCAST_SOAK_ENCODERS` choose some of the faults and encoders by name: `LanCut,PageHidden`.
//!
//! What is lost is counted twice: by the viewers themselves, and by the unit logs of broadcaster and viewers, as the pictures (whose contents are
//! unique) that were made between the first and the last that a viewer got of a broadcast, and that it did not get.
#![allow(clippy::print_stdout, reason = "a test that measures prints its results")]

mod encoders;
mod faults;
mod memory;
mod page;

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::lan_testbed::CDN;
use e2e::{Broadcaster, Cdn, LanTestbed, TIMEOUT, Unit, Viewer, until};

use encoders::{Clips, Turn, lock};
use faults::Fault;
use memory::Memory;
use page::{Order, WatchedPage};

/// Everything that runs.
struct Soak {
    watchers: Vec<Watcher>,
    page: WatchedPage,
    broadcaster: Broadcaster,
    /// The units of the broadcasts that have ended.
    made: Vec<Vec<Unit>>,
    memory: Memory,
    begun: Instant,
    /// What was wrong, in words.
    problems: Vec<String>,
    testbed: LanTestbed,
}

/// A viewer, and what it must do.
struct Watcher {
    name: &'static str,
    viewer: Viewer,
    /// The name of its path begins with this when nothing is broken.
    path: &'static str,
    /// Whether it plays the broadcaster's stream; otherwise that of the encoders.
    of_broadcaster: bool,
    /// Units decoded so far, over time.
    progress: Vec<(Instant, u64)>,
    /// The longest return after a fault.
    slowest: Option<(Duration, Fault)>,
}

/// What a viewer says of itself.
struct Figures {
    seconds: f64,
    decoded: u64,
    lost: u64,
    path: String,
}

#[test]
fn nothing_is_lost_no_path_stays_stuck_and_memory_does_not_grow() -> Result<()> {
    let minutes: f64 = match std::env::var("NEARCAST_SOAK_MINUTES") {
        Ok(text) => text.parse().context("NEARCAST_SOAK_MINUTES is a number of minutes")?,
        Err(_) => MINUTES,
    };
    let length = Duration::from_secs_f64(minutes * 60.0);
    // Each fault and each encoder at least once.
    let period = (length / Fault::ALL.len() as u32).clamp(SHORTEST_PERIOD, LONGEST_PERIOD);
    let turn = (length / encoders::Encoder::ALL.len() as u32).clamp(SHORTEST_TURN, LONGEST_TURN);

    let mut soak = Soak::start()?;
    let key = Cdn::key(&soak.testbed.env, "encoders")?;
    let clips = Clips::encode(&soak.testbed.env, turn)?;
    let (stop, turns) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let publishing = {
        let (host, stop, turns) = (soak.testbed.cdn.clone(), stop.clone(), turns.clone());
        std::thread::spawn(move || host.run(|| encoders::take_turns(&key, &clips, &stop, &turns))?)
    };
    soak.watch_encoders()?;
    soak.begun = Instant::now();
    println!("{minutes} min: a fault each {period:?}, an encoder for {turn:?}");
    let chosen = chosen("NEARCAST_SOAK_FAULTS", &Fault::ALL)?;
    let mut faults = chosen.iter().copied().cycle();
    let mut due = soak.begun + period / 2;
    while due + Duration::from_secs(20) < soak.begun + length {
        soak.wait_until(due)?;
        let fault = faults.next().context("there are faults")?;
        soak.suffer(fault)?;
        due = (due + period).max(Instant::now() + QUIET);
    }
    soak.wait_until(soak.begun + length)?;
    stop.store(true, Ordering::Relaxed);
    publishing.join().ok().context("the encoders panicked")??;
    soak.finish(&lock(&turns), length)
}

impl Soak {
    fn start() -> Result<Self> {
        let testbed = LanTestbed::build()?;
        let broadcaster = testbed.broadcast_tiny()?;
        until(TIMEOUT, "the stream to be live", || {
            Ok(testbed.ask(0, "/api/v1/streams/live").ok().filter(|stream| stream["state"] == "live"))
        })?;
        let page = WatchedPage::open(testbed.viewers[1].clone(), &format!("http://{CDN}:8080/live"));
        let mut watchers = vec![Watcher::new("LAN", "LAN peer", testbed.watch(0, &[])?, true)];
        for (name, path, transport) in [
            ("relay", "relay", "relay"),
            ("RTMP", "RTMP", "rtmp"),
            ("LL-HLS", "LL-HLS", "ll-hls"),
            ("HLS", "HLS", "hls"),
        ] {
            watchers.push(Watcher::new(name, path, testbed.watch(1, &["--transport", transport])?, true));
        }
        Ok(Self {
            watchers,
            page,
            broadcaster,
            made: Vec::new(),
            memory: Memory::default(),
            begun: Instant::now(),
            problems: Vec::new(),
            testbed,
        })
    }

    /// Adds the viewers of the encoders, beside the server, where no link breaks.
    fn watch_encoders(&mut self) -> Result<()> {
        let url = format!("http://{CDN}:8080/encoders");
        for (name, path, transport) in [("relay, encoders", "relay", "relay"), ("LL-HLS, encoders", "LL-HLS", "ll-hls")]
        {
            let viewer = self.testbed.watch_from(&self.testbed.cdn, &url, &["--transport", transport])?;
            self.watchers.push(Watcher::new(name, path, viewer, false));
        }
        Ok(())
    }

    /// Reads the unit log of the broadcaster that has ended.
    fn keep_made(&mut self) -> Result<()> {
        self.made.push(self.broadcaster.units()?);
        Ok(())
    }

    /// Samples everything once a second until `due`.
    fn wait_until(&mut self, due: Instant) -> Result<()> {
        while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.sample()?;
            std::thread::sleep(left.min(Duration::from_secs(1)));
        }
        Ok(())
    }

    fn sample(&mut self) -> Result<()> {
        if let Ok(cdn) = self.testbed.cdn_process() {
            self.memory.sample("cdn", cdn);
        }
        self.memory.sample("broadcaster", &self.broadcaster.process);
        for watcher in &mut self.watchers {
            self.memory.sample(watcher.name, &watcher.viewer.process);
            ensure!(watcher.viewer.process.running()?, "the viewer {} ended", watcher.name);
            if let Some(figures) = watcher.figures()? {
                watcher.progress.push((Instant::now(), figures.decoded));
            }
        }
        Ok(())
    }

    /// Breaks something, mends it, waits until everyone plays again, and prints how long that took.
    fn suffer(&mut self, fault: Fault) -> Result<()> {
        let lost_before = self.lost()?;
        self.break_by(fault)?;
        std::thread::sleep(fault.lasts());
        self.mend(fault)?;
        let mended = Instant::now();
        let mut before = Vec::new();
        for watcher in &self.watchers {
            before.push(watcher.figures()?);
        }
        let mut back: Vec<Option<Duration>> = vec![None; self.watchers.len()];
        let mut page_back = None;
        while mended.elapsed() < WITHIN && (page_back.is_none() || back.contains(&None)) {
            self.sample()?;
            page_back = self.page.at_target_since(mended).map(|at| at - mended);
            for (n, watcher) in self.watchers.iter().enumerate().filter(|(_, watcher)| watcher.of_broadcaster) {
                let (Some(now), true) = (watcher.figures()?, back[n].is_none()) else { continue };
                // A line whose second began after the repair.
                let first = before[n].as_ref().map_or(0.0, |before| before.seconds + 1.5);
                let went_on = before[n].as_ref().is_none_or(|before| now.decoded > before.decoded);
                let whole = now.path.starts_with(watcher.path);
                if now.seconds > first && went_on && whole && watcher.flows() {
                    back[n] = Some(mended.elapsed());
                }
            }
            for (n, watcher) in self.watchers.iter().enumerate().filter(|(_, watcher)| !watcher.of_broadcaster) {
                if back[n].is_none() && watcher.flows() {
                    back[n] = Some(mended.elapsed());
                }
            }
            std::thread::sleep(Duration::from_millis(250));
        }
        let mut said = String::new();
        for (watcher, back) in self.watchers.iter_mut().zip(&back) {
            match back {
                Some(after) => {
                    let _ = write!(said, " {} {:.1}", watcher.name, after.as_secs_f64());
                    if watcher.slowest.is_none_or(|(slowest, _)| *after > slowest) {
                        watcher.slowest = Some((*after, fault));
                    }
                }
                None => {
                    let _ = write!(said, " {} NEVER", watcher.name);
                    let now = watcher.figures()?.map(|figures| figures.path);
                    self.problems.push(format!("{fault:?}: {} was not back within {WITHIN:?}: {now:?}", watcher.name));
                }
            }
        }
        match page_back {
            Some(after) => {
                let _ = write!(said, ", page {:.1}", after.as_secs_f64());
            }
            None => {
                said += ", page NEVER";
                let at = self.begun.elapsed().as_secs();
                let last = self.page.last().map(|report| report.state);
                self.problems.push(format!("{fault:?} at {at} s: the page was not back within {WITHIN:?}: {last:?}"));
                if let Some(out) = out() {
                    self.page.order(Order::Screenshot(out.join(format!("page-{at}.png"))))?;
                }
            }
        }
        let lost: Vec<String> = self
            .lost()?
            .iter()
            .zip(&lost_before)
            .zip(&self.watchers)
            .filter(|((now, before), _)| now > before)
            .map(|((now, before), watcher)| format!("{} {}", watcher.name, now - before))
            .collect();
        let lost = if lost.is_empty() { "nothing".to_owned() } else { lost.join(", ") };
        let at = self.begun.elapsed().as_secs();
        println!("{:>3}:{:02} {fault:?} for {:?}: back after{said}; lost {lost}", at / 60, at % 60, fault.lasts());
        Ok(())
    }

    fn lost(&self) -> Result<Vec<u64>> {
        self.watchers.iter().map(|watcher| Ok(watcher.figures()?.map_or(0, |figures| figures.lost))).collect()
    }

    fn finish(mut self, turns: &[Turn], length: Duration) -> Result<()> {
        let quiet = self.page.latencies(self.begun, Instant::now());
        if let Some(out) = out() {
            self.page.order(Order::Screenshot(out.join("page.png")))?;
        }
        self.page.close()?;
        self.broadcaster.stop()?;
        self.keep_made()?;
        self.write_csv()?;
        println!(
            "\n{:<18} {:>9} {:>6} {:>8} {:>6} {:>7} {:>9} {:>9}  slowest return",
            "viewer", "pictures", "lost", "missing", "twice", "broken", "reopened", "switches"
        );
        for mut watcher in std::mem::take(&mut self.watchers) {
            let summary = watcher.viewer.finish().with_context(|| watcher.name)?.0;
            let count = |name: &str| summary[name].as_u64().unwrap_or(0);
            let (missing, twice) =
                if watcher.of_broadcaster { compare(&self.made, &watcher.viewer.units()?)? } else { (0, 0) };
            let slowest =
                watcher.slowest.map_or(String::new(), |(after, fault)| format!("{after:.1?} after {fault:?}"));
            println!(
                "{:<18} {:>9} {:>6} {missing:>8} {twice:>6} {:>7} {:>9} {:>9}  {slowest}",
                watcher.name,
                count("pictures"),
                count("lost"),
                count("decode_errors"),
                count("reconnects"),
                summary["switches"]["count"].as_u64().unwrap_or(0),
            );
            for (what, count) in [
                ("lost by its own count", count("lost")),
                ("pictures made and not received", missing),
                ("pictures received twice", twice),
                ("units that could not be decoded", count("decode_errors")),
            ] {
                if count > 0 {
                    self.problems.push(format!("{}: {count} {what}", watcher.name));
                }
            }
            if !watcher.of_broadcaster {
                self.problems.extend(silent_turns(&watcher, turns));
            }
        }
        println!("\n{} turns of encoders", turns.len());
        for turn in turns {
            if let Some(reason) = &turn.cut {
                println!("  {:?} was cut off: {reason}", turn.encoder);
            } else if !turn.complaints.is_empty() && turn.encoder.has_idr_in_each_segment() {
                self.problems.push(format!("FFmpeg could not decode {:?}: {}", turn.encoder, turn.complaints));
            }
        }
        println!("page: {}", spread(quiet));
        let warm_up = (length / 4).min(WARM_UP);
        println!(
            "\n{:<18} {:>5} {:>8} {:>8} {:>8}  growth, after the first {warm_up:?} of each process",
            "memory, MiB", "lives", "first", "last", "most"
        );
        for (role, trend) in self.memory.trends(warm_up) {
            let slope = trend.slope.map_or("unknown".to_owned(), |slope| format!("{slope:+.0} KiB/min"));
            let judged = trend.observed >= JUDGED_FROM;
            let note = if judged { "" } else { " (lives too short to judge)" };
            println!(
                "{role:<18} {:>5} {:>8.1} {:>8.1} {:>8.1}  {slope}{note}",
                trend.lives, trend.first, trend.last, trend.most
            );
            if judged && trend.slope.is_some_and(|slope| slope > MOST_GROWTH) {
                self.problems.push(format!("{role}: memory grows by {slope}, more than {MOST_GROWTH} KiB/min"));
            }
            if trend.most > MOST_MEMORY {
                self.problems.push(format!("{role}: {:.0} MiB of memory, more than {MOST_MEMORY}", trend.most));
            }
        }
        println!("{}", self.testbed.lateness());
        ensure!(self.problems.is_empty(), "{} problems:\n  {}", self.problems.len(), self.problems.join("\n  "));
        Ok(())
    }

    fn write_csv(&self) -> Result<()> {
        let Some(out) = out() else { return Ok(()) };
        let mut text = "seconds,role,memory_mib\n".to_owned();
        for (role, series) in self.memory.series(self.begun) {
            for (seconds, mib) in series {
                let _ = writeln!(text, "{seconds:.0},\"{role}\",{mib:.1}");
            }
        }
        Ok(std::fs::write(out.join("soak.csv"), text)?)
    }
}

impl Watcher {
    fn new(name: &'static str, path: &'static str, viewer: Viewer, of_broadcaster: bool) -> Self {
        Self { name, viewer, path, of_broadcaster, progress: Vec::new(), slowest: None }
    }

    fn figures(&self) -> Result<Option<Figures>> {
        let Some(stats) = self.viewer.stats()? else { return Ok(None) };
        let count = |name: &str| stats[name].as_u64().unwrap_or(0);
        Ok(Some(Figures {
            seconds: stats["seconds"].as_f64().unwrap_or(0.0),
            decoded: count("pictures") + count("audio_frames"),
            lost: count("lost"),
            path: stats["source"].as_str().unwrap_or_default().to_owned(),
        }))
    }

    /// Whether more was decoded in the last three seconds.
    fn flows(&self) -> bool {
        let recent = self.progress.iter().rev().take_while(|(at, _)| at.elapsed() < Duration::from_secs(3));
        let counts: Vec<u64> = recent.map(|(_, decoded)| *decoded).collect();
        counts.first() > counts.last()
    }
}

/// How many pictures were made between the first and the last that came of each broadcast, and did not come; and how many came twice.
fn compare(made: &[Vec<Unit>], came: &[Unit]) -> Result<(u64, u64)> {
    let mut count: HashMap<&str, u64> = HashMap::new();
    came.iter().filter(|unit| unit.track == "v0").for_each(|unit| *count.entry(&unit.sha256).or_default() += 1);
    ensure!(!count.is_empty(), "no picture came");
    let mut missing = 0;
    for made in made {
        let mut seen = HashSet::new();
        let pictures = made.iter().filter(|unit| unit.track == "v0" && seen.insert(&unit.sha256));
        let came: Vec<bool> = pictures.map(|unit| count.contains_key(unit.sha256.as_str())).collect();
        let (first, last) = (came.iter().position(|came| *came), came.iter().rposition(|came| *came));
        let within = first.zip(last).map_or(&[][..], |(first, last)| &came[first..last]);
        missing += within.iter().filter(|came| !**came).count() as u64;
    }
    Ok((missing, count.values().map(|count| count - 1).sum()))
}

/// The turns of encoders in which a viewer decoded nothing.
fn silent_turns(watcher: &Watcher, turns: &[Turn]) -> Vec<String> {
    let mut silent = Vec::new();
    for turn in turns.iter().filter(|turn| turn.cut.is_none()) {
        let Some(ended) = turn.ended else { continue };
        let within = watcher.progress.iter().filter(|(at, _)| (turn.begun..ended).contains(at));
        let counts: Vec<u64> = within.map(|(_, decoded)| *decoded).collect();
        if ended - turn.begun > SHORTEST_TURN / 2 && counts.first() == counts.last() {
            silent.push(format!("{} decoded nothing of {:?}", watcher.name, turn.encoder));
        }
    }
    silent
}

/// Median and 95th percentile of seconds behind the live edge.
fn spread(mut seconds: Vec<f64>) -> String {
    if seconds.is_empty() {
        return "it never played".to_owned();
    }
    seconds.sort_by(f64::total_cmp);
    let at = |share: f64| seconds[((seconds.len() - 1) as f64 * share) as usize];
    format!("{:.2} s behind the live edge (median), {:.2} s (95 of 100), {} readings", at(0.5), at(0.95), seconds.len())
}

/// Those of `all` that the environment variable names, or all if it is not set.
fn chosen<T: Copy + std::fmt::Debug>(variable: &str, all: &[T]) -> Result<Vec<T>> {
    let Ok(names) = std::env::var(variable) else { return Ok(all.to_vec()) };
    let find = |name: &str| all.iter().copied().find(|one| format!("{one:?}") == name);
    names.split(',').map(|name| find(name).with_context(|| format!("{variable}: {name} is none of {all:?}"))).collect()
}

/// Where files are written, if anywhere.
fn out() -> Option<PathBuf> {
    std::env::var_os("NEARCAST_SOAK_OUT").map(PathBuf::from)
}

/// Minutes without a number given.
const MINUTES: f64 = 3.0;
const SHORTEST_PERIOD: Duration = Duration::from_secs(15);
const LONGEST_PERIOD: Duration = Duration::from_secs(60);
const SHORTEST_TURN: Duration = Duration::from_secs(9);
const LONGEST_TURN: Duration = Duration::from_secs(30);
/// The least time between the end of a fault and the next.
const QUIET: Duration = Duration::from_secs(3);
/// The time in which everyone plays again after a fault.
const WITHIN: Duration = Duration::from_secs(30);
/// What a process allocates once, for its codecs, connections and windows, is allocated by then.
const WARM_UP: Duration = Duration::from_secs(300);
/// The growth of processes that are observed for a shorter time says nothing.
const JUDGED_FROM: Duration = Duration::from_secs(600);
/// KiB per minute: 7.5 MiB an hour.
const MOST_GROWTH: f64 = 128.0;
/// MiB of one process.
const MOST_MEMORY: f64 = 500.0;
