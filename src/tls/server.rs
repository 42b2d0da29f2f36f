//! TLS towards the clients of one listener.
//!
//! What is demanded of a client goes by the name it asks for in the handshake; there is a configuration of rustls for each
//! different demand, and none accepts the tickets of another.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};

use super::book::{Book, Resolver};
use super::demands::{Demand, Demands, Direction, equal};
use super::material::Files;
use super::versions;
use crate::config::{ClientAuth, Diagnostic, ListenerTls};

/// What a listener needs for handshakes.
#[derive(Debug)]
pub struct ServerTls {
    written: ListenerTls,
    demands: Demands,
    alpn: Vec<Vec<u8>>,
    current: ArcSwap<Current>,
}

/// What the files say.
#[derive(Debug)]
pub struct Current {
    /// By what the certificates demand, as in [`Demands`]; at least one.
    ways: Vec<Way>,
    /// Which of the ways each certificate goes, in the order of the book.
    of_certificates: Vec<usize>,
    /// The certificates.
    pub book: Arc<Book>,
    /// Of the contents of all files.
    digest: u64,
}

/// How a handshake goes.
#[derive(Clone, Debug)]
pub struct Way {
    /// What rustls goes by.
    pub config: Arc<ServerConfig>,
    /// What is demanded of the client.
    pub demand: Demand,
}

impl Current {
    /// The way of all clients, where there is only one.
    #[must_use]
    pub fn only_way(&self) -> Option<&Way> {
        if self.ways.len() == 1 { self.ways.first() } else { None }
    }

    /// The way of who asks for this name.
    #[must_use]
    pub fn way(&self, name: Option<&str>) -> &Way {
        &self.ways[self.of_certificates[self.book.place_of(name)]]
    }
}

impl ServerTls {
    /// TLS as `written`, with these protocols on top of it. Who has a session with `previous` can take it up again, if
    /// nothing is demanded of clients there and here.
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
        let demands = Demands::of(written);
        let current = Reading { written, demands: &demands, alpn: &alpn, tickets, provider }.read()?;
        Ok(ServerTls { written: written.clone(), demands, alpn, current: ArcSwap::from_pointee(current) })
    }

    /// What the next handshake goes by.
    #[must_use]
    pub fn current(&self) -> Arc<Current> {
        self.current.load_full()
    }

    /// Whether this is still demanded of who asks for any name.
    #[must_use]
    pub fn demands(&self, demanded: Option<&Arc<ClientAuth>>) -> bool {
        self.demands.has(demanded)
    }

    /// Whether a request for `host` may come on a connection of which this was demanded (security.md R15).
    #[must_use]
    pub fn direct(&self, demanded: Option<&Arc<ClientAuth>>, host: &str) -> Direction {
        match self.demands.only() {
            Some(only) if equal(only.as_ref(), demanded) => Direction::Right,
            None if self.demands.has(demanded) => {
                let right = equal(self.current.load().way(Some(host)).demand.as_ref(), demanded);
                if right { Direction::Right } else { Direction::Elsewhere }
            }
            _ => Direction::Outdated,
        }
    }

    /// Reads the files again; when one has changed, the next handshake goes by it, and it says true.
    ///
    /// # Errors
    /// What is wrong with which file. Then what is in use stays so.
    pub fn renew(&self) -> Result<bool, Vec<Diagnostic>> {
        let before = self.current();
        let (written, demands, alpn) = (&self.written, &self.demands, &self.alpn);
        let tickets = self.tickets_for(written, alpn);
        let provider = before.ways[0].config.crypto_provider();
        let now = Reading { written, demands, alpn, tickets, provider }.read()?;
        let has_changed = now.digest != before.digest;
        if has_changed {
            self.current.store(Arc::new(now));
        }
        Ok(has_changed)
    }

    /// The keys of the tickets of clients of whom nothing is demanded, for who is set up like this. A ticket says who the
    /// client was found to be: where clients are asked for certificates, none is taken over.
    fn tickets_for(&self, written: &ListenerTls, alpn: &[Vec<u8>]) -> Option<Tickets> {
        let same = self.written.min_version == written.min_version && self.alpn == alpn;
        let current = self.current.load();
        let way = current.ways.iter().find(|way| way.demand.is_none()).filter(|_| same)?;
        Some(Arc::clone(&way.config.ticketer))
    }
}

type Tickets = Arc<dyn ProducesTickets>;

