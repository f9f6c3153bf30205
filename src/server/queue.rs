//! The one way from the threads that speak HTTP to the threads that score.
//!
//! Bounded, first come first served, and quiet: a thread is woken only when one sleeps, since a wake-up
//! is a system call that costs more than a small model's whole run.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A bounded queue that many threads push to and many pop from.
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
    capacity: usize,
}

struct State<T> {
    waiting: VecDeque<T>,
    /// Threads that sleep in `pop` and have not been called yet.
    sleeping: usize,
    closed: bool,
}

impl<T> Queue<T> {
    pub(super) fn new(capacity: usize) -> Self {
        let state = State { waiting: VecDeque::new(), sleeping: 0, closed: false };
        Self { state: Mutex::new(state), filled: Condvar::new(), capacity }
    }

    /// The state, also after a panic elsewhere: every change to it is a single step.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to the end, or gives the item back when the queue is full or closed.
    pub(super) fn push(&self, item: T) -> Result<(), T> {
        let mut state = self.lock();
        if state.closed || state.waiting.len() >= self.capacity {
            return Err(item);
        }
        state.waiting.push_back(item);
        let wake = state.sleeping > 0;
        if wake {
            // Counted out here, so that the next push does not call the same sleeper again.
            state.sleeping -= 1;
        }
        drop(state);
        if wake {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Takes from the front, sleeping until there is something; `None` once closed and empty.
    pub(super) fn pop(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(item) = state.waiting.pop_front() {
                return Some(item);
            }
            if state.closed {
                return None;
            }
            state.sleeping += 1;
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes out every item that is to go; the rest keeps its order.
    pub(super) fn take_if(&self, go: impl Fn(&T) -> bool) -> Vec<T> {
        let mut state = self.lock();
        if !state.waiting.iter().any(&go) {
            return Vec::new();
        }
        let (gone, stay) = std::mem::take(&mut state.waiting).into_iter().partition(go);
        let stay: Vec<T> = stay;
        state.waiting = stay.into();
        gone
    }

    /// No more is taken in; what waits can still be popped.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.lock().waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn everything_pushed_is_popped_once() {
        let queue = Arc::new(Queue::new(16));
        let sum = Arc::new(AtomicUsize::new(0));
        let popping = (0..3).map(|_| {
            let (queue, sum) = (queue.clone(), sum.clone());
            std::thread::spawn(move || {
                while let Some(n) = queue.pop() {
                    sum.fetch_add(n, Ordering::SeqCst);
                }
            })
        });
        let popping = popping.collect::<Vec<_>>();
        let pushing = (0..3).map(|t| {
            let queue = queue.clone();
            std::thread::spawn(move || {
                for i in 0..2000 {
                    let mut item = t * 2000 + i;
                    while let Err(back) = queue.push(item) {
                        item = back;
                        std::thread::yield_now();
                    }
                }
            })
        });
        pushing.collect::<Vec<_>>().into_iter().for_each(|t| t.join().unwrap());
        queue.close();
        popping.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(sum.load(Ordering::SeqCst), (0..6000).sum::<usize>());
    }

    #[test]
    fn it_is_bounded_and_ordered_and_can_be_culled() {
        let queue = Queue::new(4);
        (0..4).for_each(|i| queue.push(i).unwrap());
        assert_eq!(queue.push(4), Err(4));
        assert_eq!(queue.take_if(|i| i % 2 == 1), [1, 3]);
        queue.push(5).unwrap();
        queue.close();
        assert_eq!((queue.push(6), queue.len()), (Err(6), 3));
        let rest = std::iter::from_fn(|| queue.pop()).collect::<Vec<_>>();
        assert_eq!(rest, [0, 2, 5]);
    }
}
