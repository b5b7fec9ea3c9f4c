//! Inputs near the seeds: random mutations without coverage feedback, repeatable from a number.

use std::fs;
use std::path::Path;

/// The seeds of a target in the order of their names, so that a run can be repeated; the empty input is the last.
pub fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
    let mut paths: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let mut seeds: Vec<_> = paths.iter().filter_map(|path| fs::read(path).ok()).collect();
    seeds.push(Vec::new());
    seeds
}

/// A source of mutations. It is xorshift64, so that equal numbers give equal inputs.
#[derive(Debug)]
pub struct Mutator(u64);

impl Mutator {
    /// A source that starts from `seed`; 0 counts as 1.
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    /// One of `seeds` with one to eight changes, at most 64 KiB long.
    pub fn mutate(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(8) {
            let at = self.below(input.len() + 1);
            let end = (at + self.below(64)).min(input.len());
            match self.below(8) {
                0 if at < input.len() => input[at] ^= 1 << self.below(8),
                1 if at < input.len() => input[at] = self.next() as u8,
                2 => input.insert(at, INTERESTING[self.below(INTERESTING.len())]),
                3 => drop(input.drain(at..end)),
                4 => {
                    let copy = input[at..end].to_vec();
                    let times = 1 + self.below(20);
                    input.splice(at..at, copy.repeat(times));
                }
                5 => {
                    // A wrong length field.
                    let value = [0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX, self.next() as u32][self.below(6)];
                    let width = 1 + self.below(4);
                    for (place, byte) in input[at..].iter_mut().zip(&value.to_be_bytes()[4 - width..]) {
                        *place = *byte;
                    }
                }
                6 => input.truncate(at),
                _ => {
                    let other = &seeds[self.below(seeds.len())];
                    let from = self.below(other.len() + 1);
                    let to = (from + self.below(512)).min(other.len());
                    input.splice(at..at, other[from..to].iter().copied());
                }
            }
            input.truncate(MAX_INPUT);
        }
        input
    }

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

/// Bytes with a meaning to a parser: message types, box and chunk headers, limits.
const INTERESTING: &[u8] = &[0, 1, 2, 3, 8, 9, 0x0a, 0x14, 0x16, 0x7f, 0x80, 0xc3, 0xff];
/// The largest input in bytes, as for libFuzzer: enough for complete sessions, short enough for many runs.
const MAX_INPUT: usize = 64 << 10;
