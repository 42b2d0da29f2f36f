//! nginx and HAProxy as Debian ships them, started with the plain configurations in `peers/`.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::lane::Lane;
use crate::run::Program;
use crate::support::eventually;

/// A running peer; it is ended when dropped.
pub struct Peer {
    pub program: Program,
    child: Child,
    _directory: TempDir,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // SIGTERM, because nginx would leave its worker behind when killed.
        let id = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let id = id.expect("a child has an id");
        rustix::process::kill_process(id, rustix::process::Signal::TERM).ok();
        drop(self.child.wait());
    }
}

pub fn nginx(lanes: &[Lane]) -> Result<Peer, String> {
    start("nginx", "nginx.conf", "nginx-server.conf", lanes, |binary, file, directory| {
        let mut command = Command::new(binary);
        command.arg("-p").arg(directory).arg("-c").arg(file);
        command
    })
}

pub fn haproxy(lanes: &[Lane]) -> Result<Peer, String> {
    start("haproxy", "haproxy.cfg", "haproxy-server.cfg", lanes, |binary, file, _| {
        let mut command = Command::new(binary);
        command.args(["-db", "-q", "-f"]).arg(file);
        command
    })
}

fn start(
    name: &'static str,
    whole: &str,
    server: &str,
    lanes: &[Lane],
    command: impl Fn(&Path, &Path, &Path) -> Command,
) -> Result<Peer, String> {
    let binary = find(name).ok_or(format!("{name} is not installed (Debian: apt install {name})"))?;
    println!("{}", version(&binary));
    let addresses = free_addresses(lanes.len());
    let directory = tempfile::tempdir().expect("a temporary directory");
    let servers: String = lanes
        .iter()
        .zip(&addresses)
        .enumerate()
        .map(|(number, (lane, address))| {
            let text = template(server).replace("@NUMBER@", &number.to_string());
            text.replace("@ADDRESS@", address).replace("@ORIGIN@", &lane.address)
        })
        .collect();
    let text = template(whole).replace("@SERVERS@", &servers).replace("@DIR@", &directory.path().display().to_string());
    let file = directory.path().join(whole);
    fs::write(&file, text).expect("the directory can be written");
    let child = command(&binary, &file, directory.path()).stdin(Stdio::null()).spawn();
    let mut child = child.map_err(|fault| format!("{name} can not be started: {fault}"))?;
    eventually(&format!("{name} listens"), || {
        assert!(child.try_wait().expect("it is our own child").is_none(), "{name} ended at its start");
        addresses.iter().all(|address| TcpStream::connect(address).is_ok())
    });
    Ok(Peer { program: Program::peer(name, addresses), child, _directory: directory })
}

/// The first line that it says of itself.
fn version(binary: &Path) -> String {
    let said = Command::new(binary).arg("-v").output().map(|said| [said.stdout, said.stderr].concat());
    String::from_utf8_lossy(&said.unwrap_or_default()).lines().next().unwrap_or_default().to_owned()
}

fn template(name: &str) -> String {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/peers").join(name);
    fs::read_to_string(file).expect("the configuration is there")
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/sbin", "/usr/local/sbin"]);
    folders.map(|folder| Path::new(folder).join(name)).find(|file| file.is_file())
}

/// Ports that were free a moment ago: neither program tells which one it got.
fn free_addresses(count: usize) -> Vec<String> {
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("loopback has free ports")).collect();
    held.iter().map(|listener| listener.local_addr().expect("it is bound").to_string()).collect()
}
