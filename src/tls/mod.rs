//! Transport security: what the configuration says of it, made out of the files it names.
//!
//! [`Materials`] are made before a configuration comes into force, so that a file that is missing or wrong is a fault of the
//! configuration like any other. What is in use stays in use when a later file is bad.

mod book;
mod client;
mod demands;
mod expiry;
mod facts;
mod identity;
mod known;
mod material;
mod names;
mod server;
#[cfg(test)]
mod testing;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{SupportedProtocolVersion, version};

pub use book::{Book, Entry};
pub use client::ClientTls;
use client::System;
pub use demands::{Demand, Direction};
pub use expiry::{Holder, Notice, SOON, Standing};
pub use facts::Facts;
pub use identity::Identity;
pub use known::known;
pub use server::{Current, ServerTls, Way};

use crate::clock::Date;
use crate::config::{Config, Diagnostic, HttpVersions, Listener, Material, Name, Protocol, TlsVersion, Trust};

/// What may be spoken on top of TLS, by the names of RFC 7301, the best first; none: that is not talked about.
pub type Alpn = &'static [&'static str];

/// Raw bytes of whatever kind.
pub const RAW: Alpn = &[];
/// HTTP/1.1 alone.
pub const HTTP_1: Alpn = &["http/1.1"];
/// HTTP/2 alone.
pub const HTTP_2: Alpn = &[H2];
/// Both.
pub const HTTP: Alpn = &[H2, "http/1.1"];
/// What HTTP/2 is called (RFC 9113 §3.1).
pub const H2: &str = "h2";

/// Everything that a configuration needs of files beside its own.
#[derive(Clone, Debug, Default)]
pub struct Materials {
    listeners: BTreeMap<Name, Arc<ServerTls>>,
    pools: BTreeMap<Name, Arc<ClientTls>>,
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
        let system = System::default();
        for pool in &config.pools {
            let Some(tls) = &pool.tls else { continue };
            let before = previous.and_then(|previous| previous.pool(&pool.name)).map(|before| &**before);
            let backends = pool.backends.iter().map(|backend| &backend.address);
            match ClientTls::new(tls, backends, before, &system, &provider) {
                Ok(tls) => drop(materials.pools.insert(pool.name.clone(), Arc::new(tls))),
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

    /// What the connections to the backends of this pool need; `None` where those are spoken to in the clear.
    #[must_use]
    pub fn pool(&self, name: &str) -> Option<&Arc<ClientTls>> {
        self.pools.get(name)
    }

    /// All pools whose backends are spoken to over TLS.
    pub fn pools(&self) -> impl Iterator<Item = (&Name, &Arc<ClientTls>)> {
        self.pools.iter()
    }

    /// The certificates that somebody has to look after, now.
    #[must_use]
    pub fn notices(&self, now: Date) -> Vec<Notice> {
        let all = self.holders();
        let notices = all.iter().flat_map(|(holder, entries)| entries.iter().map(move |entry| (holder, entry)));
        notices.filter_map(|(holder, entry)| Notice::of(holder, entry, now)).collect()
    }

    /// All certificates by who shows them.
    fn holders(&self) -> Vec<(Holder, Vec<Entry>)> {
        let listeners = self.listeners().map(|(name, tls)| {
            let entries = tls.current().book.entries().to_vec();
            (Holder::Listener(name.clone()), entries)
        });
        let pools = self.pools().map(|(name, tls)| (Holder::Pool(name.clone()), tls.identity().into_iter().collect()));
        listeners.chain(pools).collect()
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
fn alpn(listener: &Listener) -> Alpn {
    match &listener.protocol {
        Protocol::Http(http) => match http.versions {
            HttpVersions::H1 => HTTP_1,
            HttpVersions::H2 => HTTP_2,
            HttpVersions::Both => HTTP,
        },
        Protocol::Tcp { .. } | Protocol::Passthrough(_) => RAW,
    }
}

/// All versions that are spoken, newest first.
static VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];

fn versions(oldest: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    match oldest {
        TlsVersion::V12 => &VERSIONS,
        TlsVersion::V13 => &VERSIONS[..1],
    }
}

/// The files that `config` names: what a watcher watches.
#[must_use]
pub fn files(config: &Config) -> Vec<PathBuf> {
    let of_listeners = config.listeners.iter().filter_map(|listener| listener.tls.as_ref()).flat_map(|tls| {
        let certificates = tls.certificates.iter().map(|one| &one.certificate);
        let certificates = certificates.flat_map(|one| [Some(&one.cert), Some(&one.key), one.ocsp.as_ref()]);
        let clients = tls.certificates.iter().filter_map(|one| one.client_auth.as_ref());
        let clients = clients.flat_map(|auth| [Some(&auth.ca), auth.crl.as_ref()]);
        certificates.chain(clients).flatten().collect::<Vec<&Material>>()
    });
    let of_pools = config.pools.iter().filter_map(|pool| pool.tls.as_ref()).flat_map(|tls| {
        let own = tls.identity.iter().flat_map(|own| [&own.cert, &own.key]);
        let ca = match &tls.trust {
            Trust::Ca(ca) => Some(ca),
            Trust::System | Trust::Anybody => None,
        };
        own.chain(ca)
    });
    let all = of_listeners.chain(of_pools);
    let mut files: Vec<_> = all.filter_map(|material| material::path_of(&material.from).ok()).collect();
    files.sort();
    files.dedup();
    files
}
