//! A lane: one origin that remembers every byte, for the cases that go through it one after the other.
//!
//! Bytes are taken from a socket only under the lane's lock, so whoever holds the lock sees each byte either in the kernel or
//! read and judged. That is how [`Lane::traffic`] knows that nothing is under way.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};
use socket2::SockRef;

use crate::file::Last;
use crate::letter::{self, Message, Rules, Stop};
use crate::support::Ending;
use crate::support::wire::is_reset;

/// How long a sender waits between two writes so that they are read apart.
pub const PAUSE: Duration = Duration::from_millis(4);

/// An origin and what came to it.
#[derive(Clone)]
pub struct Lane {
    pub address: String,
    memory: Arc<Mutex<Memory>>,
}

/// What an origin says to a request for `/case`.
#[derive(Clone, Debug)]
pub struct Script {
    pub writes: Vec<Vec<u8>>,
    pub last: Last,
    pub early: bool,
}

/// What came since it was last asked.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// Whole messages, each with the number of its connection.
    pub whole: Vec<(usize, Message)>,
    /// Bytes that break a rule, and which.
    pub broken: Vec<(String, Vec<u8>)>,
    /// The beginnings of messages, each with how its connection ended, if it did.
    pub partial: Vec<(Vec<u8>, Option<Ending>)>,
    /// Connections on which a canary came.
    pub canaries: Vec<usize>,
    /// The connection on which the script was played last.
    pub played: Option<usize>,
}

#[derive(Default)]
struct Memory {
    traffic: Traffic,
    script: Option<Script>,
    connections: Vec<Seat>,
}

/// One connection to the origin.
struct Seat {
    stream: TcpStream,
    pending: Vec<u8>,
    /// What was said to the message that is not whole yet.
    said: Said,
    ended: Option<Ending>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    Continue,
    Answer,
}

