//! What a model needs: measured, by serving it and calling it, and not guessed from its file.
//!
//! Every point of a profile is a process of its own (`triscore serve`) with a deployment file of its own, called
//! over HTTP as a client would: so a point's memory is that of nothing else, a model and an entry script
//! are measured alike, and what is recommended is what a deployment will get.

mod load;
mod tree;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::{Result, ScoreError};
use crate::scoring::BackendKind;

pub use load::Load;

/// What is to be measured.
#[derive(Debug)]
pub struct ProfileRequest {
    /// The program that serves: this one.
    pub program: PathBuf,
    /// What `triscore serve` is to serve: its arguments, without those of the deployment.
    pub serve: Vec<OsString>,
    /// Bodies to send, in turn; at least one.
    pub samples: Vec<Vec<u8>>,
    /// The backends to measure, each with a device that is there.
    pub backends: Vec<BackendKind>,
    /// Numbers of cores to measure; on an accelerator only the last.
    pub cores: Vec<usize>,
    /// How long to measure each number of connections.
    pub duration: Duration,
    /// How long a start may take.
    pub start_patience: Duration,
}

/// One way to run the model, measured.
#[derive(Debug, Clone)]
pub struct ProfilePoint {
    /// What it ran on.
    pub backend: BackendKind,
    /// The cores that it was given.
    pub cores: usize,
    /// What came of it, or why it could not be measured.
    pub outcome: std::result::Result<Measured, String>,
}

/// What was measured at a point.
#[derive(Debug, Clone)]
pub struct Measured {
    /// One caller at a time: what a request takes.
    pub alone: Load,
    /// As many callers as keep it busy: what it can take.
    pub busy: Load,
    /// The most memory that its processes held, in bytes.
    pub peak_memory_bytes: u64,
    /// The cores that its processes used while busy.
    pub used_cores: f64,
    /// From its start to its first answer, in milliseconds.
    pub start_ms: f64,
    /// The device, in words.
    pub device: String,
}

/// What to ask for in a deployment file.
#[derive(Debug, Clone)]
pub struct Recommendation {
    /// The backend.
    pub backend: BackendKind,
    /// `containerResourceRequirements.cpu`.
    pub cpu: usize,
    /// `containerResourceRequirements.memoryInGB`: a quarter more than was held, in steps of 0.1.
    pub memory_gb: f64,
    /// Why these, in words.
    pub why: String,
}

/// Measures every point; `tick` is told before each.
///
/// # Errors
/// `BadInput` when there is nothing to send. A point that cannot be measured is no error: it says why.
pub fn profile(
    request: &ProfileRequest,
    mut tick: impl FnMut(BackendKind, usize),
) -> Result<Vec<ProfilePoint>> {
    if request.samples.is_empty() {
        return Err(ScoreError::bad_input("there is no sample to send: give one with --input-data"));
    }
    let mut points = Vec::new();
    for &backend in &request.backends {
        let most = request.cores.last().copied();
        // Cores decide little where an accelerator computes.
        let cores = request.cores.iter().copied().filter(|c| backend == BackendKind::Cpu || Some(*c) == most);
        for cores in cores {
            tick(backend, cores);
            let outcome = measure(request, backend, cores).map_err(|e| e.to_string());
            points.push(ProfilePoint { backend, cores, outcome });
        }
    }
    Ok(points)
}

/// The cheapest point that is nearly as good as the best.
pub fn recommend(points: &[ProfilePoint]) -> Option<Recommendation> {
    /// "Nearly": below that share of the best throughput, more cores are worth having.
    const NEARLY: f64 = 0.9;
    let measured = |p: &&ProfilePoint| p.outcome.as_ref().is_ok_and(|m| m.busy.failed == 0 && m.busy.ok > 0);
    let rate = |p: &ProfilePoint| p.outcome.as_ref().map_or(0.0, |m| m.busy.per_second);
    let usable = points.iter().filter(measured).collect::<Vec<_>>();
    let best = usable.iter().max_by(|a, b| rate(a).total_cmp(&rate(b)))?;
    // Of the same backend: what is cheap there says nothing about another's price.
    let chosen = usable
        .iter()
        .filter(|p| p.backend == best.backend && rate(p) >= NEARLY * rate(best))
        .min_by_key(|p| p.cores)?;
    let held = chosen.outcome.as_ref().ok()?;
    let gigabytes = held.peak_memory_bytes as f64 * 1.25 / f64::from(1 << 30);
    Some(Recommendation {
        backend: chosen.backend,
        cpu: chosen.cores,
        memory_gb: ((gigabytes * 10.0).ceil() / 10.0).max(0.1),
        why: format!(
            "{:.0} requests a second there, {:.0} at best ({} with {} cores)",
            rate(chosen),
            rate(best),
            best.backend,
            best.cores
        ),
    })
}

