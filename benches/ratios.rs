//! Ratios against bare ONNX Runtime, measured side by side in one run: what the README claims.
//!
//! Shared machines change speed from one second to the next, so nothing here is timed on its own: the
//! contestants run in turn, round after round, and each round gives one ratio. The median is printed,
//! with the lowest and the highest beside it.
//!
//! `cargo bench --bench ratios` (add `-- --json` for machines).

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark may stop where it cannot measure"
)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::TensorRef;
use triscore::cpu::CpuBackend;
use triscore::{Backend, Call, CompileOptions, Dim, Model, Scorer, Tensor};

/// Models whose batches are compared: a perceptron, a convolution net, a tree ensemble.
const MODELS: [(&str, &str); 3] =
    [("MLP", "digits_mlp/model.onnx"), ("CNN", "digits_cnn/model.onnx"), ("forest", "sklearn/rf200.onnx")];
const BATCH: usize = 32;

fn main() {
    let args = std::env::args().collect::<Vec<_>>();
    if let Some(at) = args.iter().position(|a| a == "--one-thread") {
        return one_thread_process(&args[at + 1]);
    }
    if args.iter().any(|a| a == "--test") {
        return; // `cargo test --benches` wants to know only that it builds and starts.
    }
    let mut rows = Vec::new();
    overhead(&mut rows);
    for (name, file) in MODELS {
        batches(name, file, &mut rows);
    }
    if args.iter().any(|a| a == "--json") {
        println!(
            "{}",
            serde_json::to_string_pretty(&rows.iter().map(Row::json).collect::<Vec<_>>()).unwrap()
        );
        return;
    }
    println!("\n{:<64} {:>8} {:>8} {:>8}", "ratio", "median", "lowest", "highest");
    for row in &rows {
        println!("{:<64} {:>8.3} {:>8.3} {:>8.3}  {}", row.name, row.median, row.low, row.high, row.note);
    }
}

struct Row {
    name: String,
    median: f64,
    low: f64,
    high: f64,
    note: String,
}

impl Row {
    fn of(name: String, mut ratios: Vec<f64>, note: String) -> Self {
        ratios.sort_by(f64::total_cmp);
        Self { name, median: ratios[ratios.len() / 2], low: ratios[0], high: ratios[ratios.len() - 1], note }
    }
    fn json(&self) -> serde_json::Value {
        serde_json::json!({ "ratio": self.name, "median": self.median, "lowest": self.low, "highest": self.high, "note": self.note })
    }
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)
}

fn scorer(name: &str) -> Arc<dyn Scorer> {
    let backend = CpuBackend::new();
    let model = Model::open(file(name)).unwrap();
    backend.compile(&model, &backend.probe().unwrap(), &CompileOptions::default()).unwrap()
}

fn session(name: &str, threads: usize) -> Session {
    // The library was loaded by the backend; this is the same one, used directly.
    let environment = CpuBackend::new().environment().unwrap();
    Session::builder(&environment)
        .unwrap()
        .with_optimization_level(GraphOptimizationLevel::All)
        .unwrap()
        .with_intra_threads(threads)
        .unwrap()
        .commit_from_file(file(name))
        .unwrap()
}

fn input(name: &str, rows: usize) -> Tensor {
    let model = Model::open(file(name)).unwrap();
    let dims = model.signature().inputs()[0].dims().unwrap();
    let shape = dims.iter().map(|d| if let Dim::Fixed(n) = d { *n } else { rows }).collect::<Vec<_>>();
    let count = shape.iter().product::<usize>();
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1u32 << 24) as f32
    };
    Tensor::from_slice(&shape, &(0..count).map(|_| next()).collect::<Vec<_>>()).unwrap()
}

fn run(session: &mut Session, x: &Tensor) {
    let view = TensorRef::from_array_view((x.shape(), x.as_slice::<f32>().unwrap())).unwrap();
    std::hint::black_box(session.run(ort::inputs![view]).unwrap());
}

