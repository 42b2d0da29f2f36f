//! Who plays in the demonstration: the servers and the clients, on a thread of their own so that what they do does not
//! disturb the balancer's clocks more than strangers would.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::runtime::Builder;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use super::origins::{Character, ECHO, Mood, Origin, WEB};
use super::traffic::{self, Doors, Tallies};

/// Servers by how they behave and where they are.
pub type Cast = Vec<(Character, SocketAddr)>;

/// The running company. Dropping it ends all servers and clients.
#[derive(Debug)]
pub struct Company {
    /// Those that speak HTTP.
    pub web: Cast,
    /// Those that echo bytes.
    pub echo: Cast,
    /// How the clients fare.
    pub tallies: Arc<Tallies>,
    moods: HashMap<&'static str, watch::Sender<Mood>>,
    doors: Option<watch::Sender<Doors>>,
    thread: Option<JoinHandle<()>>,
}

/// What the clients are given.
struct Clients {
    doors: watch::Receiver<Doors>,
    tallies: Arc<Tallies>,
    speed: u32,
}

/// How a server is told, and how it hears.
fn directed(name: &'static str) -> ((&'static str, watch::Sender<Mood>), watch::Receiver<Mood>) {
    let (tell, told) = watch::channel(Mood::Well);
    ((name, tell), told)
}

impl Company {
    /// Starts the servers, and clients that wait to be told where to go and hurry `speed` times as much as they would.
    ///
    /// # Errors
    /// When the system has no thread or no port left.
    pub async fn start(speed: u32) -> io::Result<Company> {
        let (doors, told) = watch::channel(Doors::default());
        let (moods, directed): (HashMap<_, _>, Vec<_>) =
            WEB.map(|character| directed(character.name)).into_iter().unzip();
        let tallies = Arc::<Tallies>::default();
        let clients = Clients { doors: told, tallies: Arc::clone(&tallies), speed };
        let (tell, cast) = oneshot::channel();
        let play = move || play(tell, directed, clients);
        let thread = thread::Builder::new().name("demo".to_owned()).spawn(play)?;
        let cast = cast.await.unwrap_or_else(|_| Err(io::Error::other("the demonstration's thread has died")))?;
        let (web, echo) = cast;
        Ok(Company { web, echo, tallies, moods, doors: Some(doors), thread: Some(thread) })
    }

    /// Has a server that speaks HTTP behave so from now on.
    pub fn direct(&self, name: &str, mood: Mood) {
        if let Some(told) = self.moods.get(name) {
            told.send_if_modified(|before| std::mem::replace(before, mood) != mood);
        }
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

fn play(tell: oneshot::Sender<io::Result<(Cast, Cast)>>, moods: Vec<watch::Receiver<Mood>>, clients: Clients) {
    let runtime = match Builder::new_current_thread().enable_all().build_local(Default::default()) {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = tell.send(Err(error));
            return;
        }
    };
    runtime.block_on(async move {
        match bind_all() {
            Ok((web, echo)) => {
                // Nobody listens when the demonstration is over before it began.
                let _ = tell.send(Ok((cast(&web), cast(&echo))));
                perform(web, moods, echo, clients).await;
            }
            Err(error) => drop(tell.send(Err(error))),
        }
    });
}

fn bind_all() -> io::Result<(Vec<Origin>, Vec<Origin>)> {
    let bind = |characters: &[Character]| {
        characters.iter().map(|character| Origin::bind(*character)).collect::<io::Result<Vec<_>>>()
    };
    Ok((bind(&WEB)?, bind(&ECHO)?))
}

fn cast(origins: &[Origin]) -> Cast {
    origins.iter().map(|origin| (origin.character, origin.address)).collect()
}

/// Until the other end of the doors is gone; then everything is dropped, and so ended.
async fn perform(web: Vec<Origin>, moods: Vec<watch::Receiver<Mood>>, echo: Vec<Origin>, mut clients: Clients) {
    let mut players = JoinSet::new();
    for (origin, mood) in web.into_iter().zip(moods) {
        players.spawn_local(origin.serve_web(mood));
    }
    for origin in echo {
        players.spawn_local(origin.serve_echo());
    }
    let Clients { doors, tallies, speed } = &mut clients;
    let traffic = traffic::run(doors.clone(), Arc::clone(tallies), *speed);
    players.spawn_local(async {
        traffic.await;
        Ok(())
    });
    while doors.changed().await.is_ok() {}
}
