//! The fuzz targets without nightly or cargo-fuzz: the seeds, then seeds mutated at random, for a bounded time.
//!
//! `bounded SECONDS TARGET… [--seed N]`. A finding is written to `artifacts/TARGET/` and ends the run with code 1. `bounded --file PATH
//! TARGET` runs one input. Blind to coverage, so weaker than libFuzzer, but it runs wherever the project builds.
#![allow(clippy::print_stdout)]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nearcast_fuzz::{TARGETS, Target};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let mut names = Vec::new();
    let mut seconds = None;
    let mut file = None;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
    let mut seed = now | 1;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--seed" => seed = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(seed),
            "--file" => file = arguments.next(),
            _ if seconds.is_none() && file.is_none() => seconds = argument.parse().ok().map(Duration::from_secs),
            _ => names.push(argument),
        }
    }
    let chosen: Vec<_> =
        TARGETS.iter().filter(|(name, _)| names.is_empty() || names.iter().any(|n| n == name)).collect();
    if chosen.is_empty() || (seconds.is_none() && file.is_none()) {
        eprintln!("usage: bounded SECONDS [TARGET…] [--seed N] | bounded --file PATH TARGET");
        return ExitCode::from(64);
    }
    for (name, target) in chosen {
        let healthy = match (&file, seconds) {
            (Some(path), _) => fs::read(path).is_ok_and(|input| run(name, *target, &input)),
            (None, Some(seconds)) => fuzz(name, *target, seconds, seed),
            (None, None) => false,
        };
        if !healthy {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Mutates the target's seeds until `time` is up. False if it found something.
fn fuzz(name: &str, target: Target, time: Duration, seed: u64) -> bool {
    println!("{name}: {} s, --seed {seed}", time.as_secs());
    let seeds = seeds(name);
    if !seeds.iter().all(|input| run(name, target, input)) {
        return false;
    }
    let mut random = Random(seed);
    let began = Instant::now();
    let mut runs = 0_u64;
    while began.elapsed() < time {
        let input = mutate(&mut random, &seeds);
        if !run(name, target, &input) {
            println!("{name}: found in run {runs} of --seed {seed}");
            return false;
        }
        runs += 1;
    }
    println!("{name}: {runs} runs, nothing found");
    true
}

/// Runs one input. A panic, and a run that takes too long, is a finding.
fn run(name: &str, target: Target, input: &[u8]) -> bool {
    let began = Instant::now();
    let healthy = catch_unwind(AssertUnwindSafe(|| target(input))).is_ok();
    if healthy && began.elapsed() < TOO_LONG {
        return true;
    }
    let digest = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    let path = root().join("artifacts").join(name).join(format!("finding-{digest:016x}"));
    let written =
        path.parent().is_some_and(|folder| fs::create_dir_all(folder).is_ok()) && fs::write(&path, input).is_ok();
    let place = if written { path.display().to_string() } else { "nowhere (it could not be written)".to_owned() };
    println!("{name}: {} after {:?}; the input is at {place}", if healthy { "slow" } else { "panic" }, began.elapsed());
    false
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// The seeds in the order of their names, so that a run can be repeated.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = root().join("seeds").join(name);
    let mut paths: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let mut seeds: Vec<_> = paths.iter().filter_map(|path| fs::read(path).ok()).collect();
    seeds.push(Vec::new());
    seeds
}

/// xorshift64: repeatable, and no dependency.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

fn mutate(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut input = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(8) {
        let at = random.below(input.len() + 1);
        let end = (at + random.below(64)).min(input.len());
        match random.below(8) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.next() as u8,
            2 => input.insert(at, INTERESTING[random.below(INTERESTING.len())]),
            3 => drop(input.drain(at..end)),
            4 => {
                let copy = input[at..end].to_vec();
                let times = 1 + random.below(20);
                input.splice(at..at, copy.repeat(times));
            }
            5 => {
                // A length field that lies.
                let value = [0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX, random.next() as u32][random.below(6)];
                let width = 1 + random.below(4);
                for (place, byte) in input[at..].iter_mut().zip(&value.to_be_bytes()[4 - width..]) {
                    *place = *byte;
                }
            }
            6 => input.truncate(at),
            _ => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                let to = (from + random.below(512)).min(other.len());
                input.splice(at..at, other[from..to].iter().copied());
            }
        }
        input.truncate(MAX_INPUT);
    }
    input
}

const INTERESTING: &[u8] = &[0, 1, 2, 3, 8, 9, 0x0a, 0x14, 0x16, 0x7f, 0x80, 0xc3, 0xff];
/// What libFuzzer is given too: enough for whole sessions, little enough for many runs.
const MAX_INPUT: usize = 64 << 10;
/// No input of this size may keep a server busy for this long.
const TOO_LONG: Duration = Duration::from_secs(5);
