//! `nearcast_fuzz::live_window` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nearcast_fuzz::live_window(data));
