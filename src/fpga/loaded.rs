//! Plans on the device: for every shape that callers send, made when it first comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use opencl3::types::CL_BLOCKING;

use super::engine::{Engine, Memory, failed};
use super::plan::{Plan, plan};
use super::tile::Tile;
use crate::error::Result;
use crate::graph::{Graph, fold};
use crate::offload::{ByShape, shapes_of};
use crate::tensor::Tensor;

/// A plan whose descriptors and constants lie on the device.
pub(super) struct Loaded {
    /// A number that no other one has.
    pub(super) number: u64,
    pub(super) plan: Plan,
    pub(super) words: Memory,
    pub(super) constants: Arc<Constants>,
}

/// Constants on the device; plans for other shapes mostly have the same.
pub(super) struct Constants {
    pub(super) memory: Memory,
    bytes: Vec<u8>,
}

/// The plans of a model on one device.
pub(super) struct Plans {
    graph: Graph,
    engine: Arc<Engine>,
    guarded: bool,
    made: ByShape<Loaded>,
}

static NUMBER: AtomicU64 = AtomicU64::new(1);

impl Plans {
    /// No plan yet for this graph of integer operators.
    pub(super) fn new(graph: Graph, engine: Arc<Engine>, guarded: bool) -> Self {
        Self { graph, engine, guarded, made: ByShape::default() }
    }

    /// The plan for inputs of these shapes.
    ///
    /// # Errors
    /// `Unsupported` where the engine does not take the model for these shapes; `OutOfMemory`; `DeviceLost`.
    pub(super) fn of(&self, inputs: &[Tensor]) -> Result<Arc<Loaded>> {
        self.made
            .of(&shapes_of(inputs, None), |shapes, last| self.load(shapes, last.map(|l| l.constants.clone())))
    }

    fn load(&self, shapes: &[Vec<usize>], before: Option<Arc<Constants>>) -> Result<Loaded> {
        let plan = plan_for(&self.graph, shapes, self.engine.tile, self.guarded)?;
        let words = self.upload(bytemuck::cast_slice(&plan.words))?;
        let constants = match before.filter(|c| c.bytes == plan.constants) {
            Some(same) => same,
            None => {
                let memory = self.upload(&plan.constants)?;
                Arc::new(Constants { memory, bytes: plan.constants.clone() })
            }
        };
        Ok(Loaded { number: NUMBER.fetch_add(1, Ordering::Relaxed), plan, words, constants })
    }

    fn upload(&self, bytes: &[u8]) -> Result<Memory> {
        let mut memory = self.engine.memory(bytes.len(), true)?;
        let queue = self.engine.queue()?;
        if !bytes.is_empty() {
            // SAFETY: as many bytes as the memory has, which outlive the write: it blocks, and is finished before the queue goes.
            let written =
                unsafe { queue.enqueue_write_buffer(&mut memory.buffer, CL_BLOCKING, 0, bytes, &[]) };
            written.map_err(|e| failed("writing constants", e))?;
            queue.finish().map_err(|e| failed("writing constants", e))?;
        }
        drop(std::mem::ManuallyDrop::into_inner(queue));
        Ok(memory)
    }
}

/// The plan of a graph for inputs of these shapes.
fn plan_for(graph: &Graph, shapes: &[Vec<usize>], tile: Tile, guarded: bool) -> Result<Plan> {
    let shapes = shapes.iter().map(Vec::as_slice).collect::<Vec<_>>();
    let mut bound = graph.bind(&shapes)?;
    fold::fold(&mut bound, None)?;
    plan(&bound, tile, guarded)
}
