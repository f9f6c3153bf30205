//! Coming up, and going down without dropping anybody.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::client::{Client, bare, case, request, scorer, serving, wait_until};
use triscore::ErrorKind;
use triscore::scoring::Fault;
use triscore::server::{Server, ServerOptions};

#[test]
fn a_port_in_use_is_named() {
    let (_server, _, addr) = bare(|_| {});
    let e = Server::bind(addr, ServerOptions::new("second")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Conflict);
    let port = addr.port().to_string();
    assert!(e.to_string().contains(&port) && e.to_string().contains("in use"), "{e}");
    let e = Server::bind(([192, 0, 2, 1], 0).into(), ServerOptions::new("elsewhere")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::BadConfig, "{e}");
    let mut options = ServerOptions::new("none");
    options.io_threads = 0;
    assert_eq!(Server::bind(addr, options).unwrap_err().kind(), ErrorKind::BadConfig);
}

#[test]
fn a_second_scorer_is_refused() {
    let first = scorer(1);
    let (_server, handle, addr) = serving(&first, |_| {});
    assert_eq!(handle.ready(scorer(1)).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(Client::new(addr).get("/").status, 200);
}

#[test]
fn a_device_lost_in_the_warm_up_never_gets_ready() {
    let lost = scorer(1);
    lost.then(Fault::DeviceLost);
    let (_server, handle, addr) = bare(|_| {});
    assert_eq!(handle.ready(lost).unwrap_err().kind(), ErrorKind::DeviceLost);
    assert_eq!(Client::new(addr).get("/").status, 503);
}

#[test]
fn draining_serves_on_and_says_that_it_is_not_ready() {
    let scorer = scorer(1);
    let (body, right) = case(&scorer, 1);
    let (server, handle, addr) = serving(&scorer, |o| o.drain_ms = 300);
    let mut kept = Client::new(addr);
    assert_eq!(kept.post(&body).header("connection"), None);
    handle.shutdown();
    let answer = Client::new(addr).get("/");
    assert_eq!((answer.status, answer.message().as_str()), (503, "The service is shutting down."));
    let answer = kept.post(&body);
    assert_eq!((answer.body.as_str(), answer.header("connection")), (right.as_str(), Some("close")));
    assert_eq!(Client::new(addr).post(&body).body, right);
    server.join().unwrap();
    assert!(std::net::TcpStream::connect(addr).is_err(), "nobody listens any more");
}

#[test]
fn what_is_in_flight_is_finished_and_what_is_stuck_is_not_waited_for() {
    let scorer = scorer(1);
    let (body, right) = case(&scorer, 1);
    let raw = request("POST", "/score", "", &body);
    let (server, handle, addr) = serving(&scorer, |_| {});
    scorer.then(Fault::Stall(Duration::from_millis(150)));
    let mut client = Client::new(addr);
    client.send(&raw);
    wait_until("in flight", || super::client::metric(&handle, "triscore_in_flight_requests") == 1);
    handle.shutdown();
    assert_eq!(client.answer("POST").unwrap().body, right);
    server.join().unwrap();

    let (server, handle, addr) = serving(&scorer, |o| o.grace_ms = 50);
    scorer.then(Fault::Stall(Duration::from_secs(60)));
    let mut client = Client::new(addr);
    client.send(&raw);
    wait_until("in flight", || super::client::metric(&handle, "triscore_in_flight_requests") == 1);
    let start = Instant::now();
    handle.shutdown();
    assert!(client.answer("POST").is_none(), "cut off when the grace is over");
    server.join().unwrap();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn a_second_shutdown_ends_at_once() {
    let scorer = scorer(1);
    let (server, handle, addr) = serving(&scorer, |o| o.drain_ms = 60_000);
    let mut kept = Client::new(addr);
    assert_eq!(kept.get("/").status, 200);
    let start = Instant::now();
    handle.shutdown();
    handle.shutdown();
    server.join().unwrap();
    assert!(start.elapsed() < Duration::from_secs(2) && kept.is_hung_up_on(Duration::from_secs(1)));
}

#[test]
fn a_dropped_server_is_gone() {
    let scorer = scorer(1);
    let (server, _, addr) = serving(&scorer, |_| {});
    assert_eq!(Client::new(addr).get("/").status, 200);
    drop(server);
    wait_until("gone", || std::net::TcpStream::connect(addr).is_err());
}

/// Clients that behave as HTTP says: after `connection: close` they connect anew, and when nobody listens any
/// more they stop. Whatever they sent before that must be answered.
#[test]
fn a_shutdown_under_load_drops_no_request() {
    let scorer = scorer(2);
    let cases = (0..16).map(|n| case(&scorer, n)).collect::<Vec<_>>();
    let (server, handle, addr) = serving(&scorer, |o| o.drain_ms = 100);
    let (answered, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for start in 0..16 {
            let (cases, answered, over) = (&cases, &answered, &over);
            scope.spawn(move || {
                for i in start.. {
                    if over.load(Ordering::SeqCst) || std::net::TcpStream::connect(addr).is_err() {
                        return;
                    }
                    // A new connection may be refused at the very end; one that was answered may not.
                    let mut client = Client::new(addr);
                    loop {
                        let (body, right) = &cases[i % cases.len()];
                        let answer = client.post(body);
                        assert_eq!((answer.status, &answer.body), (200, right));
                        answered.fetch_add(1, Ordering::SeqCst);
                        if answer.header("connection") == Some("close") {
                            over.store(true, Ordering::SeqCst);
                            break;
                        }
                    }
                }
            });
        }
        wait_until("load", || answered.load(Ordering::SeqCst) > 500);
        handle.shutdown();
    });
    server.join().unwrap();
    assert!(answered.load(Ordering::SeqCst) > 500);
}
