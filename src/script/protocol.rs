//! The frames between a worker and its host, as bytes.
//!
//! All integers are little-endian. Every frame is `u32 length of what follows`, `u8 kind`, and the rest:
//!
//! | direction | kind | rest |
//! |---|---|---|
//! | to the worker | 1 request | `u64 id, u32 timeout_ms (0: none), u32 head_len, head, body` |
//! | from the worker | 1 ready | JSON, once, after `init()` has returned |
//! | from the worker | 2 failed | JSON, once, instead; the worker ends with exit code 3 |
//! | from the worker | 3 answer | `u64 id, u16 status, u8 flags, f64 exec_ms, u32 head_len, head, body` |
//!
//! A worker is not trusted: nothing here believes a length, an id or a header that it has not checked.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use axum::http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use crate::server::{AppRequest, AppResponse, Outcome};

/// Before the head of a request: length, kind, id, timeout, head's length.
pub(super) const REQUEST_PREFIX: usize = 4 + 1 + 8 + 4 + 4;
/// Before the head of an answer: length, kind, id, status, flags, time, head's length.
pub(super) const ANSWER_PREFIX: usize = 4 + 1 + 8 + 2 + 1 + 8 + 4;

const KIND_REQUEST: u8 = 1;
const KIND_READY: u8 = 1;
const KIND_FAILED: u8 = 2;
const KIND_ANSWER: u8 = 3;

const RUN_FAILED: u8 = 1;
const EXEC_IS_VALID: u8 = 2;
const ENDS: u8 = 4;
const TIMED_OUT: u8 = 8;
const NO_RUN_FAILED: u8 = 16;

/// The bytes before a request's head, or `None` when no frame holds that much.
pub(super) fn request_prefix(
    id: u64,
    timeout: Option<Duration>,
    head: usize,
    body: usize,
) -> Option<[u8; REQUEST_PREFIX]> {
    let length = (REQUEST_PREFIX - 4).checked_add(head)?.checked_add(body)?;
    // 0 would mean that there is no end to it.
    let timeout_ms = timeout.map_or(0, |t| u32::try_from(t.as_millis()).unwrap_or(u32::MAX).max(1));
    let mut prefix = [0; REQUEST_PREFIX];
    let fields: [&[u8]; 5] = [
        &u32::try_from(length).ok()?.to_le_bytes(),
        &[KIND_REQUEST],
        &id.to_le_bytes(),
        &timeout_ms.to_le_bytes(),
        &u32::try_from(head).ok()?.to_le_bytes(),
    ];
    prefix.iter_mut().zip(fields.concat()).for_each(|(to, from)| *to = from);
    Some(prefix)
}

#[derive(Serialize)]
struct Head<'a> {
    method: &'a str,
    path: &'a str,
    query: &'a str,
    headers: Vec<(String, String)>,
    remote: &'a str,
}

/// The head of a request as the worker wants it: JSON, header names in Title-Case as WSGI servers show
/// them, header values as Latin-1.
pub(super) fn request_head(request: &AppRequest) -> Vec<u8> {
    let latin_1 = |value: &HeaderValue| value.as_bytes().iter().map(|b| char::from(*b)).collect();
    let head = Head {
        method: request.method.as_str(),
        path: request.uri.path(),
        query: request.uri.query().unwrap_or_default(),
        headers: request.headers.iter().map(|(name, value)| (title_case(name), latin_1(value))).collect(),
        remote: "127.0.0.1",
    };
    // Strings alone: nothing of it can fail.
    serde_json::to_vec(&head).unwrap_or_default()
}

fn title_case(name: &HeaderName) -> String {
    let mut start = true;
    let letter = |c: char| {
        let c = if start { c.to_ascii_uppercase() } else { c };
        start = c == '-';
        c
    };
    name.as_str().chars().map(letter).collect()
}

/// How a worker takes its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    String,
    Schema,
    RawHttp,
}

/// What a worker says once it is ready.
#[derive(Debug, Deserialize)]
pub(super) struct Ready {
    pub(super) mode: Mode,
    pub(super) needs_head: bool,
    #[serde(default)]
    pub(super) python: String,
    #[serde(default)]
    pub(super) swagger: std::collections::HashMap<String, String>,
}

