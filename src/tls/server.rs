//! TLS towards the clients of one listener.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};

use super::book::{Book, Resolver};
use super::material::Files;
use super::versions;
use crate::config::{ClientAuth, Diagnostic, ListenerTls};

/// What a listener needs for handshakes.
#[derive(Debug)]
pub struct ServerTls {
    written: ListenerTls,
    alpn: Vec<Vec<u8>>,
    current: ArcSwap<Current>,
}

/// What the files say.
#[derive(Debug)]
pub struct Current {
    /// What rustls goes by.
    pub config: Arc<ServerConfig>,
    /// The certificates in it.
    pub book: Arc<Book>,
    /// Of the contents of all files.
    digest: u64,
}

impl ServerTls {
    /// TLS as `written`, with these protocols on top of it. Who has a session with `previous` can take it up again, if what
    /// is demanded of clients is still the same.
    ///
    /// # Errors
    /// What is wrong with which file; all faults at once.
    pub fn new(
        written: &ListenerTls,
        alpn: &[&str],
        previous: Option<&ServerTls>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<ServerTls, Vec<Diagnostic>> {
        let alpn: Vec<Vec<u8>> = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let tickets = previous.and_then(|previous| previous.tickets_for(written, &alpn));
        let current = read(written, &alpn, tickets, provider)?;
        Ok(ServerTls { written: written.clone(), alpn, current: ArcSwap::from_pointee(current) })
    }

    /// What the next handshake goes by.
    #[must_use]
    pub fn current(&self) -> Arc<Current> {
        self.current.load_full()
    }

    /// Reads the files again; when one has changed, the next handshake goes by it, and it says true.
    ///
    /// # Errors
    /// What is wrong with which file. Then what is in use stays so.
    pub fn renew(&self) -> Result<bool, Vec<Diagnostic>> {
        let before = self.current();
        let tickets = self.tickets_for(&self.written, &self.alpn);
        let now = read(&self.written, &self.alpn, tickets, before.config.crypto_provider())?;
        let has_changed = now.digest != before.digest;
        if has_changed {
            self.current.store(Arc::new(now));
        }
        Ok(has_changed)
    }

    /// The keys of tickets, for who is set up like this. A ticket says who the client was found to be: where clients are asked
    /// for certificates, or are to be asked, none is taken over.
    fn tickets_for(&self, written: &ListenerTls, alpn: &[Vec<u8>]) -> Option<Arc<dyn ProducesTickets>> {
        let same = self.written.client_auth.is_none()
            && written.client_auth.is_none()
            && self.written.min_version == written.min_version
            && self.alpn == alpn;
        same.then(|| Arc::clone(&self.current.load().config.ticketer))
    }
}

fn read(
    written: &ListenerTls,
    alpn: &[Vec<u8>],
    tickets: Option<Arc<dyn ProducesTickets>>,
    provider: &Arc<CryptoProvider>,
) -> Result<Current, Vec<Diagnostic>> {
    let mut files = Files::default();
    let book = Book::read(&written.certificates, &mut files, provider);
    let verifier = verifier(written.client_auth.as_ref(), &mut files, provider);
    let (book, verifier) = match (book, verifier) {
        (Ok(book), Ok(verifier)) => (Arc::new(book), verifier),
        (book, verifier) => return Err([book.err().unwrap_or_default(), verifier.err().unwrap_or_default()].concat()),
    };
    let unusable =
        |error: rustls::Error| vec![Diagnostic::error(format!("TLS can not be set up: {error}")).at(written.place)];
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider));
    let builder = builder.with_protocol_versions(versions(written.min_version)).map_err(unusable)?;
    let resolver = Resolver(Arc::clone(&book));
    let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = alpn.to_vec();
    // Tickets need no memory of ours, and do for both versions. Their keys change by themselves every six hours.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = tickets.map_or_else(Ticketer::new, Ok).map_err(unusable)?;
    // One is what a client needs; each costs a key derivation and a hundred bytes.
    config.send_tls13_tickets = 1;
    Ok(Current { config: Arc::new(config), book, digest: files.digest() })
}