fn measure(request: &ProfileRequest, backend: BackendKind, cores: usize) -> Result<Measured> {
    let begun = Instant::now();
    let folder = Folder::new()?;
    let file = folder.0.join("deploymentconfig.json");
    let config = deployment(backend, cores).to_string();
    std::fs::write(&file, config).map_err(|e| ScoreError::io("write", &file, e))?;
    let (mut server, address, device) = Serving::start(request, &file)?;
    let start_ms = begun.elapsed().as_secs_f64() * 1e3;
    let callers = 4 * cores;
    // The first calls of a process are not what the others will be.
    load::run(address, &request.samples, callers, request.duration / 4);
    let alone = load::run(address, &request.samples, 1, request.duration);
    let (before, since) = (tree::cpu_seconds(server.pid()), Instant::now());
    let busy = load::run(address, &request.samples, callers, request.duration);
    let used_cores = (tree::cpu_seconds(server.pid()) - before) / since.elapsed().as_secs_f64();
    let peak_memory_bytes = tree::peak_memory_bytes(server.pid());
    if !server.is_alive() {
        return Err(ScoreError::unavailable("the service ended under load"));
    }
    if alone.ok == 0 {
        let why = alone.first_failure.unwrap_or_else(|| "nothing was answered".to_owned());
        return Err(ScoreError::bad_input(format!("the sample is not scored: {why}")));
    }
    Ok(Measured { alone, busy, peak_memory_bytes, used_cores, start_ms, device })
}

/// The least deployment file that asks for this.
fn deployment(backend: BackendKind, cores: usize) -> Value {
    let resources = match backend {
        BackendKind::Gpu => json!({ "cpu": cores, "gpu": 1 }),
        BackendKind::Fpga => json!({ "cpu": cores, "fpga": 2 }),
        _ => json!({ "cpu": cores }),
    };
    // Callers that queue are not what is measured: none may be turned away.
    json!({
        "computeType": "aks",
        "authEnabled": false,
        "containerResourceRequirements": resources,
        "maxQueueWaitMs": 60_000,
    })
}

/// A folder that goes when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("triscore-profile-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&path).map_err(|e| ScoreError::io("create", &path, e))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A `triscore serve` that ends when it is dropped.
struct Serving(Child);

