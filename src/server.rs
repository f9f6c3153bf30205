//! The HTTP scoring server.
