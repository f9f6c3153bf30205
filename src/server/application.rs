//! What answers the scoring route when it is not a model: whole requests in, whole answers out.
//!
//! A model's requests are decoded, queued and scored by the server itself. An application (an entry script,
//! an embedder's own code) takes the request as it came and answers when it can, from any thread. The
//! server keeps what a front end must guarantee whoever answers: keys, limits, ids, headers, metrics, and
//! the statuses of the contract for what went wrong. The application keeps its own queue, because only
//! it knows what it can work on at once.

use std::fmt;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::admission::Permit;
use crate::error::Result;

/// Answers the scoring route. Shared by every thread that speaks HTTP.
///
/// None of its functions may block: they are called on event loops.
pub trait Application: fmt::Debug + Send + Sync {
    /// Called once, before the first request, with the event loops of the server: tasks may be spawned
    /// there. They end with the server.
    ///
    /// # Errors
    /// Whatever keeps the application from serving.
    fn start(&self, loops: &[Handle]) -> Result<()>;

    /// Takes one request. It is answered by [`Exchange::answer`], now or later; dropped unanswered, it is
    /// answered 503, as when the service shuts down.
    fn call(&self, exchange: Exchange);

    /// Called by the watchdog, several times within the shortest bound there is: answer what waited too
    /// long, and give up what nobody waits for any more.
    fn expire(&self, now: Instant);

    /// Requests that wait.
    fn queued(&self) -> usize;

    /// Why the application cannot answer now, or `None` when it can.
    fn not_ready(&self) -> Option<String>;

    /// The description of the interface in that version of OpenAPI, as JSON; `None` leaves it to the server's
    /// own, which takes and gives any object.
    fn swagger(&self, version: SwaggerVersion) -> Option<Bytes>;

    /// What it answers on, for the header `x-triscore-device`.
    fn device(&self) -> String;
}

/// The versions of OpenAPI that a service describes itself in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SwaggerVersion {
    /// 2.0, which is the default.
    V2,
    /// 3.0.3.
    V3,
    /// 3.1.0.
    V31,
}

/// A request as it came, within the limits: its body is read, its key was right.
#[derive(Debug)]
pub struct AppRequest {
    /// `GET`, `POST` or `OPTIONS`.
    pub method: Method,
    /// Path and query, as the client sent them.
    pub uri: Uri,
    /// Every header.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// One request on its way to its answer.
#[derive(Debug)]
pub struct Exchange {
    /// What is asked.
    pub request: AppRequest,
    /// When the whole of it had arrived.
    pub received: Instant,
    /// When it must be answered; the server answers 504 by itself then.
    pub deadline: Option<Instant>,
    pub(super) reply: oneshot::Sender<Outcome>,
    /// Given back when the exchange is dropped, wherever that is.
    pub(super) permit: Permit,
}

impl Exchange {
    /// An exchange outside of any server, for who drives an [`Application`] directly, and where its outcome
    /// arrives. Dropping the receiver is what a client's leaving is.
    pub fn new(
        request: AppRequest,
        received: Instant,
        deadline: Option<Instant>,
    ) -> (Self, oneshot::Receiver<Outcome>) {
        let (reply, outcome) = oneshot::channel();
        (Self { request, received, deadline, reply, permit: Permit::unbounded() }, outcome)
    }

    /// Whether nobody waits for the answer any more.
    pub fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    /// Sends the answer. Goes nowhere when the client has left.
    pub fn answer(self, outcome: Outcome) {
        // Who waits must find the room free that it gave back.
        drop(self.permit);
        let _ = self.reply.send(outcome);
    }
}

/// What became of a request.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// The application's own answer.
    Answered(AppResponse),
    /// It waited too long, or there was no room for it: 503 in the words of the contract.
    Overloaded,
    /// It ran for too long: 504 in the words of the contract.
    TimedOut,
    /// What worked on it died: 502 with the reason.
    Died(String),
}

/// An application's own answer.
#[derive(Debug)]
pub struct AppResponse {
    /// The HTTP status, 100 to 599.
    pub status: u16,
    /// Its headers, in order; a name may come more than once. Without a `Content-Type` it is JSON.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The whole body.
    pub body: Bytes,
    /// The value of `x-ms-run-function-failed`; `None` leaves the header out.
    pub run_failed: Option<bool>,
    /// How long the user's function ran, for `x-ms-run-fn-exec-ms`; `None` leaves the header out.
    pub exec: Option<Duration>,
}
