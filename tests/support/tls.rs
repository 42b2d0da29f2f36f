//! Certificates made on the spot, a client that speaks TLS, and how an origin does.

#![allow(clippy::unwrap_used, reason = "what can fail here is the test's own doing")]

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod};
use rcgen::{KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd};
use rustls::SupportedProtocolVersion;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, ProtocolVersion, RootCertStore};
use rustls::{ServerConfig, SignatureScheme, StreamOwned};

use super::DEADLINE;

/// An authority that signs what a test needs.
pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its chain, and its key, in PEM.
#[derive(Clone)]
pub struct Signed {
    pub chain: String,
    pub key: String,
}

impl Signed {
    /// Writes both as `NAME.crt` and `NAME.key`.
    pub fn write(&self, folder: &Path, name: &str) {
        std::fs::write(folder.join(format!("{name}.crt")), &self.chain).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), &self.key).unwrap();
    }
}

impl Signed {
    fn parsed(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(self.chain.as_bytes()).collect();
        (chain.unwrap(), PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap())
    }
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { pem, issuer: Issuer::new(params, key) }
    }

    /// Signs for these names; the first is the subject's.
    pub fn sign(&self, names: &[&str]) -> Signed {
        self.sign_numbered(names, 1)
    }

    /// The same with a serial number.
    pub fn sign_numbered(&self, names: &[&str], serial: u64) -> Signed {
        self.sign_until(names, serial, 2100)
    }

    /// A certificate whose time is over.
    pub fn sign_expired(&self, names: &[&str]) -> Signed {
        self.sign_until(names, 1, 2020)
    }

    /// One that is valid until a year begins.
    pub fn sign_until(&self, names: &[&str], serial: u64, year: i32) -> Signed {
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, names[0]);
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_after = date_time_ymd(year, 1, 1);
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        let own = params.signed_by(&key, &self.issuer).unwrap().pem();
        Signed { chain: format!("{own}{}", self.pem), key: key.serialize_pem() }
    }

    /// Writes its private key, for programs that sign in its name.
    #[allow(dead_code, reason = "for the tests with foreign programs")]
    pub fn write_key(&self, file: &Path) {
        std::fs::write(file, self.issuer.key().serialize_pem()).unwrap();
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        roots
    }

    /// A list on which these serial numbers are revoked.
    pub fn revoke(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// How an origin shakes hands; sessions are kept in it.
#[derive(Clone)]
pub struct Hands(Arc<ServerConfig>);

impl Hands {
    /// Shows this certificate.
    pub fn showing(own: &Signed) -> Hands {
        Hands::of(own, rustls::ALL_VERSIONS, None)
    }

    /// Speaks only TLS 1.2.
    pub fn old(own: &Signed) -> Hands {
        Hands::of(own, &[&rustls::version::TLS12], None)
    }

    /// Demands a certificate of this authority.
    pub fn demanding(own: &Signed, authority: &Authority) -> Hands {
        Hands::of(own, rustls::ALL_VERSIONS, Some(authority))
    }

    fn of(own: &Signed, versions: &[&'static SupportedProtocolVersion], clients: Option<&Authority>) -> Hands {
        let builder = ServerConfig::builder_with_provider(evenkeel::tls::provider());
        let builder = builder.with_protocol_versions(versions).unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let (roots, provider) = (Arc::new(authority.roots()), evenkeel::tls::provider());
                builder.with_client_cert_verifier(
                    WebPkiClientVerifier::builder_with_provider(roots, provider).build().unwrap(),
                )
            }
        };
        let (chain, key) = own.parsed();
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Hands(Arc::new(config))
    }

    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0)
    }
}

/// How a server that has this certificate ends TLS.
pub fn server(own: &Signed) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(evenkeel::tls::provider());
    let builder = builder.with_protocol_versions(rustls::ALL_VERSIONS).unwrap().with_no_client_auth();
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(own.chain.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
    Arc::new(builder.with_single_cert(chain.unwrap(), key).unwrap())
}

/// How a client connects; sessions are kept in it.
#[derive(Clone)]
pub struct Tls(Arc<ClientConfig>);

impl Tls {
    /// Trusts this authority.
    pub fn trusting(authority: &Authority) -> Tls {
        Tls::of(authority, rustls::ALL_VERSIONS, None)
    }

    /// Speaks only TLS 1.2.
    pub fn old(authority: &Authority) -> Tls {
        Tls::of(authority, &[&rustls::version::TLS12], None)
    }

