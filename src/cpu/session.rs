//! One ONNX Runtime session as a [`Lane`].

use std::sync::Arc;
use std::time::Instant;

use ort::session::builder::GraphOptimizationLevel;
use ort::session::{Session, SessionInputValue};

use super::convert;
use super::library::Runtime;
use super::watch::Slot;
use crate::error::{Result, ScoreError};
use crate::model::Model;
use crate::model::onnx::{NodeProto, TensorProto};
use crate::scoring::{Call, Lane, Scored, Timing};
use crate::tensor::{DType, Tensor};

/// How a session computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Threads {
    /// Threads that run operators, the caller's among them.
    pub(super) count: usize,
    /// Whether they spin for work between operators. Right for a lone caller, ruinous for several.
    pub(super) spin: bool,
}

impl Threads {
    /// One thread: the caller's own.
    pub(super) const ONE: Self = Self { count: 1, spin: false };
}

/// A session and the slot through which its run can be ended.
pub(super) struct SessionLane {
    session: Session,
    slot: Arc<Slot>,
    /// ONNX Runtime reads external weights from here; kept until the session is gone.
    _external: Vec<Arc<[u8]>>,
}

/// What every session of a scorer is made from.
pub(super) struct Source<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) model: &'a Model,
    pub(super) external: Vec<(String, Arc<[u8]>)>,
    /// Whether allocations are bounded (the bound itself is registered with the runtime).
    pub(super) bounded: bool,
}

impl SessionLane {
    pub(super) fn open(source: &Source<'_>, threads: Threads) -> Result<Self> {
        let build = |exact: bool| -> ort::Result<Session> {
            let mut b = Session::builder(source.runtime.environment())?
                .with_optimization_level(GraphOptimizationLevel::All)?
                .with_intra_threads(threads.count)?
                .with_inter_threads(1)?
                .with_intra_op_spinning(threads.spin)?
                .with_inter_op_spinning(false)?
                // What was checked is an ONNX file; it must not be read as anything else.
                .with_config_entry("session.load_model_format", "ONNX")?
                // Without VNNI its products of 8 bits, u8 × i8, saturate pairs of sums at 16; unsigned weights take another kernel, which
                // does not. With VNNI this changes nothing.
                .with_config_entry("session.x64quantprecision", if exact { "1" } else { "0" })?;
            if source.bounded {
                b = b.with_env_allocators()?;
            }
            if has_16_bits(source.model) {
                // Or ONNX Runtime multiplies 8-bit weights with activations that it rounds to 8 bits, and the other 8 were for nothing.
                b = b.with_config_entry("session.qdq_matmulnbits_accuracy_level", "1")?;
            }
            for (name, bytes) in &source.external {
                b = b.with_external_initializer_file_in_memory(name, bytes.clone())?;
            }
            b.commit_from_memory(source.model.bytes())
        };
        // It makes weights unsigned behind signed inputs, too, and then finds no kernel (ONNX Runtime 1.32). Those were exact as they were.
        let session = build(true).or_else(|e| if has_no_kernel(&e) { build(false) } else { Err(e) });
        let session = session.map_err(|e| {
            let e = convert::error(&e, "cannot load the model");
            // A model that passed our reader and fails here uses what ONNX Runtime does not take.
            match e.kind() {
                crate::ErrorKind::Internal | crate::ErrorKind::BadInput => ScoreError::bad_model(e.message()),
                _ => e,
            }
        })?;
        check_ports(&session, source.model)?;
        let external = source.external.iter().map(|(_, bytes)| bytes.clone()).collect();
        Ok(Self { session, slot: Slot::new()?, _external: external })
    }
}

fn has_no_kernel(e: &ort::Error) -> bool {
    e.message().contains("Failed to find kernel") && e.message().contains("QLinear")
}

