//! An application's outcomes as answers.

use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{HeaderMap, Response, StatusCode};

use super::application::{AppResponse, Outcome};
use super::headers;
use super::reply::Reply;
use super::respond::ReplyBody;
use super::shared::Shared;

/// An application's own answer. Ids come after it, so that those of the request win over its own.
pub(super) fn response(answered: AppResponse, device: &HeaderValue) -> Response<ReplyBody> {
    let AppResponse { status, headers: own, body, run_failed, exec } = answered;
    let mut response = Response::new(ReplyBody::Whole(Some(body)));
    // Below 200 an answer is not the last one, which nobody here can mean.
    let status = StatusCode::from_u16(status).ok().filter(|s| !s.is_informational());
    *response.status_mut() = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut all = HeaderMap::with_capacity(12);
    for (name, value) in own {
        all.append(name, value);
    }
    // What did not change is not described again.
    if !all.contains_key(CONTENT_TYPE) && response.status() != StatusCode::NOT_MODIFIED {
        all.insert(CONTENT_TYPE, headers::JSON);
    }
    if let Some(failed) = run_failed {
        all.insert(headers::RUN_FAILED, headers::python_bool(failed));
    }
    if let Some(exec) = exec {
        all.insert(headers::EXEC_MS, headers::exec_ms(exec));
    }
    all.insert(headers::DEVICE, device.clone());
    *response.headers_mut() = all;
    response
}

/// What is said when there is no answer of the application's own, and counted.
pub(super) fn reply(shared: &Shared, outcome: Outcome) -> Reply {
    let options = &shared.options;
    match outcome {
        Outcome::Overloaded => {
            shared.metrics.overloaded();
            Reply::overloaded(&options.service_name)
        }
        Outcome::TimedOut => {
            shared.metrics.timed_out();
            Reply::timed_out(options.scoring_timeout_ms)
        }
        Outcome::Died(reason) => Reply::died(&reason),
        Outcome::Answered(_) | Outcome::Stopped => stopped(),
    }
}

/// The service ended before there was an answer.
pub(super) fn stopped() -> Reply {
    Reply::refused(503, "The service is shutting down.")
}
