//! `tls` of a listener and of a pool. What stands in the files is looked at when they are read.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::ServerName;

use super::super::diagnostic::{Diagnostic, Place};
use super::super::keys;
use super::super::read::{Entry, Node, Table};
use super::super::{
    Address, Backend, Certificate, ClientAuth, ClientFact, ListenerTls, Material, Offered, PoolTls, TlsVersion, Trust,
    Whence,
};
use super::Checking;

/// What a certificate demands of clients.
type Demand = Option<Arc<ClientAuth>>;

impl Checking<'_> {
    /// What the listener's `tls` means; `None` where there is none, or a faulty one.
    pub(super) fn listener_tls(&mut self, entry: &Entry) -> Option<ListenerTls> {
        let table = entry.node.as_table()?;
        let written = table.list("certificates");
        if let (Some([]), Some(node)) = (written, table.node("certificates")) {
            let help = "write `certificates = [{ cert = \"example.crt\", key = \"example.key\" }]`";
            self.error(node.place, "there is no certificate, so nobody could connect", help);
        }
        if table.node("certificates").is_none() {
            let help = "write `certificates = [{ cert = \"example.crt\", key = \"example.key\" }]`";
            self.needs(table, &keys::LISTENER_TLS, "certificates", entry.key_place, help);
        }
        let client_auth = self.client_auth(table);
        let passthrough = self.tls_passthrough(table);
        let nodes = written?;
        let certificates: Vec<_> = nodes.iter().filter_map(|node| self.offered(node, client_auth.as_ref())).collect();
        let is_whole = certificates.len() == nodes.len() && !certificates.is_empty();
        Some(ListenerTls {
            certificates: is_whole.then_some(certificates)?,
            min_version: min_version(table),
            passthrough: passthrough?,
            place: entry.key_place,
        })
    }

    /// What the `tls` of `pool`, which has these backends, means; `None` where it is faulty.
    pub(super) fn pool_tls(&mut self, pool: &Entry, entry: &Entry, backends: &[Backend]) -> Option<PoolTls> {
        let table = entry.node.as_table()?;
        let sni = table.text("sni").map(|(name, place)| self.verified_name(name, place));
        let at_socket = backends.iter().find(|backend| matches!(backend.address, Address::Unix(_)));
        if let (None, Some(backend)) = (&sni, at_socket) {
            let help = "write `sni = \"app.internal\"`: the name in its certificate";
            let why = format!("the backend `{}` is at a Unix socket, which has no name to verify", backend.name);
            self.error(entry.key_place, why, help);
            return None;
        }
        let (trust, identity) = (self.trust(pool, table), self.own_certificate(table, entry.key_place));
        Some(PoolTls {
            trust: trust?,
            sni: match sni {
                Some(None) => return None,
                Some(understood) => understood,
                None => None,
            },
            identity: identity.ok()?,
            min_version: min_version(table),
            place: entry.key_place,
        })
    }

    fn verified_name(&mut self, text: &str, place: Place) -> Option<ServerName<'static>> {
        let name = ServerName::try_from(text.to_owned()).ok();
        if name.is_none() {
            let help = "write the name alone, such as \"app.internal\", without a port, `https://` or `*`";
            self.error(place, format!("`{text}` is not a name that a certificate can be for"), help);
        }
        name
    }

    fn trust(&mut self, pool: &Entry, table: &Table) -> Option<Trust> {
        let skips = table.entry("insecure_skip_verify").filter(|_| table.flag("insecure_skip_verify") == Some(true));
        match (table.entry("ca"), skips) {
            (Some(ca), Some(skips)) => {
                let fault = Diagnostic::error("nothing is verified, so `ca` has no effect");
                let fault = fault.label(skips.key_place, "because of this").label(ca.key_place, "has no effect");
                self.faults.push(fault.help("remove `insecure_skip_verify`: then `ca` says who is trusted"));
                None
            }
            (Some(_), None) => self.material(table, "ca").map(Trust::Ca),
            (None, Some(skips)) => {
                let why = format!(
                    "INSECURE: the pool `{}` takes any certificate for that of its backends; whoever stands between can \
                     read and change everything",
                    pool.key
                );
                let warning = Diagnostic::warning(why).at(skips.key_place);
                self.faults.push(warning.help("write `ca = \"ca.pem\"` instead, with who signed their certificates"));
                Some(Trust::Anybody)
            }
            (None, None) => Some(Trust::System),
        }
    }

    /// What is shown to backends, if anything.
    fn own_certificate(&mut self, table: &Table, place: Place) -> Result<Option<Certificate>, Faulty> {
        let (cert, key) = (table.node("cert"), table.node("key"));
        let missing = match (cert, key) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => None,
            (Some(_), None) => Some("key"),
            (None, Some(_)) => Some("cert"),
        };
        if let Some(missing) = missing {
            let help = "`cert` and `key` belong together: write both, or none; both may name the same file";
            self.needs(table, &keys::POOL_TLS, missing, place, help);
            return Err(Faulty);
        }
        let (cert, key) = (self.material(table, "cert").ok_or(Faulty)?, self.material(table, "key").ok_or(Faulty)?);
        Ok(Some(Certificate { cert, key, ocsp: None }))
    }

    /// Who is redirected to https and comes there must not be redirected again.
    pub(super) fn refuse_a_circle(&mut self, listener: &Table, tls: &Entry) {
        if let Some(entry) =
            listener.entry("redirect_to_https").filter(|_| listener.flag("redirect_to_https") == Some(true))
        {
            let fault = Diagnostic::error("a listener with `tls` would redirect its clients to itself");
            let fault = fault.label(entry.key_place, "to https").label(tls.key_place, "they are there already");
            self.faults.push(fault.help("put `redirect_to_https` into a listener without `tls`, for port 80"));
        }
    }

    /// Backends that speak something else than HTTP can not be told of clients.
    pub(super) fn refuse_forward(&mut self, tls: &Entry, protocol: Place) {
        let Some(table) = tls.node.as_table() else { return };
        let certificates = table.list("certificates").unwrap_or_default().iter().filter_map(Node::as_table);
        for table in std::iter::once(table).chain(certificates) {
            if let Some(entry) = table.table("client_auth").and_then(|auth| auth.entry("forward")) {
                self.http_only(&entry.key, entry.key_place, protocol);
            }
        }
    }

    /// Where there is no TLS, there are no handshakes.
    pub(super) fn refuse_handshakes(&mut self, listener: &Table) {
        if let Some(entry) = listener.table("limits").and_then(|limits| limits.entry(keys::HANDSHAKES.name)) {
            let help = "leave it out, or write `tls` for this listener";
            self.error(entry.key_place, "this listener speaks no TLS, so it has no handshakes", help);
        }
    }

    /// Reports that a table has no such key.
    pub(super) fn needs(&mut self, table: &Table, shape: &'static keys::Shape, key: &str, place: Place, help: &str) {
        let fault = Diagnostic::error(format!("{} needs `{key}`", shape.what)).at(place).help(help);
        self.missing(table, shape, &[key], fault);
    }

    fn certificate(&mut self, node: &Node) -> Option<Certificate> {
        let table = node.as_table()?;
        for key in ["cert", "key"] {
            if table.node(key).is_none() {
                let help = "write `{ cert = \"example.crt\", key = \"example.key\" }`; both may name the same file";
                self.needs(table, &keys::CERTIFICATE, key, node.place, help);
            }
        }
        let (cert, key) = (self.material(table, "cert"), self.material(table, "key"));
        let ocsp = self.material(table, "ocsp");
        Some(Certificate { cert: cert?, key: key?, ocsp })
    }

    /// A certificate of a listener; one that says nothing else demands `inherited` of clients, which is `None` where that is
    /// faulty.
    fn offered(&mut self, node: &Node, inherited: Option<&Demand>) -> Option<Offered> {
        let certificate = self.certificate(node);
        let table = node.as_table()?;
        let client_auth = match table.entry("client_auth") {
            Some(_) => self.client_auth(table),
            None => inherited.cloned(),
        };
        Some(Offered { certificate: certificate?, client_auth: client_auth? })
    }

    /// What `client_auth` of this table demands of clients; `None` where it is faulty.
    fn client_auth(&mut self, table: &Table) -> Option<Demand> {
        let Some(entry) = table.entry("client_auth") else { return Some(None) };
        let table = entry.node.as_table()?;
        let mode = table.text("mode").map_or("required", |(mode, _)| mode);
        if mode == "off" {
            return Some(None);
        }
        if table.node("ca").is_none() {
            let help = "write `ca = \"clients.pem\"`: the certificates of those who sign those of clients";
            self.needs(table, &keys::CLIENT_AUTH, "ca", entry.key_place, help);
        }
        let (ca, crl) = (self.material(table, "ca"), self.material(table, "crl"));
        let forward = self.forward(table);
        Some(Some(Arc::new(ClientAuth { required: mode == "required", ca: ca?, crl, forward })))
    }

    fn forward(&mut self, table: &Table) -> Vec<ClientFact> {
        let texts: Vec<_> = table.list("forward").unwrap_or_default().iter().filter_map(Node::as_text).collect();
        self.each_once("this is in the list", "remove one", texts.iter().copied());
        let fact = |(text, _): &(&str, Place)| match *text {
            "subject" => Some(ClientFact::Subject),
            "san" => Some(ClientFact::San),
            "serial" => Some(ClientFact::Serial),
            "fingerprint" => Some(ClientFact::Fingerprint),
            "cert" => Some(ClientFact::Cert),
            _ => None,
        };
        texts.iter().filter_map(fact).collect()
    }

    /// The file that this key names.
    pub(super) fn material(&mut self, table: &Table, key: &str) -> Option<Material> {
        let (text, place) = table.text(key)?;
        if let Some(name) = text.strip_prefix("credential:") {
            if name.is_empty() || name.contains('/') || name == ".." {
                let help = "write \"credential:NAME\", with the name in `LoadCredential=NAME:/path`";
                self.error(place, "this is not the name of a credential", help);
                return None;
            }
            return Some(Material { from: Whence::Credential(name.to_owned()), place });
        }
        if text.is_empty() {
            self.error(place, "a path can not be empty", "name a file");
            return None;
        }
        let path = self.sources[place.file].folder.join(Path::new(text));
        Some(Material { from: Whence::File(path), place })
    }
}

