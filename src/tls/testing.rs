//! Certificates for the tests of this room, made on the spot.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

use crate::config::diagnostic::Place;
use crate::config::{Certificate, ListenerTls, Material, Offered, TlsVersion, Whence};

/// A directory of files that goes with it.
pub(super) struct Folder(pub tempfile::TempDir);

/// An authority.
pub(super) struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { pem, issuer: Issuer::new(params, key) }
    }

    /// The chain of a server of these names, and its key.
    pub fn sign(&self, names: &[&str]) -> (String, String) {
        self.sign_until(names, 2100)
    }

    /// The same until a year.
    pub fn sign_until(&self, names: &[&str], year: i32) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names.clone()).unwrap();
        params.distinguished_name.push(DnType::CommonName, names.first().cloned().unwrap_or_default());
        (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(year, 1, 1));
        let key = KeyPair::generate().unwrap();
        let own = params.signed_by(&key, &self.issuer).unwrap().pem();
        (format!("{own}{}", self.pem), key.serialize_pem())
    }
}

impl Folder {
    pub fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file and says what the configuration would say of it.
    pub fn put(&self, name: &str, text: &str) -> Material {
        let path: PathBuf = self.path().join(name);
        std::fs::write(&path, text).unwrap();
        Material { from: Whence::File(path), place: Place::new(0, 0..1) }
    }

    /// A certificate and its key as `NAME.crt` and `NAME.key`.
    pub fn certificate(&self, name: &str, (chain, key): (String, String)) -> Certificate {
        let (cert, key) = (self.put(&format!("{name}.crt"), &chain), self.put(&format!("{name}.key"), &key));
        Certificate { cert, key, ocsp: None }
    }
}

/// TLS with these certificates and all else as it is by default.
pub(super) fn tls(certificates: Vec<Certificate>) -> ListenerTls {
    let certificates = certificates.into_iter().map(offered).collect();
    ListenerTls { certificates, min_version: TlsVersion::V12, passthrough: Vec::new(), place: Place::new(0, 0..1) }
}

/// A certificate of a listener that demands nothing of clients.
pub(super) fn offered(certificate: Certificate) -> Offered {
    Offered { certificate, client_auth: None }
}
