//! The real binary: started on a file in a directory of its own, watched on stdout and stderr, killed when dropped.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::eventually;

/// Where the binary under test lies.
pub const BINARY: &str = env!("CARGO_BIN_EXE_evenkeel");

/// A running `evenkeel run`. When a test fails its log is printed.
pub struct Daemon {
    process: Process,
    directory: TempDir,
    file: PathBuf,
}

/// How a daemon is started when the plain way is not it.
pub struct Launch {
    directory: TempDir,
    file: PathBuf,
    environment: Vec<(String, String)>,
    limit: String,
    level: &'static str,
}

/// A command that has ended.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

struct Process {
    child: Child,
    out: Lines,
    err: Lines,
}

/// Lines as they come on a pipe.
struct Lines {
    lines: Arc<Mutex<Vec<String>>>,
    reader: JoinHandle<()>,
}

/// Runs the binary with these arguments until it ends by itself.
#[track_caller]
pub fn run(arguments: &[&str]) -> Finished {
    let mut process = Process::spawn(Command::new(BINARY).args(arguments));
    let status = process.wait_exit();
    process.finished(status)
}

impl Launch {
    /// In a new directory, with a file `evenkeel.toml` there still to be written.
    pub fn new() -> Launch {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("evenkeel.toml");
        Launch { directory, file, environment: Vec::new(), limit: String::new(), level: "debug" }
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file of the directory.
    pub fn write(self, name: &str, text: &str) -> Launch {
        write(&self.directory.path().join(name), text);
        self
    }

    pub fn environment(mut self, name: &str, value: &str) -> Launch {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets limits before it starts, as the shell's `ulimit` takes them.
    pub fn limit(mut self, limit: &str) -> Launch {
        self.limit = format!("ulimit {limit} && ");
        self
    }

    /// Logs this much; everything the tests look for is there at `debug`.
    pub fn level(mut self, level: &'static str) -> Launch {
        self.level = level;
        self
    }

    /// Starts it and expects nothing of it yet.
    pub fn begin(self) -> Daemon {
        self.spawn()
    }

    /// Starts it and waits until it says that it is ready.
    #[track_caller]
    pub fn start(self) -> Daemon {
        let mut daemon = self.spawn();
        eventually("the daemon says that it is ready", || {
            assert!(daemon.is_running(), "the daemon ended at its start");
            daemon.has_logged(" ready")
        });
        daemon
    }

    /// Starts it and expects it to give up by itself.
    #[track_caller]
    pub fn fail(self) -> Finished {
        let Daemon { mut process, directory: _kept, file: _ } = self.spawn();
        let status = process.wait_exit();
        assert!(!status.success(), "a start that cannot work must say so by its exit code: {status}");
        process.finished(status)
    }

    fn spawn(self) -> Daemon {
        let mut command = Command::new("/bin/sh");
        command.env_remove("NOTIFY_SOCKET").envs(self.environment);
        command.args(["-c", &format!("{}exec \"$0\" \"$@\"", self.limit), BINARY]);
        command.args(["run", "--log-level", self.level, "--config"]).arg(&self.file);
        Daemon { process: Process::spawn(&mut command), directory: self.directory, file: self.file }
    }
}

impl Daemon {
    /// Starts on this file and waits until it is ready.
    #[track_caller]
    pub fn start(toml: &str) -> Daemon {
        Launch::new().write("evenkeel.toml", toml).start()
    }

    /// Where this listener listens (its first address), as its `listening` line says.
    #[track_caller]
    pub fn address(&self, listener: &str) -> String {
        self.addresses(listener, 1).remove(0)
    }

    /// All so many addresses of this listener.
    #[track_caller]
    pub fn addresses(&self, listener: &str, count: usize) -> Vec<String> {
        let prefix = format!("listening {listener} ");
        let mut addresses = Vec::new();
        eventually(&format!("{count} lines {prefix:?} on stdout"), || {
            addresses = self.process.out.choose(|line| line.strip_prefix(&prefix).map(str::to_owned));
            addresses.len() >= count
        });
        addresses
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Puts another file in the place of the current one, in one step.
    pub fn rewrite(&self, toml: &str) {
        write(&self.file, toml);
    }

    /// Rewrites the file and waits until the reload is in force.
    #[track_caller]
    pub fn reload(&self, toml: &str) {
        let before = self.times_logged("reload applied");
        self.rewrite(toml);
        eventually("the reload is applied", || self.times_logged("reload applied") > before);
    }

    /// Waits for a line of the log that contains this.
    #[track_caller]
    pub fn wait_log(&self, text: &str) {
        eventually(&format!("{text:?} is logged"), || self.has_logged(text));
    }

    pub fn has_logged(&self, text: &str) -> bool {
        self.times_logged(text) > 0
    }

    /// All that it logged so far.
    #[allow(dead_code, reason = "for the tests that look at the log as a whole")]
    pub fn log(&self) -> Vec<String> {
        self.process.err.choose(|line| Some(line.to_owned()))
    }

    /// How many lines of the log contain this.
    pub fn times_logged(&self, text: &str) -> usize {
        self.process.err.choose(|line| line.contains(text).then_some(())).len()
    }

    /// All that it printed on stdout so far.
    pub fn printed(&self) -> Vec<String> {
        self.process.out.choose(|line| Some(line.to_owned()))
    }

    /// How much memory it has, in bytes, of which the kernel's buffers are no part.
    #[allow(dead_code, reason = "for the tests with greedy clients")]
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.child.id()));
        let status = status.expect("the daemon has not been waited for");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kibibytes.expect("Linux says so") * 1024
    }

