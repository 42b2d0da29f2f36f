//! The PROXY protocol: one verdict however the bytes come, and what is understood can be said again.

use evenkeel::proxy_protocol::{Decoded, LONGEST_V1, LONGEST_V2, Tlvs, Version, decode, encode};

/// Any bytes are a header, the beginning of one, or a fault: the same whether they come whole or in pieces, with or without
/// what follows; a header is never longer than allowed, and what it says is the same when it is written anew.
pub fn proxy_protocol(input: &[u8]) -> bool {
    let verdict = decode(input);
    for cut in super::cuts(input) {
        match decode(&input[..cut]) {
            Ok(Decoded::Partial) => {}
            early => assert_eq!(early, verdict, "of {cut} bytes"),
        }
    }
    match verdict {
        Err(_) => false,
        Ok(Decoded::Partial) => {
            assert!(input.len() < LONGEST_V2, "no header is that long");
            true
        }
        Ok(Decoded::Complete { length, addresses }) => {
            assert!(length <= input.len() && length <= LONGEST_V2);
            assert!(input[0] != b'P' || length <= LONGEST_V1);
            assert_eq!(decode(&input[..length]), verdict);
            assert_eq!(decode(&input[..length - 1]), Ok(Decoded::Partial));
            for version in [Version::V1, Version::V2(Tlvs::default())] {
                let again = encode(version, addresses, None);
                assert!(again.len() <= LONGEST_V1);
                assert_eq!(decode(&again), Ok(Decoded::Complete { length: again.len(), addresses }));
            }
            true
        }
    }
}
