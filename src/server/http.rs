//! Requests to answers: which path, which method, and what the contract says of each.
//!
//! The routes are few and fixed, and the scoring route is hot, so they are matched here by hand, on
//! hyper itself; what an embedder adds is an axum router, asked last.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Bytes;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, CONNECTION,
    HeaderMap, HeaderName, HeaderValue, ORIGIN, VARY, WWW_AUTHENTICATE,
};
use axum::http::{Method, Request, Response};
use hyper::body::{Body as _, Incoming};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

use super::connection::Conn;
use super::headers::{self, Ids};
use super::respond::{HTML, ReplyBody, empty, message, not_allowed, with_body};
use super::shared::{Served, Shared, Stage};
use super::{score, swagger};

const NOT_FOUND: &str = "The requested URL was not found on the server. If you entered the URL manually please check your spelling and try again.";
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
            let response = score::route(&shared, &conn, request, start).await;
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
            _ => description(shared, &request),
        },
        Method::OPTIONS => empty(),
        // These, and only these, carry no ids: so did the server whose place this one takes.
        _ => return not_allowed("GET, HEAD, OPTIONS"),
    };
    match Ids::of(request.headers()) {
        Ok(ids) => ids.put(response.headers_mut()),
        Err(refused) => {
            response = message(431, &refused.message);
            refused.put(response.headers_mut());
        }
    }
    // Probes ask every few seconds: they would fill the log.
    if !matches!(&*path, "/" | "/metrics" | "/v2/health/live" | "/v2/health/ready") {
        log(&method, &path, &response, start);
    }
    response
}

fn description(shared: &Shared, request: &Request<Incoming>) -> Response<ReplyBody> {
    if let Err(reply) = score::authorized(shared, request.headers()) {
        let mut response = with_body(reply.status, headers::JSON, reply.body);
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return response;
    }
    let query = request.uri().query();
    let document = match shared.served() {
        Err(e) => return message(503, e.message()),
        Ok(Served::Model(loaded)) => swagger::pick(query, |version| Some(loaded.swagger.of(version))),
        Ok(Served::Application(hosted)) => {
            swagger::pick(query, |version| hosted.application.swagger(version))
        }
    };
    match document {
        Ok(document) => {
            let mut response = with_body(200, headers::JSON, document);
            response.headers_mut().insert(headers::RUN_FAILED, headers::python_bool(false));
            response
        }
        Err(unknown) => message(404, &unknown),
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
