//! What a failing scorer looks like from outside.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::client::{Client, case, metric, request, scorer, serving, wait_until};
use triscore::scoring::{Fault, FaultScorer};
use triscore::server::Phase;

#[test]
fn each_fault_has_its_status_and_the_next_caller_is_served() {
    let scorer = scorer(3);
    let (body, right) = case(&scorer, 1);
    let (_server, _, addr) = serving(&scorer, |_| {});
    let rows = [
        (Fault::OutOfMemory, 507, "Out of memory. A smaller batch may fit."),
        (Fault::Panic, 500, "An unexpected internal error occurred. Check the logs for more info."),
        (Fault::DeviceLost, 503, "The device was lost. The service must be restarted."),
    ];
    let mut client = Client::new(addr);
    for (fault, status, message) in rows {
        scorer.then(fault);
        let answer = client.post(&body);
        assert_eq!((answer.status, answer.message().as_str()), (status, message), "{fault:?}");
        assert_eq!(answer.header("x-ms-run-function-failed"), Some("True"), "{fault:?}");
        assert_eq!(answer.header("x-ms-run-fn-exec-ms"), None);
        assert_eq!(client.post(&body).body, right, "after {fault:?}");
        assert_eq!(client.get("/").status, 200, "one of three lanes is left after {fault:?}");
    }
}

#[test]
fn a_call_that_stalls_is_given_up_in_time() {
    let scorer = scorer(1);
    let (body, right) = case(&scorer, 1);
    let (_server, handle, addr) = serving(&scorer, |o| o.scoring_timeout_ms = 200);
    scorer.then(Fault::Stall(Duration::from_secs(60)));
    let mut client = Client::new(addr);
    let answer = client.post(&body);
    assert_eq!((answer.status, answer.message().as_str()), (504, "Scoring timeout after 200 ms"));
    assert_eq!(answer.header("x-ms-run-function-failed"), Some("True"));
    assert_eq!(metric(&handle, "triscore_timeouts_total"), 1);
    assert_eq!(client.post(&body).body, right, "the lane is back");
}

#[test]
fn a_lost_device_is_not_ready_and_whoever_waits_is_told() {
    let scorer = scorer(1);
    let (body, _) = case(&scorer, 1);
    let (_server, handle, addr) = serving(&scorer, |_| {});
    let (told, telling) = mpsc::channel();
    let waiting = handle.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        told.send(runtime.block_on(waiting.wait_lost())).unwrap();
    });
    scorer.then(Fault::DeviceLost);
    let mut client = Client::new(addr);
    assert_eq!(client.post(&body).status, 503);
    let reason = telling.recv_timeout(Duration::from_secs(5)).unwrap();
    assert!(reason.contains("the scripted device is gone"), "{reason}");
    assert!(matches!(handle.phase(), Phase::Lost(_)) && !handle.is_ready());
    for path in ["/", "/v2/health/ready"] {
        let answer = client.get(path);
        assert_eq!((answer.status, answer.message().contains("device was lost")), (503, true), "{path}");
    }
    assert_eq!(client.get("/v2/health/live").status, 200);
    let again = client.post(&body);
    assert_eq!((again.status, again.header("x-ms-run-function-failed")), (503, Some("False")));
    assert_eq!(metric(&handle, "triscore_device_lost_total"), 1);
}

#[test]
fn a_device_that_is_lost_between_requests_is_noticed() {
    let scorer = scorer(1);
    let (_server, handle, _) = serving(&scorer, |_| {});
    assert!(handle.is_ready());
    // Not through the server: as a monitor of the driver would notice it.
    scorer.then(Fault::DeviceLost);
    case_fails(&scorer);
    wait_until("lost", || matches!(handle.phase(), Phase::Lost(_)));
}

fn case_fails(scorer: &FaultScorer) {
    use triscore::Scorer as _;
    let row = triscore::Tensor::zeros(triscore::DType::F32, &[1, 4]).unwrap();
    assert!(scorer.score(&[row], &triscore::Call::new()).is_err());
}

