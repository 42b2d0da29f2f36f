//! The demonstration's servers: four that speak HTTP, of different speed and size, which fail when they are told to, and
//! three that send back the bytes they get.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// As many connections as one server serves at a time; more wait.
const MOST_CONNECTIONS: usize = 512;

/// As many may wait to be accepted.
const BACKLOG: u32 = 128;

/// Where a server says whether it is well.
pub const HEALTH: &str = "/healthz";

/// How a server behaves.
#[derive(Clone, Copy, Debug)]
pub struct Character {
    /// Its name in the file.
    pub name: &'static str,
    /// Its weight in the file.
    pub weight: u32,
    /// How long it thinks, give or take a half.
    pub pace: Duration,
}

const fn character(name: &'static str, weight: u32, pace_ms: u64) -> Character {
    Character { name, weight, pace: Duration::from_millis(pace_ms) }
}

/// Those that speak HTTP.
pub const WEB: [Character; 4] =
    [character("swift", 4, 2), character("steady", 2, 8), character("slow", 1, 60), character("flaky", 2, 5)];

/// Those that echo bytes.
pub const ECHO: [Character; 3] = [character("echo-1", 2, 1), character("echo-2", 1, 4), character("echo-3", 1, 15)];

/// What a server that speaks HTTP does to those who ask it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// It answers.
    #[default]
    Well,
    /// It is gone: its connections are cut, and nobody listens at its port.
    Refuses,
    /// It takes requests and answers none.
    Hangs,
    /// It answers all but [`HEALTH`] with 500.
    Fails,
    /// It does so with every second one.
    FailsHalf,
    /// It answers, but says that it is not well.
    SaysUnwell,
}

/// A server with the port that it got.
#[derive(Debug)]
pub struct Origin {
    /// How it behaves.
    pub character: Character,
    /// Where it is.
    pub address: SocketAddr,
    /// Holds the port when nobody listens at it.
    _port: TcpSocket,
}

impl Origin {
    /// Takes a port of loopback.
    ///
    /// # Errors
    /// When there is none left.
    pub fn bind(character: Character) -> io::Result<Origin> {
        let port = socket(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        Ok(Origin { character, address: port.local_addr()?, _port: port })
    }

    /// Answers HTTP requests as `mood` says, until dropped or nobody says any more.
    pub async fn serve_web(self, mut mood: watch::Receiver<Mood>) -> io::Result<()> {
        let served = Rc::new(Cell::new(0));
        while mood.wait_for(|mood| *mood != Mood::Refuses).await.is_ok() {
            let listener = socket(self.address)?.listen(BACKLOG)?;
            let told = mood.clone();
            let connection = |stream| web_connection(stream, self.character, served.clone(), told.clone());
            // What is dropped here are the connections, which is what it is to be gone.
            tokio::select! {
                () = accept(&listener, connection) => {}
                _ = mood.wait_for(|mood| *mood == Mood::Refuses) => {}
            }
        }
        Ok(())
    }

    /// Echoes bytes until dropped.
    pub async fn serve_echo(self) -> io::Result<()> {
        let character = self.character;
        accept(&socket(self.address)?.listen(BACKLOG)?, |stream| async move {
            // An end by reset is an end like any other here.
            let _ = echo(stream, character).await;
        })
        .await;
        Ok(())
    }
}

/// Several can be bound to one address, of which those count that listen.
fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn accept<F: Future<Output = ()> + 'static>(listener: &TcpListener, serve: impl Fn(TcpStream) -> F) {
    // Dropping the set ends the connections with their server.
    let mut connections = JoinSet::new();
    loop {
        // Nothing is lost by cancelling: accepting takes a connection only when it is ready, joining likewise.
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MOST_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn_local(serve(stream));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn web_connection(stream: TcpStream, character: Character, served: Rc<Cell<u32>>, mood: watch::Receiver<Mood>) {
    let service = service_fn(move |request| answer(request, character, served.clone(), mood.clone()));
    // The balancer may hang up whenever it likes.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    request: Request<Incoming>,
    character: Character,
    served: Rc<Cell<u32>>,
    mut mood: watch::Receiver<Mood>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    // An error is the demonstration's end.
    let mood = mood.wait_for(|mood| *mood != Mood::Hangs).await.map_or(Mood::Well, |mood| *mood);
    let is_probe = request.uri().path() == HEALTH;
    if !is_probe {
        served.set(served.get().wrapping_add(1));
    }
    let status = status(mood, is_probe, served.get());
    if !is_probe {
        tokio::time::sleep(thinking_time(character.pace)).await;
    }
    let text = match status {
        StatusCode::OK => format!("hello from {} ({} {})\n", character.name, request.method(), request.uri()),
        failed => format!("{} says {failed}, as it was told to\n", character.name),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    Ok(response)
}

/// The answer to a probe, or to the so-many-th request.
fn status(mood: Mood, is_probe: bool, nth: u32) -> StatusCode {
    match (mood, is_probe) {
        (Mood::Fails, false) => StatusCode::INTERNAL_SERVER_ERROR,
        (Mood::FailsHalf, false) if nth.is_multiple_of(2) => StatusCode::INTERNAL_SERVER_ERROR,
        (Mood::SaysUnwell, true) => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    }
}

fn thinking_time(pace: Duration) -> Duration {
    pace.mul_f64(0.5 + fastrand::f64())
}

async fn echo(mut stream: TcpStream, character: Character) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(format!("hello from {}\n", character.name).as_bytes()).await?;
    let mut bytes = [0; 4096];
    loop {
        let read = stream.read(&mut bytes).await?;
        if read == 0 {
            return stream.shutdown().await;
        }
        tokio::time::sleep(thinking_time(character.pace)).await;
        stream.write_all(&bytes[..read]).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_requests_still_says_that_it_is_well() {
        let of = |mood, is_probe| [1, 2, 3, 4].map(|nth| status(mood, is_probe, nth).as_u16());
        assert_eq!(of(Mood::Fails, false), [500; 4]);
        assert_eq!(of(Mood::FailsHalf, false), [200, 500, 200, 500]);
        assert_eq!((of(Mood::Fails, true), of(Mood::FailsHalf, true)), ([200; 4], [200; 4]));
        assert_eq!((of(Mood::SaysUnwell, true), of(Mood::SaysUnwell, false)), ([503; 4], [200; 4]));
    }

    #[tokio::test]
    async fn who_is_gone_refuses_and_comes_back_at_its_port() {
        let origin = Origin::bind(WEB[0]).unwrap();
        let (address, (direct, mood)) = (origin.address, watch::channel(Mood::Refuses));
        let refused = TcpStream::connect(address).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "the port is held, but nobody listens");
        let served = tokio::task::LocalSet::new();
        served.spawn_local(origin.serve_web(mood));
        let come_and_go = async {
            for _ in 0..3 {
                direct.send_replace(Mood::Well);
                let mut stream = loop {
                    match TcpStream::connect(address).await {
                        Ok(stream) => break stream,
                        Err(_) => tokio::task::yield_now().await,
                    }
                };
                direct.send_replace(Mood::Refuses);
                // Reset or closed: the connection is cut with it.
                let _ = stream.read(&mut [0]).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(10), served.run_until(come_and_go)).await;
        assert!(in_time.is_ok());
    }
}
