//! TLS towards the backends of one pool: who is trusted, what is shown, and the sessions that can be taken up again.
//!
//! Sessions are kept by backend, because backends that share a name need not share the keys of their tickets. They outlive
//! configurations that leave the settings as they are, and end with them and with the contents of their files: what was
//! verified by other rules proves nothing.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::book::{Entry, certified};
use super::material::Files;
use super::{Alpn, versions};
use crate::config::{Address, Diagnostic, PoolTls, Trust};

/// What the connections to a pool's backends need for handshakes.
#[derive(Debug)]
pub struct ClientTls {
    written: PoolTls,
    /// Of what is written.
    settings: u64,
    /// Shared with whoever else goes by the same settings, so that a file that is renewed is so for all of them.
    current: Arc<ArcSwap<Current>>,
}

/// What the files say.
#[derive(Debug)]
struct Current {
    /// Of which each backend has its own copy; it keeps no sessions.
    config: ClientConfig,
    backends: Mutex<BTreeMap<Address, Configs>>,
    /// What backends that ask for a certificate are shown.
    identity: Option<Entry>,
    /// Of the contents of all files.
    digest: u64,
}

/// Those of one backend, by what is to be spoken with it.
type Configs = Vec<(Alpn, Arc<ClientConfig>)>;

/// How many sessions are kept for one backend. One that knows them gives each out once and has it replaced in the handshake,
/// so this is how many connections at once can be short ones; it is what the library keeps for one server.
const SESSIONS: usize = 8;

impl ClientTls {
    /// TLS as `written` towards these backends. Sessions of `previous` can be taken up if all that they were made by is still
    /// the same.
    ///
    /// # Errors
    /// What is wrong with which file; all faults at once.
    pub(super) fn new<'a>(
        written: &PoolTls,
        backends: impl Iterator<Item = &'a Address>,
        previous: Option<&ClientTls>,
        system: &System,
        provider: &Arc<CryptoProvider>,
    ) -> Result<ClientTls, Vec<Diagnostic>> {
        let (settings, now) = (written.digest(), read(written, system, provider)?);
        let same = previous.filter(|it| it.settings == settings && it.current.load().digest == now.digest);
        let current = match same {
            Some(previous) => {
                previous.current.load().keep(&backends.collect::<Vec<_>>());
                Arc::clone(&previous.current)
            }
            None => Arc::new(ArcSwap::from_pointee(now)),
        };
        Ok(ClientTls { written: written.clone(), settings, current })
    }

    /// What a handshake with the backend at `address` goes by if this is to be spoken then, and the name that is verified.
    /// `None` where there is no name: for that there has to be one in the settings.
    #[must_use]
    pub fn towards(&self, address: &Address, alpn: Alpn) -> Option<(Arc<ClientConfig>, ServerName<'static>)> {
        let name = match (&self.written.sni, address) {
            (Some(name), _) => name.clone(),
            (None, Address::Ip(address)) => ServerName::from(address.ip()),
            (None, Address::Unix(_)) => return None,
        };
        Some((self.current.load().towards(address, alpn), name))
    }

    /// The certificate that backends are shown, where they ask for one.
    #[must_use]
    pub fn identity(&self) -> Option<Entry> {
        self.current.load().identity.clone()
    }

    /// Whether whoever goes by the one goes by the other as well, now and after files were renewed.
    #[must_use]
    pub fn is_like(&self, other: &ClientTls) -> bool {
        Arc::ptr_eq(&self.current, &other.current)
    }

    /// Reads the files again; when one has changed, the next handshake goes by it, and it says true.
    ///
    /// # Errors
    /// What is wrong with which file. Then what is in use stays so.
    pub fn renew(&self) -> Result<bool, Vec<Diagnostic>> {
        let before = self.current.load_full();
        let now = read(&self.written, &System::default(), before.config.crypto_provider())?;
        let has_changed = now.digest != before.digest;
        if has_changed {
            self.current.store(Arc::new(now));
        }
        Ok(has_changed)
    }
}

impl Current {
    fn towards(&self, address: &Address, alpn: Alpn) -> Arc<ClientConfig> {
        let mut backends = self.backends.lock().unwrap_or_else(PoisonError::into_inner);
        let configs = backends.entry(address.clone()).or_default();
        if let Some((_, config)) = configs.iter().find(|(spoken, _)| *spoken == alpn) {
            return Arc::clone(config);
        }
        let mut config = self.config.clone();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        let config = Arc::new(config);
        configs.push((alpn, Arc::clone(&config)));
        config
    }