#[test]
fn waiting_has_a_bound_in_time_and_in_number() {
    let scorer = scorer(1);
    let (body, right) = case(&scorer, 1);
    let (_server, handle, addr) = serving(&scorer, |o| {
        o.max_queue_wait_ms = 100;
        o.max_queued = 2;
    });
    let overloaded = "Too many requests for service digits (overloaded)";
    scorer.then(Fault::Stall(Duration::from_millis(600)));
    let raw = request("POST", "/score", "", &body);
    let mut stalled = Client::new(addr);
    stalled.send(&raw);
    wait_until("running", || metric(&handle, "triscore_in_flight_requests") == 1);
    std::thread::sleep(Duration::from_millis(20));
    let mut waiting = [Client::new(addr), Client::new(addr)];
    waiting.iter_mut().for_each(|c| c.send(&raw));
    wait_until("queued", || metric(&handle, "triscore_queue_size") == 2);
    let start = Instant::now();
    let refused = Client::new(addr).post(&body);
    assert_eq!((refused.status, refused.message().as_str()), (503, overloaded));
    assert_eq!(refused.header("x-ms-run-function-failed"), Some("False"));
    assert!(start.elapsed() < Duration::from_millis(90), "a full queue refuses at once");
    for client in &mut waiting {
        let late = client.answer("POST").unwrap();
        assert_eq!((late.status, late.message().as_str()), (503, overloaded));
    }
    assert!(start.elapsed() < Duration::from_millis(400), "waiting is given up while the lane is stalled");
    assert_eq!(stalled.answer("POST").unwrap().body, right);
    assert_eq!(metric(&handle, "triscore_in_flight_requests"), 0);
    assert_eq!(metric(&handle, "triscore_overloaded_total"), 3);
}

/// A scorer that heeds neither deadline nor token.
#[derive(Debug)]
struct Deaf(Arc<FaultScorer>, Duration);

impl triscore::Scorer for Deaf {
    fn signature(&self) -> &triscore::Signature {
        self.0.signature()
    }
    fn limits(&self) -> &triscore::Limits {
        self.0.limits()
    }
    fn placement(&self) -> &triscore::Placement {
        self.0.placement()
    }
    fn devices(&self) -> &[triscore::Device] {
        self.0.devices()
    }
    fn score(&self, inputs: &[triscore::Tensor], _: &triscore::Call) -> triscore::Result<triscore::Scored> {
        std::thread::sleep(self.1);
        self.0.score(inputs, &triscore::Call::new())
    }
    fn health(&self) -> triscore::Health {
        self.0.health()
    }
}

#[test]
fn a_scorer_that_does_not_heed_its_deadline_holds_nobody_up() {
    let scorer = scorer(1);
    let (body, _) = case(&scorer, 1);
    let (_server, handle, addr) = super::client::bare(|o| {
        o.scoring_timeout_ms = 50;
        o.warm_up = false;
    });
    handle.ready(Arc::new(Deaf(scorer, Duration::from_millis(500)))).unwrap();
    let start = Instant::now();
    let answer = Client::new(addr).post(&body);
    assert_eq!((answer.status, answer.message().as_str()), (504, "Scoring timeout after 50 ms"));
    assert!(start.elapsed() < Duration::from_millis(300), "{:?}", start.elapsed());
}

#[test]
fn a_thousand_clients_that_leave_leave_nothing_behind() {
    let scorer = scorer(2);
    let (body, right) = case(&scorer, 1);
    let (_server, handle, addr) = serving(&scorer, |_| {});
    let raw = request("POST", "/score", "", &body);
    for i in 0..1000 {
        if i % 100 == 0 {
            // Some leave while they are scored, the rest while they wait or are read.
            scorer.then(Fault::Stall(Duration::from_secs(60))).then(Fault::Stall(Duration::from_secs(60)));
        }
        let mut client = Client::new(addr);
        let cut = if i % 3 == 0 { raw.len() - 5 } else { raw.len() };
        client.send(&raw[..cut]);
    }
    // Connections are taken in their order: once a later one is served, none of these is still to come.
    drop(Client::new(addr).get("/"));
    let left = ["connections", "in_flight_requests", "queue_size", "in_flight_bytes"];
    wait_until("nothing is left", || left.iter().all(|n| metric(&handle, &format!("triscore_{n}")) == 0));
    // Whatever the script still holds is for callers who stay: let it run out.
    wait_until("the script is at its end", || {
        let mut client = Client::new(addr);
        client.send(&raw);
        let mut probe = Client::new(addr);
        probe.send(&raw);
        std::thread::sleep(Duration::from_millis(5));
        drop((client, probe));
        metric(&handle, "triscore_in_flight_requests") == 0
    });
    let mut client = Client::new(addr);
    assert_eq!((client.post(&body).body, client.get("/").status), (right, 200));
}
