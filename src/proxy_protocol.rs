//! The header of the PROXY protocol, by which one proxy tells the next who the client is: bytes in, addresses out, and back.
//!
//! By HAProxy's specification (proxy-protocol.txt), versions 1 (a line of text) and 2 (binary). Reading is strict, because
//! whoever passes as a header decides who a client is: what is not exactly one is a fault. The verdict on some bytes is the
//! same whether they come at once or one by one, and never depends on what follows the header. What a header says beyond
//! addresses (TLVs) has to have the form the specification gives it and is forgotten. What is written beyond them is only what we
//! know ourselves of a client's TLS, and only what is asked for.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str;

/// The longest header of version 1, its CR LF included: what the specification allows.
pub const LONGEST_V1: usize = 107;

/// The longest header of version 2 that is read. Its length field could say 64 KiB; addresses, a name and what a certificate
/// says of its owner are far below this.
pub const LONGEST_V2: usize = 4096;

/// The longest header that is written. Its length field could say 64 KiB too, and what follows a header that says too much or
/// too little would be taken for a part of it.
pub const LONGEST_WRITTEN: usize = FIXED + 36 + 5 * NAMED + TLV + CLIENT;

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

/// The head of a TLV: its type and its length.
const TLV: usize = 3;
/// The longest name that is told. What may be told is bounded by TLS and DNS to this; a longer one is left out.
const LONGEST_NAME: usize = 255;
/// The most that a name takes.
const NAMED: usize = TLV + LONGEST_NAME;
/// What goes before the TLVs within that of TLS: flags, and whether the client's certificate was verified.
const CLIENT: usize = 5;
const _: () = assert!(LONGEST_WRITTEN <= 2048 && LONGEST_WRITTEN <= LONGEST_V2);

/// `PP2_TYPE_ALPN`
const ALPN: u8 = 0x01;
/// `PP2_TYPE_AUTHORITY`
const AUTHORITY: u8 = 0x02;
/// `PP2_TYPE_SSL`, and the TLVs within it.
const SSL: u8 = 0x20;
const SSL_VERSION: u8 = 0x21;
const SSL_CN: u8 = 0x22;
const SSL_CIPHER: u8 = 0x23;

/// The client came over TLS.
const CLIENT_SSL: u8 = 0x01;
/// It has shown a certificate on this connection.
const CLIENT_CERT_CONN: u8 = 0x02;
/// It has shown one in this session, on this connection or an earlier one.
const CLIENT_CERT_SESS: u8 = 0x04;

/// How a header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary, with these TLVs.
    V2(Tlvs),
}

/// What is told of a client's TLS, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tlvs {
    /// The protocol that was agreed on.
    pub alpn: bool,
    /// The server name that the client has asked for.
    pub authority: bool,
    /// The version of TLS, the cipher suite, and whether the client has shown a certificate.
    pub ssl: bool,
}

/// What is known of a client's TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The protocol that was agreed on (ALPN).
    pub protocol: Option<Vec<u8>>,
    /// The server name that the client has asked for (SNI).
    pub authority: Option<String>,
    /// What its handshake has come to; `None` where it passes through, and another has shaken hands.
    pub handshake: Option<Handshake>,
}

/// What a handshake has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The version of TLS, such as `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite, by OpenSSL's name.
    pub cipher: &'static str,
    /// The certificate of the client.
    pub certificate: Certificate,
    /// The common name in it.
    pub common_name: Option<String>,
}

/// Whether a client has shown a certificate. One that was not found good gets no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// It has shown none.
    Absent,
    /// It has shown one in this handshake.
    Shown,
    /// It did so in the one that this session goes back to.
    Remembered,
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

/// The header that says `addresses`; `None`: that there is no client, or that nobody knows it, and then nothing else is told of
/// it either. `tls` is what is known of the client's. Never longer than [`LONGEST_WRITTEN`], nor, without TLVs, than
/// [`LONGEST_V1`].
#[must_use]
pub fn encode(version: Version, addresses: Option<Addresses>, tls: Option<&Tls>) -> Vec<u8> {
    let addresses = addresses.map(Addresses::of_one_family);
    match version {
        Version::V1 => text(addresses).into_bytes(),
        Version::V2(wanted) => {
            let mut header = block(addresses);
            // The specification has all of it ignored where there is no client.
            if let Some(tls) = tls.filter(|_| addresses.is_some()) {
                extend(&mut header, wanted, tls);
            }
            header
        }
    }
}

impl Tlvs {
    /// Whether there is anything to tell.
    #[must_use]
    pub fn any(self) -> bool {
        self != Tlvs::default()
    }
}

