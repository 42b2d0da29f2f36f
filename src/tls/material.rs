//! From files to certificates and keys, and what is wrong with them.
//!
//! Every fault names the file and what to do, and points at the line of the configuration that names the file.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use xxhash_rust::xxh3::Xxh3;

use super::facts::Facts;
use crate::config::{Certificate, Diagnostic, Material, Whence};

/// No chain, key or list is as large.
const LARGEST: u64 = 16 << 20;

/// The directory in which systemd puts credentials (systemd.exec(5)).
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// What some editors put before a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A chain with its key.
#[derive(Debug)]
pub struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    /// Empty: none.
    pub ocsp: Vec<u8>,
    /// What the first of the chain says.
    pub facts: Facts,
}

/// Where this is on the disk.
///
/// # Errors
/// It is a credential, and systemd has handed none over.
pub fn path_of(from: &Whence) -> Result<PathBuf, String> {
    match from {
        Whence::File(path) => Ok(path.clone()),
        Whence::Credential(name) => match std::env::var_os(CREDENTIALS) {
            Some(folder) => Ok(PathBuf::from(folder).join(name)),
            None => Err(format!("there are no credentials: {CREDENTIALS} is not set")),
        },
    }
}

/// What was read, as far as a digest tells it.
#[derive(Default)]
pub struct Files(Xxh3);

impl Files {
    /// Of all that was read: the same contents in the same order have the same.
    pub fn digest(&self) -> u64 {
        self.0.digest()
    }

    /// Counts these bytes as read.
    pub fn note(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn read(&mut self, material: &Material) -> Result<Vec<u8>, Diagnostic> {
        let bytes = read(material)?;
        self.note(&bytes);
        Ok(bytes)
    }

    /// The certificates of a PEM file, at least one.
    pub fn certificates(&mut self, material: &Material) -> Result<Vec<CertificateDer<'static>>, Diagnostic> {
        let bytes = self.read(material)?;
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        match all {
            Ok(all) if all.is_empty() => {
                Err(wrong(material, empty_of(&bytes, "certificate"), "it begins with -----BEGIN CERTIFICATE-----"))
            }
            Ok(all) => Ok(all),
            Err(error) => Err(wrong(material, &format!("this is not PEM: {error}"), "make the file again")),
        }
    }

    /// The certificates of a PEM file, as those who may sign others.
    pub fn roots(&mut self, ca: &Material) -> Result<RootCertStore, Diagnostic> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates(ca)? {
            roots.add(certificate).map_err(|error| {
                let why = format!("this can not sign certificates: {error}");
                wrong(ca, &why, "name the certificates of the authority that signs those of the other side")
            })?;
        }
        Ok(roots)
    }

    /// The lists of revoked certificates in a PEM file, at least one.
    pub fn revoked(&mut self, material: &Material) -> Result<Vec<CertificateRevocationListDer<'static>>, Diagnostic> {
        let bytes = self.read(material)?;
        let all: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
        match all {
            Ok(all) if all.is_empty() => {
                Err(wrong(material, empty_of(&bytes, "list"), "it begins with -----BEGIN X509 CRL-----"))
            }
            Ok(all) => Ok(all),
            Err(error) => Err(wrong(material, &format!("this is not PEM: {error}"), "make the file again")),
        }
    }

    fn private_key(&mut self, material: &Material) -> Result<PrivateKeyDer<'static>, Diagnostic> {
        let bytes = self.read(material)?;
        match PrivateKeyDer::from_pem_slice(&bytes) {
            Ok(key) => Ok(key),
            Err(_) if is_encrypted(&bytes) => {
                let help = "decrypt it (`openssl pkey -in FILE -out NEW`) and let nobody but Evenkeel read it";
                Err(wrong(material, "the private key is encrypted", help))
            }
            Err(pem::Error::NoItemsFound) => {
                let help = "it begins with -----BEGIN PRIVATE KEY-----, EC PRIVATE KEY or RSA PRIVATE KEY";
                Err(wrong(material, empty_of(&bytes, "key"), help))
            }
            Err(error) => Err(wrong(material, &format!("this is not PEM: {error}"), "make the file again")),
        }
    }

    fn ocsp(&mut self, material: &Material) -> Result<Vec<u8>, Diagnostic> {
        let bytes = self.read(material)?;
        if is_ocsp_response(&bytes) {
            return Ok(bytes);
        }
        let why = if bytes.is_empty() { "the file is empty" } else { "this is no successful OCSP response in DER" };
        Err(wrong(material, why, "write one into it, as `openssl ocsp -respout FILE` does, or remove `ocsp`"))
    }

    /// Reads a certificate with its key and all that belongs to it.
    pub fn identity(&mut self, certificate: &Certificate) -> Result<Identity, Diagnostic> {
        let chain = self.certificates(&certificate.cert)?;
        let facts = facts(&certificate.cert, &chain)?;
        let key = self.private_key(&certificate.key)?;
        let ocsp = certificate.ocsp.as_ref().map_or(Ok(Vec::new()), |ocsp| self.ocsp(ocsp))?;
        Ok(Identity { chain, key, ocsp, facts })
    }
}

