//! Taking connections in, keeping them within bounds, and ending in order.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::connection::{Patience, Registered, Watched};
use super::io::Loops;
use super::shared::{Accepting, Phase, Shared, Stage};
use super::{http, scorers};
use crate::error::{ErrorKind, Result, ScoreError};

/// Connections that the system may hold before they are accepted.
const BACKLOG: u32 = 1024;
/// The largest head of a request, in bytes; what is read at once may double it.
const HEAD_BYTES: usize = 64 << 10;
/// After an error of `accept` (mostly: no file descriptor left), to let others end; and what telling one
/// client too many may take.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Between the last accepted connection and closing idle ones: what they have sent already is served.
const LAST_CALL: Duration = Duration::from_millis(20);

/// When a server begins to accept connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accept {
    /// At once: requests are answered 503 until the service is ready.
    Now,
    /// Once it is ready: until then connections wait, or another process that has the same socket takes them.
    WhenReady,
}

/// Listens at an address (port 0 lets the system choose), for [`Server::from_listener`].
///
/// [`Server::from_listener`]: super::Server::from_listener
///
/// # Errors
/// `Conflict` when it is taken; `BadConfig` when it cannot be had; `Io`.
pub fn bind_listener(addr: SocketAddr) -> Result<std::net::TcpListener> {
    let bound = || {
        // A socket needs an event loop to be listened on, and none to be handed on afterwards.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let _entered = runtime.enter();
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // Without it, a restarted server would have to wait until its old connections are forgotten.
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        socket.listen(BACKLOG)?.into_std()
    };
    bound().map_err(|e| {
        let port = addr.port();
        let (kind, what) = match e.kind() {
            std::io::ErrorKind::AddrInUse => (
                ErrorKind::Conflict,
                format!(
                    "port {port} is in use: stop the program that holds it (`ss -ltnp 'sport = :{port}'` names it), \
                     or choose another port (0 lets the system choose)"
                ),
            ),
            std::io::ErrorKind::PermissionDenied => {
                (ErrorKind::BadConfig, format!("port {port} may not be used by this user: choose one above 1023"))
            }
            std::io::ErrorKind::AddrNotAvailable => {
                (ErrorKind::BadConfig, format!("{} is no address of this machine: 0.0.0.0 takes all of them", addr.ip()))
            }
            _ => (ErrorKind::Io, format!("cannot listen: {e}")),
        };
        ScoreError::new(kind, what).with_at(addr.to_string()).with_source(e)
    })
}