/// Adds what is wanted and known to a header, whose length tells of it.
fn extend(header: &mut Vec<u8>, wanted: Tlvs, tls: &Tls) {
    if wanted.alpn {
        put_name(header, ALPN, tls.protocol.as_deref());
    }
    if wanted.authority {
        put_name(header, AUTHORITY, tls.authority.as_deref().map(str::as_bytes));
    }
    if wanted.ssl
        && let Some(handshake) = &tls.handshake
    {
        put(header, SSL, &handshake.told());
    }
    let length = length_of(&header[FIXED..]);
    header[FIXED - 2..FIXED].copy_from_slice(&length);
}

impl Handshake {
    fn told(&self) -> Vec<u8> {
        let (flags, unverified): (u8, u32) = match self.certificate {
            // Nothing was verified.
            Certificate::Absent => (CLIENT_SSL, 1),
            Certificate::Shown => (CLIENT_SSL | CLIENT_CERT_CONN | CLIENT_CERT_SESS, 0),
            Certificate::Remembered => (CLIENT_SSL | CLIENT_CERT_SESS, 0),
        };
        let mut told = vec![flags];
        told.extend_from_slice(&unverified.to_be_bytes());
        put_name(&mut told, SSL_VERSION, Some(self.version.as_bytes()));
        put_name(&mut told, SSL_CIPHER, Some(self.cipher.as_bytes()));
        put_name(&mut told, SSL_CN, self.common_name.as_deref().map(str::as_bytes));
        told
    }
}

/// Adds a name if there is one; one that is too long is none.
fn put_name(row: &mut Vec<u8>, kind: u8, name: Option<&[u8]>) {
    if let Some(name) = name.filter(|name| (1..=LONGEST_NAME).contains(&name.len())) {
        put(row, kind, name);
    }
}

fn put(row: &mut Vec<u8>, kind: u8, value: &[u8]) {
    row.push(kind);
    row.extend_from_slice(&length_of(value));
    row.extend_from_slice(value);
}

