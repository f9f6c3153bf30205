//! A fourth backend, whole: plain Rust loops over f32, for models of a few element-wise operators.
//!
//! It has all that a backend needs. The table of operators is the only list: `place` answers from it and
//! the lane runs from it, so the two cannot drift apart.
//!
//! `cargo run --example fourth_backend`

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use triscore::model::onnx::NodeProto;
use triscore::scoring::{NodePlacement, Site};
use triscore::{
    Backend, BackendKind, Call, CompileOptions, Device, Health, Lane, Lanes, Limits, Model, Placement,
    Result, ScoreError, Scored, Scorer, Signature, Tensor, Timing,
};

const KIND: BackendKind = BackendKind::Custom("loops");

/// What it can run: an operator's name, and what it does with two elements.
const OPERATORS: &[(&str, Loop)] = &[("Add", |a, b| a + b), ("Mul", |a, b| a * b), ("Max", f32::max)];

type Loop = fn(f32, f32) -> f32;

fn operator(name: &str) -> Option<Loop> {
    OPERATORS.iter().find(|(n, _)| *n == name).map(|(_, f)| *f)
}

#[derive(Debug)]
struct LoopBackend;

impl Backend for LoopBackend {
    fn kind(&self) -> BackendKind {
        KIND
    }

    fn probe(&self) -> Result<Vec<Device>> {
        let name = "plain loops".to_owned();
        Ok(vec![Device { backend: KIND, index: 0, name, memory_bytes: None, emulated: false, facts: vec![] }])
    }

    fn place(&self, model: &Model, _: &Device) -> Result<Placement> {
        let nodes = model.nodes().iter().map(|n| NodePlacement {
            node: n.name.clone(),
            operator: n.operator.clone(),
            site: match operator(&n.operator) {
                Some(_) => Site::Device,
                None => Site::Nowhere { reason: format!("there is no loop for {}", n.operator) },
            },
        });
        Ok(Placement::new(KIND, nodes.collect()))
    }

    fn compile(
        &self,
        model: &Model,
        devices: &[Device],
        options: &CompileOptions,
    ) -> Result<Arc<dyn Scorer>> {
        let device = devices.first().ok_or_else(|| ScoreError::internal("no device was given"))?;
        let placement = self.place(model, device)?;
        if let Some(node) = placement.nowhere().next() {
            return Err(ScoreError::unsupported(format!("{} cannot run here", node.operator)));
        }
        let lane = || LoopLane {
            signature: model.signature().clone(),
            nodes: model.proto().graph.iter().flat_map(|g| g.node.clone()).collect(),
        };
        let count = options.lanes.unwrap_or(2);
        Ok(Arc::new(LoopScorer {
            signature: model.signature().clone(),
            limits: Limits::new(count),
            placement,
            devices: devices.to_vec(),
            lanes: Lanes::new((0..count).map(|_| lane()).collect())?,
        }))
    }
}

/// What a caller holds: the lanes, and what is known of the model.
#[derive(Debug)]
struct LoopScorer {
    signature: Signature,
    limits: Limits,
    placement: Placement,
    devices: Vec<Device>,
    lanes: Lanes<LoopLane>,
}

impl Scorer for LoopScorer {
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

/// What does the work, for one call at a time.
struct LoopLane {
    signature: Signature,
    nodes: Vec<NodeProto>,
}

impl Lane for LoopLane {
    fn score(&mut self, inputs: &[Tensor], call: &Call) -> Result<Scored> {
        let start = Instant::now();
        let names = self.signature.inputs().iter().map(|p| p.name.as_str());
        let mut values: HashMap<&str, Tensor> = names.zip(inputs.iter().cloned()).collect();
        for node in &self.nodes {
            call.check()?;
            let [a, b] = node.input.as_slice() else { return Err(ScoreError::unsupported("not two inputs")) };
            let missing = || ScoreError::unsupported("constants are not read here");
            let (a, b) =
                (values.get(a.as_str()).ok_or_else(missing)?, values.get(b.as_str()).ok_or_else(missing)?);
            let apply = operator(node.op_type()).ok_or_else(missing)?;
            let pairs = a.as_slice::<f32>()?.iter().zip(b.as_slice::<f32>()?);
            let result =
                Tensor::from_slice(a.shape(), &pairs.map(|(a, b)| apply(*a, *b)).collect::<Vec<_>>())?;
            values.extend(node.output.first().map(|name| (name.as_str(), result)));
        }
        let ports = self.signature.outputs().iter();
        let outputs = ports.filter_map(|p| values.get(p.name.as_str())).map(|t| t.clone().into()).collect();
        Ok(Scored::new(outputs, Timing { compute: start.elapsed(), ..Timing::default() }))
    }
}

fn main() -> Result<()> {
    let model = Model::open("models/tiny/two_inputs.onnx")?;
    let backend = LoopBackend;
    let scorer = backend.compile(&model, &backend.probe()?, &CompileOptions::default())?;
    println!("{}", scorer.placement().summary());
    let a = Tensor::from_slice(&[1, 3], &[1f32, 2., 3.])?;
    let b = Tensor::from_slice(&[1, 3], &[10f32, 20., 30.])?;
    let scored = scorer.score(&[a, b], &Call::new())?;
    for (port, value) in scorer.signature().outputs().iter().zip(&scored.outputs) {
        println!("{} = {:?}", port.name, value.as_tensor()?.as_slice::<f32>()?);
    }

    // What it cannot run is said before anything is scored.
    let other = Model::open("models/digits_cnn/model.onnx")?;
    match backend.compile(&other, &backend.probe()?, &CompileOptions::default()) {
        Ok(_) => println!("a convolution net runs in plain loops?"),
        Err(e) => println!("digits_cnn: {e}"),
    }
    Ok(())
}
