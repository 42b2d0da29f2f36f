//! A notification socket as systemd gives one to a service of `Type=notify`.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use tempfile::TempDir;

use super::DEADLINE;

/// A datagram socket that remembers every state a daemon told.
pub struct NotifySocket {
    socket: UnixDatagram,
    directory: TempDir,
    told: Vec<String>,
}

impl NotifySocket {
    pub fn new() -> NotifySocket {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let socket = UnixDatagram::bind(directory.path().join("notify")).expect("the path is free");
        socket.set_read_timeout(Some(DEADLINE)).expect("a deadline above zero");
        NotifySocket { socket, directory, told: Vec::new() }
    }

    /// What stands in NOTIFY_SOCKET.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("notify")
    }

    /// Waits for a message with a line that begins so, and gives the whole message.
    #[track_caller]
    pub fn message_with(&mut self, beginning: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            let Ok(length) = self.socket.recv(&mut buffer) else {
                panic!("no {beginning:?} was told, only {:?}", self.told);
            };
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            self.told.push(message.clone());
            if message.lines().any(|line| line.starts_with(beginning)) {
                return message;
            }
        }
    }

    /// All messages waited through so far.
    pub fn told(&self) -> &[String] {
        &self.told
    }
}
