//! The thread that ends runs whose deadline passed.
//!
//! A run inside ONNX Runtime is ended from outside, by a flag on its options. One thread a process
//! does that for all sessions. A call costs the caller two uncontended locks and, nearly always, no
//! wake-up: the thread is woken only for a deadline earlier than the one it sleeps for, and deadlines
//! mostly come in order.
//!
//! The flag is sticky and the run may end on its own just before: so ending a run and finishing it are
//! ordered by the slot's lock, and a flag that was set is taken back before the next run.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use ort::session::RunOptions;

use crate::error::{ErrorKind, Result, ScoreError};
use crate::scoring::{Call, OnCancel};

/// No deadline; later than any.
const NEVER: u64 = u64::MAX;

/// The run of one session: its options, and why it was ended, if it was.
pub(super) struct Slot {
    options: RunOptions,
    /// Nanoseconds since the watcher started; `NEVER` between runs and for runs without a deadline.
    deadline: AtomicU64,
    run: Mutex<Run>,
}

#[derive(Clone, Copy, PartialEq)]
enum Run {
    Idle,
    Going,
    Ended(ErrorKind),
}

/// A run that is being watched; finish it to learn whether it was ended.
pub(super) struct Watched<'a> {
    slot: &'a Slot,
    is_over: bool,
    _cancel: Option<OnCancel>,
}

impl Slot {
    /// A slot for one session, watched for as long as it lives.
    pub(super) fn new() -> Result<Arc<Self>> {
        let options = RunOptions::new().map_err(|e| ScoreError::internal(format!("no run options: {e}")))?;
        let slot = Arc::new(Self { options, deadline: AtomicU64::new(NEVER), run: Mutex::new(Run::Idle) });
        Watcher::of_this_process()
            .slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::downgrade(&slot));
        Ok(slot)
    }

    /// The options that a run must be given to be watched.
    pub(super) fn options(&self) -> &RunOptions {
        &self.options
    }

    /// Watches the run that follows, if anything can end it.
    pub(super) fn watch(self: &Arc<Self>, call: &Call) -> Option<Watched<'_>> {
        if call.deadline().is_none() && call.cancel_token().is_none() {
            return None;
        }
        let deadline = call.deadline().map(|at| Watcher::of_this_process().nanos(at));
        {
            let mut run = self.lock();
            *run = Run::Going;
            self.deadline.store(deadline.unwrap_or(NEVER), Ordering::SeqCst);
        }
        if let Some(deadline) = deadline {
            Watcher::of_this_process().wake_for(deadline);
        }
        let cancel = call.cancel_token().map(|token| {
            let slot = self.clone();
            token.on_cancel(move || slot.end_if(|_| true, ErrorKind::Cancelled))
        });
        Some(Watched { slot: self, is_over: false, _cancel: cancel })
    }

    /// Ends the run, if one is going and its deadline is what `due` looks for.
    fn end_if(&self, due: impl Fn(u64) -> bool, why: ErrorKind) {
        let mut run = self.lock();
        if *run == Run::Going && due(self.deadline.load(Ordering::SeqCst)) {
            *run = Run::Ended(why);
            self.deadline.store(NEVER, Ordering::SeqCst);
            if let Err(e) = self.options.terminate() {
                tracing::error!("cannot end a run: {e}");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Run> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched<'_> {
    /// The run is over: the error that it was ended with, or nothing if it ended on its own.
    pub(super) fn finish(mut self) -> Option<ScoreError> {
        self.is_over = true;
        self.slot.finish_run()
    }
}

impl Slot {
    fn finish_run(&self) -> Option<ScoreError> {
        let mut run = self.lock();
        self.deadline.store(NEVER, Ordering::SeqCst);
        let Run::Ended(why) = std::mem::replace(&mut *run, Run::Idle) else { return None };
        if let Err(e) = self.options.unterminate() {
            return Some(ScoreError::device_lost(format!("cannot reuse a session whose run was ended: {e}")));
        }
        Some(match why {
            ErrorKind::DeadlineExceeded => Call::too_late(),
            why => ScoreError::new(why, "the call was cancelled"),
        })
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        // Only after a panic: the slot must be as good as new, if anybody still uses it.
        if !self.is_over {
            self.slot.finish_run();
        }
    }
}

struct Watcher {
    start: Instant,
    slots: Mutex<Vec<Weak<Slot>>>,
    /// When the thread wakes up, in nanoseconds since `start`.
    wakes_at: AtomicU64,
    /// Set to have the thread look again; with the condition variable.
    look: Mutex<bool>,
    looked: Condvar,
}

impl Watcher {
    fn of_this_process() -> &'static Self {
        static WATCHER: OnceLock<Watcher> = OnceLock::new();
        static THREAD: OnceLock<()> = OnceLock::new();
        let watcher = WATCHER.get_or_init(|| Watcher {
            start: Instant::now(),
            slots: Mutex::new(Vec::new()),
            wakes_at: AtomicU64::new(NEVER),
            look: Mutex::new(false),
            looked: Condvar::new(),
        });
        THREAD.get_or_init(|| {
            let thread = std::thread::Builder::new().name("triscore-watch".to_owned());
            if let Err(e) = thread.spawn(|| watcher.run()) {
                tracing::error!("deadlines will be noticed only between runs: cannot start a thread: {e}");
            }
        });
        watcher
    }

    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_nanos()).unwrap_or(NEVER)
    }

    /// Has the thread look in time for this deadline, which was stored already.
    ///
    /// The order matters: the deadline is stored before `wakes_at` is read, and the thread resets
    /// `wakes_at` before it reads deadlines; so at least one of the two sees the other.
    fn wake_for(&self, deadline: u64) {
        if deadline < self.wakes_at.load(Ordering::SeqCst) {
            *self.look.lock().unwrap_or_else(PoisonError::into_inner) = true;
            self.looked.notify_one();
        }
    }

    fn run(&self) {
        loop {
            self.wakes_at.store(NEVER, Ordering::SeqCst);
            let next = self.end_late_runs();
            self.wakes_at.store(next, Ordering::SeqCst);
            let mut look = self.look.lock().unwrap_or_else(PoisonError::into_inner);
            if !*look {
                let left = next.saturating_sub(self.nanos(Instant::now()));
                // Waking up now and then for nothing keeps the arithmetic simple.
                let left = Duration::from_nanos(left).min(Duration::from_secs(3600));
                look = self.looked.wait_timeout(look, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            *look = false;
        }
    }

    /// Ends what is late; returns the earliest deadline that is still to come.
    fn end_late_runs(&self) -> u64 {
        let now = self.nanos(Instant::now());
        let mut next = NEVER;
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|slot| {
            let Some(slot) = slot.upgrade() else { return false };
            match slot.deadline.load(Ordering::SeqCst) {
                // Asked again under the lock: by now it may be the next run, with a later deadline.
                late if late <= now => slot.end_if(|at| at <= now, ErrorKind::DeadlineExceeded),
                later => next = next.min(later),
            }
            true
        });
        next
    }
}
