//! A scorer that does what it is told to, wrong things above all.
//!
//! Every failure path of a server can be walked without hardware: script the faults, call, look. What it
//! answers without a fault is deterministic and depends on each row alone, so batching and
//! splitting can be checked against it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{
    Backend, BackendKind, Call, CompileOptions, Device, Health, Lane, Lanes, Limits, NodePlacement,
    Placement, Scored, Scorer, Site, Timing,
};
use crate::error::{Result, ScoreError};
use crate::model::Model;
use crate::signature::{Dim, Port, PortKind, Signature};
use crate::tensor::{AlignedBytes, DType, F8E4M3, F8E5M2, Tensor, Value};

/// What one call is to suffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The device disappears; sticky for the lane.
    DeviceLost,
    /// Nothing: a right answer.
    None,
    /// The batch does not fit into memory.
    OutOfMemory,
    /// The lane panics.
    Panic,
    /// The answer comes that much later; the deadline and the token of the call are honoured.
    Stall(Duration),
    /// The answer comes, and it is not the right one.
    WrongAnswer,
}

/// A scripted scorer: each call takes the next fault; when the script is at its end, answers are right.
#[derive(Debug)]
pub struct FaultScorer {
    signature: Signature,
    limits: Limits,
    placement: Placement,
    devices: Vec<Device>,
    lanes: Lanes<FaultLane>,
    script: Script,
}

type Script = Arc<Mutex<VecDeque<Fault>>>;

#[derive(Debug)]
struct FaultLane {
    signature: Signature,
    script: Script,
}

impl FaultScorer {
    /// A scorer of that signature with that many lanes, on an emulated device called `fault`.
    ///
    /// # Errors
    /// `Internal` when `lanes` is zero.
    pub fn new(signature: Signature, lanes: usize) -> Result<Self> {
        let backend = FaultBackend::new(BackendKind::Custom("fault"));
        let script = Script::default();
        Self::on(signature, lanes, script, Vec::new(), backend.devices(1))
    }

    fn on(
        signature: Signature,
        lanes: usize,
        script: Script,
        nodes: Vec<NodePlacement>,
        devices: Vec<Device>,
    ) -> Result<Self> {
        let kind = devices.first().map_or(BackendKind::Custom("fault"), |d| d.backend);
        let lane = || FaultLane { signature: signature.clone(), script: script.clone() };
        Ok(Self {
            limits: Limits::new(lanes),
            placement: Placement::new(kind, nodes),
            devices,
            lanes: Lanes::new((0..lanes).map(|_| lane()).collect())?,
            script,
            signature,
        })
    }

    /// Adds to the script: the next call that has no fault yet suffers this one.
    pub fn then(&self, fault: Fault) -> &Self {
        self.script.lock().unwrap_or_else(PoisonError::into_inner).push_back(fault);
        self
    }
}

impl Scorer for FaultScorer {
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
        self.lanes.score(inputs, call)
    }
    fn health(&self) -> Health {
        self.lanes.health()
    }
}

impl Lane for FaultLane {
    #[allow(clippy::panic, reason = "a scripted panic is what this fault is")]
    fn score(&mut self, inputs: &[Tensor], call: &Call) -> Result<Scored> {
        let start = Instant::now();
        let fault = self.script.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let mut wrong = 0;
        match fault.unwrap_or(Fault::None) {
            Fault::DeviceLost => return Err(ScoreError::device_lost("the scripted device is gone")),
            Fault::None => {}
            Fault::OutOfMemory => return Err(ScoreError::out_of_memory("the scripted device is full")),
            Fault::Panic => panic!("a scripted panic"),
            Fault::Stall(time) => stall(start + time, call)?,
            Fault::WrongAnswer => wrong = 1,
        }
        call.check()?;
        let outputs = self.signature.outputs().iter().map(|p| self.answer(p, inputs, wrong));
        let outputs = outputs.collect::<Result<Vec<_>>>()?;
        Ok(Scored::new(outputs, Timing { compute: start.elapsed(), ..Timing::default() }))
    }
}

