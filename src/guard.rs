//! Calls into drivers, kept at arm's length.
//!
//! A driver is other people's code in this process. It may panic on its way back through a wrapper, and it may
//! never come back at all: `cuInit` on a wedged device and an OpenCL loader on a dead board both hang. So
//! such a call runs on a thread of its own, with a time limit. A thread that hangs cannot be ended; it is left
//! behind, once: as long as it hangs, the next call is refused at once instead of leaving another.
//!
//! What this cannot hold is a crash: a driver that writes where it should not takes the process along.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::error::{Result, ScoreError};

/// The guard of one library, made once.
#[derive(Debug)]
pub(crate) struct Guard {
    library: &'static str,
    limit: Duration,
    /// Alive as long as the thread that did not come back.
    stuck: Mutex<Weak<()>>,
}

impl Guard {
    /// A guard that waits so long at most.
    pub(crate) const fn new(library: &'static str, limit: Duration) -> Self {
        Self { library, limit, stuck: Mutex::new(Weak::new()) }
    }

    /// Runs the call.
    ///
    /// # Errors
    /// What the call returns; `Unavailable` when it panics, or does not come back in time.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let unavailable = |what: String| Err(ScoreError::unavailable(format!("{} {what}", self.library)));
        let limit = self.limit.as_secs_f32();
        if self.stuck.lock().unwrap_or_else(PoisonError::into_inner).strong_count() > 0 {
            return unavailable(format!(
                "still hangs in an earlier call (over {limit} s): restart the program"
            ));
        }
        let alive = Arc::new(());
        let (watched, (sender, receiver)) = (Arc::downgrade(&alive), mpsc::sync_channel(1));
        let body = move || {
            let result = catch_unwind(AssertUnwindSafe(work));
            // Nobody may be waiting any more.
            let _ = sender.send(result);
            drop(alive);
        };
        if let Err(e) = std::thread::Builder::new().name("triscore-probe".to_owned()).spawn(body) {
            return unavailable(format!("was not asked: cannot start a thread: {e}"));
        }
        match receiver.recv_timeout(self.limit) {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
                unavailable(format!("failed in a way it should not: {text}"))
            }
            Err(RecvTimeoutError::Timeout) => {
                *self.stuck.lock().unwrap_or_else(PoisonError::into_inner) = watched;
                unavailable(format!("did not answer within {limit} s: the driver or the device hangs"))
            }
            Err(RecvTimeoutError::Disconnected) => unavailable("ended its thread".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn panics_and_hangs_become_reasons() {
        // Writing the backtrace of a panic can take a second on a busy machine.
        static PATIENT: Guard = Guard::new("libstub", Duration::from_secs(60));
        static GUARD: Guard = Guard::new("libstub", Duration::from_millis(250));
        assert_eq!(PATIENT.call(|| Ok(7)).unwrap(), 7);
        let own = PATIENT.call(|| Err::<(), _>(ScoreError::not_found("x"))).unwrap_err();
        assert_eq!(own.kind(), ErrorKind::NotFound);
        let panicked = PATIENT.call(|| -> Result<()> { panic!("no such symbol") }).unwrap_err();
        assert_eq!(panicked.kind(), ErrorKind::Unavailable);
        assert!(panicked.to_string().contains("no such symbol"), "{panicked}");

        let (release, held) = mpsc::channel::<()>();
        let hang = move || {
            let _ = held.recv();
            Ok(())
        };
        let late = GUARD.call(hang).unwrap_err().to_string();
        assert!(late.starts_with("libstub did not answer within 0.25 s"), "{late}");
        let refused = GUARD.call(|| Ok(())).unwrap_err().to_string();
        assert!(refused.contains("still hangs"), "{refused}");
        drop(release);
        // The thread ends on its own time; from then on calls are taken again.
        let again = |_| {
            std::thread::sleep(Duration::from_millis(2));
            GUARD.call(|| Ok(())).is_ok()
        };
        assert!((0..500).any(again));
    }
}
