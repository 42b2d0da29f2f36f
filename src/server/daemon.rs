//! The life of a daemon on its control thread: load the file, serve, follow the file, stop.
//!
//! Waiting ([`Daemon::next`]) and doing ([`Daemon::handle`], [`Daemon::stop`]) are apart: waiting may be given up at any
//! time and loses nothing, doing is never interrupted half-way. A reload changes everything or nothing; when it is refused,
//! the reasons are logged and what was served is served on. Reading the file blocks this thread and no other: the
//! workers go on accepting.

use std::fmt;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::renewal::Calendar;
use super::{Listening, Server, StartError, systemd};
use crate::config::counted;
use crate::config::watch::Watch;
use crate::config::{Config, Loaded, Report, Severity, load};
use crate::tls::{self, Materials};

/// What a daemon wakes up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// SIGHUP: somebody wants the file to be looked at.
    Hangup,
    /// The files may have changed.
    Changed,
    /// A day has gone by since certificates were looked at.
    NewDay,
    /// SIGTERM or SIGINT.
    Stop,
    /// This worker has died, which nothing on the wire can cause.
    WorkerDied(usize),
}

/// Why a daemon does not start.
#[derive(Debug)]
pub enum Fault {
    /// The configuration has faults.
    Config(Report),
    /// What it asks for can not be had.
    Server(StartError),
    /// Signals can not be received.
    Signals(io::Error),
}

/// How a daemon's life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As it was told.
    Stopped,
    /// A worker has died.
    Broken,
}

/// A running server that follows its file.
pub struct Daemon {
    path: PathBuf,
    server: Server,
    signals: Signals,
    /// `None` while the file says not to, or when the system can not.
    watch: Option<Watch>,
    serving: Serving,
    /// Why the newest version of the file is not what is served.
    refused: Option<Refusal>,
    /// Why certificates that were to be renewed are not what is used.
    stale: Option<String>,
    calendar: Calendar,
    announced: Vec<Listening>,
}

/// What is served now.
struct Serving {
    loaded: Loaded,
    materials: Materials,
    generation: u64,
}

/// Why a version of the file was not put in force.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    /// In one line.
    summary: String,
    /// In full.
    detail: String,
}

impl Daemon {
    /// Loads `path`, starts serving it and says so: a line for each address on stdout, READY to the service manager.
    ///
    /// # Errors
    /// The file has faults, an address can not be listened on, or the system lacks something. Then nothing is left of it.
    pub async fn start(path: &Path) -> Result<Daemon, Fault> {
        // Before anything serves: a signal from here on is for the daemon, not for the default of ending at once.
        let signals = Signals::catch().map_err(Fault::Signals)?;
        let loaded = load(path).map_err(Fault::Config)?;
        log_lines(&loaded.warnings.to_string(), Severity::Warning);
        let materials = Materials::read(&loaded.config, None).map_err(|faults| Fault::Config(loaded.report(faults)))?;
        let server = Server::start(&loaded.config, &materials).await.map_err(Fault::Server)?;
        let calendar = Calendar::begin(&materials);
        let mut daemon = Daemon {
            path: path.to_owned(),
            server,
            signals,
            watch: None,
            serving: Serving { loaded, materials, generation: 1 },
            refused: None,
            stale: None,
            calendar,
            announced: Vec::new(),
        };
        daemon.announce();
        daemon.watch_over(Vec::new());
        tracing::info!(generation = daemon.serving.generation, "ready");
        systemd::ready(&daemon.status());
        Ok(daemon)
    }

    /// The server, to look at.
    pub fn server(&mut self) -> &mut Server {
        &mut self.server
    }

