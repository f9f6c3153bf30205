//! Tests on the emulated CUDA driver (`hardware-tests/cuda-emulator`): a process binds to one driver, so a test that wants it runs itself again in
//! processes of their own. Without a C++ compiler or its sources there is no emulated driver, and the tests say so.

#![allow(dead_code, reason = "not every test that has this file needs all of it")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Says to a process that it is the one inside.
const INSIDE: &str = "TRISCORE_TEST_EMULATED";

/// In which order threads run, and when work is done; kernels must give the same in all of them.
pub(crate) const SCHEDULES: [(&str, &str); 4] =
    [("forward", "late"), ("reverse", "late"), ("ahead", "late"), ("forward", "early")];

/// Whether this process was started by a test, on the emulated driver.
pub(crate) fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// The folder of the driver, built if it is not. `None`, said, without a compiler.
pub(crate) fn driver() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let build = || {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (script, to) = (root.join("scripts/build-cuda-emulator.sh"), root.join("target/cuda-emulator"));
        if !script.is_file() {
            println!("skipped: no sources of the emulated driver: there is no {}", script.display());
            return None;
        }
        let ran = Command::new("bash").arg(script).arg(&to).output().unwrap();
        if ran.status.code() == Some(69) {
            println!("skipped: {}", String::from_utf8_lossy(&ran.stderr).trim());
            return None;
        }
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        Some(to)
    };
    BUILT.get_or_init(build).as_deref()
}

/// A test of this executable, to be run again on the emulated driver. `None`, said, where there is none.
pub(crate) fn again(test: &str) -> Option<Command> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(INSIDE, "1");
    command.env("LD_LIBRARY_PATH", driver()?).env_remove("TRISCORE_LIBCUDA");
    Some(command)
}

/// Runs a test of this executable again, with these variables; it must pass. What it said; nothing where there is no emulated driver.
pub(crate) fn passes(test: &str, variables: &[(&str, &str)]) -> String {
    let Some(mut command) = again(test) else { return String::new() };
    let ran = command.envs(variables.iter().copied()).output().unwrap();
    let said = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
    assert!(ran.status.success(), "{test} on the emulated driver, {variables:?}:\n{said}");
    said
}

/// Runs a test in these schedules, and with these variables; it must pass in each.
pub(crate) fn in_schedules(test: &str, schedules: &[(&str, &str)], variables: &[(&str, &str)]) {
    for (order, time) in schedules {
        let own = [("CUDA_EMULATOR_ORDER", *order), ("CUDA_EMULATOR_TIME", *time)];
        passes(test, &[&own, variables].concat());
    }
}
