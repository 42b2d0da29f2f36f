//! The header of the PROXY protocol, by which one proxy tells the next who the client is: bytes in, addresses out, and back.
//!
//! By HAProxy's specification (proxy-protocol.txt), versions 1 (a line of text) and 2 (binary). Reading is strict, because
//! whoever passes as a header decides who a client is: what is not exactly one is a fault. The verdict on some bytes is the
//! same whether they come at once or one by one, and never depends on what follows the header. What a header says beyond
//! addresses (TLVs) has to have the form the specification gives it and is forgotten; none is ever written.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str;

/// The longest header of version 1, its CR LF included: what the specification allows.
pub const LONGEST_V1: usize = 107;

/// The longest header of version 2 that is read. Its length field could say 64 KiB; addresses, a name and what a certificate
/// says of its owner are far below this.
pub const LONGEST_V2: usize = 4096;

/// How every header of version 1 begins.
const TEXT: &[u8] = b"PROXY ";

/// How every header of version 2 begins; no other protocol does.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Up to where the length of a header of version 2 is told.
const FIXED: usize = 16;

/// Version 2 and LOCAL: the proxy speaks for itself.
const LOCAL: u8 = 0x20;
/// Version 2 and PROXY: it speaks for a client.
const PROXY: u8 = 0x21;

/// How a header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// Between whom the connection is that is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The client.
    pub source: SocketAddr,
    /// Where it connected to.
    pub destination: SocketAddr,
}

/// What some bytes come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// The beginning of a header.
    Partial,
    /// A header, and what may follow.
    Complete {
        /// How many bytes it has.
        length: usize,
        /// What it tells. `None`: nothing, as the proxy speaks for itself or does not know (LOCAL, UNKNOWN, UNSPEC), or the
        /// client came over a Unix socket; then the connection's own addresses stay.
        addresses: Option<Addresses>,
    },
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// They begin otherwise.
    Absent,
    /// A line without an end.
    LongLine,
    /// A line that is not by the grammar.
    Line,
    /// Another version or command than there are.
    Command(u8),
    /// A family and transport that no stream comes by.
    Family(u8),
    /// A length above [`LONGEST_V2`].
    Long(u16),
    /// Fewer bytes than the addresses of the family have.
    Short(u16),
    /// What follows the addresses is no row of TLVs.
    Extensions,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Absent => f.write_str("there is no PROXY header"),
            Fault::LongLine => write!(f, "the PROXY line does not end within {LONGEST_V1} bytes"),
            Fault::Line => f.write_str("the PROXY line is malformed"),
            Fault::Command(byte) => write!(f, "PROXY version and command {byte:#04x} are unknown"),
            Fault::Family(byte) => write!(f, "PROXY family and transport {byte:#04x} are not those of a stream"),
            Fault::Long(length) => write!(f, "the PROXY header says it has {length} bytes, of at most {LONGEST_V2}"),
            Fault::Short(length) => write!(f, "{length} bytes are too few for the PROXY header's addresses"),
            Fault::Extensions => f.write_str("the PROXY header's extensions are malformed"),
        }
    }
}

/// Reads the header that `bytes` begin with, as far as they have come.
///
/// # Errors
/// They are no header, whatever may follow.
pub fn decode(bytes: &[u8]) -> Result<Decoded, Fault> {
    if begins(bytes, SIGNATURE) {
        binary(bytes)
    } else if begins(bytes, TEXT) {
        line(bytes)
    } else {
        Err(Fault::Absent)
    }
}

/// Whether `bytes` begin so, as far as they go.
fn begins(bytes: &[u8], with: &[u8]) -> bool {
    let known = bytes.len().min(with.len());
    bytes[..known] == with[..known]
}

fn line(bytes: &[u8]) -> Result<Decoded, Fault> {
    let most = &bytes[..bytes.len().min(LONGEST_V1)];
    let Some(end) = most.iter().position(|&byte| byte == b'\n') else {
        return if most.len() < LONGEST_V1 { Ok(Decoded::Partial) } else { Err(Fault::LongLine) };
    };
    let text = most[..end].strip_suffix(b"\r").and_then(|line| line.strip_prefix(TEXT)).ok_or(Fault::Line)?;
    let text = str::from_utf8(text).ok().filter(|text| !text.chars().any(char::is_control)).ok_or(Fault::Line)?;
    let addresses = addresses_of(text).ok_or(Fault::Line)?;
    Ok(Decoded::Complete { length: end + 1, addresses })
}

