//! Resident memory of the programs over time, and its slope.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use e2e::Process;

/// Samples of all programs, by their roles.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    samples: BTreeMap<String, Vec<Sample>>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    /// The process, since a role may be played by several in turn.
    pid: u32,
    at: Instant,
    kib: f64,
}

/// What the samples of a role say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trend {
    /// The number of processes.
    pub(crate) lives: usize,
    /// Resident memory, after the warm-up, in MiB.
    pub(crate) first: f64,
    pub(crate) last: f64,
    pub(crate) most: f64,
    /// The longest time, after the warm-up, that one process was observed.
    pub(crate) observed: Duration,
    /// Growth in KiB per minute within the lives of the processes, by least squares; `None` if none lived long enough.
    pub(crate) slope: Option<f64>,
}

impl Memory {
    pub(crate) fn sample(&mut self, role: &str, process: &Process) {
        // A process that has just ended has no memory.
        let Ok(kib) = process.memory_kib() else { return };
        let sample = Sample { pid: process.pid(), at: Instant::now(), kib: kib as f64 };
        self.samples.entry(role.to_owned()).or_default().push(sample);
    }

    /// The trend of each role; the first `warm_up` of each process does not count.
    pub(crate) fn trends(&self, warm_up: Duration) -> impl Iterator<Item = (&str, Trend)> {
        self.samples.iter().filter_map(move |(role, samples)| Some((role.as_str(), trend(samples, warm_up)?)))
    }

    /// Resident memory of each role in MiB, at the seconds since `begun`.
    pub(crate) fn series(&self, begun: Instant) -> impl Iterator<Item = (&str, Vec<(f64, f64)>)> {
        self.samples.iter().map(move |(role, samples)| {
            let point = |sample: &Sample| (sample.at.duration_since(begun).as_secs_f64(), sample.kib / 1024.0);
            (role.as_str(), samples.iter().map(point).collect())
        })
    }
}

fn trend(samples: &[Sample], warm_up: Duration) -> Option<Trend> {
    let mut lives: BTreeMap<u32, Vec<Sample>> = BTreeMap::new();
    for sample in samples {
        lives.entry(sample.pid).or_default().push(*sample);
    }
    let count = lives.len();
    for life in lives.values_mut() {
        let born = life[0].at;
        life.retain(|sample| sample.at.duration_since(born) >= warm_up);
    }
    lives.retain(|_, life| life.len() > 1);
    let spans = lives.values().map(|life| life[life.len() - 1].at.duration_since(life[0].at));
    let observed = spans.max().unwrap_or_default();
    let warm: Vec<&Sample> = samples.iter().filter(|s| lives.get(&s.pid).is_some_and(|l| s.at >= l[0].at)).collect();
    let first = warm.first().or(samples.last().as_ref())?.kib / 1024.0;
    let most = samples.iter().map(|sample| sample.kib / 1024.0).fold(0.0, f64::max);
    let last = samples.last()?.kib / 1024.0;
    // Each life has its own level; the slope is common.
    let (mut across, mut along) = (0.0, 0.0);
    for life in lives.values() {
        let count = life.len() as f64;
        let minute = |sample: &Sample| sample.at.duration_since(life[0].at).as_secs_f64() / 60.0;
        let middle = life.iter().map(minute).sum::<f64>() / count;
        let mean = life.iter().map(|sample| sample.kib).sum::<f64>() / count;
        for sample in life {
            across += (minute(sample) - middle) * (sample.kib - mean);
            along += (minute(sample) - middle).powi(2);
        }
    }
    let slope = (along > 0.0).then(|| across / along);
    Some(Trend { lives: count, first, last, most, observed, slope })
}

#[test]
fn the_slope_is_within_the_lives_of_the_processes() {
    let begun = Instant::now();
    let at = |pid, minute: u64, kib| Sample { pid, at: begun + Duration::from_secs(60 * minute), kib };
    let samples = [at(1, 0, 900.0), at(1, 1, 100.0), at(1, 2, 110.0), at(2, 3, 0.0), at(2, 4, 500.0), at(2, 6, 520.0)];
    let trend = trend(&samples, Duration::from_secs(60)).unwrap();
    assert_eq!((trend.lives, trend.observed), (2, Duration::from_secs(120)));
    assert!((trend.slope.unwrap() - 10.0).abs() < 1e-9, "{trend:?}");
}