/// The bytes of a file.
fn read(material: &Material) -> Result<Vec<u8>, Diagnostic> {
    let path = path_of(&material.from).map_err(|why| {
        let help = "write `LoadCredential=NAME:/path` in the service, or name a file";
        Diagnostic::error(why).at(material.place).help(help)
    })?;
    let mut bytes = Vec::new();
    let read = File::open(&path).and_then(|file| {
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        file.take(LARGEST + 1).read_to_end(&mut bytes)
    });
    match read {
        Ok(_) if bytes.len() as u64 <= LARGEST => {
            // Else what stands first in a file that was saved so would not be seen.
            let mark = if bytes.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
            Ok(bytes.split_off(mark))
        }
        Ok(_) => Err(wrong(material, "it is larger than 16 MiB", "name the right file")),
        Err(error) => {
            let help = match error.kind() {
                io::ErrorKind::NotFound => "a relative path is relative to the file it is named in",
                io::ErrorKind::PermissionDenied => "let the user that Evenkeel runs as read it",
                _ => "name a file that can be read",
            };
            Err(Diagnostic::error(format!("can not read {}: {error}", path.display())).at(material.place).help(help))
        }
    }
}

fn wrong(material: &Material, why: &str, help: &str) -> Diagnostic {
    Diagnostic::error(format!("{}: {why}", material.from)).at(material.place).help(help)
}

fn empty_of(bytes: &[u8], what: &str) -> &'static str {
    match (bytes.iter().all(u8::is_ascii_whitespace), what) {
        (true, _) => "the file is empty",
        (false, "certificate") => "there is no certificate in it",
        (false, "list") => "there is no list of revoked certificates in it",
        (false, _) => "there is no private key in it",
    }
}

/// In either of the two ways that there are.
fn is_encrypted(bytes: &[u8]) -> bool {
    let has = |text: &[u8]| memchr::memmem::find(bytes, text).is_some();
    has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED")
}

/// Whether it begins as an OCSP response does that answers something: a sequence, whose first part is the status 0 (RFC 6960
/// §4.2.1). Clients break off for a staple that is anything else.
fn is_ocsp_response(der: &[u8]) -> bool {
    let inside = match der {
        [0x30, length, ..] if *length < 0x80 => 2,
        [0x30, length, ..] => 2 + usize::from(length & 0x7f),
        _ => return false,
    };
    der.get(inside..).is_some_and(|inside| inside.starts_with(&[0x0a, 1, 0]))
}

/// What the first of a chain says; a fault when the others do not follow from it.
fn facts(material: &Material, chain: &[CertificateDer<'_>]) -> Result<Facts, Diagnostic> {
    let mut parsed = Vec::with_capacity(chain.len());
    for (place, der) in chain.iter().enumerate() {
        let Ok((_, one)) = X509Certificate::from_der(der) else {
            let why = format!("certificate {} of {} in it is broken", place + 1, chain.len());
            return Err(wrong(material, &why, "make the file again"));
        };
        parsed.push(one);
    }
    for (place, pair) in parsed.windows(2).enumerate() {
        if pair[0].issuer() != pair[1].subject() {
            let why = format!(
                "certificate {} in it (`{}`) did not issue the one before it (`{}`)",
                place + 2,
                pair[1].subject(),
                pair[0].subject()
            );
            let help = "the server's own certificate comes first, then the one that issued it, and so on";
            return Err(wrong(material, &why, help));
        }
    }
    Ok(Facts::of(&parsed[0], parsed.len()))
}
