//! The demonstration's clients: a few dozen requests a second over keep-alive connections, and a few TCP sessions.
//!
//! Each connection comes from another address of 127.0.0.0/8, so that policies that go by the client's address have
//! something to tell apart. Whatever goes wrong, a client counts it and begins anew after a pause.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::sync::{AtomicU64, Ordering};

/// How many clients ask over HTTP; each pauses about 200 ms between requests.
const WEB_CLIENTS: usize = 12;

/// How many clients have a TCP session open, or are about to.
const ECHO_CLIENTS: usize = 4;

/// Requests on one connection, and rounds in one session.
const ROUNDS: u32 = 20;

/// How long anything may take before the client gives up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the listeners are now; `None` while the file has none of the kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Doors {
    /// For HTTP.
    pub web: Option<SocketAddr>,
    /// For bytes.
    pub echo: Option<SocketAddr>,
}

/// What the clients count. All is relaxed: the numbers are for people, and nothing hangs on them.
#[derive(Debug, Default)]
pub struct Tallies {
    /// Of requests over HTTP.
    pub web: Tally,
    /// Of TCP sessions.
    pub echo: Tally,
}

/// How often clients were served and how often not.
#[derive(Debug, Default)]
pub struct Tally {
    served: AtomicU64,
    failed: AtomicU64,
    /// In microseconds.
    slowest: AtomicU64,
}

impl Tally {
    fn count(&self, is_served: bool, took: Duration) {
        let counter = if is_served { &self.served } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        self.slowest.fetch_max(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Those that got what they came for.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Those that did not.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// The longest that one took since this was last asked.
    #[must_use]
    pub fn take_slowest(&self) -> Duration {
        Duration::from_micros(self.slowest.swap(0, Ordering::Relaxed))
    }
}

/// Runs all clients until dropped; their pauses are `speed` times as short as they would be.
pub async fn run(doors: watch::Receiver<Doors>, tallies: Arc<Tallies>, speed: u32) {
    let mut clients = JoinSet::new();
    for _ in 0..WEB_CLIENTS {
        let (doors, tallies) = (doors.clone(), Arc::clone(&tallies));
        clients.spawn_local(async move { browse(|| doors.borrow().web, &tallies.web, speed).await });
    }
    for _ in 0..ECHO_CLIENTS {
        let (doors, tallies) = (doors.clone(), Arc::clone(&tallies));
        clients.spawn_local(async move { converse(|| doors.borrow().echo, &tallies.echo, speed).await });
    }
    while clients.join_next().await.is_some() {}
}

/// Asks over one connection after the other.
async fn browse(door: impl Fn() -> Option<SocketAddr>, tally: &Tally, speed: u32) {
    loop {
        sleep(pause(200, speed)).await;
        let Some(address) = door() else { continue };
        let mut connection = None;
        for round in 0..ROUNDS {
            let begun = clock::now();
            let asked =
                timeout(PATIENCE, ask(&mut connection, address, round)).await.unwrap_or_else(|late| Err(late.into()));
            tally.count(asked.is_ok(), clock::now().since(begun));
            match asked {
                Ok(Keeps::Open) => sleep(pause(200, speed)).await,
                Ok(Keeps::Closed) => break,
                Err(_) => {
                    sleep(pause(500, speed)).await;
                    break;
                }
            }
        }
    }
}

/// Has one session after the other.
async fn converse(door: impl Fn() -> Option<SocketAddr>, tally: &Tally, speed: u32) {
    loop {
        sleep(pause(200, speed)).await;
        let Some(address) = door() else { continue };
        let begun = clock::now();
        let talked = match connect(address).await {
            Ok(stream) => talk(stream, speed).await,
            Err(error) => Err(error),
        };
        tally.count(talked.is_ok(), clock::now().since(begun));
        if talked.is_err() {
            sleep(pause(500, speed)).await;
        }
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, fastrand::u8(1..), fastrand::u8(1..)], 0)))?;
    let stream = timeout(PATIENCE, socket.connect(address)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What becomes of a connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeps {
    Open,
    Closed,
}

/// One request over `connection`, which is made when there is none.
async fn ask(connection: &mut Option<BufReader<TcpStream>>, address: SocketAddr, round: u32) -> io::Result<Keeps> {
    let stream = match connection {
        Some(stream) => stream,
        None => connection.insert(BufReader::new(connect(address).await?)),
    };
    let head = format!("GET /page/{round} HTTP/1.1\r\nHost: demo.localhost\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let (length, keeps) = read_head(stream).await?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(keeps)
}

/// Reads the head of a good response: how long its body is, and what comes after it. All others are errors, as is a body
/// without a length, which no server here sends.
async fn read_head(stream: &mut BufReader<TcpStream>) -> io::Result<(usize, Keeps)> {
    let (mut is_good, mut length, mut keeps) = (None, None, Keeps::Open);
    let mut line = String::new();
    loop {
        line.clear();
        if stream.take(8192).read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let field = line.trim_end().to_ascii_lowercase();
        let Some(is_good) = is_good else {
            is_good = Some(field.starts_with("http/1.1 200"));
            continue;
        };
        if field.is_empty() {
            let known = length.filter(|length| is_good && *length <= 1 << 20);
            return known.map(|length| (length, keeps)).ok_or_else(|| io::ErrorKind::InvalidData.into());
        }
        if let Some(value) = field.strip_prefix("content-length:") {
            length = value.trim().parse().ok();
        }
        if field == "connection: close" {
            keeps = Keeps::Closed;
        }
    }
}

async fn talk(stream: TcpStream, speed: u32) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut greeting = String::new();
    timeout(PATIENCE, (&mut stream).take(256).read_line(&mut greeting)).await??;
    let mut back = [0; 64];
    for _ in 0..ROUNDS {
        stream.write_all(&[b'.'; 64]).await?;
        timeout(PATIENCE, stream.read_exact(&mut back)).await??;
        sleep(pause(100, speed)).await;
    }
    stream.shutdown().await
}

/// About so many milliseconds, give or take a half, at this speed.
fn pause(millis: u64, speed: u32) -> Duration {
    Duration::from_millis(millis).mul_f64(0.5 + fastrand::f64()) / speed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_meet_is_counted() {
        let tally = Tally::default();
        for (is_served, millis) in [(true, 3), (false, 900), (true, 5)] {
            tally.count(is_served, Duration::from_millis(millis));
        }
        assert_eq!((tally.served(), tally.failed()), (2, 1));
        assert_eq!(tally.take_slowest(), Duration::from_millis(900));
        tally.count(true, Duration::from_millis(7));
        assert_eq!(tally.take_slowest(), Duration::from_millis(7), "since it was asked");
    }

    /// What a client makes of this answer.
    async fn answered(answer: &'static str) -> io::Result<Keeps> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_u8().await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream
        };
        let mut connection = None;
        let (asked, _stream) = tokio::join!(ask(&mut connection, address, 0), serve);
        asked
    }

    #[tokio::test]
    async fn only_a_whole_good_answer_is_one() {
        assert_eq!(answered("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await.unwrap(), Keeps::Open);
        let last = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";
        assert_eq!(answered(last).await.unwrap(), Keeps::Closed);
        assert!(answered("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\nno").await.is_err());
    }
}
