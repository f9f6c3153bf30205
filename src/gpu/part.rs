//! Parts of a model on a GPU: how they are planned, made ready there, and run on a lane.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::choice::Choices;
use super::chosen::Selection;
use super::lane::GpuLane;
use super::loaded::Loaded;
use super::machine::GpuMachine;
use super::plan::{Launch, Settings, plan};
use super::rows::batch_rows;
use crate::error::{Result, ScoreError};
use crate::graph::{Graph, fold};
use crate::offload::{ByShape, Machine, PartLane, shapes_of};
use crate::scoring::{Call, Device, Scored};
use crate::tensor::Tensor;

/// Of the next plan that is loaded.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// One GPU, how graphs are planned for it, and what it is known to do better by a library.
pub(super) struct Gpu {
    pub(super) machine: Arc<GpuMachine>,
    settings: Settings,
    choices: Choices,
}

impl Gpu {
    /// The GPU that a probe found.
    ///
    /// # Errors
    /// As [`GpuMachine::on`]; `Unavailable` where a library is demanded and missing.
    pub(super) fn on(device: &Device, settings: Settings) -> Result<Self> {
        let machine = Arc::new(GpuMachine::on(device)?);
        let choices = Choices::open(&machine.context, device, machine.driver)?;
        let settings = Settings {
            tensor_cores: machine.tensor_cores(),
            has_library: choices.has_products(),
            has_convolutions: choices.has_convolutions(),
            ..settings
        };
        Ok(Self { machine, settings, choices })
    }

    fn load(&self, graph: &Graph, shapes: &[Vec<usize>]) -> Result<Loaded> {
        let machine = &self.machine;
        machine.enter()?;
        let shapes = shapes.iter().map(Vec::as_slice).collect::<Vec<_>>();
        let mut bound = graph.bind(&shapes)?;
        fold::fold(&mut bound, None)?;
        let plan = plan(&bound, self.settings)?;
        let all = || plan.preparations.iter().chain(&plan.launches);
        let name = |source: usize| all().find(|l| l.source == source).map_or("", |l| l.kernel);
        let modules = plan.sources.iter().enumerate().map(|(at, text)| (at, text.as_str()));
        let modules = modules.collect::<Vec<_>>().into_par_iter();
        let modules = modules.map(|(at, text)| machine.module(text, name(at))).collect::<Result<Vec<_>>>()?;
        let function = |launch: &Launch| {
            let module = modules
                .get(launch.source)
                .ok_or_else(|| ScoreError::internal("a launch without a kernel"))?;
            let function = module
                .function(launch.kernel)
                .map_err(|e| machine.failed(&format!("looking for the kernel {}", launch.kernel), e))?;
            machine.fit(&function, launch)?;
            Ok(function)
        };
        machine.enter()?;
        let functions = all().map(function).collect::<Result<Vec<_>>>()?;
        let constants =
            plan.constants.iter().map(|c| machine.constant(c).map(Some)).collect::<Result<Vec<_>>>()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut loaded = Loaded { number, plan, functions, constants, chosen: Selection::default() };
        loaded.chosen = self.choices.choose(machine, &loaded)?;
        loaded.drop_unused();
        Ok(loaded)
    }
}

impl Machine for Gpu {
    type Part = GpuPart;
    type Lane = GpuLane;

    fn part(self: &Arc<Self>, graph: Graph) -> Result<GpuPart> {
        Ok(GpuPart { gpu: self.clone(), graph, plans: ByShape::default() })
    }

    fn lane(self: &Arc<Self>) -> Result<GpuLane> {
        GpuLane::new(self.machine.clone())
    }

    fn most_bytes(&self) -> usize {
        self.machine.free_bytes
    }

    fn batch_rows(rows: usize) -> usize {
        batch_rows(rows)
    }
}

/// A part of a graph, with a plan for every shape that callers send.
pub(super) struct GpuPart {
    gpu: Arc<Gpu>,
    graph: Graph,
    plans: ByShape<Loaded>,
}

impl GpuPart {
    /// The plan for these inputs, made when they first come; with so many rows, if it is said.
    pub(super) fn plan_for(&self, inputs: &[Tensor], rows: Option<usize>) -> Result<Arc<Loaded>> {
        self.plans.of(&shapes_of(inputs, rows), |shapes, _| self.gpu.load(&self.graph, shapes))
    }
}

impl PartLane for GpuLane {
    type Part = GpuPart;

    fn run(&mut self, part: &GpuPart, inputs: &[Tensor], rows: Option<usize>, call: &Call) -> Result<Scored> {
        self.wait_for_last(call)?;
        let loaded = part.plan_for(inputs, rows)?;
        let own_rows = rows.and_then(|_| inputs.first()?.shape().first().copied());
        self.run_plan(&loaded, inputs, own_rows, call)
    }

    fn arena_bytes(&self) -> usize {
        self.memory_bytes()
    }
}
