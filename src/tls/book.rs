//! The certificates of one listener, and which of them a client gets.
//!
//! A book is never changed: when a file changes, a new one takes its place, and handshakes that have begun end with theirs.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::facts::Facts;
use super::material::Files;
use super::names::Names;
use crate::config::{Certificate, Diagnostic, Material, Offered};

/// Certificates with their keys, at least one.
#[derive(Debug, Default)]
pub struct Book {
    keys: Vec<Arc<CertifiedKey>>,
    entries: Vec<Entry>,
    names: Names,
}

/// What is told of a certificate.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The file it stands in.
    pub file: Material,
    /// What it says of itself.
    pub facts: Facts,
}

impl Book {
    /// Reads all certificates of a listener. `provider` understands their keys.
    ///
    /// # Errors
    /// What is wrong with which file; all faults at once.
    pub fn read(
        certificates: &[Offered],
        files: &mut Files,
        provider: &CryptoProvider,
    ) -> Result<Book, Vec<Diagnostic>> {
        let (mut book, mut faults) = (Book::default(), Vec::new());
        for Offered { certificate, .. } in certificates {
            match certified(certificate, files, provider) {
                Ok((key, entry)) => book.add(key, entry),
                Err(fault) => faults.push(fault),
            }
        }
        if faults.is_empty() { Ok(book) } else { Err(faults) }
    }

    fn add(&mut self, key: CertifiedKey, entry: Entry) {
        let place = self.keys.len();
        entry.facts.names.iter().for_each(|name| self.names.add(name, place));
        self.keys.push(Arc::new(key));
        self.entries.push(entry);
    }

    /// What is told of each certificate, in the order of the file.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether a certificate is for this name, or wildcard, and not only the one for everybody else.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        !self.names.find(name).is_empty()
    }

    /// The place of the certificate that has the first word about who asks for this name.
    pub(super) fn place_of(&self, name: Option<&str>) -> usize {
        name.and_then(|name| self.names.find(name).first()).copied().unwrap_or(0)
    }

    /// Two certificates of one name that are not `alike`, with that name; the first such name in the order of the alphabet.
    pub(super) fn at_odds(&self, alike: impl Fn(usize, usize) -> bool) -> Option<(String, usize, usize)> {
        let odd = |(name, places): (String, &[usize])| {
            let (first, others) = places.split_first()?;
            Some((name, *first, *others.iter().find(|other| !alike(*first, **other))?))
        };
        self.names.all().filter_map(odd).min()
    }

    /// The certificate for who asks for this name and can use what `can_use` says. Who can use none gets one all the same, as
    /// the handshake then fails with the alert that says why; `None` only where there is none at all.
    fn choose(&self, name: Option<&str>, can_use: impl Fn(&CertifiedKey) -> bool) -> Option<&Arc<CertifiedKey>> {
        let named = name.map_or(&[][..], |name| self.names.find(name)).iter().filter_map(|place| self.keys.get(*place));
        let mut usable = named.clone().filter(|key| can_use(key));
        let mut others = self.keys.iter();
        usable.next().or_else(|| named.clone().next()).or_else(|| others.find(|key| can_use(key))).or(self.keys.first())
    }
}

/// A certificate with its key, which belong together, and what is told of it.
pub(super) fn certified(
    certificate: &Certificate,
    files: &mut Files,
    provider: &CryptoProvider,
) -> Result<(CertifiedKey, Entry), Diagnostic> {
    let identity = files.identity(certificate)?;
    let (key, cert) = (&certificate.key, &certificate.cert);
    let signing = provider.key_provider.load_private_key(identity.key).map_err(|error| {
        let fault = Diagnostic::error(format!("{}: this key can not be used: {error}", key.from)).at(key.place);
        fault.help("use ECDSA with P-256 or P-384, Ed25519, or RSA from 2048 bits")
    })?;
    let mut certified = CertifiedKey::new(identity.chain, signing);
    match certified.keys_match() {
        // Some keys do not tell their public half: then a handshake will show it.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(_) => {
            let fault =
                Diagnostic::error(format!("the key {} does not belong to the certificate {}", key.from, cert.from));
            let fault = fault.label(key.place, "this key").label(cert.place, "is not the one in here");
            return Err(fault.help("name the key that the certificate was made for"));
        }
    }
    certified.ocsp = (!identity.ocsp.is_empty()).then_some(identity.ocsp);
    Ok((certified, Entry { file: cert.clone(), facts: identity.facts }))
}

