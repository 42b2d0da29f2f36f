//! Origins: backends of the tests, which say and do on a raw connection what a script tells them, and remember what came.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use socket2::{Domain, Socket, Type};

use super::message::{Body, Framing};
use super::tls::Hands;
use super::wire::{Shaken, read_to_ending};
use super::{End, Ending, Head, Wire};

/// A server on a free loopback port, or on a Unix socket; it stops accepting when dropped.
pub struct Origin {
    address: String,
    memory: Arc<Memory>,
}

/// What came, for the test to look at. Counters are only read after the event they count is known to have happened, so
/// the sequentially consistent order is for simplicity, not for need.
#[derive(Default)]
struct Memory {
    requests: Mutex<Vec<Request>>,
    accepted: AtomicUsize,
    open: AtomicUsize,
    stopped: AtomicBool,
    shaken: Mutex<Vec<Shaken>>,
}

/// A request as it came to the origin.
#[derive(Clone, Debug)]
pub struct Request {
    /// On which connection, counted from 0.
    pub connection: usize,
    pub head: Head,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    pub end: End,
}

/// One accepted connection, in the hands of a script; it is closed when dropped.
pub struct Connection {
    /// Counted from 0.
    pub number: usize,
    reader: BufReader<Wire>,
    memory: Arc<Memory>,
}

enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
    Tls(TcpListener, Arc<ServerConfig>),
}

impl Origin {
    /// Every connection is handed to the script on a thread of its own.
    pub fn scripted(script: impl Fn(Connection) + Send + Sync + 'static) -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound socket has an address").to_string();
        Origin::accepting(address, Listening::Tcp(listener), script)
    }

    /// The same on a Unix socket.
    pub fn scripted_at(path: &Path, script: impl Fn(Connection) + Send + Sync + 'static) -> Origin {
        let listener = UnixListener::bind(path).expect("the path is free");
        Origin::accepting(format!("unix:{}", path.display()), Listening::Unix(listener), script)
    }

    /// The same over TLS: a connection is handed to the script after its handshake, and closed when that fails.
    pub fn secured(hands: &Hands, script: impl Fn(Connection) + Send + Sync + 'static) -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound socket has an address").to_string();
        Origin::accepting(address, Listening::Tls(listener, hands.config()), move |mut connection| {
            if connection.shake() {
                script(connection);
            }
        })
    }

    fn accepting(address: String, listening: Listening, script: impl Fn(Connection) + Send + Sync + 'static) -> Origin {
        let memory = Arc::new(Memory::default());
        let (remembering, script) = (memory.clone(), Arc::new(script));
        std::thread::spawn(move || {
            while let Some(connection) = listening.accept(&remembering) {
                let script = script.clone();
                std::thread::spawn(move || script(connection));
            }
        });
        Origin { address, memory }
    }

    /// Answers every request with 200 and this text, and keeps the connection.
    pub fn answering(text: &str) -> Origin {
        Origin::saying(ok(text))
    }

    /// Answers every request, once it is there whole, with these bytes, and keeps the connection.
    pub fn saying(response: impl AsRef<[u8]>) -> Origin {
        let response = response.as_ref().to_vec();
        Origin::scripted(move |mut connection| {
            while connection.request().is_some() {
                connection.send(&response);
            }
        })
    }

    /// Answers the first request of every connection with these bytes and closes.
    pub fn saying_once(response: impl AsRef<[u8]>) -> Origin {
        let response = response.as_ref().to_vec();
        Origin::scripted(move |mut connection| {
            if connection.request().is_some() {
                connection.send(&response);
            }
        })
    }

    /// Takes requests and never answers; connections stay open as long as the other side keeps them.
    pub fn hanging() -> Origin {
        Origin::scripted(|mut connection| {
            connection.head();
            connection.ending();
        })
    }

    /// Sends back every byte, and a FIN for a FIN.
    pub fn echoing() -> Origin {
        Origin::scripted(|mut connection| connection.echo())
    }

    /// Sends this text to every connection and then echoes: an origin that tells which one it is without HTTP.
    pub fn greeting(text: &'static str) -> Origin {
        Origin::scripted(move |mut connection| {
            connection.send(text);
            connection.echo();
        })
    }

    /// As a configuration writes it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.memory.requests.lock().expect("no holder panics").clone()
    }

    /// The only request so far.
    #[track_caller]
    pub fn request(&self) -> Request {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.remove(0)
    }

    /// What came of all handshakes that worked, in their order.
    pub fn shaken(&self) -> Vec<Shaken> {
        self.memory.shaken.lock().expect("no holder panics").clone()
    }

    /// How many connections have been accepted.
    pub fn accepted(&self) -> usize {
        self.memory.accepted.load(Ordering::SeqCst)
    }

    /// How many connections are open, as far as their scripts go.
    pub fn open(&self) -> usize {
        self.memory.open.load(Ordering::SeqCst)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.memory.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts; it looks at `stopped` and ends.
        drop(Wire::connect(&self.address));
    }
}

impl Listening {
    fn accept(&self, memory: &Arc<Memory>) -> Option<Connection> {
        let wire = match self {
            Listening::Tcp(listener) => Wire::tcp(listener.accept().ok()?.0),
            Listening::Unix(listener) => Wire::unix(listener.accept().ok()?.0),
            Listening::Tls(listener, config) => Wire::tls(listener.accept().ok()?.0, Arc::clone(config)),
        };
        if memory.stopped.load(Ordering::SeqCst) {
            return None;
        }
        let number = memory.accepted.fetch_add(1, Ordering::SeqCst);
        memory.open.fetch_add(1, Ordering::SeqCst);
        Some(Connection { number, reader: BufReader::new(wire), memory: memory.clone() })
    }
}

