//! Running another program to its end, with a bound on its time and on what it may print.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its status; `None` when it took too long, and was killed.
    pub(crate) status: Option<ExitStatus>,
    /// What it wrote to standard output, as far as the limit goes.
    pub(crate) out: String,
    /// What it wrote to standard error, as far as the limit goes.
    pub(crate) err: String,
}

impl Ended {
    /// Whether it ended by itself, and said that all is well.
    pub(crate) fn is_good(&self) -> bool {
        self.status.is_some_and(|s| s.success())
    }
}

/// Runs a program without input. What it prints past the limit (of each stream) is read and dropped, so
/// that it never waits for a reader.
///
/// # Errors
/// When it cannot be started.
pub(crate) fn run(command: &mut Command, timeout: Duration, limit_bytes: usize) -> std::io::Result<Ended> {
    let until = Instant::now() + timeout;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let out = child.stdout.take().map(|stream| Gathered::from(stream, limit_bytes));
    let err = child.stderr.take().map(|stream| Gathered::from(stream, limit_bytes));
    let status = wait_until(&mut child, until)?;
    if status.is_none() {
        // It may have ended just now; either way it is waited for, and leaves no zombie.
        let _ = child.kill();
        let _ = child.wait();
    }
    let text = |gathered: Option<Gathered>| gathered.map(Gathered::finish).unwrap_or_default();
    Ok(Ended { status, out: text(out), err: text(err) })
}

fn wait_until(child: &mut Child, until: Instant) -> std::io::Result<Option<ExitStatus>> {
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// One stream, read by a thread of its own.
struct Gathered {
    bytes: Arc<Mutex<Vec<u8>>>,
    at_end: mpsc::Receiver<()>,
}

impl Gathered {
    fn from(mut stream: impl Read + Send + 'static, limit_bytes: usize) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let (tell, at_end) = mpsc::channel();
        let kept = bytes.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                let room = limit_bytes.saturating_sub(kept.len()).min(count);
                kept.extend_from_slice(buffer.get(..room).unwrap_or_default());
            }
            // Nobody may be waiting any more.
            let _ = tell.send(());
        });
        Self { bytes, at_end }
    }

    /// What was read. A process that the program left behind may hold the stream open: it is not
    /// waited for.
    fn finish(self) -> String {
        let _ = self.at_end.recv_timeout(Duration::from_secs(1));
        let bytes = std::mem::take(&mut *self.bytes.lock().unwrap_or_else(PoisonError::into_inner));
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, timeout_ms: u64, limit_bytes: usize) -> Ended {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(&mut command, Duration::from_millis(timeout_ms), limit_bytes).unwrap()
    }

    #[test]
    fn output_and_status_are_told() {
        let ended = shell("echo good; echo bad >&2; exit 3", 60_000, 100);
        assert_eq!((ended.out.as_str(), ended.err.as_str()), ("good\n", "bad\n"));
        assert_eq!(ended.status.unwrap().code(), Some(3));
        assert!(!ended.is_good() && shell("true", 60_000, 1).is_good());
        assert!(run(&mut Command::new("/nonexistent"), Duration::ZERO, 1).is_err());
    }

    #[test]
    fn time_and_output_are_bounded() {
        let endless = shell("exec yes", 200, 1000);
        assert!(endless.status.is_none() && endless.out.len() == 1000);
        let since = Instant::now();
        // The one that is left behind keeps the streams open.
        assert!(shell("sleep 30 & exit 0", 60_000, 10).is_good());
        assert!(since.elapsed() < Duration::from_secs(20));
    }
}
