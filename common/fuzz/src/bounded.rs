//! The fuzz targets without a nightly toolchain or cargo-fuzz: the seeds, then seeds mutated at random, for a bounded time.
//!
//! `bounded SECONDS TARGET… [--seed N]`. A finding is written to `artifacts/TARGET/` and ends the run with code 1. `bounded --file PATH
//! TARGET` runs one input. Blind to coverage, so weaker than libFuzzer, but it runs wherever the project builds.
#![allow(clippy::print_stdout, reason = "a command-line program says what it found")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nearcast_fuzz::mutation::{Mutator, seeds};
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
    let mut mutator = Mutator::new(seed);
    let began = Instant::now();
    let mut runs = 0_u64;
    while began.elapsed() < time {
        let input = mutator.mutate(&seeds);
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

/// The longest time that a target may spend on one input.
const TOO_LONG: Duration = Duration::from_secs(5);
