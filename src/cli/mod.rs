//! What a person types.

pub mod check;
pub mod schema;
