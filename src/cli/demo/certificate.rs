//! The demonstration's own certificate: signed by itself, for loopback, and for as long as a demonstration may last.

use std::io;

use rcgen::{CertificateParams, DnType, KeyPair, SanType, date_time_ymd};

use crate::clock::{self, Date};

/// How long it is valid, in seconds: thirty days, so that nobody is warned of its end.
const LENGTH: i64 = 30 * 24 * 60 * 60;

/// The certificate and its key, in PEM.
pub struct SelfSigned {
    /// The certificate.
    pub cert: String,
    /// The key.
    pub key: String,
}

impl SelfSigned {
    /// A new one.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn make() -> io::Result<SelfSigned> {
        let made = || -> Result<SelfSigned, rcgen::Error> {
            let mut params = CertificateParams::new(["localhost".to_owned()])?;
            params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
            params.distinguished_name.push(DnType::CommonName, "Evenkeel demonstration");
            let now = clock::today();
            let ((year, month, day), (until, last_month, last)) = (now.civil(), Date(now.0 + LENGTH).civil());
            params.not_before = date_time_ymd(year, month, day);
            params.not_after = date_time_ymd(until, last_month, last);
            let key = KeyPair::generate()?;
            Ok(SelfSigned { cert: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
        };
        made().map_err(io::Error::other)
    }
}