/// One call at batch 1 through the scorer, against the same session called directly.
fn overhead(rows: &mut Vec<Row>) {
    const ROUNDS: usize = 41;
    const CALLS: u32 = 2_000;
    let name = MODELS[1].1;
    let scorer = scorer(name);
    let mut bare = session(name, 1);
    let inputs = [input(name, 1)];
    let call = Call::new();
    let timed = Call::new().with_timeout(Duration::from_secs(3600));
    let mut ratios = [Vec::new(), Vec::new()];
    let mut extra = Vec::new();
    for _ in 0..ROUNDS {
        let each = |f: &mut dyn FnMut()| {
            let start = Instant::now();
            (0..CALLS).for_each(|_| f());
            start.elapsed().as_secs_f64() / f64::from(CALLS)
        };
        let direct = each(&mut || run(&mut bare, &inputs[0]));
        let ours = each(&mut || drop(std::hint::black_box(scorer.score(&inputs, &call).unwrap())));
        let with_deadline = each(&mut || drop(std::hint::black_box(scorer.score(&inputs, &timed).unwrap())));
        ratios[0].push(ours / direct);
        ratios[1].push(with_deadline / direct);
        extra.push((ours - direct) * 1e6);
    }
    extra.sort_by(f64::total_cmp);
    let note = format!("{:+.2} µs a call", extra[extra.len() / 2]);
    let [plain, timed] = ratios;
    rows.push(Row::of("batch 1, CNN: Scorer::score / bare session, time".to_owned(), plain, note));
    rows.push(Row::of("batch 1, CNN: the same with a deadline".to_owned(), timed, String::new()));
}

/// Rows a second at batch 32: our scorer, against ONNX Runtime's two threads and against two processes
/// of one thread each.
fn batches(model: &str, name: &str, rows: &mut Vec<Row>) {
    const ROUNDS: usize = 9;
    const SLICE: Duration = Duration::from_millis(400);
    let scorer = scorer(name);
    let mut wide = session(name, 2);
    let inputs = [input(name, BATCH)];
    let call = Call::new();
    let ours = |callers: usize| {
        let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
        let start = Instant::now();
        std::thread::scope(|s| {
            for _ in 0..callers {
                s.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        scorer.score(&inputs, &call).unwrap();
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            std::thread::sleep(SLICE);
            stop.store(true, Ordering::Relaxed);
        });
        done.into_inner() as f64 / start.elapsed().as_secs_f64()
    };
    let mut processes = (0..2).map(|_| Process::start(name)).collect::<Vec<_>>();
    let (mut many, mut one) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let two_threads = {
            let (start, mut done) = (Instant::now(), 0u32);
            while start.elapsed() < SLICE {
                run(&mut wide, &inputs[0]);
                done += 1;
            }
            f64::from(done) / start.elapsed().as_secs_f64()
        };
        processes.iter_mut().for_each(|p| p.go(SLICE));
        let two_processes = processes.iter_mut().map(Process::rate).sum::<f64>();
        many.push(ours(2) / two_threads.max(two_processes));
        one.push(ours(1) / two_threads);
    }
    let plan = scorer.limits().plan(BATCH).map(|p| p.strategy.to_string()).unwrap_or_default();
    let better = "better of 2 threads and 2 processes";
    rows.push(Row::of(format!("batch {BATCH}, {model}: two callers / {better}, rows"), many, String::new()));
    let note = format!("plan: {plan}");
    rows.push(Row::of(
        format!("batch {BATCH}, {model}: one caller / ONNX Runtime's 2 threads, rows"),
        one,
        note,
    ));
}

/// A process with one session of one thread, told over its standard input when to run and for how long.
struct Process(Child, BufReader<ChildStdout>);

impl Process {
    fn start(name: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let child = command.args(["--one-thread", name]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut process = Self(child, out);
        process.line(); // It says when it is ready.
        process
    }
    fn go(&mut self, slice: Duration) {
        writeln!(self.0.stdin.as_mut().unwrap(), "{}", slice.as_millis()).unwrap();
    }
    fn rate(&mut self) -> f64 {
        self.line().trim().parse().unwrap()
    }
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn one_thread_process(name: &str) {
    CpuBackend::new().probe().unwrap();
    let mut session = session(name, 1);
    let x = input(name, BATCH);
    run(&mut session, &x);
    println!("ready");
    for line in std::io::stdin().lines() {
        let slice = Duration::from_millis(line.unwrap().parse().unwrap());
        let (start, mut done) = (Instant::now(), 0u32);
        while start.elapsed() < slice {
            run(&mut session, &x);
            done += 1;
        }
        println!("{}", f64::from(done) / start.elapsed().as_secs_f64());
    }
}
