//! The few HTTP requests that commands make to a service on this machine.
//!
//! One request a connection, closed by the server, all bounded in time and size. Not a general client.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
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

/// Where a service listens, and how it is spoken to there.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The address.
    pub address: SocketAddr,
    /// For one that speaks TLS: whom to trust.
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
}

/// Posts a body to `/score` of the service that listens there.
///
/// # Errors
/// `Unavailable` when nobody listens there, `DeadlineExceeded`, `Internal` for an answer that is no HTTP.
pub fn post_score(to: &Endpoint, key: Option<&str>, body: &[u8], timeout: Duration) -> Result<Answer> {
    let address = to.address;
    let authorization = key.map(|k| format!("Authorization: Bearer {k}\r\n")).unwrap_or_default();
    let head = format!(
        "POST /score HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n{authorization}\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    request(to, head.as_bytes(), body, timeout)
}

/// Asks the service whether it is healthy.
pub(super) fn health(to: &Endpoint, timeout: Duration) -> Result<Answer> {
    let address = to.address;
    let head = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    request(to, head.as_bytes(), &[], timeout)
}

/// Asks the service for the description of its interface, which it gives to those who show a key alone.
pub(super) fn swagger(to: &Endpoint, key: &str, timeout: Duration) -> Result<Answer> {
    let address = to.address;
    let head = format!(
        "GET /swagger.json HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n"
    );
    request(to, head.as_bytes(), &[], timeout)
}

/// A connection, with TLS or without.
trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

fn request(to: &Endpoint, head: &[u8], body: &[u8], timeout: Duration) -> Result<Answer> {
    let address = to.address;
    let failed = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
            let text = format!("the service at {address} did not answer within {} ms", timeout.as_millis());
            ScoreError::new(ErrorKind::DeadlineExceeded, text)
        }
        _ => ScoreError::unavailable(format!("the service at {address} does not answer: {e}")),
    };
    let stream = TcpStream::connect_timeout(&address, timeout).map_err(failed)?;
    stream.set_read_timeout(Some(timeout)).map_err(failed)?;
    stream.set_write_timeout(Some(timeout)).map_err(failed)?;
    let mut stream: Box<dyn Stream> = match &to.tls {
        None => Box::new(stream),
        Some(config) => {
            let name = rustls::pki_types::ServerName::IpAddress(address.ip().into());
            let session = rustls::ClientConnection::new(config.clone(), name);
            let session = session.map_err(|e| ScoreError::internal(format!("cannot speak TLS: {e}")))?;
            Box::new(rustls::StreamOwned::new(session, stream))
        }
    };
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
        let plain = |address| Endpoint { address, tls: None };
        // A port that was free a moment ago: bound and let go.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let e = health(&plain(free), Duration::from_secs(1)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unavailable);
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap();
        let e = health(&plain(address), Duration::from_millis(30)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::DeadlineExceeded);
    }

    /// Two self-signed certificates and their keys, made for this test and used for nothing else.
    const CERTIFICATES: [(&str, &str); 2] = [
        (include_str!("tls/one.pem"), include_str!("tls/one.key.pem")),
        (include_str!("tls/two.pem"), include_str!("tls/two.key.pem")),
    ];

    /// Answers one request over TLS with one of the certificates.
    fn tls_server(which: usize) -> SocketAddr {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let (certificate, key) = CERTIFICATES[which];
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let session = rustls::ServerConnection::new(Arc::new(config)).unwrap();
            let mut stream = rustls::StreamOwned::new(session, listener.accept().unwrap().0);
            let mut head = [0; 4096];
            if stream.read(&mut head).is_ok() {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nHealthy");
            }
        });
        address
    }

    #[test]
    fn exactly_the_deployed_certificate_is_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("certificate.pem");
        std::fs::write(&path, CERTIFICATES[0].0).unwrap();
        let tls = Some(super::super::tls::trusting(&path).unwrap());
        let ask = |which| {
            let to = Endpoint { address: tls_server(which), tls: tls.clone() };
            health(&to, Duration::from_secs(10))
        };
        assert_eq!(ask(0).unwrap().body, b"Healthy");
        let e = ask(1).unwrap_err();
        assert!(e.kind() == ErrorKind::Unavailable && e.message().contains("another certificate"), "{e}");
        std::fs::write(&path, "no certificate").unwrap();
        assert_eq!(super::super::tls::trusting(&path).unwrap_err().kind(), ErrorKind::BadConfig);
    }
}
