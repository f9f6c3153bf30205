//! A lane: a stream, an arena on the device, and staging memory that the device reads and writes at full speed.
//!
//! A run copies the inputs up, replays the plan's kernels as one captured graph, and copies the outputs down, all of it ordered at once on the
//! lane's stream: the host waits once, at the end, and two lanes overlap one's transfers with the other's kernels. Nothing is
//! allocated on the device for a run whose shapes came before.

mod library;
mod tensors;

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cudarc::driver::result as cuda;
use cudarc::driver::sys::{CUevent_flags, CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaEvent, CudaGraph, CudaStream};

use super::chosen::Chosen;
use super::cudnn::Session;
use super::loaded::Loaded;
use super::machine::{GpuMachine, Memory, Pinned};
use super::plan::{Launch, PlannedArgument, Port};
use crate::error::{Result, ScoreError};
use crate::offload::{ByShape, hang_limit};
use crate::scoring::{self, Call, Scored, Timing};
use crate::tensor::{AlignedBytes, Tensor, Value};

/// The environment variable that says for how many seconds a GPU may be at one run before it counts as hanging.
pub(super) const HANG_VARIABLE: &str = "TRISCORE_GPU_HANG_S";

/// A run takes milliseconds; an emulated one, minutes.
const HANG: Duration = Duration::from_secs(600);

/// A result that comes soon is waited for without sleeping.
const SPIN: Duration = Duration::from_micros(200);
/// Then one looks this often.
const LOOK: Duration = Duration::from_micros(50);

/// One stream and its memory.
pub(super) struct GpuLane {
    machine: Arc<GpuMachine>,
    stream: Arc<CudaStream>,
    /// One arena; or one for each tensor of the plan that ran last, where they are kept apart.
    arenas: Vec<Memory>,
    /// The plan that ran last, by its number.
    arenas_of: Option<u64>,
    /// What libraries use besides tensors, one launch after the other.
    workspace: Option<Memory>,
    /// What orders convolutions of a library, from the first one on.
    session: Option<Session>,
    /// Captured graphs and the plans that they are of, by the plan's number; the arena's address is in them.
    graphs: HashMap<u64, (Arc<Loaded>, CudaGraph)>,
    /// Whose preparations are in the arena, by the plan's number.
    prepared: Option<u64>,
    up: Option<Pinned>,
    down: Option<Pinned>,
    /// Before the first copy, after it, after the kernels, after the last copy.
    marks: [CudaEvent; 4],
    /// What the device may still be at: an earlier call that gave up waiting.
    pub(super) running: Option<Arc<Loaded>>,
}

// SAFETY: the driver's objects may be used from any thread, one at a time, and `&mut self` makes one user at a time. A graph is not thread-safe, and
// not shared.
unsafe impl Send for GpuLane {}

impl GpuLane {
    /// A lane whose memory grows to what its first call needs.
    pub(super) fn new(machine: Arc<GpuMachine>) -> Result<Self> {
        machine.enter()?;
        let failed = |e| machine.failed("making a stream", e);
        let stream = machine.context.new_stream().map_err(failed)?;
        let mark = || machine.context.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(failed);
        let marks = [mark()?, mark()?, mark()?, mark()?];
        let (arenas, graphs) = (Vec::new(), HashMap::new());
        Ok(Self {
            machine,
            stream,
            arenas,
            arenas_of: None,
            workspace: None,
            session: None,
            graphs,
            prepared: None,
            up: None,
            down: None,
            marks,
            running: None,
        })
    }

