//! What every demonstration consists of: the company of servers and clients, and the balancer between them.

use super::certificate::SelfSigned;
use super::company::Company;
use super::stage::{self, Ports, Stage};
use super::table::Sample;
use super::traffic::Doors;
use super::{Trouble, words};
use crate::cli::Demo;
use crate::cli::turns::Turns;
use crate::clock::{self, Instant};
use crate::config::Address;
use crate::server::daemon::Daemon;
use crate::server::{BackendReport, Listening, PoolReport};

/// The running parts, in the order in which they are dropped: the clients go before the balancer, and the file last.
pub struct Scene {
    /// Servers and clients.
    pub company: Company,
    /// The balancer, as `evenkeel run` runs it.
    pub daemon: Daemon,
    /// The file that it follows.
    pub stage: Stage,
    /// What its backends go through.
    pub turns: Turns,
    /// When all this began.
    pub begun: Instant,
}

impl Scene {
    /// Starts all of it.
    ///
    /// # Errors
    /// Whatever the system or the balancer says.
    pub async fn open(demo: &Demo, turns: Turns) -> Result<Scene, Trouble> {
        let company = Company::start(demo.speed).await?;
        let ports = Ports::choose(demo.port, stage::is_free);
        let ports = if demo.tls { ports.with_tls(stage::is_free) } else { ports };
        let script = stage::script(ports, &demo.algorithm, &company.web, &company.echo, demo.speed);
        let stage = Stage::build(&script)?;
        if demo.tls {
            stage.certify(&SelfSigned::make()?)?;
        }
        let daemon = Daemon::start(stage.file()).await.map_err(Trouble::Fault)?;
        Ok(Scene { company, daemon, stage, turns, begun: clock::now() })
    }

    /// Leads the clients to where the listeners are now.
    pub fn lead(&mut self) {
        let doors = self.doors();
        self.company.lead_to(doors);
    }

    /// The numbers of every backend.
    pub async fn samples(&mut self) -> Vec<Sample> {
        self.daemon.server().observe().await.into_iter().map(sample).collect()
    }

    /// The numbers of every pool.
    pub async fn pools(&mut self) -> Vec<PoolReport> {
        self.daemon.server().observe_pools().await
    }

    /// Where clients can go.
    pub fn doors(&mut self) -> Doors {
        doors(&self.daemon.server().listening())
    }

    /// Ends the company, lets the balancer finish what it has, and clears away.
    pub async fn close(self) {
        drop(self.company);
        self.daemon.stop().await;
    }
}

fn sample(report: BackendReport) -> Sample {
    let BackendReport { pool, status, record } = report;
    Sample {
        pool: pool.to_string(),
        backend: status.name.to_string(),
        weight: status.weight,
        standing: words::standing(&status),
        in_flight: status.in_flight.into(),
        requests: record.attempts,
        failures: record.failures,
        p50: record.quantile(0.5),
        p99: record.quantile(0.99),
    }
}

fn doors(listening: &[Listening]) -> Doors {
    let find = |name| {
        listening.iter().filter(|listening| &*listening.name == name).find_map(|listening| match listening.address {
            Address::Ip(address) if address.is_ipv4() => Some(address),
            Address::Ip(_) | Address::Unix(_) => None,
        })
    };
    Doors { web: find("http"), echo: find("tcp") }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn clients_are_led_to_where_the_listeners_are() {
        let address: SocketAddr = "127.0.0.1:4711".parse().unwrap();
        let web = Listening { name: "http".into(), address: Address::Ip(address) };
        assert_eq!(doors(&[web]), Doors { web: Some(address), echo: None });
        assert_eq!(doors(&[]), Doors::default());
    }
}
