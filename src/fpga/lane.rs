//! A lane: an arena on the device, staging memory on the host, and queues of its own.
//!
//! Inputs are staged and written, launches are enqueued with an event on every edge, outputs are read. Each operator is shared out among the
//! device's compute units, one queue each; the next operator waits for all of them.

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::time::{Duration, Instant};

use opencl3::command_queue::CommandQueue;
use opencl3::event::Event;
use opencl3::kernel::Kernel as ClKernel;
use opencl3::memory::ClMem;
use opencl3::types::{CL_NON_BLOCKING, cl_event};

use super::engine::{Engine, Memory, failed};
use super::loaded::Loaded;
use super::plan::Kernel;
use super::staging;
use crate::error::{Result, ScoreError};
use crate::scoring::{Call, Timing};
use crate::tensor::{AlignedBytes, Tensor};

/// A kernel that has not come back after so long hangs, and so does the device.
const HANG: Duration = Duration::from_secs(30);

/// One arena and its queues.
pub(super) struct DeviceLane {
    engine: Arc<Engine>,
    /// Released by hand: what hangs on the device may still write to it.
    arena: ManuallyDrop<Memory>,
    /// One for each compute unit; the first one moves data, too.
    queues: Vec<ManuallyDrop<CommandQueue>>,
    /// For each compute unit, one of each kernel: arguments belong to it.
    kernels: Vec<Vec<ManuallyDrop<ClKernel>>>,
    /// Which model lies in the arena, by its number: its residents are there.
    resident: Option<u64>,
    staged: Vec<AlignedBytes>,
    /// What a call left running because its time was up.
    running: Vec<Event>,
}

// SAFETY: OpenCL objects may be used from any thread, one at a time; kernels, whose arguments are state, are this lane's own, and `&mut self`
// makes one user at a time.
unsafe impl Send for DeviceLane {}

impl DeviceLane {
    /// A lane whose arena grows to what its first call needs.
    pub(super) fn new(engine: Arc<Engine>) -> Result<Self> {
        let arena = ManuallyDrop::new(engine.memory(0, false)?);
        let queues = (0..engine.units).map(|_| engine.queue()).collect::<Result<Vec<_>>>()?;
        let kernels = |_| Kernel::ALL.iter().map(|k| engine.kernel(*k)).collect::<Result<Vec<_>>>();
        let kernels = (0..engine.units).map(kernels).collect::<Result<Vec<_>>>()?;
        Ok(Self { engine, arena, queues, kernels, resident: None, staged: Vec::new(), running: Vec::new() })
    }

    /// How large the arena has become.
    pub(super) fn arena_bytes(&self) -> usize {
        self.arena.bytes
    }

    /// Scores on a loaded plan.
    pub(super) fn run(
        &mut self,
        loaded: &Loaded,
        inputs: &[Tensor],
        call: &Call,
    ) -> Result<(Vec<Tensor>, Timing)> {
        self.drain(call)?;
        call.check()?;
        let begin = Instant::now();
        let plan = &loaded.plan;
        if self.arena.bytes < plan.arena_bytes {
            let larger = ManuallyDrop::new(self.engine.memory(plan.arena_bytes, false)?);
            drop(ManuallyDrop::into_inner(std::mem::replace(&mut self.arena, larger)));
            self.resident = None;
        }
        let mut ready = self.upload(loaded, inputs)?;
        let uploaded = Instant::now();
        for launch in &plan.launches {
            ready = self.launch(loaded, launch, &ready)?;
        }
        self.staged = plan
            .outputs
            .iter()
            .map(|o| AlignedBytes::zeroed(staging::extent_bytes(&o.shape, &o.strides, o.size)))
            .collect::<Result<_>>()?;
        let mut read = Vec::new();
        let queue = self.queues.first().ok_or_else(|| ScoreError::internal("a lane without a queue"))?;
        for (output, bytes) in plan.outputs.iter().zip(&mut self.staged) {
            let waits = handles(&ready);
            // SAFETY: the range lies within the arena, by plan; the staging memory is this lane's and outlives the read, which is waited for
            // here, or by `drain` before the lane is used or dropped.
            let event = unsafe {
                queue.enqueue_read_buffer(
                    &self.arena.buffer,
                    CL_NON_BLOCKING,
                    output.offset,
                    bytes.as_mut_slice(),
                    &waits,
                )
            };
            read.push(event.map_err(|e| failed("reading a result", e))?);
        }
        for queue in &self.queues {
            queue.flush().map_err(|e| failed("starting a queue", e))?;
        }
        self.running = ready;
        self.running.append(&mut read);
        self.wait(call)?;
        let computed = Instant::now();
        let outputs =
            plan.outputs.iter().zip(&self.staged).map(|(o, bytes)| staging::unstage(o, bytes.as_slice()));
        let outputs = outputs.collect::<Result<Vec<_>>>()?;
        let timing = Timing {
            wait: Duration::ZERO,
            upload: uploaded - begin,
            compute: computed - uploaded,
            download: computed.elapsed(),
        };
        Ok((outputs, timing))
    }

