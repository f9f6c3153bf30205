//! The HTTP scoring server: an `Arc<dyn Scorer>` behind the web service contract of Azure ML v1.
//!
//! It knows no backend, no registry and no file format: whoever starts it hands it a scorer, now or later.
//! It listens from the first moment and says 503 until it has one, so that a probe sees "loading"
//! and not a refused connection.
//!
//! ```no_run
//! use std::sync::Arc;
//! use triscore::server::{Server, ServerOptions};
//! # fn scorer() -> Arc<dyn triscore::Scorer> { todo!() }
//!
//! let server = Server::bind(([127, 0, 0, 1], 5001).into(), ServerOptions::new("digits"))?;
//! server.handle().ready(scorer())?;
//! server.join()?; // until somebody calls `handle.shutdown()`
//! # Ok::<(), triscore::ScoreError>(())
//! ```
//!
//! # How a request goes
//! An I/O thread (tokio, hyper) reads the request and puts its body into one bounded queue. A scorer
//! thread takes it, decodes the JSON straight into tensors, scores, writes the answer, and wakes the I/O
//! thread. An [`Application`] takes whole requests instead, and answers from its own threads. Inference never runs on an I/O thread. Nothing per request needs a timer: one
//! watchdog looks after every bound there is (queue wait, scoring time, slow heads, idle connections).
//!
//! # Bounds
//! Connections, requests in flight, bytes in flight, the queue, the body, the head, and the time for each
//! step are all bounded; past a bound the answer is 413, 408, 431, 503 or 504, at once.

mod admission;
mod app;
mod application;
mod body;
mod connection;
mod headers;
mod http;
mod io;
mod job;
pub mod json;
mod keys;
mod listen;
mod metrics;
mod options;
mod queue;
mod reply;
mod respond;
mod score;
mod scorers;
mod shared;
mod swagger;
mod tls;
pub(crate) mod tokens;
mod warm;

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use application::{AppRequest, AppResponse, Application, Exchange, Outcome, SwaggerVersion};
pub use keys::Keys;
pub use listen::{Accept, bind_listener};
pub use options::ServerOptions;
pub use shared::Phase;
pub use tls::Tls;
pub use warm::warm_up;

use crate::error::{Result, ScoreError};
use crate::scoring::Scorer;
use shared::{Accepting, Hosted, Loaded, Served, Shared, Stage};

/// A running server. Dropped, it ends at once; [`Server::join`] waits for its orderly end.
pub struct Server {
    handle: ServerHandle,
    local_addr: SocketAddr,
    io_threads: Vec<std::thread::JoinHandle<()>>,
}

/// Steers a [`Server`] from anywhere; clones steer the same one.
#[derive(Clone)]
pub struct ServerHandle {
    shared: Arc<Shared>,
    loops: io::Loops,
    scoring: Arc<Mutex<Vec<std::thread::JoinHandle<()>>>>,
}

impl Server {
    /// Listens at that address (port 0 lets the system choose) and answers 503 until
    /// [`ServerHandle::ready`].
    ///
    /// # Errors
    /// `BadConfig` for impossible options or an address that cannot be had; `Conflict` when the port is
    /// in use; `Internal` when the system refuses threads.
    pub fn bind(addr: SocketAddr, options: ServerOptions) -> Result<Self> {
        options.validate()?;
        Self::from_listener(bind_listener(addr)?, options, Accept::Now)
    }

