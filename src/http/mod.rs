//! The HTTP message: heads, framing, what is forwarded and what is refused. No I/O.
//!
//! Messages come in by [`h1`] or [`h2`], become a [`RequestHead`] or [`ResponseHead`], and go out again newly built: framing
//! is always ours, never copied (RFC 9112 §6, security.md checklist 4).

mod bytes;
pub mod fields;
pub mod forward;
pub mod frames;
mod framing;
pub mod grpc;
pub mod h1;
pub mod h2;
pub mod head;
mod kept;
pub mod refusal;
pub mod target;
pub mod websocket;

pub use bytes::is_token;
pub use head::{Fields, Framing, Known, Method, RequestHead, ResponseHead, Version};
pub use kept::{Kept, MOST_KEPT};
pub use refusal::Refusal;
pub use target::Target;
