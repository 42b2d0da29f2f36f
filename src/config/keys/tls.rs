//! `[listeners.NAME.tls]` and `[pools.NAME.tls]`: the keys of TLS towards clients and towards backends.

use super::{Form, Key, POOL_NAME, ROUTE_NAME, Shape};
use crate::config::shape::Absent::{Default, Means, Required};

const FILE: Form = Form::Text("path");

const MIN_VERSION: Key = Key {
    name: "min_version",
    forms: &[Form::Choice(&["1.2", "1.3"])],
    absent: Default("\"1.2\""),
    doc: "The oldest version that is spoken.",
};

/// `listeners.*.tls` in a listener.
pub(super) const LISTENER_TLS_KEY: Key = Key {
    name: "tls",
    forms: &[Form::Table(&LISTENER_TLS)],
    absent: Means("clients speak in the clear"),
    doc: "TLS towards clients: it ends here, and backends are spoken to as their pool says.",
};

/// `[listeners.NAME.tls]`
pub static LISTENER_TLS: Shape = Shape {
    what: "the tls of a listener",
    heading: Some("[listeners.NAME.tls]"),
    doc: "TLS 1.2 (with forward secrecy and authenticated encryption) and 1.3. Files may be paths, relative to the file they \
          are named in, or `\"credential:NAME\"` for a credential that systemd hands over (`LoadCredential=`).",
    keys: &[
        Key {
            name: "certificates",
            forms: &[Form::List(&[Form::Table(&CERTIFICATE)])],
            absent: Required,
            doc: "At least one. A client gets the one that has the name it asks for (a name goes before `*.`), of several the \
                  first whose key it can use; who asks for none of them gets the first in the list.",
        },
        MIN_VERSION,
        Key {
            name: "client_auth",
            forms: &[Form::Table(&CLIENT_AUTH)],
            absent: Means("clients are asked for no certificate"),
            doc: "Certificates of clients. A certificate can have another `client_auth` for its names: then a request on a \
                  connection that asked for a name with other demands is answered 421.",
        },
        Key {
            name: "passthrough",
            forms: &[Form::List(&[Form::Table(&PASSTHROUGH)])],
            absent: Means("all of it ends here"),
            doc: "Connections that do not end here: they go on to a backend as they are.",
        },
    ],
};

/// `[[listeners.NAME.tls.passthrough]]`
pub static PASSTHROUGH: Shape = Shape {
    what: "a passthrough",
    heading: Some("[[listeners.NAME.tls.passthrough]]"),
    doc: "TLS connections that are relayed to a pool unread, whose backends have the certificates. They are told by the first \
          message of the client (ClientHello; with ECH by its outer name), under the same rules as the routes of a tcp listener; \
          all others end here. Each needs `sni` or `alpn`, or both.",
    keys: &[ROUTE_NAME, SNI, ALPN, Key { name: "pool", forms: &[POOL_NAME], absent: Required, doc: "Where they go." }],
};

const SNI_DOC: &str = "Only for TLS that passes through: the server names that clients ask for, `\"db.example.com\"` or \
                       `\"*.example.com\"` for all names with one more label. An exact name goes before a wildcard before no \
                       `sni`; then `alpn` before none; then the order in the file.";
/// `sni` of what passes through
pub(super) const SNI: Key = Key {
    name: "sni",
    forms: &[Form::List(&[Form::Text("server name")])],
    absent: Means("any name, or none"),
    doc: SNI_DOC,
};
/// `alpn` of what passes through
pub(super) const ALPN: Key = Key {
    name: "alpn",
    forms: &[Form::List(&[Form::Text("protocol name")])],
    absent: Means("any protocols, or none"),
    doc: "Only for TLS that passes through: protocols (`\"h2\"`, `\"http/1.1\"`, `\"postgresql\"`) of which the client has to \
          offer one.",
};

