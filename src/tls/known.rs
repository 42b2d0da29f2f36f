//! What is known of a client's TLS after its handshake, in the words in which the next proxy is told of it.

use rustls::{CipherSuite, HandshakeKind, ProtocolVersion, ServerConnection};

use super::Identity;
use crate::proxy_protocol::{Certificate, Handshake, Tls};

/// What the handshake of this connection has come to, whose client is `identity` where something was demanded of it.
#[must_use]
pub fn known(connection: &ServerConnection, identity: Option<&Identity>) -> Tls {
    let certificate = match (connection.peer_certificates(), connection.handshake_kind()) {
        (None, _) => Certificate::Absent,
        (Some(_), Some(HandshakeKind::Resumed)) => Certificate::Remembered,
        (Some(_), _) => Certificate::Shown,
    };
    let versions = connection.protocol_version().zip(connection.negotiated_cipher_suite());
    Tls {
        protocol: connection.alpn_protocol().map(<[u8]>::to_vec),
        authority: connection.server_name().map(str::to_owned),
        handshake: versions.map(|(version, suite)| Handshake {
            version: version_name(version),
            cipher: cipher_name(suite.suite()),
            certificate,
            common_name: identity.and_then(Identity::common_name).map(str::to_owned),
        }),
    }
}

/// As OpenSSL calls it, and whoever reads it expects.
fn version_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_2 => "TLSv1.2",
        ProtocolVersion::TLSv1_3 => "TLSv1.3",
        other => other.as_str().unwrap_or_default(),
    }
}

/// The same of the suites that are spoken.
fn cipher_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        other => other.as_str().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::provider;
    use super::*;

    #[test]
    fn every_suite_that_is_spoken_has_the_name_openssl_gives_it() {
        for suite in &provider().cipher_suites {
            let name = cipher_name(suite.suite());
            let is_named = if suite.tls13().is_some() { name.starts_with("TLS_") } else { name.starts_with("ECDHE-") };
            assert!(is_named && !name.contains("WITH"), "{name}");
        }
    }
}
