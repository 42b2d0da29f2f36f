//! Maps by the serial numbers that backends are known by.
//!
//! The numbers are given out by us, one after the other, so nobody can choose them to collide and one multiplication
//! spreads them well enough; the standard hasher took a twentieth of our instructions per request.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by serial number.
pub type BySerial<V> = HashMap<u64, V, BuildHasherDefault<SerialHasher>>;

/// Hashes one `u64` that nobody outside chooses.
#[derive(Clone, Copy, Debug, Default)]
pub struct SerialHasher(u64);

impl Hasher for SerialHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, serial: u64) {
        // Fibonacci hashing (Knuth, TAOCP 6.4): the odd number nearest to 2^64 over the golden ratio.
        self.0 = (self.0 ^ serial).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_found_again() {
        let map: BySerial<u64> = (0..1000).map(|serial| (serial, serial * 2)).collect();
        assert_eq!(map.len(), 1000);
        assert!((0..1000).all(|serial| map[&serial] == serial * 2));
        assert!(!map.contains_key(&1000));
    }
}
