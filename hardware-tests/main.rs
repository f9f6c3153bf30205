//! Suites × devices: every suite is a value, every device of every backend runs it.
//!
//! A device that is not there is a skip with the backend's reason, printed; a backend that can find
//! devices and not run models yet is the same. What fails is listed in full, not only the first case.
//! `TRISCORE_DEVICES=cpu,gpu` says which backends must be there: one of them missing is then a failure. `TRISCORE_ONLY=gpu` runs on those alone.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may assert its way forward"
)]

mod cases;
#[cfg(feature = "cuda")]
mod cuda_provider;
mod inputs;
mod networks;
mod suites;

use std::sync::Arc;

use triscore::graph::encode;
use triscore::model::ReadLimits;
use triscore::quantize::{Calibration, Scheme, quantize};
use triscore::scoring::FaultBackend;
use triscore::{Backend, BackendKind, CompileOptions, Device, ErrorKind, Model};

/// One suite: a name, and what it does with a device.
pub(crate) struct Suite {
    /// As printed.
    pub(crate) name: &'static str,
    /// Returns the failures.
    pub(crate) run: fn(&Target) -> Vec<String>,
}

/// A device under test.
pub(crate) struct Target {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) device: Device,
}

impl Target {
    /// A model below `models/` as this device takes it: an FPGA computes with integers, so it gets the quantised one. `None`, with
    /// the reason printed, for a model of which nothing has an integer form.
    pub(crate) fn model(&self, name: &str) -> Option<Model> {
        let model = match name {
            // Seconds of work by ONNX Runtime's own loop; what an FPGA is slow at is work.
            "tiny/slow.onnx" if self.is_fpga() => {
                Model::from_bytes(networks::slow(), &ReadLimits::default()).unwrap()
            }
            // A GPU ends a run between two kernels, so many short ones are work.
            "tiny/slow.onnx" if self.device.backend == BackendKind::Gpu => {
                Model::from_bytes(networks::deep(), &ReadLimits::default()).unwrap()
            }
            _ => cases::model(name),
        };
        if !self.is_fpga() {
            return match self.backend.place(&model, &self.device) {
                Ok(placement) if placement.on_device() == 0 => self.skip(name, &placement.summary()),
                Ok(_) => Some(model),
                Err(e) => self.skip(name, &e.to_string()),
            };
        }
        let samples = match cases::calibration(name, model.signature().inputs()) {
            Ok(samples) => samples,
            Err(e) => return self.skip(name, &e),
        };
        let cpu = triscore::cpu::CpuBackend::new();
        let done = quantize(&model, &samples, &Scheme::default(), Calibration::MinMax, &cpu, &|_, _, _| {});
        let quantised = match done {
            Ok(done) => Model::from_bytes(encode(&done.model).unwrap(), &ReadLimits::default()).unwrap(),
            Err(e) => return self.skip(name, &e.to_string()),
        };
        match self.backend.place(&quantised, &self.device).unwrap() {
            placement if placement.on_device() == 0 => self.skip(name, &placement.summary()),
            _ => Some(quantised),
        }
    }

    /// How it is compiled: what a device does not take of a model, the CPU runs.
    pub(crate) fn options(&self) -> CompileOptions {
        let has_host = matches!(self.device.backend, BackendKind::Fpga | BackendKind::Gpu);
        let host: Option<Arc<dyn Backend>> = match has_host {
            true => Some(Arc::new(triscore::cpu::CpuBackend::new())),
            false => None,
        };
        CompileOptions { host, ..CompileOptions::default() }
    }

    /// So many of what is done often; a tenth where a GPU is emulated thread by thread.
    pub(crate) fn times(&self, count: usize) -> usize {
        let is_slow = self.device.backend == BackendKind::Gpu && self.device.emulated;
        if is_slow { count.div_ceil(10) } else { count }
    }

    /// Whether models must be quantised first.
    pub(crate) fn is_fpga(&self) -> bool {
        self.device.backend == BackendKind::Fpga
    }

    fn skip(&self, name: &str, reason: &str) -> Option<Model> {
        println!("{}: not run: {name}: {reason}", self.device);
        None
    }
}

fn backends() -> Vec<Arc<dyn Backend>> {
    vec![
        #[cfg(feature = "cpu")]
        Arc::new(triscore::cpu::CpuBackend::new()),
        #[cfg(feature = "cuda")]
        Arc::new(triscore::gpu::GpuBackend::new()),
        #[cfg(feature = "opencl")]
        Arc::new(triscore::fpga::FpgaBackend::new()),
    ]
}

#[test]
fn every_suite_passes_on_every_device() {
    let required = std::env::var("TRISCORE_DEVICES").unwrap_or_else(|_| "cpu".to_owned());
    let mut failures = Vec::new();
    let only = std::env::var("TRISCORE_ONLY").unwrap_or_default();
    for backend in backends() {
        let kind = backend.kind();
        if !only.is_empty() && !only.split(',').any(|o| o == kind.to_string()) {
            continue;
        }
        let is_required = required.split(',').any(|r| r == kind.to_string());
        let targets = match targets(&backend) {
            Ok(targets) => targets,
            Err(reason) => {
                println!("{kind}: skipped: {reason}");
                if is_required {
                    failures.push(format!("{kind}: required and not there: {reason}"));
                }
                continue;
            }
        };
        for target in &targets {
            for suite in suites::ALL {
                let start = std::time::Instant::now();
                let failed = (suite.run)(target);
                let verdict = if failed.is_empty() { "pass" } else { "FAIL" };
                println!("{}: {}: {verdict} ({:.1?})", target.device, suite.name, start.elapsed());
                failures
                    .extend(failed.into_iter().map(|f| format!("{}: {}: {f}", target.device, suite.name)));
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// The devices of a backend that can run models.
fn targets(backend: &Arc<dyn Backend>) -> Result<Vec<Target>, String> {
    let devices = backend.probe().map_err(|e| e.to_string())?;
    let model = cases::model("tiny/identity_float.onnx");
    let mut targets = Vec::new();
    for device in devices {
        match backend.place(&model, &device) {
            Ok(_) => targets.push(Target { backend: backend.clone(), device }),
            Err(e) if e.kind() == ErrorKind::Unsupported => return Err(format!("{device}: {e}")),
            Err(e) => return Err(format!("{device}: place failed: {e}")),
        }
    }
    Ok(targets)
}

/// The suites can fail: a backend that answers wrong is caught by them.
#[test]
fn a_backend_that_answers_wrong_is_caught() {
    let backend: Arc<dyn Backend> = Arc::new(FaultBackend::new(BackendKind::Custom("fault")));
    let device = backend.probe().unwrap().remove(0);
    let target = Target { backend, device };
    for name in ["answers", "accuracy"] {
        let suite = suites::ALL.iter().find(|s| s.name == name).unwrap();
        assert!(!(suite.run)(&target).is_empty(), "{name} passes for a backend that answers anything");
    }
}
