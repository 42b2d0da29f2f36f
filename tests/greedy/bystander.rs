//! A well-behaved client: it asks for a little, on fresh connections and on one that it keeps, and notes what it gets.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::eventually;

/// How long it waits for an answer before it gives up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two of its requests.
const PAUSE: Duration = Duration::from_millis(2);

const KEPT: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";
const FRESH: &str = "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";

/// One at work.
pub struct Bystander {
    left: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Vec<Option<Duration>>>>,
}

/// What it saw: how long each answer took, `None` for one that did not come or was not right.
pub struct Seen(Vec<Option<Duration>>);

type Client = fn(&str, &AtomicBool, &AtomicUsize) -> Vec<Option<Duration>>;

impl Bystander {
    pub fn beside(address: &str) -> Bystander {
        let (left, asked) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let threads = [keeps_its_connection as Client, connects_anew]
            .map(|client| {
                let (address, left, asked) = (address.to_owned(), left.clone(), Arc::clone(&asked));
                std::thread::spawn(move || client(&address, &left, &asked))
            })
            .into();
        Bystander { left, asked, threads }
    }

    /// Waits until it has had so many answers, or given up waiting for them.
    pub fn wait_for(&self, answers: usize) {
        eventually("it goes on asking", || self.asked.load(Ordering::SeqCst) >= answers);
    }

    pub fn leave(self) -> Seen {
        // Sequentially consistent for simplicity: nothing else goes with it.
        self.left.store(true, Ordering::SeqCst);
        Seen(self.threads.into_iter().flat_map(|thread| thread.join().expect("it does not panic")).collect())
    }
}

impl Seen {
    /// Which share of its requests were answered, and rightly.
    pub fn served_share(&self) -> f64 {
        assert!(self.0.len() >= 100, "it asked only {} times", self.0.len());
        self.0.iter().flatten().count() as f64 / self.0.len() as f64
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut took: Vec<_> = self.0.iter().flatten().collect();
        took.sort();
        let at = |share: usize| took.get(took.len() * share / 100).copied().copied().unwrap_or_default();
        let (asked, served) = (self.0.len(), took.len());
        write!(f, "{served} of {asked} served, p50 {:?}, p99 {:?}", at(50), at(99))
    }
}

fn connects_anew(address: &str, left: &AtomicBool, asked: &AtomicUsize) -> Vec<Option<Duration>> {
    let mut seen = Vec::new();
    while !left.load(Ordering::SeqCst) {
        let begun = Instant::now();
        let served = connect(address).and_then(|mut stream| ask(&mut stream, FRESH));
        seen.push(served.is_ok().then(|| begun.elapsed()));
        asked.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(PAUSE);
    }
    seen
}

fn keeps_its_connection(address: &str, left: &AtomicBool, asked: &AtomicUsize) -> Vec<Option<Duration>> {
    let mut seen = Vec::new();
    let mut kept = None;
    while !left.load(Ordering::SeqCst) {
        let begun = Instant::now();
        let stream = kept.take().map_or_else(|| connect(address), Ok);
        let served = stream.and_then(|mut stream| ask(&mut stream, KEPT).map(|()| stream));
        seen.push(served.is_ok().then(|| begun.elapsed()));
        kept = served.ok();
        asked.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(PAUSE);
    }
    seen
}

/// A connection on which one request was answered and which is kept.
pub fn idle(address: &str) -> io::Result<TcpStream> {
    let mut stream = connect(address)?;
    ask(&mut stream, KEPT).map(|()| stream)
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Sends the request and reads its answer, which must be the expected one.
fn ask(stream: &mut TcpStream, request: &str) -> io::Result<()> {
    stream.write_all(request.as_bytes())?;
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    while !answer.ends_with(b"\r\n\r\nsmall") {
        match stream.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => answer.extend_from_slice(&piece[..count]),
        }
    }
    if answer.starts_with(b"HTTP/1.1 200 ") { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}
