//! Services come, change and go at random, from several commands at once, and processes are killed at
//! random moments. After every batch, what the registry says must be what there is.
//!
//! `TRISCORE_CHURN=10000 cargo test --test churn -- --nocapture` for the long run, with progress; the seed is
//! printed, and `TRISCORE_CHURN_SEED` gives it again (the threads still race as they like).

#![cfg(all(feature = "cli", feature = "cpu", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // helpers of tests, which clippy.toml does not count as tests

#[allow(dead_code, reason = "shared with the tests of the program")]
#[path = "program/home.rs"]
mod home;
#[allow(dead_code, reason = "shared with the tests of the program")]
#[path = "program/http.rs"]
mod http;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;

use home::{DEADLINE, Home, Running, models, signal, until};
use http::{connect, request};

const SERVICES: [&str; 4] = ["one", "two", "three", "four"];
const THREADS: usize = 3;
/// Transitions of each thread between two looks.
const BATCH: usize = 5;

/// Marsaglia's xorshift: the same numbers for the same seed, everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }

    fn one_of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

/// What happened since the last look.
#[derive(Default)]
struct Batch {
    /// Commands that ended by themselves, by name and exit code.
    ended: BTreeMap<(&'static str, i32), usize>,
    killed: usize,
    /// Services that a command has deployed, and that none was to delete.
    deployed: BTreeSet<&'static str>,
    deletions: BTreeSet<&'static str>,
    log: Vec<String>,
}

struct Churn {
    home: Home,
    configs: [String; 2],
    batch: Mutex<Batch>,
}

impl Churn {
    fn new() -> Self {
        let home = Home::new();
        for _ in 0..2 {
            home.ok(&["model", "register", "-n", "good", "-p", &models("tiny/identity_float.onnx")]);
        }
        let page = home.file("page.onnx", "<!DOCTYPE html><html>no such page</html>");
        home.ok(&["model", "register", "-n", "bad", "-p", &page]);
        let cpu = r#""containerResourceRequirements": {"cpu": 1}"#;
        let configs = [
            home.file("local.json", format!(r#"{{"computeType": "local", {cpu}}}"#)),
            home.file("aci.json", format!(r#"{{"computeType": "aci", "authEnabled": true, {cpu}}}"#)),
        ];
        Self { home, configs, batch: Mutex::default() }
    }

    /// One transition: a command, perhaps killed, perhaps with a process of the service killed under it.
    fn step(&self, random: &mut Random) {
        let name = random.one_of(&SERVICES);
        let good = random.one_of(&["good:1", "good:2"]);
        let config = &*self.configs[random.below(2)];
        let deploy = |model| {
            vec!["model", "deploy", "-n", name, "-m", model, "--dc", config, "--overwrite", "--port", "0"]
        };
        let (what, args) = match random.below(20) {
            0..6 => ("deploy", deploy(good)),
            6 => ("deploy bad", deploy("bad:1")),
            7..11 => ("update", vec!["service", "update", "-n", name, "-m", good]),
            11 => ("update bad", vec!["service", "update", "-n", name, "-m", "bad"]),
            12 => ("update labels", vec!["service", "update", "-n", name, "--add-tag", "a=1"]),
            13 => ("update no-wait", vec!["service", "update", "-n", name, "-m", good, "--no-wait"]),
            14 | 15 => ("regen-key", vec!["service", "regen-key", "-n", name, "-k", "Primary"]),
            16 => ("stop", vec!["service", "stop", "-n", name]),
            17 | 18 => ("start", vec!["service", "start", "-n", name]),
            _ => ("delete", vec!["service", "delete", "-n", name]),
        };
        if what == "delete" {
            self.batch.lock().unwrap().deletions.insert(name);
        }
        let mut command = self.home.command(&args);
        let kills = random.below(4) == 0;
        let delay = Duration::from_millis(random.below(250) as u64);
        let victim = random.below(6) == 0;
        if victim {
            self.kill_process_of(name, random);
        }
        if kills {
            command.stdout(Stdio::null()).stderr(Stdio::null());
            let mut running = Running(command.spawn().unwrap());
            std::thread::sleep(delay);
            drop(running.0.kill());
            running.0.wait().unwrap();
            let mut batch = self.batch.lock().unwrap();
            batch.killed += 1;
            batch.log.push(format!("{what} {name} killed after {delay:?}"));
            return;
        }
        let ran = self.home.finish(command);
        let mut batch = self.batch.lock().unwrap();
        batch.log.push(format!("{what} {name}: {} {}", ran.code, ran.err.trim()));
        *batch.ended.entry((what, ran.code)).or_default() += 1;
        if what.starts_with("deploy") && ran.code == 0 {
            batch.deployed.insert(name);
        }
    }

    /// Kills a supervisor or a host of a service.
    fn kill_process_of(&self, name: &str, random: &mut Random) {
        let processes = self.home.processes().into_iter();
        let own = |args: &str| ["supervise", "host"].iter().any(|p| args.contains(&format!(" {p} {name} ")));
        let of = processes.filter(|(_, args)| own(args)).collect::<Vec<_>>();
        if !of.is_empty() {
            let (pid, args) = &of[random.below(of.len())];
            let log = format!("kill -9 {pid} ({})", args.split("/home ").last().unwrap_or_default());
            self.batch.lock().unwrap().log.push(log);
            signal(*pid, libc::SIGKILL);
        }
    }

    fn services(&self) -> Vec<Value> {
        self.home.json(&["service", "list"]).as_array().unwrap().clone()
    }

    /// Waits until nothing is under way, and holds what is said against what there is.
    fn check(&self, expected: &mut BTreeSet<&'static str>) -> BTreeMap<(&'static str, i32), usize> {
        let batch = std::mem::take(&mut *self.batch.lock().unwrap());
        let story = batch.log.join("\n  ");
        let since = Instant::now();
        let settled = loop {
            let services = self.services();
            match self.wrong(&services) {
                None => break services,
                Some(why) if since.elapsed() > DEADLINE => {
                    panic!("{why}\n{services:#?}\n{:#?}\nafter:\n  {story}", self.home.processes())
                }
                Some(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let there = settled.iter().map(|s| s["name"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>();
        expected.extend(batch.deployed);
        for name in batch.deletions {
            expected.remove(name);
        }
        for name in expected.iter() {
            assert!(there.contains(*name), "'{name}' is lost; after:\n  {story}");
        }
        batch.ended
    }

    /// What is not as it is said to be, or still on its way there.
    fn wrong(&self, services: &[Value]) -> Option<String> {
        let processes = self.home.processes();
        let mut running = 0;
        let mut ports = BTreeSet::new();
        for service in services {
            let name = service["name"].as_str().unwrap();
            let state = service["state"].as_str().unwrap().to_ascii_lowercase();
            if service["updating"] == true {
                return Some(format!("'{name}' is being updated"));
            }
            match &*state {
                "running" | "healthy" => {
                    running += 1;
                    let port = u16::try_from(service["port"].as_u64().unwrap()).unwrap();
                    if !ports.insert(port) {
                        return Some(format!("two services at port {port}"));
                    }
                    if let Some(why) = self.misbehaves(name, port, service) {
                        return Some(why);
                    }
                }
                "failed" => {
                    if service["error"].as_str().is_none_or(str::is_empty) {
                        return Some(format!("'{name}' has failed without a reason"));
                    }
                }
                other => return Some(format!("'{name}' is {other}: {}", service["error"])),
            }
            let folder = self.home.root().join("services").join(name);
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let numbered =
                entries.filter(|e| e.file_name().to_str().is_some_and(|n| n.parse::<i64>().is_ok()));
            let folders = numbered.count();
            if folders > 1 {
                return Some(format!("'{name}' has {folders} folders"));
            }
        }
        if processes.len() != 2 * running {
            return Some(format!("{} processes for {running} running services", processes.len()));
        }
        let known = |name: &str| services.iter().any(|s| s["name"] == name);
        let below = std::fs::read_dir(self.home.root().join("services")).into_iter().flatten().flatten();
        let stray = below.map(|e| e.file_name().into_string().unwrap()).find(|name| !known(name));
        stray.map(|name| format!("a folder of '{name}', which there is not"))
    }

    /// Whether a service that is said to run answers, as the version that it is said to be.
    fn misbehaves(&self, name: &str, port: u16, service: &Value) -> Option<String> {
        let Ok(health) = request(port, "GET", "/", "", b"") else {
            return Some(format!("'{name}' is said to run, and does not answer"));
        };
        let metrics = request(port, "GET", "/metrics", "", b"").ok()?.body;
        let version = service["models"][0].as_str().unwrap().rsplit_once(':').unwrap().1.to_owned();
        if health.status != 200 || !metrics.contains(&format!("\"{version}\"")) {
            let of = metrics.lines().find(|l| l.contains("version")).unwrap_or_default();
            return Some(format!("'{name}' answers {} and is {of}, not version {version}", health.status));
        }
        let keys = self.home.run(&["service", "get-keys", "-n", name, "--json"]);
        let key = keys.json()["primaryKey"].as_str().unwrap().to_owned();
        let header = format!("Authorization: Bearer {key}\r\nContent-Type: application/json\r\n");
        let reply = request(port, "GET", "/swagger.json", &header, b"").ok()?;
        (reply.status != 200).then(|| format!("'{name}' does not take its key: {reply:?}"))
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|n| n.parse().unwrap())
}

#[test]
fn whatever_happens_what_is_said_is_what_there_is() {
    let transitions = number("TRISCORE_CHURN").unwrap_or(90) as usize;
    let seed = number("TRISCORE_CHURN_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::from(now.subsec_nanos()) | 1
    });
    println!("churn: {transitions} transitions, seed {seed}");
    let churn = Churn::new();
    let mut randoms =
        (0..THREADS as u64).map(|n| Random(seed.wrapping_mul(2 * n + 3) | 1)).collect::<Vec<_>>();
    let (mut done, mut expected) = (0, BTreeSet::new());
    let mut totals = BTreeMap::<_, usize>::new();
    let since = Instant::now();
    while done < transitions {
        std::thread::scope(|scope| {
            for random in &mut randoms {
                scope.spawn(|| (0..BATCH).for_each(|_| churn.step(random)));
            }
        });
        done += THREADS * BATCH;
        for (what, count) in churn.check(&mut expected) {
            *totals.entry(what).or_default() += count;
        }
        if done % (THREADS * BATCH * 10) == 0 {
            println!("churn: {done} of {transitions} after {:.0} s", since.elapsed().as_secs_f64());
        }
    }
    println!("churn: how commands ended: {totals:?}");
    assert!(totals.keys().any(|(what, code)| *what == "deploy" && *code == 0), "nothing was ever deployed");
    // After all of it is deleted nothing is left.
    let ports = churn.services().iter().filter_map(|s| s["port"].as_u64()).collect::<Vec<_>>();
    for service in churn.services() {
        churn.home.ok(&["service", "delete", "-n", service["name"].as_str().unwrap()]);
    }
    until("the end of all processes", || churn.home.processes().is_empty().then_some(()));
    assert_eq!(std::fs::read_dir(churn.home.root().join("services")).unwrap().count(), 0);
    for port in ports {
        let refused = connect(u16::try_from(port).unwrap()).is_err();
        assert!(refused, "somebody listens at port {port}");
    }
    for model in ["good:1", "good:2", "bad:1"] {
        churn.home.ok(&["model", "delete", "-i", model]);
    }
}