/// Sleeps in small steps, as a device is polled.
fn stall(until: Instant, call: &Call) -> Result<()> {
    while Instant::now() < until {
        call.check()?;
        std::thread::sleep(Duration::from_millis(1).min(until.saturating_duration_since(Instant::now())));
    }
    Ok(())
}

impl FaultLane {
    /// An answer in the port's shape: every row is a checksum of the same row of the inputs.
    fn answer(&self, port: &Port, inputs: &[Tensor], wrong: u64) -> Result<Value> {
        let PortKind::Tensor { dtype, dims } = &port.kind else {
            return Err(ScoreError::unsupported("a fault scorer answers tensors only"));
        };
        let rows = self.signature.rows(inputs);
        let dims = dims.as_deref().unwrap_or_default();
        let length = |(axis, dim): (usize, &Dim)| match dim {
            Dim::Fixed(n) => *n,
            Dim::Free(_) if Some(axis) == self.signature.batch_axis() => rows,
            Dim::Free(_) => 1,
        };
        let shape = dims.iter().enumerate().map(length).collect::<Vec<_>>();
        let width = crate::tensor::element_count(shape.get(1..).unwrap_or_default())?;
        let mut numbers = Vec::new();
        for row in 0..crate::tensor::element_count(&shape)?.checked_div(width).unwrap_or(0) {
            let sum = self.checksum(inputs, row)?.wrapping_add(wrong);
            numbers.extend((0..width as u64).map(|i| (sum.wrapping_add(i) % 100) as u8));
        }
        of_type(*dtype, &shape, &numbers).map(Value::Tensor)
    }

    fn checksum(&self, inputs: &[Tensor], row: usize) -> Result<u64> {
        let mut sum = 0u64;
        for input in inputs {
            let part = match self.signature.batch_axis() {
                Some(axis) => input.rows(axis, row..row + 1)?,
                None => input.clone(),
            };
            let texts = part.as_strings().unwrap_or_default().iter().flat_map(|s| s.bytes());
            for byte in part.as_bytes().iter().copied().chain(texts) {
                sum = sum.wrapping_mul(31).wrapping_add(u64::from(byte));
            }
        }
        Ok(sum)
    }
}

/// Small numbers as elements of any type.
fn of_type(dtype: DType, shape: &[usize], numbers: &[u8]) -> Result<Tensor> {
    macro_rules! as_type {
        ($from:expr) => {
            Tensor::from_slice(shape, &numbers.iter().map(|n| $from(*n)).collect::<Vec<_>>())
        };
    }
    match dtype {
        DType::Bool => as_type!(|n| n % 2 == 1),
        DType::Bf16 => as_type!(half::bf16::from),
        DType::F16 => as_type!(half::f16::from),
        DType::F32 => as_type!(f32::from),
        DType::F64 => as_type!(f64::from),
        DType::F8E4M3 => as_type!(|n| F8E4M3::from_f32(f32::from(n))),
        DType::F8E5M2 => as_type!(|n| F8E5M2::from_f32(f32::from(n))),
        DType::I8 => as_type!(|n| n as i8),
        DType::I16 => as_type!(i16::from),
        DType::I32 => as_type!(i32::from),
        DType::I64 => as_type!(i64::from),
        DType::U8 => Tensor::new(dtype, shape, AlignedBytes::copy_of(numbers)?),
        DType::U16 => as_type!(u16::from),
        DType::U32 => as_type!(u32::from),
        DType::U64 => as_type!(u64::from),
        DType::String => Tensor::strings(shape, numbers.iter().map(u8::to_string).collect::<Vec<_>>()),
    }
}

/// A backend of fault scorers: any kind, any number of emulated devices, or none and a reason.
#[derive(Debug)]
pub struct FaultBackend {
    kind: BackendKind,
    devices: std::result::Result<usize, String>,
    script: Vec<Fault>,
}

impl FaultBackend {
    /// A backend of that kind with one device.
    pub fn new(kind: BackendKind) -> Self {
        Self { kind, devices: Ok(1), script: Vec::new() }
    }

    /// With that many devices.
    #[must_use]
    pub fn with_devices(self, count: usize) -> Self {
        Self { devices: Ok(count), ..self }
    }

    /// With no device, for that reason.
    #[must_use]
    pub fn unavailable(self, reason: impl Into<String>) -> Self {
        Self { devices: Err(reason.into()), ..self }
    }

