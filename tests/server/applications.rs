//! What the server guarantees whoever answers, with an application that does as it is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{HeaderName, HeaderValue};
use tokio::runtime::Handle;
use triscore::server::{
    AppResponse, Application, Exchange, Keys, Outcome, Server, ServerHandle, ServerOptions, SwaggerVersion,
};

use super::client::{Client, bare, metric, scorer, wait_until};

/// Answers with what the body says.
#[derive(Debug, Default)]
struct Obedient {
    calls: AtomicUsize,
    is_down: AtomicBool,
    kept: std::sync::Mutex<Vec<Exchange>>,
}

impl Application for Obedient {
    fn start(&self, loops: &[Handle]) -> triscore::Result<()> {
        assert!(!loops.is_empty());
        Ok(())
    }

    fn call(&self, exchange: Exchange) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let body = String::from_utf8(exchange.request.body.to_vec()).unwrap();
        let header = |name: &'static str, value: &'static str| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let answer = |status, headers, run_failed, exec| {
            let body = Bytes::from(body.clone());
            Outcome::Answered(AppResponse { status, headers, body, run_failed, exec })
        };
        let took = Some(Duration::from_micros(1500));
        let outcome = match &*body {
            "keep" => return self.kept.lock().unwrap().push(exchange),
            "drop" => return drop(exchange),
            "overloaded" => Outcome::Overloaded,
            "late" => Outcome::TimedOut,
            "die" => Outcome::Died("The worker was killed.".to_owned()),
            "teapot" => answer(418, vec![header("x-a", "1"), header("x-a", "2")], None, None),
            "ids" => answer(200, vec![header("x-request-id", "forged")], Some(true), took),
            "odd" => answer(100, Vec::new(), None, None),
            _ => answer(200, vec![header("content-type", "text/plain")], Some(false), took),
        };
        exchange.answer(outcome);
    }

    fn expire(&self, _now: Instant) {
        // Whoever waits longer than the server's own deadline is told by the application.
        let mut kept = self.kept.lock().unwrap();
        let now = Instant::now();
        for exchange in std::mem::take(&mut *kept) {
            match exchange.deadline {
                Some(deadline) if now >= deadline => exchange.answer(Outcome::TimedOut),
                _ if exchange.is_abandoned() => {}
                _ => kept.push(exchange),
            }
        }
    }

    fn queued(&self) -> usize {
        self.kept.lock().unwrap().len()
    }

    fn not_ready(&self) -> Option<String> {
        self.is_down.load(Ordering::SeqCst).then(|| "Every worker is gone.".to_owned())
    }

    fn swagger(&self, version: SwaggerVersion) -> Option<Bytes> {
        (version != SwaggerVersion::V2).then(|| Bytes::from_static(b"{\"openapi\": \"3\"}"))
    }

    fn device(&self) -> String {
        "python 3".to_owned()
    }
}

fn serving(change: impl FnOnce(&mut ServerOptions)) -> (Arc<Obedient>, Server, ServerHandle, Client) {
    let (server, handle, addr) = bare(change);
    let application = Arc::new(Obedient::default());
    handle.ready_with(application.clone()).unwrap();
    (application, server, handle, Client::new(addr))
}