/// How many bytes these are, as a header tells it.
fn length_of(bytes: &[u8]) -> [u8; 2] {
    u16::try_from(bytes.len()).expect("nothing is longer than the longest header that is written").to_be_bytes()
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

    const ALL: Tlvs = Tlvs { alpn: true, authority: true, ssl: true };

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
        for version in [Version::V1, Version::V2(ALL)] {
            assert_eq!(whole(&encode(version, mixed, None)), addresses("[::ffff:192.0.2.7]:1", "[2001:db8::1]:2"));
        }
    }

    /// Types and values, read by the specification's words alone.
    fn parsed(mut row: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut all = Vec::new();
        while let [kind, high, low, rest @ ..] = row {
            let (value, next) = rest.split_at(usize::from(*high) << 8 | usize::from(*low));
            all.push((*kind, value.to_vec()));
            row = next;
        }
        assert!(row.is_empty());
        all
    }

    /// What stands behind the addresses.
    fn told(header: &[u8]) -> Vec<(u8, Vec<u8>)> {
        parsed(&header[FIXED + if header[13] == 0x11 { 12 } else { 36 }..])
    }

    fn shaken(certificate: Certificate, common_name: Option<&str>) -> Tls {
        let common_name = common_name.map(str::to_owned);
        let (version, cipher) = ("TLSv1.3", "TLS_AES_128_GCM_SHA256");
        let handshake = Some(Handshake { version, cipher, certificate, common_name });
        Tls { protocol: Some(b"h2".to_vec()), authority: Some("a.example".to_owned()), handshake }
    }

    #[test]
    fn what_is_asked_for_and_known_is_told_and_nothing_else() {
        let four = addresses("192.0.2.7:56324", "192.0.2.1:443");
        let tls = shaken(Certificate::Absent, None);
        let told_by = |wanted, tls: Option<&Tls>| {
            let header = encode(Version::V2(wanted), four, tls);
            assert_eq!(whole(&header), four);
            told(&header)
        };
        let (protocol, authority) = ((1, b"h2".to_vec()), (2, b"a.example".to_vec()));
        let ssl = |head: &[u8]| (0x20, [head, b"\x21\0\x07TLSv1.3\x23\0\x16TLS_AES_128_GCM_SHA256"].concat());
        assert_eq!(told_by(ALL, Some(&tls)), [protocol.clone(), authority.clone(), ssl(&[1, 0, 0, 0, 1])]);
        assert_eq!(told_by(Tlvs { alpn: true, ..Tlvs::default() }, Some(&tls)), [protocol]);
        assert_eq!(told_by(Tlvs { authority: true, ..Tlvs::default() }, Some(&tls)), [authority]);
        for (certificate, flags) in [(Certificate::Shown, 7), (Certificate::Remembered, 5)] {
            let (kind, mut value) = ssl(&[flags, 0, 0, 0, 0]);
            value.extend_from_slice(b"\x22\0\x02me");
            let only_ssl = Tlvs { ssl: true, ..Tlvs::default() };
            assert_eq!(told_by(only_ssl, Some(&shaken(certificate, Some("me")))), [(kind, value)]);
        }
        for nothing in [told_by(Tlvs::default(), Some(&tls)), told_by(ALL, None), told_by(ALL, Some(&Tls::default()))] {
            assert_eq!(nothing, []);
        }
        assert_eq!(encode(Version::V2(ALL), None, Some(&tls)), v2(LOCAL, 0, &[]), "of nobody");
        assert_eq!(encode(Version::V1, four, Some(&tls)), encode(Version::V1, four, None));
    }

    #[test]
    fn a_name_that_is_too_long_is_left_out() {
        let six = addresses("[2001:db8::7]:0", "[2001:db8::1]:65535");
        let header = |length: usize| {
            let mut tls = shaken(Certificate::Shown, Some(&"c".repeat(length)));
            tls.protocol = Some(vec![b'p'; length]);
            tls.authority = Some("a".repeat(length));
            encode(Version::V2(ALL), six, Some(&tls))
        };
        assert_eq!(told(&header(255)).len(), 3);
        assert_eq!(parsed(&told(&header(255))[2].1[5..]).len(), 3);
        for absent in [header(256), header(70_000), header(0)] {
            assert_eq!((whole(&absent), told(&absent).len()), (six, 1));
            assert_eq!(parsed(&told(&absent)[0].1[5..]).len(), 2);
        }
    }

    /// What may be known, however long its names.
    fn known() -> impl Strategy<Value = Tls> {
        let certificate =
            prop_oneof![Just(Certificate::Absent), Just(Certificate::Shown), Just(Certificate::Remembered)];
        let name = || proptest::option::of("\\PC{0,300}");
        let handshake = (certificate, name()).prop_map(|(certificate, common_name)| Handshake {
            version: "TLSv1.2",
            cipher: "ECDHE-ECDSA-CHACHA20-POLY1305",
            certificate,
            common_name,
        });
        let protocol = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300));
        (protocol, name(), proptest::option::of(handshake)).prop_map(|(protocol, authority, handshake)| Tls {
            protocol,
            authority,
            handshake,
        })
    }

    fn socket_addresses() -> impl Strategy<Value = Option<Addresses>> {
        let four = any::<[(Ipv4Addr, u16); 2]>().prop_map(|ends| ends.map(SocketAddr::from));
        let six = any::<[(Ipv6Addr, u16); 2]>().prop_map(|ends| ends.map(SocketAddr::from));
        let ends = prop_oneof![four, six];
        proptest::option::of(ends.prop_map(|[source, destination]| Addresses { source, destination }))
    }

    proptest! {
        #[test]
        fn what_is_told_of_tls_changes_no_address_and_stays_within_its_bound(
            addresses in socket_addresses(),
            tls in known(),
            [alpn, authority, ssl] in any::<[bool; 3]>(),
        ) {
            let header = encode(Version::V2(Tlvs { alpn, authority, ssl }), addresses, Some(&tls));
            let length = header.len();
            prop_assert!(length <= LONGEST_WRITTEN);
            prop_assert_eq!(decode(&header), Ok(Decoded::Complete { length, addresses }));
            let fits = |bytes: &[u8]| (1..=255).contains(&bytes.len()).then(|| bytes.to_vec());
            let row = if addresses.is_some() { told(&header) } else { Vec::new() };
            let value = |kind| row.iter().find(|one| one.0 == kind).map(|one| one.1.clone());
            let is_told = |wanted: bool| wanted && addresses.is_some();
            prop_assert_eq!(value(1), tls.protocol.as_deref().and_then(fits).filter(|_| is_told(alpn)));
            let authority_told = tls.authority.as_deref().map(str::as_bytes).and_then(fits);
            prop_assert_eq!(value(2), authority_told.filter(|_| is_told(authority)));
            let handshake = tls.handshake.filter(|_| is_told(ssl));
            prop_assert_eq!(value(0x20).is_some(), handshake.is_some());
            if let (Some(value), Some(handshake)) = (value(0x20), handshake) {
                let within = parsed(&value[5..]);
                let common_name = within.iter().find(|one| one.0 == 0x22).map(|one| one.1.clone());
                prop_assert_eq!(common_name, handshake.common_name.as_deref().map(str::as_bytes).and_then(fits));
                prop_assert_eq!(value[1..5] == [0; 4], handshake.certificate != Certificate::Absent);
            }
        }

        #[test]
        fn what_is_written_is_read_back_wherever_it_is_cut(
            addresses in socket_addresses(),
            more in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            for version in [Version::V1, Version::V2(ALL)] {
                let mut bytes = encode(version, addresses, None);
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
