//! What is demanded of clients: one thing of all of them, or different things by the name they ask for.
//!
//! A connection is what its handshake has made it. A request that comes on it for a name with other demands belongs on another
//! connection (security.md R15): else whoever may connect for one name could use all of them.

use std::sync::Arc;

use crate::config::{ClientAuth, ListenerTls, Offered};

/// What is demanded of a client; `None`: nothing.
pub type Demand = Option<Arc<ClientAuth>>;

/// Whether two demands are the same.
#[must_use]
pub fn equal(one: Option<&Arc<ClientAuth>>, other: Option<&Arc<ClientAuth>>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => Arc::ptr_eq(one, other) || one.equals(other),
        _ => false,
    }
}

/// Where a request belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// On the connection it came on.
    Right,
    /// On another one; this one is good for other names.
    Elsewhere,
    /// On another one, like everything: since the handshake, no name demands any more what was demanded then.
    Outdated,
}

/// The different demands of a listener.
#[derive(Clone, Debug)]
pub struct Demands {
    all: Vec<Demand>,
    of_certificates: Vec<usize>,
}

impl Demands {
    /// Those of the certificates of this listener, each once.
    #[must_use]
    pub fn of(written: &ListenerTls) -> Demands {
        let mut all: Vec<Demand> = Vec::new();
        let place = |offered: &Offered| {
            let known = all.iter().position(|demand| equal(demand.as_ref(), offered.client_auth.as_ref()));
            known.unwrap_or_else(|| {
                all.push(offered.client_auth.clone());
                all.len() - 1
            })
        };
        let of_certificates = written.certificates.iter().map(place).collect();
        Demands { all, of_certificates }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[Demand] {
        &self.all
    }

    /// Where among them that of each certificate is.
    #[must_use]
    pub fn of_certificates(&self) -> &[usize] {
        &self.of_certificates
    }

    /// The one of all certificates.
    #[must_use]
    pub fn only(&self) -> Option<&Demand> {
        if self.all.len() == 1 { self.all.first() } else { None }
    }

    /// Whether it is among them.
    #[must_use]
    pub fn has(&self, demand: Option<&Arc<ClientAuth>>) -> bool {
        self.all.iter().any(|one| equal(one.as_ref(), demand))
    }
}
