//! Who plays in the demonstration: the servers and the clients, on a thread of their own so that what they do does not
//! disturb the balancer's clocks more than strangers would.

use std::io;
use std::net::SocketAddr;
use std::thread::{self, JoinHandle};

use tokio::runtime::Builder;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use super::origins::{Character, ECHO, Origin, WEB};
use super::traffic::{self, Doors};

/// Servers by how they behave and where they are.
pub type Cast = Vec<(Character, SocketAddr)>;

/// The running company. Dropping it ends all servers and clients.
#[derive(Debug)]
pub struct Company {
    /// Those that speak HTTP.
    pub web: Cast,
    /// Those that echo bytes.
    pub echo: Cast,
    doors: Option<watch::Sender<Doors>>,
    thread: Option<JoinHandle<()>>,
}

impl Company {
    /// Starts the servers, and clients that wait to be told where to go.
    ///
    /// # Errors
    /// When the system has no thread or no port left.
    pub async fn start() -> io::Result<Company> {
        let (doors, told) = watch::channel(Doors::default());
        let (tell, cast) = oneshot::channel();
        let thread = thread::Builder::new().name("demo".to_owned()).spawn(move || play(tell, told))?;
        let cast = cast.await.unwrap_or_else(|_| Err(io::Error::other("the demonstration's thread has died")))?;
        let (web, echo) = cast;
        Ok(Company { web, echo, doors: Some(doors), thread: Some(thread) })
    }

    /// Sends the clients there.
    pub fn lead_to(&self, now: Doors) {
        if let Some(doors) = &self.doors {
            doors.send_replace(now);
        }
    }
}

impl Drop for Company {
    fn drop(&mut self) {
        self.doors = None;
        if let Some(thread) = self.thread.take() {
            // It has nothing to say, and its panic would have been printed.
            let _ = thread.join();
        }
    }
}

fn play(tell: oneshot::Sender<io::Result<(Cast, Cast)>>, doors: watch::Receiver<Doors>) {
    let runtime = match Builder::new_current_thread().enable_all().build_local(Default::default()) {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = tell.send(Err(error));
            return;
        }
    };
    runtime.block_on(async move {
        match bind_all().await {
            Ok((web, echo)) => {
                // Nobody listens when the demonstration is over before it began.
                let _ = tell.send(Ok((cast(&web), cast(&echo))));
                perform(web, echo, doors).await;
            }
            Err(error) => drop(tell.send(Err(error))),
        }
    });
}

async fn bind_all() -> io::Result<(Vec<Origin>, Vec<Origin>)> {
    let (mut web, mut echo) = (Vec::new(), Vec::new());
    for character in WEB {
        web.push(Origin::bind(character).await?);
    }
    for character in ECHO {
        echo.push(Origin::bind(character).await?);
    }
    Ok((web, echo))
}

fn cast(origins: &[Origin]) -> Cast {
    origins.iter().map(|origin| (origin.character, origin.address)).collect()
}

/// Until the other end of `doors` is gone; then everything is dropped, and so ended.
async fn perform(web: Vec<Origin>, echo: Vec<Origin>, mut doors: watch::Receiver<Doors>) {
    let mut players = JoinSet::new();
    for origin in web {
        players.spawn_local(origin.serve_web());
    }
    for origin in echo {
        players.spawn_local(origin.serve_echo());
    }
    players.spawn_local(traffic::run(doors.clone()));
    while doors.changed().await.is_ok() {}
}
