//! Who a client has been found to be in its handshake, and what backends are told of that.

use std::fmt::Write as _;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::facts::{alternative, alternatives, distinguished, hex};
use crate::config::{ClientAuth, ClientFact};

/// Header fields: each name with its value.
type ClientFields = Vec<(&'static str, String)>;

/// A client of whom something was demanded in its handshake.
#[derive(Debug)]
pub struct Identity {
    /// What that was.
    pub demand: Arc<ClientAuth>,
    fields: ClientFields,
    common_name: Option<String>,
}

impl Identity {
    /// Of a client that has shown this certificate, the first of `chain`; or none, where it could.
    #[must_use]
    pub fn new(demand: &Arc<ClientAuth>, chain: Option<&[CertificateDer<'_>]>) -> Identity {
        let (fields, common_name) = read(chain.and_then(<[_]>::first), &demand.forward);
        Identity { demand: Arc::clone(demand), fields, common_name }
    }

    /// The common name in its certificate, if it has shown one that has such a name.
    #[must_use]
    pub fn common_name(&self) -> Option<&str> {
        self.common_name.as_deref()
    }

    /// The fields that tell backends of it; `None` where nothing is to be told of anybody.
    #[must_use]
    pub fn fields(&self) -> Option<&[(&'static str, String)]> {
        (!self.demand.forward.is_empty()).then_some(&*self.fields)
    }
}

/// The fields that tell these facts of a client with this certificate, and its common name. One that says nothing of something
/// has no field for it, and who has no certificate has none at all.
fn read(certificate: Option<&CertificateDer<'_>>, facts: &[ClientFact]) -> (ClientFields, Option<String>) {
    let Some(der) = certificate else { return Default::default() };
    // Whoever verified it has read it too.
    let Ok((_, parsed)) = X509Certificate::from_der(der) else { return Default::default() };
    let all = facts.iter().map(|fact| field(*fact, der, &parsed));
    (all.filter(|(_, value)| !value.is_empty()).collect(), common_name(&parsed))
}

/// Of several the last, which is the most specific; one with control characters is none.
fn common_name(parsed: &X509Certificate<'_>) -> Option<String> {
    let last = parsed.subject().iter_common_name().last()?;
    last.as_str().ok().filter(|name| !name.contains(char::is_control)).map(str::to_owned)
}

fn field(fact: ClientFact, der: &[u8], parsed: &X509Certificate<'_>) -> (&'static str, String) {
    match fact {
        ClientFact::Subject => ("X-Client-Cert-Subject", distinguished(parsed.subject())),
        ClientFact::San => {
            let names: Vec<_> = alternatives(parsed).iter().filter_map(alternative).collect();
            ("X-Client-Cert-San", names.join(", "))
        }
        ClientFact::Serial => ("X-Client-Cert-Serial", hex(significant(parsed.raw_serial()))),
        ClientFact::Fingerprint => ("X-Client-Cert-Fingerprint", fingerprint(der)),
        // RFC 9440 §2.1: a byte sequence of RFC 8941.
        ClientFact::Cert => ("Client-Cert", bytes(der)),
    }
}

fn bytes(der: &[u8]) -> String {
    let mut told = String::with_capacity(der.len() * 4 / 3 + 6);
    let _ = write!(told, ":{}:", data_encoding::BASE64.encode_display(der));
    told
}

/// Without the zeros that stand before a number only so that it is not negative.
fn significant(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros.min(number.len().saturating_sub(1))..]
}

/// SHA-256, by the provider that does all other cryptography.
fn fingerprint(der: &[u8]) -> String {
    let suite = TLS13_AES_128_GCM_SHA256.tls13().expect("it is a suite of TLS 1.3");
    hex(suite.common.hash_provider.hash(der).as_ref())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType, SerialNumber};

    use super::*;

    const ALL: [ClientFact; 5] =
        [ClientFact::Subject, ClientFact::San, ClientFact::Serial, ClientFact::Fingerprint, ClientFact::Cert];

    fn fields(certificate: Option<&CertificateDer<'_>>, facts: &[ClientFact]) -> ClientFields {
        read(certificate, facts).0
    }

    fn certificate(params: &CertificateParams) -> CertificateDer<'static> {
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn each_fact_has_its_field() {
        let mut params = CertificateParams::new(["a.example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "me");
        for name in [
            SanType::Rfc822Name("me@a.example".try_into().unwrap()),
            SanType::URI("spiffe://a/b,c".try_into().unwrap()),
            SanType::IpAddress("192.0.2.1".parse().unwrap()),
        ] {
            params.subject_alt_names.push(name);
        }
        params.serial_number = Some(SerialNumber::from_slice(&[0, 0xab, 0x01]));
        let der = certificate(&params);
        let told = fields(Some(&der), &ALL);
        assert_eq!(told[0].0, "X-Client-Cert-Subject");
        assert!(told[0].1.starts_with("CN=me"), "{}", told[0].1);
        let san = "DNS:a.example, email:me@a.example, URI:spiffe://a/b\\2Cc, IP:192.0.2.1";
        assert_eq!(told[1], ("X-Client-Cert-San", san.to_owned()));
        assert_eq!(told[2], ("X-Client-Cert-Serial", "ab01".to_owned()));
        assert_eq!((told[3].0, told[3].1.len()), ("X-Client-Cert-Fingerprint", 64));
        assert_eq!(told[4].0, "Client-Cert");
        let sent = told[4].1.strip_prefix(':').and_then(|told| told.strip_suffix(':')).unwrap();
        assert_eq!(data_encoding::BASE64.decode(sent.as_bytes()).unwrap(), der.to_vec());
    }

    #[test]
    fn the_fingerprint_is_sha_256() {
        assert_eq!(fingerprint(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_name_with_a_null_byte_is_told_whole() {
        let mut params = CertificateParams::default();
        params.subject_alt_names.push(SanType::DnsName("a.example\0.evil.example".try_into().unwrap()));
        let told = fields(Some(&certificate(&params)), &[ClientFact::San]);
        assert_eq!(told, [("X-Client-Cert-San", "DNS:a.example\\00.evil.example".to_owned())]);
    }

    #[test]
    fn nothing_is_told_of_nobody_nor_what_was_not_asked_for() {
        assert_eq!(fields(None, &ALL), []);
        let der = certificate(&CertificateParams::default());
        assert_eq!(fields(Some(&der), &[]), []);
        assert_eq!(fields(Some(&der), &[ClientFact::San]), [], "it has none");
    }

    #[test]
    fn the_common_name_is_the_last_of_them_and_has_no_control_character() {
        let named = |names: &[&str]| {
            let mut params = CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            for name in names {
                params.distinguished_name.push(DnType::CommonName, *name);
            }
            read(Some(&certificate(&params)), &[]).1
        };
        assert_eq!(named(&["Zoë"]).as_deref(), Some("Zoë"));
        for none in [&[][..], &["a\nb"], &["a\0b"]] {
            assert_eq!(named(none), None, "{none:?}");
        }
        assert_eq!(read(None, &ALL), (Vec::new(), None));
    }
}
