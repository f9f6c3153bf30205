//! A fixed number of lanes shared among any number of callers.
//!
//! The rules that every backend would otherwise write again, each a little differently:
//! - a lane belongs to one call at a time, and comes back by a drop guard, whatever happens;
//! - a caller waits no longer than its deadline, and can be cancelled while it waits;
//! - a lane whose call panicked, or that lost its device, never goes back: its state is unknown;
//! - once the last lane is gone, every call fails at once with the first lane's reason (sticky).
//!
//! Idle lanes are handed out last in, first out: the one that ran last has the warmest caches.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::{Call, Health, Scored};
use crate::error::{Result, ScoreError};
use crate::tensor::Tensor;

/// One stream, queue or session with its staging buffers: what a backend author writes.
pub trait Lane: Send {
    /// Scores inputs that fit the signature (they were checked). The lane is owned by this call alone.
    ///
    /// # Errors
    /// As [`Scorer::score`](super::Scorer::score). After `DeviceLost` the lane is dropped.
    fn score(&mut self, inputs: &[Tensor], call: &Call) -> Result<Scored>;
}

/// N lanes, shared among callers.
pub struct Lanes<L> {
    shared: Arc<Shared<L>>,
    total: usize,
}

struct Shared<L> {
    state: Mutex<State<L>>,
    freed: Condvar,
}

struct State<L> {
    idle: Vec<L>,
    /// Lanes that are idle or out; the rest were retired.
    alive: usize,
    /// Callers that wait for a lane: waking nobody would cost a system call at every return.
    waiting: usize,
    /// Why the first lane was retired: later reasons are mostly its consequences.
    retired: Option<String>,
}

impl<L> Shared<L> {
    /// The state, also after a panic in another thread: every change to it is a single step.
    fn lock(&self) -> MutexGuard<'_, State<L>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<L: 'static + Send> Lanes<L> {
    /// Shares these lanes.
    ///
    /// # Errors
    /// `Internal` when there is none.
    pub fn new(lanes: Vec<L>) -> Result<Self> {
        let total = lanes.len();
        if total == 0 {
            return Err(ScoreError::internal("a scorer needs at least one lane"));
        }
        let state = Mutex::new(State { idle: lanes, alive: total, waiting: 0, retired: None });
        Ok(Self { shared: Arc::new(Shared { state, freed: Condvar::new() }), total })
    }

    /// How many lanes there were at the start.
    pub fn total(&self) -> usize {
        self.total
    }

    /// A lane, if one is idle now.
    pub fn try_acquire(&self) -> Option<LaneGuard<'_, L>> {
        let lane = self.shared.lock().idle.pop();
        lane.map(|lane| LaneGuard { shared: &self.shared, lane: Some(lane) })
    }

    /// A lane, waiting for one until the deadline of `call`.
    ///
    /// # Errors
    /// `DeadlineExceeded` or `Cancelled` while waiting; `DeviceLost` when no lane is left.
    pub fn acquire(&self, call: &Call) -> Result<LaneGuard<'_, L>> {
        let mut state = self.shared.lock();
        // Registered only by those who wait: most calls find an idle lane.
        let mut wake_on_cancel = None;
        loop {
            if let Some(lane) = state.idle.pop() {
                return Ok(LaneGuard { shared: &self.shared, lane: Some(lane) });
            }
            if state.alive == 0 {
                let reason = state.retired.clone().unwrap_or_default();
                return Err(ScoreError::device_lost(format!("no lane is left: {reason}")));
            }
            call.check()?;
            if wake_on_cancel.is_none()
                && let Some(token) = call.cancel_token()
            {
                // Without the lock: a token that is cancelled already calls back at once.
                drop(state);
                let shared = self.shared.clone();
                wake_on_cancel = Some(token.on_cancel(move || {
                    // Taking the lock orders the wake-up after the waiter's check of the token.
                    drop(shared.lock());
                    shared.freed.notify_all();
                }));
                state = self.shared.lock();
                continue;
            }
            state.waiting += 1;
            state = match call.deadline() {
                None => self.shared.freed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    self.shared.freed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
            state.waiting -= 1;
        }
    }