    /// Every scorer that it compiles starts with this script.
    #[must_use]
    pub fn with_script(self, script: impl Into<Vec<Fault>>) -> Self {
        Self { script: script.into(), ..self }
    }

    fn devices(&self, count: usize) -> Vec<Device> {
        let device = |index| Device {
            backend: self.kind,
            index,
            name: "fault".to_owned(),
            memory_bytes: None,
            emulated: true,
            facts: Vec::new(),
        };
        (0..count).map(device).collect()
    }
}

impl Backend for FaultBackend {
    fn kind(&self) -> BackendKind {
        self.kind
    }

    fn probe(&self) -> Result<Vec<Device>> {
        match &self.devices {
            Ok(0) => Err(ScoreError::unavailable("no device was scripted")),
            Ok(count) => Ok(self.devices(*count)),
            Err(reason) => Err(ScoreError::unavailable(reason.clone())),
        }
    }

    fn place(&self, model: &Model, _: &Device) -> Result<Placement> {
        let nodes = model.nodes().iter().map(|n| NodePlacement {
            node: n.name.clone(),
            operator: n.operator.clone(),
            site: Site::Device,
        });
        Ok(Placement::new(self.kind, nodes.collect()))
    }

    fn compile(
        &self,
        model: &Model,
        devices: &[Device],
        options: &CompileOptions,
    ) -> Result<Arc<dyn Scorer>> {
        let device = devices.first().ok_or_else(|| ScoreError::internal("compile was given no device"))?;
        let nodes = self.place(model, device)?.nodes().to_vec();
        let script: Script = Arc::new(Mutex::new(self.script.iter().copied().collect()));
        let lanes = options.lanes.unwrap_or(devices.len());
        FaultScorer::on(model.signature().clone(), lanes, script, nodes, devices.to_vec())
            .map(|s| Arc::new(s) as Arc<dyn Scorer>)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn signature() -> Signature {
        let dims = |n| vec![Dim::named("batch"), Dim::Fixed(n)];
        let inputs = vec![Port::tensor("x", DType::F32, dims(4))];
        Signature::new(inputs, vec![Port::tensor("y", DType::I64, dims(2))]).unwrap()
    }

    fn rows(values: &[f32]) -> Vec<Tensor> {
        let elements = values.iter().flat_map(|v| [*v; 4]).collect::<Vec<_>>();
        vec![Tensor::from_slice(&[values.len(), 4], &elements).unwrap()]
    }

    #[test]
    fn it_does_what_the_script_says_and_then_answers_right() {
        let scorer = FaultScorer::new(signature(), 3).unwrap();
        let score = |call: &Call| scorer.score(&rows(&[1.0]), call);
        let right = score(&Call::new()).unwrap();
        scorer.then(Fault::WrongAnswer).then(Fault::OutOfMemory).then(Fault::Panic).then(Fault::DeviceLost);
        assert_ne!(score(&Call::new()).unwrap().outputs, right.outputs);
        for kind in [ErrorKind::OutOfMemory, ErrorKind::Internal, ErrorKind::DeviceLost] {
            assert_eq!(score(&Call::new()).unwrap_err().kind(), kind);
        }
        assert!(matches!(scorer.health(), Health::Degraded { .. }), "one of three lanes is left");
        scorer.then(Fault::Stall(Duration::from_secs(60)));
        let late = score(&Call::new().with_timeout(Duration::from_millis(5))).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::DeadlineExceeded);
        assert_eq!(score(&Call::new()).unwrap().outputs, right.outputs);
    }

    #[test]
    fn rows_are_independent() {
        let scorer = FaultScorer::new(signature(), 1).unwrap();
        let both = scorer.score(&rows(&[1.0, 2.5]), &Call::new()).unwrap();
        for (i, v) in [1.0, 2.5].into_iter().enumerate() {
            let one = scorer.score(&rows(&[v]), &Call::new()).unwrap();
            assert_eq!(one.outputs[0], both.outputs[0].rows(0, i..i + 1).unwrap());
        }
        assert!(scorer.score(&[], &Call::new()).is_err());
    }
}
