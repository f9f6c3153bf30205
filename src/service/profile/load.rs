//! A closed loop of callers: each sends its next request when it has its answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// No answer may take longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// An answer larger than this is not read.
const MOST_BYTES: usize = 512 << 20;

/// What came of a load.
#[derive(Debug, Clone, Default)]
pub struct Load {
    /// Callers at once.
    pub callers: usize,
    /// Requests that were answered 200.
    pub ok: u64,
    /// Requests that were not.
    pub failed: u64,
    /// What the first of those was told.
    pub first_failure: Option<String>,
    /// Requests answered 200 a second.
    pub per_second: f64,
    /// Their latencies, in milliseconds, in ascending order.
    pub latencies_ms: Vec<f64>,
}

impl Load {
    /// The latency that this share of the requests stayed within, in milliseconds (nearest rank); 0 when
    /// none was answered.
    pub fn percentile_ms(&self, share: f64) -> f64 {
        let rank = (share.clamp(0.0, 1.0) * self.latencies_ms.len() as f64).ceil() as usize;
        self.latencies_ms.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
    }

    /// The mean latency, in milliseconds.
    pub fn mean_ms(&self) -> f64 {
        match self.latencies_ms.len() {
            0 => 0.0,
            n => self.latencies_ms.iter().sum::<f64>() / n as f64,
        }
    }
}

/// Calls `/score` there for so long.
pub(super) fn run(address: SocketAddr, samples: &[Vec<u8>], callers: usize, duration: Duration) -> Load {
    let begun = Instant::now();
    let end = begun + duration;
    let parts = std::thread::scope(|scope| {
        let start = |i| scope.spawn(move || call(address, samples, i, end));
        let callers = (0..callers).map(start).collect::<Vec<_>>();
        callers.into_iter().map(|c| c.join().unwrap_or_default()).collect::<Vec<_>>()
    });
    let elapsed = begun.elapsed().as_secs_f64();
    let mut all = Load { callers, ..Load::default() };
    for part in parts {
        all.ok += part.ok;
        all.failed += part.failed;
        all.first_failure = all.first_failure.or(part.first_failure);
        all.latencies_ms.extend(part.latencies_ms);
    }
    all.latencies_ms.sort_by(f64::total_cmp);
    all.per_second = all.ok as f64 / elapsed.max(1e-9);
    all
}

/// One caller.
fn call(address: SocketAddr, samples: &[Vec<u8>], first: usize, end: Instant) -> Load {
    let mut load = Load::default();
    let mut connection = None;
    let mut failures_in_a_row = 0;
    for sample in samples.iter().cycle().skip(first % samples.len().max(1)) {
        let begun = Instant::now();
        // One answer at least, however slow the model is.
        if (begun >= end && load.ok + load.failed > 0) || failures_in_a_row >= 100 {
            break;
        }
        match exchange(&mut connection, address, sample) {
            Ok((200, _)) => {
                load.ok += 1;
                load.latencies_ms.push(begun.elapsed().as_secs_f64() * 1e3);
                failures_in_a_row = 0;
            }
            failed => {
                load.failed += 1;
                failures_in_a_row += 1;
                load.first_failure.get_or_insert_with(|| match failed {
                    Ok((status, body)) => format!("{status}: {}", String::from_utf8_lossy(&body)),
                    Err(e) => e.to_string(),
                });
            }
        }
    }
    load
}

/// One request and its answer, on the connection that there is, or on a new one.
fn exchange(
    connection: &mut Option<BufReader<TcpStream>>,
    address: SocketAddr,
    body: &[u8],
) -> std::io::Result<(u16, Vec<u8>)> {
    let mut stream = match connection.take() {
        Some(open) => open,
        None => {
            let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            BufReader::new(stream)
        }
    };
    let mut request = format!(
        "POST /score HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    stream.get_mut().write_all(&request)?;
    let (status, length, closes) = head(&mut stream)?;
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    if !closes {
        *connection = Some(stream);
    }
    Ok((status, answer))
}

/// Status, length of the body, and whether the connection closes after it.
fn head(stream: &mut impl BufRead) -> std::io::Result<(u16, usize, bool)> {
    let bad = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned());
    let mut line = String::new();
    stream.take(8 << 10).read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|s| s.parse().ok());
    let status = status.ok_or_else(|| bad("the answer is not HTTP"))?;
    let (mut length, mut closes) = (None, false);
    loop {
        line.clear();
        stream.take(64 << 10).read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match &*name.to_ascii_lowercase() {
            "content-length" => length = value.trim().parse().ok().filter(|n| *n <= MOST_BYTES),
            "connection" => closes = value.trim().eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    Ok((status, length.ok_or_else(|| bad("the answer does not say how long it is"))?, closes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let load = Load { latencies_ms: (1..=100).map(f64::from).collect(), ..Load::default() };
        for (share, expected) in [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (0.999, 100.0), (1.0, 100.0)] {
            assert_eq!(load.percentile_ms(share), expected, "{share}");
        }
        assert_eq!((Load::default().percentile_ms(0.5), Load::default().mean_ms()), (0.0, 0.0));
        assert_eq!(load.mean_ms(), 50.5);
    }

    #[test]
    fn heads() {
        let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nconnection: close\r\n\r\n";
        assert_eq!(head(&mut &ok[..]).unwrap(), (200, 12, true));
        for bad in [
            &b""[..],
            b"SSH\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        ] {
            assert!(head(&mut &bad[..]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_service_that_fails_is_counted_and_told() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let load = run(nobody, &[b"{}".to_vec()], 2, Duration::from_millis(20));
        assert_eq!(load.ok, 0);
        assert!(load.failed >= 2 && load.first_failure.is_some(), "{load:?}");
    }
}
