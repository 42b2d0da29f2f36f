//! Clients that ask for more than they should: many connections driven by one thread, each until it is ended by the other
//! side.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

/// When an attack is given up by itself: far past any deadline.
const TIRED: Duration = Duration::from_secs(60);

/// Where they come from.
const FROM: [u8; 4] = [127, 0, 0, 66];

/// What each of them does.
#[derive(Clone, Debug)]
pub struct Attackers {
    pub count: usize,
    /// Said at the beginning.
    pub opening: Vec<u8>,
    /// Said again and again after it.
    pub then: Vec<u8>,
    /// How often, and how often something is read.
    pub every: Duration,
    pub takes: Takes,
}

/// What they take of what they are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    Everything,
    /// One byte at a time.
    Sips,
    Nothing,
}

/// An attack under way.
pub struct Attack {
    thread: JoinHandle<Vec<Duration>>,
}

/// One attacking connection.
struct Attacker {
    stream: TcpStream,
    begun: Instant,
}

impl Attackers {
    /// Attacks until all are gone.
    pub fn attack(self, address: &str) -> Attack {
        let address = address.to_owned();
        Attack { thread: std::thread::spawn(move || self.run(&address)) }
    }

    /// How long each of them stayed.
    fn run(self, address: &str) -> Vec<Duration> {
        let mut attackers: Vec<_> = (0..self.count).map(|_| Attacker::open(address, &self.opening)).collect();
        let (mut stayed, begun) = (Vec::new(), Instant::now());
        while !attackers.is_empty() && begun.elapsed() < TIRED {
            attackers.retain_mut(|attacker| {
                let goes_on = attacker.goes_on(&self);
                if !goes_on {
                    stayed.push(attacker.begun.elapsed());
                }
                goes_on
            });
            std::thread::sleep(self.every);
        }
        stayed.extend(attackers.iter().map(|attacker| attacker.begun.elapsed()));
        stayed
    }
}

impl Attack {
    pub fn is_going_on(&self) -> bool {
        !self.thread.is_finished()
    }

    /// How long the first and the last of them stayed.
    pub fn stayed(self) -> (Duration, Duration) {
        let stayed = self.thread.join().expect("attacking does not panic");
        let (first, last) = (stayed.iter().min(), stayed.iter().max());
        (*first.expect("there were attackers"), *last.expect("there were attackers"))
    }
}

impl Attacker {
    fn open(address: &str, opening: &[u8]) -> Attacker {
        let mut stream = connect(address);
        stream.write_all(opening).expect("so little fits into the kernel's buffers");
        stream.set_nonblocking(true).expect("a connected stream");
        Attacker { stream, begun: Instant::now() }
    }

    /// Whether it has not been ended.
    fn goes_on(&mut self, plan: &Attackers) -> bool {
        // A reset is told before what still waits to be read, which may be more than it ever takes.
        if !matches!(self.stream.take_error(), Ok(None)) {
            return false;
        }
        self.says(&plan.then) && self.takes(plan.takes)
    }

    fn says(&mut self, words: &[u8]) -> bool {
        words.is_empty() || goes_on(self.stream.write(words))
    }

    fn takes(&mut self, takes: Takes) -> bool {
        let mut bytes = vec![0; 64 * 1024];
        match takes {
            Takes::Nothing => true,
            Takes::Sips => goes_on(self.stream.read(&mut bytes[..1])),
            Takes::Everything => loop {
                match self.stream.read(&mut bytes) {
                    Ok(1..) => {}
                    other => return goes_on(other),
                }
            },
        }
    }
}

/// Floods with connections that say nothing, for so long; says how many were ended.
pub fn flood(address: &str, time: Duration) -> usize {
    let (mut open, mut ended, begun) = (Vec::new(), 0, Instant::now());
    while begun.elapsed() < time {
        open.push(Attacker::open(address, b""));
        let before = open.len();
        open.retain_mut(|attacker: &mut Attacker| attacker.takes(Takes::Everything));
        ended += before - open.len();
    }
    ended
}

/// Connects from the attackers' own address.
fn connect(address: &str) -> TcpStream {
    let address: SocketAddr = address.parse().expect("an IP address and port");
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("descriptors are not used up");
    socket.bind(&SocketAddr::from((FROM, 0)).into()).expect("loopback is ours");
    // So that what it does not take stays with the daemon, and not in the kernel.
    socket.set_recv_buffer_size(16 * 1024).expect("an open socket");
    socket.set_tcp_nodelay(true).expect("an open socket");
    socket.connect(&address.into()).expect("the kernel accepts for the daemon");
    TcpStream::from(socket)
}

/// Whether a connection goes on after this came of reading or of writing something.
fn goes_on(done: io::Result<usize>) -> bool {
    match done {
        Ok(count) => count > 0,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}