/// What rustls asks for a certificate.
#[derive(Debug)]
pub(super) struct Resolver(pub(super) Arc<Book>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let can_use = |key: &CertifiedKey| key.key.choose_scheme(schemes).is_some();
        self.0.choose(hello.server_name(), can_use).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::provider;
    use super::super::testing::{Authority, Folder, offered};
    use super::*;

    /// What is wrong with one certificate.
    fn fault(certificate: Certificate) -> String {
        let faults = Book::read(&[offered(certificate)], &mut Files::default(), &provider()).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].help.is_some() && !faults[0].labels.is_empty(), "{faults:?}");
        faults[0].message.clone()
    }

    #[test]
    fn each_name_has_its_certificate_and_the_first_is_for_everybody_else() {
        let (folder, ca) = (Folder::new(), Authority::new("ca"));
        let shop = folder.certificate("shop", ca.sign(&["shop.example", "*.shop.example"]));
        let news = folder.certificate("news", ca.sign(&["news.example"]));
        let book = Book::read(&[offered(shop), offered(news)], &mut Files::default(), &provider()).unwrap();
        let chosen = |name: Option<&str>| {
            let key = book.choose(name, |_| true).unwrap();
            book.keys.iter().position(|one| Arc::ptr_eq(one, key)).unwrap()
        };
        assert_eq!(chosen(Some("news.example")), 1);
        assert_eq!(chosen(Some("img.shop.example")), 0);
        assert_eq!((chosen(Some("other.example")), chosen(None)), (0, 0));
        assert!(book.knows("news.example") && !book.knows("other.example"));
    }

    #[test]
    fn who_can_not_use_the_first_of_a_name_gets_another_of_that_name() {
        let (folder, ca) = (Folder::new(), Authority::new("ca"));
        let one = folder.certificate("one", ca.sign(&["a.example"]));
        let two = folder.certificate("two", ca.sign(&["a.example"]));
        let book = Book::read(&[offered(one), offered(two)], &mut Files::default(), &provider()).unwrap();
        let second = Arc::clone(&book.keys[1]);
        let can_use = |key: &CertifiedKey| std::ptr::eq(key, &*second);
        assert!(Arc::ptr_eq(book.choose(Some("a.example"), can_use).unwrap(), &second));
        for name in [Some("a.example"), Some("b.example"), None] {
            assert!(Arc::ptr_eq(book.choose(name, |_| false).unwrap(), &book.keys[0]), "a handshake tells why");
        }
    }

    #[test]
    fn a_bad_file_is_named_with_what_is_wrong_in_it() {
        let (folder, ca) = (Folder::new(), Authority::new("ca"));
        let good = || folder.certificate("good", ca.sign(&["a.example"]));
        let with_cert = |name: &str, text: &str| Certificate { cert: folder.put(name, text), ..good() };
        let with_key = |name: &str, text: &str| Certificate { key: folder.put(name, text), ..good() };
        assert!(fault(with_cert("empty.crt", "\n")).ends_with("empty.crt: the file is empty"));
        assert!(fault(with_cert("key.crt", &ca.sign(&["b"]).1)).ends_with("key.crt: there is no certificate in it"));
        assert!(
            fault(with_cert("cut.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n")).contains("cut.crt: this is not PEM")
        );
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(fault(with_cert("bad.crt", broken)).ends_with("bad.crt: certificate 1 of 1 in it is broken"));
        assert!(fault(with_key("empty.key", "")).ends_with("empty.key: the file is empty"));
        assert!(fault(with_key("cert.key", &ca.pem)).ends_with("cert.key: there is no private key in it"));
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert!(fault(with_key("locked.key", encrypted)).ends_with("locked.key: the private key is encrypted"));
        let locked = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        assert!(fault(with_key("old.key", locked)).ends_with("old.key: the private key is encrypted"));
        let with_ocsp = |name: &str, text: &str| Certificate { ocsp: Some(folder.put(name, text)), ..good() };
        assert!(fault(with_ocsp("empty.ocsp", "")).ends_with("empty.ocsp: the file is empty"));
        for text in ["-----BEGIN OCSP RESPONSE-----", "0", "0\x03\x0a\x01\x03"] {
            assert!(
                fault(with_ocsp("bad.ocsp", text)).ends_with("bad.ocsp: this is no successful OCSP response in DER")
            );
        }
        let broken = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert!(fault(with_key("bad.key", broken)).contains("bad.key: this key can not be used"));
        let other = with_key("other.key", &ca.sign(&["a.example"]).1);
        assert!(fault(other).contains("other.key does not belong to the certificate"));
        let mut gone = good();
        std::fs::remove_file(folder.path().join("good.crt")).unwrap();
        gone.cert.place.start = 0;
        assert!(fault(gone).contains("good.crt: No such file"));
    }

    #[test]
    fn a_byte_order_mark_and_words_before_a_certificate_are_no_fault() {
        let (folder, ca) = (Folder::new(), Authority::new("ca"));
        let (chain, key) = ca.sign(&["a.example"]);
        for before in ["\u{feff}", "Subject: CN=a.example\n"] {
            let mut own = folder.certificate("own", (format!("{before}{chain}"), key.clone()));
            own.ocsp = Some(folder.put("own.ocsp", "0\x03\x0a\x01\0"));
            Book::read(&[offered(own)], &mut Files::default(), &provider()).unwrap();
        }
    }

    #[test]
    fn a_chain_in_the_wrong_order_is_refused_with_the_two_that_do_not_fit() {
        let (folder, ca) = (Folder::new(), Authority::new("ca"));
        let (chain, key) = ca.sign(&["a.example"]);
        let own = chain.strip_suffix(&ca.pem).unwrap();
        let turned = folder.certificate("turned", (format!("{}{own}", ca.pem), key));
        let said = fault(turned);
        assert!(
            said.contains("certificate 2 in it (`CN=a.example`) did not issue the one before it (`CN=ca`)"),
            "{said}"
        );
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let (folder, ca) = (Folder::new(), Authority::new("ca"));
        let bad = |name: &str| {
            let good = folder.certificate(name, ca.sign(&["a.example"]));
            Certificate { key: folder.put(&format!("{name}.bad"), ""), ..good }
        };
        assert_eq!(
            Book::read(&[offered(bad("a")), offered(bad("b"))], &mut Files::default(), &provider()).unwrap_err().len(),
            2
        );
    }
}