    /// Has a certificate of its own.
    pub fn with(authority: &Authority, own: &Signed) -> Tls {
        Tls::of(authority, rustls::ALL_VERSIONS, Some(own))
    }

    fn of(authority: &Authority, versions: &[&'static SupportedProtocolVersion], own: Option<&Signed>) -> Tls {
        let roots = authority.roots();
        let builder = ClientConfig::builder_with_provider(evenkeel::tls::provider());
        let builder = builder.with_protocol_versions(versions).unwrap().with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let (chain, key) = own.parsed();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Tls(Arc::new(config))
    }

    /// Offers these protocols and no others.
    pub fn offering(&self, protocols: &[&str]) -> Tls {
        let mut config = ClientConfig::clone(&self.0);
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Tls(Arc::new(config))
    }

    /// The same for a client that is not one of these.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0)
    }

    /// What it says first when it asks for this name.
    pub fn hello(&self, name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.begin(name).write_tls(&mut bytes).unwrap();
        bytes
    }

    fn begin(&self, name: &str) -> ClientConnection {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        ClientConnection::new(Arc::clone(&self.0), name).unwrap()
    }

    /// Trusts whoever answers, as `curl -k` does.
    pub fn trusting_anybody() -> Tls {
        let builder = ClientConfig::builder_with_provider(evenkeel::tls::provider());
        let builder = builder.with_protocol_versions(rustls::ALL_VERSIONS).unwrap().dangerous();
        Tls(Arc::new(builder.with_custom_certificate_verifier(Arc::new(Anybody)).with_no_client_auth()))
    }

    /// Says no name when it connects.
    pub fn nameless(&self) -> Tls {
        let mut config = ClientConfig::clone(&self.0);
        config.enable_sni = false;
        Tls(Arc::new(config))
    }

    /// Connects and shakes hands.
    pub fn connect(&self, address: &str, name: &str) -> io::Result<TlsClient> {
        self.connect_behind(b"", address, name)
    }

    /// The same with these bytes before the first of the handshake, and together with it.
    pub fn connect_behind(&self, header: &[u8], address: &str, name: &str) -> io::Result<TlsClient> {
        self.connect_by(address, name, |socket, hello| socket.write_all(&[header, hello].concat()))
    }

    /// The same where `say` sends what comes first.
    pub fn connect_by(
        &self,
        address: &str,
        name: &str,
        say: impl FnOnce(&mut TcpStream, &[u8]) -> io::Result<()>,
    ) -> io::Result<TlsClient> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.set_write_timeout(Some(DEADLINE))?;
        let (mut connection, mut hello) = (self.begin(name), Vec::new());
        connection.write_tls(&mut hello)?;
        let mut stream = StreamOwned::new(connection, socket);
        say(&mut stream.sock, &hello)?;
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(TlsClient { stream })
    }
}

/// Finds nothing wrong with any certificate.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        evenkeel::tls::provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A client after its handshake.
pub struct TlsClient {
    pub stream: StreamOwned<ClientConnection, TcpStream>,
}

impl TlsClient {
    pub fn version(&self) -> ProtocolVersion {
        self.stream.conn.protocol_version().unwrap()
    }

    /// Whether the session is an old one that was taken up again.
    pub fn is_resumed(&self) -> bool {
        self.stream.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The certificates it was shown, the first in DER.
    pub fn shown(&self) -> Vec<u8> {
        self.stream.conn.peer_certificates().unwrap()[0].to_vec()
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())?;
        self.stream.flush()
    }

    /// Reads exactly so much.
    pub fn bytes(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads to the end; an error when that was not said.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes).map(|_| bytes)
    }

    /// Asks for a path; the status and body of the answer.
    pub fn get(&mut self, path: &str) -> io::Result<(u16, String)> {
        self.ask(path, "Host: a.example\r\n")
    }

    /// The same with these fields.
    pub fn ask(&mut self, path: &str, fields: &str) -> io::Result<(u16, String)> {
        self.send(format!("GET {path} HTTP/1.1\r\n{fields}\r\n"))?;
        let (head, length) = self.head()?;
        let body = String::from_utf8(self.bytes(length)?).unwrap();
        Ok((head[9..12].parse().unwrap(), body))
    }

    /// The head of an answer, and how long its body is.
    pub fn head(&mut self) -> io::Result<(String, usize)> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(self.bytes(1)?);
        }
        let head = String::from_utf8(head).unwrap();
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        Ok((head, length.unwrap_or(0)))
    }
}
