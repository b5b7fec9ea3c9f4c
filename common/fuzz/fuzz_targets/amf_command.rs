//! `nearcast_fuzz::amf_command` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nearcast_fuzz::amf_command(data));