    /// What is served now.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.serving.loaded.config
    }

    /// Which configuration of this process's life that is, counted from 1.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.serving.generation
    }

    /// Serves until the end: a signal to stop, or a worker's death.
    pub async fn run(mut self) -> End {
        loop {
            let event = self.next().await;
            if let ControlFlow::Break(end) = self.handle(event).await {
                self.stop().await;
                return end;
            }
        }
    }

    /// Waits for the next event. Giving up loses nothing: signals stay pending, the watch keeps its burst, and a dead
    /// worker stays dead.
    pub async fn next(&mut self) -> Event {
        tokio::select! {
            event = self.signals.next() => event,
            () = changed(self.watch.as_mut()) => Event::Changed,
            () = self.calendar.new_day() => Event::NewDay,
            worker = self.server.worker_died() => Event::WorkerDied(worker),
        }
    }

    /// Does what an event asks for, and says whether it was the last.
    pub async fn handle(&mut self, event: Event) -> ControlFlow<End> {
        match event {
            Event::Hangup | Event::Changed => self.reload(event).await,
            Event::NewDay => self.calendar.look(&self.serving.materials),
            Event::Stop => return ControlFlow::Break(End::Stopped),
            Event::WorkerDied(worker) => {
                tracing::error!(worker, "a worker has died: stopping, so that its clients do not wait for ever");
                return ControlFlow::Break(End::Broken);
            }
        }
        ControlFlow::Continue(())
    }

    /// Finishes what is under way within `runtime.shutdown_grace`; another SIGTERM or SIGINT ends at once.
    pub async fn stop(mut self) {
        let grace = self.config().runtime.shutdown_grace;
        tracing::info!(?grace, "stopping");
        systemd::stopping("Finishing what is under way", grace);
        tokio::select! {
            drained = self.server.drain(grace) => {
                tracing::info!(cut = drained.cut, took = ?drained.took, "stopped");
            }
            () = self.signals.stop() => tracing::warn!("told twice: stopping at once"),
        }
    }

    async fn reload(&mut self, why: Event) {
        let (loaded, before) = (load(&self.path), self.serving.generation);
        let is_served = loaded.as_ref().is_ok_and(|loaded| loaded.digest == self.serving.loaded.digest);
        // After a SIGHUP the manager waits for an answer, whether there is anything to do or not.
        if why == Event::Hangup || !is_served {
            systemd::reloading();
        }
        let files = match &loaded {
            Ok(loaded) => [&loaded.files[..], &tls::files(&loaded.config)].concat(),
            Err(report) => report.files.clone(),
        };
        match loaded {
            Ok(_) if is_served => self.unchanged(why),
            Ok(loaded) => match Materials::read(&loaded.config, Some(&self.serving.materials)) {
                Ok(materials) => self.apply(loaded, materials, why).await,
                Err(faults) => self.refuse(Refusal::of_report(&loaded.report(faults)), why),
            },
            Err(report) => self.refuse(Refusal::of_report(&report), why),
        }
        let is_renewed = self.renew(why);
        if is_renewed || why == Event::Hangup || self.serving.generation != before {
            self.calendar.look(&self.serving.materials);
        }
        self.watch_over(files);
        systemd::ready(&self.status());
    }

    fn unchanged(&mut self, why: Event) {
        if self.refused.take().is_some() {
            tracing::info!("reload unchanged: the file is again what is served");
        } else if why == Event::Hangup {
            tracing::info!(generation = self.serving.generation, "reload unchanged");
        } else {
            tracing::debug!(generation = self.serving.generation, "reload unchanged");
        }
    }

    /// Takes up certificates that have changed on the disk, and says whether there are any. A bad file leaves those in use that
    /// are, and is told once.
    fn renew(&mut self, why: Event) -> bool {
        let (mut faults, mut is_renewed) = (Vec::new(), false);
        for (listener, tls) in self.serving.materials.listeners() {
            match tls.renew() {
                Ok(false) => {}
                Ok(true) => {
                    is_renewed = true;
                    tracing::info!(%listener, "certificates renewed");
                }
                Err(more) => faults.extend(more),
            }
        }
        for (pool, tls) in self.serving.materials.pools() {
            match tls.renew() {
                Ok(false) => {}
                Ok(true) => tracing::info!(%pool, "certificates renewed"),
                Err(more) => faults.extend(more),
            }
        }
        let detail = (!faults.is_empty()).then(|| self.serving.loaded.report(faults).to_string());
        if let Some(detail) =
            detail.as_ref().filter(|detail| why == Event::Hangup || self.stale.as_ref() != Some(*detail))
        {
            tracing::error!("certificates not renewed: those in use stay");
            log_lines(detail, Severity::Error);
        }
        self.stale = detail;
        is_renewed
    }

    async fn apply(&mut self, loaded: Loaded, materials: Materials, why: Event) {
        match self.server.apply(&loaded.config, &materials).await {
            Ok(applied) => {
                self.refused = None;
                self.serving = Serving { loaded, materials, generation: applied.generation };
                tracing::info!(
                    generation = applied.generation,
                    addresses_added = applied.addresses_added,
                    addresses_removed = applied.addresses_removed,
                    backends_added = applied.backends_added,
                    backends_removed = applied.backends_removed,
                    "reload applied"
                );
                log_lines(&self.serving.loaded.warnings.to_string(), Severity::Warning);
                log_lines(&applied.warnings.join("\n"), Severity::Warning);
                self.announce();
            }
            Err(fault) => self.refuse(Refusal::of_fault(&fault), why),
        }
    }

    /// Logs the reason, once for as long as it is the same, because a directory in which much happens must not repeat it;
    /// who asks by SIGHUP is answered each time.
    fn refuse(&mut self, refusal: Refusal, why: Event) {
        if why == Event::Hangup || self.refused.as_ref() != Some(&refusal) {
            tracing::error!(serving = self.serving.generation, "reload refused: {}", refusal.summary);
            log_lines(&refusal.detail, Severity::Error);
        }
        self.refused = Some(refusal);
    }

    /// Prints a line for each address that has none yet.
    fn announce(&mut self) {
        let listening = self.server.listening();
        let fresh = listening.iter().filter(|listening| !self.announced.contains(listening));
        let text: String = fresh.map(|Listening { name, address }| format!("listening {name} {address}\n")).collect();
        self.announced = listening;
        let mut stdout = io::stdout().lock();
        if let Err(error) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            tracing::warn!(%error, "stdout is closed: addresses are only logged");
        }
    }

    /// Watches these files from here on and those of what is served, if the configuration in force wants it.
    fn watch_over(&mut self, mut files: Vec<PathBuf>) {
        if !self.config().reload.watch {
            self.watch = None;
            return;
        }
        if self.watch.is_none() {
            self.watch = Watch::new().inspect_err(unwatched).ok();
        }
        files.extend_from_slice(&self.serving.loaded.files);
        files.extend_from_slice(self.serving.materials.files());
        if let Some(Err(errors)) = self.watch.as_mut().map(|watch| watch.follow(&files)) {
            errors.iter().for_each(unwatched);
        }
    }

    fn status(&self) -> String {
        let mut status = status(self.config(), self.serving.generation);
        if let Some(refusal) = &self.refused {
            status.push_str("; reload refused: ");
            status.push_str(&refusal.summary);
        }
        status
    }
}

