//! Reading a request's body: within the limit, within the time, and only with room for it.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use axum::body::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};

use super::admission::Permit;
use super::options::ServerOptions;
use super::reply::Reply;

/// The whole body. The permit grows with what arrives beyond what was declared.
///
/// # Errors
/// The answer to send instead: 413, 503, 408 or 400.
pub(super) async fn read(
    body: Incoming,
    declared: usize,
    permit: &mut Permit,
    options: &ServerOptions,
) -> Result<Bytes, Reply> {
    let mut reading = pin!(collect(body, declared, permit, options));
    // Most bodies came with their heads: only one that must be waited for needs a timer.
    let first = std::future::poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx))).await;
    match first {
        Poll::Ready(read) => read,
        Poll::Pending => {
            let bound = Duration::from_millis(options.body_timeout_ms);
            tokio::time::timeout(bound, reading).await.unwrap_or_else(|_| {
                let message = format!("The body did not arrive within {} ms.", options.body_timeout_ms);
                Err(Reply::refused(408, &message))
            })
        }
    }
}

async fn collect(
    mut body: Incoming,
    declared: usize,
    permit: &mut Permit,
    options: &ServerOptions,
) -> Result<Bytes, Reply> {
    let mut whole: Option<Bytes> = None;
    let mut parts: Vec<u8> = Vec::new();
    let mut total = 0usize;
    let mut reserved = declared;
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await else { break };
        let frame = frame.map_err(|e| Reply::refused(400, &format!("The body could not be read: {e}.")))?;
        // Trailers say nothing that is needed here.
        let Ok(data) = frame.into_data() else { continue };
        total = total.saturating_add(data.len());
        if total > options.max_body_bytes {
            return Err(too_large(options));
        }
        if total > reserved {
            if !permit.grow(total - reserved) {
                return Err(Reply::overloaded(&options.service_name));
            }
            reserved = total;
        }
        match &whole {
            // The one part that most bodies consist of is used where it lies.
            None if parts.is_empty() => whole = Some(data),
            _ => {
                let missing = declared.saturating_sub(parts.len()).max(data.len());
                let out_of_memory = |_| Reply::refused(507, "Out of memory for the body of this request.");
                parts.try_reserve(missing).map_err(out_of_memory)?;
                if let Some(first) = whole.take() {
                    parts.extend_from_slice(&first);
                }
                parts.extend_from_slice(&data);
            }
        }
    }
    Ok(whole.unwrap_or_else(|| parts.into()))
}

/// 413.
pub(super) fn too_large(options: &ServerOptions) -> Reply {
    Reply::refused(413, &format!("The body is larger than the limit of {} bytes.", options.max_body_bytes))
}
