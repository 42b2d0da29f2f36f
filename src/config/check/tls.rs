//! `tls` of a listener. What stands in the files is looked at when they are read.

use std::path::Path;

use super::super::diagnostic::{Diagnostic, Place};
use super::super::read::{Entry, Node, Table};
use super::super::{Certificate, ClientAuth, ListenerTls, Material, TlsVersion, Whence, keys};
use super::Checking;

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
        let client_auth = table.entry("client_auth").map(|entry| self.client_auth(entry));
        let passthrough = self.tls_passthrough(table);
        let nodes = written?;
        let certificates: Vec<_> = nodes.iter().filter_map(|node| self.certificate(node)).collect();
        let is_whole = certificates.len() == nodes.len() && !certificates.is_empty();
        Some(ListenerTls {
            certificates: is_whole.then_some(certificates)?,
            min_version: match table.text("min_version") {
                Some(("1.3", _)) => TlsVersion::V13,
                _ => TlsVersion::V12,
            },
            client_auth: match client_auth {
                Some(None) => return None,
                Some(understood) => understood,
                None => None,
            },
            passthrough: passthrough?,
            place: entry.key_place,
        })
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

    fn client_auth(&mut self, entry: &Entry) -> Option<ClientAuth> {
        let table = entry.node.as_table()?;
        if table.node("ca").is_none() {
            let help = "write `ca = \"clients.pem\"`: the certificates of those who sign those of clients";
            self.needs(table, &keys::CLIENT_AUTH, "ca", entry.key_place, help);
        }
        let required = table.text("mode").is_none_or(|(mode, _)| mode == "required");
        let (ca, crl) = (self.material(table, "ca"), self.material(table, "crl"));
        Some(ClientAuth { required, ca: ca?, crl })
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

    #[test]
    fn certificates_and_what_is_demanded_of_clients_are_understood() {
        let config = meant(&with(
            "certificates = [{ cert = 'a.crt', key = 'credential:a.key' }, { cert = '/b', key = '/c', ocsp = '/d' }]\n\
             min_version = '1.3'\nclient_auth = { ca = 'ca.pem', mode = 'optional' }",
        ));
        let tls = config.listeners[0].tls.as_ref().unwrap();
        let from: Vec<_> =
            tls.certificates.iter().map(|one| (one.cert.from.to_string(), one.key.from.to_string())).collect();
        assert_eq!(from[0], ("a.crt".to_owned(), "credential:a.key".to_owned()));
        assert_eq!(from[1], ("/b".to_owned(), "/c".to_owned()));
        assert_eq!(tls.certificates[1].ocsp.as_ref().unwrap().from.to_string(), "/d");
        assert_eq!(tls.min_version, TlsVersion::V13);
        assert!(!tls.client_auth.as_ref().unwrap().required);
        let plain = meant(&with("certificates = [{ cert = 'a.crt', key = 'a.key' }]\nclient_auth = { ca = 'x' }"));
        let tls = plain.listeners[0].tls.as_ref().unwrap();
        assert_eq!(tls.min_version, TlsVersion::V12);
        assert!(tls.client_auth.as_ref().unwrap().required);
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
        ] {
            assert_said(&with(wrong), &[part]);
        }
    }
}
