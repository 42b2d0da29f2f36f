//! The HTTP message: heads, framing, what is forwarded and what is refused. No I/O.
//!
//! Bytes come in by [`h1`], become a [`RequestHead`] or [`ResponseHead`], and go out again newly built: framing is always
//! ours, never copied (RFC 9112 §6, security.md checklist 4).

mod bytes;
pub mod fields;
pub mod h1;
pub mod head;
mod kept;
pub mod refusal;
pub mod target;

pub use bytes::is_token;
pub use head::{Fields, Framing, Known, Method, RequestHead, ResponseHead, Version};
pub use kept::{Kept, MOST_KEPT};
pub use refusal::Refusal;
pub use target::Target;
