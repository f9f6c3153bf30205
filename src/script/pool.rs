//! The pool: what waits, what each worker has in its socket, and what became of it.
//!
//! About a millisecond of work is kept in a worker's socket, so that a fast script never sleeps between
//! two requests and a slow one has nothing queued behind it. The rest waits in one bounded queue.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::Method;
use tokio::net::unix::OwnedWriteHalf;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::options::ScriptOptions;
use super::protocol::{self, AnswerPrefix, Ready};
use crate::server::{Exchange, Outcome};

/// After a request's deadline, for the worker's own timer to answer.
const GRACE: Duration = Duration::from_millis(500);
/// How much longer a request waits while every worker is being replaced.
const OUTAGE_WAIT: Duration = Duration::from_secs(5);
/// Work that is kept in a worker's socket, and bytes of it beyond the request that runs.
const AHEAD_MS: f64 = 1.0;
const AHEAD_BYTES: usize = 256 << 10;
const MAX_DEPTH: f64 = 64.0;

/// A request that is not answered.
pub(super) struct Job {
    pub(super) exchange: Exchange,
    head: Vec<u8>,
    deadline: Option<Instant>,
}

/// A request in a worker's socket. Its job is gone when it was answered already.
struct Entry {
    id: u64,
    job: Option<Job>,
    bytes: usize,
    timeout: Option<Duration>,
    begun: Option<Instant>,
}

/// What the socket did not take yet.
struct Piece {
    id: u64,
    head: Vec<u8>,
    body: Bytes,
    written: usize,
}

/// One worker that is connected.
pub(super) struct Conn {
    pub(super) number: u64,
    writer: Arc<OwnedWriteHalf>,
    unsent: Arc<Notify>,
    in_flight: VecDeque<Entry>,
    outbox: VecDeque<Piece>,
    mean_ms: Option<f64>,
    next_id: u64,
    /// Gets no more requests.
    pub(super) retiring: bool,
    /// Said that it ends after its last answer: what follows was not begun.
    ends: bool,
    /// To be killed, and why.
    pub(super) doomed: Option<String>,
}

#[derive(Default)]
pub(super) struct Slot {
    pub(super) conn: Option<Conn>,
    /// Ready before there were event loops.
    pub(super) parked: Option<(u64, std::os::unix::net::UnixStream)>,
    /// What the worker that is gone had begun, and what it did wrong.
    pub(super) begun: Option<Job>,
    pub(super) wrong: Option<String>,
}

pub(super) struct State {
    waiting: VecDeque<Job>,
    pub(super) slots: Vec<Slot>,
    pub(super) why_down: String,
    outage_end: Option<Instant>,
}

pub(super) struct Shared {
    pub(super) options: ScriptOptions,
    pub(super) facts: OnceLock<Ready>,
    state: Mutex<State>,
    pub(super) loops: OnceLock<Vec<Handle>>,
    pub(super) closed: AtomicBool,
    /// The threads that keep the workers.
    pub(super) keepers: Mutex<Vec<JoinHandle<()>>>,
    /// The number of the next worker: no two have the same.
    pub(super) next_number: AtomicU64,
}

impl Conn {
    pub(super) fn new(number: u64, writer: OwnedWriteHalf) -> Self {
        Self {
            number,
            writer: Arc::new(writer),
            unsent: Arc::default(),
            in_flight: VecDeque::new(),
            outbox: VecDeque::new(),
            mean_ms: None,
            next_id: 1,
            retiring: false,
            ends: false,
            doomed: None,
        }
    }

