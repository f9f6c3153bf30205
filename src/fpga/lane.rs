//! A lane: an arena on the device, staging memory on the host, and queues of its own.
//!
//! Inputs are staged and written, launches are enqueued with an event on every edge, outputs are read; nothing of it blocks, so that one
//! lane's transfers overlap another one's computing. Transfers have a queue of their own, which a board's DMA engine works off, and each
//! operator is shared out among the device's compute units, one queue each; the next operator waits for all of them.

use std::mem::ManuallyDrop;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use opencl3::command_queue::CommandQueue;
use opencl3::kernel::Kernel as ClKernel;
use opencl3::memory::ClMem;
use opencl3::types::{CL_BLOCKING, CL_NON_BLOCKING, cl_event};

use super::engine::{Engine, Memory, Setup, failed};
use super::loaded::{Loaded, Plans};
use super::plan::{Kernel, Launch, Plan};
use super::running::Running;
use super::staging::{self, Pages};
use crate::error::{Result, ScoreError};
use crate::graph::Graph;
use crate::offload::{Machine, PartLane};
use crate::scoring::{self, Call, Device, Scored, Timing};
use crate::tensor::{Tensor, Value};

/// What stands where nobody may write: no two bytes that are beside each other are equal.
static GUARD: LazyLock<[u8; 128]> = LazyLock::new(|| std::array::from_fn(|at| 0xa5 ^ at as u8));

/// The engine of a device, as what parts of a graph are made ready on.
pub(super) struct EngineMachine {
    engine: Arc<Engine>,
    guarded: bool,
}

impl EngineMachine {
    /// The engine on that device.
    pub(super) fn on(device: &Device, setup: &Setup) -> Result<Self> {
        Ok(Self { engine: Engine::on(device, setup)?, guarded: setup.guarded })
    }
}

impl Machine for EngineMachine {
    type Part = Plans;
    type Lane = DeviceLane;

    fn part(self: &Arc<Self>, graph: Graph) -> Result<Plans> {
        Ok(Plans::new(graph, self.engine.clone(), self.guarded))
    }

    fn lane(self: &Arc<Self>) -> Result<DeviceLane> {
        DeviceLane::new(self.engine.clone())
    }

    fn most_bytes(&self) -> usize {
        self.engine.most_bytes
    }
}

impl PartLane for DeviceLane {
    type Part = Plans;

    fn run(&mut self, plans: &Plans, inputs: &[Tensor], _: Option<usize>, call: &Call) -> Result<Scored> {
        let loaded = plans.of(inputs)?;
        let ran = self.run_loaded(&loaded, inputs, call)?;
        let launch = |(launch, time): (&Launch, Duration)| scoring::Launch {
            kernel: launch.kernel.name(),
            nodes: launch.origins.clone(),
            time,
        };
        let launches = loaded.plan.launches.iter().zip(ran.launches).map(launch).collect();
        let outputs = ran.outputs.into_iter().map(Value::Tensor).collect();
        Ok(Scored { outputs, timing: ran.timing, launches })
    }

    /// How large the arena has become.
    fn arena_bytes(&self) -> usize {
        self.arena.bytes
    }
}

/// One arena and its queues.
pub(super) struct DeviceLane {
    engine: Arc<Engine>,
    /// Released by hand: what hangs on the device may still write to it.
    arena: ManuallyDrop<Memory>,
    /// Moves data.
    transfers: ManuallyDrop<CommandQueue>,
    /// One for each compute unit.
    queues: Vec<ManuallyDrop<CommandQueue>>,
    /// For each compute unit, one of each kernel: arguments belong to it.
    kernels: Vec<Vec<ManuallyDrop<ClKernel>>>,
    /// Which model lies in the arena, by its number: its residents are there.
    resident: Option<u64>,
    /// The memory that inputs are written from and outputs are read into; the plan's constants that are on their way.
    staged: Staged,
    /// What the device is at, also what a call left running because its time was up.
    running: Running,
}

