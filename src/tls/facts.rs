//! What a certificate says of itself, in words for people and for backends.
//!
//! Everything in a certificate is what somebody else has written: no text that comes out of here has a control character
//! in it, or anything but ASCII.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::x509::{AttributeTypeAndValue, SubjectPublicKeyInfo, X509Name};

use crate::clock::Date;

/// What is told of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whose it is.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// The names and addresses of servers it is for.
    pub names: Vec<String>,
    /// When it becomes valid.
    pub not_before: Date,
    /// When it ends.
    pub not_after: Date,
    /// The kind of its key and its strength: `ECDSA P-256`.
    pub key: String,
    /// How many certificates are sent, its own included.
    pub chain: usize,
}

impl Facts {
    /// Those of the first certificate of a chain of so many.
    pub(super) fn of(certificate: &X509Certificate<'_>, chain: usize) -> Facts {
        let validity = certificate.validity();
        Facts {
            subject: distinguished(certificate.subject()),
            issuer: distinguished(certificate.issuer()),
            names: server_names(certificate),
            not_before: Date(validity.not_before.timestamp()),
            not_after: Date(validity.not_after.timestamp()),
            key: key(certificate.public_key()),
            chain,
        }
    }

    /// What it is called in one word: its first name, or else its subject.
    #[must_use]
    pub fn name(&self) -> &str {
        self.names.first().unwrap_or(&self.subject)
    }
}

fn server_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(escaped(name.as_bytes(), "\\")),
        GeneralName::IPAddress(bytes) => Some(address(bytes)),
        _ => None,
    };
    alternatives(certificate).iter().filter_map(name).collect()
}

/// The other names of the subject.
pub(super) fn alternatives<'c>(certificate: &'c X509Certificate<'_>) -> &'c [GeneralName<'c>] {
    match certificate.subject_alternative_name() {
        Ok(Some(alternatives)) => &alternatives.value.general_names,
        _ => &[],
    }
}

/// One of those, with its kind; what separates them in a list is escaped.
pub(super) fn alternative(name: &GeneralName<'_>) -> Option<String> {
    let told = |kind: &str, value: &str| Some(format!("{kind}:{}", escaped(value.as_bytes(), "\\,")));
    match name {
        GeneralName::DNSName(name) => told("DNS", name),
        GeneralName::RFC822Name(name) => told("email", name),
        GeneralName::URI(name) => told("URI", name),
        GeneralName::IPAddress(bytes) => told("IP", &address(bytes)),
        _ => None,
    }
}

fn address(bytes: &[u8]) -> String {
    match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
        (Ok(v4), _) => Ipv4Addr::from(v4).to_string(),
        (_, Ok(v6)) => Ipv6Addr::from(v6).to_string(),
        _ => hex(bytes),
    }
}

fn key(key: &SubjectPublicKeyInfo<'_>) -> String {
    let algorithm = key.algorithm.algorithm.to_id_string();
    let curve = || key.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok()).map(|oid| oid.to_id_string());
    match (&*algorithm, key.parsed()) {
        ("1.2.840.113549.1.1.1", Ok(parsed)) => format!("RSA {}", parsed.key_size()),
        ("1.2.840.10045.2.1", _) => match curve().as_deref() {
            Some("1.2.840.10045.3.1.7") => "ECDSA P-256".into(),
            Some("1.3.132.0.34") => "ECDSA P-384".into(),
            Some("1.3.132.0.35") => "ECDSA P-521".into(),
            other => format!("ECDSA {}", other.unwrap_or("unknown")),
        },
        ("1.3.101.112", _) => "Ed25519".into(),
        ("1.3.101.113", _) => "Ed448".into(),
        (other, _) => other.to_owned(),
    }
}