    /// Whether lanes are left, and why not all of them.
    pub fn health(&self) -> Health {
        let state = self.shared.lock();
        match (&state.retired, state.alive) {
            (None, _) => Health::Ready,
            (Some(reason), 0) => Health::Lost { reason: reason.clone() },
            (Some(reason), alive) => {
                Health::Degraded { reason: format!("{alive} of {} lanes are left: {reason}", self.total) }
            }
        }
    }

    /// Runs `work` on a lane; a panic or a lost device retires the lane.
    ///
    /// # Errors
    /// As [`Lanes::acquire`]; what `work` returns; `Internal` when it panicked.
    pub fn with<R>(&self, call: &Call, work: impl FnOnce(&mut L) -> Result<R>) -> Result<R> {
        self.acquire(call)?.run(work)
    }
}

impl<L: Lane + 'static> Lanes<L> {
    /// Scores on a free lane, waiting for one within the deadline of `call`.
    ///
    /// # Errors
    /// As [`Scorer::score`](super::Scorer::score).
    pub fn score(&self, inputs: &[Tensor], call: &Call) -> Result<Scored> {
        let (mut guard, wait) = match self.try_acquire() {
            Some(guard) => (guard, std::time::Duration::ZERO),
            None => {
                let start = Instant::now();
                (self.acquire(call)?, start.elapsed())
            }
        };
        let mut scored = guard.run(|lane| lane.score(inputs, call))?;
        scored.timing.wait = wait;
        Ok(scored)
    }
}

/// A lane that is out to one caller; goes back when dropped, unless it was retired or a panic passes.
pub struct LaneGuard<'a, L> {
    shared: &'a Shared<L>,
    /// Nothing once the lane was retired.
    lane: Option<L>,
}

impl<L> LaneGuard<'_, L> {
    /// Runs `work` on the lane, and retires the lane if `work` panicked or lost its device.
    ///
    /// # Errors
    /// What `work` returns; `Internal` when it panicked; `DeviceLost` when the lane was retired before.
    pub fn run<R>(&mut self, work: impl FnOnce(&mut L) -> Result<R>) -> Result<R> {
        let Some(lane) = &mut self.lane else {
            return Err(ScoreError::device_lost("the lane was taken out of use"));
        };
        // The lane is retired when a panic came out of it, so nobody sees its broken state.
        match catch_unwind(AssertUnwindSafe(|| work(lane))) {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(e)) => {
                if e.row().fatal_to_device {
                    self.retire(e.to_string());
                }
                Err(e)
            }
            Err(panic) => {
                let reason = format!("a lane panicked: {}", panic_text(&*panic));
                tracing::error!(reason, "retiring a lane");
                self.retire(reason.clone());
                Err(ScoreError::internal(reason))
            }
        }
    }

    /// Takes the lane out of use for good.
    pub fn retire(&mut self, reason: impl Into<String>) {
        let Some(lane) = self.lane.take() else { return };
        let mut state = self.shared.lock();
        state.alive -= 1;
        state.retired.get_or_insert(reason.into());
        drop(state);
        // Everybody: if it was the last lane, all who wait must be told.
        self.shared.freed.notify_all();
        // A broken lane may panic again while it is torn down; that must not reach the caller.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(lane)));
    }
}

impl<L> Drop for LaneGuard<'_, L> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return self.retire("a call panicked while it held the lane");
        }
        if let Some(lane) = self.lane.take() {
            let mut state = self.shared.lock();
            state.idle.push(lane);
            let wanted = state.waiting > 0;
            drop(state);
            if wanted {
                self.shared.freed.notify_one();
            }
        }
    }
}

/// What a panic said.
fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