    /// How many files and sockets it has open.
    pub fn descriptors(&self) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.process.child.id()));
        open.expect("the daemon has not been waited for").count()
    }

    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.process.child.id()).ok().and_then(Pid::from_raw);
        kill_process(id.expect("a child has an id"), signal).expect("the daemon has not been waited for");
    }

    pub fn is_running(&mut self) -> bool {
        self.process.status().is_none()
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        self.process.wait_exit()
    }
}

impl Process {
    fn spawn(command: &mut Command) -> Process {
        command.stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary was built");
        let out = Lines::of(child.stdout.take().expect("stdout is piped"));
        let err = Lines::of(child.stderr.take().expect("stderr is piped"));
        Process { child, out, err }
    }

    fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our own child")
    }

    #[track_caller]
    fn wait_exit(&mut self) -> ExitStatus {
        eventually("the process ends", || self.status().is_some());
        self.status().expect("it has ended")
    }

    fn finished(mut self, status: ExitStatus) -> Finished {
        let (out, err) = (std::mem::take(&mut self.out), std::mem::take(&mut self.err));
        Finished { status, out: out.whole(), err: err.whole() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            println!("stdout:\n{}\nstderr:\n{}", self.out.so_far(), self.err.so_far());
        }
    }
}

impl Default for Lines {
    fn default() -> Lines {
        Lines::of(std::io::empty())
    }
}

impl Lines {
    fn of(pipe: impl Read + Send + 'static) -> Lines {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let filling = lines.clone();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                filling.lock().expect("no holder panics").push(line);
            }
        });
        Lines { lines, reader }
    }

    fn choose<T>(&self, choice: impl Fn(&str) -> Option<T>) -> Vec<T> {
        self.lines.lock().expect("no holder panics").iter().filter_map(|line| choice(line)).collect()
    }

    fn so_far(&self) -> String {
        self.lines.lock().expect("no holder panics").join("\n")
    }

    /// Everything up to the end of the pipe.
    fn whole(self) -> String {
        self.reader.join().expect("reading lines does not panic");
        self.lines.lock().expect("no holder panics").join("\n")
    }
}

/// Writes beside and renames, as careful tools do: nobody ever reads half a file.
fn write(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).expect("the directory can be written");
    std::fs::rename(&beside, path).expect("the directory can be written");
}
