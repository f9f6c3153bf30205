//! The few HTTP requests that commands make to a service on this machine.
//!
//! One request a connection, closed by the server, all bounded in time and size. Not a general client.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::error::{ErrorKind, Result, ScoreError};

/// An answer larger than this is not read.
const MOST_BYTES: u64 = 512 << 20;

/// What a service answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Header names, in lower case, and their values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// Posts a body to `/score` of the service that listens there.
///
/// # Errors
/// `Unavailable` when nobody listens there, `DeadlineExceeded`, `Internal` for an answer that is no HTTP.
pub fn post_score(address: SocketAddr, key: Option<&str>, body: &[u8], timeout: Duration) -> Result<Answer> {
    let authorization = key.map(|k| format!("Authorization: Bearer {k}\r\n")).unwrap_or_default();
    let head = format!(
        "POST /score HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n{authorization}\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    request(address, head.as_bytes(), body, timeout)
}

/// Asks the service whether it is healthy.
pub(super) fn health(address: SocketAddr, timeout: Duration) -> Result<Answer> {
    let head = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    request(address, head.as_bytes(), &[], timeout)
}

/// Asks the service for the description of its interface, which it gives to those who show a key alone.
pub(super) fn swagger(address: SocketAddr, key: &str, timeout: Duration) -> Result<Answer> {
    let head = format!(
        "GET /swagger.json HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n"
    );
    request(address, head.as_bytes(), &[], timeout)
}

fn request(address: SocketAddr, head: &[u8], body: &[u8], timeout: Duration) -> Result<Answer> {
    let failed = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
            let text = format!("the service at {address} did not answer within {} ms", timeout.as_millis());
            ScoreError::new(ErrorKind::DeadlineExceeded, text)
        }
        _ => ScoreError::unavailable(format!("the service at {address} does not answer: {e}")),
    };
    let mut stream = TcpStream::connect_timeout(&address, timeout).map_err(failed)?;
    stream.set_read_timeout(Some(timeout)).map_err(failed)?;
    stream.set_write_timeout(Some(timeout)).map_err(failed)?;
    // A server may answer before it has read all (413): what it says matters more than that.
    let sent = stream.write_all(head).and_then(|()| stream.write_all(body));
    let mut answer = Vec::new();
    match (stream.take(MOST_BYTES).read_to_end(&mut answer), sent) {
        (Err(e), _) if answer.is_empty() => return Err(failed(e)),
        (Ok(_), Err(e)) if answer.is_empty() => return Err(failed(e)),
        _ => {}
    }
    parse(&answer)
        .ok_or_else(|| ScoreError::internal(format!("{address} answers something that is not HTTP")))
}

fn parse(answer: &[u8]) -> Option<Answer> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(answer.get(..end)?).ok()?;
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    if !first.next()?.starts_with("HTTP/1.") {
        return None;
    }
    let status = first.next()?.parse().ok()?;
    let headers = lines
        .filter_map(|l| l.split_once(':'))
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Some(Answer { status, headers, body: answer.get(end + 4..)?.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_apart() {
        let answer = parse(b"HTTP/1.1 503 Service Unavailable\r\nX-A: b: c\r\n\r\n{}").unwrap();
        assert_eq!((answer.status, answer.header("x-a"), &answer.body[..]), (503, Some("b: c"), &b"{}"[..]));
        for bad in
            [&b""[..], b"HTTP/1.1 200 OK\r\n", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 ok\r\n\r\n", b"\xff\r\n\r\n"]
        {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn nobody_listens() {
        // A port that was free a moment ago: bound and let go.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(health(free, Duration::from_secs(1)).unwrap_err().kind(), ErrorKind::Unavailable);
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap();
        assert_eq!(
            health(address, Duration::from_millis(30)).unwrap_err().kind(),
            ErrorKind::DeadlineExceeded
        );
    }
}
