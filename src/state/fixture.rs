//! Configurations for this room's tests, made without a file.

use std::time::Duration;

use crate::config::{
    Address, Backend, Bytes, Config, HeaderRules, Http, Limits, Listener, Policy, Pool, Protocol, Reload, Runtime,
    Service, Timeouts,
};

pub fn timeouts() -> Timeouts {
    let long = Duration::from_secs(30);
    Timeouts {
        client_header: long,
        client_body: long,
        client_write: long,
        client_min_rate: Bytes::default(),
        client_idle: long,
        tls_handshake: long,
        connect: long,
        response_header: long,
        response_body: long,
        upstream_idle: long,
        tunnel_idle: long,
        queue: long,
        request: None,
    }
}

/// A backend on this port of loopback.
pub fn backend(port: u16) -> Backend {
    Backend {
        name: port.to_string().into(),
        address: Address::Ip(([127, 0, 0, 1], port).into()),
        weight: 1,
        max_connections: None,
        backup: false,
        service: Service::Active,
    }
}

pub fn pool(name: &str, policy: Policy, backends: Vec<Backend>) -> Pool {
    let (health_check, fail_open, queue, retry_budget, breaker) = (None, true, 100, 0.2, None);
    let timeouts = timeouts();
    Pool {
        name: name.into(),
        policy,
        backends,
        slow_start: None,
        timeouts,
        health_check,
        fail_open,
        panic_threshold: 0.0,
        queue,
        retry_budget,
        breaker,
        http_version: crate::config::HttpVersion::H1,
        send_proxy_protocol: None,
        tls: None,
    }
}

pub fn round_robin(name: &str, ports: &[u16]) -> Pool {
    pool(name, Policy::RoundRobin, ports.iter().copied().map(backend).collect())
}

pub fn tcp(name: &str, pool: &str) -> Listener {
    listener(name, Protocol::Tcp { pool: pool.into() })
}

/// A listener without a route.
pub fn http(name: &str) -> Listener {
    let http = Http {
        versions: crate::config::HttpVersions::H1,
        trusted_proxies: Vec::new(),
        forwarded: false,
        via: false,
        routes: Vec::new(),
        headers: HeaderRules::default(),
    };
    listener(name, Protocol::Http(http))
}

fn listener(name: &str, protocol: Protocol) -> Listener {
    Listener {
        name: name.into(),
        bind: Vec::new(),
        proxy_protocol: None,
        tls: None,
        protocol,
        timeouts: timeouts(),
        limits: Limits::default(),
    }
}

pub fn config(listeners: Vec<Listener>, pools: Vec<Pool>) -> Config {
    Config {
        runtime: Runtime { workers: None, shutdown_grace: Duration::from_secs(30), connections: None },
        reload: Reload { watch: true, drain_timeout: Duration::from_secs(30) },
        listeners,
        pools,
    }
}

/// Only these pools.
pub fn of_pools(pools: Vec<Pool>) -> Config {
    config(Vec::new(), pools)
}
