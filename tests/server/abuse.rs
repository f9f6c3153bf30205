//! Clients that mean no good, or know no better.

use std::time::{Duration, Instant};

use super::client::{Client, case, metric, request, scorer, serving, wait_until};

#[test]
fn bodies_over_the_limit_are_refused_before_they_are_read() {
    let scorer = scorer(1);
    let (body, right) = case(&scorer, 1);
    let (_server, handle, addr) = serving(&scorer, |o| {
        o.max_body_bytes = 10_000;
        o.max_in_flight_bytes = 15_000;
    });
    let too_large = "The body is larger than the limit of 10000 bytes.";
    // Declared: refused on the head alone.
    let mut client = Client::new(addr);
    client.send("POST /score HTTP/1.1\r\nhost: t\r\ncontent-length: 10001\r\n\r\n");
    let answer = client.answer("POST").unwrap();
    assert_eq!((answer.status, answer.message().as_str()), (413, too_large));
    // Sent all the same: the answer still arrives.
    let mut client = Client::new(addr);
    client.try_send(request("POST", "/score", "", &" ".repeat(3_000_000)));
    assert_eq!(client.answer("POST").unwrap().status, 413);
    // Chunked: refused once it is over.
    let mut client = Client::new(addr);
    client.send("POST /score HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n");
    let chunk = format!("3e8\r\n{}\r\n", " ".repeat(1000));
    for _ in 0..11 {
        client.try_send(&chunk);
    }
    let answer = client.answer("POST").unwrap();
    assert_eq!((answer.status, answer.message().as_str()), (413, too_large));
    // A client that asks first is told before it sends.
    let mut client = Client::new(addr);
    client.send("POST /score HTTP/1.1\r\nhost: t\r\nexpect: 100-continue\r\ncontent-length: 10001\r\n\r\n");
    assert_eq!(client.answer("POST").unwrap().status, 413);
    let mut client = Client::new(addr);
    let length = body.len();
    client.send(format!(
        "POST /score HTTP/1.1\r\nhost: t\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
    ));
    std::thread::sleep(Duration::from_millis(10));
    client.send(&body);
    assert_eq!(client.answer("POST").unwrap().body, right);
    // Small bodies, too many of them at once.
    let slow = "POST /score HTTP/1.1\r\nhost: t\r\ncontent-length: 9000\r\n\r\n";
    let mut holding = Client::new(addr);
    holding.send(slow);
    wait_until("bytes in flight", || metric(&handle, "triscore_in_flight_bytes") == 9000);
    let mut client = Client::new(addr);
    client.send(slow);
    let answer = client.answer("POST").unwrap();
    assert_eq!((answer.status, answer.message().contains("overloaded")), (503, true));
    drop(holding);
    wait_until("bytes back", || metric(&handle, "triscore_in_flight_bytes") == 0);
}

#[test]
fn chunks_and_pieces_and_pipelines_are_put_together() {
    let scorer = scorer(1);
    let cases = (0..8).map(|n| case(&scorer, n)).collect::<Vec<_>>();
    let (_server, _, addr) = serving(&scorer, |_| {});
    let mut client = Client::new(addr);
    // One packet, many requests: answered in order.
    let all = cases.iter().map(|(body, _)| request("POST", "/score", "", body)).collect::<String>();
    client.send(&all);
    for (body, right) in &cases {
        assert_eq!(client.answer("POST").unwrap().body, *right, "{body}");
    }
    // One byte a packet.
    for byte in request("POST", "/score", "", &cases[0].0).bytes() {
        client.send([byte]);
    }
    assert_eq!(client.answer("POST").unwrap().body, cases[0].1);
    // Chunks of any size.
    client.send("POST /score HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n");
    for piece in cases[1].0.as_bytes().chunks(7) {
        client.send(format!("{:x}\r\n", piece.len()));
        client.send(piece);
        client.send("\r\n");
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.answer("POST").unwrap().body, cases[1].1);
}

#[test]
fn sixty_four_clients_at_once_get_their_own_answers() {
    let scorer = scorer(4);
    let cases = (0..64).map(|n| case(&scorer, n)).collect::<Vec<_>>();
    let (_server, handle, addr) = serving(&scorer, |_| {});
    std::thread::scope(|scope| {
        for start in 0..64 {
            let cases = &cases;
            scope.spawn(move || {
                let mut client = Client::new(addr);
                for i in 0..25 {
                    let (body, right) = &cases[(start * 7 + i) % cases.len()];
                    let answer = client.post(body);
                    assert_eq!((answer.status, &answer.body), (200, right));
                }
            });
        }
    });
    assert_eq!(metric(&handle, "triscore_requests_total{status=\"200\"}"), 64 * 25);
}

