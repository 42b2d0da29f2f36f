//! To the backend: making a connection, and keeping those that can be used again.

pub mod idle;
pub mod shared;

use std::borrow::Borrow;
use std::io;
use std::net::SocketAddr;

use rustix::io::Errno;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::config::Address;
use crate::outcome::Outcome;
use crate::proxy_protocol::{self, Addresses, Tls, Version};
use crate::state::Pool;
use crate::stream::{Plain, Secured, Stream};
use crate::tls::{Alpn, ClientTls};

/// The PROXY header that announces a client who came so; empty where the pool sends none. What is known of its TLS is asked for
/// only where that is told.
#[must_use]
pub fn announcement<T: Borrow<Tls>>(
    pool: &Pool,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
    tls: impl FnOnce() -> Option<T>,
) -> Vec<u8> {
    let Some(version) = pool.send_proxy_protocol else { return Vec::new() };
    let addresses = peer.zip(local).map(|(source, destination)| Addresses { source, destination });
    let tls = if matches!(version, Version::V2(wanted) if wanted.any()) { tls() } else { None };
    proxy_protocol::encode(version, addresses, tls.as_ref().map(Borrow::borrow))
}

/// How a backend is reached, and what is said to it before anything of the client's.
#[derive(Clone, Copy, Debug)]
pub struct Approach<'a> {
    /// Where it is.
    pub address: &'a Address,
    /// Goes first, in the clear.
    pub announcement: &'a [u8],
    /// What is agreed upon then; `None`: all of it is in the clear.
    pub tls: Option<&'a ClientTls>,
    /// What is to be spoken on top of that.
    pub alpn: Alpn,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum Unreached {
    /// None could be made, or it broke at once.
    Connect(io::Error),
    /// It stood, and the TLS handshake failed.
    Handshake(io::Error),
}

/// A connection to a backend; else how the attempt ended, which is before anything of the client's was sent.
///
/// Whoever calls it has the deadline. Cancelling it closes the half-made connection.
pub async fn connect(approach: Approach<'_>) -> Result<Stream, Outcome> {
    let address = approach.address;
    dial(approach).await.map_err(|unreached| match unreached {
        Unreached::Connect(error) => {
            tracing::debug!(%address, %error, "cannot connect");
            of_error(&error)
        }
        Unreached::Handshake(error) => {
            tracing::debug!(%address, %error, "TLS handshake with the backend failed");
            Outcome::TlsHandshakeFailed
        }
    })
}

/// Whether it was the backend that refused, or we that had nothing left to connect with: descriptors, memory, or local
/// ports to this address.
fn of_error(error: &io::Error) -> Outcome {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL) => Outcome::NoSocket,
        _ => Outcome::ConnectFailed,
    }
}

/// The same with what is known of a failure.
///
/// # Errors
/// No connection could be made.
pub async fn dial(approach: Approach<'_>) -> Result<Stream, Unreached> {
    let stream = reach(&approach).await.map_err(Unreached::Connect)?;
    match approach.tls {
        None => Ok(stream),
        Some(tls) => secure(stream, tls, &approach).await.map_err(Unreached::Handshake),
    }
}

async fn reach(approach: &Approach<'_>) -> io::Result<Stream> {
    let mut stream = open(approach.address).await?;
    if !approach.announcement.is_empty() {
        stream.write_all(approach.announcement).await?;
    }
    Ok(stream)
}

async fn secure(stream: Stream, tls: &ClientTls, approach: &Approach<'_>) -> io::Result<Stream> {
    let named = tls.towards(approach.address, approach.alpn).zip(Plain::new(stream, Vec::new()));
    let Some(((config, name), plain)) = named else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no name to verify: the pool needs `sni`"));
    };
    // In a block of its own: it is large, and not needed for most connections.
    let session = Box::pin(TlsConnector::from(config).connect(name, plain)).await.map_err(plainly)?;
    Ok(Stream::Tls(Box::new(Secured::new(session))))
}

/// The same error in words, where the library's own leave too much to guess.
fn plainly(error: io::Error) -> io::Error {
    use rustls::{CertificateError, Error};
    let words = match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(Error::InvalidMessage(_)) => "what it says is not TLS",
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "its certificate is signed by nobody who is trusted"
        }
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{words} ({error})"))
}

async fn open(address: &Address) -> io::Result<Stream> {
    match address {
        Address::Ip(address) => {
            let stream = TcpStream::connect(address).await?;
            // Small requests must not wait for the acknowledgement of the one before.
            stream.set_nodelay(true)?;
            Ok(Stream::Tcp(stream))
        }
        Address::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Waker};
    use std::time::Duration;

    use rustls::ServerConfig;
    use tokio::net::TcpListener;
    use tokio::task::{coop, yield_now};
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::server::TlsStream;

    use super::*;
    use crate::config::from_text;
    use crate::tls::{HTTP_1, Materials, provider};

    /// A connection to a backend over TLS, and its other end.
    async fn pair() -> (Stream, TlsStream<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let text = format!(
            "listeners.w = {{ bind = '127.0.0.1:0', pool = 'app' }}\n\
             pools.app = {{ backends = ['{address}'], tls = {{ insecure_skip_verify = true }} }}"
        );
        let materials = Materials::read(&from_text("test.toml", &text).unwrap().config, None).unwrap();
        let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(Vec::new()).unwrap();
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let key = signing_key.serialize_der().try_into().unwrap();
        let config = builder.with_no_client_auth().with_single_cert(vec![cert.into()], key).unwrap();
        let tls = materials.pool("app").map(|tls| &**tls);
        let approach = Approach { address: &Address::Ip(address), announcement: &[], tls, alpn: HTTP_1 };
        let accept = async { TlsAcceptor::from(Arc::new(config)).accept(listener.accept().await.unwrap().0).await };
        let (stream, origin) = tokio::join!(dial(approach), accept);
        (stream.unwrap(), origin.unwrap())
    }

    /// What a task sees of it whose turn is over.
    fn is_silent_late(stream: &Stream) -> bool {
        while coop::has_budget_remaining() {
            let _ = pin!(coop::consume_budget()).poll(&mut Context::from_waker(Waker::noop()));
        }
        stream.is_silent()
    }

    /// Ends when it is silent no more.
    async fn heard(stream: &Stream) {
        let ends = async {
            while is_silent_late(stream) {
                yield_now().await;
            }
        };
        // What the other end did may take its time to this one.
        tokio::time::timeout(Duration::from_secs(10), ends).await.expect("it is heard");
    }

    #[tokio::test]
    async fn an_idle_connection_over_tls_is_silent_until_something_is_said_or_ended() {
        let (stream, origin) = pair().await;
        assert!(stream.is_secure() && is_silent_late(&stream), "tickets are none of ours");
        drop(origin);
        heard(&stream).await;
        let (stream, mut origin) = pair().await;
        origin.shutdown().await.unwrap();
        heard(&stream).await;
        let (stream, mut origin) = pair().await;
        origin.write_all(b"x").await.unwrap();
        origin.flush().await.unwrap();
        heard(&stream).await;
    }

    #[test]
    fn what_we_lack_is_not_the_backends_fault() {
        let of = |errno: Errno| of_error(&io::Error::from_raw_os_error(errno.raw_os_error()));
        for ours in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL] {
            assert_eq!(of(ours), Outcome::NoSocket, "{ours:?}");
        }
        for its in [Errno::CONNREFUSED, Errno::HOSTUNREACH, Errno::NETUNREACH, Errno::CONNRESET, Errno::AGAIN] {
            assert_eq!(of(its), Outcome::ConnectFailed, "{its:?}");
        }
    }
}
