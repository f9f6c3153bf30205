//! A model on the engine behind one [`Scorer`].

use std::sync::Arc;

use super::engine::Engine;
use super::lane::DeviceLane;
use super::loaded::Plans;
use crate::error::{ErrorKind, Result, ScoreError};
use crate::graph::Graph;
use crate::scoring::{Call, CompileOptions, Device, Health, Lanes, Limits, Placement, Scored, Scorer};
use crate::signature::Signature;
use crate::tensor::{Tensor, Value};

/// A model on one or more devices.
#[derive(Debug)]
pub(super) struct FpgaScorer {
    signature: Signature,
    limits: Limits,
    placement: Placement,
    devices: Vec<Device>,
    lanes: Lanes<Spread>,
}

/// A lane, and the plans of the device that it is on.
struct Spread {
    lane: DeviceLane,
    plans: Arc<Plans>,
}

/// Lanes on each device, unless the caller says how many: while one computes, the other one's inputs are staged and written.
const LANES: usize = 2;

impl FpgaScorer {
    /// Puts a graph of integer operators on these devices and runs it once on each for `sample`, the smallest inputs that it takes.
    pub(super) fn load(
        graph: &Graph,
        signature: Signature,
        placement: Placement,
        devices: Vec<Device>,
        sample: &[Tensor],
        options: &CompileOptions,
    ) -> Result<Self> {
        let wanted = options.lanes.unwrap_or(LANES * devices.len()).max(devices.len());
        let mut on_device = Vec::new();
        for device in &devices {
            let engine = Engine::on(device)?;
            on_device.push((engine.clone(), Arc::new(Plans::new(graph.clone(), engine))));
        }
        let mut lanes = Vec::new();
        for number in 0..wanted {
            let Some((engine, plans)) = on_device.get(number % devices.len().max(1)) else { break };
            let loaded = plans.of(sample)?;
            let mut lane = DeviceLane::new(engine.clone(), loaded.plan.arena_bytes)?;
            // Drivers make kernels ready at their first launch.
            lane.run(&loaded, sample, &Call::new())?;
            lanes.push(Spread { lane, plans: plans.clone() });
        }
        let mut limits = Limits::new(lanes.len());
        limits.max_batch = options.max_batch;
        Ok(Self { signature, limits, placement, devices, lanes: Lanes::new(lanes)? })
    }
}

impl Scorer for FpgaScorer {
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
        if let Some(most) = self.limits.max_batch.filter(|most| rows > *most) {
            let text =
                format!("the batch holds {rows} rows, at most {most} are taken (maxBatch of the deployment)");
            return Err(ScoreError::new(ErrorKind::TooLarge, text));
        }
        let begin = std::time::Instant::now();
        let mut guard = match self.lanes.try_acquire() {
            Some(guard) => guard,
            None => self.lanes.acquire(call)?,
        };
        let wait = begin.elapsed();
        let (outputs, mut timing) = guard.run(|spread| {
            let loaded = spread.plans.of(inputs)?;
            spread.lane.run(&loaded, inputs, call)
        })?;
        timing.wait = wait;
        Ok(Scored { outputs: outputs.into_iter().map(Value::Tensor).collect(), timing })
    }

    fn health(&self) -> Health {
        self.lanes.health()
    }
}