/// What was written is not what can be meant, which has been said.
struct Faulty;

fn min_version(table: &Table) -> TlsVersion {
    match table.text("min_version") {
        Some(("1.3", _)) => TlsVersion::V13,
        _ => TlsVersion::V12,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{POOLS, assert_said, meant};
    use super::*;

    fn with(tls: &str) -> String {
        format!(
            "{POOLS}[listeners.w]\nbind = '127.0.0.1:1'\nroutes = [{{ split = [{{ pool = 'a' }}, {{ pool = 'b' }}] }}]\n\
             [listeners.w.tls]\n{tls}\n"
        )
    }

    fn certificates(tls: &ListenerTls) -> impl Iterator<Item = &Certificate> {
        tls.certificates.iter().map(|one| &one.certificate)
    }

    #[test]
    fn certificates_and_what_is_demanded_of_clients_are_understood() {
        let config = meant(&with(
            "certificates = [{ cert = 'a.crt', key = 'credential:a.key' }, { cert = '/b', key = '/c', ocsp = '/d' }]\n\
             min_version = '1.3'\nclient_auth = { ca = 'ca.pem', mode = 'optional' }",
        ));
        let tls = config.listeners[0].tls.as_ref().unwrap();
        let from: Vec<_> = certificates(tls).map(|one| (one.cert.from.to_string(), one.key.from.to_string())).collect();
        assert_eq!(from[0], ("a.crt".to_owned(), "credential:a.key".to_owned()));
        assert_eq!(from[1], ("/b".to_owned(), "/c".to_owned()));
        assert_eq!(tls.certificates[1].certificate.ocsp.as_ref().unwrap().from.to_string(), "/d");
        assert_eq!(tls.min_version, TlsVersion::V13);
        assert!(tls.certificates.iter().all(|one| !one.client_auth.as_ref().unwrap().required));
        let plain = meant(&with("certificates = [{ cert = 'a.crt', key = 'a.key' }]\nclient_auth = { ca = 'x' }"));
        let tls = plain.listeners[0].tls.as_ref().unwrap();
        assert_eq!(tls.min_version, TlsVersion::V12);
        let asked = tls.certificates[0].client_auth.as_ref().unwrap();
        assert!(asked.required && asked.forward.is_empty());
    }

    #[test]
    fn a_certificate_may_demand_something_else_of_clients() {
        let config = meant(&with(
            "certificates = [{ cert = 'a', key = 'a' }, { cert = 'b', key = 'b', client_auth = { mode = 'off' } },\n\
             { cert = 'c', key = 'c', client_auth = { ca = 'own', forward = ['san', 'cert'] } }]\nclient_auth = { ca = 'ca' }",
        ));
        let tls = config.listeners[0].tls.as_ref().unwrap();
        let asked: Vec<_> = tls.certificates.iter().map(|one| one.client_auth.as_deref()).collect();
        assert_eq!(asked[0].unwrap().ca.from.to_string(), "ca");
        assert_eq!(asked[1], None);
        assert_eq!(asked[2].unwrap().ca.from.to_string(), "own");
        assert_eq!(asked[2].unwrap().forward, [ClientFact::San, ClientFact::Cert]);
        assert!(asked[0].unwrap().equals(asked[0].unwrap()) && !asked[0].unwrap().equals(asked[2].unwrap()));
    }

    #[test]
    fn what_does_nothing_is_refused() {
        let tcp = |tls: &str| {
            format!(
                "{POOLS}[listeners.w]\nbind = '127.0.0.1:1'\nprotocol = 'tcp'\npool = 'a'\n[listeners.w.tls]\n{tls}\n"
            )
        };
        for tls in [
            "certificates = [{ cert = 'a', key = 'b' }]\nclient_auth = { ca = 'c', forward = ['san'] }",
            "certificates = [{ cert = 'a', key = 'b', client_auth = { ca = 'c', forward = ['san'] } }]",
        ] {
            assert_said(&tcp(tls), &["`forward`"]);
        }
        let text = "[listeners.w]\nbind = '127.0.0.1:1'\nredirect_to_https = true\nlimits = { handshakes = 5 }";
        assert_said(text, &["it has no handshakes"]);
    }

    #[test]
    fn a_redirect_that_comes_back_is_refused() {
        let text = "[listeners.w]\nbind = '127.0.0.1:1'\nredirect_to_https = true\n\
                    tls = { certificates = [{ cert = 'a', key = 'b' }] }";
        assert_said(text, &["would redirect its clients to itself"]);
    }

    #[test]
    fn faults_of_tls_are_told_apart() {
        for (wrong, part) in [
            ("certificates = []", "there is no certificate"),
            ("", "the tls of a listener needs `certificates`"),
            ("certificates = [{ cert = 'a' }]", "a certificate needs `key`"),
            ("certificates = [{ cert = '', key = 'b' }]", "a path can not be empty"),
            ("certificates = [{ cert = 'a', key = 'credential:' }]", "not the name of a credential"),
            ("certificates = [{ cert = 'a', key = 'b' }]\nmin_version = '1.1'", "not a value of `min_version`"),
            (
                "certificates = [{ cert = 'a', key = 'b' }]\nclient_auth = { mode = 'required' }",
                "`client_auth` needs `ca`",
            ),
            ("certificates = [{ cert = 'a', key = 'b', client_auth = {} }]", "`client_auth` needs `ca`"),
            (
                "certificates = [{ cert = 'a', key = 'b' }]\nclient_auth = { ca = 'c', forward = ['san', 'san'] }",
                "this is in the list twice",
            ),
        ] {
            assert_said(&with(wrong), &[part]);
        }
    }

    fn to(backends: &str, tls: &str) -> String {
        let listener = "listeners.w = { bind = '127.0.0.1:1', pool = 'app' }";
        format!("{listener}\npools.app = {{ backends = [{backends}], tls = {{ {tls} }} }}\n")
    }

    #[test]
    fn tls_to_backends_is_understood_and_verifies_by_default() {
        let tls = |text: &str| meant(&to("'10.0.0.1:443'", text)).pools[0].tls.clone().unwrap();
        let plain = tls("");
        assert!(matches!(plain.trust, Trust::System) && plain.sni.is_none() && plain.identity.is_none());
        assert_eq!(plain.min_version, TlsVersion::V12);
        let full =
            tls("ca = 'ca.pem', sni = 'app.internal', cert = 'me.crt', key = 'credential:me', min_version = '1.3'");
        assert!(matches!(&full.trust, Trust::Ca(ca) if ca.from.to_string() == "ca.pem"));
        assert_eq!(full.sni.as_ref().unwrap().to_str(), "app.internal");
        assert_eq!(full.identity.as_ref().unwrap().key.from.to_string(), "credential:me");
        assert_eq!(full.min_version, TlsVersion::V13);
        let insecure = tls("ca = 'ca.pem', insecure_skip_verify = false");
        assert!(matches!(insecure.trust, Trust::Ca(_)));
        assert!(meant(&to("'unix:/run/a.sock'", "sni = 'a'")).pools[0].tls.is_some());
    }

    #[test]
    fn the_digest_is_of_what_is_meant_and_not_of_where_it_stands() {
        let digest = |text: &str, before: &str| {
            meant(&format!("{before}{}", to("'10.0.0.1:443'", text))).pools[0].tls.as_ref().unwrap().digest()
        };
        assert_eq!(digest("ca = 'a', sni = 'b'", ""), digest("sni = 'b', ca = 'a'", "\n\n"));
        let different =
            ["", "ca = 'a'", "ca = 'b'", "sni = 'a'", "sni = 'b'", "min_version = '1.3'", "cert = 'a', key = 'b'"];
        let digests: std::collections::BTreeSet<_> = different.iter().map(|text| digest(text, "")).collect();
        assert_eq!(digests.len(), different.len());
    }

    #[test]
    fn what_is_not_verified_is_said_loudly_with_the_pool() {
        let text = to("'10.0.0.1:443'", "insecure_skip_verify = true");
        assert_said(&text, &["warning: INSECURE: the pool `app` takes any certificate"]);
    }

    #[test]
    fn faults_of_tls_to_backends_are_told_apart() {
        for (wrong, part) in [
            ("ca = 'a', insecure_skip_verify = true", "so `ca` has no effect"),
            ("cert = 'a'", "the tls of a pool needs `key`"),
            ("key = 'a'", "the tls of a pool needs `cert`"),
            ("sni = 'a:443'", "`a:443` is not a name that a certificate can be for"),
            ("sni = ''", "is not a name"),
            ("ca = ''", "a path can not be empty"),
            ("verify = false", "certificates are verified unless you write"),
        ] {
            assert_said(&to("'10.0.0.1:443'", wrong), &[part]);
        }
        assert_said(
            &to("'unix:/run/a.sock'", ""),
            &["the backend `unix:/run/a.sock` is at a Unix socket", "write `sni"],
        );
    }
}