#[test]
fn slow_clients_are_given_up() {
    let scorer = scorer(1);
    let (body, right) = case(&scorer, 1);
    let (_server, handle, addr) = serving(&scorer, |o| {
        o.header_timeout_ms = 150;
        o.body_timeout_ms = 150;
        o.idle_timeout_ms = 150;
    });
    // A head that trickles in.
    let start = Instant::now();
    let mut trickling = Client::new(addr);
    let mut silent = Client::new(addr);
    let mut idle = Client::new(addr);
    assert_eq!(idle.post(&body).body, right);
    while trickling.try_send("P") && start.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(silent.is_hung_up_on(Duration::from_secs(2)), "nothing sent at all");
    assert!(idle.is_hung_up_on(Duration::from_secs(2)), "idle after a request");
    // A body that stops.
    let mut stopped = Client::new(addr);
    let raw = request("POST", "/score", "", &body);
    stopped.send(&raw[..raw.len() - 1]);
    let answer = stopped.answer("POST").unwrap();
    assert_eq!((answer.status, answer.message().contains("did not arrive within 150 ms")), (408, true));
    wait_until("all connections are closed", || metric(&handle, "triscore_connections") == 0);
}

#[test]
fn a_client_that_does_not_read_its_answers_is_given_up() {
    let scorer = scorer(1);
    let (_server, handle, addr) = serving(&scorer, |o| o.write_timeout_ms = 100);
    let mut client = Client::new(addr);
    let rows = vec!["[1,2,3,4]"; 4_000].join(",");
    let raw = request("POST", "/score", "", &format!("[{rows}]"));
    let start = Instant::now();
    // Its answers fill the buffers, then its requests do; then it is closed.
    while client.try_send(&raw) {
        assert!(start.elapsed() < Duration::from_secs(10), "never given up");
    }
    wait_until("closed", || metric(&handle, "triscore_connections") == 0);
}

#[test]
fn connections_are_bounded() {
    let scorer = scorer(1);
    let (_server, handle, addr) = serving(&scorer, |o| o.max_connections = 3);
    let mut open = (0..3).map(|_| Client::new(addr)).collect::<Vec<_>>();
    open.iter_mut().for_each(|c| assert_eq!(c.get("/").status, 200));
    let mut fourth = Client::new(addr);
    let refused = fourth.answer("GET").unwrap();
    assert_eq!((refused.status, refused.message().contains("Too many connections")), (503, true));
    open.pop();
    wait_until("one place is free", || metric(&handle, "triscore_connections") == 2);
    assert_eq!(Client::new(addr).get("/").status, 200);
    assert_eq!(metric(&handle, "triscore_refused_connections_total"), 1);
}

#[test]
fn nonsense_is_answered_and_costs_no_memory() {
    let scorer = scorer(2);
    let (body, right) = case(&scorer, 1);
    let (_server, handle, addr) = serving(&scorer, |_| {});
    let bodies = [
        "[".repeat(1 << 18),
        "[[1,2,3,4],".repeat(1 << 15),
        format!("{{\"x\":[{}", "[1,2,3,4],".repeat(1 << 15)),
        format!("{{\"x\":[[{}]]}}", "1,".repeat(1 << 17)),
        format!("{{{}}}", "\"a\":1,".repeat(1 << 15)),
        format!("{{\"{}\":1}}", "k".repeat(1 << 18)),
        format!("{{\"inputs\":[{}]}}", "{\"name\":\"x\"},".repeat(1 << 14)),
        "{\"inputs\":[{\"name\":\"x\",\"shape\":[99999999999,9999999999],\"datatype\":\"FP32\",\"data\":[]}]}".into(),
        "9".repeat(1 << 18),
        format!("\"{}\"", "\\u0041".repeat(1 << 15)),
        "\u{0}".repeat(1 << 18),
    ];
    let round = || {
        for bad in &bodies {
            let answer = Client::new(addr).post(bad);
            assert_eq!(answer.status, 400, "{}: {answer:?}", &bad[..40]);
            assert!(answer.body.len() < 2000, "an error is a sentence, not an echo: {}", answer.body.len());
        }
        let mut client = Client::new(addr);
        client.try_send("\u{1}\u{2} nonsense\r\n\r\n");
        assert_eq!(client.answer("GET").unwrap().status, 400);
        let mut client = Client::new(addr);
        client.try_send(format!("GET / HTTP/1.1\r\nhost: t\r\nx: {}\r\n\r\n", "y".repeat(300_000)));
        assert_eq!(client.answer("GET").unwrap().status, 431);
    };
    round();
    let before = resident_bytes();
    (0..10).for_each(|_| round());
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "grown by {} MiB", grown >> 20);
    assert_eq!(Client::new(addr).post(&body).body, right);
    wait_until("nothing in flight", || metric(&handle, "triscore_in_flight_requests") == 0);
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}
