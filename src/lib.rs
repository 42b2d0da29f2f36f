//! Evenkeel
