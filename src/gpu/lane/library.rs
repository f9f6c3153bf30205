//! What a library computes on a lane: ordered instead of the kernel that was planned, and measured against it.
//!
//! A library may load its code when something is first ordered, which a capture forbids; so what was chosen runs once before it is captured, when
//! nothing lies in the lane's memory yet but what lasts.
//!
//! A launch is measured as it will run. Alone it would be measured with what it costs the host to order it, which differs between a kernel and a
//! library and does not matter in a graph; so a captured graph of the same launch, some times over, is measured between two events, several times, and
//! the median is taken, as another lane may be at work. What lies in memory then is the same in every byte: small floats in every type.

use std::time::{Duration, Instant};

use cudarc::driver::result as cuda;

use super::GpuLane;
use crate::error::{Result, ScoreError};
use crate::gpu::chosen::{Chosen, Way};
use crate::gpu::cublaslt::Places;
use crate::gpu::cudnn::Session;
use crate::gpu::loaded::Loaded;
use crate::gpu::plan::{Launch, PlannedArgument};
use crate::scoring::Call;

/// Launches of a graph, and how often it is measured after the first time, which warms up.
const REPEATS: u32 = 10;
const ROUNDS: usize = 5;

/// 0.01 as a float of 32 bits or a bfloat16, 1.06 as one of 16 bits.
const FILLING: u8 = 0x3c;

impl GpuLane {
    /// What a library wants to be there before it is ordered: memory besides its tensors, which all of it uses one after the other, and what orders it
    /// on the lane's stream.
    pub(super) fn make_ready(&mut self, chosen: &Chosen) -> Result<()> {
        if let (Way::Convolution(plan), None) = (&chosen.way, &self.session) {
            // SAFETY: the stream is of the machine's context, and lives as long as the lane.
            let session = unsafe { Session::on(plan, &self.machine.context, self.stream.cu_stream()) };
            self.session = Some(session?);
        }
        let bytes = chosen.workspace;
        if bytes > self.workspace.as_ref().map_or(0, |w| w.bytes) {
            // Its address is in the graphs.
            self.graphs.clear();
            self.workspace = None;
            self.workspace = Some(self.machine.memory(bytes)?);
        }
        Ok(())
    }

    /// Orders what was chosen instead of the kernel.
    pub(super) fn run_library(&self, loaded: &Loaded, launch: &Launch, chosen: &Chosen) -> Result<()> {
        let missing = || ScoreError::internal("work that no library takes");
        let instead = launch.library.as_ref().ok_or_else(missing)?;
        let place = |argument: &PlannedArgument| self.address(loaded, argument);
        let optional = |argument: &Option<PlannedArgument>| argument.as_ref().map_or(Ok(0), place);
        let places = Places {
            left: place(&instead.left)?,
            right: place(&instead.right)?,
            bias: optional(&instead.bias)?,
            residual: optional(&instead.residual)?,
            result: place(&instead.result)?,
        };
        let workspace = self.workspace.as_ref().map_or(0, |w| w.address);
        // SAFETY: the plan has the shape's tensors at these places; the workspace was made for what was chosen; the lane holds all of it until the
        // stream has been waited for, and the plan, with what was chosen, as long as the graph. Who orders has entered the context.
        unsafe {
            match &chosen.way {
                Way::Product(product, algorithm) => {
                    product.run(algorithm, instead.factor, &places, workspace, self.stream.cu_stream())
                }
                Way::Convolution(plan) => {
                    let session = self.session.as_ref().ok_or_else(missing)?;
                    plan.run(session, &places, workspace)
                }
            }
        }
    }

    /// Runs what was chosen once, unless it is captured already. Its results are of no use, and lie where nothing lasting does.
    pub(super) fn warm_up(&self, loaded: &Loaded) -> Result<()> {
        if self.graphs.contains_key(&loaded.number) {
            return Ok(());
        }
        loaded.launches().try_for_each(|(at, launch)| match loaded.chosen.at(at) {
            Some(chosen) => self.run_library(loaded, launch, chosen),
            None => Ok(()),
        })
    }

    /// Makes room for a plan's launches.
    pub(in crate::gpu) fn prepare_trials(&mut self, loaded: &Loaded) -> Result<()> {
        self.make_room(loaded)?;
        for arena in self.arenas.iter().filter(|arena| arena.bytes > 0) {
            // SAFETY: so many bytes were allocated, and nothing uses them.
            let filled = unsafe {
                cuda::memset_d8_async(arena.address, FILLING, arena.bytes, self.stream.cu_stream())
            };
            filled.map_err(|e| self.machine.failed("filling memory", e))?;
        }
        self.zero(loaded)
    }

    /// The time of one launch: of its kernel, or of what may be chosen instead.
    pub(in crate::gpu) fn trial(
        &mut self,
        loaded: &Loaded,
        (at, launch): (usize, &Launch),
        chosen: Option<&Chosen>,
    ) -> Result<Duration> {
        chosen.map_or(Ok(()), |chosen| self.make_ready(chosen))?;
        let order = || match chosen {
            Some(chosen) => self.run_library(loaded, launch, chosen),
            None => self.launch_kernel(loaded, at, launch),
        };
        order()?;
        let Some(graph) = self.capture(|| (0..REPEATS).try_for_each(|_| order()))? else {
            return Ok(Duration::ZERO);
        };
        let mut times = Vec::new();
        for _ in 0..=ROUNDS {
            let begin = Instant::now();
            self.mark(1)?;
            graph.launch().map_err(|e| self.machine.failed("launching a graph", e))?;
            self.mark(3)?;
            self.wait(&Call::new())?;
            times.push(if self.machine.times_events { self.between(1, 3) } else { begin.elapsed() });
        }
        let mut times = times.into_iter().skip(1).collect::<Vec<_>>();
        times.sort_unstable();
        Ok(times.get(ROUNDS / 2).copied().unwrap_or_default() / REPEATS)
    }
}
