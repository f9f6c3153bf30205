//! Open connections: what each is doing, since when, and how to end it.
//!
//! A timer for every request would cost more than reading it. Instead each connection notes what it
//! does (a few atomic stores, on a clock that the watchdog advances), and the watchdog ends those
//! that take too long: a head that trickles in, an answer that is not read, a connection that idles.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// After an answer to a body that was not read to its end, so many bytes more are read and dropped, for
/// so long, before the connection closes: closing at once would take the answer from the client.
const LINGER_BYTES: usize = 4 << 20;
const LINGER: Duration = Duration::from_secs(2);

/// A clock that is cheap to read and as exact as the watchdog's tick.
#[derive(Debug)]
pub(super) struct Clock {
    start: Instant,
    now_ms: AtomicU64,
}

impl Clock {
    pub(super) fn new() -> Self {
        // From 1 on: 0 says "never".
        Self { start: Instant::now(), now_ms: AtomicU64::new(1) }
    }
    pub(super) fn advance(&self) {
        self.now_ms.store(self.start.elapsed().as_millis() as u64 + 1, Ordering::Relaxed);
    }
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }
}

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Doing {
    /// Nothing: between two requests.
    Idle = 0,
    /// Reading the head of a request.
    Head = 1,
    /// Reading a body, scoring, answering: bounded elsewhere.
    Work = 2,
    /// Reading on after its last answer.
    Linger = 3,
}

/// How long each may take.
#[derive(Debug)]
pub(super) struct Patience {
    pub(super) idle_ms: u64,
    pub(super) head_ms: u64,
    pub(super) write_ms: u64,
}

/// One open connection.
#[derive(Debug)]
pub(super) struct Conn {
    clock: Arc<Clock>,
    /// Milliseconds since when, and in the lowest two bits what.
    doing: AtomicU64,
    /// Since when the client does not read its answer; 0 when it does.
    stuck_since_ms: AtomicU64,
    /// To be closed at once.
    doomed: AtomicBool,
    /// To be closed after the answer that is due.
    finishing: AtomicBool,
    /// The last body was not read to its end.
    unread: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Conn {
    fn set(&self, doing: Doing) {
        self.doing.store(self.clock.now_ms() << 2 | doing as u64, Ordering::Relaxed);
    }
    fn is(&self, doing: Doing) -> bool {
        self.doing.load(Ordering::Relaxed) & 3 == doing as u64
    }

    /// A request's head was read.
    pub(super) fn works(&self) {
        self.set(Doing::Work);
    }
    /// A request was answered.
    pub(super) fn rests(&self) {
        self.set(Doing::Idle);
    }
    /// The answer goes out before the body was read.
    pub(super) fn leaves_unread(&self) {
        self.unread.store(true, Ordering::Relaxed);
    }
    pub(super) fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::Acquire)
    }
    pub(super) fn is_finishing(&self) -> bool {
        self.finishing.load(Ordering::Acquire)
    }

    /// Notes whom to wake. A task's waker stays the same, so once is enough.
    pub(super) fn wakes(&self, waker: &Waker) {
        *self.lock() = Some(waker.clone());
    }
    fn lock(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn raise(&self, flag: &AtomicBool) {
        flag.store(true, Ordering::Release);
        if let Some(waker) = &*self.lock() {
            waker.wake_by_ref();
        }
    }

    fn is_overdue(&self, now_ms: u64, patience: &Patience) -> bool {
        let stuck = self.stuck_since_ms.load(Ordering::Relaxed);
        if stuck > 0 && now_ms.saturating_sub(stuck) > patience.write_ms {
            return true;
        }
        let doing = self.doing.load(Ordering::Relaxed);
        let bound_ms = match doing & 3 {
            d if d == Doing::Idle as u64 => patience.idle_ms,
            d if d == Doing::Head as u64 => patience.head_ms,
            d if d == Doing::Linger as u64 => LINGER.as_millis() as u64,
            _ => return false,
        };
        now_ms.saturating_sub(doing >> 2) > bound_ms
    }
}

/// All open connections.
#[derive(Debug)]
pub(super) struct Connections {
    pub(super) clock: Arc<Clock>,
    open: Mutex<HashMap<usize, Arc<Conn>>>,
    next: AtomicUsize,
    max: usize,
}