    /// Forgets the sessions of all other backends, so that they can not become ever more.
    fn keep(&self, addresses: &[&Address]) {
        let mut backends = self.backends.lock().unwrap_or_else(PoisonError::into_inner);
        backends.retain(|address, _| addresses.contains(&address));
    }
}

fn read(written: &PoolTls, system: &System, provider: &Arc<CryptoProvider>) -> Result<Current, Vec<Diagnostic>> {
    let mut files = Files::default();
    let verifier = verifier(written, system, &mut files, provider);
    let own = written.identity.as_ref().map(|own| certified(own, &mut files, provider)).transpose();
    let (verifier, own) = match (verifier, own) {
        (Ok(verifier), Ok(own)) => (verifier, own),
        (verifier, own) => return Err([verifier.err(), own.err()].into_iter().flatten().collect()),
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider));
    let builder = builder
        .with_protocol_versions(versions(written.min_version))
        .map_err(|error| vec![Diagnostic::error(format!("TLS can not be set up: {error}")).at(written.place)])?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let (mut config, identity) = match own {
        Some((own, entry)) => (builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own))), Some(entry)),
        None => (builder.with_no_client_auth(), None),
    };
    config.resumption = Resumption::disabled();
    Ok(Current { config, backends: Mutex::default(), identity, digest: files.digest() })
}

/// Who is believed to be the backend.
fn verifier(
    written: &PoolTls,
    system: &System,
    files: &mut Files,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Diagnostic> {
    let (roots, place) = match &written.trust {
        Trust::Anybody => return Ok(Arc::new(Credulous(Arc::clone(provider)))),
        Trust::Ca(ca) => (Arc::new(files.roots(ca)?), ca.place),
        Trust::System => {
            let roots = system.roots().map_err(|why| {
                let fault = Diagnostic::error(format!("the system trusts nobody: {why}")).at(written.place);
                fault.help("install the package `ca-certificates`, or write `ca = \"ca.pem\"`")
            })?;
            roots.roots.iter().for_each(|root| files.note(&root.subject_public_key_info));
            (roots, written.place)
        }
    };
    match WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider)).build() {
        Ok(verifier) => Ok(verifier),
        Err(error) => Err(Diagnostic::error(format!("TLS can not be set up: {error}")).at(place)),
    }
}

/// Whom the system trusts, looked up when it is first asked. `SSL_CERT_FILE` and `SSL_CERT_DIR` say where, if it is not where
/// it usually is.
#[derive(Default)]
pub(super) struct System(OnceCell<Result<Arc<RootCertStore>, String>>);

impl System {
    fn roots(&self) -> Result<Arc<RootCertStore>, String> {
        self.0.get_or_init(System::look_up).clone()
    }

    fn look_up() -> Result<Arc<RootCertStore>, String> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        // Among so many there is always an odd one, which then signs nothing for us.
        roots.add_parsable_certificates(found.certs);
        match (roots.is_empty(), found.errors.first()) {
            (false, _) => Ok(Arc::new(roots)),
            (true, Some(error)) => Err(error.to_string()),
            (true, None) => Err("there are no certificates of authorities".to_owned()),
        }
    }
}

