//! What hashing policies hash on, as one number that is the same over workers, restarts and instances.

use std::net::IpAddr;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Fixed for ever: another seed would move every client of every installation.
const KEY_SEED: u64 = 0x6576_656e_6b65_656c;

/// The key of a header, cookie, URI or query value.
#[must_use]
pub fn hash_key(bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, KEY_SEED)
}

/// The key of a client's network: the leading `v4_prefix` or `v6_prefix` bits of its address.
///
/// An IPv4 address in IPv6 clothes counts as IPv4. A prefix longer than the address means all of it.
#[must_use]
pub fn ip_key(address: IpAddr, v4_prefix: u8, v6_prefix: u8) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let dropped = 32 - u32::from(v4_prefix.min(32));
            hash_key(&u32::MAX.checked_shl(dropped).map_or(0, |mask| address.to_bits() & mask).to_be_bytes())
        }
        IpAddr::V6(address) => {
            let dropped = 128 - u32::from(v6_prefix.min(128));
            hash_key(&u128::MAX.checked_shl(dropped).map_or(0, |mask| address.to_bits() & mask).to_be_bytes())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(address: &str, v4: u8, v6: u8) -> u64 {
        ip_key(address.parse().unwrap(), v4, v6)
    }

    #[test]
    fn clients_of_one_network_have_one_key() {
        assert_eq!(key("10.1.2.3", 24, 64), key("10.1.2.200", 24, 64));
        assert_ne!(key("10.1.2.3", 32, 64), key("10.1.2.200", 32, 64));
        assert_eq!(key("2001:db8::1", 32, 64), key("2001:db8::ffff:1:2:3", 32, 64));
        assert_ne!(key("2001:db8::1", 32, 64), key("2001:db8:0:1::1", 32, 64));
        assert_ne!(key("2001:db8::1", 32, 128), key("2001:db8::2", 32, 128));
    }

    #[test]
    fn an_ipv4_address_in_ipv6_clothes_counts_as_ipv4() {
        assert_eq!(key("::ffff:10.1.2.3", 32, 64), key("10.1.2.3", 32, 64));
    }

    #[test]
    fn prefixes_of_nothing_and_too_much_are_whole_numbers_too() {
        assert_eq!(key("10.1.2.3", 0, 0), key("192.0.2.1", 0, 0));
        assert_eq!(key("::1", 0, 0), key("2001:db8::1", 0, 0));
        assert_eq!(key("10.1.2.3", 255, 255), key("10.1.2.3", 32, 128));
    }

    #[test]
    fn keys_never_change_between_releases() {
        assert_eq!(hash_key(b""), 10_920_873_138_551_837_599);
        assert_eq!(key("10.1.2.3", 32, 64), 9_704_079_780_151_550_076);
    }
}
