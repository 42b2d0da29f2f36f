//! End to end: the real binary on free loopback ports, between scripted origins and raw-byte clients.

#[path = "../support/mod.rs"]
mod support;

mod forwarding;
mod http_bodies;
mod http_connections;
mod http_refusals;
