//! The first message of a TLS connection, as far as it decides where the connection goes: bytes in, name and protocols out.
//!
//! A [`Reading`] puts the message together from records (RFC 8446 §5.1), of which it may fill several and which may come in
//! any pieces; then it is read by the letter of RFC 8446 §4.1.2, which covers what TLS 1.0 to 1.2 send as well. Reading is
//! strict, because who ends the TLS behind us must not find another name in it than we did: what is not exactly one hello is
//! a fault. The verdict on some bytes is the same whether they come at once or one by one, and never depends on what follows
//! the message. With Encrypted Client Hello it is the outer name that stands here, which is the one to route by.

use std::fmt;
use std::net::IpAddr;
use std::str;

/// The most bytes in which a hello has to be whole, its record headers included. With post-quantum key shares it has some
/// 1,800; with a ticket and padding some more; a record could hold 16 KiB, and libraries refuse more than that.
pub const LONGEST: usize = 16 * 1024;

/// What a record begins with: type, version, length.
const RECORD_HEADER: usize = 5;
/// What a message begins with: type, length.
const MESSAGE_HEADER: usize = 4;
/// The most that the fragment in one record may have.
const LONGEST_FRAGMENT: usize = 16 * 1024;

/// The type of records that carry a handshake.
const HANDSHAKE: u8 = 22;
/// The type of this message.
const CLIENT_HELLO: u8 = 1;
/// The major version of all of SSL 3.0 to TLS 1.3.
const MAJOR: u8 = 3;

/// The extension of RFC 6066 §3.
const SERVER_NAME: u16 = 0;
/// The one kind of name there is in it.
const HOST_NAME: u8 = 0;
/// The extension of RFC 7301.
const ALPN: u16 = 16;

/// The longest name and the longest part of one (RFC 1035 §2.3.4).
const LONGEST_NAME: usize = 253;
const LONGEST_LABEL: usize = 63;

/// Why the TLS of a client is not gone on with (RFC 8446 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alert {
    /// The message can not be understood.
    DecodeError = 50,
    /// Nobody here has the name that is asked for.
    UnrecognizedName = 112,
}

impl Alert {
    /// The record that says it, fatal.
    #[must_use]
    pub fn record(self) -> [u8; 7] {
        [21, MAJOR, 3, 0, 2, 2, self as u8]
    }
}

/// What a client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// Lower case, without a dot at its end; `None` where no name is asked for.
    pub server_name: Option<String>,
    /// Names with a byte before each that says how long it is: a list of them would cost a hostile client's hello many times
    /// its own size.
    protocols: Box<[u8]>,
}

impl ClientHello {
    /// A hello that asks for this name and these protocols.
    #[cfg(test)]
    pub(crate) fn asking(name: Option<&str>, protocols: &[&str]) -> ClientHello {
        let listed = |name: &&str| [&[u8::try_from(name.len()).unwrap()][..], name.as_bytes()].concat();
        let protocols: Vec<u8> = protocols.iter().flat_map(listed).collect();
        ClientHello { server_name: name.map(str::to_owned), protocols: protocols.into() }
    }

    /// The protocols that the client offers to speak on top of TLS, best first.
    pub fn protocols(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = Bytes(&self.protocols);
        std::iter::from_fn(move || rest.short_vector())
    }
}

/// What some bytes come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a hello.
    Partial,
    /// A hello, and what may follow.
    Complete(ClientHello),
}

