//! Requests to answers: which path, which method, and what the contract says of each.
//!
//! The routes are few and fixed, and the scoring route is hot, so they are matched here by hand, on
//! hyper itself; what an embedder adds is an axum router, asked last.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW,
    AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, ORIGIN,
    VARY, WWW_AUTHENTICATE,
};
use axum::http::{Method, Request, Response, StatusCode};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use tokio::sync::oneshot;

use super::connection::Conn;
use super::headers::{self, Ids};
use super::reply::{Reply, message_body};
use super::scorers::Job;
use super::shared::{Shared, Stage};
use super::{body, json};
use crate::scoring::CancelToken;

const NOT_FOUND: &str = "The requested URL was not found on the server. If you entered the URL manually please check your spelling and try again.";
const NOT_ALLOWED: &str = "The method is not allowed for the requested URL.";
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const PROMETHEUS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Answers one request of one connection.
pub(super) async fn handle(
    shared: Arc<Shared>,
    conn: Arc<Conn>,
    request: Request<Incoming>,
) -> Result<Response<ReplyBody>, Infallible> {
    conn.works();
    let start = Instant::now();
    let origin = match shared.options.cors_origins.is_empty() {
        true => None,
        false => request.headers().get(ORIGIN).cloned(),
    };
    let path = without_prefix(request.uri().path(), shared.options.path_prefix.as_deref());
    let mut response = match path {
        "/score" => {
            let method = request.method().clone();
            let response = score_route(&shared, &conn, request, start).await;
            log(&method, "/score", &response, start);
            response
        }
        _ => {
            let path = path.to_owned();
            // Boxed: a rare route must not make the future of every scoring request larger.
            Box::pin(other_route(&shared, path, request, start)).await
        }
    };
    let headers = response.headers_mut();
    headers.insert(headers::SERVER_VERSION, headers::VERSION);
    if let Some(origin) = origin {
        allow_origin(&shared.options.cors_origins, origin, headers);
    }
    if shared.is_past(Stage::Drain) {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    conn.rests();
    Ok(response)
}

/// A path without the prefix under which everything is served as well.
fn without_prefix<'a>(path: &'a str, prefix: Option<&str>) -> &'a str {
    match prefix.and_then(|prefix| path.strip_prefix(prefix)) {
        Some("") => "/",
        Some(rest) if rest.starts_with('/') => rest,
        _ => path,
    }
}

/// `POST /score`, `GET /score?…`, `OPTIONS /score`.
async fn score_route(
    shared: &Shared,
    conn: &Conn,
    request: Request<Incoming>,
    start: Instant,
) -> Response<ReplyBody> {
    match *request.method() {
        Method::POST | Method::GET => {}
        Method::OPTIONS => return empty(),
        _ => return not_allowed("GET, OPTIONS, POST"),
    }
    let ids = match Ids::of(request.headers()) {
        Ok(ids) => ids,
        Err(message) => {
            conn.leaves_unread();
            return finish(shared, Reply::refused(431, &message), start);
        }
    };
    let reply = match score(shared, request).await {
        Ok(reply) => reply,
        Err(reply) => {
            conn.leaves_unread();
            reply
        }
    };
    let mut response = finish(shared, reply, start);
    ids.put(response.headers_mut());
    response
}

