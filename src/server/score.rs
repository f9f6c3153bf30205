//! The scoring route: a request within the bounds goes to what answers, and comes back as the contract has it.
//!
//! Keys, ids, limits and the words for what went wrong are the same whatever answers. A model's request is put into
//! the server's own queue; an application gets it whole.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::header::{AUTHORIZATION, CONTENT_ENCODING, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{Method, Request, Response};
use hyper::body::{Body as _, Incoming};
use tokio::sync::oneshot;

use super::admission::Permit;
use super::application::{AppRequest, Exchange, Outcome};
use super::connection::Conn;
use super::headers::{self, Ids};
use super::job::Job;
use super::reply::Reply;
use super::respond::{NOT_ALLOWED, ReplyBody, empty, not_allowed, with_allow, with_body};
use super::shared::{Hosted, Served, Shared};
use super::{app, body, json};
use crate::scoring::CancelToken;

/// The methods of the route.
pub(super) const ALLOWED: &str = "GET, OPTIONS, POST";

/// `POST /score`, `GET /score?…`, `OPTIONS /score`.
pub(super) async fn route(
    shared: &Shared,
    conn: &Conn,
    request: Request<Incoming>,
    start: Instant,
) -> Response<ReplyBody> {
    let method = request.method().clone();
    if !matches!(method, Method::POST | Method::GET | Method::OPTIONS | Method::HEAD) {
        return not_allowed(ALLOWED);
    }
    let ids = match Ids::of(request.headers()) {
        Ok(ids) => ids,
        Err(refused) => {
            conn.leaves_unread();
            let mut response = finish(shared, Reply::refused(431, &refused.message), start);
            refused.put(response.headers_mut());
            return response;
        }
    };
    let mut response = match method {
        // A page's browser asks before it may show a key: it learns what it must, and no script sees it.
        Method::OPTIONS
            if shared.application().is_none() || authorized(shared, request.headers()).is_err() =>
        {
            with_failed(empty())
        }
        // The route is there for GET, so its server let HEAD through, and its worker refused it.
        Method::HEAD => with_allow(finish(shared, Reply::refused(405, NOT_ALLOWED), start), ALLOWED),
        _ => answer(shared, request, start).await.unwrap_or_else(|early| {
            conn.leaves_unread();
            finish(shared, early, start)
        }),
    };
    ids.put(response.headers_mut());
    response
}

/// From a request's head to its answer. An error is a reply given before the body was read.
async fn answer(
    shared: &Shared,
    request: Request<Incoming>,
    start: Instant,
) -> Result<Response<ReplyBody>, Reply> {
    let options = &shared.options;
    let (head, incoming) = request.into_parts();
    authorized(shared, &head.headers)?;
    let served = shared.served().map_err(|e| Reply::failure(&e, false))?;
    let is_model = matches!(served, Served::Model(_));
    if is_model && head.headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(Reply::refused(415, "Content-Encoding is not supported: send the JSON as it is."));
    }
    let declared = usize::try_from(incoming.size_hint().lower()).unwrap_or(usize::MAX);
    if declared > options.max_body_bytes {
        return Err(body::too_large(options));
    }
    let Some(mut permit) = shared.admission.admit(declared) else {
        shared.metrics.overloaded();
        return Err(Reply::overloaded(&options.service_name));
    };
    let body = match head.method {
        Method::GET if is_model => json::query_to_json(head.uri.query().unwrap_or_default()).into(),
        _ => body::read(incoming, declared, &mut permit, options).await?,
    };
    match served {
        Served::Model(_) => {
            let reply = score(shared, body, permit).await;
            Ok(finish(shared, reply, start))
        }
        Served::Application(hosted) => match call(shared, hosted, head, body, permit).await {
            Outcome::Answered(answered) => {
                answered.exec.into_iter().for_each(|exec| shared.metrics.ran(exec));
                let response = app::response(answered, &hosted.device);
                shared.metrics.answered(response.status().as_u16(), start.elapsed());
                Ok(response)
            }
            failed => Ok(finish(shared, app::reply(shared, failed), start)),
        },
    }
}

/// A model's answer to a body, by way of the queue.
async fn score(shared: &Shared, body: Bytes, permit: Permit) -> Reply {
    let options = &shared.options;
    let received = Instant::now();
    let cancel = CancelOnDrop(CancelToken::new());
    let (reply, answer) = oneshot::channel();
    let deadline = received.checked_add(Duration::from_millis(options.scoring_timeout_ms));
    let job = Job { body, received, deadline, cancel: cancel.0.clone(), reply, permit };
    if shared.queue.push(job).is_err() {
        shared.metrics.overloaded();
        return Reply::overloaded(&options.service_name);
    }
    // The sender is dropped unanswered only when the server is torn down around the request.
    answer.await.unwrap_or_else(|_| app::stopped())
}

/// What became of a request that an application was given.
async fn call(shared: &Shared, hosted: &Hosted, head: Parts, body: Bytes, permit: Permit) -> Outcome {
    let (reply, outcome) = oneshot::channel();
    let received = Instant::now();
    let deadline = received.checked_add(Duration::from_millis(shared.options.scoring_timeout_ms));
    let Parts { method, uri, headers, .. } = head;
    let request = AppRequest { method, uri, headers, body };
    hosted.application.call(Exchange { request, received, deadline, reply, permit });
    outcome.await.unwrap_or(Outcome::Stopped)
}

/// Cancels the call when the handler is dropped, which is what happens when the client leaves. After the
/// answer it cancels nothing any more.
struct CancelOnDrop(CancelToken);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Whether the request shows a key, if keys are asked for.
pub(super) fn authorized(shared: &Shared, headers: &HeaderMap) -> Result<(), Reply> {
    let keys = shared.keys.read().unwrap_or_else(PoisonError::into_inner);
    let Some(keys) = &*keys else { return Ok(()) };
    match headers.get(AUTHORIZATION) {
        Some(shown) if keys.open(shown.as_bytes()) => Ok(()),
        Some(_) => {
            Err(Reply::refused(401, "The key is wrong: expected the header 'Authorization: Bearer <key>'."))
        }
        None => {
            Err(Reply::refused(401, "No key was given: expected the header 'Authorization: Bearer <key>'."))
        }
    }
}

/// A reply of the scoring route as HTTP.
fn finish(shared: &Shared, reply: Reply, start: Instant) -> Response<ReplyBody> {
    shared.metrics.answered(reply.status, start.elapsed());
    let mut response = with_body(reply.status, headers::JSON, reply.body);
    let headers = response.headers_mut();
    headers.insert(headers::RUN_FAILED, headers::python_bool(reply.run_failed));
    if let Some(exec) = reply.exec {
        headers.insert(headers::EXEC_MS, headers::exec_ms(exec));
    }
    if (reply.exec.is_some() || reply.run_failed)
        && let Some(device) = shared.device()
    {
        headers.insert(headers::DEVICE, device.clone());
    }
    if reply.status == 401 {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// That nothing failed is said of whatever the scoring route answers.
fn with_failed(mut response: Response<ReplyBody>) -> Response<ReplyBody> {
    response.headers_mut().insert(headers::RUN_FAILED, headers::python_bool(false));
    response
}
