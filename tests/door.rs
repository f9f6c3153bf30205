//! The accelerated door: real Python on one side, the CPU backend on the other.

#![cfg(all(feature = "server", feature = "cpu", target_os = "linux"))]
#![allow(missing_docs)]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "helpers of tests assert too")]

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use triscore::cpu::CpuBackend;
use triscore::script::door::{DOOR_FD, Door};
use triscore::script::runtime;
use triscore::{Backend, Call, CompileOptions, Model, Result, Scorer, Tensor};

fn open(path: &Path) -> Result<Arc<dyn Scorer>> {
    let cpu = CpuBackend::new();
    cpu.compile(&Model::open(path)?, &cpu.probe()?, &CompileOptions::default())
}

fn door() -> Door {
    Door::new(Arc::new(open), PathBuf::from("/nonexistent"))
}

/// A Python that has NumPy: the one that `make test` sets up, or the system's.
fn python() -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    let has_numpy = |python: &PathBuf| {
        let mut command = Command::new(python);
        let asked = command.args(["-c", "import numpy"]).stderr(Stdio::null()).status();
        asked.is_ok_and(|status| status.success())
    };
    let found = [own, "python3".into()].into_iter().find(has_numpy);
    if found.is_none() {
        println!("skipped: no Python with NumPy (scripts/setup-python.sh contract makes one)");
    }
    found
}

/// A command that has the end of a door.
fn with_door(python: &Path, end: &OwnedFd, runtime: &Path) -> Command {
    let number = end.as_raw_fd();
    let mut command = Command::new(python);
    command.env(DOOR_FD, number.to_string()).env("PYTHONPATH", runtime.join("shims"));
    // SAFETY: between fork and exec, only fcntl is called, on a descriptor that is open.
    unsafe {
        command.pre_exec(move || match libc::fcntl(number, libc::F_SETFD, 0) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    command
}

fn laid_out() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    runtime::lay_out(folder.path()).unwrap();
    folder
}

fn arenas_mapped_here() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().matches("memfd:triscore-arena").count()
}

#[test]
fn scripts_score_through_the_door() {
    let Some(python) = python() else { return };
    let images = (0..128u8).map(|n| f32::from(n) / 128.0).collect::<Vec<_>>();
    let scorer =
        open(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/models/digits_cnn/model.onnx"))).unwrap();
    let scored = scorer.score(&[Tensor::from_slice(&[2, 1, 8, 8], &images).unwrap()], &Call::new()).unwrap();
    let expected = scored.tensor(0).unwrap().as_slice::<f32>().unwrap();
    let expected = expected.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();

    let (door, runtime) = (door(), laid_out());
    let (end, connection) = door.connect().unwrap();
    let mut command = with_door(&python, &end, runtime.path());
    command
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/door/test_door.py"))
        .env("TEST_MODELS", concat!(env!("CARGO_MANIFEST_DIR"), "/models"))
        .env("TEST_EXPECTED", serde_json::to_string(&expected).unwrap());
    let ran = command.output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(ran.status.success(), "{said}");
    assert!(said.contains("Ran 19 tests") && !said.contains("skipped"), "{said}");
    // Some sizes, some that were kept at once; and not one a call.
    assert!(connection.arenas_mapped() < 64, "{connection:?}");
    drop(connection);
}

/// A worker that is killed leaves nothing mapped, whatever it was at.
#[test]
fn a_dead_worker_leaves_nothing() {
    let Some(python) = python() else { return };
    let (door, runtime) = (door(), laid_out());
    let (end, connection) = door.connect().unwrap();
    let script = "import numpy as np, sys, triscore\n\
                  s = triscore.InferenceSession(sys.argv[1])\n\
                  x = s.empty('x', (100_000, 3)); x[:] = 1\n\
                  print('mapped', flush=True)\n\
                  while True: s.run(None, {'x': x})\n";
    let mut command = with_door(&python, &end, runtime.path());
    command.args(["-c", script, concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny/identity_float.onnx")]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    drop(end);
    let mut line = [0; 7];
    std::io::Read::read_exact(&mut child.stdout.take().unwrap(), &mut line).unwrap();
    assert_eq!(&line, b"mapped\n");
    until("a mapping", || connection.arenas_mapped() > 0);
    child.kill().unwrap();
    child.wait().unwrap();
    drop(connection);
    // Other tests of this process map arenas too, and unmap them.
    until("no mapping", || arenas_mapped_here() == 0);
    assert_eq!(door.model_count(), 1, "the model is kept for the next worker");
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < Duration::from_secs(60), "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn send(end: &OwnedFd, message: &[u8]) -> bool {
    // SAFETY: the pointer and the length are those of a slice.
    let sent =
        unsafe { libc::send(end.as_raw_fd(), message.as_ptr().cast(), message.len(), libc::MSG_NOSIGNAL) };
    usize::try_from(sent).is_ok_and(|n| n == message.len())
}

/// The next reply; `None` when the door is closed.
fn reply(end: &OwnedFd) -> Option<Vec<u8>> {
    let mut buffer = vec![0u8; 256 << 10];
    // SAFETY: the pointer and the length are those of a buffer that can be written.
    let read = unsafe { libc::recv(end.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    buffer.truncate(usize::try_from(read).ok()?);
    (!buffer.is_empty()).then_some(buffer)
}

#[test]
fn whatever_a_worker_sends_is_answered_or_ends_its_door() {
    let door = door();
    let head = |kind: u8, number: u32| [&[kind, 0, 0, 0][..], &number.to_le_bytes()].concat();
    let (end, _connection) = door.connect().unwrap();
    for (number, (kind, rest)) in (1u32..).zip([
        (0u8, &b""[..]),
        (1, b"not json"),
        (1, b"{\"path\": \"/etc/passwd\", \"cwd\": null}"),
        (1, b"{\"path\": \"/dev/zero\", \"cwd\": null}"),
        (2, b"\x01\0\0\0\0\0\0\x01\0\0\0\0"),
        (3, b"\x01\0\0\0"),
        (4, b"\xff\xff\xff\xff"),
        (4, &[0xff; 2000]),
        (5, &[0; 20]),
        (200, &[7; 1000]),
    ]) {
        assert!(send(&end, &[head(kind, number), rest.to_vec()].concat()));
        let answer = reply(&end).expect("an answer");
        assert_eq!((answer[0], &answer[4..8]), (1, &number.to_le_bytes()[..]), "kind {kind}");
        let told: serde_json::Value = serde_json::from_slice(&answer[8..]).unwrap();
        assert!(told["message"].as_str().is_some_and(|m| !m.is_empty()), "kind {kind}: {told}");
    }
    // What is no message at all ends it, and no other.
    for hostile in [vec![1, 2, 3], vec![0; 200 << 10]] {
        let (end, _connection) = door.connect().unwrap();
        assert!(send(&end, &hostile));
        assert!(reply(&end).is_none());
    }
    assert!(send(&end, &head(0, 99)));
    assert!(reply(&end).is_some());
}
