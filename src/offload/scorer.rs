//! A model on devices and their host, behind one [`Scorer`].

use std::sync::Arc;

use super::Machine;
use super::parts::{HostParts, Parts, PartsLane};
use super::placement::Placed;
use crate::error::Result;
use crate::graph::Graph;
use crate::scoring::{
    Call, CompileOptions, Device, Health, Lanes, Limits, Placement, Scored, Scorer, Timing, Tolerance,
    checked_rows,
};
use crate::signature::Signature;
use crate::tensor::{Tensor, Value};

/// A model on one or more devices.
pub(crate) struct OffloadScorer<M: Machine> {
    signature: Signature,
    limits: Limits,
    placement: Placement,
    devices: Vec<Device>,
    lanes: Lanes<PartsLane<M>>,
}

/// Lanes on each device, unless the caller says how many: while one computes, the other one's inputs are staged and written.
const LANES: usize = 2;

impl<M: Machine> OffloadScorer<M> {
    /// Puts a model on these devices and runs it once on each lane, for the smallest inputs that it takes.
    ///
    /// # Errors
    /// What a device or the host says of its parts.
    pub(crate) fn load(
        placed: &Placed,
        signature: Signature,
        devices: Vec<Device>,
        options: &CompileOptions,
        machine: impl Fn(&Device) -> Result<M>,
    ) -> Result<Self> {
        let host = HostParts::compile(&placed.parts, options.host.as_deref(), options)?;
        let mut on_device = Vec::new();
        for device in &devices {
            on_device.push(Arc::new(Parts::new(placed, Arc::new(machine(device)?), &host)?));
        }
        let wanted = options.lanes.unwrap_or(LANES * devices.len()).max(devices.len());
        let mut lanes = Vec::new();
        let mut rows_at_once = usize::MAX;
        // An emulated device's memory is the host's, of which a deployment may say how much it is given; half of it is for arenas.
        let bound = options.memory_bytes.filter(|_| devices.iter().any(|d| d.emulated));
        let share = bound.and_then(|b| usize::try_from(b).ok()).map_or(usize::MAX, |b| b / 2 / wanted);
        for parts in on_device.iter().cycle().take(wanted) {
            let mut lane = parts.lane()?;
            // Drivers make kernels ready at their first launch.
            lane.run(&placed.sample.rows(1)?, None, &Call::new())?;
            rows_at_once = rows_at_once.min(lane.rows_that_fit(share));
            lanes.push(lane);
        }
        let lanes = Lanes::new(lanes)?;
        let run = |inputs: &[Tensor]| lanes.with(&Call::new(), |lane| lane.run(inputs, None, &Call::new()));
        let signature = match options.skip_tuning {
            true => signature.without_batch_axis(),
            false => checked_rows(signature, Ok(&placed.sample), tolerance(&placed.graph, options), &run),
        };
        let mut limits = Limits::new(lanes.total());
        limits.max_batch = options.max_batch;
        limits.rows_at_once = signature.batch_axis().map(|_| rows_at_once);
        let placement = placed.placement.clone();
        Ok(Self { signature, limits, placement, devices, lanes })
    }

    /// With how many rows a batch is run, where it is not with its own.
    fn run_rows(&self, rows: usize, axis: Option<usize>) -> Option<usize> {
        // Rows lie one behind the other only along the first axis.
        axis.filter(|axis| *axis == 0)?;
        let most =
            self.limits.max_batch.into_iter().chain(self.limits.rows_at_once).min().unwrap_or(usize::MAX);
        Some(M::batch_rows(rows).min(most)).filter(|wanted| *wanted > rows)
    }

    /// Scores batches that do not fit the device's memory piece by piece.
    fn run(&self, lane: &mut PartsLane<M>, inputs: &[Tensor], call: &Call) -> Result<Scored> {
        let rows = self.signature.rows(inputs);
        let axis = self.signature.batch_axis();
        let (Some(axis), Some(most)) = (axis, self.limits.rows_at_once.filter(|most| rows > *most)) else {
            return lane.run(inputs, self.run_rows(rows, axis), call);
        };
        let mut pieces = Vec::new();
        for first in (0..rows).step_by(most) {
            let range = first..(first + most).min(rows);
            let piece = inputs.iter().map(|t| t.rows(axis, range.clone())).collect::<Result<Vec<_>>>()?;
            pieces.push(lane.run(&piece, None, call)?);
        }
        let mut timing = Timing::default();
        for piece in &pieces {
            timing += piece.timing;
        }
        let joined = (0..self.signature.outputs().len()).map(|output| {
            let parts = pieces.iter().filter_map(|p| p.outputs.get(output)).collect::<Vec<_>>();
            Value::concat(axis, &parts)
        });
        let outputs = joined.collect::<Result<_>>()?;
        Ok(Scored { outputs, timing, launches: pieces.into_iter().flat_map(|p| p.launches).collect() })
    }
}

/// What rounding explains of a difference: by the precision that is asked for, and by what the model itself stores.
fn tolerance(graph: &Graph, options: &CompileOptions) -> Tolerance {
    let made = graph.nodes().iter().flat_map(|node| node.makes());
    let stored = made.filter_map(|id| graph.value(id).dtype);
    stored.fold(Tolerance::of(options.precision), Tolerance::where_stored_as)
}

impl<M: Machine> Scorer for OffloadScorer<M> {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn placement(&self) -> &Placement {
        &self.placement
    }

    fn devices(&self) -> &[Device] {
        &self.devices
    }

    fn score(&self, inputs: &[Tensor], call: &Call) -> Result<Scored> {
        self.signature.check(inputs)?;
        let rows = self.signature.rows(inputs);
        self.limits.check_rows(rows)?;
        let begin = std::time::Instant::now();
        let mut guard = match self.lanes.try_acquire() {
            Some(guard) => guard,
            None => self.lanes.acquire(call)?,
        };
        let wait = begin.elapsed();
        let mut scored = guard.run(|lane| self.run(lane, inputs, call))?;
        scored.timing.wait = wait;
        Ok(scored)
    }

    fn health(&self) -> Health {
        self.lanes.health()
    }
}

impl<M: Machine> std::fmt::Debug for OffloadScorer<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let devices = self.devices.iter().map(ToString::to_string).collect::<Vec<_>>();
        write!(f, "OffloadScorer({}, {:?})", devices.join(", "), self.lanes)
    }
}
