//! What a caller asks of one call besides its inputs: when to give up, and how to be told to.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::error::{ErrorKind, Result, ScoreError};

/// The terms of one call. The default has no deadline and cannot be cancelled.
#[derive(Debug, Clone, Default)]
pub struct Call {
    deadline: Option<Instant>,
    cancel: Option<CancelToken>,
    profile: bool,
}

impl Call {
    /// A call with no deadline that cannot be cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Give up once that much time has passed from now.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        // A timeout beyond the clock's range is no timeout.
        Self { deadline: Instant::now().checked_add(timeout), ..self }
    }

    /// Give up at that moment.
    #[must_use]
    pub fn with_deadline(self, deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// Give up when the token is cancelled.
    #[must_use]
    pub fn with_cancel(self, token: CancelToken) -> Self {
        Self { cancel: Some(token), ..self }
    }

    /// Say how long each launch on a device took ([`Scored::launches`](super::Scored::launches)).
    #[must_use]
    pub fn with_profile(self) -> Self {
        Self { profile: true, ..self }
    }

    /// Whether each launch's time is wanted.
    pub fn wants_profile(&self) -> bool {
        self.profile
    }

    /// When to give up.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The token that cancels it, if there is one.
    pub fn cancel_token(&self) -> Option<&CancelToken> {
        self.cancel.as_ref()
    }

    /// Whether to go on. A lane calls it between its steps.
    ///
    /// # Errors
    /// `Cancelled` or `DeadlineExceeded`.
    pub fn check(&self) -> Result<()> {
        if self.cancel.as_ref().is_some_and(CancelToken::is_cancelled) {
            return Err(ScoreError::new(ErrorKind::Cancelled, "the call was cancelled"));
        }
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(Self::too_late()),
            _ => Ok(()),
        }
    }

    /// The error of a call whose deadline has passed.
    pub(crate) fn too_late() -> ScoreError {
        ScoreError::new(ErrorKind::DeadlineExceeded, "the deadline of the call passed before it was done")
    }
}

/// Cancels calls from another thread. Clones cancel together; once cancelled, always cancelled.
#[derive(Clone, Default)]
pub struct CancelToken(Arc<Shared>);

#[derive(Default)]
struct Shared {
    cancelled: AtomicBool,
    /// Who must be woken; weak, so that a finished call needs not wait for the lock to be forgotten.
    wake: Mutex<Vec<Weak<dyn Fn() + Send + Sync>>>,
}

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels every call that holds the token, running or yet to come.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::SeqCst);
        let waiting = std::mem::take(&mut *self.0.wake.lock().unwrap_or_else(PoisonError::into_inner));
        for wake in waiting.iter().filter_map(Weak::upgrade) {
            wake();
        }
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// Has `wake` called when the token is cancelled (at once, if it was already), for as long as the
    /// returned handle is kept.
    pub fn on_cancel(&self, wake: impl Fn() + Send + Sync + 'static) -> OnCancel {
        let wake: Arc<dyn Fn() + Send + Sync> = Arc::new(wake);
        {
            let mut waiting = self.0.wake.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.retain(|w| w.strong_count() > 0);
            waiting.push(Arc::downgrade(&wake));
        }
        // Looked at after registering: a cancel in between is seen by one of the two.
        if self.is_cancelled() {
            wake();
        }
        OnCancel { _wake: wake }
    }
}

/// Keeps a callback of [`CancelToken::on_cancel`] registered; dropped, it is forgotten.
pub struct OnCancel {
    _wake: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CancelToken({})", if self.is_cancelled() { "cancelled" } else { "live" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn a_call_ends_by_deadline_or_token() {
        assert!(Call::new().check().is_ok());
        assert!(Call::new().with_timeout(Duration::MAX).check().is_ok());
        let late = Call::new().with_timeout(Duration::ZERO).check().unwrap_err();
        assert_eq!(late.kind(), ErrorKind::DeadlineExceeded);
        let token = CancelToken::new();
        let call = Call::new().with_cancel(token.clone());
        assert!(call.check().is_ok());
        token.cancel();
        assert_eq!(call.check().unwrap_err().kind(), ErrorKind::Cancelled);
    }

    #[test]
    fn cancelling_wakes_who_still_waits() {
        let (token, woken) = (CancelToken::new(), Arc::new(AtomicUsize::new(0)));
        let count = |woken: &Arc<AtomicUsize>| {
            let woken = woken.clone();
            move || {
                woken.fetch_add(1, Ordering::SeqCst);
            }
        };
        let kept = token.on_cancel(count(&woken));
        drop(token.on_cancel(count(&woken)));
        token.cancel();
        assert_eq!(woken.load(Ordering::SeqCst), 1, "the forgotten one is not called");
        let late = token.on_cancel(count(&woken));
        assert_eq!(woken.load(Ordering::SeqCst), 2, "a late one is called at once");
        drop((kept, late));
    }
}