impl<L> fmt::Debug for Lanes<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.lock();
        write!(f, "Lanes({} idle, {} alive, {} in all)", state.idle.len(), state.alive, self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::scoring::CancelToken;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn lanes(n: usize) -> Lanes<usize> {
        Lanes::new((0..n).collect()).unwrap()
    }

    #[test]
    fn a_lane_is_owned_by_one_call_at_a_time() {
        let lanes = Lanes::new((0..3).map(|_| AtomicUsize::new(0)).collect()).unwrap();
        let runs = AtomicUsize::new(0);
        std::thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| {
                    for _ in 0..200 {
                        let once = |lane: &mut AtomicUsize| {
                            assert_eq!(lane.fetch_add(1, Ordering::SeqCst), 0, "two calls on one lane");
                            std::thread::yield_now();
                            lane.fetch_sub(1, Ordering::SeqCst);
                            runs.fetch_add(1, Ordering::SeqCst);
                            Ok(())
                        };
                        lanes.with(&Call::new(), once).unwrap();
                    }
                });
            }
        });
        assert_eq!(runs.into_inner(), 1600);
        assert_eq!(lanes.health(), Health::Ready);
    }

    #[test]
    fn waiting_ends_at_the_deadline_or_by_the_token() {
        let lanes = lanes(1);
        let held = lanes.try_acquire().unwrap();
        assert!(lanes.try_acquire().is_none());
        let start = Instant::now();
        let late = lanes.acquire(&Call::new().with_timeout(Duration::from_millis(20))).map(drop).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::DeadlineExceeded);
        assert!(start.elapsed() >= Duration::from_millis(20));
        let token = CancelToken::new();
        std::thread::scope(|s| {
            let waiter = s.spawn(|| lanes.acquire(&Call::new().with_cancel(token.clone())).map(drop));
            std::thread::sleep(Duration::from_millis(10));
            token.cancel();
            assert_eq!(waiter.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
        });
        drop(held);
        assert!(lanes.acquire(&Call::new()).is_ok());
    }

    #[test]
    fn a_panic_retires_the_lane_and_the_last_one_is_sticky() {
        let lanes = lanes(2);
        let boom = |_: &mut usize| -> Result<()> { panic!("boom {}", 7) };
        let e = lanes.with(&Call::new(), boom).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Internal);
        assert!(e.to_string().contains("boom 7"), "{e}");
        assert!(matches!(lanes.health(), Health::Degraded { .. }));
        assert!(lanes.with(&Call::new(), |_| Ok(())).is_ok(), "the other lane goes on");
        let lost =
            lanes.with(&Call::new(), |_| Err::<(), _>(ScoreError::device_lost("unplugged"))).unwrap_err();
        assert_eq!(lost.kind(), ErrorKind::DeviceLost);
        let after = lanes.with(&Call::new(), |_| Ok(())).unwrap_err();
        assert_eq!(after.kind(), ErrorKind::DeviceLost);
        assert!(after.to_string().contains("boom 7"), "the first cause is named: {after}");
        assert!(matches!(lanes.health(), Health::Lost { .. }));
    }

    #[test]
    fn who_waits_is_told_when_the_last_lane_goes() {
        let lanes = lanes(1);
        let mut held = lanes.try_acquire().unwrap();
        std::thread::scope(|s| {
            let waiter = s.spawn(|| lanes.acquire(&Call::new()).map(drop));
            std::thread::sleep(Duration::from_millis(10));
            held.retire("pulled");
            assert_eq!(waiter.join().unwrap().unwrap_err().kind(), ErrorKind::DeviceLost);
        });
    }

    #[test]
    fn other_errors_keep_the_lane() {
        let lanes = lanes(1);
        for kind in ErrorKind::ALL.into_iter().filter(|k| !k.row().fatal_to_device) {
            let e = lanes.with(&Call::new(), |_| Err::<(), _>(ScoreError::new(kind, "x"))).unwrap_err();
            assert_eq!(e.kind(), kind);
        }
        assert_eq!(lanes.health(), Health::Ready);
        assert!(Lanes::<usize>::new(vec![]).is_err());
    }
}