#[test]
fn every_outcome_has_its_answer() {
    let (_, _server, handle, mut client) = serving(|_| {});
    for (body, status, says, failed) in [
        ("hello", 200, "hello", Some("False")),
        ("ids", 200, "ids", Some("True")),
        ("teapot", 418, "teapot", None),
        ("odd", 500, "odd", None),
        (
            "overloaded",
            503,
            "{\"message\": \"Too many requests for service digits (overloaded)\"}",
            Some("False"),
        ),
        ("late", 504, "{\"message\": \"Scoring timeout after 10000 ms\"}", Some("True")),
        ("die", 502, "{\"message\": \"The worker was killed.\"}", Some("True")),
        ("drop", 503, "{\"message\": \"The service is shutting down.\"}", Some("False")),
    ] {
        let answer = client.request("POST", "/score", "x-request-id: mine\r\n", body);
        assert_eq!((answer.status, &*answer.body), (status, says), "{answer:?}");
        assert_eq!(answer.header("x-ms-run-function-failed"), failed, "{body}");
        assert_eq!(answer.header("x-request-id"), Some("mine"), "{body}");
        let ran = matches!(body, "hello" | "ids");
        assert_eq!(answer.header("x-ms-run-fn-exec-ms"), ran.then_some("1.500"), "{body}");
        if body == "teapot" {
            assert_eq!(answer.headers.iter().filter(|(name, _)| name == "x-a").count(), 2);
            assert_eq!(answer.header("content-type"), Some("application/json"));
        }
    }
    for (name, count) in [("triscore_overloaded_total", 1), ("triscore_timeouts_total", 1)] {
        assert_eq!(metric(&handle, name), count, "{name}");
    }
    assert_eq!(metric(&handle, "triscore_in_flight_requests"), 0);
    assert_eq!(metric(&handle, "triscore_compute_duration_seconds_count"), 2);
}

#[test]
fn the_front_end_keeps_its_bounds() {
    let (application, _server, handle, mut client) = serving(|options| {
        options.max_body_bytes = 10;
        options.max_in_flight = 1;
        options.scoring_timeout_ms = 300;
        options.keys = Some(Keys::new("a-key-that-opens", None).unwrap());
    });
    let key = "authorization: Bearer a-key-that-opens\r\n";
    // Nothing reaches the application without a key, whatever the method.
    for (method, status) in [("POST", 401), ("GET", 401), ("OPTIONS", 200), ("HEAD", 405), ("PUT", 405)] {
        let answer = client.request(method, "/score", "", "");
        assert_eq!(answer.status, status, "{method}");
        if answer.header("connection") == Some("close") {
            client = Client::new(_server.local_addr());
        }
    }
    assert_eq!(application.calls.load(Ordering::SeqCst), 0);
    let answer = client.request("OPTIONS", "/score", key, "");
    assert_eq!((answer.status, application.calls.load(Ordering::SeqCst)), (200, 1));
    assert_eq!(client.request("POST", "/score", key, "elevenbytes").status, 413);

    let mut waits = Client::new(_server.local_addr());
    waits.send(super::client::request("POST", "/score", key, "keep"));
    wait_until("a call", || application.queued() == 1);
    assert_eq!(metric(&handle, "triscore_queue_size"), 1);
    let mut client = Client::new(_server.local_addr());
    assert_eq!(client.request("POST", "/score", key, "x").status, 503, "one at a time");
    let answer = waits.answer("POST").unwrap();
    assert_eq!((answer.status, answer.message().as_str()), (504, "Scoring timeout after 300 ms"));
    assert_eq!(client.request("POST", "/score", key, "x").status, 200);
}

#[test]
fn it_speaks_for_its_application() {
    let (application, _server, handle, mut client) = serving(|_| {});
    let missing =
        "Swagger version [2] is not supported for the scoring script. Supported swagger versions: [3, 3.1].";
    assert_eq!(client.get("/swagger.json").message(), missing);
    assert_eq!(client.get("/swagger.json?version=3").body, "{\"openapi\": \"3\"}");
    assert!(handle.is_ready());
    application.is_down.store(true, Ordering::SeqCst);
    let answer = client.get("/");
    assert_eq!((answer.status, answer.message().as_str()), (503, "Every worker is gone."));
    // It may be back before a request that comes now has waited too long.
    assert_eq!(client.post("x").status, 200);
    let again = handle.ready_with(application.clone()).unwrap_err();
    assert_eq!(again.kind(), triscore::ErrorKind::Conflict);
    assert_eq!(handle.ready(scorer(1)).unwrap_err().kind(), triscore::ErrorKind::Conflict);
}

#[test]
fn who_has_left_is_not_waited_for() {
    let (application, _server, handle, mut client) = serving(|_| {});
    client.send(super::client::request("POST", "/score", "", "keep"));
    wait_until("a call", || application.queued() == 1);
    drop(client);
    wait_until("its end", || application.queued() == 0);
    wait_until("its room", || metric(&handle, "triscore_in_flight_requests") == 0);
}