/// Memory that the device may touch as long as something runs.
#[derive(Default)]
struct Staged {
    inputs: Vec<Pages>,
    outputs: Vec<Pages>,
    #[allow(dead_code, reason = "held, not read")]
    loaded: Option<Arc<Loaded>>,
}

/// What a run gives: outputs, where the time went, and how long each launch took, if that was asked for.
struct Ran {
    outputs: Vec<Tensor>,
    timing: Timing,
    launches: Vec<Duration>,
}

// SAFETY: OpenCL objects may be used from any thread, one at a time; kernels, whose arguments are state, are this lane's own, and `&mut self`
// makes one user at a time.
unsafe impl Send for DeviceLane {}

impl DeviceLane {
    /// A lane whose arena grows to what its first call needs.
    fn new(engine: Arc<Engine>) -> Result<Self> {
        let arena = ManuallyDrop::new(engine.memory(0, false)?);
        let transfers = engine.queue()?;
        let queues = (0..engine.units).map(|_| engine.queue()).collect::<Result<Vec<_>>>()?;
        let kernels = |_| Kernel::ALL.iter().map(|k| engine.kernel(*k)).collect::<Result<Vec<_>>>();
        let kernels = (0..engine.units).map(kernels).collect::<Result<Vec<_>>>()?;
        let (staged, running) = (Staged::default(), Running::default());
        Ok(Self { engine, arena, transfers, queues, kernels, resident: None, staged, running })
    }

    /// Scores on a loaded plan.
    fn run_loaded(&mut self, loaded: &Arc<Loaded>, inputs: &[Tensor], call: &Call) -> Result<Ran> {
        // An earlier call may have left something running, which still uses the memory.
        self.running.wait(call)?;
        self.running.clear();
        call.check()?;
        let begin = Instant::now();
        let plan = &loaded.plan;
        if self.arena.bytes < plan.arena_bytes {
            let larger = ManuallyDrop::new(self.engine.memory(plan.arena_bytes, false)?);
            drop(ManuallyDrop::into_inner(std::mem::replace(&mut self.arena, larger)));
            self.resident = None;
        }
        self.staged.loaded = Some(loaded.clone());
        let mut ready = self.upload(loaded, inputs)?;
        let staged = begin.elapsed();
        let first_launch = self.running.len();
        for launch in &plan.launches {
            ready = self.launch(loaded, launch, &ready)?;
        }
        let first_read = self.running.len();
        self.download(loaded, &ready)?;
        for queue in self.queues.iter().chain([&self.transfers]) {
            queue.flush().map_err(|e| failed("starting a queue", e))?;
        }
        if self.engine.is_lazy {
            self.running.run_now()?;
        }
        self.running.wait(call)?;
        let waited = Instant::now();
        let outputs = plan.outputs.iter().zip(&self.staged.outputs);
        let outputs = outputs.map(|(o, bytes)| staging::unstage(o, bytes.as_slice()));
        let outputs = outputs.collect::<Result<Vec<_>>>()?;
        let timing = self.timing(begin, staged, waited, first_launch..first_read);
        let launches = match call.wants_profile() {
            true => self.launch_times(loaded, first_launch),
            false => Vec::new(),
        };
        self.running.clear();
        self.look_at_guards(plan)?;
        Ok(Ran { outputs, timing, launches })
    }

    /// Whether what belongs to nobody is as it was.
    fn look_at_guards(&mut self, plan: &Plan) -> Result<()> {
        if plan.guards.is_empty() {
            return Ok(());
        }
        let mut arena = vec![0u8; plan.arena_bytes];
        // SAFETY: as many bytes as the arena has; the read blocks.
        let read = unsafe {
            self.transfers.enqueue_read_buffer(&self.arena.buffer, CL_BLOCKING, 0, &mut arena, &[])
        };
        read.map_err(|e| failed("reading the arena", e))?;
        for (from, to) in &plan.guards {
            let bytes = arena.get(*from..*to).unwrap_or_default();
            if let Some(place) = bytes.iter().zip(GUARD.iter()).position(|(found, wrote)| found != wrote) {
                return Err(ScoreError::device_lost(format!(
                    "a kernel wrote at byte {} of the arena, {place} bytes behind a tensor that ends at {from}",
                    from + place
                )));
            }
        }
        Ok(())
    }

