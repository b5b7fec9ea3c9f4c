//! `nearcast_fuzz::hls_playlist` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nearcast_fuzz::hls_playlist(data));
