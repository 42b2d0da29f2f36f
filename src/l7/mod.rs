//! One HTTP connection: its requests, one after the other, each through one exchange with a backend.
//!
//! [`h1::serve`] and [`h2::serve`] are the connection; `exchange` is one request's way (route, attempts, response, record), of
//! which `attempts`, `reach` and `talk` are the part up to the response's head and `bodies` the rest. `client` and `backend` are
//! the two sides of it, whatever they speak.

mod attempts;
mod backend;
mod bodies;
mod body;
mod client;
mod exchange;
mod grpc;
pub mod h1;
pub mod h2;
mod pace;
mod reach;
mod replies;
mod request_id;
pub mod retry;
pub mod spoken;
mod talk;
mod upgrade;
mod wire;

pub use replies::turn_away;