/// What `systemctl status` shows.
fn status(config: &Config, generation: u64) -> String {
    let backends = config.pools.iter().map(|pool| pool.backends.len()).sum();
    let listeners = counted(config.listeners.len(), "listener");
    let pools = counted(config.pools.len(), "pool");
    format!("Serving: {listeners}, {pools}, {}, generation {generation}", counted(backends, "backend"))
}

impl Refusal {
    fn of_report(report: &Report) -> Refusal {
        let detail = report.to_string();
        let count = counted(report.count(Severity::Error), "error");
        let summary = match report.sources.first() {
            Some(source) => format!("{count} in {}", source.name),
            None => count,
        };
        Refusal { summary, detail }
    }

    fn of_fault(fault: &StartError) -> Refusal {
        let detail = fault.to_string();
        Refusal { summary: detail.lines().collect::<Vec<_>>().join("; "), detail: String::new() }
    }
}

/// Logs a text line by line, so that each stands readable in the journal.
fn log_lines(text: &str, severity: Severity) {
    for line in text.lines().filter(|line| !line.is_empty()) {
        match severity {
            Severity::Error => tracing::error!("{line}"),
            Severity::Warning => tracing::warn!("{line}"),
        }
    }
}

fn unwatched(error: &notify::Error) {
    tracing::warn!(%error, "the configuration can not be watched; SIGHUP still reloads it");
}

