//! Regression tests of the fuzz targets: their seeds, and inputs near them. The number of inputs is fixed; after a change of a parser, run
//! `common/fuzz/run` for longer.

use nearcast_fuzz::mutation::{Mutator, seeds};
use nearcast_fuzz::{TARGETS, Target};

#[test]
fn chunk_reader() {
    replay("chunk_reader");
}

#[test]
fn amf_command() {
    replay("amf_command");
}

#[test]
fn flv_tag() {
    replay("flv_tag");
}

#[test]
fn fmp4_reader() {
    replay("fmp4_reader");
}

#[test]
fn hls_playlist() {
    replay("hls_playlist");
}

#[test]
fn relay_group() {
    replay("relay_group");
}

#[test]
fn live_window() {
    replay("live_window");
}

#[test]
fn reassembly() {
    replay("reassembly");
}

#[test]
fn timestamp_mapper() {
    replay("timestamp_mapper");
}

#[test]
fn publish_key() {
    replay("publish_key");
}

/// Every target has a test above.
#[test]
fn every_target_has_seeds_and_a_test() {
    let source = include_str!("seeds.rs");
    for (name, _) in TARGETS {
        assert!(seeds(name).len() > 1, "seeds/{name} is empty");
        assert!(source.contains(&format!("replay(\"{name}\")")), "{name} is not replayed");
    }
}

/// An input that is refused passes; a panic fails.
fn replay(name: &str) {
    let (_, target): &(&str, Target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
    let seeds = seeds(name);
    seeds.iter().for_each(|input| target(input));
    let mut mutator = Mutator::new(SEED);
    for n in 0..MUTATIONS {
        let input = mutator.mutate(&seeds);
        let healthy = std::panic::catch_unwind(|| target(&input)).is_ok();
        assert!(healthy, "mutation {n} of seed {SEED}; `bounded 60 {name} --seed {SEED}` finds and keeps it");
    }
}

const SEED: u64 = 1;
/// Mutations per target: a few seconds in the unoptimised build.
const MUTATIONS: usize = 5_000;
