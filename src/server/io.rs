//! The threads that speak HTTP: each an event loop of its own, connections dealt out in turn.
//!
//! One loop a thread and no work stealing: a connection's requests cost a few microseconds each, and
//! a shared scheduler spends as much on waking another thread to look for work as such a request takes.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use tokio::net::TcpStream;
use tokio::runtime::Handle;

use super::shared::{Shared, Stage};
use crate::error::{Result, ScoreError};

/// The event loops.
#[derive(Debug, Clone)]
pub(super) struct Loops {
    loops: Arc<[Handle]>,
    next: Arc<AtomicUsize>,
}

impl Loops {
    /// Starts as many threads; they end once the server has ended.
    ///
    /// # Errors
    /// `Internal` when the system refuses one.
    pub(super) fn start(shared: &Arc<Shared>) -> Result<(Self, Vec<JoinHandle<()>>)> {
        let mut loops = Vec::new();
        let mut threads = Vec::new();
        for i in 0..shared.options.io_threads {
            let refused = |e: std::io::Error| {
                // Those that run already must not run on without a server.
                shared.advance(Stage::Ended);
                ScoreError::internal(format!("cannot start I/O thread {i}: {e}")).with_source(e)
            };
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused)?;
            loops.push(runtime.handle().clone());
            let shared = shared.clone();
            let run = move || runtime.block_on(shared.reached(Stage::Ended));
            let thread = std::thread::Builder::new().name(format!("triscore-io-{i}")).spawn(run);
            threads.push(thread.map_err(refused)?);
        }
        Ok((Self { loops: loops.into(), next: Arc::default() }, threads))
    }

    /// The loop of the server's own tasks.
    ///
    /// # Errors
    /// `Internal` when there is none, which the options rule out.
    pub(super) fn first(&self) -> Result<&Handle> {
        self.loops.first().ok_or_else(|| ScoreError::internal("a server needs an I/O thread"))
    }

    /// All of them.
    pub(super) fn all(&self) -> &[Handle] {
        &self.loops
    }

    /// Hands a connection to the loop whose turn it is.
    pub(super) fn deal<F>(&self, stream: TcpStream, serve: impl FnOnce(TcpStream) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.loops.len().max(1);
        match self.loops.get(turn) {
            Some(other) if turn > 0 => {
                // Its readiness must be watched by the loop that serves it.
                let Ok(stream) = stream.into_std() else { return };
                other.spawn(async move {
                    if let Ok(stream) = TcpStream::from_std(stream) {
                        serve(stream).await;
                    }
                });
            }
            _ => drop(tokio::spawn(serve(stream))),
        }
    }
}
