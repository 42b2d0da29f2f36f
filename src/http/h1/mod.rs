//! HTTP/1.1 as bytes (RFC 9112): strict on what comes in, canonical in what goes out.

pub mod body;
mod own;
pub mod parse;
pub mod write;