    /// Memory for that plan's tensors and ports.
    fn make_room(&mut self, loaded: &Loaded) -> Result<()> {
        let wanted = &loaded.plan.arenas;
        let fits =
            wanted.len() == self.arenas.len() && self.arenas.iter().zip(wanted).all(|(a, n)| a.bytes >= *n);
        // Tensors that are kept apart have memory that no other plan has written to.
        let is_own = wanted.len() == 1 || self.arenas_of == Some(loaded.number);
        if !fits || !is_own {
            // The addresses are in the graphs.
            self.graphs.clear();
            self.arenas.clear();
            self.prepared = None;
            for bytes in wanted {
                self.arenas.push(self.machine.memory(*bytes)?);
            }
        }
        self.arenas_of = Some(loaded.number);
        loaded.chosen.all().try_for_each(|chosen| self.make_ready(chosen))?;
        let up = loaded.plan.inputs.iter().map(|(_, p)| room(p)).sum::<usize>();
        let down = loaded.plan.outputs.iter().map(room).sum::<usize>();
        for (pinned, bytes) in [(&mut self.up, up), (&mut self.down, down)] {
            if pinned.as_ref().is_none_or(|p| p.len() < bytes) {
                *pinned = None;
                *pinned = Some(self.machine.pinned(bytes)?);
            }
        }
        Ok(())
    }

    fn address(&self, loaded: &Loaded, argument: &PlannedArgument) -> Result<u64> {
        let missing = || ScoreError::internal("an address in memory that is not there");
        Ok(match argument {
            PlannedArgument::Arena(arena, offset) => {
                self.arenas.get(*arena).ok_or_else(missing)?.address + *offset as u64
            }
            PlannedArgument::Constant(constant, offset) => {
                let constant = loaded.constants.get(*constant).and_then(Option::as_ref);
                constant.ok_or_else(missing)?.memory.address + *offset as u64
            }
            PlannedArgument::Null => 0,
            PlannedArgument::Word(word) => u64::from(*word),
            PlannedArgument::Tensor(map) => self.address(loaded, &map.at)?,
        })
    }

    /// An argument's bytes, as C lays them out: pointers come before words in every struct.
    fn bytes(&self, loaded: &Loaded, argument: &[PlannedArgument]) -> Result<Vec<u64>> {
        let mut bytes = Vec::new();
        for part in argument {
            if let PlannedArgument::Tensor(map) = part {
                bytes.extend(self.encoded(map, self.address(loaded, part)?)?);
                continue;
            }
            let address = self.address(loaded, part)?.to_ne_bytes();
            let length = if matches!(part, PlannedArgument::Word(_)) { 4 } else { 8 };
            bytes.extend(address.into_iter().take(length));
        }
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        Ok(bytes.as_chunks::<8>().0.iter().map(|b| u64::from_ne_bytes(*b)).collect())
    }

    /// Orders one launch: the kernel, or what was chosen instead.
    fn launch(&self, loaded: &Loaded, at: usize, launch: &Launch) -> Result<()> {
        match loaded.chosen.at(at) {
            Some(chosen) => self.run_library(loaded, launch, chosen),
            None => self.launch_kernel(loaded, at, launch),
        }
    }

    fn launch_kernel(&self, loaded: &Loaded, at: usize, launch: &Launch) -> Result<()> {
        let function =
            loaded.functions.get(at).ok_or_else(|| ScoreError::internal("a launch without a kernel"))?;
        let arguments = launch.arguments.iter().map(|a| self.bytes(loaded, a)).collect::<Result<Vec<_>>>()?;
        let mut pointers =
            arguments.iter().map(|a| a.as_ptr().cast_mut().cast::<c_void>()).collect::<Vec<_>>();
        let [x, y, z] = launch.grid;
        // SAFETY: the arguments are as the kernel's source, made by the same planner, declares them; the driver copies them before it returns. All
        // memory that they point to lives until the stream has been waited for: the lane holds arenas and plan.
        let ordered = unsafe {
            cuda::launch_kernel(
                function.handle,
                (x, y, z),
                (launch.block, 1, 1),
                launch.shared_bytes,
                self.stream.cu_stream(),
                &mut pointers,
            )
        };
        ordered.map_err(|e| self.machine.failed(&format!("launching {}", launch.kernel), e))
    }

