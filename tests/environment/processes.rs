//! Several processes that want the same environment, and one that is killed while it builds it.
//!
//! The other processes are this test's own program, which runs one ignored test.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use triscore::environment;

use super::home::{ensure, environments, python, spec};

const PACKAGES: [&str; 1] = ["six==1.15.0"];

fn other(home: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::other_process", "--include-ignored", "--nocapture"])
        .env("TRISCORE_TEST_HOME", home)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "run by the other tests of this file, as a process of its own"]
fn other_process() {
    let Some(home) = std::env::var_os("TRISCORE_TEST_HOME") else { return };
    let (built, _) = ensure(&spec(&PACKAGES), home.as_ref());
    println!("built={}", built.unwrap().built);
}

#[test]
fn one_builds_and_the_others_wait() {
    let home = tempfile::tempdir().unwrap();
    let others = [other(home.path()), other(home.path()), other(home.path())];
    let mut built = 0;
    for child in others {
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{out:?}");
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(said.contains("built="), "{said}");
        built += usize::from(said.contains("built=true"));
    }
    assert_eq!(built, 1);
    assert!(!ensure(&spec(&PACKAGES), home.path()).0.unwrap().built);
}

#[test]
fn a_killed_build_is_thrown_away() {
    let home = tempfile::tempdir().unwrap();
    let mut child = other(home.path());
    // In the midst of it: the interpreter is there, and pip has not begun.
    let until = Instant::now() + Duration::from_secs(60);
    let half = loop {
        assert!(Instant::now() < until, "nothing is built");
        let kept = environment::list(home.path()).unwrap();
        if let Some(kept) = kept.first().filter(|kept| kept.folder.join("pyvenv.cfg").exists()) {
            break kept.clone();
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(half.python_version, None);
    let files = fs::read_dir(environments(home.path())).unwrap().count();
    assert!(files >= 2, "the folder and its lock stay behind");
    assert!(environment::find(&spec(&PACKAGES), home.path()).unwrap().is_none());

    let (built, _) = ensure(&spec(&PACKAGES), home.path());
    let built = built.unwrap();
    assert!(built.built);
    assert_eq!(built.hash, half.hash);
    assert_eq!(python(&built.python, "import six; print(six.__version__)"), "1.15.0");
}
