//! The threads that score: a few, long-lived, one a lane, fed by one queue.
//!
//! Everything that costs processor time per request happens here: decoding the body, scoring, writing the
//! answer. The threads that speak HTTP only carry bytes, so a heavy model never holds up a
//! health check, and a blocking call of a backend never blocks an event loop.
//!
//! Bounds are kept from two sides. A thread looks at the clock when it takes a job; the watchdog
//! ([`expire`]) answers for jobs that nobody takes, and for calls that do not come back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;

use super::job::{Job, Running, Slot};
use super::json::{self, Answer};
use super::reply::Reply;
use super::shared::{Loaded, Shared};
use crate::error::{ErrorKind, Result, ScoreError};
use crate::scoring::Call;

/// Starts the threads.
///
/// # Errors
/// `Internal` when the system refuses one.
pub(super) fn start(shared: &Arc<Shared>) -> Result<Vec<std::thread::JoinHandle<()>>> {
    let Some(loaded) = shared.model() else { return Ok(Vec::new()) };
    let spawn = |(i, slot): (usize, &Arc<Slot>)| {
        let (shared, slot) = (shared.clone(), slot.clone());
        std::thread::Builder::new()
            .name(format!("triscore-score-{i}"))
            .spawn(move || run(&shared, &slot))
            .map_err(|e| ScoreError::internal(format!("cannot start scorer thread {i}: {e}")).with_source(e))
    };
    loaded.slots.iter().enumerate().map(spawn).collect()
}

fn run(shared: &Shared, slot: &Slot) {
    let Some(loaded) = shared.model() else { return };
    while let Some(job) = shared.queue.pop() {
        serve(shared, loaded, slot, job);
    }
}

/// Takes one job to its reply.
fn serve(shared: &Shared, loaded: &Loaded, slot: &Slot, job: Job) {
    let start = Instant::now();
    if job.reply.is_closed() {
        return shared.metrics.cancelled(1);
    }
    if let Some(reply) = too_late(shared, &job, start) {
        let _ = job.reply.send(reply);
        return;
    }
    let Job { body, received, deadline, cancel, reply, permit } = job;
    let mut call = Call::new().with_cancel(cancel.clone());
    if let Some(deadline) = deadline {
        call = call.with_deadline(deadline);
    }
    *slot.lock() = Some(Running { reply, deadline, cancel });
    // The scorer guards its own lanes; this guards everything else of the thread against a panic.
    let result = catch_unwind(AssertUnwindSafe(|| score(shared, loaded, body, &call, start - received)));
    // Who waits must find the room free that it gave back.
    drop(permit);
    let reply = result.unwrap_or_else(|_| {
        tracing::error!(service = shared.options.service_name, "a request panicked");
        Reply::failure(&ScoreError::internal("a request panicked"), false)
    });
    // Gone when the watchdog answered in the meantime.
    if let Some(running) = slot.lock().take() {
        if reply.status == ErrorKind::DeadlineExceeded.row().http_status {
            shared.metrics.timed_out();
        }
        let _ = running.reply.send(reply);
    }
}

/// The answer for a job that waited too long.
fn too_late(shared: &Shared, job: &Job, now: Instant) -> Option<Reply> {
    let options = &shared.options;
    let waited = now.saturating_duration_since(job.received);
    if job.deadline.is_some_and(|d| now >= d) {
        shared.metrics.timed_out();
        return Some(Reply::timed_out(options.scoring_timeout_ms));
    }
    if waited > Duration::from_millis(options.max_queue_wait_ms) {
        shared.metrics.overloaded();
        return Some(Reply::overloaded(&options.service_name));
    }
    None
}

/// Body to answer.
fn score(shared: &Shared, loaded: &Loaded, body: Bytes, call: &Call, waited: Duration) -> Reply {
    let signature = loaded.scorer.signature();
    let decoded = match json::decode(&body, signature) {
        Ok(decoded) => decoded,
        Err(e) => return Reply::failure(&e, false),
    };
    drop(body);
    let start = Instant::now();
    let scored = match loaded.scorer.score(&decoded.inputs, call) {
        Ok(scored) => scored,
        Err(e) => return failed(shared, &e),
    };
    let ran = start.elapsed();
    shared.metrics.scored(waited, ran, &scored.timing, signature.rows(&decoded.inputs));
    let options = &shared.options;
    let answer =
        Answer { model_name: &options.service_name, model_version: options.model_version.as_deref() };
    let mut out = Vec::new();
    match json::encode(&mut out, &scored.outputs, signature, &decoded.form, answer) {
        Ok(()) => Reply::scored(out, ran),
        Err(e) => {
            tracing::error!(service = options.service_name, error = %e, "an answer cannot be written");
            Reply::failure(&e, true)
        }
    }
}

/// The answer for a call that failed, and what it says of the scorer.
fn failed(shared: &Shared, e: &ScoreError) -> Reply {
    let service = &shared.options.service_name;
    match e.kind() {
        ErrorKind::BadInput | ErrorKind::TooLarge => return Reply::failure(e, false),
        ErrorKind::Cancelled => shared.metrics.cancelled(1),
        // Counted where it is sent: the watchdog may have been faster.
        ErrorKind::DeadlineExceeded => return Reply::timed_out(shared.options.scoring_timeout_ms),
        _ => tracing::error!(service, error = %e, kind = %e.kind(), "scoring failed"),
    }
    if e.row().fatal_to_device || e.kind() == ErrorKind::Internal {
        shared.check_health();
    }
    Reply::failure(e, true)
}

/// Answers for the jobs that wait too long and the calls that take too long, and drops the jobs whose
/// client has left. Called by the watchdog, again and again.
pub(super) fn expire(shared: &Shared) {
    let now = Instant::now();
    let options = &shared.options;
    let max_wait = Duration::from_millis(options.max_queue_wait_ms);
    let is_due = |job: &Job| {
        job.reply.is_closed()
            || now.saturating_duration_since(job.received) > max_wait
            || job.deadline.is_some_and(|d| now >= d)
    };
    for job in shared.queue.take_if(is_due) {
        match too_late(shared, &job, now) {
            Some(reply) => drop(job.reply.send(reply)),
            None => shared.metrics.cancelled(1),
        }
    }
    for slot in shared.model().iter().flat_map(|loaded| loaded.slots.iter()) {
        let mut running = slot.lock();
        if running.as_ref().is_some_and(|r| r.deadline.is_some_and(|d| now >= d)) {
            let overdue = running.take();
            drop(running);
            if let Some(Running { reply, cancel, .. }) = overdue {
                cancel.cancel();
                shared.metrics.timed_out();
                let _ = reply.send(Reply::timed_out(options.scoring_timeout_ms));
            }
        }
    }
}
