//! Foreign programs: found, run within a bounded time, and ended with all that they started.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// A program that is installed here.
pub struct Guest {
    program: PathBuf,
    first: Vec<String>,
}

/// What a program has said, and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// A program that serves until this is dropped. When a test fails, what it had to say is printed.
pub struct Serving {
    pub address: String,
    err: Option<JoinHandle<Vec<u8>>>,
    running: Running,
}

/// A child in a process group of its own, which ends as a whole.
struct Running(Child);

/// How long a client may take; generous, because machines that run tests are busy.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// The program of this name; `None`, with words, where it is not installed.
pub fn guest(name: &str) -> Option<Guest> {
    let folders = std::env::var("PATH").unwrap_or_default();
    let found = folders.split(':').map(|folder| Path::new(folder).join(name)).find(|file| file.is_file());
    found.map(|program| Guest { program, first: Vec::new() }).or_else(|| absent(name))
}

/// A script beside this file, run by the Python of `EVENKEEL_INTEROP_PYTHON`, where that has these modules.
pub fn script(name: &str, modules: &str) -> Option<Guest> {
    let Some(program) = std::env::var_os("EVENKEEL_INTEROP_PYTHON").map(PathBuf::from) else {
        return absent("EVENKEEL_INTEROP_PYTHON");
    };
    let imports = Guest { program: program.clone(), first: vec!["-c".to_owned(), format!("import {modules}")] };
    if !program.is_file() || imports.run(&[], b"").code != Some(0) {
        return absent(&format!("Python with {modules}"));
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop").join(name);
    Some(Guest { program, first: vec![script.display().to_string()] })
}

/// Not by `eprintln`, which tests that pass swallow.
fn absent(what: &str) -> Option<Guest> {
    assert!(std::env::var_os("EVENKEEL_INTEROP").is_none(), "there is no {what} here, and EVENKEEL_INTEROP is set");
    writeln!(std::io::stderr(), "skipped: no {what}").ok();
    None
}

impl Guest {
    /// Runs it to its end, with this on its standard input.
    #[track_caller]
    pub fn run(&self, arguments: &[&str], input: &[u8]) -> Said {
        self.run_within(PATIENCE, arguments, input)
    }

    /// The same with more patience.
    #[track_caller]
    pub fn run_within(&self, patience: Duration, arguments: &[&str], input: &[u8]) -> Said {
        let mut running = self.start(arguments);
        let mut stdin = running.0.stdin.take().expect("it is piped");
        let out = reading(running.0.stdout.take().expect("it is piped"));
        let err = reading(running.0.stderr.take().expect("it is piped"));
        // Who does not want it is not to fail for that.
        stdin.write_all(input).ok();
        drop(stdin);
        let code = running.end(Instant::now() + patience);
        drop(running);
        let said = |reader: JoinHandle<Vec<u8>>| {
            String::from_utf8_lossy(&reader.join().expect("reading does not panic")).into_owned()
        };
        let said = Said { code: code.flatten(), out: said(out), err: said(err) };
        assert!(code.is_some(), "{} {arguments:?} takes longer than {patience:?}: {said:?}", self.program.display());
        said
    }

    /// Runs it and expects it to end well.
    #[track_caller]
    pub fn succeed(&self, arguments: &[&str]) -> Said {
        let said = self.run(arguments, b"");
        assert_eq!(said.code, Some(0), "{} {arguments:?}: {said:?}", self.program.display());
        said
    }

    /// Starts it as a server; the first line that it prints is its address.
    #[track_caller]
    pub fn serve(&self, arguments: &[&str]) -> Serving {
        let mut running = self.start(arguments);
        let mut address = String::new();
        let out = running.0.stdout.take().expect("it is piped");
        let err = Some(reading(running.0.stderr.take().expect("it is piped")));
        BufReader::new(out).read_line(&mut address).expect("a line");
        let serving = Serving { address: address.trim().to_owned(), err, running };
        assert!(!serving.address.is_empty(), "{} {arguments:?} ended without an address", self.program.display());
        serving
    }

    fn start(&self, arguments: &[&str]) -> Running {
        let mut command = Command::new(&self.program);
        command.args(&self.first).args(arguments).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(command.spawn().expect("it is installed"))
    }
}

fn reading(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before a failure is still worth reading.
        pipe.read_to_end(&mut bytes).ok();
        bytes
    })
}

impl Running {
    /// Its exit code, `None` within for a signal; `None` where it does not end in time.
    fn end(&mut self, deadline: Instant) -> Option<Option<i32>> {
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait().expect("it is our own child") {
                return Some(status.code());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.running.kill();
        let err = self.err.take().and_then(|reader| reader.join().ok());
        if std::thread::panicking() {
            println!("{}", String::from_utf8_lossy(&err.unwrap_or_default()));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Running {
    fn kill(&mut self) {
        let group = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).expect("a child has an id");
        kill_process_group(group, Signal::KILL).ok();
        drop(self.0.wait());
    }
}