    /// Sets what is zero before a plan's first launch.
    fn zero(&self, loaded: &Loaded) -> Result<()> {
        let Some((arena, offset, bytes)) = loaded.plan.zeroed else { return Ok(()) };
        let at = self.arenas.get(arena).map_or(0, |arena| arena.address) + offset as u64;
        // SAFETY: so many bytes of the arena are for this, by plan; what the lane has ordered before comes before it.
        let zeroed = unsafe { cuda::memset_d8_async(at, 0, bytes, self.stream.cu_stream()) };
        zeroed.map_err(|e| self.machine.failed("setting memory to zero", e))
    }

    /// Launches what is computed once, unless it is there.
    fn prepare(&mut self, loaded: &Arc<Loaded>) -> Result<()> {
        let key = Some(loaded.number);
        if self.prepared != key {
            self.prepared = None;
            self.zero(loaded)?;
            loaded.plan.preparations.iter().enumerate().try_for_each(|(at, l)| self.launch(loaded, at, l))?;
            self.prepared = key;
        }
        self.warm_up(loaded)
    }

    /// What is ordered, as a graph.
    fn capture(&self, order: impl FnOnce() -> Result<()>) -> Result<Option<CudaGraph>> {
        let failed = |e| self.machine.failed("capturing a graph", e);
        self.stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .map_err(failed)?;
        let ordered = order();
        // Ended whatever happened: a stream must not stay in a capture.
        let graph = self.stream.end_capture(CUgraphInstantiate_flags(0));
        ordered?;
        graph.map_err(failed)
    }

    /// Gets the plan ready for a run: the device may be at it until [`Self::wait`] comes back.
    pub(super) fn ready(&mut self, loaded: &Arc<Loaded>) -> Result<()> {
        self.make_room(loaded)?;
        self.running = Some(loaded.clone());
        self.prepare(loaded)
    }

    /// The plan's kernels as one graph, captured when it is first wanted.
    pub(super) fn replay(&mut self, loaded: &Arc<Loaded>) -> Result<()> {
        if loaded.plan.launches.is_empty() {
            return Ok(());
        }
        let key = loaded.number;
        if !self.graphs.contains_key(&key) {
            let launch = || loaded.launches().try_for_each(|(at, l)| self.launch(loaded, at, l));
            let Some(graph) = self.capture(launch)? else { return Ok(()) };
            if self.graphs.len() >= ByShape::<Loaded>::MOST {
                self.graphs.clear();
            }
            self.graphs.insert(key, (loaded.clone(), graph));
        }
        match self.graphs.get(&key) {
            Some((_, graph)) => graph.launch().map_err(|e| self.machine.failed("launching a graph", e)),
            None => Ok(()),
        }
    }

    pub(super) fn mark(&self, at: usize) -> Result<()> {
        let Some(event) = self.marks.get(at) else { return Ok(()) };
        event.record(&self.stream).map_err(|e| self.machine.failed("recording an event", e))
    }

    /// Copies the inputs into staging memory, and has them copied up from there. Where they have so many rows, and more are run, zeros come behind them: a token, a
    /// place and a class that there is, whatever they stand for.
    pub(super) fn upload(&mut self, loaded: &Loaded, inputs: &[Tensor], rows: Option<usize>) -> Result<()> {
        let mut at = 0;
        for (input, port) in &loaded.plan.inputs {
            let missing = || ScoreError::bad_input("an input is missing");
            let bytes = inputs.get(*input).ok_or_else(missing)?.as_bytes();
            let staging = self.up.as_mut().and_then(|p| p.as_mut_slice().get_mut(at..at + port.bytes));
            let staging = staging.ok_or_else(|| ScoreError::internal("no room to stage an input"))?;
            let wanted = bytes_of(port, rows);
            if bytes.len() != wanted {
                return Err(ScoreError::bad_input(format!(
                    "an input has {} bytes, and {wanted} were planned for",
                    bytes.len()
                )));
            }
            let whole = || ScoreError::internal("more rows than were planned for");
            let (own, beyond) = staging.split_at_mut_checked(wanted).ok_or_else(whole)?;
            own.copy_from_slice(bytes);
            beyond.fill(0);
            self.send(at, port)?;
            at += room(port);
        }
        Ok(())
    }