    /// The time of a run that ends now: staging by the host's clock, transfers by the device's, and computing is the rest.
    fn timing(
        &self,
        begin: Instant,
        staged: Duration,
        waited: Instant,
        launches: std::ops::Range<usize>,
    ) -> Timing {
        let span = |times: &[(u64, u64)]| {
            let begin = times.iter().map(|t| t.0).min()?;
            Some((begin, times.iter().map(|t| t.1).max()?))
        };
        let all = span(&self.running.times(0..self.running.len()));
        let computing = span(&self.running.times(launches));
        let (before, after) = match (all, computing) {
            (Some(all), Some(computing)) => {
                let ns = |a: u64, b: u64| Duration::from_nanos(b.saturating_sub(a));
                (ns(all.0, computing.0), ns(computing.1, all.1))
            }
            _ => (Duration::ZERO, Duration::ZERO),
        };
        let download = after + waited.elapsed();
        let whole = begin.elapsed();
        let upload = (staged + before).min(whole.saturating_sub(download));
        Timing { wait: Duration::ZERO, upload, compute: whole.saturating_sub(upload + download), download }
    }

    /// How long each launch of the plan took: from where its first unit began to where its last one ended.
    fn launch_times(&self, loaded: &Loaded, first: usize) -> Vec<Duration> {
        let mut at = first;
        let time = |launch: &Launch| {
            let units = self.units_for(launch);
            let times = self.running.times(at..at + units);
            at += units;
            let (begin, end) = (times.iter().map(|t| t.0).min(), times.iter().map(|t| t.1).max());
            Duration::from_nanos(end.unwrap_or(0).saturating_sub(begin.unwrap_or(0)))
        };
        loaded.plan.launches.iter().map(time).collect()
    }

    /// Writes inputs, and what the model has in the arena if it is not there.
    fn upload(&mut self, loaded: &Loaded, inputs: &[Tensor]) -> Result<Vec<cl_event>> {
        self.staged.inputs.resize_with(loaded.plan.inputs.len(), Pages::default);
        for (port, pages) in loaded.plan.inputs.iter().zip(&mut self.staged.inputs) {
            let missing = || ScoreError::bad_input("an input is missing");
            staging::stage(port, inputs.get(port.input).ok_or_else(missing)?, pages)?;
        }
        let queue = &self.transfers;
        let is_there = self.resident == Some(loaded.number);
        let residents = loaded.plan.residents.iter().map(|(offset, bytes)| (*offset, bytes.as_slice()));
        let guards =
            loaded.plan.guards.iter().map(|(from, to)| (*from, GUARD.get(..to - from).unwrap_or_default()));
        let residents = guards.chain(residents).filter(|_| !is_there);
        let ports = loaded.plan.inputs.iter().zip(&self.staged.inputs);
        let writes = residents.chain(ports.map(|(port, bytes)| (port.offset, bytes.as_slice())));
        let mut written = Vec::new();
        // Until all of it is on its way, nobody can say what is there.
        self.resident = None;
        for (offset, bytes) in writes.filter(|(_, bytes)| !bytes.is_empty()) {
            // SAFETY: the range lies within the arena, by plan; the bytes outlive the write: `staged` holds them, and the plan, until what runs
            // has ended.
            let event = unsafe {
                queue.enqueue_write_buffer(&mut self.arena.buffer, CL_NON_BLOCKING, offset, bytes, &[])
            };
            written.push(self.running.push(event.map_err(|e| failed("writing an input", e))?));
        }
        queue.flush().map_err(|e| failed("starting a queue", e))?;
        self.resident = Some(loaded.number);
        Ok(written)
    }

