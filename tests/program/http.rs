//! HTTP by hand: bytes out, bytes in, one request a connection.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use super::home::{DEADLINE, json_file, models};

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

pub(crate) fn connect(port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// One request; the error is that nobody listens, or that the answer never came.
pub(crate) fn request(
    port: u16,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> std::io::Result<Reply> {
    let mut stream = connect(port)?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{headers}Connection: close\r\n\r\n"
    );
    // A server may answer, and hang up, before it has read all.
    let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    let reply = read(&mut stream);
    match (sent, reply) {
        (Err(e), Err(_)) => Err(e),
        (_, reply) => reply,
    }
}

/// Reads an answer to its end.
pub(crate) fn read(stream: &mut TcpStream) -> std::io::Result<Reply> {
    let mut bytes = Vec::new();
    let ended = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let parsed = text.split_once("\r\n\r\n").and_then(|(head, body)| {
        let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
        Some(Reply { status, body: body.to_owned() })
    });
    match (parsed, ended) {
        (Some(reply), _) => Ok(reply),
        (None, Err(e)) => Err(e),
        (None, Ok(_)) => {
            Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, format!("no answer: {text:?}")))
        }
    }
}

pub(crate) fn get(port: u16, path: &str) -> Reply {
    request(port, "GET", path, "", b"").unwrap()
}

pub(crate) fn post(port: u16, body: &[u8]) -> Reply {
    request(port, "POST", "/score", "Content-Type: application/json\r\n", body).unwrap()
}

/// The request of the digits model, and the digit that it shows.
pub(crate) fn digit() -> (Vec<u8>, usize) {
    let label = json_file(models("digits_cnn/metrics.json"))["first_held_out_label"].as_u64().unwrap();
    (std::fs::read(models("digits_cnn/request.json")).unwrap(), label as usize)
}

/// The digit that an answer of the digits model means.
pub(crate) fn digit_of(answer: &Value) -> usize {
    let logits = answer["logits"][0].as_array().unwrap_or_else(|| panic!("no logits: {answer}"));
    let score = |i: &usize| logits[*i].as_f64().unwrap();
    (0..logits.len()).max_by(|a, b| score(a).total_cmp(&score(b))).unwrap()
}

/// That the service on this port tells the digit.
pub(crate) fn knows_the_digit(port: u16) {
    let (body, label) = digit();
    let reply = post(port, &body);
    assert_eq!((reply.status, digit_of(&reply.json())), (200, label), "{reply:?}");
}
