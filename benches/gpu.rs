//! The GPU backend on whole networks: how fast, how near to what the hardware can do, and what the way from and to the host costs.
//!
//! ResNet-50 and BERT-base (128 tokens) with seeded weights, by batch and precision: the captured graph with its inputs resident (median and
//! percentiles of replays), the whole run from pinned memory to pinned memory beside the sum of its parts, and rows a second of one, two and four
//! callers of a scorer with two lanes, which overlap one's transfers with the other's kernels. What cannot be measured is said, and the rest goes on.
//!
//! `make bench-gpu`; `scripts/gpu/peers.py` measures others on the same networks, and `scripts/gpu/report.py` puts both side by side. On an
//! **emulated** device these are figures of an emulation, for small networks: they tell nothing of a GPU.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark may stop where it cannot measure"
)]

#[path = "gpu/cases.rs"]
mod cases;
#[path = "gpu/figures.rs"]
mod figures;
#[path = "../hardware-tests/inputs.rs"]
mod inputs;
#[path = "../hardware-tests/networks.rs"]
mod networks;
#[path = "gpu/options.rs"]
mod options;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::{Value, json};
use triscore::gpu::GpuBackend;
use triscore::scoring::Device;
use triscore::{Backend, Call, CompileOptions, Model, Result, ScoreError, Tensor};

use cases::Network;
use figures::{Case, Spread, about, heading};
use options::{Form, Options};

/// Rounds that tell how long one takes.
const FIRST_ROUNDS: usize = 3;

/// So long may the replays of a case take.
const MOST_MS: f64 = 2_000.0;

/// Callers of a scorer with two lanes.
const CALLERS: [usize; 3] = [1, 2, 4];

fn main() {
    let mut options = Options::of_process();
    if let Some(folder) = &options.write_models {
        return write_models(&options, folder);
    }
    if let Some(architecture) = &options.fill_cache {
        return fill_cache(&options, architecture);
    }
    let device = match GpuBackend::new().probe() {
        Ok(mut devices) => devices.swap_remove(0),
        Err(e) => {
            println!("nothing measured: {e}");
            std::process::exit(69);
        }
    };
    if device.emulated && !options.quick {
        println!("{device}: small networks and few rounds");
        options.quick = true;
    }
    println!("{device}; times in ms of one replay, inputs resident; whole: from and to pinned memory");
    println!("{}", heading());
    let (mut report, mut failed) = (about(&device, options.quick), 0);
    for network in options.networks() {
        for form in options.forms() {
            let model = network.model(form.quantised).expect("a network is a model");
            for rows in options.batches() {
                match case(&options, network, &model, &device, form, rows) {
                    Ok(case) => {
                        println!("{}", case.line());
                        add(&mut report, "cases", case.json());
                    }
                    Err(e) => {
                        println!("{:<16} {:>6} {rows:>5} not measured: {e}", network.name, form.name);
                        let why = json!({
                            "contestant": "triscore", "network": network.name, "precision": form.name,
                            "batch": rows, "reason": e.to_string(),
                        });
                        add(&mut report, "failed", why);
                        failed += 1;
                    }
                }
                // Whoever is stopped half way leaves what was measured.
                if let Some(path) = &options.json {
                    std::fs::write(path, serde_json::to_string_pretty(&report).unwrap()).unwrap();
                }
            }
        }
    }
    if device.emulated {
        println!("emulated: these are figures of an emulation, and tell nothing of a GPU");
    }
    if failed > 0 {
        println!("{failed} cases were not measured");
        std::process::exit(1);
    }
}

fn add(report: &mut Value, list: &str, what: Value) {
    report[list].as_array_mut().expect("it is a list").push(what);
}

fn case(
    options: &Options,
    network: &'static Network,
    model: &Model,
    device: &Device,
    form: Form,
    rows: usize,
) -> Result<Case> {
    let gpu = GpuBackend::new();
    let compile = CompileOptions {
        precision: form.precision,
        lanes: Some(2),
        skip_tuning: true,
        ..CompileOptions::default()
    };
    let rounds = match options.quick {
        true => FIRST_ROUNDS,
        false => {
            let first = gpu.measure(model, device, &compile, rows, FIRST_ROUNDS)?;
            let whole = Spread::of(&first.whole).median;
            ((MOST_MS / whole.max(1e-3)) as usize).clamp(10.min(options.rounds), options.rounds)
        }
    };
    let measured = gpu.measure(model, device, &compile, rows, rounds)?;
    let roof = network.roof(device, form);
    let scorer = gpu.compile(model, std::slice::from_ref(device), &compile)?;
    let inputs = inputs::rows(model.signature().inputs(), rows, 1);
    let callers =
        CALLERS.iter().map(|callers| Ok((*callers, throughput(&*scorer, &inputs, *callers, rounds)?)));
    Ok(Case { network, precision: form.name, measured, roof, callers: callers.collect::<Result<_>>()? })
}

/// Rows a second of so many callers together.
fn throughput(scorer: &dyn triscore::Scorer, inputs: &[Tensor], callers: usize, calls: usize) -> Result<f64> {
    // Every lane plans, captures and fills its memory at its first calls.
    let warm = calls.min(8).max(2 * callers);
    let mut begin = Instant::now();
    for total in [warm, calls.max(2 * callers)] {
        let next = AtomicUsize::new(0);
        begin = Instant::now();
        let call = || -> Result<()> {
            while next.fetch_add(1, Ordering::Relaxed) < total {
                std::hint::black_box(scorer.score(inputs, &Call::new())?);
            }
            Ok(())
        };
        std::thread::scope(|s| {
            let running = (0..callers).map(|_| s.spawn(call)).collect::<Vec<_>>();
            running.into_iter().try_for_each(|r| r.join().expect("a caller does not panic"))
        })?;
    }
    let rows = inputs.first().and_then(|t| t.shape().first()).copied().unwrap_or(1);
    Ok((rows * calls.max(2 * callers)) as f64 / begin.elapsed().as_secs_f64())
}

fn write_models(options: &Options, folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    for network in options.networks() {
        let path = folder.join(network.name).with_extension("onnx");
        std::fs::write(&path, network.file()).unwrap();
        println!("{}", path.display());
    }
}

/// Batch 1 is what a scorer warms up with, whatever is asked for.
fn fill_cache(options: &Options, architecture: &str) {
    let mut failed = Vec::<ScoreError>::new();
    for network in options.networks() {
        for Form { name, precision, quantised } in options.forms() {
            let model = network.model(quantised).expect("a network is a model");
            let mut batches = options.batches();
            batches.extend((!batches.contains(&1)).then_some(1));
            for rows in batches {
                let begin = Instant::now();
                let compile = CompileOptions { precision, ..CompileOptions::default() };
                let done = GpuBackend::new().compile_ahead(&model, architecture, &compile, rows);
                let said = match &done {
                    Ok(count) => format!("{count} kernels in {:.1} s", begin.elapsed().as_secs_f64()),
                    Err(e) => e.to_string(),
                };
                println!("{} {name}, batch {rows}, for {architecture}: {said}", network.name);
                failed.extend(done.err());
            }
        }
    }
    std::process::exit(i32::from(!failed.is_empty()));
}