/// A distinguished name as RFC 4514 writes it: the last part first, as most people expect it.
pub(super) fn distinguished(name: &X509Name<'_>) -> String {
    let part = |attributes: Vec<String>| attributes.join("+");
    let mut parts: Vec<_> = name.iter_rdn().map(|one| part(one.iter().map(attribute).collect())).collect();
    parts.reverse();
    parts.join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type().to_id_string();
    let short = SHORT.iter().find(|(known, _)| *known == oid).map(|(_, short)| *short);
    match attribute.as_str() {
        Ok(text) => format!("{}={}", short.unwrap_or(&oid), value(text)),
        // §2.4: what is no text is told in hex.
        Err(_) => format!("{}=#{}", short.unwrap_or(&oid), hex(attribute.attr_value().data)),
    }
}

/// The attributes that have a name of their own (RFC 4514 §3), and two that others give one.
const SHORT: [(&str, &str); 11] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// The value of an attribute: a space at either end and a `#` at the beginning are escaped too (§2.4).
fn value(text: &str) -> String {
    let mut told = escaped(text.as_bytes(), "\\\"+,;<>=");
    if told.ends_with(' ') {
        told.truncate(told.len() - 1);
        told.push_str("\\20");
    }
    match told.as_bytes().first() {
        Some(b' ' | b'#') => format!("\\{:02X}{}", told.as_bytes()[0], &told[1..]),
        _ => told,
    }
}

/// Visible ASCII and spaces as they are, all else, and what is `special`, as a backslash and two hex digits.
pub(super) fn escaped(bytes: &[u8], special: &str) -> String {
    let mut told = String::with_capacity(bytes.len());
    for byte in bytes {
        let letter = char::from(*byte);
        if (byte.is_ascii_graphic() || letter == ' ') && !special.contains(letter) {
            told.push(letter);
        } else {
            let _ = write!(told, "\\{byte:02X}");
        }
    }
    told
}

/// In lower case.
pub(super) fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType};
    use x509_parser::prelude::FromDer;

    use super::*;

    fn facts(params: &CertificateParams, key: &KeyPair) -> Facts {
        let der = params.self_signed(key).unwrap();
        Facts::of(&X509Certificate::from_der(der.der()).unwrap().1, 3)
    }

    #[test]
    fn a_subject_is_told_as_text_that_can_be_a_header() {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, text) in [
            (DnType::CountryName, "DE"),
            (DnType::OrganizationName, "#1, \"Acme\\Söhne\" + Co"),
            (DnType::CommonName, " me\r\nX-Admin: 1 "),
        ] {
            params.distinguished_name.push(kind, DnValue::Utf8String(text.into()));
        }
        assert_eq!(
            facts(&params, &KeyPair::generate().unwrap()).subject,
            "CN=\\20me\\0D\\0AX-Admin: 1\\20,O=\\231\\2C \\22Acme\\5CS\\C3\\B6hne\\22 \\2B Co,C=DE"
        );
    }

    #[test]
    fn keys_are_told_by_kind_and_strength() {
        for (algorithm, told) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, "ECDSA P-256"),
            (&PKCS_ECDSA_P384_SHA384, "ECDSA P-384"),
            (&PKCS_ED25519, "Ed25519"),
        ] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            assert_eq!(facts(&CertificateParams::default(), &key).key, told);
        }
    }

    #[test]
    fn names_addresses_and_dates_are_told() {
        let mut params = CertificateParams::new(["a.example".to_owned(), "*.b.example".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::IpAddress("2001:db8::1".parse().unwrap()));
        params.not_before = rcgen::date_time_ymd(2026, 1, 2);
        params.not_after = rcgen::date_time_ymd(2026, 4, 1);
        let facts = facts(&params, &KeyPair::generate().unwrap());
        assert_eq!(facts.names, ["a.example", "*.b.example", "2001:db8::1"]);
        assert_eq!((facts.name(), facts.chain), ("a.example", 3));
        assert_eq!(
            (facts.not_before.to_string(), facts.not_after.to_string()),
            ("2026-01-02".into(), "2026-04-01".into())
        );
    }
}
