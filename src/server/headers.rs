//! The headers that every answer carries: who asked (ids), and what the server is.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::header::{HeaderMap, HeaderName, HeaderValue};

/// `x-request-id`.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MS_REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-request-id");
const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-client-request-id");
const TRACE_ID: HeaderName = HeaderName::from_static("traceid");
pub(super) const RUN_FAILED: HeaderName = HeaderName::from_static("x-ms-run-function-failed");
pub(super) const EXEC_MS: HeaderName = HeaderName::from_static("x-ms-run-fn-exec-ms");
pub(super) const SERVER_VERSION: HeaderName = HeaderName::from_static("x-ms-server-version");
pub(super) const DEVICE: HeaderName = HeaderName::from_static("x-triscore-device");
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(super) const VERSION: HeaderValue =
    HeaderValue::from_static(concat!("triscore/", env!("CARGO_PKG_VERSION")));

/// An id may have so many characters.
const ID_CHARS: usize = 100;

/// The ids of one request, as its answer carries them.
#[derive(Debug)]
pub(super) struct Ids {
    request: HeaderValue,
    ms_request: HeaderValue,
    client: Option<HeaderValue>,
    trace: Option<HeaderValue>,
}

impl Ids {
    /// The ids that the client sent, or a fresh one.
    ///
    /// # Errors
    /// The refusal, when an id is too long.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, IdsRefused> {
        let id = |name: &HeaderName| headers.get(name).filter(|id| !id.is_empty()).cloned();
        let is_long = |id: &Option<HeaderValue>| id.as_ref().is_some_and(|id| id.len() > ID_CHARS);
        let request = id(&REQUEST_ID);
        let (ms_request, client) = (id(&MS_REQUEST_ID), id(&CLIENT_REQUEST_ID));
        let trace = headers.get(&TRACE_ID).cloned();
        if is_long(&request) {
            let message = format!("{REQUEST_ID} must not exceed {ID_CHARS} characters");
            return Err(IdsRefused { message, request: None, trace });
        }
        let request = request.unwrap_or_else(fresh_id);
        if is_long(&ms_request) || is_long(&client) {
            let message =
                format!("{MS_REQUEST_ID} and {CLIENT_REQUEST_ID} must not exceed {ID_CHARS} characters");
            return Err(IdsRefused { message, request: Some(request), trace });
        }
        Ok(Self {
            client: client.clone().or_else(|| ms_request.clone()),
            ms_request: ms_request.or(client).unwrap_or_else(|| request.clone()),
            request,
            trace,
        })
    }

    /// Puts them into an answer.
    pub(super) fn put(self, headers: &mut HeaderMap) {
        headers.insert(REQUEST_ID, self.request);
        headers.insert(MS_REQUEST_ID, self.ms_request);
        for (name, value) in [(CLIENT_REQUEST_ID, self.client), (TRACE_ID, self.trace)] {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
    }
}

/// Why a request is refused for its ids, and those that its answer carries none the less.
#[derive(Debug)]
pub(super) struct IdsRefused {
    pub(super) message: String,
    request: Option<HeaderValue>,
    trace: Option<HeaderValue>,
}

