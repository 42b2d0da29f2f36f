//! One HTTP connection: its requests, one after the other, each through one exchange with a backend.
//!
//! [`serve`] is the connection; [`exchange`] is one request's way: route, attempts, response, record.

mod body;
mod exchange;
mod h1;

mod replies;
mod request_id;
mod retry;
mod upgrade;

pub use h1::serve;