/// Accepts, at once or from when the service is ready, until told to finish, and then whatever had connected
/// by then.
pub(super) async fn accept(listener: TcpListener, when: Accept, loops: Loops, shared: Arc<Shared>) {
    if when == Accept::WhenReady {
        let mut phase = shared.phase.subscribe();
        let ready = phase.wait_for(|p| *p == Phase::Ready);
        tokio::select! {
            _ = ready => {}
            // Nobody was let in: who has connected is another process's, on the same socket.
            () = shared.reached(Stage::Drain) => {
                drop(listener);
                shared.accepting.send_replace(Accepting::Over);
                return;
            }
        }
    }
    let mut no_more = pin!(shared.accepts_no_more());
    let mut finish = pin!(shared.reached(Stage::Finish));
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut no_more => {
                // What waits on the socket is the other process's.
                drop(listener);
                shared.accepting.send_replace(Accepting::Over);
                return;
            }
            accepted = listener.accept() => accepted,
            () = &mut finish => break,
        };
        match accepted {
            Ok((stream, _)) => take_in(stream, &loops, &shared),
            Err(e) => {
                tracing::warn!(error = %e, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    loop {
        let mut next = pin!(listener.accept());
        match std::future::poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await {
            Poll::Ready(Ok((stream, _))) => take_in(stream, &loops, &shared),
            _ => return,
        }
    }
}

fn take_in(stream: TcpStream, loops: &Loops, shared: &Arc<Shared>) {
    // Answers are small and whole: waiting to fill a packet would only delay them.
    let _ = stream.set_nodelay(true);
    let shared = shared.clone();
    loops.deal(stream, move |stream| async move {
        match shared.connections.register() {
            Some(registered) => converse(stream, &shared, registered).await,
            None => {
                shared.metrics.refused_connection();
                refuse(stream, &shared).await;
            }
        }
    });
}

/// Serves one connection to its end.
async fn converse(stream: TcpStream, shared: &Arc<Shared>, registered: Registered<'_>) {
    let conn = registered.conn.clone();
    let service = service_fn(|request| http::handle(shared.clone(), conn.clone(), request));
    let io = TokioIo::new(Watched::new(stream, conn.clone()));
    let mut http = pin!(
        hyper::server::conn::http1::Builder::new()
            .header_read_timeout(None) // the watchdog does it, without a timer a request
            .max_buf_size(HEAD_BYTES)
            .serve_connection(io, service)
    );
    let (mut known, mut last) = (false, false);
    // An error here is the client's leaving, or its not speaking HTTP, which hyper has answered.
    let _ = std::future::poll_fn(|cx| {
        if !known {
            conn.wakes(cx.waker());
            known = true;
        }
        if conn.is_doomed() {
            return Poll::Ready(Ok(()));
        }
        let polled = http.as_mut().poll(cx);
        if polled.is_pending() && !last && conn.is_finishing() {
            // Only now, so that a request that has arrived is seen before the connection is closed.
            last = true;
            http.as_mut().graceful_shutdown();
            return http.as_mut().poll(cx);
        }
        polled
    })
    .await;
}

/// Tells a client that there are too many, without reading what it wants.
async fn refuse(mut stream: TcpStream, shared: &Shared) {
    let body = format!(
        "{{\"message\":\"Too many connections for service {} (overloaded)\"}}",
        shared.options.service_name.escape_default()
    );
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    // What a fresh socket takes at once; nobody waits for such a client.
    let answer = async {
        stream.write_all(format!("{head}{body}").as_bytes()).await?;
        stream.shutdown().await?;
        // Closed with its request unread, the answer could be lost on the way.
        stream.read(&mut [0; 1024]).await
    };
    let _ = tokio::time::timeout(ACCEPT_PAUSE, answer).await;
}

/// Advances the clock and ends what takes too long.
pub(super) async fn watchdog(shared: Arc<Shared>) {
    let options = &shared.options;
    let patience = Patience {
        idle_ms: options.idle_timeout_ms,
        head_ms: options.header_timeout_ms,
        write_ms: options.write_timeout_ms,
    };
    let mut ticks = tokio::time::interval(options.tick());
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !shared.is_past(Stage::Ended) {
        ticks.tick().await;
        shared.connections.clock.advance();
        shared.connections.sweep(&patience);
        scorers::expire(&shared);
        shared.check_health();
    }
}

/// Leads the server to its end once that is asked for.
pub(super) async fn wind_down(shared: Arc<Shared>, accepting: tokio::task::JoinHandle<()>) {
    shared.reached(Stage::Drain).await;
    let drain = Duration::from_millis(shared.drain_ms.load(std::sync::atomic::Ordering::Acquire));
    let _ = tokio::time::timeout(drain, shared.reached(Stage::Finish)).await;
    shared.advance(Stage::Finish);
    let _ = accepting.await;
    tokio::time::sleep(LAST_CALL).await;
    shared.connections.finish_all();
    let all_closed = async {
        while shared.connections.len() > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let grace = Duration::from_millis(shared.options.grace_ms);
    let closed = async {
        tokio::select! {
            () = all_closed => true,
            () = shared.reached(Stage::Abort) => false,
        }
    };
    if !tokio::time::timeout(grace, closed).await.unwrap_or(false) {
        tracing::warn!(open = shared.connections.len(), "closing connections that did not end in time");
    }
    shared.advance(Stage::Abort);
    shared.connections.doom_all();
    shared.queue.close();
    shared.advance(Stage::Ended);
}
