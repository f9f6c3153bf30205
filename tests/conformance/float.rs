//! Float operators: what every backend answers, case by case, held to what ONNX says.
//!
//! A backend may refuse a case, with a reason; what it answers must be right. `TRISCORE_CASES_FILTER=conv` takes the cases with that in
//! their names. The GPU is the emulated one, in a process of its own since a process binds to one driver, and a real one where there is one.

#[path = "close.rs"]
mod close;
#[path = "../../hardware-tests/emulated.rs"]
mod emulated;
#[path = "parameters.rs"]
mod parameters;
#[path = "report.rs"]
mod report;

use std::io::{BufRead, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use triscore::cpu::CpuBackend;
use triscore::gpu::GpuBackend;
use triscore::scoring::FaultBackend;
use triscore::{Backend, BackendKind, Call, CompileOptions, Device, ErrorKind, Model};

use super::Case;
use report::{Report, Verdict, Why};

/// So many cases must pass on the GPU without the host's help.
const FLOOR: usize = 597;

/// So many `QuantizeLinear` and `DequantizeLinear` of operator set 28 ONNX Runtime 1.32 has no kernel for; the GPU has.
const NEWER_THAN_ONNX_RUNTIME: usize = 6;

const FILTER: &str = "TRISCORE_CASES_FILTER";

fn names() -> Vec<String> {
    let filter = std::env::var(FILTER).unwrap_or_default();
    let names = super::names("float.txt").into_iter().filter(|n| n.contains(&filter)).collect::<Vec<_>>();
    assert!(!names.is_empty(), "no case has '{filter}' in its name");
    names
}

fn read(name: &str) -> Case {
    let folder = super::root::root().join("target/conformance/float").join(name);
    assert!(folder.is_dir(), "there is no {}: `make conformance` writes it", folder.display());
    Case::read(name, &folder)
}

/// All cases on one device, on so many threads.
fn run(backend: &dyn Backend, device: &Device, host: Option<&Arc<dyn Backend>>, threads: usize) -> Report {
    let names = names();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut verdicts = Vec::new();
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(name) = names.get(place) else { return verdicts };
            let case = read(name);
            let judged = catch_unwind(AssertUnwindSafe(|| judge(backend, device, host, &case)));
            let verdict = judged.unwrap_or_else(|_| Verdict::Wrong("it panics".to_owned()));
            verdicts.push((name.clone(), verdict));
            if (place + 1).is_multiple_of(50) {
                println!("{device}: {} of {} cases", place + 1, names.len());
            }
        }
    };
    let verdicts = std::thread::scope(|scope| {
        let running = (1..threads).map(|_| scope.spawn(work)).collect::<Vec<_>>();
        let mut all = work();
        all.extend(running.into_iter().flat_map(|r| r.join().unwrap()));
        all
    });
    Report::new(device.to_string(), verdicts)
}

fn judge(backend: &dyn Backend, device: &Device, host: Option<&Arc<dyn Backend>>, case: &Case) -> Verdict {
    let constants = parameters::of(case.model.proto());
    let (model, inputs) = case.bound(|input| constants.contains(&input));
    let options = CompileOptions {
        lanes: Some(1),
        skip_tuning: true,
        host: host.cloned(),
        ..CompileOptions::default()
    };
    let scorer = match backend.compile(&model, std::slice::from_ref(device), &options) {
        Ok(scorer) => scorer,
        Err(e) if e.kind() == ErrorKind::Unsupported => {
            return Verdict::Refused(refusals(backend, device, &model, e.message()));
        }
        Err(e) => return Verdict::Wrong(format!("it does not compile: {e}")),
    };
    let scored = match scorer.score(&inputs, &Call::new()) {
        Ok(scored) => scored,
        Err(e) => return Verdict::Wrong(format!("it does not score: {e}")),
    };
    if scored.outputs.len() != case.outputs.len() {
        return Verdict::Wrong(format!("{} outputs for {}", scored.outputs.len(), case.outputs.len()));
    }
    for (place, expected) in case.outputs.iter().enumerate() {
        let differs = match scored.tensor(place) {
            Ok(got) => close::difference(got, expected),
            Err(e) => Some(e.to_string()),
        };
        if let Some(what) = differs {
            return Verdict::Wrong(format!("output {place}: {what}"));
        }
    }
    let helped = report::hosted(scorer.placement());
    if helped.is_empty() { Verdict::OnDevice } else { Verdict::WithHost(helped) }
}

/// Which operators are refused: those that the placement names, else whatever the model is made of.
fn refusals(backend: &dyn Backend, device: &Device, model: &Model, message: &str) -> Vec<Why> {
    let placed = backend.place(model, device).map(|p| report::nowhere(&p)).unwrap_or_default();
    if !placed.is_empty() {
        return placed;
    }
    let operator = match model.nodes() {
        [node] => node.operator.clone(),
        _ => "(the whole model)".to_owned(),
    };
    vec![Why { operator, reason: message.to_owned() }]
}

#[test]
fn the_cpu_conforms() {
    let cpu = CpuBackend::new();
    let report = run(&cpu, &cpu.probe().unwrap()[0], None, 2);
    println!("{report}");
    let most = if std::env::var_os(FILTER).is_none() { NEWER_THAN_ONNX_RUNTIME } else { report.refused() };
    assert_eq!((report.wrong(), report.refused()), (vec![], most));
}

/// The runner can fail: a backend that answers anything is caught, except where one guess can be right.
#[test]
fn a_backend_that_answers_wrong_is_caught() {
    let backend = FaultBackend::new(BackendKind::Custom("fault"));
    let report = run(&backend, &backend.probe().unwrap()[0], None, 2);
    for name in report.on_device() {
        assert!(read(name).outputs.iter().all(|t| t.len() <= 1), "{name} passes");
    }
}

#[test]
fn the_gpu_conforms() {
    if is_inside() {
        return on_gpus(|_| true);
    }
    inside("float::the_gpu_conforms");
    on_gpus(|device| !device.emulated);
}

/// On those of this process's devices.
fn on_gpus(wanted: impl Fn(&Device) -> bool) {
    let gpu = GpuBackend::new();
    let devices = match gpu.probe() {
        Ok(devices) => devices,
        Err(e) => return println!("skipped: {e}"),
    };
    let host: Arc<dyn Backend> = Arc::new(CpuBackend::new());
    for device in devices.iter().filter(|d| wanted(d)) {
        let report = run(&gpu, device, Some(&host), 1);
        println!("{report}");
        assert_eq!(report.wrong(), vec![]);
        let floor = if std::env::var_os(FILTER).is_none() { FLOOR } else { 0 };
        let passed = report.on_device().len();
        assert!(passed >= floor, "{passed} cases pass on the device, {floor} did");
    }
}

/// Whether this process is such a run.
pub(super) fn is_inside() -> bool {
    emulated::is_inside()
}

/// Runs a test again on the emulated driver, telling what it says while it runs.
pub(super) fn inside(test: &str) {
    let Some(mut command) = emulated::again(test) else { return };
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        println!("{}", line.unwrap());
    }
    assert!(child.wait().unwrap().success(), "{test} fails on the emulated driver");
}
