//! Transport security: what the configuration says of it, made out of the files it names.
//!
//! [`Materials`] are made before a configuration comes into force, so that a file that is missing or wrong is a fault of the
//! configuration like any other. What is in use stays in use when a later file is bad.

mod book;
mod material;
mod names;
mod server;
#[cfg(test)]
mod testing;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use book::Book;
pub use server::{Current, ServerTls};

use crate::config::{Config, Diagnostic, HttpVersions, Listener, Material, Name, Protocol};

/// What HTTP/1.1 is called in a TLS handshake (RFC 7301).
const HTTP_1: &str = "http/1.1";
/// What HTTP/2 is called there (RFC 9113 §3.1).
pub const HTTP_2: &str = "h2";

/// Everything that a configuration needs of files beside its own.
#[derive(Clone, Debug, Default)]
pub struct Materials {
    listeners: BTreeMap<Name, Arc<ServerTls>>,
    /// Where all of it lies.
    files: Vec<PathBuf>,
}

impl Materials {
    /// Reads what `config` names. Sessions of `previous` can be taken up where that is safe.
    ///
    /// # Errors
    /// Everything that is wrong with the files.
    pub fn read(config: &Config, previous: Option<&Materials>) -> Result<Materials, Vec<Diagnostic>> {
        let provider = provider();
        let (mut materials, mut faults) = (crate::tls::Materials::default(), Vec::new());
        for listener in &config.listeners {
            let Some(tls) = &listener.tls else { continue };
            let before = previous.and_then(|previous| previous.listener(&listener.name)).map(|before| &**before);
            match ServerTls::new(tls, alpn(listener), before, &provider) {
                Ok(tls) => drop(materials.listeners.insert(listener.name.clone(), Arc::new(tls))),
                Err(more) => faults.extend(more),
            }
        }
        materials.files = files(config);
        if faults.is_empty() { Ok(materials) } else { Err(faults) }
    }

    /// What the listener of this name needs; `None` where it speaks in the clear.
    #[must_use]
    pub fn listener(&self, name: &str) -> Option<&Arc<ServerTls>> {
        self.listeners.get(name)
    }

    /// All listeners that speak TLS.
    pub fn listeners(&self) -> impl Iterator<Item = (&Name, &Arc<ServerTls>)> {
        self.listeners.iter()
    }

    /// The files all of it was read from.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }
}

/// The one provider of cryptography.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// What a client may choose to speak on top of TLS.
fn alpn(listener: &Listener) -> &'static [&'static str] {
    match &listener.protocol {
        Protocol::Http(http) => match http.versions {
            HttpVersions::H1 => &[HTTP_1],
            HttpVersions::H2 => &[HTTP_2],
            HttpVersions::Both => &[HTTP_2, HTTP_1],
        },
        Protocol::Tcp { .. } | Protocol::Passthrough(_) => &[],
    }
}

/// The files that `config` names: what a watcher watches.
#[must_use]
pub fn files(config: &Config) -> Vec<PathBuf> {
    let of_listeners = config.listeners.iter().filter_map(|listener| listener.tls.as_ref()).flat_map(|tls| {
        let certificates = tls.certificates.iter().flat_map(|one| [Some(&one.cert), Some(&one.key), one.ocsp.as_ref()]);
        let clients = tls.client_auth.iter().flat_map(|auth| [Some(&auth.ca), auth.crl.as_ref()]);
        certificates.chain(clients).flatten().collect::<Vec<&Material>>()
    });
    let mut files: Vec<_> = of_listeners.filter_map(|material| material::path_of(&material.from).ok()).collect();
    files.sort();
    files.dedup();
    files
}
