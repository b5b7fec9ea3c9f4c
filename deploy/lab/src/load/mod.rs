//! A load generator: a crowd of viewers of one stream, by one protocol, over real sockets, and what each of them got.
//!
//! It works against any server whose stream has a clock or not; Nearcast's own relay protocol it finds by the stream's page. Nothing is
//! decoded. Everything runs on one thread, so that it can be kept to one core while the server has another.

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

/// How the crowd watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Protocol {
    /// RTMP
    Rtmp,
    /// Nearcast's relay protocol
    Relay,
    /// HLS by parts, as they are made
    #[value(name = "ll-hls")]
    LowLatencyHls,
    /// HLS by whole segments
    Hls,
}

impl Protocol {
    /// As it is written on the command line, and by `viewer --transport`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rtmp => "rtmp",
            Self::Relay => "relay",
            Self::LowLatencyHls => "ll-hls",
            Self::Hls => "hls",
        }
    }
}

/// What is wanted of the crowd.
#[derive(Clone, Debug)]
pub struct Options {
    /// `rtmp://…`, `http://….m3u8`, or a Nearcast stream's page.
    pub url: String,
    /// How they watch.
    pub protocol: Protocol,
    /// How many.
    pub viewers: usize,
    /// Over which time they come.
    pub ramp: Duration,
    /// How long is measured, once all have come.
    pub duration: Duration,
    /// The server's process on this machine, to be measured too.
    pub pid: Option<u32>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Summary {
    options: Options,
    joined: usize,
    /// How long it was measured.
    took: Duration,
    totals: tally::Totals,
    /// Why viewers ended, and how many did.
    errors: BTreeMap<String, usize>,
    /// Of one core, what this program itself has used.
    generator: f64,
    /// Processor time that the server has used, and what it holds in KiB.
    server: Option<(Duration, u64)>,
}

/// Where to, once it is known.
#[derive(Clone)]
enum Target {
    Rtmp(net::rtmp::Url),
    Relay(push::Relay),
    Parts(hls::Playlist),
    Segments(hls::Playlist),
}

/// Has the crowd come, watch and go. Fails where the stream cannot be watched at all; what single viewers lack is in the summary.
pub fn run(options: &Options) -> Result<Summary> {
    // Each viewer has up to three sockets.
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
    // What says goodbye over QUIC is sent by tasks of its own: else the server would keep their places until it misses them.
    sleep(CLOSE_TIME).await;
    Ok(Summary { options: options.clone(), joined, took, totals, errors, generator, server })
}

async fn find(options: &Options) -> Result<Target> {
    let page = options.url.strip_prefix("http://").filter(|rest| !rest.contains(".m3u8"));
    let url = options.url.trim_end_matches('/');
    let playlist = || page.map_or(url.to_owned(), |_| format!("{url}/index.m3u8"));
    Ok(match options.protocol {
        Protocol::Rtmp => {
            ensure!(url.starts_with("rtmp://"), "RTMP is watched at rtmp://HOST/APP/NAME");
            Target::Rtmp(net::rtmp::url::parse(url)?)
        }
        Protocol::Relay => {
            ensure!(page.is_some(), "the relay protocol is found by the stream's page: http://HOST:8080/NAME");
            Target::Relay(push::find_relay(url).await?)
        }
        Protocol::LowLatencyHls => Target::Parts(hls::find(&playlist(), true).await?),
        Protocol::Hls => Target::Segments(hls::find(&playlist(), false).await?),
    })
}

fn record_end(errors: &mut BTreeMap<String, usize>, ended: Result<Result<()>, tokio::task::JoinError>) {
    let why = match ended {
        Ok(Ok(())) => "it ended".to_owned(),
        Ok(Err(error)) => format!("{error:#}"),
        Err(error) => error.to_string(),
    };
    let is_full = errors.len() >= MAX_ERRORS && !errors.contains_key(&why);
    *errors.entry(if is_full { "others".to_owned() } else { why }).or_default() += 1;
}

impl Summary {
    /// What must not be: viewers that did not come, ended, or lack something. Empty if all is well.
    pub fn faults(&self) -> Vec<String> {
        let totals = &self.totals;
        let ended: usize = self.errors.values().sum();
        let faults = [
            (self.options.viewers - self.joined, "viewers that never got anything"),
            (ended, "viewers that ended"),
            (totals.lagging, "viewers that fell behind"),
            (usize::try_from(totals.missing).unwrap_or(usize::MAX), "units that a viewer missed"),
            (usize::try_from(totals.repeated).unwrap_or(usize::MAX), "units repeated or out of order"),
            (usize::try_from(totals.other_epochs).unwrap_or(usize::MAX), "units of another broadcast"),
        ];
        faults.iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!("{number} {what}")).collect()
    }

    /// For programs.
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

    /// For people.
    pub fn to_text(&self) -> String {
        let (totals, seconds) = (&self.totals, self.took.as_secs_f64());
        let ms = |percent| self.latency_ms(percent).map_or("-".to_owned(), |ms| format!("{ms:.1}"));
        let mut text = format!(
            "{} of {} viewers by {} for {seconds:.1} s\n  received: {} pictures, {} units, {:.1} Mbit/s; {} answers to requests\n  \
             behind the lens: {} ms at the median, {} at p99, {} at most\n  missing {}, repeated {}, viewers that fell behind {}\n  \
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
            if self.generator > MAX_GENERATOR_CPU { ": too much; it is late itself" } else { "" },
        );
        if let Some((processor, memory)) = self.server {
            let core = processor.as_secs_f64() / seconds;
            let each = core * 1e3 / self.options.viewers as f64;
            let memory = memory as f64 / 1024.0;
            let _ = writeln!(
                text,
                "  the server used {:.1}% of a core, {each:.3} ms a viewer's second, and holds {memory:.1} MiB",
                core * 100.0
            );
        }
        for (why, viewers) in &self.errors {
            let _ = writeln!(text, "  {viewers} viewers ended: {why}");
        }
        text
    }

    /// Milliseconds from the lens to the viewer that so many of a hundred pictures did not exceed; `None` where the stream states no clock.
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

/// For the last viewer to come.
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);
/// Connections open their windows.
const SETTLE_TIME: Duration = Duration::from_secs(2);
/// For goodbyes to leave.
const CLOSE_TIME: Duration = Duration::from_millis(300);
/// How often it is looked whether all have come.
const JOIN_POLL: Duration = Duration::from_millis(20);
/// By how much a viewer may have gone on less than the time that was measured; by segments, a segment more: the last may come just
/// after the end.
const LAG_TOLERANCE: Duration = Duration::from_secs(1);
/// Different reasons that are kept.
const MAX_ERRORS: usize = 8;
/// Of a core: above it, what is late is the generator.
const MAX_GENERATOR_CPU: f64 = 0.9;