/// What the line says behind `PROXY `; `None` where it is malformed.
fn addresses_of(text: &str) -> Option<Option<Addresses>> {
    let mut words = text.split(' ');
    let family = words.next()?;
    // Whatever follows is to be ignored.
    if family == "UNKNOWN" {
        return Some(None);
    }
    let address: fn(&str) -> Option<IpAddr> = match family {
        "TCP4" => |word| word.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => |word| word.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => return None,
    };
    let (source, destination) = (address(words.next()?)?, address(words.next()?)?);
    let (from, to) = (port(words.next()?)?, port(words.next()?)?);
    if words.next().is_some() {
        return None;
    }
    Some(Some(Addresses { source: (source, from).into(), destination: (destination, to).into() }))
}

/// Digits alone, without a leading zero.
fn port(word: &str) -> Option<u16> {
    let is_canonical = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    is_canonical.then(|| word.parse().ok()).flatten()
}

fn binary(bytes: &[u8]) -> Result<Decoded, Fault> {
    let command = bytes.get(12).copied();
    if let Some(command) = command.filter(|command| !matches!(*command, LOCAL | PROXY)) {
        return Err(Fault::Command(command));
    }
    let Some(&[_, family, high, low]) = bytes.get(12..FIXED) else { return Ok(Decoded::Partial) };
    let told = u16::from_be_bytes([high, low]);
    let length = FIXED + usize::from(told);
    if length > LONGEST_V2 {
        return Err(Fault::Long(told));
    }
    let Some(block) = bytes.get(FIXED..length) else { return Ok(Decoded::Partial) };
    // The specification has the rest ignored where the proxy speaks for itself, the family included.
    let addresses = if command == Some(LOCAL) { None } else { addresses_in(family, block, Fault::Short(told))? };
    Ok(Decoded::Complete { length, addresses })
}

/// What the block behind the length says.
fn addresses_in(family: u8, block: &[u8], short: Fault) -> Result<Option<Addresses>, Fault> {
    let (addresses, rest) = match family {
        0x00 => (None, block),
        0x11 => {
            let (own, rest) = block.split_first_chunk::<12>().ok_or(short)?;
            let [a, b, c, d, e, f, g, h, ports @ ..] = *own;
            (Some(between(Ipv4Addr::new(a, b, c, d).into(), Ipv4Addr::new(e, f, g, h).into(), ports)), rest)
        }
        0x21 => {
            let (source, rest) = block.split_first_chunk::<16>().ok_or(short)?;
            let (destination, rest) = rest.split_first_chunk::<16>().ok_or(short)?;
            let (ports, rest) = rest.split_first_chunk::<4>().ok_or(short)?;
            (Some(between(Ipv6Addr::from(*source).into(), Ipv6Addr::from(*destination).into(), *ports)), rest)
        }
        0x31 => (None, block.get(2 * 108..).ok_or(short)?),
        other => return Err(Fault::Family(other)),
    };
    if is_row_of_extensions(rest) { Ok(addresses) } else { Err(Fault::Extensions) }
}

fn between(source: IpAddr, destination: IpAddr, [a, b, c, d]: [u8; 4]) -> Addresses {
    let (from, to) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    Addresses { source: (source, from).into(), destination: (destination, to).into() }
}

/// Whether it is types with lengths and values, one after the other.
fn is_row_of_extensions(mut rest: &[u8]) -> bool {
    while let Some((&[_, high, low], values)) = rest.split_first_chunk::<3>() {
        let Some(next) = values.get(usize::from(u16::from_be_bytes([high, low]))..) else { return false };
        rest = next;
    }
    rest.is_empty()
}

/// The header that says `addresses`; `None`: that there is no client, or that nobody knows it. Never longer than
/// [`LONGEST_V1`].
#[must_use]
pub fn encode(version: Version, addresses: Option<Addresses>) -> Vec<u8> {
    let addresses = addresses.map(Addresses::of_one_family);
    match version {
        Version::V1 => text(addresses).into_bytes(),
        Version::V2 => block(addresses),
    }
}

