//! `nearcast_fuzz::chunk_reader` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nearcast_fuzz::chunk_reader(data));