impl Lane {
    /// An origin on a free port.
    pub fn open() -> Lane {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound socket has an address").to_string();
        let lane = Lane { address, memory: Arc::default() };
        let accepting = lane.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let lane = accepting.clone();
                std::thread::spawn(move || lane.serve(stream));
            }
        });
        lane
    }

    /// What is said to the next requests for `/case`.
    pub fn script(&self, script: Option<Script>) {
        self.lock().script = script;
    }

    /// What came since it was last asked, once no byte is under way and no message is left unfinished on an open connection,
    /// or after `patience`.
    pub fn traffic(&self, patience: Duration) -> Traffic {
        let end = Instant::now() + patience;
        loop {
            let mut memory = self.lock();
            if Instant::now() > end || memory.connections.iter().all(Seat::is_quiet) {
                return memory.take();
            }
            drop(memory);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether a connection was ended by the other side.
    pub fn is_ended(&self, connection: usize) -> bool {
        self.lock().connections.get(connection).is_some_and(|seat| seat.ended.is_some())
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn serve(&self, mut stream: TcpStream) {
        stream.set_nodelay(true).expect("a connected stream takes options");
        let number = self.seat(&stream);
        let mut bytes = vec![0; 64 * 1024];
        loop {
            let waiting = stream.peek(&mut [0]);
            let mut memory = self.lock();
            let ending = match waiting.and_then(|_| stream.read(&mut bytes)) {
                Ok(0) => Some(Ending::Closed),
                Ok(length) => {
                    memory.connections[number].pending.extend_from_slice(&bytes[..length]);
                    None
                }
                Err(fault) => Some(if is_reset(&fault) { Ending::Reset } else { Ending::Closed }),
            };
            if ending.is_some() || memory.hear(number, &mut stream) == After::Over {
                memory.end(number, ending.unwrap_or(Ending::Closed));
                return;
            }
        }
    }

    fn seat(&self, stream: &TcpStream) -> usize {
        let mut memory = self.lock();
        let stream = stream.try_clone().expect("descriptors are not used up");
        memory.connections.push(Seat { stream, pending: Vec::new(), said: Said::Nothing, ended: None });
        memory.connections.len() - 1
    }
}

#[derive(PartialEq, Eq)]
enum After {
    Goes,
    Over,
}

impl Memory {
    fn take(&mut self) -> Traffic {
        for seat in self.connections.iter_mut().filter(|seat| !seat.pending.is_empty()) {
            self.traffic.partial.push((std::mem::take(&mut seat.pending), seat.ended));
            // What still comes on it belongs to no message that could be judged.
            drop(seat.stream.shutdown(Shutdown::Both));
        }
        std::mem::take(&mut self.traffic)
    }

    fn end(&mut self, number: usize, ending: Ending) {
        self.connections[number].ended = Some(ending);
        drop(self.connections[number].stream.shutdown(Shutdown::Write));
    }

    /// Judges what has come on a connection and answers what is whole.
    fn hear(&mut self, number: usize, stream: &mut TcpStream) -> After {
        loop {
            let seat = &mut self.connections[number];
            match letter::request(&seat.pending) {
                Ok((message, length)) => {
                    seat.pending.drain(..length);
                    let said = std::mem::replace(&mut seat.said, Said::Nothing);
                    let over = said != Said::Answer && self.answer(number, stream, &message) == After::Over;
                    self.remember(number, message);
                    if over {
                        return After::Over;
                    }
                }
                Err(Stop::More) => return self.hear_part(number, stream),
                Err(Stop::Broken(why)) => {
                    let bytes = std::mem::take(&mut seat.pending);
                    self.traffic.broken.push((why, bytes));
                    drop(stream.shutdown(Shutdown::Both));
                    return After::Over;
                }
            }
        }
    }

    fn remember(&mut self, number: usize, message: Message) {
        if message.target().starts_with("/canary") {
            self.traffic.canaries.push(number);
        } else {
            self.traffic.whole.push((number, message));
        }
    }

    /// What is said to a head whose body has not come.
    fn hear_part(&mut self, number: usize, stream: &mut TcpStream) -> After {
        let seat = &mut self.connections[number];
        let Ok((head, _)) = letter::request_head(&seat.pending, Rules::Clean) else { return After::Goes };
        let early = self.script.as_ref().is_some_and(|script| script.early) && head.target() == "/case";
        if early && seat.said != Said::Answer {
            seat.said = Said::Answer;
            return self.answer(number, stream, &head);
        }
        if seat.said == Said::Nothing && head.lists("expect", "100-continue") {
            seat.said = Said::Continue;
            drop(stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n"));
        }
        After::Goes
    }

    fn answer(&mut self, number: usize, stream: &mut TcpStream, message: &Message) -> After {
        if let Some(script) = self.script.as_ref().filter(|_| message.target() == "/case") {
            self.traffic.played = Some(number);
            return play(script, stream);
        }
        let body = message.target().strip_prefix("/canary").unwrap_or("ok");
        let start = if message.method() == "CONNECT" { "405 Method Not Allowed" } else { "200 OK" };
        let shown = if message.method() == "HEAD" { "" } else { body };
        drop(write!(stream, "HTTP/1.1 {start}\r\nContent-Length: {}\r\n\r\n{shown}", body.len()));
        if message.lists("connection", "close") { After::Over } else { After::Goes }
    }
}

fn play(script: &Script, stream: &mut TcpStream) -> After {
    send(stream, &script.writes);
    match script.last {
        Last::Stay => After::Goes,
        Last::Fin => {
            drop(stream.shutdown(Shutdown::Write));
            After::Goes
        }
        Last::Reset => {
            // A RST may overtake what was sent before it: the other side gets a moment to read that.
            std::thread::sleep(5 * PAUSE);
            reset(stream);
            After::Over
        }
    }
}

/// Sends write by write; a peer that has gone shows elsewhere.
pub fn send(stream: &mut TcpStream, writes: &[Vec<u8>]) {
    for (place, write) in writes.iter().enumerate() {
        if place > 0 {
            std::thread::sleep(PAUSE);
        }
        if stream.write_all(write).is_err() {
            return;
        }
    }
}

/// Ends a connection with a RST, however many handles it has: connecting a socket to nothing is what aborts it at once.
pub fn reset(stream: &TcpStream) {
    drop(SockRef::from(stream).set_linger(Some(Duration::ZERO)));
    // An error says that it has ended already.
    rustix::net::connect_unspec(stream).ok();
}

impl Seat {
    /// Nothing waits to be read, and nothing that was read waits for its rest.
    fn is_quiet(&self) -> bool {
        if self.ended.is_some() {
            return true;
        }
        let waiting = recv(&self.stream, &mut [0; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        waiting.is_err_and(|fault| fault == rustix::io::Errno::WOULDBLOCK) && self.pending.is_empty()
    }
}
