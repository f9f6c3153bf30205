//! Running `venv` and `pip`: every line into the log, the telling ones to whoever waits, and an end when the
//! call has one.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::redact;
use crate::error::{Result, ScoreError};
use crate::scoring::Call;

/// So many of the last lines are kept for messages.
const TAIL_LINES: usize = 400;

/// The log of a build; what is past the limit is left out of the file.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    path: PathBuf,
    room_bytes: usize,
    tail: VecDeque<String>,
}

impl Log {
    /// A new log in place of an old one.
    pub(super) fn create(path: &Path) -> Result<Self> {
        const LIMIT_BYTES: usize = 16 << 20;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(path).map_err(|e| ScoreError::io("open the log", path, e))?;
        Ok(Self { file, path: path.to_owned(), room_bytes: LIMIT_BYTES, tail: VecDeque::new() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a line, without the passwords in it.
    pub(super) fn line(&mut self, line: &str) {
        let line = redact(line).into_owned();
        if line.len() < self.room_bytes {
            self.room_bytes -= line.len() + 1;
            // A full disk fails the build itself soon enough, with the reason.
            let _ = writeln!(self.file, "{line}");
        }
        self.tail.push_back(line);
        if self.tail.len() > TAIL_LINES {
            self.tail.pop_front();
        }
    }

    /// The last lines.
    pub(super) fn tail(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.tail.iter().map(String::as_str)
    }
}

/// Runs a command to its end, which comes early when the call is cancelled or its time is up.
///
/// # Errors
/// `Cancelled` or `DeadlineExceeded`, with the command and all that it had started in its group killed;
/// `Unavailable` when it cannot be started.
pub(super) fn run(
    mut command: Command,
    log: &mut Log,
    call: &Call,
    on_line: &mut dyn FnMut(&str),
) -> Result<ExitStatus> {
    const LINE_BYTES: u64 = 64 << 10;
    let program = PathBuf::from(command.get_program());
    let cannot = |e: std::io::Error| {
        ScoreError::unavailable(format!("cannot be started: {e}")).with_at(program.display().to_string())
    };
    let (reader, writer) = std::io::pipe().map_err(cannot)?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().map_err(cannot)?).stderr(writer);
    die_with_us(&mut command);
    // A group of its own, so that what it starts can be ended with it.
    let mut child = Running(command.process_group(0).spawn().map_err(cannot)?);
    // It holds copies of the pipe's end.
    drop(command);
    let (tell, lines) = mpsc::sync_channel(64);
    std::thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while let Ok(1..) = (&mut reader).take(LINE_BYTES).read_until(b'\n', &mut line) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if tell.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
    let mut ended: Option<(ExitStatus, Instant)> = None;
    loop {
        call.check()?;
        let at_end = match lines.recv_timeout(Duration::from_millis(50)) {
            Ok(line) => {
                log.line(&line);
                on_line(&line);
                continue;
            }
            Err(e) => e == RecvTimeoutError::Disconnected,
        };
        if ended.is_none() {
            ended = child.0.try_wait().map_err(cannot)?.map(|status| (status, Instant::now()));
        }
        match ended {
            // What it left behind may hold the pipe open: it is not waited for long.
            Some((status, since)) if at_end || since.elapsed() > Duration::from_secs(2) => return Ok(status),
            // It has closed its output, and goes on.
            None if at_end => std::thread::sleep(Duration::from_millis(5)),
            _ => {}
        }
    }
}

/// A child that does not outlive the interest in it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            if let Ok(group) = libc::pid_t::try_from(self.0.id()) {
                // SAFETY: sends a signal and touches no memory; the child is not waited for yet, so the
                // number is still its own.
                unsafe { libc::kill(-group, libc::SIGKILL) };
            }
            let _ = self.0.wait();
        }
    }
}

/// Has the kernel kill the child when this process (more exactly, this thread) is gone.
fn die_with_us(command: &mut Command) {
    #[cfg(target_os = "linux")]
    {
        let parent = std::process::id();
        let set = move || {
            // SAFETY: takes integers and touches no memory; async-signal-safe, as is getppid.
            let gone = unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                u32::try_from(libc::getppid()) != Ok(parent)
            };
            // The parent died before it was asked for.
            if gone { Err(std::io::ErrorKind::Interrupted.into()) } else { Ok(()) }
        };
        // SAFETY: the closure only makes system calls that are allowed between fork and exec, and its
        // error is a plain number.
        unsafe { command.pre_exec(set) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::scoring::CancelToken;

    fn shell(script: &str, call: &Call) -> (Result<ExitStatus>, Log, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::create(&dir.path().join("log")).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let mut seen = Vec::new();
        let status = run(command, &mut log, call, &mut |line| seen.push(line.to_owned()));
        let written = std::fs::read_to_string(log.path()).unwrap();
        assert_eq!(written.lines().collect::<Vec<_>>(), log.tail().collect::<Vec<_>>());
        (status, log, seen)
    }

    #[test]
    fn lines_come_in_order_and_without_passwords() {
        let (status, log, seen) = shell("echo one; echo two >&2; printf http://a:b@c/; exit 3", &Call::new());
        assert_eq!(status.unwrap().code(), Some(3));
        assert_eq!(seen, ["one", "two", "http://a:b@c/"]);
        assert_eq!(log.tail().last(), Some("http://****@c/"));
    }

    #[test]
    fn an_end_comes_when_it_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script =
            format!("sleep 100 & echo $! > '{0}.part'; mv '{0}.part' '{0}'; echo x; wait", file.display());
        let token = CancelToken::new();
        let call = Call::new().with_cancel(token.clone()).with_timeout(Duration::from_secs(60));
        let cancel = std::thread::spawn({
            let file = file.clone();
            move || {
                while !file.exists() {
                    std::thread::sleep(Duration::from_millis(5));
                }
                token.cancel();
            }
        });
        assert_eq!(shell(&script, &call).0.unwrap_err().kind(), ErrorKind::Cancelled);
        cancel.join().unwrap();
        let pid = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while crate::registry::ProcessStamp::of(pid).is_some() {
            assert!(Instant::now() < until, "what the command had started is still there");
            std::thread::sleep(Duration::from_millis(5));
        }
        let late = Call::new().with_timeout(Duration::from_millis(50));
        assert_eq!(shell("sleep 100", &late).0.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
        // One that is left behind is not waited for.
        assert!(shell("sleep 30 & exit 0", &Call::new()).0.unwrap().success());
    }
}
