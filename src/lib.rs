//! Evenkeel, a Layer 4 / Layer 7 load balancer.
//!
//! # The way of a request
//! ```text
//! server::listener ─ accept ─► server::worker ─► l4 │ l7          one task owns the client's connection, after its PROXY
//!                                                  │              header and TLS handshake; one more each HTTP/2 stream
//!   http::h1, http::h2 ─► state::route ─► state::view::take        which pool; which backend, by balance; a lease
//!                                                  │
//!   upstream ─ connect, idle or shared ─► l7::exchange             the bodies, both ways at once
//!                                                  │
//!   Lease::responded, Lease::finish ◄─ outcome ────┘──► record     what it says of the backend
//! ```
//! # The rooms
//! They stand in the order in which they may know each other: a room uses those above it, never those below
//! (`tests/architecture.rs` keeps that). Rooms marked ● are pure: they decide, and name no socket, clock, file or
//! thread-local dice.
//!
//! | room | what it is about |
//! |---|---|
//! | [`clock`], [`sync`] | time; the atomics that loom can replace |
//! | [`outcome`] ● | how an attempt ended, and what follows from it |
//! | [`balance`] ● | who gets the next request: one file an algorithm |
//! | [`breaker`] ● | whether a failing backend is left alone for a while |
//! | [`http`] ● | the HTTP message, of HTTP/1.1 and HTTP/2: strict in, canonical out |
//! | [`proxy_protocol`] ● | the header by which one proxy tells the next who the client is |
//! | [`client_hello`] ● | the first message of TLS: which name it asks for |
//! | [`config`] ● | what the user wrote → what we mean (reading and watching the files apart) |
//! | [`tls`] | certificates and keys, from the files to what a handshake goes by |
//! | [`state`] ● | what a request can see: one snapshot, the live state it is bound to, leases, routes, views |
//! | [`buffer`] ●, [`serial`] ●, [`deadline`], [`housing`], [`pipe`], [`stream`] | bytes, maps, deadlines, memory, kernel pipes and connections as the data plane needs them |
//! | [`upstream`] | connections to backends: new, idle, and shared by requests (HTTP/2) |
//! | [`health`] | whether a backend is well: probes on a thread of their own, rise and fall ● |
//! | [`record`] ● | what is remembered of the traffic |
//! | [`local`] | what one worker owns and lends to its connections |
//! | [`l4`] | one TCP connection |
//! | [`l7`] | one HTTP connection: its requests, one by one or as streams |
//! | [`server`] | listeners, workers, control: the sole writer of snapshots |
//! | [`simulation`] ● | the real pools, queues, breakers and checks on virtual time |
//! | [`cli`] | what a person types |
//!
//! # Threads
//! One control thread and N workers, and one thread that asks backends whether they are well, where a pool has a check. A worker is a thread with its own runtime, its own listening sockets (`SO_REUSEPORT`)
//! and its own connections to backends; workers share nothing but a few atomic words per backend. Control binds, watches the
//! files, makes the next [`state::Snapshot`] and swaps it in; workers notice at their next unit of work.

pub mod balance;
pub mod breaker;
pub mod buffer;
pub mod cli;
pub mod client_hello;
pub mod clock;
pub mod config;
pub mod deadline;
pub mod health;
pub mod housing;
pub mod http;
pub mod l4;
pub mod l7;
pub mod local;
pub mod outcome;
pub mod pipe;
pub mod proxy_protocol;
pub mod record;
pub mod serial;
pub mod server;
pub mod simulation;
pub mod state;
pub mod stream;
pub mod sync;
pub mod tls;
pub mod upstream;