impl Addresses {
    /// A header has room for one family: an IPv4 address beside an IPv6 one is written as an IPv6 one.
    fn of_one_family(self) -> Addresses {
        let Addresses { source, destination } = self;
        let widened = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
            IpAddr::V6(_) => address,
        };
        if source.is_ipv4() == destination.is_ipv4() {
            return self;
        }
        Addresses { source: widened(source), destination: widened(destination) }
    }
}

fn text(addresses: Option<Addresses>) -> String {
    let Some(Addresses { source, destination }) = addresses else { return "PROXY UNKNOWN\r\n".to_owned() };
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port())
}

fn block(addresses: Option<Addresses>) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    let Some(Addresses { source, destination }) = addresses else {
        header.extend_from_slice(&[LOCAL, 0x00, 0, 0]);
        return header;
    };
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            header.extend_from_slice(&[PROXY, 0x11, 0, 12]);
            header.extend_from_slice(&source.octets());
            header.extend_from_slice(&destination.octets());
        }
        (source, destination) => {
            header.extend_from_slice(&[PROXY, 0x21, 0, 36]);
            for address in [source, destination] {
                let wide = match address {
                    IpAddr::V4(address) => address.to_ipv6_mapped(),
                    IpAddr::V6(address) => address,
                };
                header.extend_from_slice(&wide.octets());
            }
        }
    }
    header.extend_from_slice(&source.port().to_be_bytes());
    header.extend_from_slice(&destination.port().to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addresses(source: &str, destination: &str) -> Option<Addresses> {
        Some(Addresses { source: source.parse().unwrap(), destination: destination.parse().unwrap() })
    }

    #[track_caller]
    fn whole(header: &[u8]) -> Option<Addresses> {
        match decode(header) {
            Ok(Decoded::Complete { length, addresses }) if length == header.len() => addresses,
            other => panic!("{other:?}"),
        }
    }

    /// A header of version 2 with this command, family and block.
    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, block].concat()
    }

    #[test]
    fn a_line_says_who_is_connected() {
        let four = addresses("192.0.2.7:56324", "192.0.2.1:443");
        assert_eq!(whole(b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\n"), four);
        let six = addresses("[2001:db8::7]:0", "[2001:db8::1]:65535");
        assert_eq!(whole(b"PROXY TCP6 2001:db8::7 2001:db8::1 0 65535\r\n"), six);
        let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(LONGEST_V1 - 16));
        for unknown in [b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ffff: 1 what ever\r\n".as_slice(), longest.as_bytes()] {
            assert_eq!(whole(unknown), None);
        }
    }

    #[test]
    fn a_line_that_is_nearly_right_is_a_fault() {
        for wrong in [
            "PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 56324\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 56324 443 \r\n",
            "PROXY TCP4  192.0.2.7 192.0.2.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 56324 65536\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 +1 443\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 01 443\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1  443\r\n",
            "PROXY TCP4 192.0.2.07 192.0.2.1 1 443\r\n",
            "PROXY TCP4 2001:db8::7 2001:db8::1 1 443\r\n",
            "PROXY TCP6 192.0.2.7 192.0.2.1 1 443\r\n",
            "PROXY TCP6 fe80::1%eth0 2001:db8::1 1 443\r\n",
            "PROXY UDP4 192.0.2.7 192.0.2.1 1 443\r\n",
            "PROXY tcp4 192.0.2.7 192.0.2.1 1 443\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY UNKNOWN \r \r\n",
            "PROXY \r\n",
        ] {
            assert_eq!(decode(wrong.as_bytes()), Err(Fault::Line), "{wrong:?}");
        }
        let endless = format!("PROXY UNKNOWN {}", "f".repeat(LONGEST_V1));
        assert_eq!(decode(&endless.as_bytes()[..LONGEST_V1 - 1]), Ok(Decoded::Partial));
        assert_eq!(decode(endless.as_bytes()), Err(Fault::LongLine));
    }

    #[test]
    fn what_begins_otherwise_is_none_from_its_first_byte_that_differs() {
        for other in
            [b"GET / HTTP/1.1\r\n".as_slice(), b"PRI * HTTP/2.0\r\n", &[22, 3, 1], b"\r\n\r\n\0\r\nQUIT\r", b" "]
        {
            assert_eq!(decode(other), Err(Fault::Absent));
        }
        assert_eq!(decode(b"PR"), Ok(Decoded::Partial));
        assert_eq!(decode(b""), Ok(Decoded::Partial));
    }

    #[test]
    fn a_block_says_who_is_connected_and_its_extensions_are_forgotten() {
        let four = [192, 0, 2, 7, 192, 0, 2, 1, 0xdc, 4, 1, 0xbb];
        let expected = addresses("192.0.2.7:56324", "192.0.2.1:443");
        assert_eq!(whole(&v2(PROXY, 0x11, &four)), expected);
        let alpn = [&four[..], &[1, 0, 2, b'h', b'2', 4, 0, 0]].concat();
        assert_eq!(whole(&v2(PROXY, 0x11, &alpn)), expected);
        assert_eq!(whole(&v2(PROXY, 0x31, &[0; 216])), None);
        assert_eq!(whole(&v2(PROXY, 0x00, &[])), None);
        for ignored in [&[][..], &[9; 5]] {
            assert_eq!(whole(&v2(LOCAL, 0x77, ignored)), None);
        }
    }

    #[test]
    fn a_block_that_is_nearly_right_is_a_fault() {
        for (header, fault) in [
            (v2(0x11, 0x11, &[0; 12]), Fault::Command(0x11)),
            (v2(0x22, 0x11, &[0; 12]), Fault::Command(0x22)),
            (v2(PROXY, 0x12, &[0; 12]), Fault::Family(0x12)),
            (v2(PROXY, 0x41, &[0; 12]), Fault::Family(0x41)),
            (v2(PROXY, 0x11, &[0; 11]), Fault::Short(11)),
            (v2(PROXY, 0x21, &[0; 35]), Fault::Short(35)),
            (v2(PROXY, 0x31, &[0; 215]), Fault::Short(215)),
            (v2(PROXY, 0x11, &[0; 14]), Fault::Extensions),
            (v2(PROXY, 0x11, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 2, 7]), Fault::Extensions),
            (v2(PROXY, 0x11, &[0; LONGEST_V2 - 15]), Fault::Long(4081)),
        ] {
            assert_eq!(decode(&header), Err(fault));
        }
        let mut longest = vec![0; LONGEST_V2 - 16];
        longest[12..15].copy_from_slice(&[4, 0x0f, 0xe1]);
        whole(&v2(PROXY, 0x11, &longest));
    }

    #[test]
    fn mixed_families_are_written_as_ipv6() {
        let mixed = addresses("192.0.2.7:1", "[2001:db8::1]:2");
        for version in [Version::V1, Version::V2] {
            assert_eq!(whole(&encode(version, mixed)), addresses("[::ffff:192.0.2.7]:1", "[2001:db8::1]:2"));
        }
    }

    fn socket_addresses() -> impl Strategy<Value = Option<Addresses>> {
        let four = any::<[(Ipv4Addr, u16); 2]>().prop_map(|ends| ends.map(SocketAddr::from));
        let six = any::<[(Ipv6Addr, u16); 2]>().prop_map(|ends| ends.map(SocketAddr::from));
        let ends = prop_oneof![four, six];
        proptest::option::of(ends.prop_map(|[source, destination]| Addresses { source, destination }))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_wherever_it_is_cut(
            addresses in socket_addresses(),
            more in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            for version in [Version::V1, Version::V2] {
                let mut bytes = encode(version, addresses);
                let length = bytes.len();
                prop_assert!(length <= LONGEST_V1);
                for cut in 0..length {
                    prop_assert_eq!(decode(&bytes[..cut]), Ok(Decoded::Partial));
                }
                bytes.extend_from_slice(&more);
                for cut in length..=bytes.len() {
                    prop_assert_eq!(decode(&bytes[..cut]), Ok(Decoded::Complete { length, addresses }));
                }
            }
        }
    }
}
