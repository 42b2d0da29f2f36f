//! The demonstration's clients: a few dozen requests a second over keep-alive connections, and a few TCP sessions.
//!
//! Each connection comes from another address of 127.0.0.0/8, so that policies that go by the client's address have
//! something to tell apart. Whatever goes wrong, a client begins anew after a pause; the balancer's counts tell the story.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

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

/// Runs all clients until dropped.
pub async fn run(doors: watch::Receiver<Doors>) {
    let mut clients = JoinSet::new();
    for _ in 0..WEB_CLIENTS {
        let doors = doors.clone();
        clients.spawn_local(async move { client(|| doors.borrow().web, browse).await });
    }
    for _ in 0..ECHO_CLIENTS {
        let doors = doors.clone();
        clients.spawn_local(async move { client(|| doors.borrow().echo, talk).await });
    }
    while clients.join_next().await.is_some() {}
}

async fn client<F: Future<Output = io::Result<()>>>(door: impl Fn() -> Option<SocketAddr>, visit: impl Fn(TcpStream) -> F) {
    loop {
        sleep(pause(200)).await;
        let visited = match door() {
            Some(address) => match connect(address).await {
                Ok(stream) => visit(stream).await,
                Err(error) => Err(error),
            },
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        if visited.is_err() {
            sleep(pause(500)).await;
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

async fn browse(stream: TcpStream) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    for round in 0..ROUNDS {
        timeout(PATIENCE, request(&mut stream, round)).await??;
        sleep(pause(200)).await;
    }
    Ok(())
}

async fn request(stream: &mut BufReader<TcpStream>, round: u32) -> io::Result<()> {
    let head = format!("GET /page/{round} HTTP/1.1\r\nHost: demo.localhost\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let length = read_head(stream).await?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(())
}

/// Reads a response head and returns the body's length. A body without one, which no server here sends, ends the visit.
async fn read_head(stream: &mut BufReader<TcpStream>) -> io::Result<usize> {
    let mut length = None;
    let mut line = String::new();
    loop {
        line.clear();
        if stream.take(8192).read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let field = line.trim_end().to_ascii_lowercase();
        if field.is_empty() {
            let known = length.filter(|length| *length <= 1 << 20);
            return known.ok_or_else(|| io::ErrorKind::InvalidData.into());
        }
        if let Some(value) = field.strip_prefix("content-length:") {
            length = value.trim().parse().ok();
        }
    }
}

async fn talk(stream: TcpStream) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut greeting = String::new();
    timeout(PATIENCE, (&mut stream).take(256).read_line(&mut greeting)).await??;
    let mut back = [0; 64];
    for _ in 0..ROUNDS {
        stream.write_all(&[b'.'; 64]).await?;
        timeout(PATIENCE, stream.read_exact(&mut back)).await??;
        sleep(pause(100)).await;
    }
    stream.shutdown().await
}

/// About so many milliseconds, give or take a half.
fn pause(millis: u64) -> Duration {
    Duration::from_millis(millis).mul_f64(0.5 + fastrand::f64())
}
