//! A request between the threads that speak HTTP and those that score, and what each of these is at.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::body::Bytes;
use tokio::sync::oneshot;

use super::admission::Permit;
use super::reply::Reply;
use crate::scoring::CancelToken;

/// One request on its way to a scorer thread.
pub(super) struct Job {
    pub(super) body: Bytes,
    pub(super) received: Instant,
    pub(super) deadline: Option<Instant>,
    pub(super) cancel: CancelToken,
    pub(super) reply: oneshot::Sender<Reply>,
    /// Given back when the job is dropped, wherever that is.
    pub(super) permit: Permit,
}

/// What a scorer thread is doing, for the watchdog.
#[derive(Default)]
pub(super) struct Slot(Mutex<Option<Running>>);

/// The job that it is at.
pub(super) struct Running {
    pub(super) reply: oneshot::Sender<Reply>,
    pub(super) deadline: Option<Instant>,
    pub(super) cancel: CancelToken,
}

impl Slot {
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