/// Takes anybody for the backend, as it was told to. That the other side has the key of what it shows is looked at all the
/// same, as it belongs to the handshake.
#[derive(Debug)]
struct Credulous(Arc<CryptoProvider>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Authority, Folder};
    use super::super::{HTTP_1, HTTP_2, RAW, provider};
    use super::*;
    use crate::config::diagnostic::Place;
    use crate::config::{Certificate, TlsVersion};

    fn backend(port: u16) -> Address {
        Address::Ip(([10, 0, 0, 1], port).into())
    }

    fn trusting(trust: Trust) -> PoolTls {
        PoolTls { trust, sni: None, identity: None, min_version: TlsVersion::V12, place: Place::new(0, 0..1) }
    }

    fn made(written: &PoolTls, ports: &[u16], previous: Option<&ClientTls>) -> Result<ClientTls, Vec<Diagnostic>> {
        let backends: Vec<_> = ports.iter().copied().map(backend).collect();
        ClientTls::new(written, backends.iter(), previous, &System::default(), &provider())
    }

    fn sessions(tls: &ClientTls, port: u16, alpn: Alpn) -> Arc<ClientConfig> {
        tls.towards(&backend(port), alpn).unwrap().0
    }

    #[test]
    fn sessions_are_kept_by_backend_and_over_configurations_that_change_nothing() {
        let (folder, ca) = (Folder::new(), Authority::new("ca"));
        let written = trusting(Trust::Ca(folder.put("ca.pem", &ca.pem)));
        let first = made(&written, &[1, 2], None).unwrap();
        let (one, two) = (sessions(&first, 1, HTTP_1), sessions(&first, 2, HTTP_1));
        assert!(Arc::ptr_eq(&one, &sessions(&first, 1, HTTP_1)));
        assert!(!Arc::ptr_eq(&one, &two) && !Arc::ptr_eq(&one, &sessions(&first, 1, HTTP_2)));
        let moved = PoolTls { place: Place::new(0, 7..9), ..written.clone() };
        let second = made(&moved, &[1, 3], Some(&first)).unwrap();
        assert!(second.is_like(&first) && Arc::ptr_eq(&one, &sessions(&second, 1, HTTP_1)));
        assert!(!Arc::ptr_eq(&two, &sessions(&second, 2, HTTP_1)), "whose backend is gone are gone");
        let other = PoolTls { min_version: TlsVersion::V13, ..written };
        let third = made(&other, &[1], Some(&second)).unwrap();
        assert!(!third.is_like(&second) && !Arc::ptr_eq(&one, &sessions(&third, 1, HTTP_1)));
    }

    #[test]
    fn renewed_files_are_used_by_all_and_bad_ones_are_not() {
        let (folder, ca) = (Folder::new(), Authority::new("ca"));
        let written = trusting(Trust::Ca(folder.put("ca.pem", &ca.pem)));
        let first = made(&written, &[1], None).unwrap();
        let second = made(&written, &[1], Some(&first)).unwrap();
        let before = sessions(&first, 1, RAW);
        assert!(!second.renew().unwrap(), "nothing has changed");
        folder.put("ca.pem", &Authority::new("new").pem);
        assert!(second.renew().unwrap());
        assert!(!Arc::ptr_eq(&before, &sessions(&second, 1, RAW)));
        assert!(Arc::ptr_eq(&sessions(&first, 1, RAW), &sessions(&second, 1, RAW)), "also who has the one before");
        folder.put("ca.pem", "");
        assert!(second.renew().unwrap_err()[0].message.ends_with("ca.pem: the file is empty"));
        assert!(made(&written, &[1], Some(&second)).is_err());
        let third = PoolTls { trust: Trust::Ca(folder.put("ca.pem", &ca.pem)), ..written };
        assert!(!made(&third, &[1], Some(&second)).unwrap().is_like(&second), "other contents, other sessions");
    }

    #[test]
    fn all_that_is_wrong_with_the_files_is_told_with_their_names() {
        let (folder, ca) = (Folder::new(), Authority::new("ca"));
        let mut written = trusting(Trust::Ca(folder.put("ca.pem", "hello")));
        let own = folder.certificate("own", ca.sign(&["me"]));
        let key = folder.put("other.key", &ca.sign(&["me"]).1);
        written.identity = Some(Certificate { key, ..own.clone() });
        let faults = made(&written, &[1], None).unwrap_err();
        let said: Vec<_> = faults.iter().map(|fault| fault.message.as_str()).collect();
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].ends_with("ca.pem: there is no certificate in it"), "{said:?}");
        assert!(said[1].contains("other.key does not belong to the certificate"), "{said:?}");
        written = PoolTls { trust: Trust::Anybody, identity: Some(own), ..written };
        assert!(made(&written, &[1], None).is_ok());
    }

    #[test]
    fn the_name_is_that_of_the_settings_or_of_the_address() {
        let mut tls = made(&trusting(Trust::Anybody), &[], None).unwrap();
        let socket = Address::Unix("/run/a.sock".into());
        let name =
            |tls: &ClientTls, address: &Address| tls.towards(address, RAW).map(|(_, name)| name.to_str().into_owned());
        assert_eq!(name(&tls, &backend(1)).as_deref(), Some("10.0.0.1"));
        assert_eq!(name(&tls, &socket), None);
        tls.written.sni = Some(ServerName::try_from("app.internal").unwrap());
        assert_eq!(name(&tls, &backend(1)).as_deref(), Some("app.internal"));
        assert_eq!(name(&tls, &socket).as_deref(), Some("app.internal"));
    }
}
