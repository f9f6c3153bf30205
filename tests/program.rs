//! The program as its users drive it: the real binary, its real processes, real models.
//!
//! Every test has a home folder of its own, and whatever still runs below it when the test ends, also by a
//! panic, is killed. Nothing sleeps for a fixed time: what must happen is waited for, with a deadline
//! that only a broken program meets.

#![cfg(all(feature = "cli", feature = "cpu", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests, which clippy.toml does not count as tests

#[path = "program/crashes.rs"]
mod crashes;
#[path = "program/deploy.rs"]
mod deploy;
#[cfg(feature = "cuda")]
#[path = "../hardware-tests/emulated.rs"]
mod emulated;
#[cfg(feature = "opencl")]
#[path = "program/fpga.rs"]
mod fpga;
#[cfg(feature = "cuda")]
#[path = "program/gpu.rs"]
mod gpu;
#[path = "program/home.rs"]
mod home;
#[path = "program/http.rs"]
mod http;
#[path = "program/look.rs"]
mod look;
#[path = "program/models.rs"]
mod models;
#[path = "program/numpy.rs"]
mod numpy;
#[path = "oracle/model.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod onnx;
#[path = "program/profile.rs"]
mod profile;
#[path = "program/quantize.rs"]
mod quantize;
#[path = "program/races.rs"]
mod races;
#[path = "program/requests.rs"]
mod requests;
#[path = "program/score.rs"]
mod score;
#[path = "program/scripts.rs"]
mod scripts;
#[path = "program/secrets.rs"]
mod secrets;
#[path = "program/serve.rs"]
mod serve;
#[path = "program/states.rs"]
mod states;
#[path = "program/tls.rs"]
mod tls;
#[path = "program/update.rs"]
mod update;
