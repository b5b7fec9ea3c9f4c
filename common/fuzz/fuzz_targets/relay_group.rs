//! `nearcast_fuzz::relay_group` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nearcast_fuzz::relay_group(data));