/// Why some bytes are no hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// They are not TLS at all.
    NotTls,
    /// A record of another type stands in the middle of it.
    Record(u8),
    /// A record that holds nothing, or more than one may.
    RecordLength(u16),
    /// Another message of the handshake.
    Message(u8),
    /// More than [`LONGEST`].
    Long,
    /// More in its last record than the message.
    Trailing,
    /// Lengths that do not fit into each other, or parts that are missing.
    Malformed,
    /// The same extension twice.
    Twice(u16),
    /// Several names of one kind.
    Names,
    /// A name that is none.
    Name,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::NotTls => f.write_str("it does not speak TLS"),
            Fault::Record(kind) => write!(f, "a TLS record of type {kind} stands in its ClientHello"),
            Fault::RecordLength(length) => write!(f, "a TLS record of its ClientHello says it has {length} bytes"),
            Fault::Message(kind) => write!(f, "its first TLS message is of type {kind} and not a ClientHello"),
            Fault::Long => write!(f, "its ClientHello is not whole within {LONGEST} bytes"),
            Fault::Trailing => f.write_str("something stands behind its ClientHello in the same TLS record"),
            Fault::Malformed => f.write_str("its ClientHello is malformed"),
            Fault::Twice(kind) => write!(f, "its ClientHello has the extension {kind} twice"),
            Fault::Names => f.write_str("its ClientHello asks for several server names"),
            Fault::Name => f.write_str("the server name in its ClientHello is not a host name"),
        }
    }
}

/// A hello that is coming in.
#[derive(Debug, Default)]
pub struct Reading {
    /// How many of the bytes have been looked at.
    seen: usize,
    /// How much of the record's fragment has still to come.
    left: usize,
    /// The fragments, one after the other.
    message: Vec<u8>,
}

impl Reading {
    /// What `bytes` come to, which are all since the beginning of the connection: those of the last time, and more.
    ///
    /// # Errors
    /// They are no hello, whatever may follow.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Parsed, Fault> {
        let most = &bytes[..bytes.len().min(LONGEST)];
        loop {
            if self.left == 0 && !self.begin_record(most)? {
                break;
            }
            let fragment = &most[self.seen..most.len().min(self.seen + self.left)];
            self.message.extend_from_slice(fragment);
            (self.seen, self.left) = (self.seen + fragment.len(), self.left - fragment.len());
            if let Some(length) = self.length()?
                && length <= self.message.len()
            {
                let ends = self.message.len() == length && self.left == 0;
                return if ends { hello(&self.message[MESSAGE_HEADER..]) } else { Err(Fault::Trailing) };
            }
            if self.left > 0 {
                break;
            }
        }
        if most.len() == LONGEST { Err(Fault::Long) } else { Ok(Parsed::Partial) }
    }

    /// Steps behind the header of the next record; false while it is not whole.
    fn begin_record(&mut self, bytes: &[u8]) -> Result<bool, Fault> {
        let header = &bytes[self.seen..];
        match (header.first(), self.message.is_empty()) {
            (Some(&HANDSHAKE) | None, _) => {}
            (Some(_), true) => return Err(Fault::NotTls),
            (Some(&kind), false) => return Err(Fault::Record(kind)),
        }
        // What stands behind the major version is to be ignored (RFC 8446 §5.1).
        if header.get(1).is_some_and(|&major| major != MAJOR) {
            return Err(Fault::NotTls);
        }
        let Some(&[high, low]) = header.get(3..RECORD_HEADER) else { return Ok(false) };
        let length = u16::from_be_bytes([high, low]);
        // Nothing is not a fragment of a handshake (RFC 8446 §5.1).
        if length == 0 || usize::from(length) > LONGEST_FRAGMENT {
            return Err(Fault::RecordLength(length));
        }
        (self.seen, self.left) = (self.seen + RECORD_HEADER, usize::from(length));
        Ok(true)
    }

    /// How long the message is, as soon as it says so.
    fn length(&self) -> Result<Option<usize>, Fault> {
        if let Some(&kind) = self.message.first().filter(|kind| **kind != CLIENT_HELLO) {
            return Err(Fault::Message(kind));
        }
        let Some(&[high, middle, low]) = self.message.get(1..MESSAGE_HEADER) else { return Ok(None) };
        let length = MESSAGE_HEADER + u32::from_be_bytes([0, high, middle, low]) as usize;
        if length > LONGEST { Err(Fault::Long) } else { Ok(Some(length)) }
    }
}