/// Who is let in.
fn verifier(
    wanted: Option<&ClientAuth>,
    files: &mut Files,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, Vec<Diagnostic>> {
    let Some(wanted) = wanted else { return Ok(WebPkiClientVerifier::no_client_auth()) };
    let ca = &wanted.ca;
    let roots = files.roots(ca).map_err(|fault| vec![fault])?;
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    if let Some(crl) = &wanted.crl {
        // A list that has ended says nothing of what was revoked since; who is on none of them is not revoked.
        let lists = files.revoked(crl).map_err(|fault| vec![fault])?;
        builder = builder.with_crls(lists).enforce_revocation_expiration().allow_unknown_revocation_status();
    }
    let builder = if wanted.required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| {
        let at = wanted.crl.as_ref().unwrap_or(ca);
        vec![Diagnostic::error(format!("{}: {error}", at.from)).at(at.place).help("make the file again")]
    })
}

#[cfg(test)]
mod tests {
    use super::super::provider;
    use super::super::testing::{Authority, Folder, tls};
    use super::*;
    use crate::config::TlsVersion;

    fn same_tickets(one: &ServerTls, other: &ServerTls) -> bool {
        Arc::ptr_eq(&one.current().config.ticketer, &other.current().config.ticketer)
    }

    #[test]
    fn tickets_outlive_new_certificates_and_not_other_demands() {
        let (folder, ca) = (Folder::new(), Authority::new("ca"));
        let mut written = tls(vec![folder.certificate("a", ca.sign(&["a.example"]))]);
        let new = |written: &ListenerTls, alpn: &[&str], previous: Option<&ServerTls>| {
            ServerTls::new(written, alpn, previous, &provider()).unwrap()
        };
        let first = new(&written, &["http/1.1"], None);
        assert!(!same_tickets(&first, &new(&written, &["http/1.1"], None)), "another listener's");
        written.certificates.push(folder.certificate("b", ca.sign(&["b.example"])));
        let second = new(&written, &["http/1.1"], Some(&first));
        assert!(same_tickets(&first, &second) && second.current().book.knows("b.example"));
        assert!(!same_tickets(&second, &new(&written, &["h2", "http/1.1"], Some(&second))));
        written.min_version = TlsVersion::V13;
        assert!(!same_tickets(&second, &new(&written, &["http/1.1"], Some(&second))));
        let ca = folder.put("ca.pem", &ca.pem);
        written.client_auth = Some(ClientAuth { required: true, ca, crl: None });
        let asking = new(&written, &[], None);
        assert!(!same_tickets(&asking, &new(&written, &[], Some(&asking))));
    }

    #[test]
    fn renewed_certificates_are_used_and_bad_ones_are_not() {
        let (folder, ca) = (Folder::new(), Authority::new("ca"));
        let written = tls(vec![folder.certificate("a", ca.sign(&["old.example"]))]);
        let tls = ServerTls::new(&written, &[], None, &provider()).unwrap();
        folder.certificate("a", ca.sign(&["new.example"]));
        let knows = |name: &str| tls.current().book.knows(name);
        assert!(knows("old.example"), "until it is told");
        let before = Arc::clone(&tls.current().config.ticketer);
        assert!(tls.renew().unwrap());
        assert!(knows("new.example") && !knows("old.example"));
        assert!(Arc::ptr_eq(&before, &tls.current().config.ticketer), "sessions go on");
        assert!(!tls.renew().unwrap(), "nothing has changed");
        folder.put("a.crt", "");
        assert_eq!(tls.renew().unwrap_err().len(), 1);
        assert!(knows("new.example"), "the last good one stays");
    }

    #[test]
    fn an_authority_has_to_be_one() {
        let (folder, ca) = (Folder::new(), Authority::new("ca"));
        let mut written = tls(vec![folder.certificate("a", ca.sign(&["a.example"]))]);
        for (name, text, part) in [("empty", "", "the file is empty"), ("none", "hello", "no certificate in it")] {
            written.client_auth = Some(ClientAuth { required: false, ca: folder.put(name, text), crl: None });
            let faults = ServerTls::new(&written, &[], None, &provider()).unwrap_err();
            assert!(faults[0].message.contains(part), "{faults:?}");
        }
        let crl = Some(folder.put("crl", "hello"));
        written.client_auth = Some(ClientAuth { required: false, ca: folder.put("ca", &ca.pem), crl });
        let faults = ServerTls::new(&written, &[], None, &provider()).unwrap_err();
        assert!(faults[0].message.contains("no list of revoked certificates"), "{faults:?}");
    }
}
