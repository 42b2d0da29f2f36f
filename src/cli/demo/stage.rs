//! What the demonstration stands on: free ports, and a file in a temporary directory that goes when it ends.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::certificate::SelfSigned;
use super::company::Cast;
use super::origins::HEALTH;

/// The port tried first.
const FIRST_PORT: u16 = 8080;

/// The port tried first for HTTPS.
const FIRST_TLS_PORT: u16 = 8443;

/// How many ports after it are tried before any will do.
const PORTS: u16 = 100;

/// The algorithms that can let a server come back slowly.
const RAMPING: [&str; 4] = ["weighted_round_robin", "least_connections", "least_response_time", "random_two_choices"];

/// How many names of a directory are tried.
const NAMES: u32 = 100;

/// Where the two listeners shall listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// For HTTP.
    pub web: u16,
    /// For bytes.
    pub echo: u16,
    /// For HTTPS, where that is wanted.
    pub tls: Option<u16>,
}

impl Ports {
    /// The wanted port, else 8080 or the next free one; and the next free one after it. 0 leaves the choice to the system.
    #[must_use]
    pub fn choose(wanted: Option<u16>, is_free: impl Fn(u16) -> bool) -> Ports {
        let web = wanted.unwrap_or_else(|| first_free(FIRST_PORT, &is_free));
        let echo = match web {
            0 => 0,
            web => web.checked_add(1).map_or(0, |next| first_free(next, &is_free)),
        };
        Ports { web, echo, tls: None }
    }

    /// The same with 8443 or the next free one for HTTPS; 0 where that for HTTP is left to the system.
    #[must_use]
    pub fn with_tls(self, is_free: impl Fn(u16) -> bool) -> Ports {
        let is_free = |port| port != self.web && port != self.echo && is_free(port);
        let tls = if self.web == 0 { 0 } else { first_free(FIRST_TLS_PORT, is_free) };
        Ports { tls: Some(tls), ..self }
    }
}

fn first_free(from: u16, is_free: impl Fn(u16) -> bool) -> u16 {
    (from..=from.saturating_add(PORTS)).find(|port| is_free(*port)).unwrap_or(0)
}

/// Whether this port of loopback can be listened on now.
#[must_use]
pub fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// The file's text. What takes time in it takes as much less as `speed` says.
#[must_use]
pub fn script(ports: Ports, algorithm: &str, web: &Cast, echo: &Cast, speed: u32) -> String {
    let mut text = format!(
        "# The demonstration runs on this file. Edit and save it: the change is applied at once, or refused with the\n\
         # reason. It is removed when the demonstration ends.\n\n\
         [runtime]\n\
         shutdown_grace = \"1s\"\n\n\
         [listeners.tcp]\n\
         bind = \"127.0.0.1:{}\"\n\
         protocol = \"tcp\"\n\
         pool = \"tcp\"\n",
        ports.echo
    );
    listener(&mut text, "http", ports.web, "");
    if let Some(port) = ports.tls {
        let tls = format!("tls.certificates = [{{ cert = \"{CERT}\", key = \"{KEY}\" }}]\n");
        listener(&mut text, "https", port, &tls);
    }
    pool(&mut text, "http", algorithm, web);
    if RAMPING.contains(&algorithm) {
        let _ = writeln!(text, "slow_start = \"{}ms\"", 4000 / speed);
    }
    pool(&mut text, "tcp", algorithm, echo);
    text.push_str(&protection(speed));
    text
}

/// A listener for HTTP, with this too.
fn listener(text: &mut String, name: &str, port: u16, tls: &str) {
    let _ = write!(
        text,
        "\n[listeners.{name}]\n\
         bind = \"127.0.0.1:{port}\"\n\
         {tls}\n\
         [[listeners.{name}.routes]]\n\
         name = \"all\"\n\
         pool = \"http\"\n\
         retry = {{ attempts = 3, on = [\"connect\", \"reset\", \"timeout\", \"500\"] }}\n"
    );
}

fn pool(text: &mut String, name: &str, algorithm: &str, cast: &Cast) {
    let _ = write!(text, "\n[pools.{name}]\nbalance = \"{algorithm}\"\nbackends = [\n");
    for (character, address) in cast {
        let _ = write!(text, "    {{ name = \"{}\", address = \"{address}\"", character.name);
        // The one policy that ignores weights says so when it is given some.
        if algorithm != "round_robin" {
            let _ = write!(text, ", weight = {}", character.weight);
        }
        text.push_str(" },\n");
    }
    text.push_str("]\n");
}

/// How the pools are protected: as one would, but quicker, so that there is something to see.
fn protection(speed: u32) -> String {
    let millis = |millis: u32| format!("\"{}ms\"", millis / speed);
    let window = (2 / speed).max(1);
    format!(
        "\n[pools.http.health_check]\n\
         path = \"{HEALTH}\"\n\
         interval = {}\n\
         timeout = {}\n\
         rise = 2\n\
         fall = 2\n\n\
         [pools.tcp.health_check]\n\
         type = \"tcp\"\n\
         interval = {}\n\n\
         [defaults.breaker]\n\
         consecutive_failures = 3\n\
         failure_ratio = 0.4\n\
         min_requests = 10\n\
         window = \"{window}s\"\n\
         open_for = {}\n\
         open_for_max = {}\n",
        millis(500),
        millis(400),
        millis(1000),
        millis(2000),
        millis(8000)
    )
}