/// Reads the message behind its header.
fn hello(body: &[u8]) -> Result<Parsed, Fault> {
    let mut extensions = extensions_of(body).ok_or(Fault::Malformed)?;
    let (mut kinds, mut hello) = (Vec::new(), ClientHello::default());
    while !extensions.is_empty() {
        let (kind, value) = extensions.extension().ok_or(Fault::Malformed)?;
        kinds.push(kind);
        match kind {
            SERVER_NAME => hello.server_name = server_name(value)?,
            ALPN => hello.protocols = protocols(value).ok_or(Fault::Malformed)?.into(),
            _ => {}
        }
    }
    kinds.sort_unstable();
    match kinds.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Fault::Twice(pair[0])),
        None => Ok(Parsed::Complete(hello)),
    }
}

/// The extensions of a hello; none where it ends before them, as it may up to TLS 1.2.
fn extensions_of(body: &[u8]) -> Option<Bytes<'_>> {
    let mut rest = Bytes(body);
    let _version = rest.take(2).filter(|version| version[0] == MAJOR)?;
    let _random = rest.take(32)?;
    let _session = rest.short_vector().filter(|id| id.len() <= 32)?;
    let _suites = rest.vector().filter(|suites| !suites.is_empty() && suites.len().is_multiple_of(2))?;
    let _compression = rest.short_vector().filter(|methods| !methods.is_empty())?;
    if rest.is_empty() {
        return Some(rest);
    }
    rest.only_vector().map(Bytes)
}

/// The host name in a list of names. There is at most one of each kind, and those of kinds to come begin with their length too
/// (RFC 6066 §3). An address is no host name by the same paragraph; clients that connect to one say it all the same, and mean
/// that they ask for no name: so it is taken.
fn server_name(value: &[u8]) -> Result<Option<String>, Fault> {
    let mut list = Bytes(Bytes(value).only_vector().filter(|list| !list.is_empty()).ok_or(Fault::Malformed)?);
    let (mut kinds, mut found) = ([false; 256], None);
    while !list.is_empty() {
        let (kind, name) = list.name().ok_or(Fault::Malformed)?;
        if std::mem::replace(&mut kinds[usize::from(kind)], true) {
            return Err(Fault::Names);
        }
        if kind == HOST_NAME {
            found = host_name(name)?;
        }
    }
    Ok(found)
}

/// A name in lower case; `None` for an address.
fn host_name(name: &[u8]) -> Result<Option<String>, Fault> {
    let text = str::from_utf8(name).ok().filter(|text| text.is_ascii()).ok_or(Fault::Name)?;
    if text.parse::<IpAddr>().is_ok() {
        return Ok(None);
    }
    // The dot of the root should not be there, and changes nothing.
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_label = |label: &str| (1..=LONGEST_LABEL).contains(&label.len()) && label.bytes().all(is_sound);
    let is_name = text.len() <= LONGEST_NAME && text.split('.').all(is_label);
    if is_name { Ok(Some(text.to_ascii_lowercase())) } else { Err(Fault::Name) }
}

/// The names in a list of protocols, each with its length before it; at least one, none of them empty (RFC 7301 §3.1).
fn protocols(value: &[u8]) -> Option<&[u8]> {
    let list = Bytes(value).only_vector().filter(|list| !list.is_empty())?;
    let mut rest = Bytes(list);
    while !rest.is_empty() {
        rest.short_vector().filter(|name| !name.is_empty())?;
    }
    Some(list)
}