/// Whether something is quantised to 16 bits, or dequantised from them.
fn has_16_bits(model: &Model) -> bool {
    const WIDE: [DType; 2] = [DType::U16, DType::I16];
    let Some(graph) = &model.proto().graph else { return false };
    let is_code = |code: i64| WIDE.iter().any(|dtype| i64::from(dtype.onnx_code()) == code);
    let held = |t: &&TensorProto| t.data_type.is_some_and(|code| is_code(code.into()));
    let held = graph.initializer.iter().filter(held).filter_map(|t| t.name.as_deref());
    let given = model.signature().inputs().iter();
    let given = given.filter(|port| port.dtype().is_some_and(|dtype| WIDE.contains(&dtype)));
    let wide = held.chain(given.map(|port| port.name.as_str())).collect::<std::collections::HashSet<_>>();
    let is_wide = |n: &NodeProto, input: usize| n.input.get(input).is_some_and(|i| wide.contains(i.as_str()));
    let says_so = |n: &NodeProto| {
        n.attribute.iter().any(|a| a.name.as_deref() == Some("output_dtype") && a.i.is_some_and(is_code))
    };
    graph.node.iter().any(|n| match n.op_type.as_deref() {
        Some("QuantizeLinear") => is_wide(n, 2) || says_so(n),
        Some("DequantizeLinear") => is_wide(n, 0) || is_wide(n, 2),
        _ => false,
    })
}

/// Inputs and outputs go to ONNX Runtime by place, so its order must be the signature's.
fn check_ports(session: &Session, model: &Model) -> Result<()> {
    let ours = model.signature();
    let same = |theirs: &[ort::value::Outlet], ours: &[crate::Port]| {
        theirs.len() == ours.len() && theirs.iter().zip(ours).all(|(t, o)| t.name() == o.name)
    };
    if same(session.inputs(), ours.inputs()) && same(session.outputs(), ours.outputs()) {
        return Ok(());
    }
    Err(ScoreError::internal("ONNX Runtime sees other inputs or outputs than the model's signature has"))
}

impl Lane for SessionLane {
    fn score(&mut self, inputs: &[Tensor], call: &Call) -> Result<Scored> {
        call.check()?;
        let values = inputs.iter().map(convert::input).collect::<Result<Vec<SessionInputValue<'_>>>>()?;
        let start = Instant::now();
        let slot = self.slot.clone();
        let watched = slot.watch(call);
        let run = self.session.run_with_options(values.as_slice(), slot.options());
        // Asked first: a run that was ended also fails, with a text of its own.
        if let Some(ended) = watched.and_then(|w| w.finish()) {
            return Err(ended);
        }
        let answered = run.map_err(|e| convert::error(&e, "scoring failed"))?;
        let compute = start.elapsed();
        let outputs = answered.into_iter().map(|(_, v)| convert::output(v)).collect::<Result<_>>()?;
        Ok(Scored::new(outputs, Timing { compute, ..Timing::default() }))
    }
}

impl std::fmt::Debug for SessionLane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionLane")
    }
}

#[cfg(all(test, any(feature = "cuda", feature = "opencl")))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::graph::testing::{model_of, read};

    #[test]
    fn sixteen_bits_are_seen_wherever_they_come_from() {
        let given = "s = f32[] 0.1\nf: u16[2, 3]\ny = DequantizeLinear(f, s, _)\n-> y";
        let to = "x: f32[2, 3]\ns = f32[] 0.1\nz = i16[] 0\nq = QuantizeLinear(x, s, z)\ny = DequantizeLinear(q, s, z)\n-> y";
        let told = "x: f32[2, 3]\ns = f32[] 0.1\nq = QuantizeLinear<output_dtype=4>(x, s)\ny = DequantizeLinear(q, s)\n-> y";
        let eight = [given.replace("u16", "u8"), to.replace("i16", "i8"), told.replace("=4", "=2")];
        for (text, expected) in [given, to, told]
            .map(|text| (text.to_owned(), true))
            .into_iter()
            .chain(eight.map(|text| (text, false)))
        {
            assert_eq!(has_16_bits(&read(&model_of(&text))), expected, "{text}");
        }
    }
}
