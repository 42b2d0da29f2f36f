//! What holds for any bytes whatever: the fuzz targets call these functions for as long as one lets them, and
//! `tests/properties.rs` calls them whenever the tests run.
//!
//! Each takes an input and panics where a promise is broken. It returns whether the input was accepted, so that somebody
//! who only ever makes rubbish notices.

mod body;
mod forward;
mod h2;
mod head;
mod hello;
#[allow(dead_code, reason = "the corpus uses the rest of it")]
#[path = "../letter.rs"]
mod letter;
mod proxy;
mod target;

use evenkeel::config::from_text;
use evenkeel::state::Snapshot;

pub use body::chunked;
pub use forward::{forward_request, forward_response};
pub use h2::h2_head;
pub use head::{request_head, response_head};
pub use hello::client_hello;
pub use proxy::proxy_protocol;
pub use target::target;

/// Any text is a configuration or a report of faults that can be shown; what is a configuration is the same one each time,
/// and can be served.
pub fn configuration(input: &[u8]) -> bool {
    let text = String::from_utf8_lossy(input);
    match (from_text("main.toml", &text), from_text("main.toml", &text)) {
        (Ok(loaded), Ok(again)) => {
            assert_eq!(loaded.digest, again.digest);
            assert_eq!(format!("{:?}", loaded.config), format!("{:?}", again.config));
            assert_eq!(loaded.warnings.to_string(), again.warnings.to_string());
            let _ = Snapshot::next(&loaded.config, &evenkeel::tls::Materials::default(), None);
            true
        }
        (Err(report), Err(again)) => {
            assert_eq!(report.to_string(), again.to_string());
            assert!(!report.is_empty(), "a refusal has a reason");
            false
        }
        (one, other) => panic!("twice the same text, and {one:?}, then {other:?}"),
    }
}

/// Places to cut an input at, the end among them: all where there are few, else some that follow from the input.
fn cuts(input: &[u8]) -> Vec<usize> {
    const MOST: usize = 24;
    if input.len() <= MOST {
        return (1..=input.len()).collect();
    }
    // FNV-1a, then a linear congruence: the same input must be cut the same way when it is replayed
    let mut state = input
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let mut cuts: Vec<_> = (1..MOST)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            1 + (state >> 33) as usize % input.len()
        })
        .collect();
    cuts.push(input.len());
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}
