//! The HTTP scoring server.

pub mod json;
