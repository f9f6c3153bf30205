//! What a request is answered with, before it is HTTP.

use std::time::Duration;

use axum::body::Bytes;

use super::json;
use crate::error::{ErrorKind, ScoreError};

/// An answer: status, body, and what the headers say of the run.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// JSON.
    pub(super) body: Bytes,
    /// Whether the model was run and failed.
    pub(super) run_failed: bool,
    /// How long the model ran, when it answered.
    pub(super) exec: Option<Duration>,
}

impl Reply {
    /// The model's answer.
    pub(super) fn scored(body: Vec<u8>, exec: Duration) -> Self {
        Self { status: 200, body: body.into(), run_failed: false, exec: Some(exec) }
    }

    /// A refusal, before the model was run.
    pub(super) fn refused(status: u16, message: &str) -> Self {
        Self { status, body: message_body(message), run_failed: false, exec: None }
    }

    /// The request waited too long, or there is no room for it.
    pub(super) fn overloaded(service: &str) -> Self {
        let status = ErrorKind::Overloaded.row().http_status;
        Self::refused(status, &format!("Too many requests for service {service} (overloaded)"))
    }

    /// The request took too long.
    pub(super) fn timed_out(after_ms: u64) -> Self {
        let status = ErrorKind::DeadlineExceeded.row().http_status;
        let message = format!("Scoring timeout after {after_ms} ms");
        Self { run_failed: true, ..Self::refused(status, &message) }
    }

    /// What worked on the request died.
    pub(super) fn died(reason: &str) -> Self {
        Self { run_failed: true, ..Self::refused(502, reason) }
    }

    /// A failure. What the caller can act on is told; the rest is for the log.
    pub(super) fn failure(e: &ScoreError, in_run: bool) -> Self {
        let status = e.row().http_status;
        let message = match e.kind() {
            ErrorKind::BadInput | ErrorKind::TooLarge => e.to_string(),
            ErrorKind::NotReady | ErrorKind::Overloaded | ErrorKind::Unauthorized => e.message().to_owned(),
            ErrorKind::Cancelled => "The request was cancelled.".to_owned(),
            ErrorKind::OutOfMemory => "Out of memory. A smaller batch may fit.".to_owned(),
            ErrorKind::DeviceLost => "The device was lost. The service must be restarted.".to_owned(),
            ErrorKind::Unsupported => "The model cannot score this input here. See the log.".to_owned(),
            _ => "An unexpected internal error occurred. Check the logs for more info.".to_owned(),
        };
        Self { run_failed: in_run, ..Self::refused(status, &message) }
    }
}

/// `{"message": …}`: the body of every refusal, spaced as Python spaces it.
pub(super) fn message_body(message: &str) -> Bytes {
    let mut body = Vec::with_capacity(message.len() + 16);
    body.extend_from_slice(b"{\"message\": ");
    json::write_text(&mut body, message);
    body.push(b'}');
    body.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_internals_stay_in_the_log() {
        for kind in ErrorKind::ALL {
            let e = ScoreError::new(kind, "what happened").with_at("/srv/models/secret.onnx");
            let reply = Reply::failure(&e, true);
            let body = String::from_utf8(reply.body.to_vec()).unwrap();
            assert_eq!(reply.status, kind.row().http_status);
            // The place of a bad input is a tensor's name and index, given by the decoder.
            let told = matches!(kind, ErrorKind::BadInput | ErrorKind::TooLarge);
            assert_eq!(body.contains("/srv"), told, "{kind}: {body}");
            assert!(body.starts_with("{\"message\": \"") && body.ends_with("\"}"), "{body}");
        }
        assert_eq!(message_body("a\"b"), "{\"message\": \"a\\\"b\"}");
    }
}
