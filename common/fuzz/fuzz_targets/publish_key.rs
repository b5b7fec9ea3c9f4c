//! `nearcast_fuzz::publish_key` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nearcast_fuzz::publish_key(data));
