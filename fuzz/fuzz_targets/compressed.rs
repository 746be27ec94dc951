#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| syn1_fuzz::compressed(data));
