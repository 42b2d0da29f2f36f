//! What the fuzz targets ask: the same functions that `tests/properties.rs` calls.

#[path = "../tests/support/properties/mod.rs"]
pub mod properties;