impl IdsRefused {
    /// Puts them into the refusal.
    pub(super) fn put(self, headers: &mut HeaderMap) {
        for (name, value) in [(REQUEST_ID, self.request), (TRACE_ID, self.trace)] {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
    }
}

/// A fresh UUID4.
fn fresh_id() -> HeaderValue {
    let mut text = [0u8; uuid::fmt::Hyphenated::LENGTH];
    let text = uuid::Uuid::new_v4().hyphenated().encode_lower(&mut text);
    value(Bytes::copy_from_slice(text.as_bytes()))
}

/// How long the model ran, as Python's `"%.3f"` writes milliseconds.
pub(super) fn exec_ms(exec: Duration) -> HeaderValue {
    value(format!("{:.3}", exec.as_secs_f64() * 1e3).into())
}

/// `True` or `False`, as Python writes them.
pub(super) fn python_bool(yes: bool) -> HeaderValue {
    HeaderValue::from_static(if yes { "True" } else { "False" })
}

/// Text as a header; what a header cannot carry becomes `?`.
pub(super) fn printable(text: &str) -> HeaderValue {
    let plain = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    value(text.chars().map(plain).collect::<String>().into())
}

fn value(text: Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(text).unwrap_or_else(|_| HeaderValue::from_static("?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_echoed_or_made() {
        // What the client sends; what it gets (`+` is a fresh id, `=` the same one).
        type Row = ([Option<&'static str>; 3], [Option<&'static str>; 3]);
        let rows: [Row; 6] = [
            ([None, None, None], [Some("+"), Some("="), None]),
            ([Some("r"), None, None], [Some("r"), Some("r"), None]),
            ([None, Some("m"), None], [Some("+"), Some("m"), Some("m")]),
            ([None, None, Some("c")], [Some("+"), Some("c"), Some("c")]),
            ([Some("r"), Some("m"), None], [Some("r"), Some("m"), Some("m")]),
            ([Some("r"), Some("m"), Some("c")], [Some("r"), Some("m"), Some("c")]),
        ];
        let names = [REQUEST_ID, MS_REQUEST_ID, CLIENT_REQUEST_ID];
        for (sent, expected) in rows {
            let mut headers = HeaderMap::new();
            for (name, id) in names.iter().zip(sent) {
                id.map(|id| headers.insert(name, HeaderValue::from_static(id)));
            }
            headers.insert(TRACE_ID, HeaderValue::from_static("t"));
            let mut answer = HeaderMap::new();
            Ids::of(&headers).unwrap().put(&mut answer);
            let fresh = answer[REQUEST_ID].to_str().unwrap();
            for (name, expected) in names.iter().zip(expected) {
                let got = answer.get(name).map(|v| v.to_str().unwrap());
                match expected {
                    Some("+") => assert_eq!(uuid::Uuid::try_parse(fresh).unwrap().get_version_num(), 4),
                    Some("=") => assert_eq!(got, Some(fresh)),
                    _ => assert_eq!(got, expected, "{name} for {sent:?}"),
                }
            }
            assert_eq!(answer[TRACE_ID], "t");
        }
        let mut long = HeaderMap::new();
        long.insert(REQUEST_ID, HeaderValue::from_str(&"i".repeat(100)).unwrap());
        assert!(Ids::of(&long).is_ok());
        long.insert(REQUEST_ID, HeaderValue::from_str(&"i".repeat(101)).unwrap());
        assert_eq!(Ids::of(&long).unwrap_err().message, "x-request-id must not exceed 100 characters");
        let mut long = HeaderMap::new();
        long.insert(CLIENT_REQUEST_ID, HeaderValue::from_str(&"i".repeat(101)).unwrap());
        let refused = Ids::of(&long).unwrap_err();
        let message = "x-ms-request-id and x-ms-client-request-id must not exceed 100 characters";
        assert_eq!(refused.message, message);
        let mut answer = HeaderMap::new();
        refused.put(&mut answer);
        assert!(answer.contains_key(REQUEST_ID) && !answer.contains_key(MS_REQUEST_ID));
        let mut blank = HeaderMap::new();
        blank.insert(REQUEST_ID, HeaderValue::from_static(""));
        assert!(!Ids::of(&blank).unwrap().request.is_empty(), "an empty id is none");
    }

    #[test]
    fn values_are_written_as_clients_read_them() {
        assert_eq!(exec_ms(Duration::from_micros(1234)), "1.234");
        assert_eq!(exec_ms(Duration::from_nanos(400)), "0.000");
        assert_eq!(
            (python_bool(true), python_bool(false)),
            ("True".parse().unwrap(), "False".parse().unwrap())
        );
        assert_eq!(printable("cpu:0 Xéon\n"), "cpu:0 X?on?");
    }
}
