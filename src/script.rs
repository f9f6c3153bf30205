//! Entry scripts in Python: supervised worker processes behind `server::Application`.
//!
//! A script runs in processes of its own: what it does to its process, it does to no other, and Python's
//! one lock is one per worker.

#[allow(dead_code, reason = "the pool comes next")]
mod lines;
mod log_file;
#[allow(dead_code, reason = "the pool comes next")]
mod options;
#[allow(dead_code, reason = "the pool comes next")]
mod protocol;
pub mod runtime;

pub use log_file::LogFile;
pub use options::{Door, DoorEnd, LogSink, ScriptOptions};
