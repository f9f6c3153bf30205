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
    let mut options = options("");
    options.workers = workers;
    options.scoring_timeout_ms = timeout_ms;
    options.memory_limit_bytes = Some(100 << 20);
    rig_of(options)
}

fn rig_of(mut options: ScriptOptions) -> Rig {
    let printed = Arc::new(AtomicUsize::new(0));
    let counter = printed.clone();
    options.log = Arc::new(move |lines| {
        counter.fetch_add(lines.len(), Ordering::SeqCst);
    });
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
        self.send_as(Method::POST, HeaderMap::new(), body)
    }

    fn send_as(
        &self,
        method: Method,
        headers: HeaderMap,
        body: &str,
    ) -> tokio::sync::oneshot::Receiver<Outcome> {
        let uri = "/score".parse().unwrap();
        let body = body.to_owned().into();
        let request = AppRequest { method, uri, headers, body };
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
        ("crash", "The worker was killed by signal 9 (SIGKILL) while it ran this request."),
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
    let mut options = options("slow");
    options.memory_limit_bytes = Some(100 << 20);
    let rig = rig_of(options);
    let first = rig.ask("pid").unwrap();
    assert_eq!(rig.ask("grow 150000000"), Ok("grown".to_owned()));
    let until = Instant::now() + Duration::from_secs(20);
    let mut longest = Duration::ZERO;
    while Instant::now() < until {
        let asked = Instant::now();
        let pid = rig.ask("pid").unwrap();
        longest = longest.max(asked.elapsed());
        if pid != first {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // The next one takes a second to start, and nobody has waited for it.
    assert!(longest < Duration::from_millis(700), "{longest:?}");
    let second = rig.ask("pid").unwrap();
    assert_ne!(second, first);
    let gone = || !std::path::Path::new(&format!("/proc/{first}")).exists();
    while !gone() {
        assert!(Instant::now() < until, "the old one is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
    let killed = std::process::Command::new("kill").args(["-9", &second]).status().unwrap();
    assert!(killed.success());
    let since = Instant::now();
    while rig.ask("pid").map_or(true, |pid| pid == second) {
        assert!(since.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn only_what_needs_one_has_a_head_and_options_run_nothing() {
    let rig = rig(1, 20_000);
    assert_eq!(rig.ask("head"), Ok(String::new()));
    let head = rig.get(rig.send_as(Method::GET, HeaderMap::new(), "head")).unwrap();
    assert!(head.contains(r#""method":"GET""#), "{head}");
    let outcome = rig.runtime.block_on(rig.send_as(Method::OPTIONS, HeaderMap::new(), "crash")).unwrap();
    let Outcome::Answered(answer) = outcome else { panic!("{outcome:?}") };
    assert_eq!((answer.status, answer.run_failed, answer.body.len()), (200, Some(false), 0));
}

#[test]
fn a_kill_under_load_costs_one_request_and_two_seconds() {
    let rig = rig(2, 20_000);
    let pid = rig.ask("pid").unwrap();
    let sent = (0..400).map(|i| rig.send(&format!("sleep {}", 2 + i % 3))).collect::<Vec<_>>();
    std::thread::sleep(Duration::from_millis(50));
    let killed = Instant::now();
    assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    let other = loop {
        // Both at once, so that both workers answer.
        let pids = [rig.send("pid-slow 20"), rig.send("pid-slow 20")].map(|sent| rig.get(sent).unwrap());
        if pids[0] != pids[1] {
            break pids;
        }
        assert!(killed.elapsed() < Duration::from_secs(15), "one worker still");
    };
    let whole_after = killed.elapsed();
    assert!(!other.contains(&pid));
    let failed = sent.into_iter().filter_map(|s| rig.get(s).err()).collect::<Vec<_>>();
    assert!(failed.len() <= 1, "{failed:?}");
    assert!(failed.iter().all(|f| f.contains("signal 9 (SIGKILL) while it ran this request")), "{failed:?}");
    // A start takes about 0.1 s, and the queue above about 0.6 s.
    assert!(whole_after < Duration::from_secs(2), "{whole_after:?}");
}

#[test]
fn a_worker_that_says_that_it_ends_and_stays_is_killed() {
    let rig = rig(1, 20_000);
    let (last, after) = (rig.send("exit-and-stay"), rig.send("on"));
    assert_eq!((rig.get(last), rig.get(after)), (Ok("bye".to_owned()), Ok("on".to_owned())));
    // It closes its socket and lives on.
    let pid = rig.ask("pid").unwrap();
    assert!(rig.ask("close-and-stay").unwrap_err().contains("Died"));
    assert_eq!(rig.ask("on"), Ok("on".to_owned()));
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn what_nobody_waits_for_is_not_run_and_what_waits_too_long_is_refused() {
    let mut options = options("");
    options.max_queue_wait_ms = 300;
    let rig = rig_of(options);
    let running = rig.send("sleep 1500");
    let (gone, late) = (rig.send("exit"), rig.send("late"));
    drop(gone);
    assert_eq!(rig.get(late), Err("Overloaded".to_owned()));
    let pid = rig.send("pid");
    assert_eq!(rig.get(running), Ok("slept".to_owned()));
    drop(pid);
    let before = rig.ask("pid").unwrap();
    assert_eq!(rig.ask("pid"), Ok(before), "the abandoned exit was not run");
}

#[test]
fn a_worker_that_is_large_from_its_start_is_kept() {
    let mut options = options("");
    options.memory_limit_bytes = Some(1 << 20); // no Python is as small
    let rig = rig_of(options);
    let pid = rig.ask("pid").unwrap();
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(rig.ask("pid"), Ok(pid));
}

#[test]
fn a_worker_that_always_dies_is_said_and_started_less_and_less_often() {
    let mut options = options("");
    options.max_queue_wait_ms = 60_000;
    let rig = rig_of(options);
    let began = Instant::now();
    for _ in 0..5 {
        assert!(rig.ask("crash").unwrap_err().contains("SIGKILL"));
    }
    // It waits 0, 100, 200 and 400 ms between the five.
    assert!(began.elapsed() > Duration::from_millis(600), "{:?}", began.elapsed());
    let until = Instant::now() + Duration::from_secs(5);
    while !rig.pool.not_ready().is_some_and(|why| why.contains("SIGKILL")) {
        assert!(Instant::now() < until, "{:?}", rig.pool.not_ready());
    }
    assert_eq!(rig.ask("on"), Ok("on".to_owned()));
    assert_eq!(rig.pool.not_ready(), None);
}

fn real(folder: &std::path::Path, script: &str) -> ScriptOptions {
    let worker = triscore::script::runtime::lay_out(&folder.join("runtime")).unwrap();
    std::fs::write(folder.join("score.py"), script).unwrap();
    let mut options = ScriptOptions::new("python3", worker, folder, "score.py");
    options.log = Arc::new(|_| {});
    options
}

#[test]
fn the_real_worker_answers_hangs_and_exits() {
    let folder = tempfile::tempdir().unwrap();
    let script = "import sys, time\ndef init(): pass\ndef run(data):\n    if data == 'hang': time.sleep(1000)\n    if data == 'exit': sys.exit(3)\n    return data\n";
    let mut options = real(folder.path(), script);
    options.scoring_timeout_ms = 1_000;
    let rig = rig_of(options);
    assert!(rig.ask("a").unwrap().contains('a'));
    assert_eq!(rig.ask("hang"), Err("TimedOut".to_owned()));
    assert!(rig.ask("b").unwrap().contains('b'));
    let _ = rig.ask("exit");
    assert!(rig.ask("c").unwrap().contains('c'));
    rig.pool.shutdown();
}

#[test]
fn a_real_script_that_does_not_start_says_why_in_one_line() {
    for script in ["import no_such_module\n", "def init(): raise ValueError('no')\ndef run(data): pass\n"] {
        let folder = tempfile::tempdir().unwrap();
        let e = Pool::start(real(folder.path(), script)).unwrap_err();
        assert!(!e.message().is_empty() && !e.message().contains("Traceback"), "{e}");
        assert_eq!(e.message().lines().count(), 1, "{e}");
        assert!(e.message().contains("no"), "{e}");
    }
}

#[test]
fn a_flood_of_100_mb_takes_little_memory() {
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let rig = rig(1, 120_000);
    let before = resident();
    assert_eq!(rig.ask("print 1600"), Ok("printed".to_owned()));
    assert_eq!(rig.ask("on"), Ok("on".to_owned()));
    // Tests that run beside it have memory too; the flood alone is 100 MiB.
    assert!(resident() < before + (70 << 20), "{before} {}", resident());
}

#[test]
fn a_kill_loses_one_however_many_were_sent_ahead() {
    let rig = rig(1, 20_000);
    for body in ["fast", "sleep 5"] {
        // The pool has to learn how long they take.
        (0..30).for_each(|_| assert!(rig.ask(body).is_ok()));
        // Stopped, it answers nothing: what it has is what the pool sent ahead.
        let pid = rig.ask("pid").unwrap();
        (0..10).for_each(|_| assert!(rig.ask(body).is_ok()));
        let signal =
            |name: &str| std::process::Command::new("kill").args([name, pid.as_str()]).status().unwrap();
        assert!(signal("-STOP").success());
        let sent = (0..20).map(|_| rig.send(body)).collect::<Vec<_>>();
        assert!(signal("-KILL").success());
        // One was begun, and is lost; nothing else is, however many there were.
        let lost = sent.into_iter().filter_map(|s| rig.get(s).err()).count();
        assert_eq!(lost, 1, "{body}");
    }
}

#[test]
fn workers_are_spread_over_event_loops() {
    let mut options = options("");
    options.workers = 3;
    let pool = Pool::start(options).unwrap();
    let make = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let loops = [make(), make()];
    pool.start(&loops.each_ref().map(|l| l.handle().clone())).unwrap();
    assert!(pool.start(&[loops[0].handle().clone()]).is_err());
    let [first, second] = loops;
    let rig = Rig { pool, runtime: first, printed: Arc::default() };
    let sent = (0..30).map(|i| (i, rig.send(&format!("{i}")))).collect::<Vec<_>>();
    for (i, sent) in sent {
        assert_eq!(rig.get(sent), Ok(i.to_string()));
    }
    rig.pool.shutdown();
    drop(second);
}
