//! How long a model takes on a GPU, part by part: what a scorer's own timing cannot tell.
//!
//! A scorer times a call as its caller sees it, in one piece of host memory and out of another. To be held against others who replay a captured
//! graph with everything in place, and against what the hardware can do, the parts are timed alone: the graph with its inputs resident, the
//! transfers from and to pinned memory, and all three in a row. All of it is the executor's own code, on a lane of its own.

use std::sync::Arc;
use std::time::Instant;

use super::images::Images;
use super::lane::GpuLane;
use super::loaded::Loaded;
use super::machine::GpuMachine;
use super::part::Gpu;
use super::plan::{Settings, plan};
use super::{ADVICE, COMPILE, GpuBackend, placed};
use crate::error::{Result, ScoreError};
use crate::graph::fold;
use crate::model::Model;
use crate::offload::{Machine, PartLane, Placed, require_device};
use crate::scoring::{Call, CompileOptions, Device, Precision};
use crate::tensor::Tensor;

use rayon::iter::{IntoParallelIterator, ParallelIterator};

/// Rounds before the ones that count: the first captures the graph, and clocks rise.
const UNCOUNTED: usize = 3;

/// What was measured. Times are in milliseconds, in the order in which they were taken.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Measured {
    /// Where. What ran on an emulated device tells nothing of a real one.
    pub device: Device,
    /// In which precision.
    pub precision: Precision,
    /// How many rows each run had.
    pub rows: usize,
    /// Where the model's nodes run, in a line.
    pub placement: String,
    /// Kernels that are launched for a run.
    pub kernels: usize,
    /// Bytes of device memory for a run: inputs, outputs, and what is between them.
    pub arena_bytes: usize,
    /// Bytes of constants in the device's memory.
    pub constant_bytes: usize,
    /// Bytes of the inputs of a run.
    pub upload_bytes: usize,
    /// Bytes of the outputs of a run.
    pub download_bytes: usize,
    /// Whether the driver measured, between events on the stream; else these are the host's times from order to end.
    pub by_events: bool,
    /// One replay of the captured graph, the inputs resident on the device.
    pub compute: Vec<f64>,
    /// The inputs from pinned memory.
    pub upload: Vec<f64>,
    /// The outputs into pinned memory.
    pub download: Vec<f64>,
    /// A whole run from pinned memory to pinned memory: upload, replay, download. What it takes longer than its parts is overhead.
    pub whole: Vec<f64>,
}

/// What a round consists of.
#[derive(Clone, Copy)]
struct Parts {
    upload: bool,
    replay: bool,
    download: bool,
}

impl GpuBackend {
    /// Measures a model on a device, for a sample batch of that many rows: `rounds` replays with the inputs resident, as many runs from and to
    /// pinned memory, and as many transfers alone. A few more come before, uncounted.
    ///
    /// # Errors
    /// `Unsupported` for a model that is not wholly on the device, naming what is not; what [`compile`](crate::Backend::compile) and a run say.
    pub fn measure(
        &self,
        model: &Model,
        device: &Device,
        options: &CompileOptions,
        rows: usize,
        rounds: usize,
    ) -> Result<Measured> {
        let settings = self.settings(options.precision);
        let placed = placed(model, settings)?;
        require_whole(&placed)?;
        let device = device.clone();
        let load = move || {
            let part = whole(&placed)?;
            let gpu = Arc::new(Gpu::on(&device, settings)?);
            let ready = gpu.part(part.graph.clone())?;
            let loaded = ready.plan_for(&inputs(&placed, rows)?, None)?;
            Ok((placed, device, gpu, loaded))
        };
        // As compiling is: a driver may hang. What is run is waited for with a bound of its own.
        let (placed, device, gpu, loaded) = COMPILE.call(load)?;
        let machine = &gpu.machine;
        machine.enter()?;
        let mut lane = gpu.lane()?;
        lane.ready(&loaded)?;
        lane.upload(&loaded, &inputs(&placed, rows)?, None)?;
        lane.mark(3)?;
        lane.wait(&Call::new())?;
        let mut times = |upload, replay, download| {
            let parts = Parts { upload, replay, download };
            let all = (0..UNCOUNTED + rounds).map(|_| round(machine, &mut lane, &loaded, parts));
            all.skip(UNCOUNTED).collect::<Result<Vec<_>>>()
        };
        let compute = times(false, true, false)?;
        let upload = times(true, false, false)?;
        let download = times(false, false, true)?;
        let whole = times(true, true, true)?;
        Ok(Measured {
            device,
            precision: options.precision,
            rows,
            placement: placed.placement.summary(),
            kernels: loaded.plan.launches.len(),
            arena_bytes: lane.arena_bytes(),
            constant_bytes: loaded.constants.iter().flatten().map(|c| c.memory.bytes).sum(),
            upload_bytes: loaded.plan.inputs.iter().map(|(_, port)| port.bytes).sum(),
            download_bytes: loaded.plan.outputs.iter().map(|port| port.bytes).sum(),
            by_events: machine.times_events,
            compute,
            upload,
            download,
            whole,
        })
    }