impl Connection {
    fn shake(&mut self) -> bool {
        let shaken = self.reader.get_mut().shake();
        if let Ok(Some(shaken)) = &shaken {
            self.memory.shaken.lock().expect("no holder panics").push(shaken.clone());
        }
        shaken.is_ok()
    }

    /// Says something in TLS that is none of the application's.
    pub fn change_keys(&mut self) {
        self.reader.get_mut().change_keys();
    }

    /// Says in TLS that nothing more comes.
    pub fn say_end(&mut self) {
        self.reader.get_mut().say_end();
    }

    /// The next request with its body, `None` when the other side ended the connection.
    pub fn request(&mut self) -> Option<Request> {
        let head = Head::read(&mut self.reader).ok()??;
        let framing = head.framing(Framing::None);
        let body = Body::read(&mut self.reader, framing);
        Some(self.remember(head, body))
    }

    /// The next request's head alone.
    pub fn head(&mut self) -> Option<Request> {
        let head = Head::read(&mut self.reader).ok()??;
        let body = Body { bytes: Vec::new(), trailers: Vec::new(), end: End::Complete };
        Some(self.remember(head, body))
    }

    /// The body behind a head that was taken.
    #[allow(dead_code, reason = "for the tests of all pairs of protocols")]
    pub fn body(&mut self, framing: Framing) -> Body {
        Body::read(&mut self.reader, framing)
    }

    /// Sends one chunk back as it came, or the last one with what follows it; false after that.
    #[allow(dead_code, reason = "for the tests of all pairs of protocols")]
    pub fn pass_chunk_back(&mut self) -> bool {
        let mut line = String::new();
        drop(self.reader.read_line(&mut line));
        let size = u64::from_str_radix(line.trim_end(), 16).unwrap_or(0);
        self.send(&line);
        if size > 0 {
            let chunk = self.take(size + 2);
            self.send(chunk);
            return true;
        }
        while line.len() > 2 || line.starts_with('0') {
            line.clear();
            drop(self.reader.read_line(&mut line));
            self.send(&line);
        }
        false
    }

    fn remember(&mut self, head: Head, body: Body) -> Request {
        let Body { bytes, trailers, end } = body;
        let request = Request { connection: self.number, head, body: bytes, trailers, end };
        self.memory.requests.lock().expect("no holder panics").push(request.clone());
        request
    }

    /// Sends bytes; whether the other side still takes them is for the test to see at its own end.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        drop(self.reader.get_mut().write_all(bytes.as_ref()));
    }

    /// Whether bytes wait to be read now.
    pub fn has_more(&mut self) -> bool {
        !self.reader.buffer().is_empty() || self.reader.get_ref().has_more()
    }

    /// Some of the bytes that come, none at the end.
    pub fn some(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 16 * 1024];
        let length = self.reader.read(&mut bytes).unwrap_or(0);
        bytes.truncate(length);
        bytes
    }

    /// Exactly so many of the bytes that come, fewer when it ends.
    pub fn take(&mut self, length: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        drop(self.reader.by_ref().take(length).read_to_end(&mut bytes));
        bytes
    }

    /// Sends back what comes until a FIN, and then a FIN.
    pub fn echo(&mut self) {
        loop {
            let bytes = self.some();
            if bytes.is_empty() {
                return;
            }
            self.send(bytes);
        }
    }

    /// Discards what comes and tells how the other side ended it; `None` when it did not before the deadline.
    pub fn ending(&mut self) -> Option<Ending> {
        read_to_ending(&mut self.reader).ok().map(|(_, ending)| ending)
    }

    /// The bare stream, for a script that has read nothing of it yet.
    pub fn wire(&self) -> Wire {
        self.reader.get_ref().try_clone()
    }

    /// Sends a FIN and goes on reading.
    pub fn finish_writing(&self) {
        self.reader.get_ref().finish_writing();
    }

    /// Ends with a RST.
    pub fn reset(self) {
        let wire = self.reader.get_ref().try_clone();
        drop(self);
        wire.reset();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.memory.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A loopback port that is taken but on which nothing listens: connecting to it is refused, and no other test gets it.
pub struct Unlistened {
    _socket: Socket,
    address: String,
}

impl Unlistened {
    pub fn new() -> Unlistened {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("descriptors are not used up");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback has free ports");
        let address = socket.local_addr().ok().and_then(|address| address.as_socket());
        let address = address.expect("a bound socket has an address").to_string();
        Unlistened { _socket: socket, address }
    }

    /// As a configuration writes it.
    pub fn address(&self) -> &str {
        &self.address
    }
}

/// A loopback port whose queue is full and never accepted from: connecting to it is neither refused nor done.
pub struct Deaf {
    _queue: Vec<Socket>,
    address: String,
}

impl Deaf {
    pub fn new() -> Deaf {
        let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).expect("descriptors are not used up");
        let listener = socket();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback has free ports");
        listener.listen(0).expect("it is bound");
        let bound = listener.local_addr().expect("a bound socket has an address");
        let mut queue: Vec<_> = (0..4).map(|_| socket()).collect();
        for waiting in &queue {
            waiting.set_nonblocking(true).expect("an open socket");
            // The first ones fill the queue, the others are left in the air.
            drop(waiting.connect(&bound));
        }
        let address = bound.as_socket().expect("it is an IP address").to_string();
        queue.push(listener);
        Deaf { _queue: queue, address }
    }

    /// As a configuration writes it.
    pub fn address(&self) -> &str {
        &self.address
    }
}

/// A 200 with this text as its body.
pub fn ok(text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())
}
