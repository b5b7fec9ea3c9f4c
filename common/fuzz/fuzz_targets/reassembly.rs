//! `nearcast_fuzz::reassembly` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nearcast_fuzz::reassembly(data));