    /// Serves on a socket that listens already, which other processes may have as well.
    ///
    /// # Errors
    /// As [`Server::bind`], but for the address.
    pub fn from_listener(
        listener: std::net::TcpListener,
        options: ServerOptions,
        when: Accept,
    ) -> Result<Self> {
        options.validate()?;
        let failed = |e: std::io::Error| {
            ScoreError::internal(format!("the listening socket cannot be used: {e}")).with_source(e)
        };
        let addr = listener.local_addr().map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let shared = Arc::new(Shared::new(options));
        let (loops, io_threads) = io::Loops::start(&shared)?;
        // From here on, whatever fails drops the server, and that ends its threads.
        let handle = ServerHandle { shared: shared.clone(), loops: loops.clone(), scoring: Arc::default() };
        let server = Self { handle, local_addr: addr, io_threads };
        let first = loops.first()?.clone();
        let entered = first.enter();
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
        drop(entered);
        let accepting = first.spawn(listen::accept(listener, when, loops, shared.clone()));
        first.spawn(listen::watchdog(shared.clone()));
        first.spawn(listen::wind_down(shared, accepting));
        Ok(server)
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What steers it.
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// Waits until the server has ended, which it does after [`ServerHandle::shutdown`]. Blocks; an async
    /// caller awaits [`ServerHandle::ended`] first.
    ///
    /// # Errors
    /// `Internal` when a scorer thread is stuck in a call that does not come back.
    pub fn join(mut self) -> Result<()> {
        for thread in std::mem::take(&mut self.io_threads) {
            thread.join().map_err(|_| ScoreError::internal("an I/O thread panicked"))?;
        }
        let threads = std::mem::take(&mut *self.handle.lock_scoring());
        // Whoever waits for them got an answer; the device is put in order by whoever holds the scorer.
        let patience = Instant::now() + Duration::from_secs(2);
        while !threads.iter().all(std::thread::JoinHandle::is_finished) {
            if Instant::now() >= patience {
                return Err(ScoreError::internal("a scorer thread is stuck in a call of its backend"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.handle.shared.queue.close();
        // The threads end by themselves: a server may also be dropped on an async thread, which must not wait.
        self.handle.shared.advance(Stage::Ended);
    }
}

impl ServerHandle {
    /// Hands over the scorer: from now on the service is ready. Warms it up first, if the options say so;
    /// blocks for as long as that takes.
    ///
    /// # Errors
    /// `Conflict` when something answers already; `DeviceLost` when the device is lost in the warm-up;
    /// `Internal` when the system refuses threads.
    pub fn ready(&self, scorer: Arc<dyn Scorer>) -> Result<()> {
        let options = &self.shared.options;
        if options.warm_up {
            warm_up(&*scorer)?;
        }
        let threads = options.scorer_threads.unwrap_or(scorer.limits().lanes).max(1);
        let devices = scorer.devices().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let loaded = Loaded {
            device: headers::printable(&devices),
            swagger: swagger::Swagger::new(
                scorer.signature(),
                &options.service_name,
                &options.service_version,
            ),
            slots: (0..threads).map(|_| Arc::default()).collect(),
            scorer,
        };
        self.shared.serve(Served::Model(loaded))?;
        let started = scorers::start(&self.shared)?;
        self.lock_scoring().extend(started);
        self.shared.phase.send_replace(Phase::Ready);
        tracing::info!(service = options.service_name, devices, threads, "ready");
        Ok(())
    }

    /// Hands over an application, in the place of a scorer: from now on the service is ready. Blocks for as
    /// long as the application takes to start.
    ///
    /// # Errors
    /// `Conflict` when something answers already; what [`Application::start`] says.
    pub fn ready_with(&self, application: Arc<dyn Application>) -> Result<()> {
        application.start(self.loops.all())?;
        let device = application.device();
        let hosted = Hosted { application, device: headers::printable(&device) };
        self.shared.serve(Served::Application(hosted))?;
        self.shared.phase.send_replace(Phase::Ready);
        tracing::info!(service = self.shared.options.service_name, device, "ready");
        Ok(())
    }

    /// There will be no scorer: the service says why from now on, and is not ready.
    pub fn failed(&self, reason: impl Into<String>) {
        let reason = reason.into();
        tracing::error!(service = self.shared.options.service_name, reason, "the service failed to load");
        self.shared.phase.send_if_modified(|phase| {
            let loading = *phase == Phase::Loading;
            if loading {
                *phase = Phase::Failed(reason.as_str().into());
            }
            loading
        });
    }

    /// What became of the scorer so far.
    pub fn phase(&self) -> Phase {
        self.shared.phase.borrow().clone()
    }

    /// Whether the service is ready: loaded, its device there, and not shutting down.
    pub fn is_ready(&self) -> bool {
        self.shared.not_ready().is_none()
    }

    /// The metrics in Prometheus' text format, as `GET /metrics` answers them.
    pub fn metrics(&self) -> String {
        self.shared.metrics_text()
    }

    /// Ends the server in order: not ready, serving on for `drain_ms`; then nothing new, and what is in
    /// flight has `grace_ms` to end. Called again, it ends at once.
    pub fn shutdown(&self) {
        let next = if self.shared.is_past(Stage::Drain) { Stage::Abort } else { Stage::Drain };
        self.shared.advance(next);
    }

    /// Ends the server in order because another process serves on the same socket: nothing new is taken in from
    /// now on; the connections that there are go on for `drain_ms`, and then end as in a
    /// [`shutdown`](Self::shutdown).
    pub fn retire(&self, drain_ms: u64) {
        self.shared.drain_ms.store(drain_ms, std::sync::atomic::Ordering::Release);
        self.shared.accepting.send_if_modified(|now| {
            let news = *now == Accepting::Yes;
            if news {
                *now = Accepting::NoMore;
            }
            news
        });
        self.shutdown();
    }

    /// Comes back once nothing new is taken in, after [`retire`](Self::retire).
    pub async fn retired(&self) {
        let _ = self.shared.accepting.subscribe().wait_for(|now| *now == Accepting::Over).await;
    }

    /// Asks callers for these keys from now on, or for none.
    pub fn set_keys(&self, keys: Option<Keys>) {
        *self.shared.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// Comes back once the device is lost, with the reason. The process should then end with an error, so
    /// that whoever supervises it starts it anew: nothing else recovers a lost device.
    pub async fn wait_lost(&self) -> String {
        let mut phase = self.shared.phase.subscribe();
        let lost = phase.wait_for(|p| matches!(p, Phase::Lost(_))).await;
        match lost.as_deref() {
            Ok(Phase::Lost(reason)) => reason.to_string(),
            _ => std::future::pending().await,
        }
    }

    /// Comes back once the server has ended.
    pub async fn ended(&self) {
        self.shared.reached(Stage::Ended).await;
    }

    fn lock_scoring(&self) -> std::sync::MutexGuard<'_, Vec<std::thread::JoinHandle<()>>> {
        self.scoring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({} at {})", self.handle.shared.options.service_name, self.local_addr)
    }
}

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerHandle({}, {:?})", self.shared.options.service_name, self.phase())
    }
}
