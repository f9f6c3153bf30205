//! How much may be in flight at once: requests, and bytes of their bodies.
//!
//! Counting requests alone bounds nothing: a thousand bodies of 100 MB are a thousand requests. A
//! permit goes with the request wherever it goes, into the queue too, and gives back by being dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The two counters and their bounds.
#[derive(Debug)]
pub(super) struct Admission {
    requests: AtomicUsize,
    bytes: AtomicUsize,
    max_requests: usize,
    max_bytes: usize,
}

/// The right to be in flight with so many bytes.
#[derive(Debug)]
pub(super) struct Permit {
    from: Arc<Admission>,
    bytes: usize,
}

impl Admission {
    pub(super) fn new(max_requests: usize, max_bytes: usize) -> Arc<Self> {
        let none = || AtomicUsize::new(0);
        Arc::new(Self { requests: none(), bytes: none(), max_requests, max_bytes })
    }

    /// A permit for a request whose body has so many bytes, if there is room for it now.
    pub(super) fn admit(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        if !take(&self.requests, 1, self.max_requests) {
            return None;
        }
        // Made first: dropped on the way out, it gives the request back.
        let mut permit = Permit { from: self.clone(), bytes: 0 };
        permit.grow(bytes).then_some(permit)
    }

    /// Requests and bytes in flight.
    pub(super) fn in_flight(&self) -> (usize, usize) {
        (self.requests.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

impl Permit {
    /// A permit of nobody's, which bounds nothing.
    pub(super) fn unbounded() -> Self {
        let from = Admission::new(usize::MAX, usize::MAX);
        // What the drop gives back.
        from.requests.store(1, Ordering::Relaxed);
        Self { from, bytes: 0 }
    }

    /// Extends the permit by so many bytes; says whether there was room for them.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let room = take(&self.from.bytes, bytes, self.from.max_bytes);
        if room {
            self.bytes += bytes;
        }
        room
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.from.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.from.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Adds, unless that would pass the bound.
fn take(counter: &AtomicUsize, amount: usize, bound: usize) -> bool {
    let before = counter.fetch_add(amount, Ordering::Relaxed);
    let fits = before.checked_add(amount).is_some_and(|sum| sum <= bound);
    if !fits {
        counter.fetch_sub(amount, Ordering::Relaxed);
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bounds_hold_and_everything_comes_back() {
        let admission = Admission::new(2, 100);
        let mut first = admission.admit(60).unwrap();
        assert!(admission.admit(50).is_none(), "too many bytes");
        assert!(admission.admit(usize::MAX).is_none());
        let second = admission.admit(30).unwrap();
        assert!(admission.admit(0).is_none(), "too many requests");
        assert!(first.grow(10) && !first.grow(1));
        assert_eq!(admission.in_flight(), (2, 100));
        drop((first, second));
        assert_eq!(admission.in_flight(), (0, 0));
    }
}
