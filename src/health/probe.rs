//! One probe: a connection of its own, a question, an answer, all within one time.
//!
//! Nothing of the traffic's connections is used, and nothing of a probe's outlives it.

use std::cell::Cell;
use std::io;

use tokio::time::timeout;

use super::answer::{Answer, Fault, Stage};
use super::{grpc, http, http2};
use crate::config::{Address, Aim, HealthCheck, HttpVersion, Probe};
use crate::proxy_protocol::{self, Version};
use crate::stream::Stream;
use crate::tls::{Alpn, ClientTls, HTTP_1, HTTP_2, RAW};
use crate::upstream::{self, Approach, Unreached};

/// Asks a backend at `address` once, which expects such a PROXY header, this TLS and requests in this version of HTTP.
/// Cancelling it closes its connection.
pub(super) async fn ask(
    check: &HealthCheck,
    address: &Address,
    announced: Option<Version>,
    tls: Option<&ClientTls>,
    http_version: HttpVersion,
) -> Answer {
    let stage = Cell::new(Stage::Connecting);
    let to = check.aim.of(address);
    let announcement = match announced {
        // What answers elsewhere about the backend is not what its clients are announced to.
        Some(version) if check.aim == Aim::Backend => proxy_protocol::encode(version, None, None),
        _ => Vec::new(),
    };
    // What has come is read before the time is looked at, so a thread that was held up does not make late what was in time.
    let speaks = Speaks::of(check, http_version);
    let approach = Approach { address: &to, announcement: &announcement, tls, alpn: speaks.alpn() };
    match timeout(check.timeout, ask_at(&check.probe, speaks, approach, &stage)).await {
        Ok(answer) => answer,
        Err(_) => Answer::Bad(Fault::Timeout { after: check.timeout, stage: stage.get() }),
    }
}

/// What a probe speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    Nothing,
    H1,
    H2,
}

impl Speaks {
    /// As its requests are: such a backend may know nothing else. What answers elsewhere about it is another program, of which
    /// the pool's version says nothing.
    fn of(check: &HealthCheck, version: HttpVersion) -> Speaks {
        match &check.probe {
            Probe::Tcp => Speaks::Nothing,
            Probe::Http(_) if version == HttpVersion::H2 && check.aim == Aim::Backend => Speaks::H2,
            Probe::Http(_) => Speaks::H1,
            Probe::Grpc { .. } => Speaks::H2,
        }
    }

    /// How it says so on top of TLS.
    fn alpn(self) -> Alpn {
        match self {
            Speaks::Nothing => RAW,
            Speaks::H1 => HTTP_1,
            Speaks::H2 => HTTP_2,
        }
    }
}

async fn ask_at(probe: &Probe, speaks: Speaks, approach: Approach<'_>, stage: &Cell<Stage>) -> Answer {
    let stream = match upstream::dial(approach).await {
        Ok(stream) => stream,
        Err(Unreached::Connect(error)) => return Answer::of_connect(error),
        Err(Unreached::Handshake(error)) => return Answer::Bad(Fault::Handshake(error)),
    };
    if is_mirror(&stream) {
        return Answer::of_connect(io::ErrorKind::ConnectionRefused.into());
    }
    stage.set(Stage::Waiting);
    ask_over(stream, probe, speaks, approach.address, stage).await.map_or_else(Answer::Bad, |()| Answer::Good)
}

/// Whether we reached ourselves: where nobody listens on a port of this machine, a connection to it can get that very port as
/// its own, and then it stands.
fn is_mirror(stream: &Stream) -> bool {
    match stream {
        Stream::Tcp(stream) => stream.local_addr().is_ok_and(|own| stream.peer_addr().is_ok_and(|peer| peer == own)),
        // Over TLS the handshake with ourselves has failed.
        Stream::Unix(_) | Stream::Tls(_) => false,
    }
}

async fn ask_over(
    connection: Stream,
    probe: &Probe,
    speaks: Speaks,
    to: &Address,
    stage: &Cell<Stage>,
) -> Result<(), Fault> {
    match probe {
        Probe::Tcp => {
            connection.close();
            Ok(())
        }
        Probe::Http(probe) if speaks == Speaks::H2 => {
            let origin = origin(&connection, probe.host.as_deref(), to);
            http2::ask(connection, probe, &origin, stage).await
        }
        Probe::Http(probe) => http::ask(connection, probe, &host(probe.host.as_deref(), to), stage).await,
        Probe::Grpc { service, host: own } => {
            let origin = origin(&connection, own.as_deref(), to);
            grpc::ask(connection, service, &origin, stage).await
        }
    }
}

/// The scheme and the host of a request over HTTP/2.
fn origin(connection: &Stream, own: Option<&str>, to: &Address) -> String {
    let scheme = if connection.is_secure() { "https" } else { "http" };
    format!("{scheme}://{}", host(own, to))
}

/// What goes into `Host`. A Unix socket has no name that could stand there.
fn host(own: Option<&str>, to: &Address) -> String {
    match (own, to) {
        (Some(own), _) => own.to_owned(),
        (None, Address::Ip(address)) => address.to_string(),
        (None, Address::Unix(_)) => "localhost".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpSocket;

    use super::*;

    #[tokio::test]
    async fn a_connection_to_itself_is_nobody() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let own = socket.local_addr().unwrap();
        assert!(is_mirror(&Stream::Tcp(socket.connect(own).await.unwrap())));
    }
}
