//! Environments as they are: real interpreters, real packages from the package index, real processes that are
//! killed. The packages are few and tiny.

#![cfg(all(feature = "cli", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests, which clippy.toml does not count as tests

#[path = "environment/build.rs"]
mod build;
#[path = "environment/home.rs"]
mod home;
#[path = "environment/package.rs"]
mod package;
#[path = "environment/processes.rs"]
mod processes;