    /// Has all inputs copied up that lie in staging memory since the last upload.
    pub(super) fn send_again(&self, loaded: &Loaded) -> Result<()> {
        let mut at = 0;
        loaded.plan.inputs.iter().try_for_each(|(_, port)| {
            let sent = self.send(at, port);
            at += room(port);
            sent
        })
    }

    /// Has one input copied up, from that place in staging memory.
    fn send(&self, at: usize, port: &Port) -> Result<()> {
        let staged = self.up.as_ref().map_or(&[][..], Pinned::as_slice);
        let staging = staged.get(at..at + port.bytes).unwrap_or_default();
        if staging.is_empty() {
            return Ok(());
        }
        let (arena, offset) = port.place;
        let to = self.arenas.get(arena).map_or(0, |a| a.address) + offset as u64;
        // SAFETY: pinned memory that nobody changes before the stream was waited for; as many bytes as the tensor has in the arena, by plan.
        let copied = unsafe { cuda::memcpy_htod_async(to, staging, self.stream.cu_stream()) };
        copied.map_err(|e| self.machine.failed("copying an input", e))
    }

    pub(super) fn download(&mut self, loaded: &Loaded) -> Result<()> {
        let mut at = 0;
        for port in &loaded.plan.outputs {
            let (arena, offset) = port.place;
            let from = self.arenas.get(arena).map_or(0, |a| a.address) + offset as u64;
            let staging = self.down.as_mut().and_then(|p| p.as_mut_slice().get_mut(at..at + port.bytes));
            let staging = staging.ok_or_else(|| ScoreError::internal("no room to stage an output"))?;
            at += room(port);
            if staging.is_empty() {
                continue;
            }
            // SAFETY: pinned memory that nobody touches before the stream was waited for; the range lies within the arena, by plan.
            let copied = unsafe { cuda::memcpy_dtoh_async(staging, from, self.stream.cu_stream()) };
            copied.map_err(|e| self.machine.failed("copying a result", e))?;
        }
        Ok(())
    }

    /// Waits for everything that was ordered, until the call's time is up or the device hangs.
    pub(super) fn wait(&mut self, call: &Call) -> Result<()> {
        let begin = Instant::now();
        let hang = hang_limit(HANG_VARIABLE, HANG);
        loop {
            let Some(last) = self.marks.last() else { return Ok(()) };
            if last.try_is_complete().map_err(|e| self.machine.failed("computing", e))? {
                self.running = None;
                return Ok(());
            }
            let waited = begin.elapsed();
            if waited >= hang {
                let what = format!(
                    "a run has not come back after {:.1} s: the GPU hangs ({HANG_VARIABLE} says how long it may)",
                    hang.as_secs_f64()
                );
                return Err(ScoreError::device_lost(what));
            }
            call.check()?;
            match waited < SPIN {
                true => std::hint::spin_loop(),
                false => std::thread::sleep(LOOK),
            }
        }
    }

    /// The outputs; of each so many rows, if it is said.
    fn outputs(&self, loaded: &Loaded, rows: Option<usize>) -> Result<Vec<Value>> {
        let mut at = 0;
        let output = |port: &Port| {
            let mut shape = port.shape.clone();
            if let (Some(rows), Some(first)) = (rows, shape.first_mut()) {
                *first = rows;
            }
            let staged = self.down.as_ref().and_then(|p| p.as_slice().get(at..at + bytes_of(port, rows)));
            at += room(port);
            let bytes = AlignedBytes::copy_of(staged.unwrap_or_default())?;
            Ok(Value::Tensor(Tensor::new(port.dtype, &shape, bytes)?))
        };
        loaded.plan.outputs.iter().map(output).collect()
    }