impl Serving {
    fn start(request: &ProfileRequest, config: &std::path::Path) -> Result<(Self, SocketAddr, String)> {
        let mut child = Command::new(&request.program)
            .arg("serve")
            .args(&request.serve)
            .arg("--dc")
            .arg(config)
            .args(["--port", "0", "--json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| ScoreError::io("start", &request.program, e))?;
        let (out, errors) = (child.stdout.take(), child.stderr.take());
        let serving = Self(child);
        // Both pipes are read to their ends, so that the process never waits for a reader.
        let (tell, told) = mpsc::channel();
        if let Some(out) = out {
            std::thread::spawn(move || drop(tell.send(first_value(BufReader::new(out)))));
        }
        let (tell_error, told_error) = mpsc::channel();
        if let Some(errors) = errors {
            std::thread::spawn(move || drop(tell_error.send(last_words(BufReader::new(errors)))));
        }
        match told.recv_timeout(request.start_patience) {
            Ok(Some(ready)) => {
                let text = |key| ready.get(key).and_then(Value::as_str).unwrap_or_default();
                let uri = text("scoringUri");
                let host = uri.strip_prefix("http://").and_then(|u| u.split('/').next()).unwrap_or_default();
                let address = host
                    .parse()
                    .map_err(|_| ScoreError::internal(format!("no address in the scoring URI '{uri}'")))?;
                Ok((serving, address, text("device").to_owned()))
            }
            Ok(None) => {
                let last = told_error.recv_timeout(Duration::from_secs(2)).unwrap_or_default();
                Err(ScoreError::unavailable(format!("it could not be served: {last}")))
            }
            Err(_) => {
                let seconds = request.start_patience.as_secs();
                Err(ScoreError::unavailable(format!("it was not ready within {seconds} s")))
            }
        }
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn is_alive(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        super::end::signal(self.0.id(), libc::SIGTERM);
        let asked = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) && asked.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The first JSON value of an output, which is read to its end all the same.
fn first_value(out: impl BufRead) -> Option<Value> {
    let mut values = serde_json::Deserializer::from_reader(out).into_iter::<Value>();
    values.next()?.ok()
}

/// Why a process ended, by what it wrote last: the message of its error, or its last line.
fn last_words(errors: impl BufRead) -> String {
    /// An error as JSON has fewer lines, and nothing of what stands before it is needed.
    const LINES: usize = 32;
    let mut last = VecDeque::new();
    for line in errors.lines().map_while(std::result::Result::ok) {
        if last.len() == LINES {
            last.pop_front();
        }
        last.push_back(line.chars().take(2000).collect::<String>());
    }
    let json = last.iter().position(|l| l == "{").map(|at| last.iter().skip(at).cloned().collect::<String>());
    let error = json.and_then(|text| serde_json::from_str::<Value>(&text).ok());
    match error.as_ref().and_then(|e| e.pointer("/error/message")?.as_str()) {
        Some(message) => message.to_owned(),
        None => last.pop_back().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_of_a_process_are_its_error() {
        let json = "a log line\n{\n  \"error\": {\n    \"message\": \"no such model\"\n  }\n}\n";
        for (said, expected) in [(json, "no such model"), ("one\ntwo\n", "two"), ("{\n", "{"), ("", "")] {
            assert_eq!(last_words(said.as_bytes()), expected, "{said:?}");
        }
    }

    fn point(backend: BackendKind, cores: usize, per_second: f64, failed: u64) -> ProfilePoint {
        let load = Load { ok: 100, failed, per_second, ..Load::default() };
        let measured = Measured {
            alone: load.clone(),
            busy: load,
            peak_memory_bytes: 100 << 20,
            used_cores: 1.0,
            start_ms: 50.0,
            device: String::new(),
        };
        ProfilePoint { backend, cores, outcome: Ok(measured) }
    }

    #[test]
    fn the_cheapest_of_the_nearly_best_is_recommended() {
        use BackendKind::{Cpu, Gpu};
        let lost = ProfilePoint { outcome: Err("no device".to_owned()), ..point(Gpu, 4, 0.0, 0) };
        // Points; the backend and the cores that are recommended.
        let rows = [
            (vec![point(Cpu, 1, 950.0, 0), point(Cpu, 2, 1000.0, 0)], Some((Cpu, 1))),
            (vec![point(Cpu, 1, 500.0, 0), point(Cpu, 2, 1000.0, 0)], Some((Cpu, 2))),
            (vec![point(Cpu, 1, 950.0, 0), point(Gpu, 2, 1000.0, 0)], Some((Gpu, 2))),
            (vec![point(Cpu, 1, 500.0, 0), point(Cpu, 2, 1000.0, 3)], Some((Cpu, 1))),
            (vec![point(Cpu, 1, 500.0, 0), lost.clone()], Some((Cpu, 1))),
            (vec![lost], None),
            (vec![], None),
        ];
        for (points, expected) in rows {
            let got = recommend(&points).map(|r| (r.backend, r.cpu));
            assert_eq!(got, expected, "{points:?}");
        }
        let memory_gb = recommend(&[point(Cpu, 1, 1.0, 0)]).unwrap().memory_gb;
        assert!((memory_gb - 0.2).abs() < 1e-9, "125 MB round up to 0.2 GB: {memory_gb}");
    }

    #[test]
    fn deployment_files_are_valid_and_ask_for_the_backend() {
        use crate::deploy::{DeploymentConfig, Requirement};
        for (kind, count) in [(BackendKind::Gpu, 1), (BackendKind::Fpga, 2)] {
            let config = DeploymentConfig::parse(deployment(kind, 2).to_string().as_bytes()).unwrap();
            assert_eq!(Requirement::of(&config), Requirement::Require { kind, count });
        }
        let config = DeploymentConfig::parse(deployment(BackendKind::Cpu, 2).to_string().as_bytes()).unwrap();
        assert!(!config.auth.is_required() && config.resources.cpu_is_stated);
    }
}