    /// Compiles what [`measure`](Self::measure) and a scorer launch for that many rows, for an architecture (`sm_90a`) and without a device, into
    /// the kernel cache (`TRISCORE_KERNEL_CACHE`): how many kernels it looked at. For those who carry a cache to a machine without NVRTC.
    ///
    /// # Errors
    /// `Unsupported` as [`measure`](Self::measure); `BadConfig` for what is no architecture; `Unavailable` where NVRTC is missing; `Internal` for a kernel that does not compile.
    #[doc(hidden)]
    pub fn compile_ahead(
        &self,
        model: &Model,
        architecture: &str,
        options: &CompileOptions,
        rows: usize,
    ) -> Result<usize> {
        let images = Images::for_architecture(architecture)?;
        let settings = Settings { tensor_cores: images.tensor_cores(), ..self.settings(options.precision) };
        let placed = placed(model, settings)?;
        require_whole(&placed)?;
        let sample = inputs(&placed, rows)?;
        let shapes = sample.iter().map(Tensor::shape).collect::<Vec<_>>();
        let mut bound = whole(&placed)?.graph.bind(&shapes)?;
        fold::fold(&mut bound, None)?;
        let plan = plan(&bound, settings)?;
        let name = |at: usize| {
            let mut all = plan.preparations.iter().chain(&plan.launches);
            all.find(|launch| launch.source == at).map_or("", |launch| launch.kernel)
        };
        let sources = plan.sources.iter().enumerate().collect::<Vec<_>>();
        sources.into_par_iter().try_for_each(|(at, text)| images.image(name(at), text).map(drop))?;
        Ok(plan.sources.len())
    }
}

/// Refuses a model of which the host would run something.
fn require_whole(placed: &Placed) -> Result<()> {
    require_device(placed, false, "a GPU", ADVICE)
}

/// The one part that is the whole model.
fn whole(placed: &Placed) -> Result<&crate::graph::Part> {
    match placed.parts.as_slice() {
        [part] if part.on_device => Ok(part),
        parts => Err(ScoreError::unsupported(format!(
            "only a model that is one part on the device is measured, and this one has {} parts",
            parts.len()
        ))),
    }
}

/// A sample batch, in the order in which the part takes its inputs.
fn inputs(placed: &Placed, rows: usize) -> Result<Vec<Tensor>> {
    let given = placed.sample.rows(rows)?;
    let missing = || ScoreError::internal("a part reads what the model is not given");
    let of = |id| {
        let at = placed.graph.inputs().iter().position(|input| input == id);
        at.and_then(|at| given.get(at).cloned()).ok_or_else(missing)
    };
    whole(placed)?.graph.inputs().iter().map(of).collect()
}

/// One round, in milliseconds.
fn round(machine: &GpuMachine, lane: &mut GpuLane, loaded: &Arc<Loaded>, parts: Parts) -> Result<f64> {
    let begin = Instant::now();
    lane.running = Some(loaded.clone());
    lane.mark(0)?;
    if parts.upload {
        lane.send_again(loaded)?;
    }
    if parts.replay {
        lane.replay(loaded)?;
    }
    if parts.download {
        lane.download(loaded)?;
    }
    lane.mark(3)?;
    lane.wait(&Call::new())?;
    let time = if machine.times_events { lane.between(0, 3) } else { begin.elapsed() };
    Ok(time.as_secs_f64() * 1e3)
}
