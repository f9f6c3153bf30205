//! The pool of workers, driven through the application's interface with a worker that misbehaves on demand.

#![cfg(feature = "server")]
#![allow(missing_docs)]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "helpers of tests assert too")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, Method};
use triscore::script::{Pool, ScriptOptions};
use triscore::server::{AppRequest, Application, Exchange, Outcome};

struct Rig {
    pool: Arc<Pool>,
    runtime: tokio::runtime::Runtime,
    printed: Arc<AtomicUsize>,
}

fn options(init: &str) -> ScriptOptions {
    let worker = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/script/worker.py");
    let mut options = ScriptOptions::new("python3", worker, env!("CARGO_MANIFEST_DIR"), "score.py");
    options.environment = vec![("TEST_INIT".into(), init.into())];
    options.max_answer_bytes = 4 << 20;
    options.log = Arc::new(|_| {});
    options
}

fn rig(workers: usize, timeout_ms: u64) -> Rig {
    let printed = Arc::new(AtomicUsize::new(0));
    let counter = printed.clone();
    let mut options = options("");
    options.workers = workers;
    options.scoring_timeout_ms = timeout_ms;
    options.log = Arc::new(move |lines| {
        counter.fetch_add(lines.len(), Ordering::SeqCst);
    });
    options.memory_limit_bytes = Some(100 << 20);
    let pool = Pool::start(options).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    pool.start(&[runtime.handle().clone()]).unwrap();
    let watched = Arc::downgrade(&pool);
    std::thread::spawn(move || {
        while let Some(pool) = watched.upgrade() {
            pool.expire(Instant::now());
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    Rig { pool, runtime, printed }
}

impl Rig {
    fn send(&self, body: &str) -> tokio::sync::oneshot::Receiver<Outcome> {
        let uri = "/score".parse().unwrap();
        let body = body.to_owned().into();
        let request = AppRequest { method: Method::POST, uri, headers: HeaderMap::new(), body };
        let (exchange, outcome) = Exchange::new(request, Instant::now(), None);
        self.pool.call(exchange);
        outcome
    }

    fn get(&self, outcome: tokio::sync::oneshot::Receiver<Outcome>) -> Result<String, String> {
        let within = async { tokio::time::timeout(Duration::from_secs(15), outcome).await };
        match self.runtime.block_on(within).expect("an answer").expect("an outcome") {
            Outcome::Answered(a) => Ok(String::from_utf8(a.body.to_vec()).unwrap()),
            other => Err(format!("{other:?}")),
        }
    }

    fn ask(&self, body: &str) -> Result<String, String> {
        self.get(self.send(body))
    }
}

#[test]
fn answers_belong_to_their_requests() {
    let rig = rig(2, 20_000);
    std::thread::scope(|scope| {
        for t in 0..8 {
            let rig = &rig;
            scope.spawn(move || {
                for round in 0..20 {
                    let bodies = (0..10).map(|i| format!("{t}-{round}-{i}")).collect::<Vec<_>>();
                    let sent = bodies.iter().map(|b| rig.send(b)).collect::<Vec<_>>();
                    for (body, sent) in bodies.iter().zip(sent) {
                        assert_eq!(rig.get(sent).as_ref(), Ok(body));
                    }
                }
            });
        }
    });
    for size in [16_000, 16_400, 3 << 20] {
        assert_eq!(rig.ask(&format!("big {size}")).unwrap().len(), size);
        let body = "z".repeat(size);
        assert!(rig.ask(&body).unwrap() == body);
    }
    rig.pool.shutdown();
}

#[test]
fn only_what_was_begun_is_lost() {
    let rig = rig(1, 20_000);
    for (bad, expected) in [
        ("crash", "signal 9 (SIGKILL)"),
        ("garbage", "announced an answer"),
        ("wrong-id", "answered request"),
        ("big 5000000", "announced an answer"),
    ] {
        let bad = rig.send(bad);
        let after = (0..5).map(|i| rig.send(&format!("{i}"))).collect::<Vec<_>>();
        let died = rig.get(bad).unwrap_err();
        assert!(died.contains("Died") && died.contains(expected), "{died}");
        for (i, sent) in after.into_iter().enumerate() {
            assert_eq!(rig.get(sent), Ok(i.to_string()));
        }
    }
    let (last, after) = (rig.send("exit"), rig.send("on"));
    assert_eq!((rig.get(last), rig.get(after)), (Ok("bye".to_owned()), Ok("on".to_owned())));
}

#[test]
fn a_worker_that_hangs_is_replaced_and_a_flood_is_read() {
    let rig = rig(1, 1_000);
    let pid = rig.ask("pid").unwrap();
    assert_eq!(rig.ask("hang"), Err("TimedOut".to_owned()));
    assert_eq!(rig.ask("again"), Ok("again".to_owned()));
    assert_ne!(rig.ask("pid").unwrap(), pid);
    let before = rig.printed.load(Ordering::SeqCst);
    assert_eq!(rig.ask("print 160"), Ok("printed".to_owned()));
    let until = Instant::now() + Duration::from_secs(5);
    while rig.printed.load(Ordering::SeqCst) < before + 160 * 65_536 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(rig.printed.load(Ordering::SeqCst), before + 160 * 65_536);
    let pid = rig.ask("pid").unwrap();
    rig.pool.shutdown();
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_script_that_does_not_start_says_why() {
    for (init, expected) in [
        ("fail", "User's init function failed: no"),
        ("die", "last words"),
        ("hang", "did not return within 2000 ms"),
    ] {
        let mut options = options(init);
        options.init_timeout_ms = 2_000;
        let e = Pool::start(options).unwrap_err();
        assert!(e.message().contains(expected), "{e}");
    }
    let mut options = options("");
    options.python = "/nowhere/python3".into();
    assert!(Pool::start(options).unwrap_err().to_string().contains("/nowhere/python3"));
}

#[test]
fn a_worker_that_leaks_or_is_killed_is_replaced() {
    let rig = rig(1, 20_000);
    let first = rig.ask("pid").unwrap();
    std::thread::sleep(Duration::from_millis(1_500)); // seen once below its limit
    assert_eq!(rig.ask("grow 200000000"), Ok("grown".to_owned()));
    let until = Instant::now() + Duration::from_secs(10);
    while rig.ask("pid").unwrap() == first && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    let second = rig.ask("pid").unwrap();
    assert_ne!(second, first);
    let killed = std::process::Command::new("kill").args(["-9", &second]).status().unwrap();
    assert!(killed.success());
    let since = Instant::now();
    while rig.ask("pid").map_or(true, |pid| pid == second) {
        assert!(since.elapsed() < Duration::from_secs(5));
    }
}
