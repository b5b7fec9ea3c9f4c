//! A load generator: many concurrent viewers of one stream, by one protocol, over real sockets, and a report of what they received.
//!
//! It works with any server; the address of Nearcast's relay protocol is looked up by the stream's page. Nothing is decoded. Everything runs on one
//! thread, so that it can be pinned to one core while the server has another.

mod hls;
mod http;
mod push;
mod tally;
mod viewer;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep, sleep_until};

use crate::process::{memory_kib, processor_time};
use tally::Tally;
use viewer::LoadViewer;

/// The protocol of all viewers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Protocol {
    /// RTMP
    Rtmp,
    /// Nearcast's relay protocol
    Relay,
    /// Low-latency HLS
    #[value(name = "ll-hls")]
    LowLatencyHls,
    /// HLS with whole segments
    Hls,
}

impl Protocol {
    /// The name on the command line, as in `viewer --transport`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rtmp => "rtmp",
            Self::Relay => "relay",
            Self::LowLatencyHls => "ll-hls",
            Self::Hls => "hls",
        }
    }
}

/// Parameters of a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// `rtmp://…`, `http://….m3u8`, or a Nearcast stream's page.
    pub url: String,
    /// The protocol of all viewers.
    pub protocol: Protocol,
    /// The number of viewers.
    pub viewers: usize,
    /// The time over which the viewers join, evenly.
    pub ramp: Duration,
    /// How long is measured, from when all viewers have joined.
    pub duration: Duration,
    /// The server's process on this machine, to be measured as well.
    pub pid: Option<u32>,
}

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Summary {
    options: Options,
    joined: usize,
    /// How long was measured.
    took: Duration,
    totals: tally::Totals,
    /// Why viewers ended, and how many for each reason.
    errors: BTreeMap<String, usize>,
    /// CPU usage of this program, in cores.
    generator: f64,
    /// CPU time of the server while it was measured, and its resident memory in KiB.
    server: Option<(Duration, u64)>,
}

/// The resolved target of the viewers.
#[derive(Clone)]
enum Target {
    Rtmp(net::rtmp::Url),
    Relay(push::Relay),
    Parts(hls::Playlist),
    Segments(hls::Playlist),
}

/// Runs the viewers. Fails when the stream cannot be played at all; faults of single viewers are in the summary.
pub fn run(options: &Options) -> Result<Summary> {
    // A viewer uses up to three sockets.
    raise_file_limit()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, run_viewers(options))
}

async fn run_viewers(options: &Options) -> Result<Summary> {
    let target = find(options).await.with_context(|| options.url.clone())?;
    let tally = Rc::new(RefCell::new(Tally::new(options.viewers)));
    let mut viewers = JoinSet::new();
    let mut errors = BTreeMap::new();
    let began = Instant::now();
    for number in 0..options.viewers {
        sleep_until(began + options.ramp.mul_f64(number as f64 / options.viewers as f64)).await;
        let (viewer, target) = (LoadViewer { number, tally: tally.clone() }, target.clone());
        viewers.spawn_local(async move {
            match &target {
                Target::Rtmp(url) => push::rtmp(&viewer, url).await,
                Target::Relay(relay) => push::relay(&viewer, relay).await,
                Target::Parts(playlist) => hls::parts(&viewer, playlist).await,
                Target::Segments(playlist) => hls::segments(&viewer, playlist).await,
            }
        });
    }
    let deadline = Instant::now() + JOIN_TIMEOUT;
    while tally.borrow().joined() < options.viewers && Instant::now() < deadline && !viewers.is_empty() {
        tokio::select! {
            Some(ended) = viewers.join_next() => record_end(&mut errors, ended),
            () = sleep(JOIN_POLL) => {}
        }
    }
    sleep(SETTLE_TIME).await;

    tally.borrow_mut().begin();
    let joined = tally.borrow().joined();
    let usage = || -> Result<_> {
        let server = options.pid.map(processor_time).transpose()?;
        Ok((server, processor_time(std::process::id())?))
    };
    let (begun, before) = (Instant::now(), usage()?);
    let end = begun + options.duration;
    loop {
        tokio::select! {
            () = sleep_until(end) => break,
            Some(ended) = viewers.join_next() => record_end(&mut errors, ended),
        }
    }
    let (took, after) = (begun.elapsed(), usage()?);
    let slack = match &target {
        Target::Segments(playlist) => playlist.target + LAG_TOLERANCE,
        _ => LAG_TOLERANCE,
    };
    let totals = tally.borrow_mut().end(took, slack);
    let memory = options.pid.map(memory_kib).transpose()?;
    let server = after.0.zip(before.0).zip(memory).map(|((after, before), memory)| (after - before, memory));
    let generator = (after.1 - before.1).as_secs_f64() / took.as_secs_f64();
    viewers.shutdown().await;
    // QUIC's CONNECTION_CLOSE is sent by tasks in the background: without it the server would keep the connections until they time out.
    sleep(CLOSE_TIME).await;
    Ok(Summary { options: options.clone(), joined, took, totals, errors, generator, server })
}

async fn find(options: &Options) -> Result<Target> {
    let page = options.url.strip_prefix("http://").filter(|rest| !rest.contains(".m3u8"));
    let url = options.url.trim_end_matches('/');
    let playlist = || page.map_or(url.to_owned(), |_| format!("{url}/index.m3u8"));
    Ok(match options.protocol {
        Protocol::Rtmp => {
            ensure!(url.starts_with("rtmp://"), "RTMP needs a URL rtmp://HOST/APP/NAME");
            Target::Rtmp(net::rtmp::url::parse(url)?)
        }
        Protocol::Relay => {
            ensure!(page.is_some(), "the relay protocol needs the URL of the stream's page: http://HOST:8080/NAME");
            Target::Relay(push::find_relay(url).await?)
        }
        Protocol::LowLatencyHls => Target::Parts(hls::find(&playlist(), true).await?),
        Protocol::Hls => Target::Segments(hls::find(&playlist(), false).await?),
    })
}

