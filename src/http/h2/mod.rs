//! HTTP/2 messages, as the `h2` crate gives and takes them, from and into our heads (RFC 9113 §8).
//!
//! The crate has looked at most of what is looked at here. It is looked at again, because what it lets through today is
//! its business and what becomes a line of HTTP/1.1 behind us is ours (security.md R11).

mod read;
mod write;

pub use super::framing::Body;
pub use read::{read_request, read_response, read_trailers};
pub use write::{write_interim, write_own_answer, write_request, write_response, write_trailers};
