//! What a pool of workers is started with.

use std::any::Any;
use std::ffi::OsString;
use std::fmt;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Result, ScoreError};
use crate::scoring::Health;

/// Takes what the workers print: one or more whole lines of valid UTF-8 at a time, each with its line end.
/// Called from one thread a worker; while it runs, that worker's output waits.
pub type LogSink = Arc<dyn Fn(&str) + Send + Sync>;

/// How a [`Pool`](super::Pool) starts its workers and what it allows them.
#[derive(Clone)]
#[non_exhaustive]
pub struct ScriptOptions {
    /// The name of the service, for the log and as `SERVICE_NAME`.
    pub service_name: String,
    /// The Python interpreter.
    pub python: PathBuf,
    /// `triscore_worker.py`; `shims/` beside it is put first on `PYTHONPATH`.
    pub worker_script: PathBuf,
    /// The folder the workers run in, as `AML_APP_ROOT` too.
    pub app_root: PathBuf,
    /// The entry script below `app_root`, as `AZUREML_ENTRY_SCRIPT`.
    pub entry_script: String,
    /// Added to the inherited environment, and stronger than what the pool sets by itself (`AML_APP_ROOT`,
    /// `AZUREML_ENTRY_SCRIPT`, `SERVICE_NAME`, `SCORING_TIMEOUT_MS`).
    pub environment: Vec<(OsString, OsString)>,
    /// Worker processes, at least 1.
    pub workers: usize,
    /// Requests that may wait for a worker.
    pub max_queued: usize,
    /// How long a request may wait for a worker, in milliseconds.
    pub max_queue_wait_ms: u64,
    /// How long a request without a deadline of its own may take, in milliseconds.
    pub scoring_timeout_ms: u64,
    /// How long a worker may take from its start until `init()` has returned, in milliseconds.
    pub init_timeout_ms: u64,
    /// The largest answer; a worker that announces a larger one is replaced.
    pub max_answer_bytes: usize,
    /// The resident size of a worker above which it is replaced in order; `None` allows any.
    pub memory_limit_bytes: Option<u64>,
    /// Where the workers' lines go. Standard error, unless set.
    pub log: LogSink,
    /// What every worker gets besides.
    pub door: Option<Arc<dyn Door>>,
}

/// Opens one more way into this process for every worker.
pub trait Door: fmt::Debug + Send + Sync {
    /// Called before worker number `worker` (a process, counted from 0, never twice the same) is started,
    /// on the pool's own thread.
    ///
    /// # Errors
    /// Whatever keeps the door shut; the worker is not started then.
    fn open(&self, worker: u64) -> Result<DoorEnd>;

    /// Whether what is behind it is there. A lost device ends the service.
    fn health(&self) -> Health {
        Health::Ready
    }
}

/// What one worker gets from a [`Door`].
pub struct DoorEnd {
    /// The worker's end. It keeps its number in the worker, which reads it from `TRISCORE_DOOR_FD`; closed
    /// here as soon as the worker has it.
    pub descriptor: OwnedFd,
    /// Dropped when the worker's process has ended, on the pool's own thread: must not block.
    pub guard: Box<dyn Any + Send>,
}

impl fmt::Debug for DoorEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DoorEnd").field("descriptor", &self.descriptor).finish_non_exhaustive()
    }
}

impl ScriptOptions {
    /// One worker, the limits of the server, output to standard error.
    pub fn new(
        python: impl Into<PathBuf>,
        worker_script: impl Into<PathBuf>,
        app_root: impl Into<PathBuf>,
        entry_script: impl Into<String>,
    ) -> Self {
        Self {
            service_name: "script".to_owned(),
            python: python.into(),
            worker_script: worker_script.into(),
            app_root: app_root.into(),
            entry_script: entry_script.into(),
            environment: Vec::new(),
            workers: 1,
            max_queued: 1024,
            max_queue_wait_ms: 5_000,
            scoring_timeout_ms: 60_000,
            init_timeout_ms: 600_000,
            max_answer_bytes: 100 << 20,
            memory_limit_bytes: None,
            log: Arc::new(|lines| drop(std::io::stderr().write_all(lines.as_bytes()))),
            door: None,
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        let refuse = |key: &str, what: &str| Err(ScoreError::bad_config(format!("{key}: {what}")));
        match self {
            Self { workers: 0, .. } => refuse("workers", "expected 1 or more, got 0"),
            Self { workers, .. } if *workers > 1024 => {
                refuse("workers", &format!("expected at most 1024, got {workers}"))
            }
            Self { max_queued: 0, .. } => refuse("max_queued", "expected 1 or more, got 0"),
            Self { scoring_timeout_ms: 0, .. } => refuse("scoring_timeout_ms", "expected 1 or more, got 0"),
            Self { init_timeout_ms: 0, .. } => refuse("init_timeout_ms", "expected 1 or more, got 0"),
            // The length of a frame has 32 bits.
            Self { max_answer_bytes, .. } if *max_answer_bytes > (2 << 30) => {
                refuse("max_answer_bytes", &format!("expected at most 2 GiB, got {max_answer_bytes} bytes"))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for ScriptOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The environment may hold secrets: names only.
        let names = self.environment.iter().map(|(name, _)| name).collect::<Vec<_>>();
        f.debug_struct("ScriptOptions")
            .field("service_name", &self.service_name)
            .field("python", &self.python)
            .field("app_root", &self.app_root)
            .field("entry_script", &self.entry_script)
            .field("environment", &names)
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}
