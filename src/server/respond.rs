//! Answers as HTTP: the few forms that they have, whatever route gives them.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Bytes;
use axum::http::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderValue};
use axum::http::{Response, StatusCode};
use hyper::body::{Body, Frame, SizeHint};

use super::headers;
use super::reply::message_body;

pub(super) const NOT_ALLOWED: &str = "The method is not allowed for the requested URL.";
pub(super) const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// An answer with room for all the headers that answers carry.
pub(super) fn with_body(status: u16, content_type: HeaderValue, body: Bytes) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::Whole(Some(body)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    // Room for all that an answer carries, so that the table is made once.
    *response.headers_mut() = HeaderMap::with_capacity(12);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// A refusal outside of the scoring route.
pub(super) fn message(status: u16, text: &str) -> Response<ReplyBody> {
    let mut response = with_body(status, headers::JSON, message_body(text));
    response.headers_mut().insert(headers::RUN_FAILED, headers::python_bool(false));
    response
}

pub(super) fn not_allowed(allowed: &'static str) -> Response<ReplyBody> {
    with_allow(message(405, NOT_ALLOWED), allowed)
}

/// With what would be allowed, as an answer 405 must say.
pub(super) fn with_allow(mut response: Response<ReplyBody>, allowed: &'static str) -> Response<ReplyBody> {
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

pub(super) fn empty() -> Response<ReplyBody> {
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