fn record_end(errors: &mut BTreeMap<String, usize>, ended: Result<Result<()>, tokio::task::JoinError>) {
    let why = match ended {
        Ok(Ok(())) => "ended without an error".to_owned(),
        Ok(Err(error)) => format!("{error:#}"),
        Err(error) => error.to_string(),
    };
    let is_full = errors.len() >= MAX_ERRORS && !errors.contains_key(&why);
    *errors.entry(if is_full { "others".to_owned() } else { why }).or_default() += 1;
}

impl Summary {
    /// Faults: viewers that did not join, ended, or lack something. Empty if there are none.
    pub fn faults(&self) -> Vec<String> {
        let totals = &self.totals;
        let ended: usize = self.errors.values().sum();
        let faults = [
            (self.options.viewers - self.joined, "viewers that never received anything"),
            (ended, "viewers that ended"),
            (totals.lagging, "viewers that fell behind"),
            (usize::try_from(totals.missing).unwrap_or(usize::MAX), "units that a viewer missed"),
            (usize::try_from(totals.repeated).unwrap_or(usize::MAX), "units duplicated or out of order"),
            (usize::try_from(totals.other_epochs).unwrap_or(usize::MAX), "units of another broadcast"),
        ];
        faults.iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!("{number} {what}")).collect()
    }

    /// The report as JSON.
    pub fn to_json(&self) -> Value {
        let totals = &self.totals;
        let viewer_seconds = self.took.as_secs_f64() * self.options.viewers as f64;
        json!({
            "protocol": self.options.protocol.name(),
            "viewers": self.options.viewers,
            "joined": self.joined,
            "seconds": self.took.as_secs_f64(),
            "pictures": totals.pictures,
            "units": totals.units,
            "bytes": totals.bytes,
            "responses": totals.requests,
            "latency_ms": { "p50": self.latency_ms(50), "p99": self.latency_ms(99), "max": self.latency_ms(100) },
            "missing": totals.missing,
            "repeated": totals.repeated,
            "lagging_viewers": totals.lagging,
            "span": totals.span.map(|(from, to, pictures)| json!({ "after_dts": from, "to_dts": to, "pictures": pictures })),
            "errors": self.errors,
            "faults": self.faults(),
            "generator_cpu_cores": self.generator,
            "server": self.server.map(|(processor, memory)| json!({
                "cpu_cores": processor.as_secs_f64() / self.took.as_secs_f64(),
                "cpu_ms_per_viewer_second": processor.as_secs_f64() * 1e3 / viewer_seconds,
                "memory_kib": memory,
            })),
        })
    }

    /// The report as text.
    pub fn to_text(&self) -> String {
        let (totals, seconds) = (&self.totals, self.took.as_secs_f64());
        let ms = |percent| self.latency_ms(percent).map_or("-".to_owned(), |ms| format!("{ms:.1}"));
        let mut text = format!(
            "{} of {} viewers by {} for {seconds:.1} s\n  received: {} frames, {} units, {:.1} Mbit/s; {} responses\n  \
             capture-to-receive latency: p50 {} ms, p99 {}, max {}\n  missing {}, duplicated {}, lagging viewers {}\n  \
             this generator used {:.0}% of a core{}\n",
            self.joined,
            self.options.viewers,
            self.options.protocol.name(),
            totals.pictures,
            totals.units,
            totals.bytes as f64 * 8e-6 / seconds,
            totals.requests,
            ms(50),
            ms(99),
            ms(100),
            totals.missing,
            totals.repeated,
            totals.lagging,
            self.generator * 100.0,
            if self.generator > MAX_GENERATOR_CPU { ": too much, so its latency figures are too high" } else { "" },
        );
        if let Some((processor, memory)) = self.server {
            let core = processor.as_secs_f64() / seconds;
            let each = core * 1e3 / self.options.viewers as f64;
            let memory = memory as f64 / 1024.0;
            let _ = writeln!(
                text,
                "  the server used {:.1}% of a core, {each:.3} ms per viewer-second, and {memory:.1} MiB of memory",
                core * 100.0
            );
        }
        for (why, viewers) in &self.errors {
            let _ = writeln!(text, "  {viewers} viewers ended: {why}");
        }
        text
    }

    /// A percentile of the capture-to-receive latency in milliseconds; `None` if the stream states no clock.
    fn latency_ms(&self, percent: usize) -> Option<f64> {
        let late = &self.totals.latency;
        let rank = (late.len() * percent).div_ceil(100).clamp(1, late.len().max(1));
        late.get(rank - 1).map(|micros| *micros as f64 / 1e3)
    }
}

fn raise_file_limit() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    setrlimit(Resource::Nofile, raised).context("cannot raise the limit of open files")
}

/// Timeout for the last viewer to join, after the ramp.
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);
/// Time for congestion windows to open before measuring.
const SETTLE_TIME: Duration = Duration::from_secs(2);
/// Time for closing messages to be sent.
const CLOSE_TIME: Duration = Duration::from_millis(300);
/// Interval at which joined viewers are counted.
const JOIN_POLL: Duration = Duration::from_millis(20);
/// By how much a viewer's progress in media time may fall short of the measured time. With segments, one target duration more: the last may arrive
/// just after the end.
const LAG_TOLERANCE: Duration = Duration::from_secs(1);
/// Maximum distinct reasons that are kept.
const MAX_ERRORS: usize = 8;
/// CPU usage in cores above which the generator itself adds latency.
const MAX_GENERATOR_CPU: f64 = 0.9;
