//! `nearcast_fuzz::timestamp_mapper` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nearcast_fuzz::timestamp_mapper(data));