/// What one reading of the files goes by.
struct Reading<'a> {
    written: &'a ListenerTls,
    demands: &'a Demands,
    alpn: &'a [Vec<u8>],
    /// For clients of whom nothing is demanded; `None`: new ones.
    tickets: Option<Tickets>,
    provider: &'a Arc<CryptoProvider>,
}

impl Reading<'_> {
    fn read(&self) -> Result<Current, Vec<Diagnostic>> {
        let (mut files, mut faults) = (Files::default(), Vec::new());
        let book = Book::read(&self.written.certificates, &mut files, self.provider);
        let book = Arc::new(book.unwrap_or_else(|more| {
            faults.extend(more);
            Book::default()
        }));
        let mut ways = Vec::new();
        for demand in self.demands.all() {
            match self.way(demand, &book, &mut files) {
                Ok(way) => ways.push(way),
                Err(more) => faults.extend(more),
            }
        }
        faults.extend(self.at_odds(&book));
        let of_certificates = self.demands.of_certificates().to_vec();
        if faults.is_empty() {
            Ok(Current { ways, of_certificates, book, digest: files.digest() })
        } else {
            Err(faults)
        }
    }

    fn way(&self, demand: &Demand, book: &Arc<Book>, files: &mut Files) -> Result<Way, Vec<Diagnostic>> {
        let verifier = verifier(demand.as_deref(), files, self.provider)?;
        let unusable = |error: rustls::Error| {
            vec![Diagnostic::error(format!("TLS can not be set up: {error}")).at(self.written.place)]
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(self.provider));
        let builder = builder.with_protocol_versions(versions(self.written.min_version)).map_err(unusable)?;
        let resolver = Resolver(Arc::clone(book));
        let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = self.alpn.to_vec();
        // All of them are good; but who has been talked into asking for the weakest does not get it.
        config.ignore_client_order = true;
        // Tickets need no memory of ours, and do for both versions. Their keys change by themselves every six hours.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let tickets = self.tickets.clone().filter(|_| demand.is_none());
        config.ticketer = tickets.map_or_else(Ticketer::new, Ok).map_err(unusable)?;
        // One is what a client needs; each costs a key derivation and a hundred bytes.
        config.send_tls13_tickets = 1;
        Ok(Way { config: Arc::new(config), demand: demand.clone() })
    }

    /// A name for which one certificate demands this and another that: nobody could say which counts.
    fn at_odds(&self, book: &Book) -> Option<Diagnostic> {
        let of = self.demands.of_certificates();
        let (name, one, other) = book.at_odds(|one, other| of[one] == of[other])?;
        let place = |at: usize| self.written.certificates[at].certificate.cert.place;
        let fault = Diagnostic::error(format!("two certificates for {name} demand different things of clients"));
        let fault = fault.label(place(other), "this one").label(place(one), "and this one");
        Some(fault.help("give both the same `client_auth`"))
    }
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
    use super::super::testing::{Authority, Folder, offered, tls};
    use super::*;
    use crate::config::{Material, TlsVersion};

    fn same_tickets(one: &ServerTls, other: &ServerTls) -> bool {
        let of = |tls: &ServerTls| Arc::clone(&tls.current().way(None).config.ticketer);
        Arc::ptr_eq(&of(one), &of(other))
    }

    /// A demand of clients of this authority.
    fn demand(ca: Material, required: bool) -> Demand {
        Some(Arc::new(ClientAuth { required, ca, crl: None, forward: Vec::new() }))
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
        written.certificates.push(offered(folder.certificate("b", ca.sign(&["b.example"]))));
        let second = new(&written, &["http/1.1"], Some(&first));
        assert!(same_tickets(&first, &second) && second.current().book.knows("b.example"));
        assert!(!same_tickets(&second, &new(&written, &["h2", "http/1.1"], Some(&second))));
        written.min_version = TlsVersion::V13;
        assert!(!same_tickets(&second, &new(&written, &["http/1.1"], Some(&second))));
        let ca = folder.put("ca.pem", &ca.pem);
        written.certificates[0].client_auth = demand(ca, true);
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
        let before = Arc::clone(&tls.current().way(None).config.ticketer);
        assert!(tls.renew().unwrap());
        assert!(knows("new.example") && !knows("old.example"));
        assert!(Arc::ptr_eq(&before, &tls.current().way(None).config.ticketer), "sessions go on");
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
            written.certificates[0].client_auth = demand(folder.put(name, text), false);
            let faults = ServerTls::new(&written, &[], None, &provider()).unwrap_err();
            assert!(faults[0].message.contains(part), "{faults:?}");
        }
        let crl = Some(folder.put("crl", "hello"));
        let auth = ClientAuth { required: false, ca: folder.put("ca", &ca.pem), crl, forward: Vec::new() };
        written.certificates[0].client_auth = Some(Arc::new(auth));
        let faults = ServerTls::new(&written, &[], None, &provider()).unwrap_err();
        assert!(faults[0].message.contains("no list of revoked certificates"), "{faults:?}");
    }

    /// A listener of two names, of which the second demands a certificate.
    fn of_two(folder: &Folder, ca: &Authority) -> ListenerTls {
        let certificate = |name: &str| folder.certificate(name, ca.sign(&[&format!("{name}.example")]));
        let mut written = tls(vec![certificate("www"), certificate("admin")]);
        written.certificates[1].client_auth = demand(folder.put("ca.pem", &ca.pem), true);
        written
    }

    #[test]
    fn each_name_goes_its_way_with_its_own_tickets() {
        let (folder, ca) = (Folder::new(), Authority::new("ca"));
        let tls = ServerTls::new(&of_two(&folder, &ca), &[], None, &provider()).unwrap();
        let current = tls.current();
        let (www, admin) = (current.way(Some("www.example")), current.way(Some("admin.example")));
        assert!(www.demand.is_none() && admin.demand.as_ref().unwrap().required && current.only_way().is_none());
        assert!(!Arc::ptr_eq(&www.config.ticketer, &admin.config.ticketer));
        for nobody in [None, Some("other.example")] {
            assert!(current.way(nobody).demand.is_none(), "as the first certificate");
        }
        let tickets = |tls: &ServerTls, name| Arc::clone(&tls.current().way(Some(name)).config.ticketer);
        let next = ServerTls::new(&of_two(&folder, &ca), &[], Some(&tls), &provider()).unwrap();
        assert!(Arc::ptr_eq(&tickets(&tls, "www.example"), &tickets(&next, "www.example")));
        assert!(!Arc::ptr_eq(&tickets(&tls, "admin.example"), &tickets(&next, "admin.example")));
    }

    #[test]
    fn a_request_belongs_where_its_host_demands_what_the_handshake_did() {
        let (folder, ca) = (Folder::new(), Authority::new("ca"));
        let mut written = of_two(&folder, &ca);
        let tls = ServerTls::new(&written, &[], None, &provider()).unwrap();
        let (nothing, admins) = (None, written.certificates[1].client_auth.clone());
        for (demanded, host, direction) in [
            (&nothing, "www.example", Direction::Right),
            (&nothing, "other.example", Direction::Right),
            (&nothing, "", Direction::Right),
            (&nothing, "admin.example", Direction::Elsewhere),
            (&admins, "admin.example", Direction::Right),
            (&admins, "www.example", Direction::Elsewhere),
            (&admins, "other.example", Direction::Elsewhere),
        ] {
            assert_eq!(tls.direct(demanded.as_ref(), host), direction, "{host}");
        }
        // After a reload nobody is asked any more, or everybody.
        written.certificates[1].client_auth = None;
        let asks_nobody = ServerTls::new(&written, &[], Some(&tls), &provider()).unwrap();
        assert_eq!(asks_nobody.direct(None, "admin.example"), Direction::Right);
        assert_eq!(asks_nobody.direct(admins.as_ref(), "admin.example"), Direction::Outdated);
        written.certificates.iter_mut().for_each(|one| one.client_auth = admins.clone());
        let asks_all = ServerTls::new(&written, &[], Some(&tls), &provider()).unwrap();
        assert_eq!(asks_all.direct(None, "www.example"), Direction::Outdated);
        assert_eq!(asks_all.direct(admins.as_ref(), "www.example"), Direction::Right);
    }

    #[test]
    fn certificates_of_one_name_must_demand_the_same() {
        let (folder, ca) = (Folder::new(), Authority::new("ca"));
        let mut written = of_two(&folder, &ca);
        written.certificates[0].certificate = folder.certificate("both", ca.sign(&["www.example", "admin.example"]));
        let faults = ServerTls::new(&written, &[], None, &provider()).unwrap_err();
        assert_eq!(faults.len(), 1);
        assert!(faults[0].message.contains("two certificates for admin.example demand different"), "{faults:?}");
        written.certificates[1].client_auth = None;
        assert!(ServerTls::new(&written, &[], None, &provider()).is_ok());
    }
}