/// The files of the certificate and its key, beside that.
const CERT: &str = "demo.crt";
const KEY: &str = "demo.key";

/// The file in its directory; both are removed when this is dropped.
#[derive(Debug)]
pub struct Stage {
    directory: PathBuf,
    file: PathBuf,
}

impl Stage {
    /// Writes `text` into a new directory that only this user may enter.
    ///
    /// # Errors
    /// When the temporary directory can not be written to.
    pub fn build(text: &str) -> io::Result<Stage> {
        let directory = new_directory()?;
        let file = directory.join("evenkeel.toml");
        let stage = Stage { directory, file };
        fs::write(&stage.file, text)?;
        Ok(stage)
    }

    /// Puts a certificate where the text says.
    ///
    /// # Errors
    /// When it can not be written.
    pub fn certify(&self, SelfSigned { cert, key }: &SelfSigned) -> io::Result<()> {
        fs::write(self.directory.join(CERT), cert)?;
        fs::write(self.directory.join(KEY), key)
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }
}

/// A name that something has already is passed over: a killed demonstration may have left it, and in a directory that
/// everybody may write to it may be a trap.
fn new_directory() -> io::Result<PathBuf> {
    let names = (0..NAMES).map(|nth| format!("evenkeel-demo-{}-{nth}", std::process::id()));
    let create = |name: String| {
        let directory = std::env::temp_dir().join(name);
        DirBuilder::new().mode(0o700).create(&directory).map(|()| directory)
    };
    let taken =
        |result: &io::Result<PathBuf>| result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists);
    names.map(create).find(|result| !taken(result)).unwrap_or(Err(io::ErrorKind::AlreadyExists.into()))
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Nothing can be done about what can not be removed; it is in the temporary directory.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_passed_over_unless_it_was_asked_for() {
        let is_free = |port| port != 8080 && port != 8082;
        assert_eq!(Ports::choose(None, is_free), Ports { web: 8081, echo: 8083, tls: None });
        assert_eq!(Ports::choose(Some(8080), is_free), Ports { web: 8080, echo: 8081, tls: None });
        assert_eq!(Ports::choose(Some(0), is_free), Ports { web: 0, echo: 0, tls: None });
        assert_eq!(Ports::choose(None, |_| false), Ports { web: 0, echo: 0, tls: None });
        assert_eq!(Ports::choose(Some(u16::MAX), |_| true), Ports { web: u16::MAX, echo: 0, tls: None });
    }

    #[test]
    fn the_port_for_https_is_none_of_the_others() {
        let tls = |web, is_free: fn(u16) -> bool| Ports { web, echo: 8444, tls: None }.with_tls(is_free).tls;
        assert_eq!(tls(8080, |_| true), Some(8443));
        assert_eq!(tls(8443, |_| true), Some(8445));
        assert_eq!((tls(8080, |_| false), tls(0, |_| true)), (Some(0), Some(0)));
    }

    #[test]
    fn weights_are_written_where_they_count() {
        let web = vec![(super::super::origins::WEB[0], "127.0.0.1:4000".parse().unwrap())];
        let ports = Ports { web: 8080, echo: 8081, tls: Some(8443) };
        assert!(script(ports, "least_connections", &web, &web, 1).contains("weight = 4"));
        assert!(!script(ports, "round_robin", &web, &web, 1).contains("weight"));
    }

    #[test]
    fn the_file_is_sound_at_any_speed_and_for_any_algorithm() {
        let cast = |characters: &[super::super::origins::Character]| {
            let at = |(port, character): (u16, _)| (character, std::net::SocketAddr::from(([127, 0, 0, 1], port)));
            (4000..).zip(characters.iter().copied()).map(at).collect::<Cast>()
        };
        let (web, echo) = (cast(&super::super::origins::WEB), cast(&super::super::origins::ECHO));
        let ports = Ports { web: 8080, echo: 8081, tls: Some(8443) };
        for algorithm in crate::cli::ALGORITHMS {
            for speed in 1..=10 {
                let text = script(ports, algorithm, &web, &echo, speed);
                let loaded = crate::config::from_text("evenkeel.toml", &text);
                let loaded = loaded.unwrap_or_else(|report| panic!("{report}"));
                assert_eq!(loaded.warnings.to_string(), "", "{text}");
            }
        }
    }

    #[test]
    fn the_stage_is_cleared_away() {
        let (stage, other) = (Stage::build("x").unwrap(), Stage::build("y").unwrap());
        assert_ne!(stage.file(), other.file());
        let file = stage.file().to_owned();
        assert_eq!(fs::read_to_string(&file).unwrap(), "x");
        drop(stage);
        assert!(!file.exists());
    }
}