/// What a worker says when it will not be ready.
#[derive(Debug, Deserialize)]
pub(super) struct Failed {
    pub(super) message: String,
    #[serde(default)]
    pub(super) traceback: String,
}

/// The first frame of a worker, without its length; an error says what is wrong with it.
pub(super) fn first_frame(frame: &[u8]) -> Result<Result<Ready, Failed>, String> {
    let wrong = |e: serde_json::Error| format!("its first frame is malformed: {e}");
    match frame.split_first() {
        Some((&KIND_READY, json)) => serde_json::from_slice(json).map(Ok).map_err(wrong),
        Some((&KIND_FAILED, json)) => serde_json::from_slice(json).map(Err).map_err(wrong),
        kind => Err(format!("expected a first frame of kind 1 or 2, got {:?}", kind.map(|(kind, _)| *kind))),
    }
}

/// The fixed part of an answer, checked as far as it can be without the request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct AnswerPrefix {
    pub(super) id: u64,
    status: u16,
    flags: u8,
    exec_ms: f64,
    pub(super) head_len: usize,
    /// Head and body together.
    pub(super) rest_len: usize,
}

impl AnswerPrefix {
    /// Takes it off the front of `bytes`; `None` asks for more of them. An error says what is wrong.
    pub(super) fn parse(bytes: &[u8], max_bytes: usize) -> Result<Option<Self>, String> {
        let mut rest = bytes;
        // The length and the kind are judged as soon as they are there: of a wrong frame no more may come.
        let Some(length) = take(&mut rest).map(u32::from_le_bytes) else { return Ok(None) };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length < ANSWER_PREFIX - 4 {
            return Err(format!("it sent a frame of {length} bytes, too short for an answer"));
        }
        if length - (ANSWER_PREFIX - 4) > max_bytes {
            return Err(format!("it announced an answer of {length} bytes; the most is {max_bytes}"));
        }
        match take(&mut rest) {
            None => return Ok(None),
            Some([KIND_ANSWER]) => {}
            Some([kind]) => return Err(format!("it sent a frame of the unknown kind {kind}")),
        }
        let parsed = (|| {
            Some(Self {
                id: u64::from_le_bytes(take(&mut rest)?),
                status: u16::from_le_bytes(take(&mut rest)?),
                flags: u8::from_le_bytes(take(&mut rest)?),
                exec_ms: f64::from_le_bytes(take(&mut rest)?),
                head_len: usize::try_from(u32::from_le_bytes(take(&mut rest)?)).unwrap_or(usize::MAX),
                rest_len: length - (ANSWER_PREFIX - 4),
            })
        })();
        match parsed {
            Some(answer) if answer.head_len > answer.rest_len => {
                let (head, rest) = (answer.head_len, answer.rest_len);
                Err(format!("it sent an answer with a head of {head} bytes in {rest}"))
            }
            Some(answer) if !(100..600).contains(&answer.status) => {
                Err(format!("it sent an answer with the status {}", answer.status))
            }
            parsed => Ok(parsed),
        }
    }

    /// Whether the worker ends after this answer.
    pub(super) fn ends(&self) -> bool {
        self.flags & ENDS != 0
    }

    /// How long the script ran, if the worker knows.
    pub(super) fn exec(&self) -> Option<Duration> {
        let valid = self.flags & EXEC_IS_VALID != 0;
        valid.then(|| Duration::try_from_secs_f64(self.exec_ms / 1e3).ok()).flatten()
    }

    /// The outcome, from the answer's head and body; an error says what is wrong with its head.
    pub(super) fn outcome(&self, head: &[u8], body: Bytes) -> Result<Outcome, String> {
        if self.flags & TIMED_OUT != 0 {
            return Ok(Outcome::TimedOut);
        }
        Ok(Outcome::Answered(AppResponse {
            status: self.status,
            headers: answer_headers(head)?,
            body,
            run_failed: (self.flags & NO_RUN_FAILED == 0).then_some(self.flags & RUN_FAILED != 0),
            exec: self.exec(),
        }))
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*first)
}