    /// Reads the outputs once everything before them is done.
    fn download(&mut self, loaded: &Loaded, after: &[cl_event]) -> Result<()> {
        let outputs = &loaded.plan.outputs;
        self.staged.outputs.resize_with(outputs.len(), Pages::default);
        for (output, pages) in outputs.iter().zip(&mut self.staged.outputs) {
            pages.resize(staging::extent_bytes(&output.shape, &output.strides, output.size))?;
        }
        let queue = &self.transfers;
        for (output, bytes) in outputs.iter().zip(&mut self.staged.outputs) {
            if bytes.as_slice().is_empty() {
                continue;
            }
            // SAFETY: the range lies within the arena, by plan; the staging memory is this lane's until what runs has ended.
            let event = unsafe {
                let (to, at) = (bytes.as_mut_slice(), output.offset);
                queue.enqueue_read_buffer(&self.arena.buffer, CL_NON_BLOCKING, at, to, after)
            };
            self.running.push(event.map_err(|e| failed("reading a result", e))?);
        }
        Ok(())
    }

    /// How many compute units a launch is shared out among.
    fn units_for(&self, launch: &Launch) -> usize {
        self.queues.len().min(launch.work).max(1)
    }

    /// Shares an operator out among the compute units.
    fn launch(&mut self, loaded: &Loaded, launch: &Launch, after: &[cl_event]) -> Result<Vec<cl_event>> {
        let units = self.units_for(launch);
        let number = Kernel::ALL.iter().position(|k| *k == launch.kernel).unwrap_or(0);
        let mut handles = Vec::with_capacity(units);
        for unit in 0..units {
            let (first, last) = (launch.work * unit / units, launch.work * (unit + 1) / units);
            let (Some(queue), Some(kernel)) =
                (self.queues.get(unit), self.kernels.get(unit).and_then(|k| k.get(number)))
            else {
                return Err(ScoreError::internal("a compute unit without a queue"));
            };
            let ints = [launch.at, first, last].map(|v| i32::try_from(v).unwrap_or(i32::MAX));
            // SAFETY: six arguments as the kernels declare them (ENGINE_ARGUMENTS): three buffers and three ints; the buffers are alive until the
            // events are waited for. One work-item, as the kernels require.
            let event = unsafe {
                let set = |at: u32, value: &i32| kernel.set_arg(at, value);
                kernel
                    .set_arg(0, &self.arena.buffer.get())
                    .and_then(|()| kernel.set_arg(1, &loaded.constants.memory.buffer.get()))
                    .and_then(|()| kernel.set_arg(2, &loaded.words.buffer.get()))
                    .and_then(|()| ints.iter().zip(3..).try_for_each(|(value, at)| set(at, value)))
                    .map_err(|e| failed("setting an argument", e))?;
                let one = [1usize];
                queue.enqueue_nd_range_kernel(
                    kernel.get(),
                    1,
                    std::ptr::null(),
                    one.as_ptr(),
                    one.as_ptr(),
                    after,
                )
            };
            handles.push(self.running.push(event.map_err(|e| failed("starting a kernel", e))?));
            queue.flush().map_err(|e| failed("starting a queue", e))?;
        }
        Ok(handles)
    }
}

impl Drop for DeviceLane {
    fn drop(&mut self) {
        // Buffers must not go while a kernel uses them. One that hangs keeps them, and everything that it may still touch.
        let _ = if self.running.hangs() { Ok(()) } else { self.running.wait(&Call::new()) };
        if self.running.hangs() {
            tracing::error!("a kernel hangs: a lane is left behind with what the device may still touch");
            return std::mem::forget((std::mem::take(&mut self.running), std::mem::take(&mut self.staged)));
        }
        let running = std::mem::take(&mut self.running);
        let release = || {
            drop(running);
            // SAFETY: this is where it ends; nothing uses the arena behind it.
            unsafe { ManuallyDrop::drop(&mut self.arena) };
            for kernel in self.kernels.drain(..).flatten() {
                drop(ManuallyDrop::into_inner(kernel));
            }
            for queue in self.queues.drain(..) {
                drop(ManuallyDrop::into_inner(queue));
            }
            // SAFETY: as above.
            unsafe { ManuallyDrop::drop(&mut self.transfers) };
        };
        // A release that fails on a lost device panics in `opencl3`.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(release));
    }
}

impl std::fmt::Debug for DeviceLane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceLane({} bytes)", self.arena.bytes)
    }
}
