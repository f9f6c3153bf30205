//! The server as its clients drive it: real sockets, raw HTTP, and a scorer that does as it is told.

#![cfg(feature = "server")]
#![allow(missing_docs)]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests assert their way forward too"
)]

#[path = "server/abuse.rs"]
mod abuse;
#[path = "server/applications.rs"]
mod applications;
#[path = "server/client.rs"]
mod client;
#[path = "server/contract.rs"]
mod contract;
#[path = "server/faults.rs"]
mod faults;
#[path = "server/lifecycle.rs"]
mod lifecycle;
