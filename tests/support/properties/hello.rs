//! The first message of TLS: one verdict however the bytes come, and no other reader finds another name in it.

use evenkeel::client_hello::{ClientHello, Fault, LONGEST, Parsed, Reading};
use rustls::server::Acceptor;

/// Any bytes are a hello, the beginning of one, or a fault: the same whether they come whole or in pieces, with or without
/// what follows, and in records of whatever size; and where rustls takes it for a hello too, it asks for the same.
pub fn client_hello(input: &[u8]) -> bool {
    let verdict = parse(input);
    let mut reading = Reading::default();
    for cut in super::cuts(input) {
        let told = reading.advance(&input[..cut]);
        assert_eq!(told, parse(&input[..cut]), "of {cut} bytes");
        if told != Ok(Parsed::Partial) {
            assert_eq!(told, verdict, "of {cut} bytes");
            break;
        }
    }
    match verdict {
        Err(_) => false,
        Ok(Parsed::Partial) => {
            assert!(input.len() < LONGEST, "no hello is that long");
            true
        }
        Ok(Parsed::Complete(hello)) => {
            let names = hello.protocols().collect::<Vec<_>>();
            assert!(names.iter().all(|name| !name.is_empty()) && names.len() < input.len());
            if let Some(name) = &hello.server_name {
                assert!((1..=253).contains(&name.len()) && !name.ends_with('.') && *name == name.to_ascii_lowercase());
            }
            split_anew(input, &hello);
            read_by_another(input, &hello);
            true
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Parsed, Fault> {
    Reading::default().advance(bytes)
}

/// The same message in other records says the same.
fn split_anew(input: &[u8], hello: &ClientHello) {
    let message = message(input);
    for size in [1, 7, 500] {
        let records: Vec<u8> = message.chunks(size).flat_map(record).collect();
        match parse(&records) {
            Err(Fault::Long) => assert!(records.len() > LONGEST),
            again => assert_eq!(again, Ok(Parsed::Complete(hello.clone())), "in records of {size}"),
        }
    }
}

fn record(fragment: &[u8]) -> Vec<u8> {
    let length = u16::try_from(fragment.len()).expect("it is small").to_be_bytes();
    [&[22, 3, 1][..], &length, fragment].concat()
}

/// What the records hold, up to the end of the message.
fn message(mut input: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    while message.len() < 4 || message.len() < 4 + usize::from(u16::from_be_bytes([message[2], message[3]])) {
        let (fragment, rest) = input[5..].split_at(usize::from(u16::from_be_bytes([input[3], input[4]])));
        message.extend_from_slice(fragment);
        input = rest;
    }
    message
}

/// What ends TLS here, and behind us, must not be asked for another name than the one that was gone by.
fn read_by_another(input: &[u8], hello: &ClientHello) {
    let (mut acceptor, mut rest) = (Acceptor::default(), input);
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).is_err() {
            return;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Err(_) => return,
            Ok(Some(accepted)) => {
                let theirs = accepted.client_hello();
                let name = theirs.server_name().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
                assert_eq!(name, hello.server_name);
                let protocols: Vec<_> = theirs.alpn().map(Iterator::collect).unwrap_or_default();
                assert_eq!(protocols, hello.protocols().collect::<Vec<_>>());
                return;
            }
        }
    }
}
