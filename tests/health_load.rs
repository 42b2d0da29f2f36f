//! Many backends asked at once: all of them get their probes, and control is not late for it.
//!
//! `EVENKEEL_BACKENDS=10000 cargo test --release --test health_load -- --nocapture` prints the figures of as many.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use evenkeel::balance::Standing;
use evenkeel::config::from_text;
use evenkeel::server::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How many pools there are, each with all of the origins.
const POOLS: usize = 100;
/// How often control is to do something.
const TICK: Duration = Duration::from_millis(5);
/// How long it is watched.
const LASTS: Duration = Duration::from_secs(5);

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

/// Origins on so many ports of loopback, on a thread that ends with the process, and a count of the requests.
fn origins(count: usize) -> (Vec<String>, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&asked);
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            for _ in 0..count {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
                tell.send(listener.local_addr().expect("it is bound").to_string()).expect("the test waits");
                tokio::spawn(serve(listener, Arc::clone(&counting)));
            }
            std::future::pending::<()>().await;
        });
    });
    ((0..count).map(|_| told.recv().expect("origins start")).collect(), asked)
}

async fn serve(listener: TcpListener, asked: Arc<AtomicUsize>) {
    while let Ok((stream, _)) = listener.accept().await {
        // The count is read after all is over; it orders nothing.
        asked.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(answer(stream));
    }
}

async fn answer(mut stream: TcpStream) {
    let mut request = [0; 1024];
    if stream.read(&mut request).await.is_ok_and(|read| read > 0) {
        // A probe that gave up is not waited for.
        let _ = stream.write_all(ANSWER).await;
    }
}

fn file(addresses: &[String], interval: &str) -> String {
    let mut text = "[runtime]\nworkers = 1\n[listeners.web]\nbind = '127.0.0.1:0'\npool = 'p0'\n".to_owned();
    for pool in 0..POOLS {
        text += &format!(
            "[pools.p{pool}]\nbackends = {addresses:?}\nhealth_check = {{ path = '/', initial = 'down', interval = '{interval}' }}\n"
        );
    }
    text
}

/// How late control is for a tick, from the least to the most, while `LASTS`.
async fn lateness() -> Vec<Duration> {
    let end = Instant::now() + LASTS;
    let mut late = Vec::new();
    while Instant::now() < end {
        let due = Instant::now() + TICK;
        tokio::time::sleep_until(due.into()).await;
        late.push(Instant::now().saturating_duration_since(due));
    }
    late.sort_unstable();
    late
}

/// The CPU time that the thread of this name has used.
fn cpu_time(name: &str) -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux").flatten();
    let named = |task: &std::fs::DirEntry| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
    };
    let stat = tasks.filter(named).find_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok());
    let nanos = stat.as_deref().and_then(|stat| stat.split(' ').next()).and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("the thread runs"))
}

/// How many are up, once it is as many as wanted or time is over.
async fn all_up(server: &Server, wanted: usize) -> usize {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let reports = server.observe().await;
        let up = reports.iter().filter(|report| report.status.standing == Standing::Usable).count();
        if up == wanted || Instant::now() > end {
            return up;
        }
        tokio::time::sleep(TICK).await;
    }
}

#[tokio::test]
async fn thousands_of_backends_are_asked_and_control_is_not_late_for_it() {
    let backends = std::env::var("EVENKEEL_BACKENDS").map_or(1000, |count| count.parse().expect("a number"));
    let (addresses, asked) = origins(backends / POOLS);
    let config = |interval| from_text("load.toml", &file(&addresses, interval)).expect("it is sound").config;
    let mut server = Server::start(&config("2s"), &evenkeel::tls::Materials::default()).await.expect("it starts");
    let (before, cpu) = (asked.load(Ordering::Relaxed), cpu_time("health"));
    let late = lateness().await;
    let (probes, cpu) = (asked.load(Ordering::Relaxed) - before, cpu_time("health") - cpu);

    let (changed, begun) = (config("3s"), Instant::now());
    server.apply(&changed, &evenkeel::tls::Materials::default()).await.expect("it is sound");
    let reload = begun.elapsed();
    let up = all_up(&server, backends).await;
    let at = |share: usize| late[(late.len() - 1) * share / 1000];
    println!(
        "{backends} backends every 2s: {probes} probes in {LASTS:?}, {:?} CPU each; {up} up; control late by {:?} \
         (median), {:?} (99 %), {:?} (most); a reload that changes every check: {reload:?}",
        cpu / u32::try_from(probes.max(1)).unwrap_or(u32::MAX),
        at(500),
        at(990),
        at(1000)
    );
    assert_eq!(up, backends, "each was asked, and answered");
    // One tick may be late by anything on a machine that others use; one of ten may not.
    assert!(at(900) < Duration::from_millis(100), "{:?}", at(900));
}
