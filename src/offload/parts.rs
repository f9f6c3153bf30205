//! A model's parts, one after the other: those of the device on a lane each, those of the host on the scorers that the host made of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::placement::Placed;
use super::{Machine, PartLane};
use crate::error::{Result, ScoreError};
use crate::graph::{Graph, Part, ValueId, encode};
use crate::model::{Model, ReadLimits};
use crate::scoring::{Backend, Call, CompileOptions, Scored, Scorer, Timing};
use crate::tensor::{Tensor, Value};

/// A part of the graph that is ready on the device or on the host, for all lanes.
enum Ready<P> {
    Device(P),
    Host(Arc<dyn Scorer>),
}

/// A model's parts, ready on one device.
pub(super) struct Parts<M: Machine> {
    machine: Arc<M>,
    ready: Vec<(Ready<M::Part>, Edges)>,
    inputs: Vec<ValueId>,
    /// What callers get, and its value where the model holds it as a constant.
    outputs: Vec<(ValueId, Option<Tensor>)>,
}

/// What goes into a part and what comes out.
struct Edges {
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
}

/// The scorers of the host's parts, by number; the same for all devices.
pub(super) struct HostParts(HashMap<usize, Arc<dyn Scorer>>);

impl HostParts {
    /// Has the host make its parts ready.
    ///
    /// # Errors
    /// What the host says of a part.
    pub(super) fn compile(
        parts: &[Part],
        host: Option<&dyn Backend>,
        options: &CompileOptions,
    ) -> Result<Self> {
        let mut scorers = HashMap::new();
        for (number, part) in parts.iter().enumerate().filter(|(_, p)| !p.on_device) {
            let host = host.ok_or_else(|| ScoreError::internal("a part for a host that is not there"))?;
            let model = Model::from_bytes(encode(&part.graph.to_model()?)?, &ReadLimits::default())?;
            let mut devices = host.probe()?;
            devices.truncate(1);
            // Measuring how rows are best cut up is for whole models.
            let options = CompileOptions { host: None, skip_tuning: true, ..options.clone() };
            let scorer = host.compile(&model, &devices, &options).map_err(|e| {
                e.with_at(format!("the host's part {number}, of {} nodes", part.graph.nodes().len()))
            })?;
            scorers.insert(number, scorer);
        }
        Ok(Self(scorers))
    }
}

impl<M: Machine> Parts<M> {
    /// The parts of a model on one device and its host.
    pub(super) fn new(placed: &Placed, machine: Arc<M>, host: &HostParts) -> Result<Self> {
        let ready = placed.parts.iter().enumerate().map(|(number, part)| {
            let graph: &Graph = &part.graph;
            let edges = Edges { inputs: graph.inputs().to_vec(), outputs: graph.outputs().to_vec() };
            let ready = match host.0.get(&number) {
                Some(scorer) => Ready::Host(scorer.clone()),
                None if part.on_device => Ready::Device(machine.part(graph.clone())?),
                None => return Err(ScoreError::internal("a part that nobody runs")),
            };
            Ok((ready, edges))
        });
        let ready = ready.collect::<Result<_>>()?;
        let graph = &placed.graph;
        let output = |id: &ValueId| (*id, graph.constant(*id).cloned());
        let (inputs, outputs) = (graph.inputs().to_vec(), graph.outputs().iter().map(output).collect());
        Ok(Self { machine, ready, inputs, outputs })
    }

    /// One more lane over them.
    pub(super) fn lane(self: &Arc<Self>) -> Result<PartsLane<M>> {
        let on_device = self.ready.iter().filter(|(ready, _)| matches!(ready, Ready::Device(_)));
        let lanes = on_device.map(|_| self.machine.lane()).collect::<Result<_>>()?;
        Ok(PartsLane { parts: self.clone(), lanes })
    }
}

/// A lane for each of the device's parts: what a part keeps in its arena is there again the next time.
pub(super) struct PartsLane<M: Machine> {
    parts: Arc<Parts<M>>,
    lanes: Vec<M::Lane>,
}

impl<M: Machine> PartsLane<M> {
    /// How many rows fit at once into the device's memory, or into that part of it, told by what the one row of the last call took.
    pub(super) fn rows_that_fit(&self, most_bytes: usize) -> usize {
        let bytes = self.lanes.iter().map(PartLane::arena_bytes).max().unwrap_or(1);
        (self.parts.machine.most_bytes().min(most_bytes) / bytes.max(1)).max(1)
    }

    /// Whether the device runs all of it at once.
    fn is_whole(&self) -> bool {
        matches!(self.parts.ready.as_slice(), [(Ready::Device(_), _)])
    }

    /// Runs all parts; one that is all there is with so many rows, if it is said.
    pub(super) fn run(&mut self, inputs: &[Tensor], rows: Option<usize>, call: &Call) -> Result<Scored> {
        let rows = rows.filter(|_| self.is_whole());
        let given = inputs.iter().cloned().map(Value::Tensor);
        let mut values = self.parts.inputs.iter().copied().zip(given).collect::<HashMap<_, _>>();
        let (mut total, mut launches) = (Timing::default(), Vec::new());
        let mut lanes = self.lanes.iter_mut();
        for (ready, edges) in &self.parts.ready {
            let wanted = edges.inputs.iter().map(|id| tensor(&values, *id)).collect::<Result<Vec<_>>>()?;
            let made = match ready {
                Ready::Device(part) => {
                    let lane = lanes.next().ok_or_else(|| ScoreError::internal("a part without a lane"))?;
                    let ran = lane.run(part, &wanted, rows, call)?;
                    total += ran.timing;
                    launches.extend(ran.launches);
                    ran.outputs
                }
                Ready::Host(scorer) => {
                    let begin = Instant::now();
                    let scored = scorer.score(&wanted, call)?;
                    total.compute += begin.elapsed();
                    scored.outputs
                }
            };
            values.extend(edges.outputs.iter().copied().zip(made));
        }
        let output = |(id, constant): &(ValueId, Option<Tensor>)| match constant {
            Some(tensor) => Ok(Value::Tensor(tensor.clone())),
            None => values.get(id).cloned().ok_or_else(missing),
        };
        let outputs = self.parts.outputs.iter().map(output).collect::<Result<_>>()?;
        Ok(Scored { outputs, timing: total, launches })
    }
}

fn tensor(values: &HashMap<ValueId, Value>, id: ValueId) -> Result<Tensor> {
    match values.get(&id) {
        Some(Value::Tensor(tensor)) => Ok(tensor.clone()),
        Some(_) => Err(ScoreError::unsupported("what passes between device and host is no tensor")),
        None => Err(missing()),
    }
}

fn missing() -> ScoreError {
    ScoreError::internal("a part reads what no part before it makes")
}
