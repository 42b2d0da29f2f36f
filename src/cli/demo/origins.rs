//! The demonstration's servers: four that speak HTTP, of different speed and size, one of which fails now and then, and
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
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// As many connections as one server serves at a time; more wait.
const MOST_CONNECTIONS: usize = 512;

/// How a server behaves.
#[derive(Clone, Copy, Debug)]
pub struct Character {
    /// Its name in the file.
    pub name: &'static str,
    /// Its weight in the file.
    pub weight: u32,
    /// How long it thinks, give or take a half.
    pub pace: Duration,
    /// It answers every so-many-th request with 500.
    pub fails_every: Option<u32>,
}

const fn character(name: &'static str, weight: u32, pace_ms: u64, fails_every: Option<u32>) -> Character {
    Character { name, weight, pace: Duration::from_millis(pace_ms), fails_every }
}

/// Those that speak HTTP.
pub const WEB: [Character; 4] = [
    character("swift", 4, 2, None),
    character("steady", 2, 8, None),
    character("slow", 1, 60, None),
    character("flaky", 1, 5, Some(9)),
];

/// Those that echo bytes.
pub const ECHO: [Character; 3] =
    [character("echo-1", 2, 1, None), character("echo-2", 1, 4, None), character("echo-3", 1, 15, None)];

/// A server with the port that it got.
#[derive(Debug)]
pub struct Origin {
    /// How it behaves.
    pub character: Character,
    /// Where it is.
    pub address: SocketAddr,
    listener: TcpListener,
}

impl Origin {
    /// Takes a port of loopback.
    ///
    /// # Errors
    /// When there is none left.
    pub async fn bind(character: Character) -> io::Result<Origin> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        Ok(Origin { character, address: listener.local_addr()?, listener })
    }

    /// Answers HTTP requests until dropped.
    pub async fn serve_web(self) {
        let served = Rc::new(Cell::new(0));
        let character = self.character;
        accept(&self.listener, |stream| web_connection(stream, character, served.clone())).await;
    }

    /// Echoes bytes until dropped.
    pub async fn serve_echo(self) {
        let character = self.character;
        accept(&self.listener, |stream| async move {
            // An end by reset is an end like any other here.
            let _ = echo(stream, character).await;
        })
        .await;
    }
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

async fn web_connection(stream: TcpStream, character: Character, served: Rc<Cell<u32>>) {
    let service = service_fn(move |request| answer(request, character, served.clone()));
    // The balancer may hang up whenever it likes.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    request: Request<Incoming>,
    character: Character,
    served: Rc<Cell<u32>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    served.set(served.get().wrapping_add(1));
    tokio::time::sleep(thinking_time(character.pace)).await;
    let failed = character.fails_every.is_some_and(|every| served.get().is_multiple_of(every));
    let text = if failed {
        format!("{} has failed, as it does now and then\n", character.name)
    } else {
        format!("hello from {} ({} {})\n", character.name, request.method(), request.uri())
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    if failed {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    Ok(response)
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
