//! A client that says exactly what it is told, and a server to say it to.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use triscore::scoring::FaultScorer;
use triscore::server::{Server, ServerHandle, ServerOptions};
use triscore::{DType, Dim, Port, Scorer, Signature};

/// One connection.
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// One answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
    pub(crate) fn message(&self) -> String {
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        body["message"].as_str().unwrap_or_else(|| panic!("no message in {}", self.body)).to_owned()
    }
}

impl Client {
    pub(crate) fn new(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// As `send`, for a server that may have hung up already.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// A request with a body.
    pub(crate) fn request(&mut self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        self.send(request(method, path, headers, body));
        self.answer(method).unwrap_or_else(|| panic!("no answer to {method} {path}"))
    }

    pub(crate) fn post(&mut self, body: &str) -> Answer {
        self.request("POST", "/score", "", body)
    }

    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: t\r\n\r\n"));
        self.answer("GET").unwrap_or_else(|| panic!("no answer to GET {path}"))
    }

    /// The next answer; `None` when the server hung up before it was whole.
    pub(crate) fn answer(&mut self, method: &str) -> Option<Answer> {
        loop {
            let head = loop {
                if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                    let rest = self.buffer.split_off(end + 4);
                    break String::from_utf8(std::mem::replace(&mut self.buffer, rest)).unwrap();
                }
                self.fill()?;
            };
            let mut lines = head.split("\r\n");
            let status = lines.next()?.split(' ').nth(1)?.parse().unwrap();
            let headers = lines.filter_map(|l| l.split_once(": ")).map(|(n, v)| (n.to_owned(), v.to_owned()));
            let mut answer = Answer { status, headers: headers.collect(), body: String::new() };
            if status == 100 {
                continue;
            }
            let length = match answer.header("content-length") {
                Some(n) if method != "HEAD" => n.parse().unwrap(),
                _ => 0,
            };
            while self.buffer.len() < length {
                self.fill()?;
            }
            let rest = self.buffer.split_off(length);
            answer.body = String::from_utf8(std::mem::replace(&mut self.buffer, rest)).unwrap();
            return Some(answer);
        }
    }

    /// Whether the server hangs up within that time, having said nothing more.
    pub(crate) fn is_hung_up_on(&mut self, within: Duration) -> bool {
        self.stream.set_read_timeout(Some(within)).unwrap();
        self.fill().is_none()
    }

    fn fill(&mut self) -> Option<()> {
        let mut chunk = [0; 16384];
        match self.stream.read(&mut chunk) {
            Ok(0) => None,
            Ok(n) => {
                self.buffer.extend_from_slice(&chunk[..n]);
                Some(())
            }
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => None,
            Err(e) => panic!("the server did not answer: {e}"),
        }
    }
}

/// A request as bytes.
pub(crate) fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("{method} {path} HTTP/1.1\r\nhost: t\r\n{headers}content-length: {length}\r\n\r\n{body}")
}

/// `x: f32[batch, 4]` to `y: i64[batch, 2]`.
pub(crate) fn signature() -> Signature {
    let dims = |n| vec![Dim::named("batch"), Dim::Fixed(n)];
    let outputs = vec![Port::tensor("y", DType::I64, dims(2))];
    Signature::new(vec![Port::tensor("x", DType::F32, dims(4))], outputs).unwrap()
}

pub(crate) fn scorer(lanes: usize) -> Arc<FaultScorer> {
    Arc::new(FaultScorer::new(signature(), lanes).unwrap())
}

/// A server at a port of its own, without a scorer.
pub(crate) fn bare(change: impl FnOnce(&mut ServerOptions)) -> (Server, ServerHandle, SocketAddr) {
    let mut options = ServerOptions::new("digits");
    options.scoring_timeout_ms = 10_000;
    options.max_queue_wait_ms = 10_000;
    options.grace_ms = 5_000;
    change(&mut options);
    let server = Server::bind(([127, 0, 0, 1], 0).into(), options).unwrap();
    let (handle, addr) = (server.handle(), server.local_addr());
    (server, handle, addr)
}

/// A server that scores.
pub(crate) fn serving(
    scorer: &Arc<FaultScorer>,
    change: impl FnOnce(&mut ServerOptions),
) -> (Server, ServerHandle, SocketAddr) {
    let (server, handle, addr) = bare(change);
    handle.ready(scorer.clone()).unwrap();
    (server, handle, addr)
}

/// Waits until it is so.
pub(crate) fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(10), "still not: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The value of one line of the metrics.
pub(crate) fn metric(handle: &ServerHandle, name: &str) -> u64 {
    let text = handle.metrics();
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
}

/// A body with one row, and the right answer to it.
pub(crate) fn case(scorer: &FaultScorer, n: usize) -> (String, String) {
    let row = [n as f32, n as f32 / 8.0, -1.5, 0.25];
    let input = triscore::Tensor::from_slice(&[1, 4], &row).unwrap();
    let scored = scorer.score(&[input], &triscore::Call::new()).unwrap();
    let y = scored.tensor(0).unwrap().as_slice::<i64>().unwrap().to_vec();
    (format!("{{\"x\":[{row:?}]}}"), format!("{{\"y\":[[{},{}]]}}", y[0], y[1]))
}
