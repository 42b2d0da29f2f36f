//! A request on a warm keep-alive connection, from the first byte read to the last byte written, allocates nothing.

#[path = "support/allocations.rs"]
mod allocations;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use allocations::allocations;
use arc_swap::ArcSwap;
use evenkeel::config;
use evenkeel::l7;
use evenkeel::local::Local;
use evenkeel::state::Snapshot;
use evenkeel::stream::{Incoming, Stream};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};

/// Reads one message whose body, if it has one, is told by its length; false at the end of the connection.
fn read_message(from: &mut BufReader<TcpStream>) -> bool {
    let (mut line, mut length) = (String::new(), 0);
    loop {
        line.clear();
        if from.read_line(&mut line).expect("nobody resets") == 0 {
            return false;
        }
        if let Some(told) = line.strip_prefix("Content-Length: ") {
            length = told.trim_end().parse().expect("a length is a number");
        }
        if line == "\r\n" {
            return std::io::copy(&mut from.take(length), &mut std::io::sink()).is_ok();
        }
    }
}

/// A backend that answers everything with this many bytes.
fn origin(size: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = listener.local_addr().expect("it is bound").to_string();
    let answer = format!("HTTP/1.1 200 OK\r\nServer: test\r\nContent-Length: {size}\r\n\r\n{}", "x".repeat(size));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut reader, answer) = (BufReader::new(stream.expect("it accepts")), answer.clone());
            thread::spawn(move || {
                while read_message(&mut reader) {
                    reader.get_mut().write_all(answer.as_bytes()).expect("it is read");
                }
            });
        }
    });
    address
}

/// A worker without a thread of its own, before one backend.
struct Worker {
    runtime: LocalRuntime,
    local: Rc<Local>,
}

impl Worker {
    fn before(origin: &str, balance: &str) -> Worker {
        let file = format!(
            "[listeners.web]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n\
             [pools.app]\nbackends = [\"{origin}\"]\nbalance = \"{balance}\"\n"
        );
        let loaded = config::load::from_text("test.toml", &file).expect("the file is right");
        let snapshot = Snapshot::next(&loaded.config, &evenkeel::tls::Materials::default(), None);
        snapshot.settle();
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        let local = Local::new(0, Arc::new(ArcSwap::from_pointee(snapshot)), 1);
        Worker { runtime: runtime.expect("a runtime"), local }
    }

    /// Serves one connection on which this is sent so many times, each time after the answer to the one before; says how
    /// often that allocated.
    fn serve(&self, request: &'static str, times: usize) -> u64 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let address = listener.local_addr().expect("it is bound");
        let client = thread::spawn(move || {
            let stream = TcpStream::connect(address).expect("it listens");
            stream.set_nodelay(true).expect("it is connected");
            let mut reader = BufReader::new(stream);
            for _ in 0..times {
                reader.get_mut().write_all(request.as_bytes()).expect("it is read");
                assert!(read_message(&mut reader), "every request is answered");
            }
        });
        let (stream, peer) = listener.accept().expect("the client connects");
        stream.set_nonblocking(true).expect("it is connected");
        stream.set_nodelay(true).expect("it is connected");
        let plan = self.local.view();
        let listener = plan.snapshot().listeners().next().expect("there is one").id;
        drop(plan);
        let local = self.local.clone();
        let allocated = allocations(|| {
            self.runtime.block_on(async move {
                let stream = Stream::Tcp(tokio::net::TcpStream::from_std(stream).expect("there is a runtime"));
                let incoming =
                    Incoming { stream, listener, peer: Some(peer), local: Some(address), prefix: Vec::new() };
                l7::h1::serve(&local, incoming, ()).await;
            });
        });
        client.join().expect("the client got its answers");
        allocated
    }
}

/// What a connection costs may be allocated, what a request costs may not: ten times as many make no difference. The few
/// that are let pass are blocks of a size that this worker did not need before, which is a matter of timing.
#[track_caller]
fn assert_requests_allocate_nothing(size: usize, balance: &str, request: &'static str) {
    let worker = Worker::before(&origin(size), balance);
    worker.serve(request, 20);
    let (few, many) = (worker.serve(request, 20), worker.serve(request, 200));
    assert!(few > 0, "the count can fail");
    assert!(many < few + 20, "a connection allocates {few} times for 20 requests and {many} times for 200");
}

const GET: &str = "GET /some/path?a=b HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n";

#[test]
fn a_small_answer_allocates_nothing() {
    assert_requests_allocate_nothing(128, "round_robin", GET);
}

#[test]
fn a_large_answer_allocates_nothing() {
    assert_requests_allocate_nothing(1 << 20, "least_connections", GET);
}

#[test]
fn a_request_with_a_body_allocates_nothing() {
    let post = "POST / HTTP/1.1\r\nHost: www.example.com\r\nContent-Length: 5\r\n\r\nhello";
    assert_requests_allocate_nothing(128, "least_response_time", post);
}
