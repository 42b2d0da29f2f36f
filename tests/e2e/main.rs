//! End to end: the real binary on free loopback ports, between scripted origins and raw-byte clients.

#[path = "../support/mod.rs"]
mod support;

mod backend_tls;
mod balance;
mod breaker;
mod certs;
mod cli;
mod demo;
mod examples;
mod failures;
mod forwarding;
mod grpc;
mod health;
mod health_grpc;
mod http2;
mod http2_abuse;
mod http2_backends;
mod http_bodies;
mod http_connections;
mod http_refusals;
mod instruments;
mod l4;
mod limits;
mod logs;
mod pairs;
mod proxy_protocol;
mod proxy_protocol_tlvs;
mod queue;
mod recovery;
mod reload;
mod reload_sessions;
mod reload_watch;
mod request_timeout;
mod retries;
mod routes;
mod sni;
mod stopping;
mod systemd;
mod timeouts;
mod tls;
mod upgrades;
mod websocket;
mod workers;