fn answer_headers(head: &[u8]) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    if head.is_empty() {
        return Ok(Vec::new());
    }
    let pairs: Vec<(String, String)> =
        serde_json::from_slice(head).map_err(|e| format!("it sent an answer with a malformed head: {e}"))?;
    let mut headers = Vec::with_capacity(pairs.len());
    for (name, value) in pairs {
        let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else {
            return Err(format!("it sent an answer with the impossible header name {name:?}"));
        };
        // How a message is framed is for whoever frames it to say.
        if [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING].contains(&header) {
            continue;
        }
        let latin_1 = value.chars().map(u8::try_from).collect::<Result<Vec<u8>, _>>();
        let bytes = latin_1.unwrap_or_else(|_| value.into_bytes());
        let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(bytes)) else {
            return Err(format!("it sent an answer with an impossible value of the header {header}"));
        };
        headers.push((header, value));
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderMap;

    pub(crate) fn answer(
        length: u32,
        kind: u8,
        status: u16,
        flags: u8,
        exec_ms: f64,
        head_len: u32,
    ) -> Vec<u8> {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.push(kind);
        bytes.extend(7u64.to_le_bytes());
        bytes.extend(status.to_le_bytes());
        bytes.push(flags);
        bytes.extend(exec_ms.to_le_bytes());
        bytes.extend(head_len.to_le_bytes());
        bytes
    }

    #[test]
    fn a_request_is_framed() {
        let prefix = request_prefix(5, Some(Duration::from_millis(300)), 2, 10).unwrap();
        assert_eq!(prefix[..5], [29, 0, 0, 0, 1]);
        assert_eq!(prefix[5..13], 5u64.to_le_bytes());
        assert_eq!(prefix[13..17], 300u32.to_le_bytes());
        assert_eq!(prefix[17..], 2u32.to_le_bytes());
        for (timeout, ms) in [(None, 0u32), (Some(Duration::ZERO), 1), (Some(Duration::MAX), u32::MAX)] {
            assert_eq!(request_prefix(0, timeout, 0, 0).unwrap()[13..17], ms.to_le_bytes(), "{timeout:?}");
        }
        assert_eq!(request_prefix(0, None, 0, u32::MAX as usize), None);
        assert_eq!(request_prefix(0, None, usize::MAX, 1), None);
    }

    #[test]
    fn a_head_is_json_with_titled_names() {
        let mut headers = HeaderMap::new();
        headers.append("content-type", HeaderValue::from_static("text/plain"));
        headers.append("x-ms-Request-id", HeaderValue::from_bytes(b"caf\xe9 \"q\"").unwrap());
        headers.append("x-ms-request-id", HeaderValue::from_static("2"));
        let uri = "/score?a=b&c".parse().unwrap();
        let request = AppRequest { method: axum::http::Method::GET, uri, headers, body: Bytes::new() };
        let head: serde_json::Value = serde_json::from_slice(&request_head(&request)).unwrap();
        let expected = serde_json::json!({
            "method": "GET", "path": "/score", "query": "a=b&c", "remote": "127.0.0.1",
            "headers": [["Content-Type", "text/plain"], ["X-Ms-Request-Id", "café \"q\""], ["X-Ms-Request-Id", "2"]],
        });
        assert_eq!(head, expected);
    }

    #[test]
    fn an_answer_is_believed_only_when_it_fits() {
        let whole = answer(24 + 10, 3, 200, EXEC_IS_VALID, 1.5, 4);
        let parsed = AnswerPrefix::parse(&whole, 10).unwrap().unwrap();
        assert_eq!((parsed.id, parsed.head_len, parsed.rest_len), (7, 4, 10));
        assert_eq!(parsed.exec(), Some(Duration::from_micros(1500)));
        for end in 0..whole.len() {
            assert_eq!(AnswerPrefix::parse(&whole[..end], 10), Ok(None), "{end}");
        }
        for (bytes, expected) in [
            (answer(24 + 11, 3, 200, 0, 0.0, 0), "announced an answer of 35 bytes"),
            (answer(u32::MAX, 3, 200, 0, 0.0, 0), "announced"),
            (answer(0, 3, 200, 0, 0.0, 0), "too short"),
            (answer(23, 3, 200, 0, 0.0, 0), "too short"),
            (answer(30, 1, 200, 0, 0.0, 0), "unknown kind 1"),
            (answer(30, 9, 200, 0, 0.0, 0), "unknown kind 9"),
            (answer(30, 3, 99, 0, 0.0, 0), "status 99"),
            (answer(30, 3, 600, 0, 0.0, 0), "status 600"),
            (answer(30, 3, 200, 0, 0.0, 7), "head of 7 bytes in 6"),
        ] {
            let e = AnswerPrefix::parse(&bytes, 10).unwrap_err();
            assert!(e.contains(expected), "{e}");
            // Known from the first five bytes, most of it.
            assert!(bytes[4] == 3 || AnswerPrefix::parse(&bytes[..5], 10).is_err());
        }
    }

    #[test]
    fn times_that_are_none_are_left_out() {
        for (flags, ms, expected) in [
            (EXEC_IS_VALID, 0.0, Some(Duration::ZERO)),
            (0, 1.0, None),
            (EXEC_IS_VALID, -1.0, None),
            (EXEC_IS_VALID, f64::NAN, None),
            (EXEC_IS_VALID, f64::INFINITY, None),
        ] {
            let bytes = answer(24, 3, 200, flags, ms, 0);
            assert_eq!(AnswerPrefix::parse(&bytes, 0).unwrap().unwrap().exec(), expected, "{ms}");
        }
    }

    #[test]
    fn outcomes() {
        let outcome = |flags, head: &str| {
            let bytes = answer(24, 3, 201, flags, 0.0, 0);
            AnswerPrefix::parse(&bytes, 0).unwrap().unwrap().outcome(head.as_bytes(), Bytes::from("b"))
        };
        let response = |flags, head: &str| match outcome(flags, head) {
            Ok(Outcome::Answered(response)) => response,
            other => panic!("{other:?}"),
        };
        assert!(matches!(outcome(TIMED_OUT, ""), Ok(Outcome::TimedOut)));
        assert_eq!(response(0, "").run_failed, Some(false));
        assert_eq!(response(RUN_FAILED, "").run_failed, Some(true));
        assert_eq!(response(NO_RUN_FAILED | RUN_FAILED, "").run_failed, None);
        let given = response(0, r#"[["X-A","1"],["X-A","é"],["Content-Length","9"],["X-B","☃"]]"#);
        let headers = given.headers.iter().map(|(n, v)| (n.as_str(), v.as_bytes())).collect::<Vec<_>>();
        assert_eq!(headers, [("x-a", &b"1"[..]), ("x-a", b"\xe9"), ("x-b", "☃".as_bytes())]);
        assert_eq!((given.status, &given.body[..]), (201, &b"b"[..]));
        for (head, expected) in [
            ("{}", "malformed head"),
            (r#"[["a b","1"]]"#, "header name \"a b\""),
            (r#"[["a","1\r\nb: 2"]]"#, "value of the header a"),
        ] {
            let e = outcome(0, head).unwrap_err();
            assert!(e.contains(expected), "{e}");
        }
    }

    #[test]
    fn first_frames() {
        let ready = br#"1{"pid":1,"mode":"rawhttp","needs_head":true,"has_schema":false,"python":"3.11.7","swagger":{"2":"{}"}}"#;
        let mut ready = ready.to_vec();
        ready[0] = KIND_READY;
        let said = first_frame(&ready).unwrap().unwrap();
        assert_eq!((said.mode, said.needs_head, &*said.python), (Mode::RawHttp, true, "3.11.7"));
        assert_eq!(said.swagger["2"], "{}");
        let failed = b"\x02{\"stage\":\"init\",\"message\":\"no\",\"traceback\":\"t\"}";
        assert_eq!(first_frame(failed).unwrap().unwrap_err().message, "no");
        for wrong in [&b""[..], b"\x01", b"\x01{}", b"\x02[]", b"\x07{}"] {
            assert!(first_frame(wrong).is_err(), "{wrong:?}");
        }
    }
}