/// Bytes that are taken from the front, as much as is asked for or nothing.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        let (&number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(number))
    }

    /// What has its length before it in one byte.
    fn short_vector(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(length.into())
    }

    /// What has its length before it in two bytes.
    fn vector(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(length.into())
    }

    /// The same where nothing may follow.
    fn only_vector(mut self) -> Option<&'a [u8]> {
        self.vector().filter(|_| self.0.is_empty())
    }

    fn extension(&mut self) -> Option<(u16, &'a [u8])> {
        Some((self.number()?, self.vector()?))
    }

    fn name(&mut self) -> Option<(u8, &'a [u8])> {
        let kind = self.take(1)?[0];
        Some((kind, self.vector().filter(|name| !name.is_empty())?))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    fn parse(bytes: &[u8]) -> Result<Parsed, Fault> {
        Reading::default().advance(bytes)
    }

    #[track_caller]
    fn whole(bytes: &[u8]) -> ClientHello {
        match parse(bytes) {
            Ok(Parsed::Complete(hello)) => hello,
            other => panic!("{other:?}"),
        }
    }

    /// The name and the protocols that are asked for.
    fn asked(hello: &ClientHello) -> (Option<&str>, Vec<&[u8]>) {
        (hello.server_name.as_deref(), hello.protocols().collect())
    }

    /// What a real client begins with.
    fn real(name: &str, protocols: &[&[u8]]) -> Vec<u8> {
        let builder = ClientConfig::builder_with_provider(crate::tls::provider());
        let builder = builder.with_protocol_versions(rustls::ALL_VERSIONS).unwrap();
        let mut config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let (mut client, mut bytes) = (ClientConnection::new(Arc::new(config), name).unwrap(), Vec::new());
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    fn vector(value: &[u8]) -> Vec<u8> {
        [&u16::try_from(value.len()).unwrap().to_be_bytes()[..], value].concat()
    }

    fn record(fragment: &[u8]) -> Vec<u8> {
        [&[HANDSHAKE, MAJOR, 1][..], &vector(fragment)].concat()
    }

    fn message(body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[CLIENT_HELLO][..], &length[1..], body].concat()
    }

    /// A hello as short as one can be.
    fn shortest() -> Vec<u8> {
        let mut body = vec![MAJOR, 3];
        body.extend_from_slice(&[7; 32]);
        body.extend_from_slice(&[0, 0, 2, 0x13, 1, 1, 0]);
        body
    }

    /// A hello with these extensions.
    fn with(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let all = extensions.iter().flat_map(|(kind, value)| [kind.to_be_bytes().to_vec(), vector(value)].concat());
        record(&message(&[shortest(), vector(&all.collect::<Vec<_>>())].concat()))
    }

    fn name(name: &[u8]) -> Vec<u8> {
        [&[HOST_NAME][..], &vector(name)].concat()
    }

    fn named(host: &[u8]) -> Result<Option<String>, Fault> {
        match parse(&with(&[(SERVER_NAME, vector(&name(host)))])) {
            Ok(Parsed::Complete(hello)) => Ok(hello.server_name),
            Ok(Parsed::Partial) => panic!("it is whole"),
            Err(fault) => Err(fault),
        }
    }

    /// The same message in records of this size.
    fn in_records(bytes: &[u8], size: usize) -> Vec<u8> {
        bytes[RECORD_HEADER..].chunks(size).flat_map(record).collect()
    }

    #[test]
    fn a_real_client_is_understood_in_whatever_records_it_sends() {
        let bytes = real("DB.Example.com", &[b"h2", b"http/1.1"]);
        let expected = (Some("db.example.com"), vec![&b"h2"[..], b"http/1.1"]);
        assert_eq!(asked(&whole(&bytes)), expected);
        for size in [1, 2, 3, 5, 100, bytes.len() - RECORD_HEADER - 1] {
            assert_eq!(asked(&whole(&in_records(&bytes, size))), expected, "{size}");
        }
        assert_eq!(asked(&whole(&real("192.0.2.7", &[]))), (None, vec![]));
    }

    #[test]
    fn a_hello_may_ask_for_nothing() {
        assert_eq!(whole(&record(&message(&shortest()))), ClientHello::default());
        assert_eq!(whole(&with(&[])), ClientHello::default());
        assert_eq!(whole(&with(&[(0xfe0d, vec![1; 40]), (21, vec![0; 9])])), ClientHello::default());
    }

    #[test]
    fn names_are_one_spelling_and_addresses_are_none() {
        assert_eq!(named(b"WWW.Example.COM."), Ok(Some("www.example.com".to_owned())));
        assert_eq!(named(b"_a-b.xn--bcher-kva"), Ok(Some("_a-b.xn--bcher-kva".to_owned())));
        for address in [&b"192.0.2.7"[..], b"2001:db8::7", b"::1"] {
            assert_eq!(named(address), Ok(None));
        }
        let long = [&[b'a'; 64][..], b".example"].concat();
        let longest = b"a.".repeat(127);
        let longer = [&b"a"[..], &longest].concat();
        for wrong in [
            &b"a\0.example"[..],
            b"a..example",
            b".example",
            b".",
            b"a.example..",
            b"*.example",
            b"a b.example",
            b"b\xc3\xbccher.example",
            b"\xff",
            b"a.example:443",
            b"[2001:db8::7]",
            &long,
            &longer,
        ] {
            assert_eq!(named(wrong), Err(Fault::Name), "{}", wrong.escape_ascii());
        }
        assert!(named(&longest[..253]).is_ok_and(|name| name.is_some()));
    }

    #[test]
    fn a_list_of_names_has_one_of_a_kind() {
        let two = vector(&[name(b"a.example"), name(b"b.example")].concat());
        assert_eq!(parse(&with(&[(SERVER_NAME, two)])), Err(Fault::Names));
        let of_another_kind = [&[9][..], &vector(b"?")].concat();
        let hello = whole(&with(&[(SERVER_NAME, vector(&[of_another_kind, name(b"a.example")].concat()))]));
        assert_eq!(hello.server_name.as_deref(), Some("a.example"));
        for wrong in
            [vec![], vector(&[]), vector(&[HOST_NAME]), vector(&name(b"")), [vector(&name(b"a")), vec![0]].concat()]
        {
            assert_eq!(parse(&with(&[(SERVER_NAME, wrong)])), Err(Fault::Malformed));
        }
    }

    #[test]
    fn an_extension_stands_once() {
        let one = (SERVER_NAME, vector(&name(b"a.example")));
        assert_eq!(parse(&with(&[one.clone(), (5, vec![]), one])), Err(Fault::Twice(SERVER_NAME)));
        assert_eq!(parse(&with(&[(77, vec![]), (77, vec![1])])), Err(Fault::Twice(77)));
    }

    #[test]
    fn a_list_of_protocols_is_one_or_a_fault() {
        let protocols = |value: &[u8]| parse(&with(&[(ALPN, value.to_vec())]));
        let hello = whole(&with(&[(ALPN, vector(b"\x02h2\x08http/1.1"))]));
        assert_eq!(asked(&hello).1, [&b"h2"[..], b"http/1.1"]);
        for wrong in [&b""[..], &[0, 0], &[0, 1, 0], &[0, 3, 2, b'h'], &[0, 2, 2, b'h'], &[0, 3, 2, b'h', b'2', 0]] {
            assert_eq!(protocols(wrong), Err(Fault::Malformed), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_not_tls_is_none_from_its_first_byte_that_differs() {
        for other in
            [&b"GET / HTTP/1.1\r\n"[..], b"SSH-2.0-x", b"\x80\x2e\x01\x03\x01", b"PROXY ", &[22, 2], &[21, 3, 1]]
        {
            assert_eq!(parse(other), Err(Fault::NotTls));
        }
        for begun in [&[][..], &[22], &[22, 3], &[22, 3, 9, 0], &[22, 3, 1, 0, 1], &[22, 3, 1, 0, 9, 1, 0, 0]] {
            assert_eq!(parse(begun), Ok(Parsed::Partial), "{begun:?}");
        }
    }

    #[test]
    fn records_that_are_nearly_right_are_a_fault() {
        let good = message(&shortest());
        let half = record(&good[..20]);
        assert_eq!(parse(&[&half[..], &[21, 3, 3, 0, 2, 1, 0]].concat()), Err(Fault::Record(21)));
        assert_eq!(parse(&[&half[..], &[22, 4]].concat()), Err(Fault::NotTls));
        assert_eq!(parse(&[&half[..], &[22, 3, 3, 0, 0]].concat()), Err(Fault::RecordLength(0)));
        assert_eq!(parse(&[22, 3, 1, 0x40, 1]), Err(Fault::RecordLength(0x4001)));
        assert_eq!(parse(&record(&[2, 0, 0, 1])), Err(Fault::Message(2)));
        assert_eq!(parse(&record(&[1, 0, 0x40, 0])), Err(Fault::Long));
        assert_eq!(parse(&record(&[good.clone(), vec![0]].concat())), Err(Fault::Trailing));
        assert_eq!(parse(&[record(&good), vec![23, 3, 3]].concat()), Ok(Parsed::Complete(ClientHello::default())));
        for length in 0..good.len() - MESSAGE_HEADER {
            let cut = record(&message(&good[MESSAGE_HEADER..][..length]));
            assert_eq!(parse(&cut), Err(Fault::Malformed), "{length}");
        }
    }

    #[test]
    fn a_hello_of_too_many_bytes_is_refused_before_they_are_all_there() {
        let padded = |length: usize| with(&[(21, vec![0; length])]);
        let rest = padded(0).len();
        assert_eq!(whole(&padded(LONGEST - rest)), ClientHello::default());
        assert_eq!(parse(&padded(LONGEST - rest + 1)), Err(Fault::Long));
        let many = in_records(&padded(3000), 1);
        assert_eq!(parse(&many), Err(Fault::Long));
        assert_eq!(parse(&many[..LONGEST]), Err(Fault::Long));
        assert_eq!(parse(&many[..LONGEST - 1]), Ok(Parsed::Partial));
    }

    #[test]
    fn an_alert_is_one_record() {
        assert_eq!(Alert::UnrecognizedName.record(), [21, 3, 3, 0, 2, 2, 112]);
    }

    proptest! {
        #[test]
        fn a_hello_reads_the_same_however_it_is_cut(
            name in "[a-z]{1,20}(\\.[a-z0-9]{1,10}){0,3}\\.[a-z]{2,10}",
            protocols in prop::collection::vec("[a-z0-9/.]{1,12}", 0..4),
            size in 1..400usize,
            more in prop::collection::vec(any::<u8>(), 0..20),
            step in 1..50usize,
        ) {
            let offered: Vec<&[u8]> = protocols.iter().map(|name| name.as_bytes()).collect();
            let mut bytes = in_records(&real(&name, &offered), size);
            let length = bytes.len();
            bytes.extend_from_slice(&more);
            let mut reading = Reading::default();
            for cut in (0..length).step_by(step) {
                prop_assert_eq!(reading.advance(&bytes[..cut]), Ok(Parsed::Partial));
            }
            let Ok(Parsed::Complete(hello)) = reading.advance(&bytes) else { panic!("it is whole") };
            prop_assert_eq!(asked(&hello), (Some(name.as_str()), offered));
            prop_assert_eq!(parse(&bytes[..length]), Ok(Parsed::Complete(hello)));
        }

        #[test]
        fn any_bytes_have_one_verdict(bytes in prop::collection::vec(any::<u8>(), 0..600), tls in any::<bool>()) {
            let bytes = if tls { record(&message(&[shortest(), bytes].concat())) } else { bytes };
            let (verdict, mut reading) = (parse(&bytes), Reading::default());
            for cut in 0..=bytes.len() {
                match reading.advance(&bytes[..cut]) {
                    Ok(Parsed::Partial) => {}
                    told => {
                        prop_assert_eq!(told, verdict);
                        return Ok(());
                    }
                }
            }
            prop_assert_eq!(verdict, Ok(Parsed::Partial));
        }
    }
}
