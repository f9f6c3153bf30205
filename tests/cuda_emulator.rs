//! The kernels of the GPU, and the emulated driver that they are tested on: through the unmodified `cudarc`, without a GPU.
//!
//! Each test runs itself again in processes of their own, one for every order of threads and every time of work, since a process binds to one driver.
//! Without a C++ compiler there is no emulated driver, and the tests say so.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "tests")]
#![cfg(all(feature = "cuda", target_os = "linux"))]

#[path = "cuda_emulator/inside.rs"]
mod inside;
#[path = "cuda_emulator/mutants.rs"]
mod mutants;
#[path = "cuda_emulator/strictness.rs"]
mod strictness;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Says to a process that it is the one inside.
const INSIDE: &str = "TRISCORE_TEST_EMULATED";

/// In which order threads run, and when work is done.
const SCHEDULES: [(&str, &str); 4] =
    [("forward", "late"), ("reverse", "late"), ("ahead", "late"), ("forward", "early")];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Builds the driver with the kernels of a folder. `None`, said, without a compiler.
fn build(kernels: &Path, to: &Path) -> Option<PathBuf> {
    let script = root().join("scripts/build-cuda-emulator.sh");
    let ran = Command::new("bash").arg(script).args([kernels, to]).output().unwrap();
    if ran.status.code() == Some(69) {
        println!("skipped: {}", String::from_utf8_lossy(&ran.stderr).trim());
        return None;
    }
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    Some(to.to_owned())
}

/// The folder of the driver with the kernels as they are.
fn emulator() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let built =
        BUILT.get_or_init(|| build(&root().join("kernels/cuda"), &root().join("target/cuda-emulator")));
    built.as_deref()
}

/// Runs a test of this file again on that driver.
fn run_inside(test: &str, driver: &Path, (order, time): (&str, &str)) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(INSIDE, "1");
    command.env("LD_LIBRARY_PATH", driver);
    command.env("CUDA_EMULATOR_ORDER", order).env("CUDA_EMULATOR_TIME", time);
    command.output().unwrap()
}

fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs a test in all schedules; it must pass in each.
fn in_every_schedule(test: &str) {
    let Some(driver) = emulator() else { return };
    for schedule in SCHEDULES {
        let ran = run_inside(test, driver, schedule);
        let said = [ran.stdout, ran.stderr].concat();
        assert!(ran.status.success(), "{schedule:?}: {}", String::from_utf8_lossy(&said));
    }
}

#[test]
fn kernels_compute_what_they_say() {
    match is_inside() {
        true => inside::every_kernel(),
        false => in_every_schedule("kernels_compute_what_they_say"),
    }
}

#[test]
fn streams_keep_their_order_and_graphs_can_be_replayed() {
    match is_inside() {
        true => strictness::streams_and_graphs(),
        false => in_every_schedule("streams_keep_their_order_and_graphs_can_be_replayed"),
    }
}

#[test]
fn what_a_driver_refuses_is_refused() {
    match is_inside() {
        true => strictness::refusals(),
        false => in_every_schedule("what_a_driver_refuses_is_refused"),
    }
}

#[test]
fn mistakes_in_kernels_are_found() {
    mutants::all();
}