async fn changed(watch: Option<&mut Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

/// The signals that a daemon obeys.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn catch() -> io::Result<Signals> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next of any kind; a signal that is not received here stays pending.
    async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.hangup.recv() => Event::Hangup,
            _ = self.terminate.recv() => Event::Stop,
            _ = self.interrupt.recv() => Event::Stop,
        }
    }

    async fn stop(&mut self) {
        while self.next().await != Event::Stop {}
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Config(report) => report.fmt(f),
            Fault::Server(error) => error.fmt(f),
            Fault::Signals(error) => write!(f, "signals can not be received: {error}"),
        }
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::config::from_text;

    #[test]
    fn the_status_counts_what_is_served() {
        let text = r#"
            [listeners.web]
            bind = "127.0.0.1:0"
            pool = "app"
            [pools.app]
            backends = ["127.0.0.1:3000", "127.0.0.1:3001"]
        "#;
        let loaded = from_text("test.toml", text).unwrap();
        assert_eq!(status(&loaded.config, 4), "Serving: 1 listener, 1 pool, 2 backends, generation 4");
    }

    #[tokio::test(start_paused = true)]
    async fn certificates_are_looked_at_every_day() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("evenkeel.toml");
        let file = "[runtime]\nworkers = 1\n[listeners.web]\nbind = \"127.0.0.1:0\"\nredirect_to_https = true\n";
        std::fs::write(&path, file).unwrap();
        let mut daemon = Daemon::start(&path).await.unwrap();
        for day in 1..=2 {
            let before = clock::now();
            while daemon.next().await != Event::NewDay {}
            let passed = clock::now().since(before).as_secs();
            assert!((86_300..=86_401).contains(&passed), "day {day}: {passed} s");
            assert_eq!(daemon.handle(Event::NewDay).await, ControlFlow::Continue(()));
        }
        daemon.stop().await;
    }

    /// Nothing on the wire can kill a worker; this does, by what tokio asserts in debug builds.
    #[cfg(debug_assertions)]
    #[tokio::test]
    async fn a_worker_that_dies_ends_the_daemon() {
        use crate::config::Address;
        use crate::server::listener::Offer;
        use crate::server::sockets::SocketId;
        use crate::server::spread::Acceptors;
        use crate::server::worker::Mail;

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("evenkeel.toml");
        let file = "[runtime]\nworkers = 2\n[listeners.web]\nbind = \"127.0.0.1:0\"\npool = \"app\"\n\
                    [pools.app]\nbackends = [\"127.0.0.1:1\"]\n";
        std::fs::write(&path, file).unwrap();
        let mut daemon = Daemon::start(&path).await.unwrap();
        let blocking = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Ip(blocking.local_addr().unwrap());
        let control = &daemon.server.control;
        let listener = control.snapshot().listeners().next().unwrap().id;
        let (id, acceptors) = (SocketId::unused(), Acceptors::Every);
        let deadly = Offer { id, socket: blocking.into(), address, acceptors, listener };
        control.tell(1, Mail::Listen(vec![deadly]));
        let limit = std::time::Duration::from_secs(10);
        let death = async {
            loop {
                match daemon.next().await {
                    Event::Changed => {}
                    event => return event,
                }
            }
        };
        let event = tokio::time::timeout(limit, death).await.unwrap();
        assert_eq!(event, Event::WorkerDied(1));
        assert_eq!(daemon.handle(event).await, ControlFlow::Break(End::Broken));
        tokio::time::timeout(limit, daemon.stop()).await.unwrap();
    }
}
