//! `nearcast_fuzz::flv_tag` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nearcast_fuzz::flv_tag(data));