    pub(super) fn between(&self, from: usize, to: usize) -> Duration {
        let (Some(from), Some(to)) = (self.marks.get(from), self.marks.get(to)) else {
            return Duration::ZERO;
        };
        let ms = if self.machine.times_events { from.elapsed_ms(to).unwrap_or(0.0) } else { 0.0 };
        Duration::try_from_secs_f64(f64::from(ms) / 1e3).unwrap_or_default()
    }

    /// Launches one by one, each measured alone.
    fn profile(&mut self, loaded: &Arc<Loaded>, call: &Call) -> Result<Vec<scoring::Launch>> {
        let mut launches = Vec::new();
        for (at, launch) in loaded.launches() {
            let begin = Instant::now();
            self.mark(1)?;
            self.launch(loaded, at, launch)?;
            self.mark(3)?;
            self.wait(call)?;
            let time = if self.machine.times_events { self.between(1, 3) } else { begin.elapsed() };
            let kernel = loaded.chosen.at(at).map_or(launch.kernel, Chosen::name);
            launches.push(scoring::Launch { kernel, nodes: launch.origins.clone(), time });
        }
        Ok(launches)
    }

    /// Waits for what an earlier call has left running.
    pub(super) fn wait_for_last(&mut self, call: &Call) -> Result<()> {
        self.machine.enter()?;
        if self.running.is_some() {
            self.wait(call)?;
        }
        call.check()
    }

    /// Runs a plan; of each output so many rows are wanted, if it is said.
    pub(super) fn run_plan(
        &mut self,
        loaded: &Arc<Loaded>,
        inputs: &[Tensor],
        rows: Option<usize>,
        call: &Call,
    ) -> Result<Scored> {
        let begin = Instant::now();
        self.ready(loaded)?;
        self.mark(0)?;
        self.upload(loaded, inputs, rows)?;
        let launches = match call.wants_profile() {
            true => {
                self.mark(3)?;
                self.wait(call)?;
                self.profile(loaded, call)?
            }
            false => Vec::new(),
        };
        self.mark(1)?;
        if launches.is_empty() {
            self.replay(loaded)?;
        }
        self.mark(2)?;
        self.download(loaded)?;
        self.mark(3)?;
        self.wait(call)?;
        let outputs = self.outputs(loaded, rows)?;
        let whole = begin.elapsed();
        let computing = match launches.is_empty() {
            true => self.between(1, 2),
            false => launches.iter().map(|l| l.time).sum(),
        };
        let download = self.between(2, 3).min(whole);
        let compute =
            if self.machine.times_events { computing.min(whole.saturating_sub(download)) } else { whole };
        let upload = whole.saturating_sub(compute + download);
        Ok(Scored { outputs, timing: Timing { wait: Duration::ZERO, upload, compute, download }, launches })
    }

    /// What it has of the device's memory.
    pub(super) fn memory_bytes(&self) -> usize {
        self.arenas.iter().chain(&self.workspace).map(|a| a.bytes).sum()
    }
}

impl Drop for GpuLane {
    fn drop(&mut self) {
        // Memory must not go while kernels use it: the driver waits for them when memory is freed, and so do we for graphs.
        if self.running.is_some() && self.machine.context.bind_to_thread().is_ok() {
            let _ = self.stream.synchronize();
        }
        // Before the stream that it knows.
        self.session = None;
    }
}

/// Bytes of a port's tensor; of so many of its rows, if it is said.
fn bytes_of(port: &Port, rows: Option<usize>) -> usize {
    match (rows, port.shape.first()) {
        (Some(rows), Some(planned)) => port.bytes / (*planned).max(1) * rows,
        _ => port.bytes,
    }
}

/// Bytes that a port takes in staging memory.
fn room(port: &Port) -> usize {
    port.bytes.next_multiple_of(64)
}