/// Takes its connection off the list when dropped.
pub(super) struct Registered<'a> {
    connections: &'a Connections,
    id: usize,
    pub(super) conn: Arc<Conn>,
}

impl Connections {
    pub(super) fn new(max: usize) -> Self {
        let clock = Arc::new(Clock::new());
        Self { clock, open: Mutex::default(), next: AtomicUsize::new(0), max }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<usize, Arc<Conn>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a new connection on the list, unless the list is full.
    pub(super) fn register(&self) -> Option<Registered<'_>> {
        let conn = Arc::new(Conn {
            clock: self.clock.clone(),
            doing: AtomicU64::new(0),
            stuck_since_ms: AtomicU64::new(0),
            doomed: AtomicBool::new(false),
            finishing: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            waker: Mutex::default(),
        });
        // A fresh connection owes a head: it may not idle for as long as one that has earned it.
        conn.set(Doing::Head);
        let mut open = self.lock();
        if open.len() >= self.max {
            return None;
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        open.insert(id, conn.clone());
        Some(Registered { connections: self, id, conn })
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Dooms every connection that takes too long.
    pub(super) fn sweep(&self, patience: &Patience) {
        let now_ms = self.clock.now_ms();
        for conn in self.lock().values() {
            if !conn.is_doomed() && conn.is_overdue(now_ms, patience) {
                conn.raise(&conn.doomed);
            }
        }
    }

    /// Lets every connection end after the answer that is due.
    pub(super) fn finish_all(&self) {
        self.lock().values().for_each(|conn| conn.raise(&conn.finishing));
    }

    /// Ends every connection.
    pub(super) fn doom_all(&self) {
        self.lock().values().for_each(|conn| conn.raise(&conn.doomed));
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.id);
    }
}

/// A socket whose reads and writes are noted.
pub(super) struct Watched<S> {
    stream: S,
    conn: Arc<Conn>,
    /// Bytes read and dropped after the last answer.
    lingered: usize,
    shut: bool,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, conn: Arc<Conn>) -> Self {
        Self { stream, conn, lingered: 0, shut: false }
    }

    fn note_write<T>(&self, written: &Poll<T>) {
        let stuck = &self.conn.stuck_since_ms;
        match written {
            Poll::Pending if stuck.load(Ordering::Relaxed) == 0 => {
                stuck.store(self.conn.clock.now_ms(), Ordering::Relaxed);
            }
            Poll::Pending => {}
            Poll::Ready(_) => {
                if stuck.load(Ordering::Relaxed) != 0 {
                    stuck.store(0, Ordering::Relaxed);
                }
                // A long answer that is being read is not idling.
                if self.conn.is(Doing::Idle) {
                    self.conn.set(Doing::Idle);
                }
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before && self.conn.is(Doing::Idle) {
            self.conn.set(Doing::Head);
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note_write(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.note_write(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if !self.shut {
            std::task::ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.shut = true;
            self.conn.set(Doing::Linger);
        }
        if !self.conn.unread.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let mut sink = [0u8; 4096];
        while self.lingered < LINGER_BYTES {
            let mut buf = ReadBuf::new(&mut sink);
            match std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => self.lingered += buf.filled().len(),
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_takes_too_long_is_overdue() {
        let connections = Connections::new(2);
        let patience = Patience { idle_ms: 100, head_ms: 10, write_ms: 20 };
        let a = connections.register().unwrap();
        let b = connections.register().unwrap();
        assert!(connections.register().is_none(), "the list is full");
        b.conn.rests();
        connections.clock.now_ms.store(50, Ordering::Relaxed);
        connections.sweep(&patience);
        assert!(a.conn.is_doomed() && !b.conn.is_doomed());
        b.conn.works();
        b.conn.stuck_since_ms.store(49, Ordering::Relaxed);
        connections.clock.now_ms.store(60, Ordering::Relaxed);
        connections.sweep(&patience);
        assert!(!b.conn.is_doomed());
        connections.clock.now_ms.store(70, Ordering::Relaxed);
        connections.sweep(&patience);
        assert!(b.conn.is_doomed(), "nobody reads the answer");
        drop((a, b));
        assert_eq!(connections.len(), 0);
    }
}
