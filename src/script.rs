//! Entry scripts in Python: supervised worker processes behind [`Application`], and their door to the backends.
//!
//! A script runs in processes of its own: what it does to its process it does to no other, and Python's
//! one lock is one per worker. [`Pool`] keeps so many of them alive and hands them the requests.

pub mod door;
mod keeper;
mod lines;
mod log_file;
mod options;
mod output;
mod pool;
mod process;
mod protocol;
mod reader;
pub mod runtime;

use std::fmt;
use std::sync::{Arc, PoisonError, mpsc};
use std::time::Instant;

use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Method};
use tokio::runtime::Handle;

pub use log_file::LogFile;
pub use options::{Door, DoorEnd, LogSink, ScriptOptions};

use crate::error::{ErrorKind, Result, ScoreError};
use crate::scoring::Health;
use crate::server::{AppResponse, Application, Exchange, Outcome, SwaggerVersion};

/// Worker processes that run one entry script. Dropped, it ends them.
pub struct Pool {
    shared: Arc<pool::Shared>,
}

impl Pool {
    /// Starts the workers and waits until `init()` has returned in every one of them.
    ///
    /// # Errors
    /// `BadConfig` when the script does not start. The first line of its message is a short reason that a
    /// client may see; lines after it, if any, are the last ones that the script printed, and are not for
    /// clients. A traceback is in the log alone. `NotFound` when there is no such interpreter; `Internal` when
    /// the system refuses a thread or a process.
    pub fn start(options: ScriptOptions) -> Result<Arc<Self>> {
        options.validate()?;
        let workers = options.workers;
        let shared = Arc::new(pool::Shared::new(options));
        let pool = Arc::new(Self { shared: shared.clone() });
        let (started, results) = mpsc::channel();
        for slot in 0..workers {
            keeper::start(&shared, slot, Some(started.clone())).inspect_err(|_| pool.shutdown())?;
        }
        drop(started);
        for _ in 0..workers {
            let ended = || Err(ScoreError::internal("a worker's thread ended"));
            if let Err(e) = results.recv().unwrap_or_else(|_| ended()) {
                pool.shutdown();
                return Err(e);
            }
        }
        Ok(pool)
    }

    /// Ends the workers, and waits for that: a few seconds at most. What waits is answered 503.
    pub fn shutdown(&self) {
        self.shared.close();
        let keepers =
            std::mem::take(&mut *self.shared.keepers.lock().unwrap_or_else(PoisonError::into_inner));
        for keeper in keepers {
            let _ = keeper.join();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Without waiting: it may be dropped on an event loop.
        self.shared.close();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

impl Application for Pool {
    fn start(&self, loops: &[Handle]) -> Result<()> {
        if loops.is_empty() || self.shared.loops.set(loops.to_vec()).is_err() {
            return Err(ScoreError::new(ErrorKind::Conflict, "a pool serves one server, with event loops"));
        }
        keeper::attach(&self.shared)
    }

    fn call(&self, exchange: Exchange) {
        let raw = self.shared.facts.get().is_some_and(|f| f.mode == protocol::Mode::RawHttp);
        if exchange.request.method == Method::OPTIONS && !raw {
            let html = HeaderValue::from_static("text/html; charset=utf-8");
            let headers = vec![(CONTENT_TYPE, html)];
            let empty =
                AppResponse { status: 200, headers, body: Bytes::new(), run_failed: Some(false), exec: None };
            return exchange.answer(Outcome::Answered(empty));
        }
        self.shared.call(exchange);
    }

    fn expire(&self, now: Instant) {
        self.shared.expire(now);
    }

    fn queued(&self) -> usize {
        self.shared.queued()
    }

    fn not_ready(&self) -> Option<String> {
        let state = self.shared.lock();
        state.is_down().then(|| state.why_down.clone())
    }

    fn health(&self) -> Health {
        self.shared.options.door.as_ref().map_or(Health::Ready, |door| door.health())
    }

    fn swagger(&self, version: SwaggerVersion) -> Option<Bytes> {
        let key = match version {
            SwaggerVersion::V2 => "2",
            SwaggerVersion::V3 => "3",
            SwaggerVersion::V31 => "3.1",
        };
        self.shared.facts.get()?.swagger.get(key).map(|text| Bytes::from(text.clone()))
    }

    fn device(&self) -> String {
        format!("python {}", self.shared.facts.get().map_or("", |f| &f.python))
    }
}
