//! What TLS is to be: the files it needs, and what is demanded of the other side.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use xxhash_rust::xxh3::Xxh3;

use super::PassthroughRoute;
use super::diagnostic::Place;

/// `[listeners.NAME.tls]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTls {
    /// In file order, at least one; the first is for who asks for no name, or for one that no certificate has.
    pub certificates: Vec<Offered>,
    /// The oldest version that is spoken. Default 1.2.
    pub min_version: TlsVersion,
    /// Connections that do not end here.
    pub passthrough: Vec<PassthroughRoute>,
    /// Where the table stands.
    pub place: Place,
}

/// `[pools.NAME.tls]`
#[derive(Clone, Debug)]
pub struct PoolTls {
    /// Who may have signed the certificates of backends.
    pub trust: Trust,
    /// The name that is asked for and verified; `None`: that of each backend's address. Never `None` where a backend is at a
    /// Unix socket.
    pub sni: Option<ServerName<'static>>,
    /// What is shown to backends that ask for a certificate.
    pub identity: Option<Certificate>,
    /// The oldest version that is spoken. Default 1.2.
    pub min_version: TlsVersion,
    /// Where the table stands.
    pub place: Place,
}

/// Whose word is taken for who a backend is.
#[derive(Clone, Debug)]
pub enum Trust {
    /// That of those whom the system trusts.
    System,
    /// That of those in this file (PEM), and of nobody else.
    Ca(Material),
    /// Anybody's: nothing is verified.
    Anybody,
}

impl PoolTls {
    /// A number for all that a connection made by it depends on, which where it is written is not. It is the same as long as
    /// the process lasts.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hasher = Xxh3::new();
        let trust = match &self.trust {
            Trust::System => (0, None),
            Trust::Ca(ca) => (1, Some(&ca.from)),
            Trust::Anybody => (2, None),
        };
        let identity = self.identity.as_ref().map(|own| (&own.cert.from, &own.key.from));
        (trust, &self.sni, identity, self.min_version).hash(&mut hasher);
        hasher.finish()
    }
}

/// One of the certificates that a listener shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// The certificate.
    pub certificate: Certificate,
    /// What is demanded of who asks for one of its names; `None`: nothing. Its own, or else the listener's.
    pub client_auth: Option<Arc<ClientAuth>>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsVersion {
    /// RFC 5246, with forward secrecy and authenticated encryption only.
    V12,
    /// RFC 8446.
    V13,
}

/// A certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The chain, PEM, the server's own first.
    pub cert: Material,
    /// The private key, PEM.
    pub key: Material,
    /// An OCSP response (DER) that is sent along.
    pub ocsp: Option<Material>,
}

/// `client_auth`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    /// Whether a client without a certificate is turned away.
    pub required: bool,
    /// Who may have signed it, PEM.
    pub ca: Material,
    /// Which are revoked, PEM.
    pub crl: Option<Material>,
    /// What backends are told of them.
    pub forward: Vec<ClientFact>,
}

impl ClientAuth {
    /// Whether both ask the same of clients and tell the same of them, wherever each is written.
    #[must_use]
    pub fn equals(&self, other: &ClientAuth) -> bool {
        let crl = |auth: &ClientAuth| auth.crl.as_ref().map(|crl| crl.from.clone());
        self.required == other.required
            && self.ca.from == other.ca.from
            && self.forward == other.forward
            && crl(self) == crl(other)
    }
}

/// Something that a client's certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientFact {
    /// Whose it is.
    Subject,
    /// The other names of that.
    San,
    /// Its number.
    Serial,
    /// The SHA-256 of all of it.
    Fingerprint,
    /// All of it.
    Cert,
}

/// A file that is named in the configuration, read when that comes into force and whenever it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Material {
    /// Where it is.
    pub from: Whence,
    /// Where it is named.
    pub place: Place,
}

/// Where a [`Material`] is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Whence {
    /// A path; relative ones are relative to the file they stand in.
    File(PathBuf),
    /// `"credential:NAME"`: a credential of this name, which systemd hands over (`LoadCredential=`).
    Credential(String),
}

impl fmt::Display for Whence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Whence::File(path) => path.display().fmt(f),
            Whence::Credential(name) => write!(f, "credential:{name}"),
        }
    }
}