/// From a request's head to its reply. An error is a reply given before the body was read.
async fn score(shared: &Shared, request: Request<Incoming>) -> Result<Reply, Reply> {
    let options = &shared.options;
    let (head, incoming) = request.into_parts();
    authorized(shared, &head.headers)?;
    if let Err(e) = shared.scorer() {
        return Err(Reply::failure(&e, false));
    }
    if let Some(encoding) = head.headers.get(CONTENT_ENCODING)
        && encoding != "identity"
    {
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
        Method::GET => json::query_to_json(head.uri.query().unwrap_or_default()).into(),
        _ => body::read(incoming, declared, &mut permit, options).await?,
    };
    let received = Instant::now();
    let cancel = CancelOnDrop(CancelToken::new());
    let (reply, answer) = oneshot::channel();
    let deadline = received.checked_add(Duration::from_millis(options.scoring_timeout_ms));
    let job = Job { body, received, deadline, cancel: cancel.0.clone(), reply, permit };
    if shared.queue.push(job).is_err() {
        shared.metrics.overloaded();
        return Ok(Reply::overloaded(&options.service_name));
    }
    // The sender is dropped unanswered only when the server is torn down around the request.
    let stopped = |_| Reply::refused(503, "The service is shutting down.");
    Ok(answer.await.unwrap_or_else(stopped))
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
fn authorized(shared: &Shared, headers: &HeaderMap) -> Result<(), Reply> {
    let keys = shared.keys.read().unwrap_or_else(std::sync::PoisonError::into_inner);
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
        && let Some(loaded) = shared.loaded.get()
    {
        headers.insert(headers::DEVICE, loaded.device.clone());
    }
    if reply.status == 401 {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// Every route but the scoring one.
async fn other_route(
    shared: &Shared,
    path: String,
    request: Request<Incoming>,
    start: Instant,
) -> Response<ReplyBody> {
    if !matches!(&*path, "/" | "/swagger.json" | "/metrics" | "/v2/health/live" | "/v2/health/ready") {
        return not_ours(shared, request, start).await;
    }
    let method = request.method().clone();
    let mut response = match method {
        Method::GET | Method::HEAD => match &*path {
            "/" => match shared.not_ready() {
                None => with_body(200, HTML, Bytes::from_static(b"Healthy")),
                Some(reason) => message(503, &reason),
            },
            "/v2/health/live" => with_body(200, headers::JSON, Bytes::from_static(b"{\"live\":true}")),
            "/v2/health/ready" => match shared.not_ready() {
                None => with_body(200, headers::JSON, Bytes::from_static(b"{\"ready\":true}")),
                Some(reason) => message(503, &reason),
            },
            "/metrics" => with_body(200, PROMETHEUS, shared.metrics_text().into()),
            _ => swagger(shared, &request),
        },
        Method::OPTIONS => empty(),
        // These, and only these, carry no ids: so did the server whose place this one takes.
        _ => return not_allowed("GET, HEAD, OPTIONS"),
    };
    match Ids::of(request.headers()) {
        Ok(ids) => ids.put(response.headers_mut()),
        Err(too_long) => response = message(431, &too_long),
    }
    // Probes ask every few seconds: they would fill the log.
    if !matches!(&*path, "/" | "/metrics" | "/v2/health/live" | "/v2/health/ready") {
        log(&method, &path, &response, start);
    }
    response
}

fn swagger(shared: &Shared, request: &Request<Incoming>) -> Response<ReplyBody> {
    if let Err(reply) = authorized(shared, request.headers()) {
        let mut response = with_body(reply.status, headers::JSON, reply.body);
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return response;
    }
    match shared.scorer() {
        Err(e) => message(503, e.message()),
        Ok(loaded) => match loaded.swagger.of(request.uri().query()) {
            Ok(document) => with_body(200, headers::JSON, document),
            Err(unknown) => message(404, &unknown),
        },
    }
}

/// A path that is none of ours: the embedder's, or nobody's.
async fn not_ours(shared: &Shared, request: Request<Incoming>, start: Instant) -> Response<ReplyBody> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = match &shared.options.routes {
        None => message(404, NOT_FOUND),
        Some(routes) => {
            let ids = Ids::of(request.headers());
            let request = request.map(axum::body::Body::new);
            let Ok(response) = TowerToHyperService::new(routes.clone()).call(request).await;
            let mut response = response.map(ReplyBody::Routed);
            if let Ok(ids) = ids {
                ids.put(response.headers_mut());
            }
            response
        }
    };
    log(&method, &path, &response, start);
    response
}

fn allow_origin(allowed: &[String], origin: HeaderValue, headers: &mut HeaderMap) {
    let any = allowed.iter().any(|o| o == "*");
    if !any && !allowed.iter().any(|o| o.as_bytes() == origin.as_bytes()) {
        return;
    }
    let origin = if any { HeaderValue::from_static("*") } else { origin };
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_ORIGIN, origin),
        (ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST")),
        (ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization, content-type")),
        (VARY, HeaderValue::from_static("origin")),
    ] {
        let name: HeaderName = name;
        headers.insert(name, value);
    }
}

/// The access line, in the words of the server whose place this one takes.
fn log(method: &Method, path: &str, response: &Response<ReplyBody>, start: Instant) {
    if tracing::enabled!(target: "triscore::access", tracing::Level::DEBUG) {
        let (status, ms) = (response.status().as_u16(), start.elapsed().as_secs_f64() * 1e3);
        let length = response.body().size_hint().exact().unwrap_or(0);
        tracing::debug!(target: "triscore::access", "{method} {path} {status} {ms:.3}ms {length}");
    }
}

fn with_body(status: u16, content_type: HeaderValue, body: Bytes) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::Whole(Some(body)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    // Room for all that an answer carries, so that the table is made once.
    *response.headers_mut() = HeaderMap::with_capacity(12);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// A refusal outside of the scoring route.
fn message(status: u16, text: &str) -> Response<ReplyBody> {
    let mut response = with_body(status, headers::JSON, message_body(text));
    response.headers_mut().insert(headers::RUN_FAILED, headers::python_bool(false));
    response
}

fn not_allowed(allowed: &'static str) -> Response<ReplyBody> {
    let mut response = message(405, NOT_ALLOWED);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

fn empty() -> Response<ReplyBody> {
    with_body(200, HTML, Bytes::new())
}

/// The body of an answer: our own, in one piece, or that of an embedder's route.
pub(super) enum ReplyBody {
    Whole(Option<Bytes>),
    Routed(axum::body::Body),
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match self.get_mut() {
            Self::Whole(bytes) => {
                Poll::Ready(bytes.take().filter(|b| !b.is_empty()).map(|b| Ok(Frame::data(b))))
            }
            Self::Routed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Routed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Routed(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_taken_off_whole() {
        let cases = [
            ("/score", None, "/score"),
            ("/api/v1/service/s/score", Some("/api/v1/service/s"), "/score"),
            ("/api/v1/service/s", Some("/api/v1/service/s"), "/"),
            ("/api/v1/service/s/", Some("/api/v1/service/s"), "/"),
            ("/api/v1/service/st/score", Some("/api/v1/service/s"), "/api/v1/service/st/score"),
            ("/score", Some("/api"), "/score"),
        ];
        for (path, prefix, expected) in cases {
            assert_eq!(without_prefix(path, prefix), expected, "{path}");
        }
    }
}