    /// Writes inputs, and what the model has in the arena if it is not there.
    fn upload(&mut self, loaded: &Loaded, inputs: &[Tensor]) -> Result<Vec<Event>> {
        let queue = self.queues.first().ok_or_else(|| ScoreError::internal("a lane without a queue"))?;
        let mut written = Vec::new();
        let mut write = |arena: &mut Memory, offset: usize, bytes: &[u8]| -> Result<()> {
            if bytes.is_empty() {
                return Ok(());
            }
            // SAFETY: the range lies within the arena, by plan; the bytes outlive the write: staging memory is this lane's, and residents the
            // plan's, which is held until the events are waited for.
            let event =
                unsafe { queue.enqueue_write_buffer(&mut arena.buffer, CL_NON_BLOCKING, offset, bytes, &[]) };
            written.push(event.map_err(|e| failed("writing an input", e))?);
            Ok(())
        };
        if self.resident != Some(loaded.number) {
            for (offset, bytes) in &loaded.plan.residents {
                write(&mut self.arena, *offset, bytes)?;
            }
            self.resident = Some(loaded.number);
        }
        let staged = loaded.plan.inputs.iter().map(|port| {
            let tensor =
                inputs.get(port.input).ok_or_else(|| ScoreError::bad_input("an input is missing"))?;
            staging::stage(port, tensor)
        });
        self.staged = staged.collect::<Result<Vec<_>>>()?;
        for (port, bytes) in loaded.plan.inputs.iter().zip(&self.staged) {
            write(&mut self.arena, port.offset, bytes.as_slice())?;
        }
        // The staging memory is used again for the outputs, so the inputs must have left it.
        for event in &written {
            event.wait().map_err(|e| failed("writing an input", e))?;
        }
        Ok(written)
    }

    /// Shares an operator out among the compute units.
    fn launch(&self, loaded: &Loaded, launch: &super::plan::Launch, after: &[Event]) -> Result<Vec<Event>> {
        let units = self.queues.len().min(launch.work).max(1);
        let waits = handles(after);
        let number = Kernel::ALL.iter().position(|k| *k == launch.kernel).unwrap_or(0);
        let mut events = Vec::with_capacity(units);
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
                    &waits,
                )
            };
            events.push(event.map_err(|e| failed("starting a kernel", e))?);
            queue.flush().map_err(|e| failed("starting a queue", e))?;
        }
        Ok(events)
    }

    /// Waits for what runs, until the call's time is up.
    fn wait(&mut self, call: &Call) -> Result<()> {
        if call.deadline().is_none() && call.cancel_token().is_none() {
            for event in &self.running {
                event.wait().map_err(|e| failed("computing", e))?;
            }
        } else {
            self.poll(|| call.check())?;
        }
        self.running.clear();
        Ok(())
    }

    /// Waits for what an earlier call left running: its buffers are still in use.
    fn drain(&mut self, call: &Call) -> Result<()> {
        if !self.running.is_empty() {
            let begin = Instant::now();
            self.poll(|| {
                if begin.elapsed() > HANG {
                    return Err(ScoreError::device_lost(format!(
                        "a kernel has not come back after {} s",
                        HANG.as_secs()
                    )));
                }
                call.check()
            })?;
            self.running.clear();
        }
        Ok(())
    }

    /// Looks at the events again and again, with more and more time between.
    fn poll(&self, go_on: impl Fn() -> Result<()>) -> Result<()> {
        let mut pause = Duration::from_micros(20);
        loop {
            let mut done = true;
            for event in &self.running {
                // Zero is complete, above is on its way, below failed.
                let status =
                    event.command_execution_status().map_err(|e| failed("asking for an event", e))?;
                if status.0 < 0 {
                    return Err(failed("computing", opencl3::error_codes::ClError(status.0)));
                }
                done &= status.0 == 0;
            }
            if done {
                return Ok(());
            }
            go_on()?;
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(1));
        }
    }
}

fn handles(events: &[Event]) -> Vec<cl_event> {
    events.iter().map(Event::get).collect()
}

impl Drop for DeviceLane {
    fn drop(&mut self) {
        // Buffers must not go while a kernel uses them. One that hangs keeps them, and everything that it may still touch.
        let begin = Instant::now();
        let waited = self.poll(|| match begin.elapsed() > HANG {
            true => Err(ScoreError::device_lost("a kernel hangs")),
            false => Ok(()),
        });
        let running = std::mem::take(&mut self.running);
        if waited.is_err() && begin.elapsed() > HANG {
            tracing::error!("a kernel hangs: a lane is left behind with what the device may still touch");
            return std::mem::forget((running, std::mem::take(&mut self.staged)));
        }
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
