#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    evenkeel_fuzz::properties::h2_head(input);
});