/// One of `certificates`
pub static CERTIFICATE: Shape = Shape {
    what: "a certificate",
    heading: None,
    doc: "",
    keys: &[
        Key {
            name: "cert",
            forms: &[FILE],
            absent: Required,
            doc: "The chain in PEM: the server's own certificate first, then each one's issuer.",
        },
        Key { name: "key", forms: &[FILE], absent: Required, doc: "Its private key in PEM: PKCS#8, SEC1 or PKCS#1." },
        Key {
            name: "ocsp",
            forms: &[FILE],
            absent: Means("none is sent"),
            doc: "An OCSP response in DER that is sent along (stapled).",
        },
        Key {
            name: "client_auth",
            forms: &[Form::Table(&CLIENT_AUTH)],
            absent: Means("as `client_auth` of the listener's `tls`"),
            doc: "What is demanded of clients that ask for one of its names, and, of the first certificate, of those that ask \
                  for none of any. Certificates that have a name in common must demand the same.",
        },
    ],
};

/// `client_auth`
pub static CLIENT_AUTH: Shape = Shape {
    what: "`client_auth`",
    heading: None,
    doc: "",
    keys: &[
        Key {
            name: "mode",
            forms: &[Form::Choice(&["off", "optional", "required"])],
            absent: Default("\"required\""),
            doc: "`required`: who has no certificate of `ca` gets no connection. `optional`: who shows none is served as well; \
                  a bad one is refused either way. `off`: nobody is asked, as without `client_auth`.",
        },
        Key {
            name: "ca",
            forms: &[FILE],
            absent: Means("a fault, unless `mode` is `off`"),
            doc: "Who may have signed them, in PEM.",
        },
        Key {
            name: "crl",
            forms: &[FILE],
            absent: Means("none is revoked"),
            doc: "Lists of revoked certificates, in PEM; they must not have expired.",
        },
        Key {
            name: "forward",
            forms: &[Form::List(&[Form::Choice(&["subject", "san", "serial", "fingerprint", "cert"])])],
            absent: Means("nothing"),
            doc: "What of a client's certificate backends are told, each in a header of its own: `X-Client-Cert-Subject` (RFC \
                  4514), `X-Client-Cert-San` (`DNS:a.example, email:…, URI:…, IP:…`), `X-Client-Cert-Serial` and \
                  `X-Client-Cert-Fingerprint` (SHA-256) in hex, `Client-Cert` (all of it, RFC 9440). What is not visible ASCII \
                  is written as `\\` and two hex digits. Such headers that a client sends itself never pass, on any listener; \
                  those of `trusted_proxies` do where the connection has no `forward`. Only for http.",
        },
    ],
};

/// `pools.*.tls`
pub(super) const POOL_TLS_KEY: Key = Key {
    name: "tls",
    forms: &[Form::Table(&POOL_TLS)],
    absent: Means("backends are spoken to in the clear"),
    doc: "TLS towards backends; `tls = {}` is TLS with all defaults. Health checks use it as well.",
};

/// `[pools.NAME.tls]`
pub static POOL_TLS: Shape = Shape {
    what: "the tls of a pool",
    heading: Some("[pools.NAME.tls]"),
    doc: "A backend has to show a certificate for its name, from an authority that is trusted: else it gets nothing, and the \
          attempt has failed as one to connect does. Sessions are taken up again where a backend can. Files may be paths, \
          relative to the file they are named in, or `\"credential:NAME\"` for a credential that systemd hands over \
          (`LoadCredential=`); renewed ones are taken up without a reload.",
    keys: &[
        Key {
            name: "ca",
            forms: &[FILE],
            absent: Means("whom the system trusts"),
            doc: "Who may have signed the certificates of backends, in PEM, and nobody else.",
        },
        Key {
            name: "sni",
            forms: &[Form::Text("name")],
            absent: Means("the address of the backend"),
            doc: "The name that is asked for and that certificates have to have. Without it a certificate has to have the IP \
                  address of its backend; backends at Unix sockets need it.",
        },
        Key {
            name: "insecure_skip_verify",
            forms: &[Form::Bool],
            absent: Default("false"),
            doc: "`true`: any certificate will do, so whoever stands between can read and change everything. Not with `ca`.",
        },
        Key {
            name: "cert",
            forms: &[FILE],
            absent: Means("none is shown"),
            doc: "The certificate that backends are shown which ask for one: the chain in PEM, its own first. With `key`.",
        },
        Key {
            name: "key",
            forms: &[FILE],
            absent: Means("none is shown"),
            doc: "The private key of `cert` in PEM: PKCS#8, SEC1 or PKCS#1.",
        },
        MIN_VERSION,
    ],
};
