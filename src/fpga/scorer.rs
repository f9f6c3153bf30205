//! A model on the engine behind one [`Scorer`].

use std::sync::Arc;

use super::engine::Engine;
use super::parts::{HostParts, Parts, PartsLane};
use super::placement::Placed;
use crate::error::{ErrorKind, Result, ScoreError};
use crate::scoring::{Call, CompileOptions, Device, Health, Lanes, Limits, Placement, Scored, Scorer};
use crate::signature::Signature;
use crate::tensor::Tensor;

/// A model on one or more devices.
#[derive(Debug)]
pub(super) struct FpgaScorer {
    signature: Signature,
    limits: Limits,
    placement: Placement,
    devices: Vec<Device>,
    lanes: Lanes<PartsLane>,
}

/// Lanes on each device, unless the caller says how many: while one computes, the other one's inputs are staged and written.
const LANES: usize = 2;

impl FpgaScorer {
    /// Puts a model on these devices and runs it once on each lane, for the smallest inputs that it takes.
    pub(super) fn load(
        placed: &Placed,
        signature: Signature,
        devices: Vec<Device>,
        options: &CompileOptions,
    ) -> Result<Self> {
        let host = HostParts::compile(&placed.parts, options.host.as_deref(), options)?;
        let mut on_device = Vec::new();
        for device in &devices {
            on_device.push(Arc::new(Parts::new(placed, Engine::on(device)?, &host)?));
        }
        let wanted = options.lanes.unwrap_or(LANES * devices.len()).max(devices.len());
        let mut lanes = Vec::new();
        for parts in on_device.iter().cycle().take(wanted) {
            let mut lane = parts.lane()?;
            // Drivers make kernels ready at their first launch.
            lane.run(&placed.sample, &Call::new())?;
            lanes.push(lane);
        }
        let mut limits = Limits::new(lanes.len());
        limits.max_batch = options.max_batch;
        let placement = placed.placement.clone();
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
        let (outputs, mut timing) = guard.run(|lane| lane.run(inputs, call))?;
        timing.wait = wait;
        Ok(Scored { outputs, timing })
    }

    fn health(&self) -> Health {
        self.lanes.health()
    }
}