    pub(super) fn load(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether it may end: its last answer is there.
    pub(super) fn is_done(&self) -> bool {
        self.ends || self.retiring && self.load() == 0
    }

    fn has_room(&self, bytes: usize, now: Instant) -> bool {
        if self.retiring || self.doomed.is_some() {
            return false;
        }
        let Some(front) = self.in_flight.front() else { return true };
        // The mean says nothing about a request that runs for longer than that already.
        let running_ms = front.begun.map_or(0.0, |b| now.saturating_duration_since(b).as_secs_f64() * 1e3);
        let depth = (AHEAD_MS / self.mean_ms.unwrap_or(AHEAD_MS).max(1e-3)).clamp(1.0, MAX_DEPTH);
        let beyond: usize = self.in_flight.iter().skip(1).map(|e| e.bytes).sum();
        running_ms < AHEAD_MS && self.load() < depth as usize && beyond + bytes <= AHEAD_BYTES
    }

    fn ran(&mut self, ms: f64) {
        let mean = self.mean_ms.unwrap_or(ms);
        // A script that became slow must not have much queued behind it: up faster than down.
        let weight = if ms > mean { 4.0 } else { 8.0 };
        self.mean_ms = Some(mean + (ms - mean) / weight);
    }

    fn send(&mut self, job: Job, now: Instant) {
        let body = job.exchange.request.body.clone();
        let timeout = job.deadline.map(|d| d.saturating_duration_since(now));
        let id = self.next_id;
        self.next_id += 1;
        let Some(prefix) = protocol::request_prefix(id, timeout, job.head.len(), body.len()) else {
            return job.exchange.answer(Outcome::Overloaded); // past 4 GiB, which no server takes in
        };
        let total = prefix.len() + job.head.len() + body.len();
        let written = match self.outbox.is_empty() {
            true => {
                let parts = [&prefix[..], &job.head, &body].map(std::io::IoSlice::new);
                // An error is seen by the reader too, which knows what to do.
                self.writer.try_write_vectored(&parts).unwrap_or(0)
            }
            false => 0,
        };
        if written < total {
            let head = [&prefix[..], &job.head].concat();
            self.outbox.push_back(Piece { id, head, body, written });
            self.unsent.notify_one();
        }
        let begun = self.in_flight.is_empty().then_some(now);
        self.in_flight.push_back(Entry { id, job: Some(job), bytes: total, timeout, begun });
    }

    /// Writes on; whether everything is written.
    fn flush(&mut self) -> std::io::Result<bool> {
        while let Some(piece) = self.outbox.front_mut() {
            let head = piece.head.get(piece.written..).unwrap_or_default();
            let body = piece.body.get(piece.written.saturating_sub(piece.head.len())..).unwrap_or_default();
            if head.is_empty() && body.is_empty() {
                self.outbox.pop_front();
                continue;
            }
            match self.writer.try_write_vectored(&[head, body].map(std::io::IoSlice::new)) {
                Ok(n) => piece.written += n,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }
}

impl Shared {
    pub(super) fn new(options: ScriptOptions) -> Self {
        // Two for each worker, so that its successor can be made ready beside it.
        let slots = (0..2 * options.workers).map(|_| Slot::default()).collect();
        let why_down = "The service is loading.".to_owned();
        let state = State { waiting: VecDeque::new(), slots, why_down, outage_end: None };
        Self {
            options,
            facts: OnceLock::new(),
            state: Mutex::new(state),
            loops: OnceLock::new(),
            closed: AtomicBool::new(false),
            keepers: Mutex::default(),
            next_number: AtomicU64::new(0),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn call(&self, exchange: Exchange) {
        let needs_head = self.facts.get().is_none_or(|f| f.needs_head);
        let head = match needs_head || exchange.request.method != Method::POST {
            true => protocol::request_head(&exchange.request),
            false => Vec::new(),
        };
        let own = exchange.received.checked_add(Duration::from_millis(self.options.scoring_timeout_ms));
        let job = Job { deadline: exchange.deadline.or(own), exchange, head };
        let mut state = self.lock();
        if self.is_closed() {
            return;
        }
        if state.waiting.len() >= self.options.max_queued {
            drop(state);
            return job.exchange.answer(Outcome::Overloaded);
        }
        state.waiting.push_back(job);
        state.pump();
    }

    /// An answer has come; an error says what is wrong with it.
    pub(super) fn answered(
        &self,
        slot: usize,
        answer: &AnswerPrefix,
        head: &[u8],
        body: Bytes,
    ) -> Result<(), String> {
        let now = Instant::now();
        let mut state = self.lock();
        let Some(conn) = state.slots.get_mut(slot).and_then(|s| s.conn.as_mut()) else { return Ok(()) };
        let expected = conn.in_flight.front().map(|e| e.id);
        if expected != Some(answer.id) || conn.outbox.iter().any(|p| p.id == answer.id) {
            return Err(format!("it answered request {}; expected {expected:?}", answer.id));
        }
        let outcome = answer.outcome(head, body)?;
        let Some(entry) = conn.in_flight.pop_front() else { return Ok(()) };
        let since = entry.begun.map(|b| now.saturating_duration_since(b));
        if let Some(ran) = answer.exec().or(since) {
            conn.ran(ran.as_secs_f64() * 1e3);
        }
        if let Some(next) = conn.in_flight.front_mut() {
            next.begun = Some(now);
        }
        conn.ends |= answer.ends();
        conn.retiring |= answer.ends();
        state.pump();
        drop(state);
        if let Some(job) = entry.job {
            job.exchange.answer(outcome);
        }
        Ok(())
    }

    /// The worker's socket has ended, and what it did wrong if it did.
    pub(super) fn disconnected(&self, slot: usize, number: u64, wrong: Option<String>) {
        let mut state = self.lock();
        let Some(place) = state.slots.get_mut(slot) else { return };
        let Some(mut conn) = place.conn.take_if(|c| c.number == number) else { return };
        place.wrong = wrong.or(conn.doomed.take());
        let unsent = |id| conn.outbox.iter().any(|p| p.id == id);
        let begun = conn.in_flight.front().is_some_and(|e| !conn.ends && !unsent(e.id));
        if begun {
            place.begun = conn.in_flight.pop_front().and_then(|e| e.job);
        }
        for job in conn.in_flight.into_iter().rev().filter_map(|e| e.job) {
            state.waiting.push_front(job);
        }
        if self.is_closed() {
            // Nobody takes it up again: dropped, it is answered as when the service shuts down.
            state.waiting.clear();
        }
        state.pump();
    }

    /// Writes what the sockets did not take at once, until the worker is gone.
    pub(super) async fn write_on(self: Arc<Self>, slot: usize, number: u64) {
        let known = self.lock().conn(slot, number).map(|c| (c.writer.clone(), c.unsent.clone()));
        let Some((writer, unsent)) = known else { return };
        loop {
            let flushed = match self.lock().conn(slot, number) {
                Some(conn) => conn.flush(),
                None => return,
            };
            match flushed {
                Ok(true) => unsent.notified().await,
                Ok(false) if writer.writable().await.is_ok() => {}
                _ => return, // the reader sees the end too
            }
        }
    }

    pub(super) fn attached(&self, slot: usize, conn: Conn) {
        let mut state = self.lock();
        if state.is_down() {
            state.outage_end = Some(Instant::now());
        }
        if let Some(place) = state.slots.get_mut(slot) {
            place.conn = Some(conn);
        }
        state.pump();
    }

    pub(super) fn expire(&self, now: Instant) {
        let mut answers: Vec<(Job, Outcome)> = Vec::new();
        let mut state = self.lock();
        for conn in state.slots.iter_mut().filter_map(|s| s.conn.as_mut()) {
            for (i, entry) in conn.in_flight.iter_mut().enumerate() {
                let grace = if i == 0 { GRACE } else { Duration::ZERO };
                let due = |job: &mut Job| job.deadline.is_some_and(|d| now >= d + grace);
                if let Some(job) = entry.job.take_if(due) {
                    answers.push((job, Outcome::TimedOut));
                }
            }
            let stuck =
                conn.in_flight.front().filter(|e| e.job.is_none()).and_then(|e| Some(e.begun? + e.timeout?));
            if stuck.is_some_and(|until| now >= until + GRACE) && conn.doomed.is_none() {
                conn.doomed = Some("it ran past the scoring timeout and did not answer".to_owned());
            }
        }
        let (is_down, outage_end) = (state.is_down(), state.outage_end);
        let max_wait = Duration::from_millis(self.options.max_queue_wait_ms);
        for job in std::mem::take(&mut state.waiting) {
            let outage = is_down || outage_end.is_some_and(|end| job.exchange.received < end);
            let max_wait = if outage { max_wait + OUTAGE_WAIT } else { max_wait };
            if job.exchange.is_abandoned() {
                // Nobody is told.
            } else if job.deadline.is_some_and(|d| now >= d) {
                answers.push((job, Outcome::TimedOut));
            } else if now.saturating_duration_since(job.exchange.received) > max_wait {
                answers.push((job, Outcome::Overloaded));
            } else {
                state.waiting.push_back(job);
            }
        }
        drop(state);
        answers.into_iter().for_each(|(job, outcome)| job.exchange.answer(outcome));
    }

    pub(super) fn queued(&self) -> usize {
        let state = self.lock();
        let ahead = state.slots.iter().filter_map(|s| s.conn.as_ref()).map(|c| c.load().saturating_sub(1));
        state.waiting.len() + ahead.sum::<usize>()
    }

    /// Takes no more, and lets go of what waits: it is answered as when the service shuts down.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let waiting = std::mem::take(&mut self.lock().waiting);
        drop(waiting);
    }
}

impl State {
    pub(super) fn conn(&mut self, slot: usize, number: u64) -> Option<&mut Conn> {
        self.slots.get_mut(slot)?.conn.as_mut().filter(|c| c.number == number)
    }

    pub(super) fn is_down(&self) -> bool {
        self.slots.iter().all(|s| s.conn.as_ref().is_none_or(|c| c.doomed.is_some()))
    }

    /// Sends what waits, to whoever has the least to do.
    fn pump(&mut self) {
        let now = Instant::now();
        while let Some(job) = self.waiting.front() {
            let bytes = job.exchange.request.body.len();
            let conns = self.slots.iter_mut().filter_map(|s| s.conn.as_mut());
            let Some(conn) = conns.filter(|c| c.has_room(bytes, now)).min_by_key(|c| c.load()) else {
                return;
            };
            let Some(job) = self.waiting.pop_front() else { return };
            if job.exchange.is_abandoned() {
                continue;
            }
            match job.deadline {
                Some(deadline) if now >= deadline => job.exchange.answer(Outcome::TimedOut),
                _ => conn.send(job, now),
            }
        }
    }
}
