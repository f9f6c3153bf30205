//! Requests that a service must refuse, each followed by one that it must answer.

use std::io::Write;

use super::home::Home;
use super::http::{Reply, connect, digit, knows_the_digit, read, request};

fn with_type(port: u16, content_type: &str, body: &[u8]) -> Reply {
    request(port, "POST", "/score", &format!("Content-Type: {content_type}\r\n"), body).unwrap()
}

#[test]
fn bad_bodies_are_refused_and_the_next_request_is_answered() {
    let home = Home::with_digits();
    let port = home.deploy_local("digits");
    let (good, _) = digit();
    let good = String::from_utf8(good).unwrap();
    let nested = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
    let row = |cell: &str| good.replacen("0.625", cell, 1).into_bytes();
    for (what, body, words) in [
        ("empty", Vec::new(), &["empty"][..]),
        ("blank", b" \n ".to_vec(), &["empty"]),
        ("no JSON", b"x=1".to_vec(), &["JSON"]),
        ("cut", good.as_bytes()[..good.len() / 2].to_vec(), &["JSON"]),
        ("more behind", [good.as_bytes(), b"}"].concat(), &["JSON"]),
        ("not UTF-8", b"{\"x\": \"\xff\xfe\"}".to_vec(), &[]),
        ("a name that is not UTF-8", b"{\"\xff\": 1}".to_vec(), &[]),
        ("deep", nested(100_000), &[]),
        ("deep objects", b"{\"x\":".repeat(100_000), &[]),
        ("deep and named", [b"{\"x\":", &nested(50_000)[..], b"}"].concat(), &["x"]),
        ("ragged", row("0.625, 0.5"), &["x[0][0][0]"]),
        ("NaN", row("NaN"), &[]),
        ("infinite", row("1e999"), &["out of range"]),
        ("text", row("\"0.625\""), &["x[0][0][0][2]", "expected a number, got a string"]),
        ("null", row("null"), &["x[0][0][0][2]", "null"]),
        ("an object within", row("{}"), &["x[0][0][0][2]"]),
        ("a scalar", b"{\"x\": 1}".to_vec(), &["x"]),
        ("unknown name", good.replace("\"x\"", "\"pixels\"").into_bytes(), &["'x'", "'pixels'"]),
        ("twice", format!("{},\"x\": []}}", good.trim_end().trim_end_matches('}')).into_bytes(), &["x"]),
        ("wrong shape", b"{\"x\": [[1, 2, 3]]}".to_vec(), &["x[0]"]),
        (
            "a lying shape",
            br#"{"inputs": [{"name": "x", "shape": [4294967296, 4294967296, 8, 8], "datatype": "FP32", "data": []}]}"#
                .to_vec(),
            &["inputs[0]", "more elements"],
        ),
        (
            "a wrong type",
            br#"{"inputs": [{"name": "x", "shape": [1, 1, 8, 8], "datatype": "INT64", "data": [1]}]}"#.to_vec(),
            &["x", "FP32", "INT64"],
        ),
    ] {
        for content_type in ["application/json", "text/plain"] {
            let reply = with_type(port, content_type, &body);
            assert_eq!(reply.status, 400, "{what}: {reply:?}");
            let message = reply.json()["message"].as_str().unwrap().to_owned();
            assert!(words.iter().all(|w| message.contains(w)), "{what}: {message}");
            assert!(message.len() < 1000 && !message.contains("src/"), "{what}: {message}");
        }
        knows_the_digit(port);
    }
    assert_eq!(home.show("digits")["state"], "running");
}

#[test]
fn requests_that_break_off_or_never_end_are_no_harm() {
    let home = Home::with_digits();
    let port = home.deploy_local("digits");
    let (good, _) = digit();
    let head = |length: usize| format!("POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");

    // Announced and not sent: refused before anything is read.
    let mut stream = connect(port).unwrap();
    stream.write_all(head(101 << 20).as_bytes()).unwrap();
    assert_eq!(read(&mut stream).unwrap().status, 413);
    knows_the_digit(port);
    // Sent whole, by a client that does not listen before it is done.
    let body = vec![b' '; 101 << 20];
    let reply = request(port, "POST", "/score", "", &body).map(|reply| reply.status);
    assert!(reply.as_ref().map_or(true, |status| *status == 413), "{reply:?}");
    knows_the_digit(port);
    // In pieces that tell no sum.
    let mut stream = connect(port).unwrap();
    stream.write_all(b"POST /score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    let chunk = [b"100000\r\n", &vec![b' '; 1 << 20][..], b"\r\n"].concat();
    let sent = (0..102).try_for_each(|_| stream.write_all(&chunk));
    let reply = read(&mut stream).map(|reply| reply.status);
    assert!(reply.as_ref().map_or(sent.is_err(), |status| *status == 413), "{reply:?} {sent:?}");
    knows_the_digit(port);

    for start in [
        head(good.len() + 10).into_bytes(),
        [head(good.len() + 10).as_bytes(), &good[..100]].concat(),
        b"POST /sco".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00".to_vec(),
        b"\0\0\0\0".to_vec(),
        Vec::new(),
    ] {
        let mut stream = connect(port).unwrap();
        stream.write_all(&start).unwrap();
        drop(stream);
        knows_the_digit(port);
    }
    for (bytes, status) in [
        (&b"NONSENSE\r\n\r\n"[..], 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (b"DELETE /score HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
        (b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
    ] {
        let mut stream = connect(port).unwrap();
        stream.write_all(bytes).unwrap();
        let reply = read(&mut stream).unwrap();
        assert_eq!(reply.status, status, "{}: {reply:?}", String::from_utf8_lossy(bytes));
        knows_the_digit(port);
    }
    // Many that wait for the rest of their request do not keep others out.
    let mut waiting = Vec::new();
    for _ in 0..200 {
        let mut stream = connect(port).unwrap();
        stream.write_all(head(1000).as_bytes()).unwrap();
        waiting.push(stream);
    }
    knows_the_digit(port);
    drop(waiting);
    assert_eq!(home.show("digits")["state"], "running");
    let logs = home.ok(&["service", "get-logs", "-n", "digits"]).out;
    assert!(!logs.contains("panicked") && !logs.contains("starting it again"), "{logs}");
}
